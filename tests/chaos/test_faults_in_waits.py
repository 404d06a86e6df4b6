# SPDX-License-Identifier: Apache-2.0
"""Each fault during waits in every mode: a wait succeeds exactly when the write is applied."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_cfvectorize.exceptions import VectorizeWaitTimeout
from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByIdsOperator
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor, VectorizeMutationTimeout
from chaos.chaos import NAMES, PATIENT, POLL_INTERVAL, Clock, run_tries, set_policy, timeout_for
from harness import INDEX, MODES, PROVEN, Vectorize

pytestmark = pytest.mark.long

Serve = Callable[..., Vectorize]

IDS = [f"v{i}" for i in range(30)]
KEPT = ["a", "b"]
#: The operator's two ways to wait, and the sensor's modes.
WAYS = (*MODES, "worker", "deferred")
POLLED = ("info", "get_by_ids")


def faults_for(kind: str, numbers: str) -> list[str]:
    match kind:
        case "latency":
            return ["latency=0.05"]
        case "stuck-watermark":
            return [f"stuck-watermark:info{numbers}"]
        case "lagging-view":
            return [f"lagging-view:{endpoint}=0.2" for endpoint in POLLED]
        case "429":
            return [f"429:{endpoint}{numbers}=0" for endpoint in POLLED]
        case "refuse" | "challenge":
            # A refusal is final as the first answer of a task.
            later = {"#1-2": "#2-3", "@0.5": "#2-3,5"}.get(numbers, numbers)
            return [f"{kind}:{endpoint}{later}" for endpoint in POLLED]
        case "hang":
            return ["hang:info#1" if numbers.startswith("#1-") else f"hang:info{numbers}"]
        case _:
            return [f"{kind}:{endpoint}{numbers}" for endpoint in POLLED]


KINDS = (*NAMES, "latency", "stuck-watermark", "lagging-view")


def sensor(way: str, receipt: dict[str, Any], seconds: float) -> VectorizeMutationSensor:
    return VectorizeMutationSensor(
        task_id="wait",
        index_name=INDEX,
        receipt=receipt,
        poke_interval=POLL_INTERVAL,
        timeout=seconds,
        deferrable=way == "deferrable",
        mode="reschedule" if way == "reschedule" else "poke",
    )


def operator(way: str, seconds: float) -> DeleteVectorsByIdsOperator:
    return DeleteVectorsByIdsOperator(
        task_id="delete",
        index_name=INDEX,
        ids=IDS,
        wait_for_completion=True,
        poll_interval=POLL_INTERVAL,
        wait_timeout=seconds,
        deferrable=way == "deferred",
    )


def task(vectorize: Vectorize, way: str, faults: list[str], seconds: float) -> Callable[[], Any]:
    """Return a function that creates the task; a sensor's delete is accepted before the faults."""
    if way in MODES:
        receipt = vectorize.delete(IDS)
        vectorize.server.set_faults(faults)
        return lambda: sensor(way, receipt, seconds)
    vectorize.server.set_faults(faults)
    return lambda: operator(way, seconds)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_a_wait_survives_faults(serve: Serve, monkeypatch: pytest.MonkeyPatch, way: str, kind: str) -> None:
    set_policy(monkeypatch, PATIENT)
    faults = faults_for(kind, "#1-2")
    vectorize = serve(apply_delay=0.2, timeout=timeout_for(faults))
    vectorize.fill([*IDS, *KEPT])
    make = task(vectorize, way, faults, 60)
    vectorize.server.reset_stats()
    run = run_tries(make)
    stats = vectorize.server.stats()
    vectorize.server.set_faults([])
    assert run.succeeded, run.errors
    assert vectorize.ids() == set(KEPT)
    evidence = run.result if way in MODES else run.pushed["evidence"]
    assert evidence["outcome"] in PROVEN
    # An operator does not repeat a read of witnesses whose answer is not JSON.
    witnesses = 0 if kind == "truncated" and way not in MODES else 5
    assert (evidence["still_visible"], evidence["witnesses_checked"]) == ([], witnesses)
    # One poll per interval: a request, and another for the witnesses. The other requests are the write's.
    assert stats["info"] <= run.seconds / POLL_INTERVAL + 2
    assert stats["get_by_ids"] <= stats["info"] + 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("way", WAYS)
def test_no_success_before_the_delete_is_applied(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, way: str, kind: str
) -> None:
    set_policy(monkeypatch, PATIENT)
    clock = Clock()
    faults = faults_for(kind, "@0.5")
    vectorize = serve(apply_delay=0.05, clock=clock, timeout=timeout_for(faults))
    vectorize.fill([*IDS, *KEPT])
    # Another client's mutation is applied when ours is accepted; nothing later is applied.
    vectorize.settle()
    clock.stop()
    run = run_tries(task(vectorize, way, faults, 0.3))
    vectorize.server.set_faults([])
    assert vectorize.ids() == {*IDS, *KEPT}
    (error,) = run.errors
    assert isinstance(error, VectorizeMutationTimeout if way in MODES else VectorizeWaitTimeout)
    assert run.result is None
    assert "evidence" not in run.pushed
    # The observations, or the reason for none.
    assert re.search("5 of 5 witnesses can still be read|The last poll failed: ", str(error)), error


@pytest.mark.parametrize("kind", [kind for kind in NAMES if kind != "refuse"])
@pytest.mark.parametrize("way", ["poke", "deferrable", "worker"])
def test_the_error_of_a_wait_names_the_fault(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, way: str, kind: str
) -> None:
    set_policy(monkeypatch, PATIENT)
    vectorize = serve(apply_delay=0, timeout=0.3 if kind == "hang" else None)
    vectorize.fill([*IDS, *KEPT])
    # The faults begin with the first poll; the write's own reads succeed.
    run = run_tries(task(vectorize, way, [f"{kind}:info"], 0.3))
    (error,) = run.errors
    assert isinstance(error, VectorizeMutationTimeout if way in MODES else VectorizeWaitTimeout)
    assert re.search(f"The last poll failed: .*{NAMES[kind]}", str(error)), error
    assert "evidence" not in run.pushed
