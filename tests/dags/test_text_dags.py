# SPDX-License-Identifier: Apache-2.0
"""Whole DAGs run by Airflow: prefixes, names and paths stay text, with and without native rendering."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, Param

from airflow_provider_cfvectorize.operators.indexes import CreateVectorizeMetadataIndexOperator
from airflow_provider_cfvectorize.operators.vectors import (
    GetVectorsByIdsOperator,
    ListVectorsOperator,
    QueryVectorsOperator,
    ReconcileVectorsOperator,
    UpsertVectorsOperator,
)
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor
from dags.running import make_dag, run_dag
from harness import DIMENSIONS, INDEX, Vectorize

pytestmark = pytest.mark.usefixtures("airflow_db")
VALUES = [0.5] * DIMENSIONS


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("prefix", ["'a'", "2024", "1e5", "True", "[1]"])
def test_a_prefix_stays_text(vectorize: Vectorize, native: bool, prefix: str) -> None:
    vectorize.fill([f"{prefix}-1", "a-1", "100000.0"])
    with make_dag("text", params={"prefix": prefix}, render_template_as_native_obj=native) as dag:
        ListVectorsOperator(task_id="list", index_name=INDEX, prefix="{{ params.prefix }}")
        ListVectorsOperator.partial(task_id="mapped", index_name=INDEX).expand(prefix=["{{ params.prefix }}"])
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert run.pull("list") == run.pull("mapped", map_index=0) == [f"{prefix}-1"]


@pytest.mark.parametrize("native", [False, True])
def test_names_stay_text(vectorize: Vectorize, tmp_path: Path, native: bool) -> None:
    vector: Any = {"id": "0x1f", "values": VALUES, "namespace": "2024"}
    vectorize.wait_for(vectorize.client.upsert(INDEX, [vector, {**vector, "id": "'a'"}])["mutationId"])
    params = {"space": 2024, "id": "0x1f", "prefix": "'a'", "path": f"{tmp_path}/'a'", "property": "1_0"}
    with make_dag("names", params=params, render_template_as_native_obj=native) as dag:
        QueryVectorsOperator(
            task_id="query", index_name=INDEX, vector_id="{{ params.id }}", namespace="{{ params.space }}"
        )
        ListVectorsOperator(task_id="list", index_name=INDEX, path="{{ params.path }}")
        ReconcileVectorsOperator(
            task_id="reconcile", index_name=INDEX, ids=["'a'"], id_prefix="{{ params.prefix }}"
        )
        CreateVectorizeMetadataIndexOperator(
            task_id="create", index_name=INDEX, property_name="{{ params.property }}", index_type="string"
        )
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert run.pull("query")["count"] == 2
    assert run.pull("list") == f"{tmp_path}/'a'"
    assert run.pull("reconcile", "report")["id_prefix"] == "'a'"
    vectorize.settle()
    assert [one["propertyName"] for one in vectorize.client.list_metadata_indexes(INDEX)] == ["1_0"]


def test_the_names_of_a_sensor_stay_text() -> None:
    with make_dag("sensed", render_template_as_native_obj=True):
        sensor = VectorizeMutationSensor(task_id="wait", index_name="{{ '2024' }}", account_id="{{ '1e5' }}")
    sensor.render_template_fields({})
    assert (sensor.index_name, sensor.account_id) == ("2024", "1e5")


def test_a_path_of_none_is_none_in_a_native_dag(vectorize: Vectorize) -> None:
    params = {"nothing": Param(None, type=["null", "string"])}
    with make_dag("no_path", params=params, render_template_as_native_obj=True) as dag:
        GetVectorsByIdsOperator(
            task_id="get", index_name=INDEX, ids=["a"], ids_path="{{ params.nothing }}", path="{{ none }}"
        )
    assert run_dag(dag).pull("get") == []


@pytest.mark.parametrize("native", [False, True])
def test_lists_in_lists_share_an_environment(monkeypatch: pytest.MonkeyPatch, native: bool) -> None:
    vectors = [{"id": str(i), "values": [1, "{{ 2 }}"], "metadata": {"tags": ["0x1f"]}} for i in range(50)]
    made: list[bool] = []
    make_env = DAG.get_template_env

    def count(dag: Any, **kwargs: Any) -> Any:
        made.append(True)
        return make_env(dag, **kwargs)

    monkeypatch.setattr(DAG, "get_template_env", count)
    with make_dag("nested", render_template_as_native_obj=native):
        operator = UpsertVectorsOperator(task_id="fill", index_name=INDEX, vectors=vectors)
    operator.render_template_fields({})
    assert operator.vectors == [{**vector, "values": [1, "2"]} for vector in vectors]
    # The DAG's environment, one for text fields, one for the vectors.
    assert len(made) == (3 if native else 1)
