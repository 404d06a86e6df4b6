# SPDX-License-Identifier: Apache-2.0
"""Simulated polls cause no throttle, starve no job and reach every index."""

from __future__ import annotations

import math

import pytest

from airflow_provider_cfvectorize.client.http.pacer import Pacer
from airflow_provider_cfvectorize.client.http.poll_pacer import PollPacer, Turn
from client.pacing_simulation import Limit, Simulation

KINDS = ["fixed", "first_request", "sliding"]
QUOTA, WINDOW, LATENCY, RESERVE = 1200, 300, 0.25, 0.2
INTERVAL = 10.0
#: The requests of a delete of 30,000 ids.
JOB = 300


class Polls(Simulation):
    """A triggerer that polls indexes while jobs send requests."""

    def __init__(self, kind: str, seed: int) -> None:
        super().__init__(
            Limit(kind, QUOTA, WINDOW, phase=0.37 * WINDOW * (1 + seed)), latency=LATENCY, seed=seed
        )

    def add_triggerer(self, indexes: int, *, deadline: float = math.inf) -> list[list[float]]:
        """Poll all indexes from the start; return the times of each index's polls."""
        pacer = PollPacer(assumed=None, clock=lambda: self.now, draw=self.random.random)
        polls: list[list[float]] = [[] for _ in range(indexes)]
        ended: set[int] = set()
        turns: dict[Turn, int] = {}
        wake = math.inf

        def ask(index: int) -> None:
            if index in ended:
                return
            answered_at = polls[index][-1] if polls[index] else -math.inf
            turn = Turn(answered_at, last_at=deadline, reserve=RESERVE)
            turns[turn] = index
            pacer.enqueue(turn)
            pump()

        def ring() -> None:
            nonlocal wake
            wake = math.inf
            pump()

        def pump() -> None:
            nonlocal wake
            while True:
                turn, pause = pacer.start_next()
                if turn is None:
                    if math.isfinite(pause) and self.now + pause < wake:
                        wake = self.now + pause
                        self.at(wake, ring)
                    return
                started_at, index = self.now, turns.pop(turn)
                there, back = (self.latency / 2 * self.random.uniform(0.2, 1) for _ in range(2))
                self.at(self.now + there, lambda s=started_at, b=back, i=index: arrive(s, b, i))  # type: ignore[misc]

        def arrive(started_at: float, back: float, index: int) -> None:
            headers = self.limit.ask(self.now)
            self.at(self.now + back, lambda: answer(started_at, headers, index))

        def answer(started_at: float, headers: dict[str, str] | None, index: int) -> None:
            pacer.end(started_at, headers, throttled=headers is None, retry_after=float(WINDOW))
            polls[index].append(self.now)
            if started_at >= deadline:
                ended.add(index)
            self.at(max(self.now, started_at + INTERVAL), lambda: ask(index))
            pump()

        for index in range(indexes):
            self.at(0.0, lambda index=index: ask(index))  # type: ignore[misc]
        return polls

    def add_job(self, requests: int, *, begins: float) -> list[float]:
        """Send requests, four at a time; return when each was answered."""
        pacer = Pacer(
            reserve=RESERVE, concurrency=4, own_count=None, clock=lambda: self.now, draw=self.random.random
        )
        left, idle, done = requests, 4, []

        def send() -> None:
            nonlocal left, idle
            while idle and left:
                if pause := pacer._try_start(self.now):
                    if math.isfinite(pause):
                        self.at(self.now + pause, send)
                    return
                idle, left = idle - 1, left - 1
                there, back = (self.latency / 2 * self.random.uniform(0.2, 1) for _ in range(2))
                self.at(self.now + there, lambda s=self.now, b=back: arrive(s, b))  # type: ignore[misc]

        def arrive(started_at: float, back: float) -> None:
            headers = self.limit.ask(self.now)
            self.at(self.now + back, lambda: answer(started_at, headers))

        def answer(started_at: float, headers: dict[str, str] | None) -> None:
            nonlocal idle
            idle += 1
            done.append(self.now)
            pacer.end(started_at, headers, throttled=headers is None, retry_after=float(WINDOW))
            send()

        self.at(begins, send)
        return done


def longest_gap(polls: list[list[float]], seconds: float) -> float:
    """Return the longest time between two polls of an index."""
    return max(
        after - before
        for times in polls
        for before, after in zip([0.0, *times], [*times, seconds], strict=True)
    )


@pytest.mark.parametrize(
    ("kind", "indexes"), [*((kind, 100) for kind in KINDS), ("fixed", 16), ("first_request", 1000)]
)
def test_no_throttle_however_many_indexes(kind: str, indexes: int) -> None:
    simulation = Polls(kind, seed=1)
    polls = simulation.add_triggerer(indexes)
    simulation.run(1300)
    assert simulation.limit.refused == 0
    assert max(simulation.limit.accepted.values()) <= 0.5 * (1 - RESERVE) * QUOTA + 5
    # Evenly: every index is polled once before one is polled again.
    assert max(map(len, polls)) - min(map(len, polls)) <= 2
    if indexes <= 100:
        assert longest_gap(polls, 1300) <= max(INTERVAL + 1, 0.75 * indexes)


@pytest.mark.parametrize("kind", ["fixed", "sliding"])
def test_no_throttle_when_all_waits_reach_their_deadline_at_once(kind: str) -> None:
    simulation = Polls(kind, seed=1)
    polls = simulation.add_triggerer(400, deadline=500.0)
    simulation.run(650)
    assert simulation.limit.refused == 0
    # A wait waits half a minute for the end of its last poll.
    assert sum(times[-1] >= 500 for times in polls) == 400
    assert sum(500 <= times[-1] < 530 for times in polls) >= 80


def test_polls_give_way_to_other_clients() -> None:
    simulation = Polls("first_request", seed=1)
    polls = simulation.add_triggerer(100)
    simulation.add_foreign_client(0.5 * QUOTA)
    simulation.run(1300)
    assert simulation.limit.refused == 0
    # The first window begins before the pacer has seen the other client.
    most = max(list(simulation.limit.accepted.values())[1:-1])
    assert most <= 0.5 * QUOTA + 0.25 * (1 - RESERVE) * QUOTA + 5
    assert longest_gap(polls, 1300) <= 150


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("begins", [0.0, 431.0, 560.0])
@pytest.mark.parametrize("indexes", [100, 400])
def test_polls_slow_a_job_by_at_most_half(kind: str, indexes: int, begins: float) -> None:
    def run(polled: int) -> float:
        simulation = Polls(kind, seed=1)
        simulation.add_triggerer(polled)
        done = simulation.add_job(JOB, begins=begins)
        simulation.run(begins + 150)
        assert simulation.limit.refused == 0
        assert len(done) == JOB
        return done[-1] - begins

    assert run(indexes) <= 1.5 * run(0)
