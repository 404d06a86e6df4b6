# SPDX-License-Identifier: Apache-2.0
"""One request's life: sent, answered, understood, retried."""

from __future__ import annotations

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final

import tenacity

from airflow_provider_cfvectorize.client.pacing import PROCESS_GATE, StartGate
from airflow_provider_cfvectorize.client.text import show
from airflow_provider_cfvectorize.client.transport import RawResponse, Transport
from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeError,
    VectorizeInputError,
    VectorizeInterrupted,
    VectorizeNotFoundError,
    VectorizeResponseError,
    VectorizeThrottledError,
    VectorizeTransportError,
)

log = logging.getLogger(__name__)

#: Vectorize's own write throttle, reported under HTTP 400 as well (vectorize-api.md, 2.4).
THROTTLE_CODE: Final = 40041
#: "Authentication error", "Invalid request headers", "Invalid access token" (vectorize-api.md, 2.5).
AUTH_CODES: Final = frozenset({10000, 6003, 9109})
#: Unknown index, deleted index, no such route (vectorize-api.md, 2.4 and 2.5).
INDEX_NOT_FOUND_CODE: Final = 3000
INDEX_DELETED_CODE: Final = 3005
NO_ROUTE_CODE: Final = 7003
NOT_FOUND_CODES: Final = frozenset({INDEX_NOT_FOUND_CODE, INDEX_DELETED_CODE, NO_ROUTE_CODE})

#: What to do about an error, by its code.
_ADVICE: Final[Mapping[int, str]] = {
    INDEX_NOT_FOUND_CODE: "Check index_name and the account id, or create the index first",
    INDEX_DELETED_CODE: "The index was deleted: create it again, or check index_name",
    NO_ROUTE_CODE: "Check the account id and the connection's host",
    3002: "An index of that name exists already",
    40007: "Send fewer ids in one request",
    1005: "Send NDJSON as application/x-ndjson",
}
_AUTH_ADVICE: Final = (
    "Check, in this order: the API token in the connection's password is complete and not expired; it has "
    "the permission 'Vectorize: Edit'; it is for this account. (With api_email set, the password is the "
    "Global API Key)"
)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """
    How long a call goes on.

    :param backoff_total: seconds within which passing errors (no connection, timeout, 408, 5xx) are retried.
    :param first_backoff: the bound of the first random pause, in seconds; it doubles each time.
    :param longest_backoff: the most seconds of one pause.
    :param throttle_total: the most seconds, in sum, that a call waits because it was throttled; the default
        is three of the blocks of five minutes that follow on going over the account's limit.
    """

    backoff_total: float = 120.0
    first_backoff: float = 0.5
    longest_backoff: float = 30.0
    throttle_total: float = 900.0


@dataclass(frozen=True, slots=True)
class Answer:
    """
    What the service said.

    :param result: the envelope's ``result``.
    :param date: the server's clock, from the ``Date`` header (whole seconds), None without one.
    :param headers: the response's headers.
    """

    result: Any
    date: datetime | None
    headers: Mapping[str, str]


def may_retry(error: BaseException, *, repeatable: bool = True) -> bool:
    """
    Decide whether sending the same request again can help and can do no harm.

    :param error: what the last attempt ended with.
    :param repeatable: the request has the same effect whether it is carried out once or twice.
    """
    if isinstance(error, VectorizeThrottledError):
        return True
    if not repeatable:
        return False
    if isinstance(error, VectorizeTransportError):
        return True
    return is_server_fault(error)


def is_server_fault(error: BaseException) -> bool:
    """Say whether an error is an answer that tells of the server's state and not of the request: 408, 5xx."""
    return isinstance(error, VectorizeResponseError) and (
        error.status == 408 or (error.status is not None and error.status >= 500)
    )


def read_date(headers: Mapping[str, str]) -> datetime | None:
    """Return the ``Date`` header as an aware time, None where there is none that can be read."""
    return _read_http_date(headers.get("Date", ""))


