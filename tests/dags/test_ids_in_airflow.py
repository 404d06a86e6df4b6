# SPDX-License-Identifier: Apache-2.0
"""
Where Airflow stores ids after a run, compared with the table of docs/ids-in-airflow.md.

Each id contains a mark that no other test uses, so the tests can search all of Airflow's database for it.
"""

from __future__ import annotations

import importlib.util
import json
import logging
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import DAG, TaskDeferred

from airflow_provider_cfvectorize.client.mutations.receipts import MAX_WITNESSES
from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByIdsOperator
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor
from client.servers import Reply, Request, refused
from dags.running import Run, make_dag, query, register, run_dag
from harness import INDEX, Vectorize, make_context
from operators.relay import Relay
from readme.markdown import read

pytestmark = pytest.mark.usefixtures("airflow_db")

VERSION = tuple(int(part) for part in airflow_version.split(".")[:2])
PAGE = "docs/ids-in-airflow.md"
#: More than a batch, and few enough for the length that Airflow stores of a rendered field.
COUNT = 120
#: The columns of the page's table: the ways to pass ids to the task.
WAYS = ["in the DAG's file", "run's conf", "XCom", "`ids_path`", '`ids_path`, `verify="none"`']
#: A DAG file; tests fill in `ids`, params and the rest.
SOURCE = """\
from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByIdsOperator
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor

with DAG({dag_id!r}, schedule=None, params={params!r}) as dag:

    @task{task}
    def choose(path):
        with open(path) as file:
            return file.read().split()

    delete = DeleteVectorsByIdsOperator(task_id="delete", index_name="docs", {passed})
    VectorizeMutationSensor(
        task_id="wait", index_name="docs", mutation_id=delete.output, deferrable=True, poke_interval=0.05
    )
"""


def ids_of(mark: str) -> list[str]:
    return [f"{mark}-{i:03}" for i in range(COUNT)]


def marked(mark: str, text: object) -> set[str]:
    """Return the ids with this mark in a text or in bytes from Airflow's database."""
    whole = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    return set(re.findall(rf"{mark}-\d{{3}}", whole))


def places(mark: str) -> dict[str, int]:
    """Return the number of ids with this mark in each column of Airflow's database."""
    found: dict[str, int] = {}
    for (table,) in query("SELECT name FROM sqlite_master WHERE type='table'"):
        for _, column, *_ in query(f'PRAGMA table_info("{table}")'):
            cells = query(f'SELECT "{column}" FROM "{table}"')
            ids = {id_ for (cell,) in cells for id_ in marked(mark, cell)}
            if ids:
                found[f"{table}.{column}"] = len(ids)
    return found


def dag_in_a_file(path: Path, **parts: Any) -> DAG:
    """Return a DAG from its own file and write it to Airflow's database."""
    path.write_text(SOURCE.format(**{"params": {}, "task": "", **parts}))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    dag: DAG = module.dag
    if VERSION < (3, 0):
        # The DAG processor does this in Airflow 2; run_dag() does it for Airflow 3.
        from airflow.models.dag import DAG as DagOfAirflow2
        from airflow.models.serialized_dag import SerializedDagModel

        DagOfAirflow2.bulk_write_to_db([dag])
        SerializedDagModel.write_dag(dag)
    return dag


def run_way(way: str, mark: str, vectorize: Vectorize, directory: Path, **parts: Any) -> Run:
    """Delete ids that are passed to the task in this way."""
    ids = ids_of(mark)
    vectorize.fill(ids)
    path = directory / "ids.txt"
    path.write_text("\n".join(ids))
    passed = {
        "in the DAG's file": f"ids={ids!r}",
        "run's conf": 'ids="{{ params.ids }}"',
        "XCom": f"ids=choose({str(path)!r})",
        "`ids_path`": f"ids_path={str(path)!r}",
        '`ids_path`, `verify="none"`': f'ids_path={str(path)!r}, verify="none"',
        "default of a param": 'ids="{{ params.ids }}"',
    }[way]
    params = {"run's conf": {"ids": []}, "default of a param": {"ids": ids}}.get(way, {})
    dag = dag_in_a_file(directory / f"{mark}.py", dag_id=mark, passed=passed, params=params, **parts)
    run = run_dag(dag, run_conf={"ids": ids} if way == "run's conf" else None)
    assert run.state == "success", run.states
    assert not vectorize.ids() & set(ids)
    return run


