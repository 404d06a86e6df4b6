# SPDX-License-Identifier: Apache-2.0
"""A plain HTTP client of Vectorize that keeps within the account's budget and waits for writes."""

from __future__ import annotations

import json
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

import requests

from conformance.account import Account, Bearer, NoAnswer

T = TypeVar("T")

#: Requests that an account has in a window, from all its clients; docs: API rate limits page.
ACCOUNT_REQUESTS = 1200
WINDOW_SECONDS = 300.0
#: The share of them that the suite uses, because the account may have other users.
SHARE = 0.75
#: Seconds to wait after a throttle without Retry-After; docs: the account is blocked for five minutes.
BLOCK_SECONDS = 300.0
#: The code of Vectorize's own throttle, whose status is not 429; observed.
TOO_MANY_REQUESTS = 40041
#: Seconds to wait after Vectorize's own throttle.
OWN_THROTTLE_SECONDS = 15.0
#: The most retries of a request after throttles or gateway failures.
MAX_REPEATS = 3
GATEWAY_FAILURES = (502, 503, 504)

NDJSON = "application/x-ndjson"
INDEXES = "/accounts/{account}/vectorize/v2/indexes"
DIMENSIONS = 32
#: Seconds until the suite's own vectorize-local applies a write.
LOCAL_APPLY_DELAY = 0.3


