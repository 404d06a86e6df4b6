# SPDX-License-Identifier: Apache-2.0
"""
When a request may start: pure functions.

An account has one budget of requests for everything that its owner runs (1,200 in five minutes), and going
over blocks all of it for five minutes. Every answer says what is left, so any number of tasks on any number
of workers share the budget without a coordinator: each goes by the newest answer it has. Three quarters of
what is not reserved are spread evenly over the window, along a line that falls to the reserve at its end; the
quarter above the line is there for bursts. What others use is seen in what is left, and is given way to.

The rule was chosen by simulation, which is a test: ``tests/client/test_pacing_simulation.py``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from airflow_provider_cfvectorize.client import limits

#: Requests a second that one process starts at most: a quarter of what the service allows one IP address
#: (:data:`~airflow_provider_cfvectorize.client.limits.IP_REQUESTS_PER_SECOND`), which other workers and
#: other programs behind the same address share.
MAX_REQUESTS_PER_SECOND: Final = 50

#: The share of the budget beside the reserve that is spread over the window; the rest is free for bursts.
SPREAD_SHARE: Final = 0.75
#: So many requests above the line allow one more at a time.
HEADROOM_PER_REQUEST: Final = 16
#: More than one request at a time only while the newest answer is younger than so many round trips, or than
#: this share of the window: who sends several goes by what may have changed since.
FRESH_ROUND_TRIPS: Final = 3
FRESH_SHARE: Final = 1 / 50
#: The most by which a wait for the line is stretched at random, and one at the reserve.
LINE_JITTER: Final = 0.2
RESERVE_JITTER: Final = 0.5

#: The share of what is not reserved that the polls of a process use at most: half of it, and a quarter while
#: others use as much as that.
POLL_SHARE: Final = 0.5
POLL_SHARE_BESIDE_OTHERS: Final = 0.25
#: What others use is measured over this share of the window: ten seconds of the account's.
OTHERS_SHARE: Final = 1 / 30
#: By so much of the window may a look that has begun be ahead of the polls' pace.
CONTINUED_SHARE: Final = 1 / 30
#: Requests of an account's polls that may be in flight at once.
MOST_POLLS_IN_FLIGHT: Final = 4
#: The most seconds for which a throttle keeps a wait from looking: three blocks of five minutes.
LONGEST_BLOCK: Final = 900.0
#: The seconds of a throttle that does not say how long it lasts.
UNKNOWN_BLOCK: Final = 1.0

_PARAMETER: Final = re.compile(r";\s*([a-z])\s*=\s*([0-9]{1,9})(?![0-9])")


def next_start(now: float, last_start: float, per_second: float) -> float:
    """
    Return the earliest time at which the next request may start.

    :param now: the present, seconds of a monotonic clock.
    :param last_start: when the last request started or will start.
    :param per_second: the most starts a second; evenly spaced, so that no second ever sees more.
    """
    return max(now, last_start + 1.0 / per_second)


# --- what the service says ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Budget:
    """
    What is left of a request budget, as the service's headers say.

    :param remaining: requests left in this window.
    :param reset: seconds until the window ends, whole and rounded up.
    :param quota: requests in a window.
    :param window: seconds of a window.
    """

    remaining: int
    reset: int
    quota: int = limits.ACCOUNT_REQUESTS
    window: int = limits.ACCOUNT_WINDOW_SECONDS


def read_budget(headers: Mapping[str, str]) -> Budget | None:
    """
    Read ``Ratelimit`` and ``Ratelimit-Policy``; of several entries, the one with the least left.

    :param headers: such as ``Ratelimit: "default";r=50;t=30`` and ``Ratelimit-Policy: "default";q=100;w=60``.
    :return: None where there are none, or none that can be read.
    """
    limit = headers.get("Ratelimit")
    if not limit:
        return None
    policies = _read_list(headers.get("Ratelimit-Policy", ""))
    by_name = dict(policies)
    budgets = []
    for position, (name, entry) in enumerate(_read_list(limit)):
        if "r" in entry and "t" in entry:
            # They belong together by name; in Cloudflare's own example the names differ, so by position then.
            policy = by_name.get(name) or (policies[position][1] if position < len(policies) else {})
            quota = policy.get("q") or limits.ACCOUNT_REQUESTS
            window = policy.get("w") or limits.ACCOUNT_WINDOW_SECONDS
            budgets.append(Budget(entry["r"], entry["t"], quota, window))
    return min(budgets, key=lambda budget: budget.remaining / budget.quota, default=None)


def _read_list(header: str) -> list[tuple[str, dict[str, int]]]:
    return [
        (entry.split(";")[0].strip(), {key: int(value) for key, value in _PARAMETER.findall(entry)})
        for entry in header.split(",")
        if entry.strip()
    ]


# --- what is known of the budget ---------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Standing:
    """
    What is known of the budget since the newest answer. Times are seconds of one monotonic clock.

    :param remaining: requests left, as the newest answer said.
    :param quota: requests in a window.
    :param window: seconds of a window.
    :param reset_at: when this window ends: never before it really does.
    :param started_at: when the request started that the newest answer is for.
    :param answered_at: when the newest answer came.
    :param jitter: from 0 to below 1: where waits for this answer's sake end within their bounds.
    """

    remaining: int
    quota: int
    window: float
    reset_at: float
    started_at: float
    answered_at: float
    jitter: float


def learn(
    standing: Standing | None, budget: Budget, *, started_at: float, now: float, jitter: float
) -> Standing:
    """
    Return what is known of the budget after an answer.

    :param standing: what was known before; None for nothing.
    :param budget: what the answer says.
    :param started_at: when its request started.
    :param now: when it came.
    :param jitter: from 0 to below 1, drawn at random.
    """
    # The seconds are rounded up, and the answer was some time on its way: so never too early, and the
    # earliest of a window's is the best.
    reset_at = now + budget.reset
    if standing is not None and (standing.quota, standing.window) == (budget.quota, budget.window):
        if reset_at <= standing.reset_at + 1:
            reset_at = min(reset_at, standing.reset_at)
            if started_at < standing.started_at:
                # Overtaken on its way by the answer to a later request, which knows more.
                return replace(standing, reset_at=reset_at)
        elif started_at < standing.started_at:
            return standing
    return Standing(budget.remaining, budget.quota, budget.window, reset_at, started_at, now, jitter)


# --- the decision ------------------------------------------------------------------------------------------


def pause_before_start(
    standing: Standing | None, *, now: float, in_flight: int, concurrency: int, reserve: float
) -> float:
    """
    Return the seconds until one more request may start.

    :param standing: what is known of the budget; None before the first answer, and after a throttle: then
        one request goes ahead alone.
    :param now: the present.
    :param in_flight: requests of this process that are not answered yet.
    :param concurrency: the most there may be.
    :param reserve: share of the budget that is left to others, from 0 to below 1.
    :return: 0 for at once; infinity if it takes an answer to know.
    """
    alone = math.inf if in_flight else 0.0
    if standing is None:
        return alone
    kept = reserve * standing.quota
    if standing.remaining <= kept:
        # The second is for windows that slide: how long it takes until so many have left it.
        rest = max(
            standing.reset_at - standing.answered_at,
            (kept - standing.remaining + 1) * standing.window / standing.quota,
        )
        wake = standing.answered_at + rest * (1 + RESERVE_JITTER * standing.jitter)
        return wake - now if now < wake else alone
    if now >= standing.reset_at:
        return alone
    slope = SPREAD_SHARE * (standing.quota - kept) / standing.window
    free = standing.remaining - in_flight - 1

    def headroom(when: float) -> float:
        return free - kept - slope * min(standing.window, standing.reset_at - when)

    if headroom(standing.answered_at) < 0:
        if in_flight:
            return math.inf
        reached = standing.reset_at - max(0.0, free - kept) / slope
        stretched = standing.answered_at + (reached - standing.answered_at) * (
            1 + LINE_JITTER * standing.jitter
        )
        return max(0.0, min(stretched, standing.reset_at) - now)
    age = now - standing.answered_at
    fresh = age < max(
        FRESH_ROUND_TRIPS * (standing.answered_at - standing.started_at), FRESH_SHARE * standing.window
    )
    allowed = min(concurrency, 1 + headroom(now) // HEADROOM_PER_REQUEST) if fresh else 1
    return 0.0 if in_flight < allowed else math.inf


# --- polls -------------------------------------------------------------------------------------------------


def pause_before_poll(
    standing: Standing | None,
    *,
    now: float,
    spent_until: float,
    in_flight: int,
    others: float,
    reserve: float,
    is_last: bool = False,
    is_continued: bool = False,
) -> float:
    """
    Return the seconds until the polls of an account may send one more request.

    They share one pace in a process. They take at most half of what is left and not reserved, spread evenly
    over what is left of the window; the more others use, the less, down to a quarter. So a job that writes
    finds most of the budget. See :func:`poll_gap`.

    :param standing: what is known of the budget; None before the first answer, and after a throttle: then one
        request goes ahead alone.
    :param now: the present.
    :param spent_until: when the polls' share allows the next start; each start moves it on by the gap.
    :param in_flight: requests of polls that are not answered yet.
    :param others: requests a second that others have used lately.
    :param reserve: share of the budget that is left to others, from 0 to below 1.
    :param is_last: a wait has reached its deadline. Its last look may use the reserve, but never draws a
        throttle knowingly.
    :param is_continued: the request reads back for a look that has begun: a few of these need not wait.
    :return: 0 for at once; infinity if it takes an answer to know.
    """
    if in_flight >= MOST_POLLS_IN_FLIGHT:
        return math.inf
    alone = math.inf if in_flight and not is_last else 0.0
    if standing is None:
        return alone
    floor = 0.0 if is_last else reserve * standing.quota
    if standing.remaining - in_flight <= floor:
        rest = max(
            standing.reset_at - standing.answered_at,
            (floor - standing.remaining + 1) * standing.window / standing.quota,
        )
        wake = standing.answered_at + rest * (1 + RESERVE_JITTER * standing.jitter)
        return wake - now if now < wake else alone
    if now >= standing.reset_at:
        return alone
    ahead = CONTINUED_SHARE * standing.window if is_continued else 0.0
    gap = poll_gap(standing, now=now, in_flight=in_flight, others=others, reserve=reserve, is_last=is_last)
    # The gap, too: it may be shorter than when the last request started.
    return max(0.0, min(spent_until - ahead, now + gap, standing.reset_at) - now)


def poll_gap(
    standing: Standing, *, now: float, in_flight: int, others: float, reserve: float, is_last: bool = False
) -> float:
    """
    Return the seconds that the polls of an account leave between two starts.

    :param standing: what is known of the budget.
    :param now: the present.
    :param in_flight: requests of polls that are not answered yet.
    :param others: requests a second that others have used lately.
    :param reserve: share of the budget that is left to others.
    :param is_last: a wait has reached its deadline.
    """
    kept = reserve * standing.quota
    even = (standing.quota - kept) / standing.window
    if is_last:
        return 1 / even
    left = max(1.0, standing.reset_at - now)
    share = max(POLL_SHARE_BESIDE_OTHERS, POLL_SHARE - others / even)
    rate = share * min(even, max(0.0, standing.remaining - in_flight - kept) / left)
    return min(1 / rate if rate > 0 else math.inf, left)
