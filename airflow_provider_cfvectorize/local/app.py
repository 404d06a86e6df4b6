# SPDX-License-Identifier: Apache-2.0
"""
The ASGI application: routing, credentials, envelope.

Dispatch is by hand and there is no middleware: this server is what benchmarks of the provider run against, so
it must not be what they measure.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import Counter
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

from starlette.requests import ClientDisconnect, Request

from airflow_provider_cfvectorize.local import errors, validation
from airflow_provider_cfvectorize.local.access import Access, Credentials, Hosts
from airflow_provider_cfvectorize.local.api import Api, Endpoint, read_body
from airflow_provider_cfvectorize.local.errors import ApiError
from airflow_provider_cfvectorize.local.model import http_date

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.types import Receive, Scope, Send

    from airflow_provider_cfvectorize.local.store import Store

log = logging.getLogger(__name__)

T = TypeVar("T")

BASE_PATH: Final = "/client/v4"
#: The most mutations that one ``POST /_local/foreign`` makes on each index.
MAX_FOREIGN_COUNT: Final = 10_000
_TAIL: Final = ["vectorize", "v2", "indexes"]
_VERIFY_TOKEN: Final = "verify_token"  # noqa: S105

_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class Reply(NamedTuple):
    """A status, a body to be sent as JSON, and further headers."""

    status: int
    envelope: dict[str, Any]
    headers: tuple[tuple[bytes, bytes], ...] = ()


def success(result: Any, messages: list[dict[str, Any]] | None = None) -> Reply:
    """
    Wrap a result.

    :param result: The result.
    :param messages: Entries of the envelope's ``messages``.
    """
    return Reply(200, {"result": result, "success": True, "errors": [], "messages": messages or []})


class App:
    """
    The application.

    :param store: What it serves.
    :param clock: Seconds since the epoch, for the ``Date`` header.
    :param account_id: The one account there is.
    :param credentials: What opens it.
    :param hosts: The names it is served under.
    :param latency: Seconds by which each answer of the API is delayed.
    :param guard_local: Whether the routes under ``/_local`` ask for the token as well.
    """

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        *,
        account_id: str,
        credentials: Credentials,
        hosts: Hosts,
        latency: float,
        guard_local: bool,
    ) -> None:
        self._store = store
        self._clock = clock
        self._hosts = hosts
        self._latency = latency
        self._guard_local = guard_local
        self._access = Access(credentials, store.behaviour)
        self._api = Api(store)
        self._account_path = f"{BASE_PATH}/accounts/{account_id}"
        self._indexes_path = f"{self._account_path}/vectorize/v2/indexes"
        self._verify_paths = (f"{BASE_PATH}/user/tokens/verify", f"{self._account_path}/tokens/verify")
        self._names = [*self._api.endpoint_names(), _VERIFY_TOKEN]
        self._requests: Counter[str] = Counter()
        self._date = (0, b"")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Answer one request.

        :param scope: ASGI's scope.
        :param receive: ASGI's channel of what comes in.
        :param send: ASGI's channel of what goes out.
        """
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            reply = await self._reply(request)
        except ApiError as e:
            reply = Reply(e.status, e.envelope(), e.headers)
        except ClientDisconnect:
            return
        except Exception:
            log.exception("%s %s failed", ascii(scope["method"]), ascii(scope["path"]))
            failure = ApiError(500, errors.LOCAL_CODE, "internal error of vectorize-local; see its log")
            reply = Reply(failure.status, failure.envelope())
        if self._latency and not scope["path"].startswith("/_local/"):
            await asyncio.sleep(self._latency)
        await self._send(send, reply)

    async def _reply(self, request: Request) -> Reply:
        headers = request.headers
        if not self._hosts.serves(headers.get("host")):
            raise ApiError(
                421,
                errors.LOCAL_CODE,
                "This Host header is not served here; start vectorize-local with --allow-host NAME",
            )
        scope = request.scope
        path: str = scope["path"]
        if path.startswith("/_local/"):
            return await self._local(request, path)
        if path in self._verify_paths:
            _choose({"GET": None}, scope["method"])
            self._requests[_VERIFY_TOKEN] += 1
            self._access.verify(headers)
            return success(
                {"id": "ed17574386854bf78a67040be0a770b0", "status": "active"},
                [{"code": 10000, "message": "This API Token is valid and active", "type": None}],
            )
        endpoint, index_name = self._route(path, scope["method"])
        self._requests[endpoint.name] += 1
        self._access.check(headers, writes=endpoint.writes)
        if not path.startswith(self._indexes_path):
            raise errors.no_route(path)
        if not endpoint.result_info:
            return success(await endpoint.handle(request, index_name))
        try:
            reply = success(await endpoint.handle(request, index_name))
        except ApiError as e:
            e.result_info = True
            raise
        reply.envelope["result_info"] = None
        return reply

    def _route(self, path: str, method: str) -> tuple[Endpoint, str]:
        # Another account's path is a route as well, so that a wrong token is found before a wrong account.
        parts = path.split("/", 8)
        if len(parts) < 8 or parts[:4] != ["", "client", "v4", "accounts"] or parts[5:8] != _TAIL:
            raise errors.no_route(path)
        if len(parts) == 8:
            return _choose(self._api.collection, method), ""
        name, slash, action = parts[8].partition("/")
        table = self._api.routes.get(action)
        if not name or table is None or (slash and not action):
            raise errors.no_route(path)
        return _choose(table, method), name

    # --- what the service does not have ----------------------------------------------------------------

    async def _local(self, request: Request, path: str) -> Reply:
        if self._guard_local:
            self._access.check(request.headers, writes=True)
        if "origin" in request.headers:
            # Browsers let any page post here without asking, and say so by this header.
            raise ApiError(403, errors.LOCAL_CODE, "Not for web pages")
        if path == "/_local/stats":
            if _choose({"GET": False, "DELETE": True}, request.scope["method"]):
                self._requests.clear()
            return success(self.stats())
        if path == "/_local/foreign":
            _choose({"POST": None}, request.scope["method"])
            raw = await read_body(request, self._store)
            body = validation.parse_json(raw) if raw.strip() else {}
            query: dict[str, Any] = dict(request.query_params)
            if query.get("count", "").isdecimal():
                query["count"] = int(query["count"][:10])
            given = {**query, **body}
            if unknown := given.keys() - {"index_name", "count"}:
                # Else a misspelt index_name would write to every index.
                raise errors.not_json(f"{min(unknown)}: unknown; expected index_name, count")
            name = given.get("index_name")
            count = given.get("count", 1)
            if name is not None and not isinstance(name, str):
                raise errors.not_json("index_name: expected a string")
            if type(count) is not int or not 1 <= count <= MAX_FOREIGN_COUNT:
                raise errors.not_json(f"count: expected a number from 1 to {MAX_FOREIGN_COUNT}")
            return success({"mutationIds": self._store.foreign_writes(name, count)})
        raise errors.no_route(path)

    def stats(self) -> dict[str, int]:
        """Return the number of requests by endpoint since the start, or since they were reset."""
        return {name: self._requests[name] for name in self._names}

    def reset_stats(self) -> None:
        """Count from zero again."""
        self._requests.clear()

    # --- sending ---------------------------------------------------------------------------------------

    async def _send(self, send: Send, reply: Reply) -> None:
        body = _encode(reply.envelope).encode("ascii")
        second = int(self._clock())
        if self._date[0] != second:
            self._date = (second, http_date(second))
        await send(
            {
                "type": "http.response.start",
                "status": reply.status,
                "headers": [
                    (b"date", self._date[1]),
                    (b"content-type", b"application/json"),
                    (b"content-length", str(len(body)).encode("ascii")),
                    *reply.headers,
                ],
            }
        )
        await send({"type": "http.response.body", "body": body})


def _choose(table: Mapping[str, T], method: str) -> T:
    try:
        return table[method]
    except KeyError:
        raise errors.no_method(method, tuple(table)) from None
