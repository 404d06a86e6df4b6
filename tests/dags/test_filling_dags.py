# SPDX-License-Identifier: Apache-2.0
"""Whole DAGs run by Airflow that fill an index."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import Param, task

from airflow_provider_cfvectorize.operators.vectors import (
    DeleteVectorsByIdsOperator,
    InsertVectorsOperator,
    UpsertVectorsOperator,
)
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor
from dags.running import make_dag, run_dag
from harness import DIMENSIONS, INDEX, MODES, Vectorize

pytestmark = pytest.mark.usefixtures("airflow_db")

OPERATORS = {"upsert": UpsertVectorsOperator, "insert": InsertVectorsOperator}
VECTORS = [{"id": f"v{i}", "values": [i / 10] * DIMENSIONS, "metadata": {"n": i}} for i in range(10)]


def generate(count: int = 10, prefix: str = "v") -> Iterator[dict[str, Any]]:
    for i in range(int(count)):
        yield {"id": f"{prefix}{i}", "values": [0.5] * DIMENSIONS}


def ids(count: int = 10) -> set[str]:
    return {f"v{i}" for i in range(count)}


@task
def embed() -> list[dict[str, Any]]:
    return VECTORS


@pytest.mark.parametrize("route", ["upsert", "insert"])
@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("how", ["xcom", "jinja", "native", "path", "callable"])
def test_a_fill_and_its_wait_in_one_task(
    vectorize: Vectorize, tmp_path: Path, route: str, deferrable: bool, how: str
) -> None:
    path = tmp_path / "vectors.ndjson"
    path.write_text("".join(f"{json.dumps(vector)}\n" for vector in VECTORS))
    params = {"path": str(path), "vectors": Param(VECTORS, type="array"), "count": 10}
    with make_dag(
        f"fill_{route}_{how}_{deferrable}", params=params, render_template_as_native_obj=how == "native"
    ) as dag:
        kwargs: dict[str, Any] = {
            "xcom": lambda: {"vectors": embed()},
            "jinja": lambda: {"vectors": "{{ params.vectors }}"},
            "native": lambda: {"vectors": "{{ params.vectors }}"},
            "path": lambda: {"vectors_path": "{{ params.path }}"},
            "callable": lambda: {
                "vectors_callable": generate,
                "vectors_kwargs": {"count": "{{ params.count }}"},
            },
        }[how]()
        OPERATORS[route](
            task_id="fill",
            index_name=INDEX,
            wait_for_completion=True,
            deferrable=deferrable,
            poll_interval=0.05,
            **kwargs,
        )
    assert dag.task_ids
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert vectorize.ids() == ids()
    evidence = run.pull("fill", "evidence")
    assert (evidence["mutation_id"], evidence["outcome"]) == (run.pull("fill"), "watermark")
    assert run.pull("fill", "report") == {"vectors": 10, "requests": 1, "discarded": 0}


def test_values_from_upstream_are_not_rendered(vectorize: Vectorize) -> None:
    @task
    def give() -> list[dict[str, Any]]:
        return [{"id": "{{ id }}", "values": [0.5] * DIMENSIONS, "metadata": {"text": "{{ braces }}"}}]

    with make_dag("fill_braces") as dag:
        UpsertVectorsOperator(
            task_id="fill", index_name=INDEX, vectors=give(), wait_for_completion=True, poll_interval=0.05
        )
    run = run_dag(dag)
    assert run.state == "success", run.states
    (found,) = vectorize.client.get_by_ids(INDEX, ["{{ id }}"])
    assert found["metadata"] == {"text": "{{ braces }}"}


@pytest.mark.parametrize("mode", MODES)
def test_a_sensor_waits_for_an_overtaken_upsert(vectorize: Vectorize, mode: str) -> None:
    with make_dag(f"fill_wait_{mode}") as dag:
        upsert = UpsertVectorsOperator(task_id="upsert", index_name=INDEX, vectors=embed())

        @task
        def overtake() -> None:
            vectorize.settle()

        wait = VectorizeMutationSensor(
            task_id="wait",
            index_name=INDEX,
            mutation_id=upsert.output,
            poke_interval=0.05,
            timeout=20,
            require_equal=True,
            **({"deferrable": True} if mode == "deferrable" else {"mode": mode}),
        )
        upsert >> overtake() >> wait
    run = run_dag(dag)
    assert run.state == "success", run.states
    evidence = run.pull("wait")
    assert (evidence["outcome"], evidence["witnesses_checked"], evidence["differing"]) == ("read_back", 5, [])


def test_a_mapped_task_per_file(vectorize: Vectorize, tmp_path: Path) -> None:
    paths = []
    for n in range(3):
        paths.append(str(tmp_path / f"{n}.ndjson"))
        lines = [json.dumps({"id": f"v{n * 4 + i}", "values": [0.5] * DIMENSIONS}) for i in range(4)]
        Path(paths[-1]).write_text("\n".join(lines))
    with make_dag("fill_mapped"):
        upsert = UpsertVectorsOperator.partial(task_id="upsert", index_name=INDEX).expand(vectors_path=paths)
        wait = VectorizeMutationSensor(
            task_id="wait", index_name=INDEX, mutation_id=upsert.output, poke_interval=0.05, deferrable=True
        )
    run = run_dag(wait.dag)
    assert run.state == "success", run.states
    assert vectorize.ids() == ids(12)
    assert run.pull("wait")["mutation_count"] == 3


def test_a_file_can_be_upserted_and_deleted(vectorize: Vectorize, tmp_path: Path) -> None:
    vectorize.fill(["other"])
    path = tmp_path / "vectors.ndjson"
    path.write_text("".join(f"{json.dumps(vector)}\n" for vector in VECTORS))
    kwargs: dict[str, Any] = {"index_name": INDEX, "wait_for_completion": True, "poll_interval": 0.05}
    with make_dag("fill_and_empty") as dag:
        upsert = UpsertVectorsOperator(task_id="upsert", vectors_path=str(path), **kwargs)
        delete = DeleteVectorsByIdsOperator(task_id="delete", ids_path=str(path), **kwargs)
        upsert >> delete
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert vectorize.ids() == {"other"}


def test_a_bad_vector_fails_the_task(vectorize: Vectorize) -> None:
    with make_dag("fill_bad") as dag:
        UpsertVectorsOperator(task_id="upsert", index_name=INDEX, vectors=[{"id": "a", "values": [1]}])
    assert run_dag(dag).state == "failed"
    assert vectorize.ids() == set()
