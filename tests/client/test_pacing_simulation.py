# SPDX-License-Identifier: Apache-2.0
"""Simulated pacing causes no throttle and uses the unreserved budget, with any number of processes."""

from __future__ import annotations

import pytest

from client.pacing_simulation import Limit, Simulation

WINDOWS = 8
RESERVE = 0.2
KINDS = ["fixed", "first_request", "sliding"]
#: `make test` runs the first seed and few processes; `make test-all` runs everything.
LONG = pytest.mark.long
SEEDS = [0, pytest.param(1, marks=LONG)]
PROCESSES = [1, 4, *(pytest.param(processes, marks=LONG) for processes in (16, 64))]
#: The account's limit with a common latency: quota, window, latency.
ACCOUNT = (1200, 300, 0.25)
#: A limit for tests in real time. Whole seconds are a coarse unit for its window.
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
    """Return the used share of the budget, over complete windows."""
    whole = [count for _, count in sorted(simulation.limit.accepted.items())][1:-1]
    return sum(whole) / len(whole) / simulation.limit.quota


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("processes", PROCESSES)
@pytest.mark.parametrize("kind", KINDS)
def test_processes_use_the_budget_without_a_throttle(kind: str, processes: int, seed: int) -> None:
    simulation = simulate(kind, processes, ACCOUNT, seed=seed)
    assert simulation.limit.refused == 0
    assert used(simulation) >= 0.95 * (1 - RESERVE)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("processes", PROCESSES)
@pytest.mark.parametrize("kind", KINDS)
def test_processes_give_way_to_other_clients(kind: str, processes: int, seed: int) -> None:
    simulation = simulate(kind, processes, ACCOUNT, seed=seed, foreign=0.5)
    assert simulation.limit.refused == 0
    # The other client's half, and the rest of the four fifths.
    assert used(simulation) >= 0.95 * (1 - RESERVE)


@pytest.mark.parametrize("seed", [*SEEDS, *(pytest.param(seed, marks=LONG) for seed in (2, 3, 4))])
@pytest.mark.parametrize("foreign", [0.0, 0.5])
@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_short_windows_without_a_throttle(kind: str, processes: int, foreign: float, seed: int) -> None:
    simulation = simulate(kind, processes, SHORT, seed=seed, foreign=foreign)
    assert simulation.limit.refused == 0
    # A reset has whole seconds, which show a sliding window of 3 s only roughly.
    assert used(simulation) >= (0.7 if kind == "sliding" else 0.95) * (1 - RESERVE)


@pytest.mark.parametrize(("requests", "seconds"), [(250, 12), (500, 22), (700, 100), (900, 256)])
@pytest.mark.parametrize("kind", KINDS)
def test_a_burst_uses_the_budget_that_nobody_else_needs(kind: str, requests: int, seconds: float) -> None:
    quota, window, latency = ACCOUNT
    simulation = Simulation(Limit(kind, quota, window, phase=0), latency=latency, seed=0)
    simulation.add_process(reserve=RESERVE, concurrency=4, begins=0, requests=requests)
    simulation.run(2 * window)
    assert [ended <= seconds for ended in simulation.ended] == [True]


def test_a_second_job_uses_the_rest_of_the_budget() -> None:
    quota, window, latency = ACCOUNT
    simulation = Simulation(Limit("fixed", quota, window, phase=0), latency=latency, seed=0)
    simulation.add_process(reserve=RESERVE, concurrency=4, begins=0, requests=500)
    simulation.add_process(reserve=RESERVE, concurrency=4, begins=30, requests=100)
    simulation.run(window)
    assert [ended < most for ended, most in zip(simulation.ended, (22, 50), strict=True)] == [True, True]


# Beside another client, the estimate becomes accurate over time.
@pytest.mark.parametrize(("processes", "foreign", "within"), [(1, 0.0, 0.05), (4, 0.0, 0.15), (1, 0.4, 0.6)])
def test_the_time_left_includes_the_pacing(processes: int, foreign: float, within: float) -> None:
    quota, window, latency = ACCOUNT
    simulation = Simulation(Limit("first_request", quota, window, phase=0), latency=latency, seed=0)
    estimates: list[tuple[float, float | None]] = []
    jobs = [
        simulation.add_process(
            reserve=RESERVE, concurrency=4, begins=simulation.random.random(), requests=2000 // processes
        )
        for _ in range(processes)
    ]
    for time in range(10, 1200, 10):
        simulation.at(time, lambda: estimates.extend((simulation.now, time_for()) for time_for in jobs))
    if foreign:
        simulation.add_foreign_client(foreign * quota)
    simulation.run(5 * window)
    ended = max(simulation.ended)
    for now, left in estimates:
        assert left == pytest.approx(max(0.0, ended - now), rel=within, abs=10)


@pytest.mark.parametrize("begins", [12, 60, *(pytest.param(begins, marks=LONG) for begins in (30, 120, 250))])
@pytest.mark.parametrize("processes", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_no_throttle_for_a_client_that_begins_after_the_burst(kind: str, processes: int, begins: int) -> None:
    quota, window, latency = ACCOUNT
    simulation = Simulation(Limit(kind, quota, window, phase=0), latency=latency, seed=begins)
    for _ in range(processes):
        simulation.add_process(reserve=RESERVE, concurrency=4, begins=simulation.random.random())
    # The bound: above two fifths of the limit, only a larger reserve protects such a client.
    simulation.add_foreign_client(0.4 * quota, begins=begins)
    simulation.run(3 * window)
    assert simulation.limit.refused == 0
