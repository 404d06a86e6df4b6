# SPDX-License-Identifier: Apache-2.0
"""The account's budget of requests: what is left of it, and the block for whoever goes over it."""

from __future__ import annotations

import math
import re
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.local import errors

if TYPE_CHECKING:
    from airflow_provider_cfvectorize.local.behaviour import Behaviour

MAX_REQUESTS: Final = 1_000_000
MAX_SECONDS: Final = 86_400
#: Windows that the report goes back.
REPORTED_WINDOWS: Final = 1_000
_FORM: Final = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


class RateLimit(NamedTuple):
    """
    A limit.

    :param requests: Requests in a window.
    :param seconds: Seconds that a window lasts; whole, as they are in the headers.
    """

    requests: int
    seconds: int

    @classmethod
    def parse(cls, given: Any) -> RateLimit:
        """
        Read a limit.

        :param given: ``"1200/300"``, or two whole numbers.
        :raises ValueError: It is neither.
        """
        numbers: tuple[Any, ...] = ()
        if isinstance(given, str) and (match := _FORM.fullmatch(given)):
            numbers = (int(match[1]), int(match[2]))
        elif isinstance(given, tuple | list):
            numbers = tuple(given)
        if len(numbers) != 2 or not all(type(number) is int for number in numbers):
            raise ValueError(
                f"rate_limit must be REQUESTS/SECONDS in whole numbers, such as 1200/300, got {given!a:.80}"
            )
        limit = cls(*numbers)
        for name, value, most in (
            ("requests", limit.requests, MAX_REQUESTS),
            ("seconds", limit.seconds, MAX_SECONDS),
        ):
            if not 1 <= value <= most:
                raise ValueError(f"rate_limit must have from 1 to {most:,} {name}, got {given!a:.80}")
        return limit


DOCUMENTED: Final = RateLimit(limits.ACCOUNT_REQUESTS, limits.ACCOUNT_WINDOW_SECONDS)


@dataclass(slots=True)
class Window:
    """
    One window.

    :param begin: Seconds since the epoch.
    :param end: The same; of a window that became a block, the end of the block.
    """

    begin: float
    end: float
    accepted: int = 0
    refused: int = 0
    blocked: bool = False


class Limiter:
    """
    Counts the account's requests, and refuses those that are too many.

    :param limit: The limit; None counts nothing, and the headers have the documented budget, untouched.
    """

    def __init__(self, limit: RateLimit | None, behaviour: Behaviour) -> None:
        self._counts = limit is not None
        self._limit = limit or DOCUMENTED
        self._sliding = behaviour.rate_limit_window == "sliding"
        self._aligned = behaviour.rate_limit_window == "fixed"
        self._windows: deque[Window] = deque(maxlen=REPORTED_WINDOWS)
        #: When the accepted requests of a sliding window came; never more than the limit.
        self._times: deque[float] = deque()
        self._policy = f'"default";q={self._limit.requests};w={self._limit.seconds}'.encode("ascii")

    def take(self, now: float) -> None:
        """
        Count one request.

        :param now: Seconds since the epoch; never less than before.
        :raises ApiError: It is one too many, or came during the block that one such request began.
        """
        if not self._counts:
            return
        left, _ = self._standing(now)
        window = self._current(now) or self._open(now)
        if left == 0 and not window.blocked:
            window.blocked = True
            window.end = now + self._limit.seconds
        if window.blocked:
            window.refused += 1
            raise errors.rate_limited(*self._limit, math.ceil(window.end - now))
        window.accepted += 1
        if self._sliding:
            self._times.append(now)

    def headers(self, now: float) -> tuple[tuple[bytes, bytes], ...]:
        """Return what each answer says about the budget."""
        left, end = self._standing(now)
        standing = f'"default";r={left};t={math.ceil(end - now)}'
        return ((b"ratelimit", standing.encode("ascii")), (b"ratelimit-policy", self._policy))

    def report(self) -> list[dict[str, float]]:
        """Return the last windows in which there were requests, the oldest first."""
        shown = ("begin", "end", "accepted", "refused")
        return [{name: getattr(window, name) for name in shown} for window in self._windows]

    def _standing(self, now: float) -> tuple[int, float]:
        """Return the requests left, and when there will be more, or all again."""
        seconds = self._limit.seconds
        window = self._current(now)
        if window is not None and window.blocked:
            return 0, window.end
        if self._sliding:
            while self._times and self._times[0] <= now - seconds:
                self._times.popleft()
            return self._limit.requests - len(self._times), (self._times or (now,))[0] + seconds
        if window is None:
            return self._limit.requests, self._begin(now) + seconds
        return self._limit.requests - window.accepted, window.end

    def _current(self, now: float) -> Window | None:
        last = self._windows[-1] if self._windows else None
        return last if last is not None and now < last.end else None

    def _begin(self, now: float) -> float:
        return now // self._limit.seconds * self._limit.seconds if self._aligned else now

    def _open(self, now: float) -> Window:
        begin = self._begin(now)
        window = Window(begin, begin + self._limit.seconds)
        if self._windows:
            # What a block took away of an aligned window does not come back.
            window.begin = max(begin, self._windows[-1].end)
        self._windows.append(window)
        return window
