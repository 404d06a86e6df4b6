# SPDX-License-Identifier: Apache-2.0
"""
The ASGI application: routes, checks credentials, counts requests and sends the response.

It routes requests itself and has no middleware, for speed: the provider's benchmarks run against this server
and should not measure it.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Final, TypeVar

from starlette.requests import ClientDisconnect, Request

from airflow_provider_cfvectorize.local import errors
from airflow_provider_cfvectorize.local.engine.model import http_date
from airflow_provider_cfvectorize.local.errors import ApiError, DataFileError
from airflow_provider_cfvectorize.local.faults.injection import PLAN, refuse
from airflow_provider_cfvectorize.local.http import control
from airflow_provider_cfvectorize.local.http.api import Api, Endpoint
from airflow_provider_cfvectorize.local.http.control import Control
from airflow_provider_cfvectorize.local.http.rate_limit import Limiter, RateLimit
from airflow_provider_cfvectorize.local.http.reply import Reply, start_message, success

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from starlette.datastructures import Headers
    from starlette.types import Receive, Scope, Send

    from airflow_provider_cfvectorize.local.engine.store import Store
    from airflow_provider_cfvectorize.local.engine.view import Recall
    from airflow_provider_cfvectorize.local.faults.injection import Faults
    from airflow_provider_cfvectorize.local.http.access import Access, Hosts

log = logging.getLogger(__name__)

T = TypeVar("T")

BASE_PATH: Final = "/client/v4"
_TAIL: Final = ["vectorize", "v2", "indexes"]
_VERIFIED: Final = [{"code": 10000, "message": "This API Token is valid and active", "type": None}]
#: The key of the request's scope that holds the ``Ratelimit`` headers of its response.
_RATELIMIT_HEADERS: Final = "vectorize_local.standing"


class App:
    """
    The ASGI application.

    :param clock: Returns seconds since the epoch, for the ``Date`` header.
    :param latency: Seconds to delay each response of the API.
    :param rate_limit: The account's request limit; None for no limit.
    :param guard_local: Whether the routes below ``/_local`` require the token.
    """

    def __init__(
        self,
        store: Store,
        clock: Callable[[], float],
        *,
        account_id: str,
        access: Access,
        hosts: Hosts,
        latency: float,
        rate_limit: RateLimit | None,
        faults: Faults,
        recall: Recall,
        guard_local: bool,
    ) -> None:
        self._store = store
        self._clock = clock
        self._hosts = hosts
        self._latency = latency
        self._faults = faults
        self._guard_local = guard_local
        self._access = access
        self._api = Api(store, faults, recall)
        self._account_path = f"{BASE_PATH}/accounts/{account_id}"
        self._indexes_path = f"{self._account_path}/vectorize/v2/indexes"
        self._verify_token = Endpoint(self.verify_token, False)
        self._verify_paths = (f"{BASE_PATH}/user/tokens/verify", f"{self._account_path}/tokens/verify")
        self._limiter = Limiter(rate_limit, store.behaviour)
        self.control = Control(store, self._limiter, faults)
        self._requests = self.control.requests

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        local = scope["path"].startswith(control.PREFIX)
        try:
            reply = await (self._local(request) if local else self._reply(request))
        except ApiError as e:
            reply = self._refused(e)
        except ClientDisconnect:
            return
        except DataFileError as e:
            log.error("%s %s failed: %s", ascii(scope["method"]), ascii(scope["path"]), e)
            reply = self._refused(ApiError(500, errors.LOCAL_CODE, f"vectorize-local: {e}"))
        except Exception:
            log.exception("%s %s failed", ascii(scope["method"]), ascii(scope["path"]))
            message = "internal error of vectorize-local; see its log"
            reply = self._refused(ApiError(500, errors.LOCAL_CODE, message))
        if self._latency and not local:
            await asyncio.sleep(self._latency)
        if _RATELIMIT_HEADERS in scope:
            reply = reply._replace(headers=(*reply.headers, *scope[_RATELIMIT_HEADERS]))
        date = http_date(self._clock())
        if PLAN in scope:
            await self._faults.respond(scope[PLAN], reply, date, scope, receive, send)
            return
        body = reply.body()
        await send(start_message(reply, date, len(body)))
        await send({"type": "http.response.body", "body": body})

    def _refused(self, error: ApiError) -> Reply:
        return Reply(*error.response(self._store.behaviour), error.headers)

    async def _local(self, request: Request) -> Reply:
        self._check_host(request.headers)
        if self._guard_local:
            self._access.check(request.headers, writes=True)
        if "origin" in request.headers:
            # A browser lets any page send a POST here; it adds this header.
            raise ApiError(403, errors.LOCAL_CODE, "routes below /_local refuse requests of web pages")
        path: str = request.scope["path"]
        table = self.control.routes.get(path.removeprefix(control.PREFIX))
        if table is None:
            raise errors.refusal("no_route", path=path)
        return success(await _choose(table, request.scope["method"])(request))

    async def _reply(self, request: Request) -> Reply:
        headers = request.headers
        self._check_host(headers)
        scope = request.scope
        path: str = scope["path"]
        try:
            endpoint, index_name = self._route(path, scope["method"])
        except ApiError:
            self._count(scope, headers)
            raise
        self._requests[endpoint.name] += 1
        self._count(scope, headers)
        self._check_credentials(endpoint, path, headers)
        plan = self._faults.plan(endpoint.name)
        if plan is not None:
            scope[PLAN] = plan
            if plan.instead is not None:
                return refuse(plan.instead)
        try:
            reply = success(await endpoint.handle(request, index_name))
        except ApiError as e:
            e.result_info = endpoint.result_info
            raise
        if endpoint.result_info:
            reply.envelope["result_info"] = None
        elif endpoint is self._verify_token:
            reply.envelope["messages"] = _VERIFIED
        return reply

    async def verify_token(self, request: Request, name: str) -> dict[str, str]:
        """Return the response for a valid token."""
        return {"id": "ed17574386854bf78a67040be0a770b0", "status": "active"}

    def _check_credentials(self, endpoint: Endpoint, path: str, headers: Headers) -> None:
        if endpoint is self._verify_token:
            self._access.verify(headers)
            return
        self._access.check(headers, writes=endpoint.writes)
        if not path.startswith(self._indexes_path):
            raise errors.refusal("no_route", path=path)

    def _check_host(self, headers: Headers) -> None:
        if not self._hosts.serves(headers.get("host")):
            raise ApiError(
                421,
                errors.LOCAL_CODE,
                "unknown name in the Host header; start vectorize-local with --allow-host NAME",
            )

    def _count(self, scope: Scope, headers: Headers) -> None:
        now = self._store.now()
        try:
            if self._access.knows(headers):
                self._limiter.count(now)
        finally:
            # As of the request, not of the response: the client cannot know of requests in between.
            scope[_RATELIMIT_HEADERS] = self._limiter.headers(now)

    def _route(self, path: str, method: str) -> tuple[Endpoint, str]:
        # The path of another account is a valid route, so that a wrong token is refused before a wrong
        # account.
        parts = path.split("/", 8)
        if len(parts) < 8 or parts[:4] != ["", "client", "v4", "accounts"] or parts[5:8] != _TAIL:
            if path in self._verify_paths:
                return _choose({"GET": self._verify_token}, method), ""
            raise errors.refusal("no_route", path=path)
        if len(parts) == 8:
            return _choose(self._api.collection, method), ""
        name, slash, action = parts[8].partition("/")
        table = self._api.routes.get(action)
        if not name or table is None or (slash and not action):
            raise errors.refusal("no_route", path=path)
        return _choose(table, method), name


def _choose(table: Mapping[str, T], method: str) -> T:
    try:
        return table[method]
    except KeyError:
        allow = ", ".join(table).encode("ascii")
        raise errors.refusal("no_method", method=method, headers=((b"allow", allow),)) from None
