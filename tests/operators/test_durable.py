# SPDX-License-Identifier: Apache-2.0
"""An attempt after a complete attempt: Airflow can fail a task after its write is complete."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.operators.vectors import (
    DeleteVectorsByIdsOperator,
    InsertVectorsOperator,
    ReconcileVectorsOperator,
    UpsertVectorsOperator,
)
from client.stores import Store
from harness import INDEX, Vectorize, make_context, run_task

IDS = [f"v{i}" for i in range(150)]
WRITES = ("delete_by_ids", "insert", "upsert")


def run_attempt(make: Callable[[], Any], store: Store) -> dict[str, Any]:
    """Run one attempt of a task and return its XComs."""
    context = {**make_context(), "task_state_store": store}
    result = run_task(make, context)
    return {**context["ti"].pushed, "return_value": result}


def writes(server: LocalVectorize) -> dict[str, int]:
    return {name: server.stats()[name] for name in WRITES}


@pytest.mark.parametrize("waits", [{}, {"wait_for_completion": True}, {"deferrable": True}])
@pytest.mark.parametrize("kind", ["delete", "delete a batch", "upsert", "insert", "reconcile"])
def test_an_attempt_after_a_complete_attempt_sends_nothing(
    vectorize: Vectorize, server: LocalVectorize, tmp_path: Path, kind: str, waits: dict[str, bool]
) -> None:
    path = tmp_path / "vectors.ndjson"
    path.write_text("".join(json.dumps({"id": f"n{i}", "values": [0.25] * 32}) + "\n" for i in range(9)))
    make, inputs = {
        "delete": (DeleteVectorsByIdsOperator, {"ids": IDS}),
        "delete a batch": (DeleteVectorsByIdsOperator, {"ids": IDS[:9], "verify": "sample"}),
        "upsert": (UpsertVectorsOperator, {"vectors_path": str(path)}),
        "insert": (InsertVectorsOperator, {"vectors_path": str(path)}),
        "reconcile": (ReconcileVectorsOperator, {"ids": IDS[120:], "max_delete_fraction": 1}),
    }[kind]
    waits = {"wait_for_completion": bool(waits), "deferrable": False} | waits
    vectorize.fill(IDS)
    store = Store()

    def task() -> Any:
        return make(task_id="write", index_name=INDEX, poll_interval=0.02, wait_timeout=20, **inputs, **waits)

    first = run_attempt(task, store)
    vectorize.settle()
    # Another writer changes the vectors; the next attempt must not change them again.
    if make in (DeleteVectorsByIdsOperator, ReconcileVectorsOperator):
        vectorize.fill(IDS)
    else:
        vectorize.delete([f"n{i}" for i in range(9)])
        vectorize.settle()
    before, ids = writes(server), vectorize.ids()
    assert run_attempt(task, store) == first
    assert first["receipt"].get("witness_ids") or first["receipt"]["witness_vectors"]
    assert writes(server) == before
    assert vectorize.ids() == ids
