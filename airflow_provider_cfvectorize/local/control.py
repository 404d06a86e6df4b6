# SPDX-License-Identifier: Apache-2.0
"""What the service does not have: the routes below ``/_local``, and the same from Python."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_cfvectorize.local import errors, validation
from airflow_provider_cfvectorize.local.api import read_body
from airflow_provider_cfvectorize.local.errors import ApiError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from starlette.requests import Request

    from airflow_provider_cfvectorize.local.ratelimit import Limiter
    from airflow_provider_cfvectorize.local.store import Store

    Handler = Callable[[Request], Awaitable[Any]]

PREFIX: Final = "/_local/"
#: The most mutations that one ``POST /_local/foreign`` makes on each index.
MAX_FOREIGN_COUNT: Final = 10_000


class Control:
    """
    Looks at the server from outside of its API, and interferes.

    :param store: What is served.
    :param names: The endpoints whose requests are counted.
    :param limiter: The budget of requests, if there is one.
    """

    def __init__(self, store: Store, names: Iterable[str], limiter: Limiter | None) -> None:
        self._store = store
        self._names = tuple(names)
        self._limiter = limiter
        #: Requests by endpoint.
        self.requests: Counter[str] = Counter()
        self._routes: dict[str, dict[str, Handler]] = {
            "stats": {"GET": self._get_stats, "DELETE": self._delete_stats},
            "foreign": {"POST": self._post_foreign},
            "rate-limit": {"GET": self._get_rate_limit},
        }

    async def handle(self, request: Request, path: str) -> Any:
        """
        Answer one request and return the result.

        :param request: The request.
        :param path: Its path, which begins with :data:`PREFIX`.
        :raises ApiError: It is refused.
        """
        if "origin" in request.headers:
            # Browsers let any page post here without asking, and say so by this header.
            raise ApiError(403, errors.LOCAL_CODE, "Not for web pages")
        table = self._routes.get(path.removeprefix(PREFIX))
        if table is None:
            raise errors.no_route(path)
        return await errors.choose(table, request.scope["method"])(request)

    # --- from Python -----------------------------------------------------------------------------------

    def stats(self) -> dict[str, int]:
        """Return the number of requests by endpoint since the start, or since they were reset."""
        return {name: self.requests[name] for name in self._names}

    def reset_stats(self) -> None:
        """Count from zero again."""
        self.requests.clear()

    def rate_limit_report(self) -> list[dict[str, float]]:
        """Return the last windows of the rate limit; none without one."""
        return [] if self._limiter is None else self._limiter.report()

    # --- over HTTP -------------------------------------------------------------------------------------

    async def _get_stats(self, request: Request) -> dict[str, int]:
        return self.stats()

    async def _delete_stats(self, request: Request) -> dict[str, int]:
        self.reset_stats()
        return self.stats()

    async def _get_rate_limit(self, request: Request) -> list[dict[str, float]]:
        return self.rate_limit_report()

    async def _post_foreign(self, request: Request) -> dict[str, Any]:
        query: dict[str, Any] = dict(request.query_params)
        if query.get("count", "").isdecimal():
            query["count"] = int(query["count"][:10])
        given = {**query, **await self._body(request)}
        # Else a misspelt index_name would write to every index.
        _check_fields(given, ("index_name", "count"))
        name = given.get("index_name")
        count = given.get("count", 1)
        if name is not None and not isinstance(name, str):
            raise errors.not_json("index_name: expected a string")
        if type(count) is not int or not 1 <= count <= MAX_FOREIGN_COUNT:
            raise errors.not_json(f"count: expected a number from 1 to {MAX_FOREIGN_COUNT}")
        return {"mutationIds": self._store.foreign_writes(name, count)}

    async def _body(self, request: Request) -> dict[str, Any]:
        raw = await read_body(request, self._store)
        return validation.parse_json(raw) if raw.strip() else {}


def _check_fields(given: dict[str, Any], known: tuple[str, ...]) -> None:
    if unknown := given.keys() - set(known):
        raise errors.not_json(f"{min(unknown)}: unknown; expected {', '.join(known)}")
