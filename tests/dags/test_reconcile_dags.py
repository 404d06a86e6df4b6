# SPDX-License-Identifier: Apache-2.0
"""Whole DAGs run by Airflow that reconcile an index."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import task, task_group

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.exceptions import VectorizeTransportError
from airflow_provider_cfvectorize.operators.vectors import (
    DeleteVectorsByIdsOperator,
    ReconcileVectorsOperator,
)
from dags.running import make_dag, run_dag
from harness import DIMENSIONS, INDEX, Vectorize

pytestmark = pytest.mark.usefixtures("airflow_db")

IDS = ["plain", "a,b", "it's", "two words", "line\u2028sep", "é漢😀", "1e5", "007"]
OLD = {"plai", "100000.0", "7", "old"}


def reconcile(**kwargs: Any) -> ReconcileVectorsOperator:
    arguments = {
        "task_id": "reconcile",
        "index_name": INDEX,
        "max_delete_fraction": 0.5,
        "poll_interval": 0.05,
        **kwargs,
    }
    return ReconcileVectorsOperator(**arguments)


def desired() -> Any:
    @task(task_id="desired")
    def give() -> list[str]:
        return IDS

    return give()


def from_list(path: Path) -> dict[str, Any]:
    return {"ids": IDS}


def from_xcom(path: Path) -> dict[str, Any]:
    return {"ids": desired()}


def from_params(path: Path) -> dict[str, Any]:
    return {"ids": "{{ params.ids }}"}


def from_file(path: Path) -> dict[str, Any]:
    path.write_text("\n".join(IDS))
    return {"ids_path": f"{path.parent}/{{{{ params.file }}}}.txt"}


def from_object_storage(path: Path) -> dict[str, Any]:
    path.write_text("\r\n".join(IDS))
    return {"ids_path": f"file://{path.parent}/{{{{ params.file }}}}.txt"}


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("source", [from_list, from_xcom, from_params, from_file, from_object_storage])
def test_desired_ids_from_each_source(
    vectorize: Vectorize,
    tmp_path: Path,
    source: Callable[[Path], dict[str, Any]],
    native: bool,
    deferrable: bool,
) -> None:
    vectorize.fill([*IDS[1:], *OLD])
    with make_dag(
        "desired", params={"ids": IDS, "file": "desired"}, render_template_as_native_obj=native
    ) as dag:
        reconcile(deferrable=deferrable, **source(tmp_path / "desired.txt"))
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert vectorize.ids() == set(IDS[1:])
    report = run.pull("reconcile", "report")
    assert (report["listed"], report["surplus"], report["deleted"]) == (len(IDS) - 1 + 4, 4, 4)
    assert report["missing_ids"] == ["plain"]
    evidence = run.pull("reconcile", "evidence")
    assert run.pull("reconcile") == evidence["mutation_id"]
    assert run.pull("reconcile", "receipt")["mutation_id"] == evidence["mutation_id"]


@pytest.mark.parametrize("deferrable", [False, True])
def test_missing_ids_are_written_downstream(vectorize: Vectorize, tmp_path: Path, deferrable: bool) -> None:
    vectorize.fill(["a", "old"])
    with make_dag("missing", params={"folder": str(tmp_path)}) as dag:
        operator = reconcile(
            ids=["a", "b", "c"], missing_path="{{ params.folder }}/missing.txt", deferrable=deferrable
        )

        @task
        def write(report: dict[str, Any]) -> None:
            from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook

            ids = Path(report["missing_path"]).read_text().split()
            vectors = [{"id": id_, "values": [1.0] * DIMENSIONS} for id_ in ids]
            CloudflareVectorizeHook().upsert(INDEX, vectors)

        write(operator.output["report"])
    run = run_dag(dag)
    assert run.state == "success", run.states
    vectorize.settle()
    assert vectorize.ids() == {"a", "b", "c"}


def test_a_delete_reads_the_surplus_file_of_a_dry_run(vectorize: Vectorize, tmp_path: Path) -> None:
    vectorize.fill([*IDS, *OLD, "line\nbreak"])
    with make_dag("rehearse", params={"folder": str(tmp_path)}) as dag:
        operator = reconcile(ids=IDS, dry_run=True, surplus_path="{{ params.folder }}/surplus.ndjson")
        operator >> DeleteVectorsByIdsOperator(
            task_id="delete",
            index_name=INDEX,
            ids_path="{{ ti.xcom_pull('reconcile', key='report')['surplus_path'] }}",
            wait_for_completion=True,
            poll_interval=0.05,
        )
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert run.pull("reconcile") is None
    assert vectorize.ids() == set(IDS)


def test_a_mapped_task_per_tenant(vectorize: Vectorize) -> None:
    vectorize.fill(["t1/a", "t1/b", "t2/a", "t2/b", "t3/a"])
    with make_dag("tenants") as dag:
        ReconcileVectorsOperator.partial(
            task_id="reconcile",
            index_name=INDEX,
            max_delete_fraction=0.5,
            allow_empty=True,
            poll_interval=0.05,
        ).expand_kwargs(
            [{"id_prefix": "t1/", "ids": ["t1/a", "t1/c"]}, {"id_prefix": "t2/", "ids": []}],
        )
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert vectorize.ids() == {"t1/a", "t3/a"}
    reports = [run.pull("reconcile", "report", map_index=i) for i in range(2)]
    assert [(report["id_prefix"], report["deleted"]) for report in reports] == [("t1/", 1), ("t2/", 2)]


def test_mapped_tasks_over_one_scope_are_refused(vectorize: Vectorize) -> None:
    mine = [Vectorize(vectorize.server, name) for name in ("one", "two", "three")]
    for index in (vectorize, *mine):
        index.fill(["a", "b", "old"])
    with make_dag("chunks", params={"name": INDEX}) as dag:

        @task
        def names() -> list[str]:
            return ["one", "two"]

        @task
        def chunks() -> list[list[str]]:
            return [["a"], ["b"]]

        def partial(task_id: str, **kwargs: Any) -> Any:
            arguments = {"max_delete_fraction": 1, "poll_interval": 0.05, **kwargs}
            return ReconcileVectorsOperator.partial(task_id=task_id, **arguments)

        @task_group
        def group(ids: list[str]) -> None:
            ReconcileVectorsOperator(task_id="inside", index_name=INDEX, ids=ids, max_delete_fraction=1)

        group.expand(ids=chunks())
        partial("refused", index_name=INDEX).expand(ids=chunks())
        partial("one_prefix", index_name="{{ params.name }}", id_prefix="old").expand(ids=[["old"], ["old2"]])
        partial("one_name", ids=["a"]).expand(index_name=[INDEX, INDEX])
        partial("templates", ids=["a"]).expand(index_name=[INDEX, "{{ params.name }}"])
        partial("two_ways").expand(index_name=[INDEX], ids=chunks())
        in_kwargs = [{"index_name": INDEX, "ids": [id_]} for id_ in ("a", "b")]
        partial("in_kwargs").expand_kwargs(in_kwargs)
        template = "{{ ['a', 'b'][ti.map_index] }}"
        partial("prefixes", index_name=INDEX, id_prefix=template).expand(ids=chunks())
        literal = partial("literal", ids=["a", "b"]).expand(index_name=["one", "two"])
        literal >> partial("xcom", ids=["a"]).expand(index_name=names())
        partial("owned", owns_index=True).expand_kwargs([{"index_name": "three", "ids": ["b"]}])
    states = run_dag(dag).states
    refused = ("group.inside", "refused", "one_prefix", "one_name", "templates", "two_ways", "in_kwargs")
    assert {states[f"{name}[{i}]"] for name in refused for i in (0, 1)} == {"failed"}
    good = ("prefixes[0]", "prefixes[1]", "literal[0]", "literal[1]", "xcom[0]", "xcom[1]", "owned[0]")
    assert {states[name] for name in good} == {"success"}
    assert vectorize.ids() == {"a", "b", "old"}
    assert [index.ids() for index in mine] == [{"a"}, {"a"}, {"b"}]


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("prefix", [None, ""])
def test_an_empty_prefix_deletes_nothing(vectorize: Vectorize, native: bool, prefix: str | None) -> None:
    vectorize.fill(["t1/a", "None"])
    with make_dag("nothing", params={"prefix": prefix}, render_template_as_native_obj=native) as dag:
        reconcile(ids=[], id_prefix="{{ params.prefix }}", allow_empty=True)
    assert run_dag(dag).states == {"reconcile": "failed"}
    assert vectorize.ids() == {"t1/a", "None"}


def test_a_refusal_fails_the_task_and_pushes_the_reason(vectorize: Vectorize) -> None:
    vectorize.fill([*IDS[:2], *OLD])
    with make_dag("guarded") as dag:
        reconcile(ids=IDS)
    run = run_dag(dag)
    assert run.states == {"reconcile": "failed"}
    assert "4 of 6 ids" in run.pull("reconcile", "report")["refused"]
    assert run.pull("reconcile", "receipt") is None
    assert vectorize.ids() == {*IDS[:2], *OLD}


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_retry_deletes_the_remaining_ids(
    vectorize: Vectorize, monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    old = {f"old{i}" for i in range(250)}
    vectorize.fill(["a", *old])
    requests = iter(range(100))
    send = VectorizeClient.delete_by_ids

    def break_once(client: VectorizeClient, *args: Any) -> Any:
        if next(requests) == 1:
            raise VectorizeTransportError("broken")
        return send(client, *args)

    monkeypatch.setattr(VectorizeClient, "delete_by_ids", break_once)
    with make_dag("retried") as dag:
        reconcile(
            ids=["a"],
            max_delete_fraction=1,
            concurrency=1,
            deferrable=deferrable,
            retries=1,
            retry_delay=timedelta(0),
        )
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert run.tries("reconcile") == 2
    assert vectorize.ids() == {"a"}
