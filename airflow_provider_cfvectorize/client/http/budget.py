# SPDX-License-Identifier: Apache-2.0
"""
The request budget: pure functions that decide when a request may start without a throttle by the service.

An account has one budget of requests for everything that its owner runs (1,200 in five minutes), and going
over blocks all of it for five minutes. Every answer says what is left, so any number of tasks on any number
of workers share the budget without a coordinator: each goes by the newest answer it has.

A share of what is not reserved is spread evenly over the window, along a line that falls to the reserve at
the window's end. What is above the line is free for bursts. The share is three quarters while a process does
not know yet who else uses the account, and while others use much of it. It falls to two fifths while nobody
does. What others use shows in what is left: that falls faster than the process's own answers explain.

The rule was chosen by simulation, which is a test: ``tests/client/test_pacing_simulation.py``. A foreign
client that begins after a burst gets no throttle up to two fifths of the account's limit. A larger reserve
protects one that sends more.

In all of these functions, ``reserve`` is the share of the budget that is left to others, from 0 to below 1.
Times are seconds of one monotonic clock.
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

#: The bounds of the share of what is not reserved that is spread over a window; bursts may take the rest.
LEAST_SPREAD: Final = 0.4
MOST_SPREAD: Final = 0.75
#: The most is spread in the opening of a window, which is this share of its length.
OPENING_SHARE: Final = 1 / 30
#: After that, so many times the share of what is not reserved that others use.
SPREAD_PER_FOREIGN: Final = 1.5
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
    :return: None where there are none, none that can be read, or none that counts requests: an answer that
        leaves the whole quota was not counted, as those of ``vectorize-local`` without ``--rate-limit``.
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
            if entry["r"] != quota:
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
    :param first_remaining: requests left, as the first answer in this window said.
    :param first_at: when the first answer came.
    :param own_answers: answers of this process since the first one.
    """

    remaining: int
    quota: int
    window: float
    reset_at: float
    started_at: float
    answered_at: float
    jitter: float
    first_remaining: int
    first_at: float
    own_answers: int


def learn(
    standing: Standing | None, budget: Budget, *, started_at: float, now: float, jitter: float
) -> Standing:
    """
    Return what is known of the budget after an answer.

    :param standing: what was known before; None for nothing.
    :param jitter: from 0 to below 1, drawn at random.
    """
    # The seconds are rounded up, and the answer was some time on its way: so never too early, and the
    # earliest of a window's is the best.
    reset_at = now + budget.reset
    first_remaining, first_at, own_answers = budget.remaining, now, 0
    if standing is not None and (standing.quota, standing.window) == (budget.quota, budget.window):
        # Of the same window, the estimate can be later by the second and the time on the way.
        if reset_at <= standing.reset_at + 1 + (now - started_at):
            reset_at = min(reset_at, standing.reset_at)
            own_answers = standing.own_answers + 1
            if started_at < standing.started_at:
                # Overtaken on its way by the answer to a later request, which knows more.
                return replace(standing, reset_at=reset_at, own_answers=own_answers)
            first_remaining, first_at = standing.first_remaining, standing.first_at
        elif started_at < standing.started_at:
            return standing
    return Standing(
        remaining=budget.remaining,
        quota=budget.quota,
        window=budget.window,
        reset_at=reset_at,
        started_at=started_at,
        answered_at=now,
        jitter=jitter,
        first_remaining=first_remaining,
        first_at=first_at,
        own_answers=own_answers,
    )


# --- the decision ------------------------------------------------------------------------------------------


def foreign_rate(standing: Standing) -> float:
    """Return how many requests a second others have sent in this window."""
    seconds = standing.answered_at - standing.first_at
    foreign = standing.first_remaining - standing.remaining - standing.own_answers
    return max(0, foreign) / seconds if seconds > 0 else 0.0