class Pace:
    """
    Limits the requests in any window.

    :param limit: The most requests in a window; None for no limit.
    :param window: Length of a window in seconds.
    :param clock: Returns the seconds of a monotonic clock.
    :param sleep: Sleeps for some seconds.
    """

    def __init__(
        self,
        limit: int | None,
        window: float = WINDOW_SECONDS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limit = limit
        self._window = window
        self._clock = clock
        self._sleep = sleep
        self._sent: deque[float] = deque()
        self._blocked_until = 0.0

    def wait(self) -> None:
        """Wait until a request may start, and count it."""
        while (pause := self._pause()) > 0:
            self._sleep(pause)
        self._sent.append(self._clock())

    def block(self, seconds: float) -> None:
        """
        Start no request for a while.

        :param seconds: Length of the pause.
        """
        self._blocked_until = max(self._blocked_until, self._clock() + seconds)

    def _pause(self) -> float:
        now = self._clock()
        while self._sent and self._sent[0] <= now - self._window:
            self._sent.popleft()
        pause = self._blocked_until - now
        if self._limit is not None and len(self._sent) >= self._limit:
            pause = max(pause, self._sent[0] + self._window - now)
        return pause


@dataclass(frozen=True)
class Patience:
    """
    The times to wait for a write, in seconds.

    :param interval: The time between two polls.
    :param deadline: The time until a mutation must be applied.
    :param visible: The time from then until all reads must show it.
    """

    interval: float
    deadline: float
    visible: float


#: Most writes are applied within two minutes (docs: changelog of 2026-06-30); bulk fills have taken longer.
REAL = Patience(interval=4, deadline=900, visible=300)
NEAR = Patience(interval=0.05, deadline=60, visible=10)


@dataclass(repr=False)
class Service:
    """
    A client of one account.

    :param account: The account.
    :param pace: Limits the requests.
    :param patience: The times to wait for a write.
    :param trust_env: Whether to use proxies and certificates from the environment.
    """

    account: Account
    pace: Pace
    patience: Patience
    trust_env: bool
    sent: int = 0
    #: Seconds from the response to each write until a poll showed it as applied.
    applied_after: list[float] = field(default_factory=list)
    #: Responses that throttled the suite.
    throttled: list[requests.Response] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.session = requests.Session()
        self.session.trust_env = self.trust_env

    @property
    def read_only(self) -> Bearer | None:
        """The token without the permission to write; None for no such token."""
        return self.account.read_only

    def send(
        self,
        method: str,
        path: str = "",
        *,
        below: str = INDEXES,
        auth: requests.auth.AuthBase | None = None,
        repeat: bool = True,
        **options: Any,
    ) -> requests.Response:
        """
        Send a request, and retry it after a throttle or a gateway failure.

        :param method: The HTTP method.
        :param path: The path after ``.../indexes``.
        :param below: The path before it, relative to the base URL; ``{account}`` is replaced by the account's
            id.
        :param auth: Credentials to use in place of the account's.
        :param repeat: Whether to retry gateway failures; False for requests that must not be carried out
            twice.
        :param options: Arguments of ``requests``.
        :raises NoAnswer: There was no response.
        """
        for repeats in range(MAX_REPEATS + 1):
            self.pace.wait()
            self.sent += 1
            response = self._send(method, below, path, auth or self.account.auth, options)
            throttle = _throttle(response)
            if throttle:
                self.throttled.append(response)
                self.pace.block(throttle)
            elif not (repeat and response.status_code in GATEWAY_FAILURES):
                break
            elif repeats < MAX_REPEATS:
                self.pace.block(self.patience.interval * 2**repeats)
        return response

    def _send(
        self, method: str, below: str, path: str, auth: requests.auth.AuthBase, options: dict[str, Any]
    ) -> requests.Response:
        # pytest shows the frames of an error with their arguments, such as the HTTP library's headers and the
        # address. Errors and responses are therefore replaced here, and no local variable has their parts.
        ended: BaseException
        try:
            return self._hide(
                self.session.request(
                    method,
                    self._address(below, path),
                    auth=auth,
                    timeout=(30, 300),
                    # The token is for this host only.
                    allow_redirects=False,
                    **options,
                )
            )
        except Exception as e:
            ended = self._no_answer(method, self._address(below, path), e)
        except BaseException as e:
            ended = e.with_traceback(None)
        raise ended from None

    def _address(self, below: str, path: str) -> str:
        return self.account.base_url + below.format(account=self.account.id) + path

    def _no_answer(self, method: str, address: str, error: Exception) -> NoAnswer:
        # The text of any other error may contain a part of the request.
        detail = f": {error}" if isinstance(error, requests.RequestException) else ""
        text = f"{method} {urlsplit(address).path}: {type(error).__name__}{detail}"
        return NoAnswer(self.account.hide(text))

    def _hide(self, response: requests.Response) -> requests.Response:
        """Return a response without the account's id and tokens."""
        hide = self.account.hide
        response.url = hide(response.url)
        for name, value in list(response.headers.items()):
            response.headers[name] = hide(value)
        # In Latin-1, every byte is one character, so the other bytes stay unchanged.
        response._content = hide(response.content.decode("latin-1")).encode("latin-1")
        return response

    def asked(self, response: requests.Response) -> str:
        """Return the request of a response as text."""
        return self.account.hide(f"{response.request.method} {response.request.path_url}")

    # --- what most cases need --------------------------------------------------------------------------

    def create(self, body: Any) -> requests.Response:
        return self.send("POST", json=body, repeat=False)

    def upload(
        self, index: str, operation: str, vectors: Iterable[Mapping[str, Any]] | str | bytes, **options: Any
    ) -> requests.Response:
        """Send vectors or a given body to ``insert`` or ``upsert``."""
        body = vectors if isinstance(vectors, str | bytes) else "\n".join(map(json.dumps, vectors))
        options.setdefault("headers", {"Content-Type": NDJSON})
        return self.send("POST", f"/{index}/{operation}", data=body, **options)

    def upsert(self, index: str, vectors: Any, **options: Any) -> requests.Response:
        return self.upload(index, "upsert", vectors, **options)

    def insert(self, index: str, vectors: Any, **options: Any) -> requests.Response:
        return self.upload(index, "insert", vectors, **options)

    def delete(self, index: str, ids: Any) -> requests.Response:
        return self.send("POST", f"/{index}/delete_by_ids", json={"ids": ids})

    def get(self, index: str, ids: Any) -> requests.Response:
        return self.send("POST", f"/{index}/get_by_ids", json={"ids": ids})

    def query(self, index: str, vector: Any = None, **more: Any) -> requests.Response:
        body = more if vector is None else {"vector": vector, **more}
        return self.send("POST", f"/{index}/query", json=body)

    def create_metadata_index(self, index: str, property_name: str, index_type: str) -> requests.Response:
        body = {"propertyName": property_name, "indexType": index_type}
        return self.send("POST", f"/{index}/metadata_index/create", json=body)

    def delete_metadata_index(self, index: str, property_name: str) -> requests.Response:
        return self.send("POST", f"/{index}/metadata_index/delete", json={"propertyName": property_name})

    def metadata_indexes(self, index: str) -> dict[str, str]:
        found = result(self.send("GET", f"/{index}/metadata_index/list"))["metadataIndexes"]
        return {entry["propertyName"]: entry["indexType"] for entry in found}

    def page(self, index: str, **params: Any) -> requests.Response:
        return self.send("GET", f"/{index}/list", params=params)

    def info(self, index: str) -> dict[str, Any]:
        return result(self.send("GET", f"/{index}/info"))

    def found(self, index: str, *ids: str) -> dict[str, dict[str, Any]]:
        """Return the vectors with these ids, by id. The number of ids is not limited."""
        vectors: dict[str, dict[str, Any]] = {}
        for start in range(0, len(ids), 20):
            for vector in result(self.get(index, ids[start : start + 20])):
                vectors[vector["id"]] = vector
        return vectors

    # --- patience --------------------------------------------------------------------------------------

    def wait_for(self, index: str, mutation_id: str) -> dict[str, Any]:
        """Wait until the last mutation of an index is applied, and return ``info`` at that time."""
        start = time.monotonic()
        while True:
            info = self.info(index)
            if info.get("processedUpToMutation") == mutation_id:
                self.applied_after.append(time.monotonic() - start)
                return info
            waited = time.monotonic() - start
            assert waited < self.patience.deadline, f"{mutation_id} was not applied within {waited:.0f} s"
            time.sleep(self.patience.interval)

    def eventually(self, check: Callable[[], T]) -> T:
        """Repeat a check until its assertions hold, because each view can lag behind the watermark."""
        deadline = time.monotonic() + self.patience.visible
        while True:
            try:
                return check()
            except AssertionError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(self.patience.interval)


def _throttle(response: requests.Response) -> float:
    """Return the seconds to wait; 0 if the response is not a throttle."""
    if response.status_code == 429:
        asked = response.headers.get("Retry-After", "")
        return float(asked) if asked.isdecimal() else BLOCK_SECONDS
    if response.status_code >= 400 and TOO_MANY_REQUESTS in codes(response):
        return OWN_THROTTLE_SECONDS
    return 0.0


# --- responses ----------------------------------------------------------------------------------------------


def envelope(response: requests.Response) -> dict[str, Any]:
    """Check the rules for every response, and return the body."""
    assert response.headers["Content-Type"].partition(";")[0] == "application/json", shown(response)
    body: dict[str, Any] = response.json()
    assert isinstance(body["success"], bool)
    assert isinstance(body["errors"], list)
    assert isinstance(body["messages"], list)
    assert "result" in body
    assert body["success"] == response.ok, shown(response)
    assert bool(body["errors"]) != body["success"], shown(response)
    for error in body["errors"]:
        assert type(error["code"]) is int
        assert error["code"] >= 1000
        assert isinstance(error["message"], str)
    return body


def result(response: requests.Response) -> Any:
    """Check that a request has succeeded, and return its result."""
    body = envelope(response)
    assert body["success"], shown(response)
    return body["result"]


def mutation(response: requests.Response) -> str:
    """Check that a write was accepted, and return its mutation id."""
    found = result(response)
    assert isinstance(found["mutationId"], str), shown(response)
    return str(found["mutationId"])


@dataclass(frozen=True)
class Refusal:
    """The status and error of a refused request."""

    status: int
    code: int
    message: str


def refusal(response: requests.Response) -> Refusal:
    """Check that a request was refused by a 4xx without a result, and return its error."""
    body = envelope(response)
    assert not body["success"], f"accepted: {shown(response)}"
    assert 400 <= response.status_code < 500, shown(response)
    assert body["result"] is None, shown(response)
    return Refusal(response.status_code, body["errors"][0]["code"], body["errors"][0]["message"])


def codes(response: requests.Response) -> list[int]:
    """Return the error codes of a response of any form."""
    try:
        return [error["code"] for error in response.json()["errors"]]
    except (ValueError, KeyError, TypeError):
        return []


def shown(response: requests.Response) -> str:
    """Return a response as short text."""
    return f"{response.status_code} {response.text[:500]}"