def documented(way: str) -> dict[str, int]:
    """Return the page's numbers for a way and this version of Airflow."""
    number = {"all": COUNT, "5": MAX_WITNESSES}
    column = 1 + WAYS.index(way)
    expected = {
        row[0].strip("`"): number[row[column]]
        for row in read(PAGE).rows("in-airflows-database")
        if row[column] != "none"
    }
    if VERSION < (3, 3):
        expected.pop("task_state_store.value", None)
    return expected


def mark_of(way: str) -> str:
    return "mark" + "".join(re.findall("[a-z]+", way.lower()))


@pytest.mark.parametrize("way", WAYS)
def test_airflow_stores_the_documented_ids(vectorize: Vectorize, tmp_path: Path, way: str) -> None:
    mark = mark_of(way)
    run_way(way, mark, vectorize, tmp_path)
    expected = documented(way)
    if VERSION < (3, 0):
        # dag.test() runs a trigger in its own process and creates no row; see test_ids_in_trigger_arguments.
        expected.pop("trigger.kwargs", None)
    assert places(mark) == expected


def test_a_default_of_a_param_is_stored_like_the_file(vectorize: Vectorize, tmp_path: Path) -> None:
    run_way("default of a param", "markdefault", vectorize, tmp_path)
    expected = documented("in the DAG's file")
    if VERSION < (3, 0):
        expected.pop("trigger.kwargs")
    assert places("markdefault") == expected


# --- rendered fields ----------------------------------------------------------------------------------------


def test_rendered_fields_can_be_truncated(
    vectorize: Vectorize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "`AIRFLOW__CORE__MAX_TEMPLATED_FIELD_LENGTH=79`" in read(PAGE).text
    monkeypatch.setenv("AIRFLOW__CORE__MAX_TEMPLATED_FIELD_LENGTH", "79")
    run_way("run's conf", "markcut", vectorize, tmp_path)
    assert "rendered_task_instance_fields.rendered_fields" not in places("markcut")


# --- the trigger's arguments --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verify", "count"), [("sample", MAX_WITNESSES), ("all", MAX_WITNESSES), ("none", 0)]
)
@pytest.mark.parametrize("sensor", [False, True])
def test_ids_in_trigger_arguments(vectorize: Vectorize, verify: str, count: int, sensor: bool) -> None:
    ids = ids_of("marktrigger")
    vectorize.fill(ids)
    context = make_context()
    waits: dict[str, Any] = {"wait_for_completion": True, "deferrable": True}
    if sensor and verify != "all":
        waits = {}
    operator = DeleteVectorsByIdsOperator(
        task_id="delete", index_name=INDEX, ids=ids, verify=verify, durable=False, **waits
    )
    if waits:
        with pytest.raises(TaskDeferred) as deferred:
            operator.execute(context)
    else:
        operator.execute(context)
        receipt = context["ti"].pushed["receipt"]
        waiter = VectorizeMutationSensor(task_id="wait", index_name=INDEX, receipt=receipt, deferrable=True)
        with pytest.raises(TaskDeferred) as deferred:
            waiter.execute(make_context())
    _, arguments = deferred.value.trigger.serialize()
    assert len(marked("marktrigger", json.dumps(arguments))) == count
    assert sum(len(receipt.get("witness_ids", ())) for receipt in arguments["receipts"]) == count
    # Airflow's database also stores the arguments of the resumed task.
    assert not marked("marktrigger", json.dumps(deferred.value.kwargs))


# --- progress -----------------------------------------------------------------------------------------------


@pytest.mark.airflow(since="3.3")
@pytest.mark.parametrize("verify", ["sample", "none"])
def test_ids_in_saved_progress(
    vectorize: Vectorize, server: LocalVectorize, monkeypatch: pytest.MonkeyPatch, verify: str
) -> None:
    mark = f"markprogress{verify}"
    ids = ids_of(mark)
    vectorize.fill(ids)
    relay = Relay(server)
    sent = 0

    def refuse_the_second(route: str, request: Request) -> Reply | str | None:
        nonlocal sent
        sent += route.partition("?")[0].endswith("delete_by_ids")
        return refused(400, 40000) if sent == 2 else None

    relay.intercept = refuse_the_second
    monkeypatch.setenv("AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT", relay.connection)
    column = "task_state_store.value"
    try:
        with make_dag(mark) as dag:
            DeleteVectorsByIdsOperator(
                task_id="delete", index_name=INDEX, ids=ids, verify=verify, retry_delay=timedelta(0)
            )
        assert run_dag(dag).state == "failed"
        assert places(mark).get(column, 0) == (25 if verify == "sample" else 0)
    finally:
        relay.close()


