# SPDX-License-Identifier: Apache-2.0
"""The account's request limit: counts requests, refuses those above it, makes the ``Ratelimit`` headers."""

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
#: The number of windows in the report.
REPORTED_WINDOWS: Final = 1_000
_FORM: Final = re.compile(r"([0-9]{1,9})/([0-9]{1,9})")


class RateLimit(NamedTuple):
    """
    A request limit.

    :param requests: The most requests in a window.
    :param seconds: Length of a window in whole seconds, as in the headers.
    """

    requests: int
    seconds: int

    @classmethod
    def parse(cls, given: Any) -> RateLimit:
        """
        Parse a limit.

        :param given: ``"1200/300"``, or two integers.
        :raises ValueError: It is neither, or a number is out of range.
        """
        numbers: tuple[Any, ...] = ()
        if isinstance(given, str) and (match := _FORM.fullmatch(given)):
            numbers = (int(match[1]), int(match[2]))
        elif isinstance(given, tuple | list):
            numbers = tuple(given)
        if len(numbers) != 2 or not all(type(number) is int for number in numbers):
            raise ValueError(
                f"rate_limit must be two integers REQUESTS/SECONDS, such as 1200/300, got {given!a:.80}"
            )
        limit = cls(*numbers)
        for name, value, most in (
            ("requests", limit.requests, MAX_REQUESTS),
            ("seconds", limit.seconds, MAX_SECONDS),
        ):
            if not 1 <= value <= most:
                raise ValueError(f"rate_limit must have 1 to {most:,} {name}, got {given!a:.80}")
        return limit


DOCUMENTED: Final = RateLimit(limits.ACCOUNT_REQUESTS, limits.ACCOUNT_WINDOW_SECONDS)


@dataclass(slots=True)
class Window:
    """
    A window of the limit.

    :param begin: Its begin, seconds since the epoch.
    :param end: Its end, seconds since the epoch. If the limit was exceeded, this is the end of the block.
    """

    begin: float
    end: float
    accepted: int = 0
    refused: int = 0
    blocked: bool = False


class Limiter:
    """
    Counts the account's requests, and refuses those above the limit.

    :param limit: The limit. With None nothing is counted, and the headers show the documented limit, unused.
    """

    def __init__(self, limit: RateLimit | None, behaviour: Behaviour) -> None:
        self._counts = limit is not None
        self._limit = limit or DOCUMENTED
        self._sliding = behaviour.rate_limit_window == "sliding"
        self._aligned = behaviour.rate_limit_window == "fixed"
        self._windows: deque[Window] = deque(maxlen=REPORTED_WINDOWS)
        #: The times of the accepted requests in a sliding window; never more than the limit.
        self._times: deque[float] = deque()
        self._policy = f'"default";q={self._limit.requests};w={self._limit.seconds}'.encode("ascii")

    def count(self, now: float) -> None:
        """
        Count one request.

        :param now: Seconds since the epoch; never less than in the previous call.
        :raises ApiError: The request exceeds the limit, or arrives during the block that follows.
        """
        if not self._counts:
            return
        left, _ = self._remaining(now)
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
        """Return the ``Ratelimit`` and ``Ratelimit-Policy`` headers."""
        left, end = self._remaining(now)
        standing = f'"default";r={left};t={math.ceil(end - now)}'
        return ((b"ratelimit", standing.encode("ascii")), (b"ratelimit-policy", self._policy))

    def report(self) -> list[dict[str, float]]:
        """Return the last windows in which there were requests, the oldest first."""
        shown = ("begin", "end", "accepted", "refused")
        return [{name: getattr(window, name) for name in shown} for window in self._windows]

    def _remaining(self, now: float) -> tuple[int, float]:
        """Return the number of requests left, and the time at which it grows next."""
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
            # A block shortens the aligned window in which it ends.
            window.begin = max(begin, self._windows[-1].end)
        self._windows.append(window)
        return window
