# SPDX-License-Identifier: Apache-2.0
"""The control routes below ``/_local``: statistics, faults, foreign writes and the rate limit's report."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_cfvectorize.local import errors
from airflow_provider_cfvectorize.local.errors import ApiError
from airflow_provider_cfvectorize.local.faults.specs import ENDPOINTS
from airflow_provider_cfvectorize.local.http import bodies

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request

    from airflow_provider_cfvectorize.local.engine.store import Store
    from airflow_provider_cfvectorize.local.faults.injection import Faults
    from airflow_provider_cfvectorize.local.http.rate_limit import Limiter

    Handler = Callable[[Request], Awaitable[Any]]

PREFIX: Final = "/_local/"
#: The most mutations of one ``POST /_local/foreign`` on each index.
MAX_FOREIGN_COUNT: Final = 10_000


class Control:
    """Controls the server, for the routes below ``/_local`` and for ``LocalVectorize``."""

    def __init__(self, store: Store, limiter: Limiter, faults: Faults) -> None:
        self._store = store
        self._limiter = limiter
        self.faults = faults
        #: Requests by endpoint.
        self.requests: Counter[str] = Counter()
        #: By the rest of the path after the prefix, and by HTTP method.
        self.routes: dict[str, dict[str, Handler]] = {
            "stats": {"GET": self._get_stats, "DELETE": self._delete_stats},
            "foreign": {"POST": self._post_foreign},
            "rate-limit": {"GET": self._get_rate_limit},
            "faults": {
                "GET": self._get_faults,
                "POST": self._post_faults,
                "DELETE": self._delete_faults,
            },
        }

    # --- from Python -----------------------------------------------------------------------------------

    def stats(self) -> dict[str, int]:
        """Return the number of requests by endpoint since the start or the last reset."""
        return {name: self.requests[name] for name in ENDPOINTS}

    def reset_stats(self) -> None:
        """Reset the counts of requests and of injected faults."""
        self.requests.clear()
        self.faults.reset_injected()

    def rate_limit_report(self) -> list[dict[str, float]]:
        """Return the last windows of the rate limit; an empty list without a limit."""
        return self._limiter.report()

    # --- over HTTP -------------------------------------------------------------------------------------

    async def _get_stats(self, request: Request) -> dict[str, int]:
        return self.stats()

    async def _delete_stats(self, request: Request) -> dict[str, int]:
        self.reset_stats()
        return self.stats()

    async def _get_rate_limit(self, request: Request) -> list[dict[str, float]]:
        return self.rate_limit_report()

    async def _get_faults(self, request: Request) -> dict[str, Any]:
        return {
            "faults": [fault.spec for fault in self.faults.faults],
            "seed": self.faults.seed,
            "injected": self.faults.injected(),
        }

    async def _post_faults(self, request: Request) -> dict[str, Any]:
        given = await self._body(request)
        _check_fields(given, ("faults", "seed"))
        try:
            self.faults.set(given.get("faults", ()), given.get("seed", 0))
        except ValueError as e:
            raise ApiError(400, errors.LOCAL_CODE, str(e)) from None
        return await self._get_faults(request)

    async def _delete_faults(self, request: Request) -> dict[str, Any]:
        self.faults.set([], 0)
        return await self._get_faults(request)

    async def _post_foreign(self, request: Request) -> dict[str, Any]:
        query: dict[str, Any] = dict(request.query_params)
        if query.get("count", "").isdecimal():
            query["count"] = int(query["count"][:10])
        given = {**query, **await self._body(request)}
        # Without this check, a misspelt index_name would write to every index.
        _check_fields(given, ("index_name", "count"))
        name = given.get("index_name")
        count = given.get("count", 1)
        if name is not None and not isinstance(name, str):
            raise errors.refusal("not_json", detail="index_name: expected a string")
        if type(count) is not int or not 1 <= count <= MAX_FOREIGN_COUNT:
            raise errors.refusal("not_json", detail=f"count: expected a number from 1 to {MAX_FOREIGN_COUNT}")
        return {"mutationIds": self._store.foreign_writes(name, count)}

    async def _body(self, request: Request) -> dict[str, Any]:
        raw = await bodies.read_body(request)
        return bodies.parse_json(raw) if raw.strip() else {}


def _check_fields(given: dict[str, Any], known: tuple[str, ...]) -> None:
    if unknown := given.keys() - set(known):
        raise errors.refusal("not_json", detail=f"{min(unknown)}: unknown; expected {', '.join(known)}")
