# SPDX-License-Identifier: Apache-2.0
"""Injects faults: decides which faults hit a request, and carries them out."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import random
import socket
import struct
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.local import errors
from airflow_provider_cfvectorize.local.faults.specs import KINDS, Fault, check_seed, parse_faults
from airflow_provider_cfvectorize.local.http.reply import Reply, start_message

if TYPE_CHECKING:
    from collections.abc import Iterable, MutableMapping

    from starlette.types import Receive, Scope, Send

    from airflow_provider_cfvectorize.local.engine.index import Index
    from airflow_provider_cfvectorize.local.engine.model import Watermark
    from airflow_provider_cfvectorize.local.engine.store import Store

#: The key of the request's scope that holds its :class:`Plan`.
PLAN: Final = "vectorize_local.plan"
#: Zero linger time: closing the connection sends a reset at once and drops unsent data.
_RESET: Final = struct.pack("ii", 1, 0)
#: A response that never ends: the beginning of valid JSON, followed by white space.
_BEGINNING: Final = b'{"result":'
_MORE: Final = b" "
_PAGES: Final = {
    "500": (500, "500 Internal Server Error"),
    "503": (503, "503 Service Temporarily Unavailable"),
    "504": (504, "504 Gateway Time-out"),
    "challenge": (403, "Just a moment..."),
}


class Armed:
    """
    A fault with its count of requests.

    Each has its own random generator. Whether it hits the n-th request depends only on the seed and on n, not
    on other requests.
    """

    def __init__(self, fault: Fault, seed: str) -> None:
        self.fault = fault
        self._seen = 0
        self._random = random.Random(seed)  # noqa: S311

    def hits(self) -> bool:
        """Count a request to its endpoints, and return whether the fault hits it."""
        self._seen += 1
        if self.fault.probability is not None:
            return self._random.random() < self.fault.probability
        if self.fault.numbers is not None:
            return any(
                first <= self._seen and (last is None or self._seen <= last)
                for first, last in self.fault.numbers
            )
        return True


@dataclass(slots=True)
class Plan:
    """
    The effects of all faults on one request.

    :param delay: Seconds to delay its response.
    :param end: The fault that replaces or breaks its response.
    :param lag: Seconds by which it reads vectors from the past.
    :param stuck: Whether it sees the stuck watermark; None if no fault sticks the watermark.
    """

    delay: float = 0.0
    end: Fault | None = None
    lag: float = 0.0
    stuck: bool | None = None

    @property
    def instead(self) -> Fault | None:
        """The fault that replaces the work; None if the work is done."""
        return self.end if self.end is not None and self.end.effect == "instead" else None


class Faults:
    """
    The faults of a server. They can be changed while it runs.

    :param connections: The open connections by client address.
    """

    def __init__(self, store: Store, connections: MutableMapping[tuple[str, int], Any]) -> None:
        self._store = store
        self._connections = connections
        self._by_endpoint: dict[str, list[Armed]] = {}
        self._stuck: dict[int, Watermark | None] = {}
        self._injected: Counter[str] = Counter()
        self._ending = asyncio.Event()
        self.faults: list[Fault] = []
        self.seed = 0

    def set(self, specs: Iterable[Any], seed: int) -> None:
        """
        Replace all faults. Each counts its requests from 1.

        :raises ValueError: A fault is invalid; nothing has changed.
        """
        faults, self.seed = parse_faults(specs), check_seed(seed)
        self.faults = faults
        self._by_endpoint = {}
        for position, fault in enumerate(faults):
            armed = Armed(fault, f"{seed}/{position}")
            for endpoint in fault.endpoints:
                self._by_endpoint.setdefault(endpoint, []).append(armed)
        lags = [fault.value or 0.0 for fault in faults if fault.name == "lagging-view"]
        self._store.remember(max(lags, default=0.0))
        # Watermarks stick at their current positions.
        self._stuck = self._store.watermarks()

    def injected(self) -> dict[str, int]:
        """Return the number of injected faults by kind since the start or the last reset."""
        return {name: self._injected[name] for name in KINDS}

    def reset_injected(self) -> None:
        """Reset the counts."""
        self._injected.clear()

    def close(self) -> None:
        """End delayed and endless responses."""
        self._ending.set()

    # --- before the work -------------------------------------------------------------------------------

    def plan(self, endpoint: str) -> Plan | None:
        """
        Decide which faults hit a request.

        :return: Their effects; None if no fault applies to the endpoint.
        """
        armed = self._by_endpoint.get(endpoint)
        if armed is None:
            return None
        hits = [one.fault for one in armed if one.hits()]
        end = next((fault for fault in hits if fault.effect in ("instead", "response")), None)
        plan = Plan(end=end)
        if any(one.fault.name == "stuck-watermark" for one in armed):
            plan.stuck = False
        for fault in hits:
            if fault.effect == "delays":
                plan.delay += fault.value or 0.0
            elif fault.effect == "view":
                if plan.instead:
                    continue
                if fault.name == "stuck-watermark":
                    plan.stuck = True
                else:
                    plan.lag = max(plan.lag, fault.value or 0.0)
            elif fault is not end:
                # A response can break in one way only.
                continue
            self._injected[fault.name] += 1
        return plan

    def seen(self, plan: Plan, index: Index, now: float) -> Index:
        """Return the index as a request with these faults sees it."""
        if plan.stuck is False:
            self._stuck[index.key] = index.watermark
        if not plan.lag and not plan.stuck:
            return index
        shown = index.as_of(now - plan.lag) if plan.lag else copy.copy(index)
        if plan.stuck:
            shown.watermark = self._stuck.get(index.key)
        return shown

    # --- the response ----------------------------------------------------------------------------------

    async def respond(
        self,
        plan: Plan,
        reply: Reply,
        date: bytes,
        scope: Scope,
        receive: Receive,
        send: Send,
    ) -> None:
        """Send the response, with the faults of the plan."""
        if plan.delay:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ending.wait(), plan.delay)
        name = "" if plan.end is None else plan.end.name
        if name in ("reset-before", "reset-after"):
            await self._hang_up(scope, receive)
            return
        if name == "hang":
            await send(start_message(reply, date, None))
            await self._trickle(plan.end.value if plan.end else None, receive, send)
            await self._hang_up(scope, receive)
            return
        body = reply.body()
        if name == "truncated":
            body = body[: len(body) // 2]
        await send(start_message(reply, date, len(body)))
        await send({"type": "http.response.body", "body": body})

    async def _trickle(self, pause: float | None, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.body", "body": _BEGINNING, "more_body": True})
        ends = {asyncio.ensure_future(_disconnected(receive)), asyncio.ensure_future(self._ending.wait())}
        try:
            while True:
                done, _ = await asyncio.wait(ends, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                if done:
                    return
                await send({"type": "http.response.body", "body": _MORE, "more_body": True})
        finally:
            for end in ends:
                end.cancel()

    async def _hang_up(self, scope: Scope, receive: Receive) -> None:
        transport = self._connections.get(scope["client"])
        if transport is not None:
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            transport.abort()
        # uvicorn logs an error if the application returns without a response before it has seen the
        # disconnect.
        await _disconnected(receive)


def refuse(fault: Fault) -> Reply:
    """
    Return the response to a request whose work is skipped.

    :param fault: A fault with the effect ``instead``.
    :raises ApiError: The response is a refusal of the service.
    """
    if fault.name in _PAGES:
        status, title = _PAGES[fault.name]
        page = f"<html>\r\n<head><title>{title}</title></head>\r\n<body>{title}</body>\r\n</html>\r\n"
        return Reply(status, {}, page=page.encode("ascii"))
    if fault.name == "429":
        raise errors.rate_limited(
            limits.ACCOUNT_REQUESTS, limits.ACCOUNT_WINDOW_SECONDS, int(fault.value or 0)
        )
    if fault.name == "40041":
        raise errors.refusal("too_many_requests")
    if fault.name == "refuse":
        raise errors.refusal("missing_permission")
    # The connection is reset, so no client sees this response.
    return Reply(200, {})


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