def _read_http_date(text: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(text)
        return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    except (ValueError, TypeError, OverflowError):
        return None


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of ``Retry-After``, given as a number or as a date; None where it does not say."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value, re.ASCII):
        return float(value)
    until = _read_http_date(value)
    if until is None:
        return None
    return max(0.0, (until - (read_date(headers) or datetime.now(UTC))).total_seconds())


def read_answer(raw: RawResponse, *, what: str, secrets: Collection[str] = ()) -> Answer:
    """
    Say what a response means; a pure function.

    :param raw: the response.
    :param what: the request, for errors: method and path.
    :param secrets: texts that no error may show.
    :raises VectorizeThrottledError: the account's request budget is used up.
    :raises VectorizeAuthError: the credentials are refused.
    :raises VectorizeNotFoundError: no such index or account.
    :raises VectorizeResponseError: any other refusal, and any answer that is not the API's.
    """

    def shown(text: object) -> str:
        return show(_masked(text if isinstance(text, str) else "", secrets), 200)

    if 300 <= raw.status < 400:
        raise VectorizeResponseError(
            f"{what}: HTTP {raw.status}, a redirect to {shown(raw.headers.get('Location', ''))}, which is "
            "not followed because it would carry the credentials elsewhere. Put the API's final address into "
            "the connection's host",
            status=raw.status,
        )
    envelope = _parse(raw.body)
    errors = envelope.get("errors") if envelope is not None else None
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    code = first.get("code")
    code = code if isinstance(code, int) and not isinstance(code, bool) else None
    succeeded = envelope is not None and envelope.get("success") is True and 200 <= raw.status < 300
    if envelope is not None and succeeded:
        return Answer(envelope.get("result"), read_date(raw.headers), raw.headers)
    if raw.status == 429 or code == THROTTLE_CODE:
        retry_after = read_retry_after(raw.headers)
        until = "" if retry_after is None else f"; it asks to wait {retry_after:g} s"
        raise VectorizeThrottledError(
            f"{what}: HTTP {raw.status}, code {code}: the account's request budget is used up{until}. The "
            "budget is shared by everything that the account's owner runs",
            status=raw.status,
            code=code,
            retry_after=retry_after,
        )
    if envelope is None or not isinstance(envelope.get("success"), bool):
        if raw.status in (401, 403):
            raise VectorizeAuthError(f"{what}: HTTP {raw.status}. {_AUTH_ADVICE}", status=raw.status)
        raise VectorizeResponseError(
            f"{what}: HTTP {raw.status} with a body that is not the API's JSON: "
            # All of it, since half of a secret at the end of a part would not be recognized.
            f"{shown(raw.body.decode('utf-8', 'replace'))}",
            status=raw.status,
        )
    said = f"{what}: HTTP {raw.status}, code {code}: {shown(first.get('message'))}"
    if raw.status in (401, 403) or code in AUTH_CODES:
        raise VectorizeAuthError(f"{said}. {_AUTH_ADVICE}", status=raw.status, code=code)
    advice = f". {_ADVICE[code]}" if code is not None and code in _ADVICE else ""
    if code in NOT_FOUND_CODES or raw.status in (404, 410):
        raise VectorizeNotFoundError(f"{said}{advice}", status=raw.status, code=code)
    if 200 <= raw.status < 300:
        said = f"{said} (success: false)"
    raise VectorizeResponseError(f"{said}{advice}", status=raw.status, code=code)


def write_json(value: object) -> bytes:
    """
    Return a value as compact JSON.

    :param value: what can be JSON; of NaN and Infinity there is none, and the service's error would not say
        where they stand.
    :raises VectorizeInputError: it cannot be JSON.
    """
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, TypeError, RecursionError) as e:
        problem = ascii(str(e))[:200]
    raise VectorizeInputError(
        f"this cannot be written as JSON: {problem}. Vectors are lists of finite numbers (of a numpy array: "
        ".tolist()); ids, names and metadata are valid Unicode"
    )