@pytest.mark.airflow(since="3.3")
def test_saved_progress_stays_after_success(vectorize: Vectorize) -> None:
    ids = ids_of("markforgotten")
    vectorize.fill(ids)
    with make_dag("markforgotten") as dag:
        DeleteVectorsByIdsOperator(
            task_id="delete", index_name=INDEX, ids=ids, wait_for_completion=True, poll_interval=0.05
        )
    assert run_dag(dag).state == "success"
    assert places("markforgotten")["task_state_store.value"] == 5


# --- the evidence -------------------------------------------------------------------------------------------


def test_evidence_has_up_to_20_visible_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = ids_of("markvisible")
    path = tmp_path / "ids.txt"
    path.write_text("\n".join(ids))
    with LocalVectorize(apply_delay=0.02) as server:
        vectorize = Vectorize(server)
        vectorize.fill(ids)
        monkeypatch.setenv("AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT", server.connection)
        operator = DeleteVectorsByIdsOperator(
            task_id="delete",
            index_name=INDEX,
            ids_path=str(path),
            verify="all",
            wait_for_completion=True,
            poll_interval=0.05,
            wait_timeout=2,
        )
        complete = operator.complete_evidence

        def written_again_first(evidence: dict[str, Any]) -> dict[str, Any]:
            vectorize.fill(ids)
            return complete(evidence)

        operator.complete_evidence = written_again_first  # type: ignore[method-assign]
        context = make_context()
        operator.execute(context)
    evidence = context["ti"].pushed["evidence"]
    assert evidence["ids_visible"] == COUNT
    assert len(marked("markvisible", json.dumps(evidence))) == len(evidence["still_visible"]) == 20


# --- logs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def logged(capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture) -> Any:
    """Return a function that returns the log of any version of Airflow."""
    caplog.set_level(logging.INFO)

    def text() -> str:
        lines = f"{caplog.text}{''.join(capfd.readouterr())}".splitlines()
        # A test run of Airflow 3.0 always prints a task's requests to Airflow at this level.
        return "\n".join(line for line in lines if "[debug" not in line)

    return text


@pytest.mark.parametrize("way", ["run's conf", "`ids_path`"])
def test_the_log_of_a_good_run_has_no_ids(
    vectorize: Vectorize, tmp_path: Path, logged: Any, way: str
) -> None:
    mark = f"marklog{mark_of(way)}"
    run_way(way, mark, vectorize, tmp_path)
    text = logged()
    assert "Accepted" in text
    assert marked(mark, text) == set()


@pytest.mark.parametrize(("task", "count"), [("", COUNT), ("(show_return_value_in_logs=False)", 0)])
def test_the_log_of_a_task_that_returns_ids(
    vectorize: Vectorize, tmp_path: Path, logged: Any, task: str, count: int
) -> None:
    mark = f"markreturned{count}"
    run_way("XCom", mark, vectorize, tmp_path, task=task)
    assert len(marked(mark, logged())) == count


def test_ids_in_errors_about_bad_ids(vectorize: Vectorize, tmp_path: Path) -> None:
    bad = [f"{id_}-{'x' * 64}" for id_ in ids_of("markbad")]
    path = tmp_path / "bad.txt"
    path.write_text("\n".join(bad))
    for passed, count in (({"ids": bad}, 10), ({"ids_path": str(path)}, 0)):
        operator = DeleteVectorsByIdsOperator(task_id="delete", index_name=INDEX, **passed)
        with pytest.raises(VectorizeInputError) as e:
            operator.execute(make_context())
        assert len(marked("markbad", e.value)) == count


# --- the audit log ------------------------------------------------------------------------------------------


def test_the_audit_log_has_the_conf_of_a_run_from_the_shell(tmp_path: Path) -> None:
    ids = ids_of("markaudit")
    dag = dag_in_a_file(
        tmp_path / "markaudit.py", dag_id="markaudit", passed='ids="{{ params.ids }}"', params={"ids": []}
    )
    register(dag)
    conf = json.dumps({"ids": ids})
    command = [sys.executable, "-m", "airflow", "dags", "trigger", "markaudit", "--conf", conf]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert places("markaudit") == {"dag_run.conf": COUNT, "log.extra": COUNT}, done.stderr


# --- lineage ------------------------------------------------------------------------------------------------


def test_openlineage_sends_the_conf_of_a_run_but_no_ids_of_a_task() -> None:
    from airflow.providers.openlineage.utils import utils

    assert "conf" in utils.DagRunInfo.includes
    assert not {"ids", "ids_path"} & set(utils.TaskInfo.includes)
