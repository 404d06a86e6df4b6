# SPDX-License-Identifier: Apache-2.0
"""Processes that share an account's budget, on a clock that jumps from event to event."""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections import Counter, deque
from collections.abc import Callable

from airflow_provider_cfvectorize.client.http.pacer import Pacer


class Limit:
    """
    The service's limit on requests per window. A request over the limit blocks all clients for a window.

    :param kind: ``fixed`` windows follow each other; a ``first_request`` window begins with a request; a
        ``sliding`` window counts the requests of the last ``window`` seconds.
    :param quota: requests in a window.
    :param window: seconds.
    """

    def __init__(self, kind: str, quota: int, window: int, phase: float) -> None:
        self.kind = kind
        self.quota = quota
        self.window = window
        self.phase = phase
        self.began = -math.inf
        self.used = 0
        self.recent: deque[float] = deque()
        self.blocked_until = -math.inf
        self.refused = 0
        #: Requests accepted, by the beginning of their window.
        self.accepted: Counter[float] = Counter()

    def ask(self, now: float) -> dict[str, str] | None:
        """Count a request and return the headers of its answer, or None for a 429."""
        if self.kind == "sliding":
            while self.recent and self.recent[0] <= now - self.window:
                self.recent.popleft()
            used = len(self.recent)
        else:
            if self.kind == "fixed":
                began = math.floor((now - self.phase) / self.window) * self.window + self.phase
            else:
                began = now if now >= self.began + self.window else self.began
            if began != self.began:
                self.began, self.used = began, 0
            used = self.used
        if now < self.blocked_until or used >= self.quota:
            self.blocked_until = max(self.blocked_until, now + self.window)
            self.refused += 1
            return None
        self.used += 1
        if self.kind == "sliding":
            self.recent.append(now)
            reset = self.recent[0] + self.window - now
            self.accepted[math.floor(now / self.window) * self.window] += 1
        else:
            reset = self.began + self.window - now
            self.accepted[self.began] += 1
        return {
            "Ratelimit": f'"default";r={self.quota - used - 1};t={math.ceil(reset)}',
            "Ratelimit-Policy": f'"default";q={self.quota};w={self.window}',
        }


class Simulation:
    """
    Processes with more to send than the budget allows.

    :param latency: maximum seconds from a request to its answer; drawn for each request.
    """

    def __init__(self, limit: Limit, *, latency: float, seed: int) -> None:
        self.limit = limit
        self.latency = latency
        self.random = random.Random(seed)
        self.now = 0.0
        self.foreign_refused = 0
        self.foreign_accepted = 0
        #: When each process with limited requests received its last answer.
        self.ended: list[float] = []
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._numbers = itertools.count()

    def at(self, when: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._events, (when, next(self._numbers), what))

    def add_process(
        self, *, reserve: float, concurrency: int, begins: float, requests: float = math.inf
    ) -> Callable[[], float | None]:
        """
        Start a process that sends ``requests`` requests as fast as its pacer allows.

        :return: a function that returns the process's estimate of the seconds left.
        """
        pacer = Pacer(
            reserve=reserve,
            concurrency=concurrency,
            own_count=None,
            clock=lambda: self.now,
            draw=self.random.random,
        )
        idle = concurrency
        unsent = unanswered = requests

        def send() -> None:
            nonlocal idle, unsent
            while idle and unsent:
                pause = pacer._try_start(self.now)
                if pause:
                    if math.isfinite(pause):
                        self.at(self.now + pause, send)
                    return
                idle -= 1
                unsent -= 1
                started_at = self.now
                there, back = (self.latency / 2 * self.random.uniform(0.2, 1) for _ in range(2))
                self.at(self.now + there, lambda s=started_at, b=back: arrive(s, b))  # type: ignore[misc]

        def arrive(started_at: float, back: float) -> None:
            headers = self.limit.ask(self.now)
            self.at(self.now + back, lambda: answer(started_at, headers))

        def answer(started_at: float, headers: dict[str, str] | None) -> None:
            nonlocal idle, unsent, unanswered
            idle += 1
            if headers is None:
                unsent += 1
            else:
                unanswered -= 1
                if not unanswered:
                    self.ended.append(self.now)
            pacer.end(started_at, headers, throttled=headers is None, retry_after=float(self.limit.window))
            send()

        self.at(begins, send)
        return lambda: pacer.time_for(int(unanswered), concurrency=concurrency)

    def add_foreign_client(self, per_window: float, begins: float = 0.0) -> None:
        """Start a client of someone else that sends at a steady rate, whatever the answers."""
        pause = self.limit.window / per_window

        def send() -> None:
            if self.limit.ask(self.now) is None:
                self.foreign_refused += 1
            else:
                self.foreign_accepted += 1
            self.at(self.now + pause, send)

        self.at(begins + pause * self.random.random(), send)

    def run(self, seconds: float) -> None:
        while self._events and self._events[0][0] <= seconds:
            self.now, _, what = heapq.heappop(self._events)
            what()
