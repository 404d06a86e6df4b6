# SPDX-License-Identifier: Apache-2.0
"""Delays each request until the request budget (``budget.py``) allows its start."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, NamedTuple

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.http.budget import (
    MAX_REQUESTS_PER_SECOND,
    Budget,
    Standing,
    learn,
    pause_before_start,
    read_budget,
    time_for,
)

log = logging.getLogger(__name__)

#: A delay of this many seconds or more is logged, once for all requests that wait.
LOGGED_FROM_SECONDS: Final = 5.0
#: The weight of the newest round trip in the average.
_TRIP_WEIGHT: Final = 1 / 8


class StartGate:
    """Spaces the starts of requests of all threads that share this gate."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._last_start = float("-inf")

    def wait(self, sleep: Callable[[float], object] = time.sleep) -> None:
        """
        Wait until the caller's request may start.

        :param sleep: waits for a number of seconds; may return early if the request will not be sent.
        """
        with self._lock:
            now = self._clock()
            # Even spacing keeps the limit in every second.
            start = self._last_start = max(now, self._last_start + 1.0 / self._per_second)
        if start > now:
            sleep(start - now)


#: Shared by every client of this process.
PROCESS_GATE: Final = StartGate(MAX_REQUESTS_PER_SECOND)


class OwnCount:
    """
    The documented budget, less the client's own requests, for a service that reports no budget.

    A window begins with the first request in it.
    """

    def __init__(self) -> None:
        self._began = -math.inf
        self._sent = 0

    def add(self, now: float) -> None:
        """Count a request that starts now."""
        if now >= self._began + limits.ACCOUNT_WINDOW_SECONDS:
            self._began = now
            self._sent = 0
        self._sent += 1

    def budget(self, now: float) -> Budget:
        """Return the budget."""
        left = math.ceil(max(0.0, self._began + limits.ACCOUNT_WINDOW_SECONDS - now))
        return Budget(max(0, limits.ACCOUNT_REQUESTS - self._sent), left)


class Start(NamedTuple):
    """
    The end of the wait for a request's start.

    :param refused: 0 if the request may start, or the seconds of the further wait if it is too long.
    :param blocked: the seconds of the wait for the end of a block.
    """

    refused: float
    blocked: float


class Pacer:
    """
    Decides when a request may start. The threads of a client share it.

    :param own_count: the budget for responses without headers; None for no limit.
    """

    def __init__(
        self,
        *,
        reserve: float,
        concurrency: int,
        own_count: OwnCount | None,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._reserve = reserve
        self._concurrency = concurrency
        self._own_count = own_count
        self._clock = clock
        self._draw = draw
        self._changed = threading.Condition()
        self._standing: Standing | None = None
        self._unlimited = False
        self._blocked_until = -math.inf
        self._in_flight = 0
        self._trip: float | None = None
        self._stopped = False
        self._logged_until = -math.inf

    def _try_start(self, now: float) -> float:
        pause = self._pause(now)
        if pause <= 0:
            self._in_flight += 1
            if self._own_count is not None:
                self._own_count.add(now)
            return 0.0
        return pause

    def _pause(self, now: float) -> float:
        if now < self._blocked_until:
            return self._blocked_until - now
        if self._unlimited:
            return 0.0
        return pause_before_start(
            self._standing,
            now=now,
            in_flight=self._in_flight,
            concurrency=self._concurrency,
            reserve=self._reserve,
        )

    def start(
        self,
        *,
        deadline: float = math.inf,
        patience: float = math.inf,
        sleep: Callable[[float], object] | None = None,
    ) -> Start:
        """
        Wait until a request may start. Call :meth:`end` when the request has ended.

        :param deadline: the caller's deadline, in seconds of the clock.
        :param patience: the most seconds to wait for the end of a block, which follows a throttled request.
        :param sleep: waits for a number of seconds; None for a wait that a response or :meth:`stop` ends.
        """
        blocked = 0.0
        while True:
            with self._changed:
                now = self._clock()
                pause = self._try_start(now)
                if pause <= 0 or self._stopped:
                    return Start(0.0, blocked)
                in_block = now < self._blocked_until
                if math.isfinite(pause):
                    if now + pause > deadline or (in_block and blocked + pause > patience):
                        return Start(pause, blocked)
                    self._log_pause(now, pause)
                if sleep is None:
                    self._changed.wait(pause if math.isfinite(pause) else None)
            if sleep is not None:
                sleep(pause)
            if in_block:
                blocked += self._clock() - now

    def end(
        self,
        started_at: float,
        headers: Mapping[str, str] | None,
        *,
        throttled: bool = False,
        retry_after: float | None = None,
    ) -> None:
        """
        Record the end of a request.

        :param started_at: the start of the request, in seconds of the clock.
        :param headers: the response's headers; None without a response.
        :param throttled: the service refused it because of too many requests.
        :param retry_after: the seconds of ``Retry-After``; None without it.
        """
        with self._changed:
            now = self._clock()
            self._in_flight -= 1
            if throttled:
                self._standing = None
                self._unlimited = False
                self._blocked_until = max(self._blocked_until, now + (retry_after or 0.0))
            elif headers is not None and started_at >= self._blocked_until:
                trip = now - started_at
                self._trip = trip if self._trip is None else self._trip + (trip - self._trip) * _TRIP_WEIGHT
                budget = read_budget(headers)
                if budget is None and self._own_count is not None:
                    budget = self._own_count.budget(now)
                self._unlimited = budget is None
                if budget is not None:
                    self._standing = learn(
                        self._standing, budget, started_at=started_at, now=now, jitter=self._draw()
                    )
            self._changed.notify_all()

    def time_for(self, requests: int, *, concurrency: int) -> float | None:
        """Return the seconds that this many more requests will take, None without a known budget."""
        with self._changed:
            if self._standing is None or self._unlimited or self._trip is None:
                return None
            paced = time_for(self._standing, requests, now=self._clock(), reserve=self._reserve)
            return max(paced, requests * self._trip / concurrency)

    def stop(self) -> None:
        """End all waits, now and from now on."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _log_pause(self, now: float, pause: float) -> None:
        if pause < LOGGED_FROM_SECONDS or now < self._logged_until:
            return
        self._logged_until = now + pause
        standing = None if now < self._blocked_until else self._standing
        text = describe_pause("sending", pause, standing)
        reserved = f", {self._reserve:.0%} reserved (rate_reserve)" if standing else ""
        log.info("%s%s.", text, reserved)


def describe_pause(doing: str, pause: float, standing: Standing | None) -> str:
    """
    Return the end of a pause and its reason.

    :param standing: the state of the budget that causes the pause; None if a throttle causes it.
    """
    until = datetime.fromtimestamp(time.time() + pause, UTC).isoformat(timespec="seconds")
    why = "the service throttled a request"
    if standing is not None:
        why = f"{standing.remaining} of {standing.quota} requests in {standing.window:.0f} s left"
    return f"Paused {doing} for {pause:.0f} s, until {until}: {why}"
