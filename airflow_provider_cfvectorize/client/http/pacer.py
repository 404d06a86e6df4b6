# SPDX-License-Identifier: Apache-2.0
"""Throttles requests on this side: delays each until the request budget (``budget.py``) lets it start."""

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

#: A request that is held back for longer than this is told to the log, once for all that wait with it.
LOGGED_FROM_SECONDS: Final = 5.0
#: The weight of the newest answer in the average of round trips.
_TRIP_WEIGHT: Final = 1 / 8


class StartGate:
    """Spaces the starts of requests; one gate is shared by all threads it is to bind."""

    def __init__(self, per_second: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._last_start = float("-inf")

    def wait(self, sleep: Callable[[float], object] = time.sleep) -> None:
        """
        Return when the caller's request may start.

        :param sleep: waits for so many seconds; may return early if nothing is going to be sent after all.
        """
        with self._lock:
            now = self._clock()
            # Evenly spaced, so that no second ever sees more.
            start = self._last_start = max(now, self._last_start + 1.0 / self._per_second)
        if start > now:
            sleep(start - now)


#: Shared by every client of this process.
PROCESS_GATE: Final = StartGate(MAX_REQUESTS_PER_SECOND)


class OwnCount:
    """
    A budget that nobody tells of: the documented one, of which only one's own requests are known.

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
        """Return what is left."""
        left = math.ceil(max(0.0, self._began + limits.ACCOUNT_WINDOW_SECONDS - now))
        return Budget(max(0, limits.ACCOUNT_REQUESTS - self._sent), left)


class Start(NamedTuple):
    """
    How the wait for a request's start ended.

    :param refused: 0 if it may start; else the seconds it would still have to wait, which is too long.
    :param blocked: the seconds it waited for the end of a block.
    """

    refused: float
    blocked: float


class Pacer:
    """
    Says when a request may start; safe to share between the threads of a client.

    :param own_count: what stands in for the service's headers where there are none; None for nothing: there
        is no limit then.
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
        self._told_until = -math.inf

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
        Return when a request may start, which :meth:`end` must be told the end of.

        :param deadline: where the caller's time ends, in seconds of the clock.
        :param patience: the most seconds to wait for the end of a block, which a throttled request brings.
        :param sleep: waits for so many seconds; None to wait so that an answer, or :meth:`stop`, wakes it.
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
                    self._tell(now, pause)
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
        Take note of the end of a request.

        :param started_at: when it started, in seconds of the clock.
        :param headers: the answer's headers; None if none came.
        :param throttled: the service refused it because of too many requests.
        :param retry_after: for how many seconds it wants no more; None if it did not say.
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
        """Return the seconds that so many more requests will take, None if no budget is known."""
        with self._changed:
            if self._standing is None or self._unlimited or self._trip is None:
                return None
            paced = time_for(self._standing, requests, now=self._clock(), reserve=self._reserve)
            return max(paced, requests * self._trip / concurrency)

    def stop(self) -> None:
        """Let every thread go that waits, now and from now on."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _tell(self, now: float, pause: float) -> None:
        if pause < LOGGED_FROM_SECONDS or now < self._told_until:
            return
        self._told_until = now + pause
        standing = None if now < self._blocked_until else self._standing
        text = describe_pause("sending", pause, standing)
        kept = f", and {self._reserve:.0%} are for others (the connection's rate_reserve)" if standing else ""
        log.info("%s%s.", text, kept)


def describe_pause(doing: str, pause: float, standing: Standing | None) -> str:
    """
    Return for how long nothing is sent, and why.

    :param standing: what is known of the budget that is waited for; None if the service asked for the pause.
    """
    until = datetime.fromtimestamp(time.time() + pause, UTC).isoformat(timespec="seconds")
    why = "the service asked for it"
    if standing is not None:
        why = (
            f"of the account's {standing.quota} requests in {standing.window:.0f} s, "
            f"{standing.remaining} were left"
        )
    return f"Not {doing} for {pause:.0f} s, until {until}: {why}"
