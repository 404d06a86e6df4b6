# SPDX-License-Identifier: Apache-2.0
"""Several random faults at once during tasks that write, also with a limit on requests."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from chaos.chaos import (
    JOBS,
    PATIENT,
    WAIT,
    Clock,
    Store,
    check_failures,
    check_requests,
    check_success,
    run_tries,
    set_policy,
    timeout_for,
)
from harness import Vectorize

pytestmark = pytest.mark.long

Serve = Callable[..., Vectorize]

SEEDS = range(8)
BY_CHANCE = ("reset-before", "reset-after", "429", "40041", "500", "503", "504", "latency")


def draw(seed: int, write: str) -> list[str]:
    """Return faults of two to five kinds."""
    chance = random.Random(seed)
    faults = []
    for kind in chance.sample(BY_CHANCE, chance.randint(2, 4)):
        where = chance.choice(["", "", f":{write}", ":get_by_ids"])
        value = {"429": f"={chance.choice([0, 0, 1])}", "latency": "=0.02"}.get(kind, "")
        faults.append(f"{kind}{where}@{chance.choice([0.02, 0.1, 0.25])}{value}")
    others = [
        # An answer that is not JSON is not retried: it ends an attempt.
        f"truncated#{chance.randint(1, 6)},{chance.randint(7, 16)}",
        f"hang:{write}#{chance.randint(1, 9)}",
        # As the first answer of an attempt, these end it.
        f"refuse#{chance.randint(2, 8)},{chance.randint(9, 16)}",
        f"challenge:{write}#{chance.randint(1, 9)}",
        "stuck-watermark@0.7",
        f"lagging-view:get_by_ids@0.5={chance.choice([0.2, 0.5])}",
    ]
    return faults + chance.sample(others, chance.randint(1, 3))


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", JOBS)
def test_mixtures_of_faults(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, seed: int
) -> None:
    set_policy(monkeypatch, PATIENT)
    faults = draw(seed, JOBS[name].write)
    print(f"faults={faults!r}, fault_seed={seed}")  # to reproduce a failure
    clock = Clock()
    vectorize = serve(timeout=timeout_for(faults), clock=clock)
    server, job = vectorize.server, JOBS[name](vectorize, tmp_path)
    server.set_faults(faults, fault_seed=seed)
    run = run_tries(lambda: job.make(**WAIT), 4, Store(), clock.pass_a_minute)
    check_failures(run, {"truncated", "refuse", "challenge"})
    check_requests(server, job, run)
    server.set_faults([])
    check_success(job, run)


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize("faults", [["503@0.1", "reset-after@0.1"], ["429#9,23=1", "40041@0.05"]])
def test_retries_stay_within_the_budget(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, faults: list[str]
) -> None:
    set_policy(monkeypatch, PATIENT)
    # A short window, so that there are several; the harness's requests also count.
    vectorize = serve(rate_limit="60/1")
    job = JOBS[name](vectorize, tmp_path)
    server = vectorize.server
    server.set_faults(faults, fault_seed=3)
    before = server.rate_limit_report()
    run = run_tries(lambda: job.make(**{**WAIT, "poll_interval": 0.25}), store=Store())
    report = server.rate_limit_report()[len(before) :]
    # Injected refusals do not count.
    assert sum(window["refused"] for window in report) == 0
    assert all(window["accepted"] <= 60 for window in report)
    check_requests(server, job, run)
    server.set_faults([])
    assert run.succeeded, run.errors
    assert run.pushed["evidence"]["still_visible"] == []
