# SPDX-License-Identifier: Apache-2.0
"""
The request budget: pure functions that decide when a request may start without a throttle by the service.

An account has one budget of requests for everything that its owner runs (1,200 in five minutes). Exceeding it
blocks the whole account for five minutes. Every response says how many requests remain. So any number of
tasks on any number of workers share the budget without a coordinator: each uses its newest response.

A share of the unreserved requests is spread evenly over the window: the remaining requests must stay above a
line that falls to the reserve at the window's end. Requests above the line are free for bursts. The share is
three quarters while a process does not know yet who else uses the account, and while others use much of it.
It falls to two fifths while nobody else does. A process detects others because the remaining requests fall
faster than its own responses explain.

A simulation chose the rule: ``tests/client/test_pacing_simulation.py``. A foreign client that begins after a
burst gets no throttle up to two fifths of the account's limit. A larger reserve protects a client that sends
more.

In all functions, ``reserve`` is the share of the budget that is left to others, from 0 to below 1. Times are
seconds of one monotonic clock.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from airflow_provider_cfvectorize.client import limits

#: The most requests a second that a process starts: a quarter of the service's limit for an IP address
#: (:data:`~airflow_provider_cfvectorize.client.limits.IP_REQUESTS_PER_SECOND`), which other workers and
#: programs behind the address share.
MAX_REQUESTS_PER_SECOND: Final = 50

#: The bounds of the share of the unreserved requests that is spread over a window. Bursts may use the rest.
LEAST_SPREAD: Final = 0.4
MOST_SPREAD: Final = 0.75
#: The opening of a window, as a share of its length. During the opening, the largest share is spread.
OPENING_SHARE: Final = 1 / 30
#: After the opening, this many times the share of the unreserved requests that others use is spread.
SPREAD_PER_FOREIGN: Final = 1.5
#: Requests above the line that allow one more request in flight.
HEADROOM_PER_REQUEST: Final = 16
#: Several requests are in flight only while the newest response is younger than this many round trips or than
#: this share of the window: the budget may have changed since that response.
FRESH_ROUND_TRIPS: Final = 3
FRESH_SHARE: Final = 1 / 50
#: The largest random extension of a wait for the line, and of a wait at the reserve, as a share of the wait.
LINE_JITTER: Final = 0.2
RESERVE_JITTER: Final = 0.5

#: The largest share of the unreserved requests for the polls of a process: half, or a quarter while others
#: use a quarter or more.
POLL_SHARE: Final = 0.5
POLL_SHARE_BESIDE_OTHERS: Final = 0.25
#: The use by others is measured over this share of the window: ten seconds of the account's window.
OTHERS_SHARE: Final = 1 / 30
#: The share of the window by which a poll that has begun may be ahead of the polls' pace.
CONTINUED_SHARE: Final = 1 / 30
#: The most requests of an account's polls in flight.
MOST_POLLS_IN_FLIGHT: Final = 4
#: The most seconds for which a throttle delays the polls of a wait: three blocks of five minutes.
LONGEST_BLOCK: Final = 900.0
#: The seconds of a throttle without ``Retry-After``.
UNKNOWN_BLOCK: Final = 1.0

_PARAMETER: Final = re.compile(r";\s*([a-z])\s*=\s*([0-9]{1,9})(?![0-9])")


# --- the service's headers ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Budget:
    """
    The state of a request budget, from the service's headers.

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
    Read ``Ratelimit`` and ``Ratelimit-Policy``; of several entries, return the one with the least left.

    :param headers: such as ``Ratelimit: "default";r=50;t=30`` and ``Ratelimit-Policy: "default";q=100;w=60``.
    :return: None if no entry is present and readable, or if the whole quota is left: then the service counts
        no requests, like ``vectorize-local`` without ``--rate-limit``.
    """
    limit = headers.get("Ratelimit")
    if not limit:
        return None
    policies = _read_list(headers.get("Ratelimit-Policy", ""))
    by_name = dict(policies)
    budgets = []
    for position, (name, entry) in enumerate(_read_list(limit)):
        if "r" in entry and "t" in entry:
            # Match entries by name, or else by position: in Cloudflare's own example the names differ.
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


# --- the state of the budget -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Standing:
    """
    The state of the budget after the newest response.

    :param remaining: requests left, according to the newest response.
    :param quota: requests in a window.
    :param window: seconds of a window.
    :param reset_at: the end of this window; may be too late, but never too early.
    :param started_at: the start of the newest response's request.
    :param answered_at: the arrival of the newest response.
    :param jitter: a random number from 0 to below 1 for the waits that follow the newest response.
    :param first_remaining: requests left, according to the first response in this window.
    :param first_at: the arrival of the first response.
    :param own_answers: responses to this process since the first one.
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
    Return the state of the budget after a response.

    :param standing: the state before; None if unknown.
    :param jitter: a random number from 0 to below 1.
    """
    # The header is rounded up, and the response took some time: the result is never too early. The earliest
    # result for a window is the best.
    reset_at = now + budget.reset
    first_remaining, first_at, own_answers = budget.remaining, now, 0
    if standing is not None and (standing.quota, standing.window) == (budget.quota, budget.window):
        # Within one window, results differ by the rounding and the round trip at most.
        if reset_at <= standing.reset_at + 1 + (now - started_at):
            reset_at = min(reset_at, standing.reset_at)
            own_answers = standing.own_answers + 1
            if started_at < standing.started_at:
                # The response to a later request came first and is more recent.
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
    """Return the share of the unreserved requests that is spread over the window."""
    if when < standing.first_at + OPENING_SHARE * standing.window:
        return MOST_SPREAD
    foreign = foreign_rate(standing) * standing.window / ((1 - reserve) * standing.quota)
    return min(MOST_SPREAD, max(LEAST_SPREAD, SPREAD_PER_FOREIGN * foreign))


def line(standing: Standing, reserve: float, when: float) -> float:
    """Return how many requests must be left for one more to start."""
    reserved = reserve * standing.quota
    left = min(1.0, (standing.reset_at - when) / standing.window)
    return reserved + spread_share(standing, reserve, when) * (standing.quota - reserved) * left


def line_reached(standing: Standing, reserve: float, free: int) -> float:
    """
    Return when the line will have fallen to a number of requests.

    :param free: the number of requests, below the line at the newest response.
    """
    reserved = reserve * standing.quota

    def reached(since: float) -> float:
        spread = spread_share(standing, reserve, since) * (standing.quota - reserved)
        return standing.reset_at - max(0.0, free - reserved) / spread * standing.window

    opening = OPENING_SHARE * standing.window
    opened = standing.first_at + opening
    known = reached(standing.answered_at)
    if standing.answered_at >= opened or standing.first_at < standing.reset_at - standing.window + opening:
        return known
    # A process that came after the window's opening had no burst yet, and one response shows it the others.
    return min(known, max(opened, reached(opened)))


def time_for(standing: Standing, requests: int, *, now: float, reserve: float) -> float:
    """Return the seconds until this many more requests have started, if others send at their present rate."""
    own = standing.own_answers + 1
    reserved = reserve * standing.quota
    window = standing.quota - reserved
    foreign = foreign_rate(standing)
    # Right after the bursts of other processes, their rate says nothing about the whole window.
    part = max(
        own / (own + foreign * (standing.answered_at - standing.first_at)),
        1 - foreign * standing.window / window,
    )
    # The opening is not counted, because it ends within seconds.
    when = max(now, standing.first_at + OPENING_SHARE * standing.window)
    waited = 0.0
    if now < standing.reset_at:
        left = standing.reset_at - now
        most = part * max(0.0, standing.remaining - reserved)
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

    :param standing: the state of the budget; None before the first response and after a throttle, when one
        request goes ahead alone.
    :param in_flight: requests of this process in flight.
    :param concurrency: the most requests in flight.
    :return: 0 to start at once; infinity if a response must come first.
    """
    alone = math.inf if in_flight else 0.0
    if standing is None:
        return alone
    reserved = reserve * standing.quota
    if standing.remaining <= reserved:
        # The second value is for sliding windows: the time until enough requests have left the window.
        rest = max(
            standing.reset_at - standing.answered_at,
            (reserved - standing.remaining + 1) * standing.window / standing.quota,
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

    The polls of a process share one pace. They use at most half of the remaining unreserved requests, spread
    evenly over the rest of the window. The more others use, the less the polls use, down to a quarter. This
    leaves most of the budget to a job that writes. See :func:`poll_gap`.

    :param standing: the state of the budget; None before the first response and after a throttle, when one
        request goes ahead alone.
    :param spent_until: when the polls' share allows the next start; each start moves it by the gap.
    :param in_flight: requests of polls in flight.
    :param others: requests a second that others have used lately.
    :param is_last: a wait has reached its deadline. Its last poll may use the reserve, but does not exceed
        the budget knowingly.
    :param is_continued: the request reads ids back for a poll that has begun. A few of these need not wait.
    :return: 0 to start at once; infinity if a response must come first.
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
    # The gap may have become shorter since the last request started.
    return max(0.0, min(spent_until - ahead, now + gap, standing.reset_at) - now)


def poll_gap(
    standing: Standing, *, now: float, in_flight: int, others: float, reserve: float, is_last: bool = False
) -> float:
    """
    Return the seconds between two starts of an account's polls.

    :param in_flight: requests of polls in flight.
    :param others: requests a second that others have used lately.
    :param is_last: a wait has reached its deadline.
    """
    reserved = reserve * standing.quota
    even = (standing.quota - reserved) / standing.window
    if is_last:
        return 1 / even
    left = max(1.0, standing.reset_at - now)
    share = max(POLL_SHARE_BESIDE_OTHERS, POLL_SHARE - others / even)
    rate = share * min(even, max(0.0, standing.remaining - in_flight - reserved) / left)
    return min(1 / rate if rate > 0 else math.inf, left)
