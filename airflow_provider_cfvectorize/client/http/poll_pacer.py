# SPDX-License-Identifier: Apache-2.0
"""The pace that all polls of an account share in a process, by the rules of ``budget.py``."""

from __future__ import annotations

import logging
import math
import random
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.http.budget import (
    LONGEST_BLOCK,
    MOST_POLLS_IN_FLIGHT,
    OTHERS_SHARE,
    UNKNOWN_BLOCK,
    Budget,
    Standing,
    learn,
    pause_before_poll,
    poll_gap,
    read_budget,
)
from airflow_provider_cfvectorize.client.http.pacer import LOGGED_FROM_SECONDS, describe_pause

log = logging.getLogger(__name__)

#: The documented budget, for a service that reports no budget.
DOCUMENTED: Final = Budget(limits.ACCOUNT_REQUESTS, limits.ACCOUNT_WINDOW_SECONDS)


@dataclass(eq=False, slots=True)
class Turn:
    """
    A request of a poll that waits for its start. Times are seconds of the pacer's clock.

    :param answered_at: the index's last response; the request with the oldest one comes first.
    :param last_at: the deadline of a wait. From then on, the request comes before all others.
    :param ripe_at: until then, all awaited mutations are too young to be applied, and a limited budget is not
        spent on the request.
    :param reserve: share of the budget that is left to others.
    :param is_continued: the request reads ids back for a poll that has begun.
    """

    answered_at: float = -math.inf
    last_at: float = math.inf
    ripe_at: float = -math.inf
    reserve: float = 0.0
    is_continued: bool = False


class PollPacer:
    """
    Decides which request of an account's polls starts next, and when. It is not thread-safe.

    :param assumed: the budget if the service reports none; None for no limit.
    """

    def __init__(
        self,
        *,
        assumed: Budget | None,
        clock: Callable[[], float] = time.monotonic,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self._assumed = assumed
        self._clock = clock
        self._draw = draw
        self._waiting: list[Turn] = []
        self._standing: Standing | None = None
        self._unlimited = False
        self._blocked_until = -math.inf
        self._spent_until = -math.inf
        self._in_flight = 0
        self._started = 0
        #: The last responses of this window: time, remaining requests, and our own requests with a response.
        self._seen: deque[tuple[float, int, int]] = deque()
        self._others = 0.0
        self._logged_until = -math.inf

    def enqueue(self, turn: Turn) -> None:
        """Add a request that waits for its start."""
        self._waiting.append(turn)

    def withdraw(self, turn: Turn) -> None:
        """Remove a waiting request."""
        self._waiting.remove(turn)

    def start_next(self) -> tuple[Turn | None, float]:
        """
        Start the next request, if one may start now.

        :return: the request, for which the caller calls :meth:`end` later; or None and the seconds until the
            next call is useful: infinity if a response or another request must come first.
        """
        if not self._waiting:
            return None, math.inf
        now = self._clock()
        is_limited = self._standing is not None or self._assumed is not None

        def rank(turn: Turn) -> tuple[bool, bool, bool, float]:
            is_young = is_limited and turn.ripe_at > now
            return turn.last_at > now, is_young, not turn.is_continued, turn.answered_at

        turn = min(self._waiting, key=rank)
        is_not_last, is_young, *_ = rank(turn)
        pause = self._pause(turn, now, not is_not_last)
        if pause > 0:
            self._log_pause(now, pause)
        if is_not_last and is_young:
            pause = max(pause, min(turn.ripe_at for turn in self._waiting) - now)
        if pause > 0:
            # A deadline changes the order.
            return None, min(
                pause, min(turn.last_at for turn in self._waiting) - now
            ) if is_not_last else pause
        self._waiting.remove(turn)
        self._in_flight += 1
        self._started += 1
        if self._standing is not None:
            self._spent_until = max(self._spent_until, now) + poll_gap(
                self._standing,
                now=now,
                in_flight=self._in_flight,
                others=self._others,
                reserve=turn.reserve,
                is_last=not is_not_last,
            )
        return turn, 0.0

    def _pause(self, turn: Turn, now: float, is_last: bool) -> float:
        if now < self._blocked_until:
            if not is_last:
                return self._blocked_until - now
            # The service may accept another request, and no later poll follows.
            return math.inf if self._in_flight else 0.0
        if self._unlimited:
            return math.inf if self._in_flight >= MOST_POLLS_IN_FLIGHT else 0.0
        return pause_before_poll(
            self._standing,
            now=now,
            spent_until=self._spent_until,
            in_flight=self._in_flight,
            others=self._others,
            reserve=turn.reserve,
            is_last=is_last,
            is_continued=turn.is_continued,
        )

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
        :param headers: the response's headers; None if unknown.
        :param throttled: the service refused it because of too many requests.
        :param retry_after: the seconds of ``Retry-After``; None without it.
        """
        now = self._clock()
        self._in_flight -= 1
        if throttled:
            block = min(UNKNOWN_BLOCK if retry_after is None else retry_after, LONGEST_BLOCK)
            self._standing = None
            self._unlimited = False
            self._blocked_until = max(self._blocked_until, now + block)
            self._seen.clear()
        elif headers is not None and started_at >= self._blocked_until:
            budget = read_budget(headers) or self._assumed
            self._unlimited = budget is None
            if budget is not None:
                self._standing = learn(
                    self._standing, budget, started_at=started_at, now=now, jitter=self._draw()
                )
                self._measure_others(self._standing)

    def _measure_others(self, standing: Standing) -> None:
        if self._seen and standing.remaining > self._seen[-1][1] + MOST_POLLS_IN_FLIGHT:
            # In a new window, the old rate counts until there are two responses.
            self._seen.clear()
        self._seen.append((standing.answered_at, standing.remaining, self._started - self._in_flight))
        while (
            len(self._seen) > 2 and self._seen[1][0] <= standing.answered_at - OTHERS_SHARE * standing.window
        ):
            self._seen.popleft()
        at, remaining, answered = self._seen[0]
        if standing.answered_at > at:
            # The service may have counted our requests that were in flight then or are now, or not yet.
            used = remaining - standing.remaining - (self._started - answered)
            self._others = max(0, used) / (standing.answered_at - at)

    def _log_pause(self, now: float, pause: float) -> None:
        if not LOGGED_FROM_SECONDS <= pause < math.inf or now < self._logged_until:
            return
        self._logged_until = now + pause
        standing = None if now < self._blocked_until else self._standing
        log.info("%s.", describe_pause("polling", pause, standing))
