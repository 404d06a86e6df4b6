# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import math
import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cfvectorize.client.http.budget import (
    LEAST_SPREAD,
    MAX_REQUESTS_PER_SECOND,
    MOST_SPREAD,
    Budget,
    Standing,
    learn,
    pause_before_poll,
    read_budget,
    spread_share,
)
from airflow_provider_cfvectorize.client.http.pacer import PROCESS_GATE, StartGate
from airflow_provider_cfvectorize.client.http.poll_pacer import PollPacer, Turn
from airflow_provider_cfvectorize.client.http.session import RetryLimits
from airflow_provider_cfvectorize.exceptions import VectorizeTransportError
from client.servers import make_client


class Clock:
    """A clock that only moves during a sleep."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@given(st.lists(st.floats(0, 0.5), min_size=52, max_size=120))
def test_the_gate_allows_at_most_50_starts_in_any_second(gaps: list[float]) -> None:
    clock, starts = Clock(), []
    gate = StartGate(MAX_REQUESTS_PER_SECOND, clock)
    for gap in gaps:
        clock.now += gap
        gate.wait(clock.sleep)
        starts.append(clock.now)
    for first, fifty_first in zip(starts, starts[50:], strict=False):
        assert fifty_first - first > 1 - 1e-6


def test_the_gate_spaces_starts() -> None:
    clock = Clock()
    gate = StartGate(50, clock)
    starts = []
    for _ in range(101):
        gate.wait(clock.sleep)
        starts.append(clock.now)
    assert starts[0] == 100
    assert starts[100] == pytest.approx(102)
    clock.now += 60
    gate.wait(clock.sleep)
    gate.wait(clock.sleep)
    assert clock.now - starts[100] == pytest.approx(60.02)


def test_concurrent_threads_get_separate_starts() -> None:
    gate = StartGate(50, lambda: 100.0)
    pauses: list[float] = []
    threads = [threading.Thread(target=gate.wait, args=[pauses.append]) for _ in range(51)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # The first thread does not wait.
    assert sorted(pauses) == pytest.approx([i / 50 for i in range(1, 51)])


class Refused(Exception):
    """Raised by a gate instead of a wait."""


@pytest.mark.parametrize(
    ("base_url", "retry", "passed"),
    [
        ("https://127.0.0.1:9/client/v4", RetryLimits(), [PROCESS_GATE]),
        # A local server has no limit except its headers, and a client without retries never waits.
        ("http://127.0.0.1:9/client/v4", RetryLimits(backoff_total=0), []),
        ("https://127.0.0.1:9/client/v4", None, []),
    ],
)
def test_which_requests_pass_the_process_gate(
    base_url: str, retry: RetryLimits | None, passed: list[StartGate], monkeypatch: pytest.MonkeyPatch
) -> None:
    gates: list[object] = []

    def wait(gate: StartGate, sleep: object) -> None:
        gates.append(gate)
        raise Refused

    monkeypatch.setattr(StartGate, "wait", wait)
    client = make_client(base_url, retry=retry)
    with pytest.raises((Refused, VectorizeTransportError)):
        client.delete_by_ids("docs", ["a"])
    client.close()
    assert gates == passed


@pytest.mark.parametrize(
    ("limit", "policy", "budget"),
    [
        ('"default";r=50;t=30', '"burst";q=100;w=60', Budget(50, 30, 100, 60)),
        ('"default";r=50;t=30', '"default";q=100;w=60', Budget(50, 30, 100, 60)),
        ('"default"; r=50 ;t = 30', "", Budget(50, 30, 1200)),
        ('"a";r=50;t=30, "b";r=6;t=7', '"a";q=100;w=60, "b";q=10;w=1', Budget(50, 30, 100, 60)),
        ('"a";r=50;t=30, "b";r=4;t=7', '"a";q=100;w=60, "b";q=10;w=1', Budget(4, 7, 10, 1)),
        ('"a";r=50;t=30, "b";r=4;t=7', '"b";q=10;w=1, "a";q=100;w=60', Budget(4, 7, 10, 1)),
        ('"a";r=1;t=30', '"b";w=1, "a";q=100;w=60', Budget(1, 30, 100, 60)),
        ('"a";r=0;t=300', '"a";q=0', Budget(0, 300, 1200)),
        ('"a";r=0;t=0', '"a";q=1200;w=300', Budget(0, 0, 1200)),
        ('"a";r=5', '"a";q=1200;w=300', None),
        # A full window: the service does not count requests.
        ('"a";r=1200;t=300', '"a";q=1200;w=300', None),
        ('"a";r=1200;t=300, "b";r=9;t=5', '"a";q=1200;w=300, "b";q=10;w=5', Budget(9, 5, 10, 5)),
        ('"a";r=-5;t=5', "", None),
        ('"a";r=1e9;t=5', "", Budget(1, 5, 1200)),
        ('"a";r=99999999999;t=5', "", None),
        ("50", "", None),
        ("", '"a";q=1200', None),
    ],
)
def test_budget_headers_are_parsed(limit: str, policy: str, budget: Budget | None) -> None:
    assert read_budget({"Ratelimit": limit, "Ratelimit-Policy": policy}) == budget


def test_no_budget_without_headers() -> None:
    assert read_budget({}) is None


@given(st.text(';="rtqw,0123 ', max_size=40), st.text(';="rtqw,0123 ', max_size=40))
def test_arbitrary_headers_raise_no_error(limit: str, policy: str) -> None:
    budget = read_budget({"Ratelimit": limit, "Ratelimit-Policy": policy})
    if budget is not None:
        assert budget.quota >= 1
        assert budget.remaining >= 0


def poll_standing(remaining: int, reset: int = 200) -> Standing:
    return learn(None, Budget(remaining, reset), started_at=99.0, now=100.0, jitter=0.0)


def after(*answers: tuple[float, int, int]) -> Standing:
    """Return the standing after answers; each is its time (0.1 s after its request), its r and its t."""
    standing = None
    for now, remaining, reset in answers:
        standing = learn(standing, Budget(remaining, reset), started_at=now - 0.1, now=now, jitter=0)
    assert standing is not None
    return standing


@pytest.mark.parametrize(
    ("answers", "share"),
    [
        # The first ten seconds, anywhere in the window, show nothing about other clients.
        ([(0, 1199, 300)], MOST_SPREAD),
        ([(0, 1199, 300), (9.9, 1198, 291)], MOST_SPREAD),
        ([(150, 900, 150), (159, 899, 141)], MOST_SPREAD),
        ([(0, 1199, 300), (10, 1198, 290)], LEAST_SPREAD),
        # The overtaken answer is one of our own requests.
        ([(0, 1199, 300), (10, 1197, 290), (9, 1198, 291)], LEAST_SPREAD),
        # Other clients sent 10 requests in 10 s: 300 in a window, of 960 that are not reserved.
        ([(0, 1199, 300), (10, 1188, 290)], pytest.approx(1.5 * 300 / 960)),
        ([(0, 1199, 300), (10, 1168, 290)], MOST_SPREAD),
        # Rounding can move the reset by a second within a window. A later reset is a new window.
        ([(0, 1199, 300), (10.05, 1198, 291)], LEAST_SPREAD),
        ([(0, 1199, 300), (250, 1198, 50), (301, 1199, 300)], MOST_SPREAD),
        # A sliding window returns requests.
        ([(0, 900, 300), (10, 950, 290)], LEAST_SPREAD),
    ],
)
def test_the_spread_share_follows_other_clients(answers: list[tuple[float, int, int]], share: float) -> None:
    standing = after(*answers)
    assert spread_share(standing, 0.2, standing.answered_at) == share


@pytest.mark.parametrize(
    ("standing", "changed", "pause"),
    [
        (None, {}, 0),
        (None, {"in_flight": 1}, math.inf),
        # Polls get half of 960 requests in 300 s, a quarter beside other clients, or less near the reserve.
        (poll_standing(1100), {}, 0.625),
        (poll_standing(1100), {"others": 0.16}, 1 / 1.44),
        (poll_standing(1100), {"others": 5}, 1.25),
        (poll_standing(340), {}, 1 / (0.5 * 0.5)),
        (poll_standing(1100), {"in_flight": 4}, math.inf),
        (poll_standing(1100), {"is_continued": True}, 0),
        # At the reserve, a poll waits for the next window; only the last poll may use the reserve.
        (poll_standing(240), {}, 200),
        (poll_standing(240), {"is_last": True}, 0.3125),
        (poll_standing(0), {"is_last": True}, 200),
        (poll_standing(1100), {"now": 300.0}, 0),
        (poll_standing(1100), {"now": 300.0, "in_flight": 1}, math.inf),
    ],
)
def test_the_pause_before_a_poll(standing: Standing | None, changed: dict[str, Any], pause: float) -> None:
    arguments: dict[str, Any] = {
        "now": 100.0,
        "in_flight": 0,
        "others": 0.0,
        "reserve": 0.2,
        "spent_until": 107.0,
    }
    assert pause_before_poll(standing, **arguments | changed) == pytest.approx(pause)


@pytest.mark.parametrize(("retry_after", "pause"), [(86400.0, 900), (7.0, 7), (None, 1)])
def test_a_throttle_pauses_polls_for_a_bounded_time(retry_after: float | None, pause: float) -> None:
    clock = Clock()
    pacer = PollPacer(assumed=None, clock=clock)
    pacer.enqueue(Turn())
    assert pacer.start_next()[0] is not None
    pacer.end(clock.now, None, throttled=True, retry_after=retry_after)
    pacer.enqueue(Turn(last_at=clock.now + 1000))
    assert pacer.start_next() == (None, pause)
