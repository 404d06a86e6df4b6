# SPDX-License-Identifier: Apache-2.0
"""Whole DAGs run by Airflow: results of reading operators, and operators that use them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import Param, task

from airflow_provider_cfvectorize.operators.vectors import (
    DeleteVectorsByIdsOperator,
    GetVectorsByIdsOperator,
    ListVectorsOperator,
    QueryVectorsOperator,
)
from dags.running import make_dag, run_dag
from harness import DIMENSIONS, INDEX, Vectorize

pytestmark = pytest.mark.usefixtures("airflow_db")

IDS = ["old-1", "old-a,b", "old-it's", "old- ", "old-é漢😀", "old-\u2028"]
OTHERS = ["1e5", "007", "new"]


def list_ids(**kwargs: Any) -> ListVectorsOperator:
    return ListVectorsOperator(task_id="list", index_name=INDEX, **kwargs)


def get(**kwargs: Any) -> GetVectorsByIdsOperator:
    return GetVectorsByIdsOperator(task_id="get", index_name=INDEX, **kwargs)


def query(**kwargs: Any) -> QueryVectorsOperator:
    return QueryVectorsOperator(task_id="query", index_name=INDEX, **kwargs)


def delete(**kwargs: Any) -> DeleteVectorsByIdsOperator:
    arguments: dict[str, Any] = {"wait_for_completion": True, "poll_interval": 0.05, **kwargs}
    return DeleteVectorsByIdsOperator(task_id="delete", index_name=INDEX, **arguments)


def upstream(value: Any) -> Any:
    """Return the output of a task with this result."""

    @task(task_id="upstream")
    def give() -> Any:
        return value

    return give()


# --- from one operator to the next --------------------------------------------------------------------------


@pytest.mark.parametrize("native", [False, True])
def test_listed_ids_are_deleted(vectorize: Vectorize, native: bool) -> None:
    vectorize.fill([*IDS, *OTHERS])
    with make_dag("purge", params={"prefix": "old-"}, render_template_as_native_obj=native) as dag:
        listing = list_ids(prefix="{{ params.prefix }}")
        delete(ids=listing.output)
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert vectorize.ids() == set(OTHERS)
    assert set(run.pull("list")) == set(IDS)
    assert run.pull("list", "report") == {"listed": 9, "matched": 6}


@pytest.mark.parametrize("suffix", ["txt", "ndjson"])
@pytest.mark.parametrize("native", [False, True])
def test_a_file_of_listed_ids_is_deleted(
    vectorize: Vectorize, tmp_path: Path, suffix: str, native: bool
) -> None:
    vectorize.fill([*IDS, *OTHERS])
    with make_dag("purge_file", params={"suffix": suffix}, render_template_as_native_obj=native) as dag:
        listing = list_ids(prefix="old-", path=f"{tmp_path}/{{{{ run_id }}}}/../ids.{{{{ params.suffix }}}}")
        delete(ids_path=listing.output)
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert vectorize.ids() == set(OTHERS)
    assert (tmp_path / f"ids.{suffix}").exists()


def test_a_mapped_delete_deletes_each_listing(vectorize: Vectorize, tmp_path: Path) -> None:
    vectorize.fill([*IDS, *OTHERS, "a-1"])
    with make_dag("mapped_listing") as dag:
        listing = ListVectorsOperator.partial(task_id="list", index_name=INDEX).expand_kwargs(
            [{"prefix": prefix, "path": f"{tmp_path}/{prefix}.txt"} for prefix in ("old-", "a-")]
        )
        DeleteVectorsByIdsOperator.partial(
            task_id="delete", index_name=INDEX, wait_for_completion=True, poll_interval=0.05
        ).expand(ids_path=listing.output)
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert vectorize.ids() == set(OTHERS)


def test_an_index_is_copied_through_a_file(vectorize: Vectorize, tmp_path: Path) -> None:
    vectorize.fill([*IDS, *OTHERS])
    with make_dag("copy") as dag:
        listing = list_ids(path=f"{tmp_path}/ids.ndjson")
        got = get(ids_path=listing.output, path=f"{tmp_path}/{{{{ dag.dag_id }}}}.ndjson")
        delete(ids=IDS, ids_path=None) << got
    run = run_dag(dag)
    assert run.state == "success", run.states
    path = run.pull("get")
    assert path == f"{tmp_path}/copy.ndjson"
    assert run.pull("get", "report") == {"asked": 9, "found": 9, "missing": 0, "missing_ids": []}
    assert vectorize.ids() == set(OTHERS)
    vectorize.wait_for(vectorize.client.upsert(INDEX, Path(path).read_bytes())["mutationId"])
    assert vectorize.ids() == {*IDS, *OTHERS}


def ids_from_params() -> dict[str, Any]:
    return {"ids": "{{ params.ids }}"}


def ids_from_upstream() -> dict[str, Any]:
    return {"ids": upstream(IDS)}


def ids_in_a_list() -> dict[str, Any]:
    return {"ids": ["{{ params.ids[0] }}", *IDS[1:]]}


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("make_ids", [ids_from_params, ids_from_upstream, ids_in_a_list])
def test_vectors_by_id(vectorize: Vectorize, make_ids: Callable[[], dict[str, Any]], native: bool) -> None:
    vectorize.fill([*IDS, *OTHERS])
    with make_dag(
        "by_id", params={"ids": Param(IDS, type="array")}, render_template_as_native_obj=native
    ) as dag:
        get(**make_ids())
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert run.pull("get") == [{"id": id_, "values": [0.5] * DIMENSIONS} for id_ in IDS]


# --- queries ------------------------------------------------------------------------------------------------


VECTOR = [1, 0.5, *[0.0] * (DIMENSIONS - 2)]


@pytest.fixture
def filled(vectorize: Vectorize) -> Vectorize:
    client = vectorize.client
    client.create_metadata_index(INDEX, "tenant", "string")
    vectorize.wait_for(client.create_metadata_index(INDEX, "year", "number")["mutationId"])
    vectors: list[Any] = [
        {
            "id": f"{tenant}-{year}",
            "values": [1, (year - 2000) / 10, *[0.0] * (DIMENSIONS - 2)],
            "namespace": namespace,
            "metadata": {"tenant": tenant, "year": year},
        }
        for tenant, namespace in (("a", "n"), ("007", "m"))
        for year in (2005, 2010)
    ]
    vectorize.wait_for(client.upsert(INDEX, vectors)["mutationId"])
    return vectorize


PARAMS: dict[str, Any] = {
    "vector": Param(VECTOR, type="array"),
    "k": 1,
    "year": 2010,
    "tenant": "007",
    "space": "m",
    "nothing": Param(None, type=["null", "string"]),
    "metadata": "indexed",
    "filter": Param({"tenant": "007", "year": {"$lte": 2010}}, type="object"),
}


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"vector": VECTOR, "top_k": 2}, {"a-2005", "007-2005"}),
        ({"vector": "{{ params.vector }}", "top_k": 2}, {"a-2005", "007-2005"}),
        (
            {"vector": "{{ params.vector | tojson }}", "namespace": "{{ params.space }}"},
            {"007-2005", "007-2010"},
        ),
        ({"vector": "{{ ti.xcom_pull('upstream') }}", "top_k": "{{ params.k + 1 }}"}, {"a-2005", "007-2005"}),
        ({"vector_id": "007-{{ params.year }}", "top_k": "{{ params.k }}", "namespace": "m"}, {"007-2010"}),
        (
            {"vector_id": "007-2010", "vector": "{{ params.nothing }}", "filter": {"tenant": "a"}},
            {"a-2005", "a-2010"},
        ),
        ({"vector": VECTOR, "filter": {"tenant": "{{ params.tenant }}"}}, {"007-2005", "007-2010"}),
        ({"vector": VECTOR, "filter": '{"year": {"$gte": {{ params.year }} }}'}, {"a-2010", "007-2010"}),
        ({"vector": VECTOR, "filter": "{{ params.filter }}"}, {"007-2005", "007-2010"}),
        (
            {"vector": VECTOR, "top_k": 1, "namespace": "n", "return_metadata": "{{ params.metadata }}"},
            {"a-2005"},
        ),
    ],
)
def test_queries(filled: Vectorize, native: bool, kwargs: dict[str, Any], expected: set[str]) -> None:
    with make_dag("queries", params=PARAMS, render_template_as_native_obj=native) as dag:
        upstream(VECTOR) >> query(**kwargs)
    run = run_dag(dag)
    assert run.state == "success", run.states
    result = run.pull("query")
    assert {match["id"] for match in result["matches"]} == expected
    assert result["count"] == len(expected)
    if "return_metadata" in kwargs:
        assert result["matches"][0]["metadata"] == {"tenant": "a", "year": 2005}


@pytest.mark.parametrize("native", [False, True])
def test_a_query_with_results_of_tasks(filled: Vectorize, native: bool) -> None:
    with make_dag("embed", render_template_as_native_obj=native) as dag:

        @task
        def narrow() -> dict[str, Any]:
            return {"tenant": "a", "year": {"$gt": 2005}}

        found = query(vector=upstream(VECTOR), filter=narrow())

        @task
        def ids_of(result: dict[str, Any]) -> list[str]:
            return [match["id"] for match in result["matches"]]

        get(ids=ids_of(found.output))
    run = run_dag(dag)
    assert run.state == "success", run.states
    (vector,) = run.pull("get")
    assert vector["metadata"] == {"tenant": "a", "year": 2010}


def test_a_number_in_a_filter_of_a_native_dag(filled: Vectorize) -> None:
    with make_dag("numbers", params=PARAMS, render_template_as_native_obj=True) as dag:
        query(vector=VECTOR, filter={"year": "{{ params.year }}"})
    run = run_dag(dag)
    assert {match["id"] for match in run.pull("query")["matches"]} == {"a-2010", "007-2010"}


def test_a_filter_with_results_of_mapped_tasks(filled: Vectorize) -> None:
    with make_dag("years") as dag:

        @task
        def year(x: int) -> int:
            return x

        query(vector=VECTOR, filter={"year": {"$in": year.expand(x=[2005, 2006])}})
    run = run_dag(dag)
    assert {match["id"] for match in run.pull("query")["matches"]} == {"a-2005", "007-2005"}


@pytest.mark.parametrize(
    ("native", "make_value", "nest"),
    [
        (False, lambda: upstream(None), lambda value: value),
        (False, lambda: upstream(None), lambda value: {"$ne": value}),
        (False, lambda: upstream(None), lambda value: {"$in": [value]}),
        (True, lambda: upstream(None), lambda value: {"$in": [value]}),
        (True, lambda: "{{ params.nothing }}", lambda value: value),
        (True, lambda: "{{ params.nothing }}", lambda value: {"$ne": value}),
    ],
    ids=range(6),
)
def test_none_in_a_filter_is_refused_unless_written_in_the_dag(
    filled: Vectorize,
    native: bool,
    make_value: Callable[[], Any],
    nest: Callable[[Any], Any],
) -> None:
    filled.server.reset_stats()
    with make_dag("none", params=PARAMS, render_template_as_native_obj=native) as dag:
        query(vector=VECTOR, filter={"tenant": nest(make_value())})
        QueryVectorsOperator(task_id="said", index_name=INDEX, vector=VECTOR, filter={"tenant": nest(None)})
    states = run_dag(dag).states
    assert (states["query"], states["said"]) == ("failed", "success")
    assert filled.server.stats()["query"] == 1


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("name", ["filter", "namespace", "prefix"])
def test_arguments_that_render_to_nothing_do_not_widen_a_read(
    filled: Vectorize, native: bool, name: str
) -> None:
    filled.server.reset_stats()
    with make_dag("nothing", params=PARAMS, render_template_as_native_obj=native) as dag:
        if name == "prefix":
            reading: Any = list_ids(prefix="{{ params.nothing }}")
        else:
            template: dict[str, Any] = {name: "{{ params.nothing }}"}
            reading = query(vector=VECTOR, **template)
        delete(ids=reading.output)
    run = run_dag(dag)
    assert run.states == {reading.task_id: "failed", "delete": "upstream_failed"}
    assert sum(filled.server.stats().values()) == 0


def test_a_result_too_large_for_an_xcom_fails(vectorize: Vectorize, tmp_path: Path) -> None:
    vectorize.fill([f"{i:064}" for i in range(4000)])
    with make_dag("large") as dag:
        list_ids()
    run = run_dag(dag)
    assert run.states == {"list": "failed"}
    assert run.pull("list") is None
    with make_dag("large_file") as dag:
        list_ids(path=f"file://{tmp_path}/ids.ndjson")
    run = run_dag(dag)
    assert run.state == "success"
    assert run.pull("list") == f"file://{tmp_path}/ids.ndjson"
    lines = (tmp_path / "ids.ndjson").read_text().splitlines()
    assert {json.loads(line)["id"] for line in lines} == {f"{i:064}" for i in range(4000)}