def _masked(text: str, secrets: Collection[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def _parse(body: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


class VectorizeSession:
    """
    Sends requests until they are answered for good.

    :param transport: what carries a request.
    :param base_url: the API's address, without a slash at the end.
    :param user_agent: the ``User-Agent`` header.
    :param secrets: texts that no error and no log line may show.
    :param retry: how long to go on; None for a single attempt that never sleeps (for the triggerer).
    :param gate: spaces the starts of requests; not used for single attempts.
    :param clock: seconds of a clock that is never set.
    :param sleep: waits for so many seconds; the default also wakes at :meth:`stop`.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        base_url: str,
        user_agent: str,
        secrets: Collection[str] = (),
        retry: RetryPolicy | None,
        gate: StartGate = PROCESS_GATE,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._transport = transport
        self._base_url = base_url
        self._headers = {"User-Agent": user_agent, "Accept": "application/json"}
        self._secrets = tuple(s for s in secrets if s)
        self._retry = retry
        self._gate = gate
        self._clock = clock
        self._stopped = threading.Event()
        self._sleep: Callable[[float], Any] = sleep or self._stopped.wait
        #: Where the caller's time ends, in seconds of the clock; no wait for a throttle goes past it.
        self.deadline: float | None = None

    def stop(self) -> None:
        """Wake every thread that waits to send; no request starts after this."""
        self._stopped.set()

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json_body: object = None,
        body: bytes | None = None,
        content_type: str | None = None,
        repeatable: bool = True,
        gone_is_done: bool = False,
    ) -> Answer:
        """
        Send one request, again where that helps, and return the answer.

        :param method: the HTTP method.
        :param path: the path below the base URL, with a slash first.
        :param params: the query string's parameters.
        :param json_body: a value to send as JSON.
        :param body: bytes to send as they are, instead.
        :param content_type: the type of ``body``.
        :param repeatable: whether carrying the request out twice has the effect of once; if not, it is only
            sent again after a throttle, which carries nothing out.
        :param gone_is_done: a retry that finds nothing there any more is a success of an earlier attempt
            whose answer was lost (deleting an index).
        :raises VectorizeError: as :func:`read_answer`, :class:`VectorizeTransportError`, and
            :class:`VectorizeInputError` for a value of which no JSON can be made.
        """
        headers = dict(self._headers)
        if json_body is not None:
            body = write_json(json_body)
            content_type = "application/json"
        if content_type:
            headers["Content-Type"] = content_type
        attempts = 0

        def attempt() -> Answer:
            nonlocal attempts
            attempts += 1
            try:
                return self._once(method, path, params=params, headers=headers, body=body)
            except VectorizeNotFoundError as e:
                if gone_is_done and attempts > 1 and e.code in (INDEX_NOT_FOUND_CODE, INDEX_DELETED_CODE):
                    return Answer(None, None, {})
                raise

        if self._retry is None:
            return attempt()
        patience = _Patience(self._retry, repeatable, lambda: self.deadline, self._clock)
        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(patience.may_retry),
            wait=patience.wait,
            stop=patience.stop,
            before_sleep=patience.before_sleep,
            sleep=self._sleep,
            reraise=True,
        )
        return retrying(attempt)

    def _once(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> Answer:
        if self._retry is not None:
            self._gate.wait(self._sleep)
        if self._stopped.is_set():
            raise VectorizeInterrupted(f"{method} {path}: not sent, the task is being stopped")
        what = f"{method} {path}"
        try:
            raw = self._transport.send(
                method, f"{self._base_url}{path}", params=params, headers=headers, body=body
            )
        except VectorizeTransportError as e:
            # What came may be in there, such as a status line that is none.
            raise VectorizeTransportError(f"{what}: {_masked(str(e), self._secrets)}") from None
        return read_answer(raw, what=what, secrets=self._secrets)


class _Patience:
    """The waits of one call: tenacity asks it how long to pause and when to give up."""

    def __init__(
        self,
        policy: RetryPolicy,
        repeatable: bool,
        deadline: Callable[[], float | None],
        clock: Callable[[], float],
    ) -> None:
        self._policy = policy
        self._repeatable = repeatable
        self._deadline = deadline
        self._backoff = tenacity.wait_random_exponential(
            multiplier=policy.first_backoff, max=policy.longest_backoff
        )
        self._clock = clock
        self._started = clock()
        self._throttled = 0.0

    def may_retry(self, error: BaseException) -> bool:
        return isinstance(error, VectorizeError) and may_retry(error, repeatable=self._repeatable)

    def wait(self, state: tenacity.RetryCallState) -> float:
        error = self._error(state)
        # Never less than the backoff: a Retry-After of 0 must not make a loop without an end.
        return max(self._backoff(state), getattr(error, "retry_after", None) or 0.0)

    def stop(self, state: tenacity.RetryCallState) -> bool:
        pause = state.upcoming_sleep
        if isinstance(self._error(state), VectorizeThrottledError):
            deadline = self._deadline()
            return self._throttled + pause > self._policy.throttle_total or (
                deadline is not None and self._clock() + pause > deadline
            )
        spent = self._clock() - self._started - self._throttled
        return spent + pause > self._policy.backoff_total

    def before_sleep(self, state: tenacity.RetryCallState) -> None:
        error = self._error(state)
        pause = state.upcoming_sleep
        if isinstance(error, VectorizeThrottledError):
            self._throttled += pause
            until = datetime.fromtimestamp(time.time() + pause, UTC)
            log.warning("%s Waiting %.0f s, until %s.", error, pause, until.isoformat(timespec="seconds"))
        else:
            log.warning("%s Trying again in %.1f s.", error, pause)

    @staticmethod
    def _error(state: tenacity.RetryCallState) -> BaseException | None:
        return state.outcome.exception() if state.outcome is not None else None
