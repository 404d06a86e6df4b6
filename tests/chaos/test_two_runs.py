# SPDX-License-Identifier: Apache-2.0
"""Two concurrent runs on an index, with and without faults."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from airflow import __version__ as airflow_version

from chaos.chaos import OTHERS, PATIENT, UPSERT_SIZE, WAIT, Delete, Run, Store, Upsert, run_tries, set_policy
from harness import INDEX, PROVEN, Vectorize

pytestmark = pytest.mark.long

Serve = Callable[..., Vectorize]

FAULTS = {"none": [], "some": ["503@0.1", "reset-after@0.1", "429@0.05=0", "stuck-watermark@0.3"]}


def prepare_thread() -> None:
    """Create the thread-local state of a task, which Airflow 2 creates only in the main thread."""
    if airflow_version.startswith("2."):
        from airflow.models.baseoperator import ExecutorSafeguard

        ExecutorSafeguard._sentinel.callers = {}


def run_both(one: Callable[[], Any], other: Callable[[], Any]) -> list[Run]:
    with ThreadPoolExecutor(2, initializer=prepare_thread) as pool:
        runs = [pool.submit(run_tries, make, 1, Store()) for make in (one, other)]
        return [run.result() for run in runs]


def check_evidence(run: Run, count: int, batches: int) -> None:
    assert run.succeeded, run.errors
    receipt, evidence = run.pushed["receipt"], run.pushed["evidence"]
    assert (receipt["count"], receipt["batches"]) == (count, batches)
    assert run.result == receipt["mutation_id"] == evidence["mutation_id"]
    assert evidence["outcome"] in PROVEN
    assert evidence["still_visible"] == []
    assert evidence["witnesses_checked"] == 5


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS.keys())
def test_two_deletes_of_overlapping_ids(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, faults: list[str]
) -> None:
    set_policy(monkeypatch, PATIENT)
    vectorize = serve(apply_delay=1)
    job = Delete(vectorize, tmp_path)
    vectorize.server.set_faults(faults, fault_seed=5)
    halves = [list(job.ids[:3500]), list(job.ids[1500:])]
    runs = run_both(*[lambda ids=ids: job.make(ids=ids, **WAIT) for ids in halves])
    vectorize.server.set_faults([])
    for run in runs:
        check_evidence(run, 3500, 35)
    # For ids that both delete, the other delete is proof too; both are applied.
    vectorize.settle()
    job.check_done()


@pytest.mark.parametrize("faults", FAULTS.values(), ids=FAULTS.keys())
def test_a_delete_beside_an_upsert_of_other_ids(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, faults: list[str]
) -> None:
    set_policy(monkeypatch, PATIENT)
    vectorize = serve(apply_delay=0.3)
    upsert = Upsert(vectorize, tmp_path)
    doomed = [f"doomed-{i:04}" for i in range(3000)]
    vectorize.fill(doomed)
    vectorize.server.set_faults(faults, fault_seed=5)
    delete = Delete.make
    runs = run_both(
        lambda: delete(upsert, ids=doomed, **WAIT),  # type: ignore[arg-type]
        lambda: upsert.make(**WAIT),
    )
    vectorize.server.set_faults([])
    # Both runs have ended: both writes are applied.
    upsert.check_done()
    check_evidence(runs[0], 3000, 30)
    check_evidence(runs[1], len(upsert.ids), len(upsert.ids) // UPSERT_SIZE)
    assert not vectorize.client.get_by_ids(INDEX, doomed[:20])
    assert vectorize.ids() >= OTHERS
