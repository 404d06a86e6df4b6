# SPDX-License-Identifier: Apache-2.0
"""When a request may start."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from airflow_provider_cfvectorize.client import limits

#: Requests a second that one process starts at most: a quarter of what the service allows one IP address
#: (:data:`~airflow_provider_cfvectorize.client.limits.IP_REQUESTS_PER_SECOND`), which other workers and
#: other programs behind the same address share.
MAX_REQUESTS_PER_SECOND: Final = 50

_PARAMETER: Final = re.compile(r";\s*([a-z])\s*=\s*([0-9]{1,9})(?![0-9])")


def next_start(now: float, last_start: float, per_second: float) -> float:
    """
    Return the earliest time at which the next request may start.

    :param now: the present, seconds of a monotonic clock.
    :param last_start: when the last request started or will start.
    :param per_second: the most starts a second; evenly spaced, so that no second ever sees more.
    """
    return max(now, last_start + 1.0 / per_second)


class StartGate:
    """
    Spaces the starts of requests; one gate is shared by all threads it is to bind.

    :param per_second: the most starts a second.
    :param clock: seconds of a clock that is never set.
    """

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
            start = self._last_start = next_start(now, self._last_start, self._per_second)
        if start > now:
            sleep(start - now)


#: Shared by every client of this process.
PROCESS_GATE: Final = StartGate(MAX_REQUESTS_PER_SECOND)


@dataclass(frozen=True, slots=True)
class Budget:
    """
    What is left of a request budget, as the service's headers say.

    :param remaining: requests left in this window.
    :param reset: seconds until the window ends.
    :param quota: requests in a window.
    """

    remaining: int
    reset: int
    quota: int


def read_budget(headers: Mapping[str, str]) -> Budget | None:
    """
    Read ``Ratelimit`` and ``Ratelimit-Policy``; of several entries, the one with the least left.

    :param headers: such as ``Ratelimit: "default";r=50;t=30`` and ``Ratelimit-Policy: "default";q=100;w=60``.
    :return: None where there are none, or none that can be read.
    """
    policies = _read_list(headers.get("Ratelimit-Policy", ""))
    by_name = dict(policies)
    budgets = []
    for position, (name, entry) in enumerate(_read_list(headers.get("Ratelimit", ""))):
        if "r" in entry and "t" in entry:
            # They belong together by name; in Cloudflare's own example the names differ, so by position then.
            policy = by_name.get(name) or (policies[position][1] if position < len(policies) else {})
            budgets.append(Budget(entry["r"], entry["t"], policy.get("q") or limits.ACCOUNT_REQUESTS))
    return min(budgets, key=lambda budget: budget.remaining / budget.quota, default=None)


def _read_list(header: str) -> list[tuple[str, dict[str, int]]]:
    return [
        (entry.split(";")[0].strip(), {key: int(value) for key, value in _PARAMETER.findall(entry)})
        for entry in header.split(",")
        if entry.strip()
    ]


def poll_pause(interval: float, budget: Budget | None, reserve: float) -> float:
    """
    Return the seconds until the next poll.

    :param interval: what the waits asked for.
    :param budget: what is left; None if unknown.
    :param reserve: share of the budget that is left to others: at or below it, the next window is waited for.
    """
    if budget is not None and budget.remaining <= reserve * budget.quota:
        return max(interval, budget.reset)
    return interval
