# SPDX-License-Identifier: Apache-2.0
"""The rule of pacing: no throttle, and all of the budget that is not reserved, however many take part."""

from __future__ import annotations

import pytest

from client.pacing_simulation import Limit, Simulation

WINDOWS = 8
RESERVE = 0.2
KINDS = ["fixed", "first_request", "sliding"]
#: `make test` runs the first seed and the small numbers of processes; `make test-all` the rest as well.
LONG = pytest.mark.long
SEEDS = [0, pytest.param(1, marks=LONG)]
PROCESSES = [1, 4, *(pytest.param(processes, marks=LONG) for processes in (16, 64))]
#: The account's limit with a usual latency: quota, window, latency.
ACCOUNT = (1200, 300, 0.25)
#: One for tests in real time, of which whole seconds are a coarse measure.
SHORT = (120, 3, 0.02)


def simulate(
    kind: str, processes: int, policy: tuple[int, int, float], *, seed: int, foreign: float = 0.0
) -> Simulation:
    quota, window, latency = policy
    limit = Limit(kind, quota, window, phase=0.37 * window * (1 + seed))
    simulation = Simulation(limit, latency=latency, seed=seed)
    for _ in range(processes):
        begins = simulation.random.uniform(0, min(1.0, window / 10))
        simulation.add_process(reserve=RESERVE, concurrency=4, begins=begins)
    if foreign:
        simulation.add_foreign_client(foreign * quota)
    simulation.run(WINDOWS * window)
    return simulation


def used(simulation: Simulation) -> float:
    """Return the share of the budget that was used, over the whole windows."""
    whole = [count for _, count in sorted(simulation.limit.accepted.items())][1:-1]
    return sum(whole) / len(whole) / simulation.limit.quota


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("processes", PROCESSES)
@pytest.mark.parametrize("kind", KINDS)
def test_all_of_the_budget_and_no_throttle(kind: str, processes: int, seed: int) -> None:
    simulation = simulate(kind, processes, ACCOUNT, seed=seed)
    assert simulation.limit.refused == 0
    assert used(simulation) >= 0.95 * (1 - RESERVE)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("processes", PROCESSES)
@pytest.mark.parametrize("kind", KINDS)
def test_somebody_else_is_given_way_to(kind: str, processes: int, seed: int) -> None:
    simulation = simulate(kind, processes, ACCOUNT, seed=seed, foreign=0.5)
    assert simulation.limit.refused == 0
    # Somebody else's half, and what is left of the four fifths.
    assert used(simulation) >= 0.95 * (1 - RESERVE)


@pytest.mark.parametrize("seed", [*SEEDS, *(pytest.param(seed, marks=LONG) for seed in (2, 3, 4))])
@pytest.mark.parametrize("foreign", [0.0, 0.5])
@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_short_windows(kind: str, processes: int, foreign: float, seed: int) -> None:
    simulation = simulate(kind, processes, SHORT, seed=seed, foreign=foreign)
    assert simulation.limit.refused == 0
    # With the whole seconds of a reset, a window of three that slides is made out only roughly.
    assert used(simulation) >= (0.7 if kind == "sliding" else 0.95) * (1 - RESERVE)


@pytest.mark.parametrize(("requests", "seconds"), [(250, 12), (500, 22), (700, 100), (900, 256)])
@pytest.mark.parametrize("kind", KINDS)
def test_what_nobody_else_wants_is_free_for_a_burst(kind: str, requests: int, seconds: float) -> None:
    quota, window, latency = ACCOUNT
    simulation = Simulation(Limit(kind, quota, window, phase=0), latency=latency, seed=0)
    simulation.add_process(reserve=RESERVE, concurrency=4, begins=0, requests=requests)
    simulation.run(2 * window)
    assert [ended <= seconds for ended in simulation.ended] == [True]


def test_a_second_job_finds_what_the_first_left() -> None:
    quota, window, latency = ACCOUNT
    simulation = Simulation(Limit("fixed", quota, window, phase=0), latency=latency, seed=0)
    simulation.add_process(reserve=RESERVE, concurrency=4, begins=0, requests=500)
    simulation.add_process(reserve=RESERVE, concurrency=4, begins=30, requests=100)
    simulation.run(window)
    assert [ended < most for ended, most in zip(simulation.ended, (22, 50), strict=True)] == [True, True]


# Beside somebody else, it is known by and by.
@pytest.mark.parametrize(("processes", "foreign", "within"), [(1, 0.0, 0.05), (4, 0.0, 0.15), (1, 0.4, 0.6)])
def test_the_time_left_knows_the_pacing(processes: int, foreign: float, within: float) -> None:
    quota, window, latency = ACCOUNT
    simulation = Simulation(Limit("first_request", quota, window, phase=0), latency=latency, seed=0)
    told: list[tuple[float, float | None]] = []
    jobs = [
        simulation.add_process(
            reserve=RESERVE, concurrency=4, begins=simulation.random.random(), requests=2000 // processes
        )
        for _ in range(processes)
    ]
    for time in range(10, 1200, 10):
        simulation.at(time, lambda: told.extend((simulation.now, time_for()) for time_for in jobs))
    if foreign:
        simulation.add_foreign_client(foreign * quota)
    simulation.run(5 * window)
    ended = max(simulation.ended)
    for now, left in told:
        assert left == pytest.approx(max(0.0, ended - now), rel=within, abs=10)


@pytest.mark.parametrize("begins", [12, 60, *(pytest.param(begins, marks=LONG) for begins in (30, 120, 250))])
@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_somebody_else_who_begins_after_the_burst(kind: str, processes: int, begins: int) -> None:
    quota, window, latency = ACCOUNT
    simulation = Simulation(Limit(kind, quota, window, phase=0), latency=latency, seed=begins)
    for _ in range(processes):
        simulation.add_process(reserve=RESERVE, concurrency=4, begins=simulation.random.random())
    # The bound: beyond two fifths of the limit, only a larger reserve protects such a client.
    simulation.add_foreign_client(0.4 * quota, begins=begins)
    simulation.run(3 * window)
    assert simulation.limit.refused == 0
