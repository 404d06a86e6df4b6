# SPDX-License-Identifier: Apache-2.0
"""Whole DAGs that delete by filter: templates, mapped tasks, and rounds across deferrals."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import task

from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByFilterOperator
from dags.running import make_dag, run_dag
from harness import DIMENSIONS, INDEX, Vectorize, make_context

pytestmark = pytest.mark.usefixtures("airflow_db")
CONN = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"
EMPTY = "{{ params.nothing }}"


def fill(vectorize: Vectorize) -> Vectorize:
    """Write a vector for each of d0 to d2; each has its own namespace and year."""
    for name, kind in (("doc", "string"), ("year", "number")):
        vectorize.client.create_metadata_index(INDEX, name, kind)
    vectors: list[Any] = [
        {
            "id": f"v{i}",
            "values": [0.5] * DIMENSIONS,
            "namespace": f"n{i}",
            "metadata": {"doc": f"d{i}", "year": 2000 + i},
        }
        for i in range(3)
    ]
    vectorize.wait_for(vectorize.client.upsert(INDEX, vectors)["mutationId"])
    return vectorize


def delete(task_id: str = "delete", **kwargs: Any) -> DeleteVectorsByFilterOperator:
    arguments = {"index_name": INDEX, "max_ids": 10, "poll_interval": 0.05, **kwargs}
    return DeleteVectorsByFilterOperator(task_id=task_id, **arguments)


def upstream(value: Any) -> Any:
    @task(task_id="upstream")
    def give() -> Any:
        return value

    return give()


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("nothing", ["", None])
@pytest.mark.parametrize(
    "given",
    [
        {"filter": EMPTY},
        {"filter": "{{ params.empty }}"},
        {"namespace": EMPTY},
        {"filter": {"doc": "d0"}, "namespace": EMPTY},
        {"filter": EMPTY, "namespace": "n0"},
        {"filter": {"doc": EMPTY}},
        {"filter": {"doc": {"$ne": EMPTY}}},
        {"filter": {"doc": {"$in": ["d0", EMPTY]}}},
        {"filter": {"doc": "", "year": EMPTY}},
        {"filter": '{"doc": "{{ params.nothing or "" }}"}'},
    ],
)
def test_filters_that_render_to_nothing_are_refused(
    vectorize: Vectorize, given: dict[str, Any], nothing: Any, native: bool
) -> None:
    with make_dag("nothing", render_template_as_native_obj=native):
        operator = delete(**given)
    operator.render_template_fields({"params": {"nothing": nothing, "empty": {}}})
    vectorize.server.reset_stats()
    with pytest.raises(VectorizeInputError, match=r"nothing|empty|value None"):
        operator.execute(make_context())
    assert sum(vectorize.server.stats().values()) == 0


def test_an_upstream_task_without_a_result_fails_the_delete(vectorize: Vectorize) -> None:
    fill(vectorize)
    with make_dag("nothing_upstream") as dag:
        given = upstream({"filter": {}, "doc": "", "none": None})
        delete("whole", filter=given["filter"])
        delete("none", filter=given["none"], namespace="n0")
        delete("value", filter={"doc": given["doc"]})
        delete("namespace", namespace=given["doc"])
    states = run_dag(dag).states
    assert {name for name, state in states.items() if state != "failed"} == {"upstream"}
    assert len(vectorize.ids()) == 3


@pytest.mark.parametrize(
    ("native", "filter"),
    [
        (False, {"doc": "{{ params.doc }}"}),
        (False, '{"year": {{ params.year }} }'),
        (True, {"year": "{{ params.year }}"}),
        (True, {"doc": {"$in": ["{{ params.doc }}", "other"]}, "year": {"$gte": 2000}}),
        (True, "{{ params.whole }}"),
    ],
)
def test_rendered_filters(vectorize: Vectorize, native: bool, filter: Any) -> None:
    fill(vectorize)
    params = {"doc": "d1", "year": 2001, "whole": {"year": 2001}}
    with make_dag("rendered_filter", params=params, render_template_as_native_obj=native) as dag:
        delete(filter=filter, namespace="n1")
    run = run_dag(dag)
    assert run.state == "success"
    assert vectorize.ids() == {"v0", "v2"}
    # A template converts a number to text only if it must.
    sent = run.pull("delete", "report")["filter"]
    assert sent.get("year") in (None, 2001, {"$gte": 2000})


def test_filters_of_mapped_tasks(vectorize: Vectorize) -> None:
    fill(vectorize)
    with make_dag("mapped_filters") as dag:
        arguments: dict[str, Any] = {"index_name": INDEX, "max_ids": 10, "poll_interval": 0.05}
        DeleteVectorsByFilterOperator.partial(task_id="delete", **arguments).expand(
            filter=upstream([{"doc": "d0"}, {}, None, {"doc": "{{ params.doc }}"}, {"doc": "d2"}])
        )
    states = run_dag(dag).states
    assert [states[f"delete[{i}]"] for i in range(5)] == ["success", "failed", "failed", "success", "success"]
    # Values from XCom are not rendered.
    assert vectorize.ids() == {"v1"}


def test_rounds_continue_across_deferrals(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalVectorize(apply_delay=0.02, recall=0.7) as server:
        monkeypatch.setenv(CONN, server.connection)
        vectorize = Vectorize(server)
        vectors: list[Any] = [
            {
                "id": f"v{i}",
                "values": [0.5, i, *[1.0] * (DIMENSIONS - 2)],
                "namespace": "n" if i < 300 else "m",
            }
            for i in range(400)
        ]
        vectorize.wait_for(vectorize.client.upsert(INDEX, vectors)["mutationId"])
        with make_dag("rounds") as dag:
            delete(namespace="n", max_ids=300, deferrable=True)
        run = run_dag(dag)
        assert run.state == "success"
        report = run.pull("delete", "report")
        # dag.test() drops the arguments of a resumed task; the report is complete anyway.
        assert (report["outcome"], report["found"], report["deleted"]) == ("none_found", 300, 300)
        assert report["rounds"] == sum(report["waits"].values()) > 1
        assert run.pull("delete") == run.pull("delete", "receipt")["mutation_id"]
        assert vectorize.ids() == {f"v{i}" for i in range(300, 400)}
