# SPDX-License-Identifier: Apache-2.0
"""Each fault during tasks that delete, write or reconcile 5,000 ids."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_cfvectorize.exceptions import VectorizeBatchError
from chaos.chaos import (
    IMPATIENT,
    JOBS,
    NAMES,
    PATIENT,
    SHORT_TIMEOUT,
    WAIT,
    Clock,
    Store,
    check_failures,
    check_requests,
    check_success,
    injected_failures,
    run_tries,
    set_policy,
    timeout_for,
)
from harness import Vectorize

pytestmark = pytest.mark.long

Serve = Callable[..., Vectorize]

#: A request in ten or more, on any endpoint.
BY_CHANCE = {
    "none": [],
    "latency": ["latency@0.3=0.05"],
    "reset-before": ["reset-before@0.2"],
    "reset-after": ["reset-after@0.2"],
    "429": ["429@0.2=0"],
    "429 for a second": ["429#5,30"],
    "40041": ["40041@0.2"],
    "500": ["500@0.2"],
    "503": ["503@0.2"],
    "504": ["504@0.2"],
    # Not the first answer of a task: it would be final.
    "refuse": ["refuse#3,9,20-22"],
    "challenge": ["challenge#2,8,20-22"],
    "hang": ["hang#2,7"],
    "trickle": ["hang#3=0.05"],
    "stuck-watermark": ["stuck-watermark#1-4"],
    "lagging-view": ["lagging-view=0.3"],
    "lagging-questions": ["lagging-view:get_by_ids=0.5"],
}


def written(kind: str, where: str) -> str:
    """Return a fault; a 429 asks for no pause."""
    return f"{kind}:{where}{'=0' if kind == '429' else ''}"


@pytest.mark.parametrize("faults", BY_CHANCE.values(), ids=BY_CHANCE.keys())
@pytest.mark.parametrize("name", JOBS)
def test_temporary_faults_do_not_change_the_result(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, faults: list[str]
) -> None:
    set_policy(monkeypatch, PATIENT)
    vectorize = serve(timeout=timeout_for(faults))
    server = vectorize.server
    job = JOBS[name](vectorize, tmp_path)
    server.set_faults(faults, fault_seed=7)
    run = run_tries(lambda: job.make(**WAIT), store=Store())
    check_requests(server, job, run)
    hit = {kind for kind, count in server.injected().items() if count}
    assert hit == {re.split("[:@#=]", fault)[0] for fault in faults}
    if not faults:
        stats = Counter(server.stats()) - Counter({"info": 10**6, "get_by_ids": 10**6})
        questions = {"upsert": 1}.get(name, 0)
        assert stats.total() + questions == job.requests
    server.set_faults([])
    check_success(job, run)


@pytest.mark.parametrize("kind", NAMES)
@pytest.mark.parametrize("name", JOBS)
def test_a_lasting_fault_fails_an_attempt_and_loses_no_batch(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, kind: str
) -> None:
    set_policy(monkeypatch, IMPATIENT)
    vectorize = serve(timeout=SHORT_TIMEOUT if kind == "hang" else None)
    server = vectorize.server
    job, store = JOBS[name](vectorize, tmp_path), Store()
    server.set_faults([written(kind, f"{job.write}#4-")])
    first = run_tries(lambda: job.make(**WAIT), store=store)
    check_failures(first, [kind])
    (error,) = first.errors
    assert isinstance(error, VectorizeBatchError)
    check_requests(server, job, first)
    server.set_faults([])
    vectorize.settle()
    job.check_partly(error)
    # The next attempt resumes without faults.
    server.reset_stats()
    second = run_tries(lambda: job.make(**WAIT), store=store)
    sent = server.stats()[job.write]
    assert job.batches - 10 <= sent <= job.batches
    second.errors = first.errors
    check_success(job, second)
    # The progress stays until its retention ends: the task can still fail afterwards.
    assert store.values


@pytest.mark.parametrize("name", JOBS)
@pytest.mark.parametrize(
    ("kind", "resumes"), [*((kind, True) for kind in NAMES), ("503", False), ("reset-after", False)]
)
def test_several_attempts_complete_the_job(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str, kind: str, resumes: bool
) -> None:
    set_policy(monkeypatch, IMPATIENT)
    clock = Clock()
    vectorize = serve(timeout=SHORT_TIMEOUT if kind == "hang" else None, clock=clock)
    server, job = vectorize.server, JOBS[name](vectorize, tmp_path)
    # The last fault hits the awaited batch.
    last = job.batches + 1 if resumes else 3
    server.set_faults([written(kind, f"{job.write}#2,{last}"), written(kind, "info#1-2")])
    run = run_tries(lambda: job.make(**WAIT), 6, Store() if resumes else None, clock.pass_a_minute)
    check_failures(run, [kind])
    assert run.errors
    injected = injected_failures(server)
    assert injected >= 2
    check_requests(server, job, run, resumes=resumes)
    server.set_faults([])
    check_success(job, run)
