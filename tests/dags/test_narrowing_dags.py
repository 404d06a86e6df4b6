# SPDX-License-Identifier: Apache-2.0
"""A prefix, filter, namespace or account that renders to nothing must not widen the task to everything."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import task

from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.operators.indexes import DeleteVectorizeIndexOperator
from airflow_provider_cfvectorize.operators.vectors import (
    DeleteVectorsByIdsOperator,
    ListVectorsOperator,
    QueryVectorsOperator,
    ReconcileVectorsOperator,
)
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor
from dags.running import make_dag, run_dag
from harness import DIMENSIONS, INDEX, Vectorize, make_context

pytestmark = pytest.mark.usefixtures("airflow_db")
VALUES = [0.5] * DIMENSIONS
MUTATION = "1e3fcbc1-7b5c-4cb5-b9e2-0a7e6ab2c3d4"


def upstream(value: Any) -> Any:
    @task(task_id="upstream")
    def give() -> Any:
        return value

    return give()


@pytest.mark.parametrize("how", ["literal", "xcom", "kwargs"])
def test_a_mapped_prefix_of_none_fails(vectorize: Vectorize, how: str) -> None:
    vectorize.fill(["a-1", "b-1"])
    with make_dag(f"mapped_prefix_{how}") as dag:
        part = ListVectorsOperator.partial(task_id="list", index_name=INDEX)
        if how == "literal":
            part.expand(prefix=["a-", None])
        elif how == "xcom":
            part.expand(prefix=upstream(["a-", None]))
        else:
            part.expand_kwargs(upstream([{"prefix": "a-"}, {"prefix": None}]))
    run = run_dag(dag)
    assert run.states["list[1]"] == "failed", run.pull("list", map_index=1)


@pytest.mark.parametrize("name", ["namespace", "filter"])
def test_a_mapped_namespace_or_filter_of_none_fails(vectorize: Vectorize, name: str) -> None:
    vectors = [{"id": n, "values": VALUES, "namespace": n, "metadata": {"t": n}} for n in ("a", "b")]
    vectorize.wait_for(vectorize.client.create_metadata_index(INDEX, "t", "string")["mutationId"])
    vectorize.wait_for(vectorize.client.upsert(INDEX, vectors)["mutationId"])
    with make_dag(f"mapped_{name}") as dag:
        QueryVectorsOperator.partial(task_id="query", index_name=INDEX, vector=VALUES).expand(
            **{name: upstream(["a" if name == "namespace" else {"t": "a"}, None, {}])}
        )
    run = run_dag(dag)
    assert run.pull("query", map_index=0)["count"] == 1
    for map_index in (1, 2):
        state = run.states[f"query[{map_index}]"]
        assert state == "failed", run.pull("query", map_index=map_index)


def test_a_mapped_reconciliation_without_a_tenant_fails(vectorize: Vectorize) -> None:
    vectorize.fill(["a-1", "b-1"])
    with make_dag("mapped_reconcile") as dag:
        ReconcileVectorsOperator.partial(
            task_id="reconcile", index_name=INDEX, ids=[], allow_empty=True, poll_interval=0.05
        ).expand(id_prefix=upstream(["a-", None]))
    run = run_dag(dag)
    assert (run.states["reconcile[0]"], run.states["reconcile[1]"]) == ("success", "failed")
    assert vectorize.ids() == {"b-1"}


@pytest.mark.parametrize(("native", "account"), [(False, ""), (True, None)])
def test_an_account_that_renders_to_nothing_fails(vectorize: Vectorize, native: bool, account: Any) -> None:
    with make_dag(
        f"account_{native}", params={"account": account}, render_template_as_native_obj=native
    ) as dag:
        DeleteVectorizeIndexOperator(task_id="delete", index_name=INDEX, account_id="{{ params.account }}")
    run = run_dag(dag)
    assert run.states["delete"] == "failed"
    assert [index["name"] for index in vectorize.client.list_indexes()] == [INDEX]


@pytest.mark.parametrize("account", ["", None])
def test_an_empty_mapped_account_fails(vectorize: Vectorize, account: str | None) -> None:
    vectorize.fill(["a"])
    vectorize.server.reset_stats()
    with make_dag("mapped_account") as dag:
        accounts = upstream([account])
        DeleteVectorsByIdsOperator.partial(task_id="delete", index_name=INDEX, ids=["a"]).expand(
            account_id=accounts
        )
        DeleteVectorizeIndexOperator.partial(task_id="drop", index_name=INDEX).expand_kwargs(
            upstream([{"account_id": account}])
        )
        VectorizeMutationSensor.partial(
            task_id="wait", index_name=INDEX, mutation_id=MUTATION, poke_interval=0.1, timeout=1
        ).expand(account_id=accounts)
    run = run_dag(dag)
    assert {run.states[f"{task_id}[0]"] for task_id in ("delete", "drop", "wait")} == {"failed"}
    assert sum(vectorize.server.stats().values()) == 0


def test_a_mapped_task_without_a_prefix_lists_everything(vectorize: Vectorize, tmp_path: Path) -> None:
    vectorize.fill(["a-1", "b-1"])
    with make_dag("left_out") as dag:
        ListVectorsOperator.partial(task_id="list", index_name=INDEX).expand(path=[f"{tmp_path}/ids.txt"])
    assert run_dag(dag).state == "success"
    assert set((tmp_path / "ids.txt").read_text().split()) == {"a-1", "b-1"}


def test_a_copy_of_a_mapped_task_behaves_like_the_task(vectorize: Vectorize) -> None:
    with make_dag("copied"):
        mapped = ListVectorsOperator.partial(task_id="list", index_name=INDEX).expand(prefix=[None])
    copied = copy.deepcopy(mapped.unmap({"prefix": None}))
    with pytest.raises(VectorizeInputError, match="prefix is None after rendering"):
        copied.execute(make_context())


def test_none_in_a_plain_task_means_no_account_and_no_prefix(vectorize: Vectorize) -> None:
    vectorize.fill(["a-1", "b-1"])
    with make_dag("plain_none") as dag:
        ListVectorsOperator(task_id="list", index_name=INDEX, prefix=None, account_id=None)
    assert sorted(run_dag(dag).pull("list")) == ["a-1", "b-1"]