def spread_share(standing: Standing, reserve: float, when: float) -> float:
    """Return the share of what is not reserved that is spread over the window."""
    if when < standing.first_at + OPENING_SHARE * standing.window:
        return MOST_SPREAD
    foreign = foreign_rate(standing) * standing.window / ((1 - reserve) * standing.quota)
    return min(MOST_SPREAD, max(LEAST_SPREAD, SPREAD_PER_FOREIGN * foreign))


def line(standing: Standing, reserve: float, when: float) -> float:
    """Return how many requests must be left for one more to start."""
    kept = reserve * standing.quota
    left = min(1.0, (standing.reset_at - when) / standing.window)
    return kept + spread_share(standing, reserve, when) * (standing.quota - kept) * left


def line_reached(standing: Standing, reserve: float, free: int) -> float:
    """
    Return when the line will have fallen to a number of requests.

    :param free: the number of requests, less than the line is at the newest answer.
    """
    kept = reserve * standing.quota

    def reached(since: float) -> float:
        spread = spread_share(standing, reserve, since) * (standing.quota - kept)
        return standing.reset_at - max(0.0, free - kept) / spread * standing.window

    opening = OPENING_SHARE * standing.window
    opened = standing.first_at + opening
    known = reached(standing.answered_at)
    if standing.answered_at >= opened or standing.first_at < standing.reset_at - standing.window + opening:
        return known
    # Who came later than the window's own opening has had no burst yet, and learns of others from one answer.
    return min(known, max(opened, reached(opened)))


def time_for(standing: Standing, requests: int, *, now: float, reserve: float) -> float:
    """Return the seconds until so many more requests may have started, if others go on as in this window."""
    own = standing.own_answers + 1
    kept = reserve * standing.quota
    window = standing.quota - kept
    foreign = foreign_rate(standing)
    # While our own other processes have just had their bursts, their rate says nothing of the whole window.
    part = max(
        own / (own + foreign * (standing.answered_at - standing.first_at)),
        1 - foreign * standing.window / window,
    )
    # Not the opening's share: that ends within seconds.
    when = max(now, standing.first_at + OPENING_SHARE * standing.window)
    waited = 0.0
    if now < standing.reset_at:
        left = standing.reset_at - now
        most = part * max(0.0, standing.remaining - kept)
        at_once = part * max(0.0, standing.remaining - line(standing, reserve, when))
        if requests <= most:
            return left * max(0.0, requests - at_once) / (most - at_once) if requests > at_once else 0.0
        requests -= math.floor(most)
        waited = left
    windows, rest = divmod(requests, part * window)
    at_once = part * window * (1 - spread_share(standing, reserve, when))
    spread = max(0.0, rest - at_once) / (part * window - at_once)
    return waited + (windows + spread) * standing.window


def pause_before_start(
    standing: Standing | None, *, now: float, in_flight: int, concurrency: int, reserve: float
) -> float:
    """
    Return the seconds until one more request may start.

    :param standing: what is known of the budget; None before the first answer, and after a throttle: then
        one request goes ahead alone.
    :param in_flight: requests of this process that are not answered yet.
    :param concurrency: the most there may be.
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
    free = standing.remaining - in_flight - 1
    if free < line(standing, reserve, standing.answered_at):
        if in_flight:
            return math.inf
        reached = line_reached(standing, reserve, free)
        stretched = standing.answered_at + (reached - standing.answered_at) * (
            1 + LINE_JITTER * standing.jitter
        )
        return max(0.0, min(stretched, standing.reset_at) - now)
    age = now - standing.answered_at
    fresh = age < max(
        FRESH_ROUND_TRIPS * (standing.answered_at - standing.started_at), FRESH_SHARE * standing.window
    )
    allowed = (
        min(concurrency, 1 + (free - line(standing, reserve, now)) // HEADROOM_PER_REQUEST) if fresh else 1
    )
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
    :param spent_until: when the polls' share allows the next start; each start moves it on by the gap.
    :param in_flight: requests of polls that are not answered yet.
    :param others: requests a second that others have used lately.
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

    :param in_flight: requests of polls that are not answered yet.
    :param others: requests a second that others have used lately.
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
