# SPDX-License-Identifier: Apache-2.0
"""The example DAGs."""

from __future__ import annotations

import copy
import importlib.util
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from airflow import __version__ as airflow_version
from airflow.exceptions import ParamValidationError
from airflow.models import DagBag

from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook
from airflow_provider_cfvectorize.local import LocalVectorize
from dags.running import change, run_dag
from harness import PROVEN, Vectorize

pytestmark = pytest.mark.usefixtures("airflow_db")

EXAMPLES = Path(__file__).parent.parent.parent / "example_dags"
POOLED = "example_delete_in_a_pool"


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_airflow_parses_all_examples() -> None:
    bag = DagBag(dag_folder=str(EXAMPLES))
    assert bag.import_errors == {}
    assert {Path(dag.fileloc).name for dag in bag.dags.values()} == {p.name for p in EXAMPLES.glob("*.py")}
    for dag in bag.dags.values():
        assert dag.doc_md


@pytest.mark.parametrize(
    ("name", "conf", "deleted"),
    [
        ("example_delete_by_params", {"ids": ["chunk-3", "chunk-5", "chunk-7"]}, {3, 5, 7}),
        ("example_delete_by_params", {}, {0, 1}),
        ("example_delete_by_xcom", {}, set(range(250))),
        ("example_delete_mapped", {}, set(range(240))),
        ("example_delete_in_a_pool", {}, set(range(240))),
        ("example_delete_and_wait", {}, {0, 1, 2}),
    ],
)
def test_examples_delete_the_described_ids(
    vectorize: Vectorize, name: str, conf: dict[str, Any], deleted: set[int]
) -> None:
    vectorize.fill(f"chunk-{i}" for i in range(260))
    run = run_dag(load(name).dag, run_conf=conf)
    assert run.state == "success", run.states
    assert vectorize.ids() == {f"chunk-{i}" for i in range(260) if i not in deleted}
    waited = [task_id for task_id in run.states if task_id.startswith("wait")]
    evidence = run.pull(waited[0]) if waited else run.pull("delete", "evidence")
    assert evidence["outcome"] in PROVEN


def test_the_form_refuses_an_empty_line() -> None:
    params = copy.deepcopy(load("example_delete_by_params").dag.params)
    with pytest.raises(ParamValidationError, match=r"(?s)Invalid input for param ids: '' .*minLength"):
        params.update({"ids": ["chunk-0", ""]})


@pytest.fixture
def pool() -> Iterator[str]:
    """Create the pool with the command in the example's docstring; remove it after the test."""
    (command,) = re.findall(r"^    (airflow pools set .+)$", str(load(POOLED).__doc__), re.MULTILINE)
    _, *arguments = shlex.split(command)
    run = partial(subprocess.run, check=True, capture_output=True)
    run([sys.executable, "-m", "airflow", *arguments])
    yield arguments[2]
    run([sys.executable, "-m", "airflow", "pools", "delete", arguments[2]])


def test_a_pool_caps_the_deletes(vectorize: Vectorize, pool: str) -> None:
    from airflow.jobs.job import Job
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from airflow.utils.session import create_session

    dag = load(POOLED).dag
    for run_conf in ({"chunks": 5}, {"chunks": 3}):
        vectorize.fill(f"chunk-{i}" for i in range(300))
        run = run_dag(dag, run_conf=run_conf)
        assert run.state == "success", run.states
        # The state before a scheduler starts the tasks: only the pool limits them.
        ran = (dag.dag_id, run.run_id)
        change("UPDATE dag_run SET state='running' WHERE dag_id=? AND run_id=?", ran)
        change("UPDATE task_instance SET state='scheduled' WHERE dag_id=? AND run_id=?", ran)
    if airflow_version.startswith("2."):
        # Test runs of this version leave nothing that a scheduler could read.
        DagBag(dag_folder=str(EXAMPLES)).sync_to_db()
    change("UPDATE dag SET is_paused=0 WHERE dag_id=?", (dag.dag_id,))
    with create_session() as session:
        chosen = SchedulerJobRunner(Job())._executable_task_instances_to_queued(32, session)
        started = [ti.task_id for ti in chosen]
        assert {ti.pool for ti in chosen if ti.task_id == "delete"} == {pool}
    change("UPDATE dag_run SET state='success'")
    change("UPDATE task_instance SET state='success'")
    # Two of eight tasks of two runs; other tasks are not in the pool.
    assert sorted(started) == [*["delete"] * 2, *["list_chunks"] * 2, *["wait_until_all_are_gone"] * 2]


def test_the_ui_can_render_the_form_of_the_params() -> None:
    dag = load("example_delete_by_params").dag
    ids = dag.params.get_param("ids") if hasattr(dag.params, "get_param") else dag.params["ids"]
    schema = getattr(ids, "schema", {})
    # An array of strings is a text box with a line per string; an empty line is refused.
    assert (schema["type"], schema["items"]) == ("array", {"type": "string", "minLength": 1})
    assert schema["title"]


def test_an_index_follows_a_file(server: LocalVectorize, tmp_path: Path) -> None:
    module = load("example_sync_documents")
    documents = (EXAMPLES / "documents.ndjson").read_text().splitlines(keepends=True)
    path = tmp_path / "documents.ndjson"
    path.write_text("".join(documents))
    run = run_dag(module.dag, run_conf={"path": str(path)})
    assert run.state == "success", run.states
    hook = CloudflareVectorizeHook()
    assert set(hook.iter_ids("documents")) == {json.loads(line)["id"] for line in documents}
    found = run.pull("query")["matches"]
    assert found[0]["id"] == "vector-delete"
    assert len(found) == 3
    assert {match["metadata"]["lang"] for match in found} == {"en"}
    assert run.pull("show") == [match["metadata"]["text"] for match in found]
    # The next day a document is gone, one is new, and one has changed.
    changed = json.loads(documents[1])
    changed["text"] = "A sensor waits."
    path.write_text("".join([*documents[2:], f"{json.dumps(changed)}\n", documents[0].replace("dag", "new")]))
    run = run_dag(load("example_sync_documents").dag, run_conf={"path": str(path)})
    assert run.state == "success", run.states
    ids = {json.loads(line)["id"] for line in documents} - {"airflow-dag"} | {"airflow-new"}
    assert set(hook.iter_ids("documents")) == ids
    assert hook.get_by_ids("documents", ["airflow-sensor"])[0]["metadata"]["text"] == "A sensor waits."
    assert run.pull("reconcile", "report")["surplus"] == 1
    # A truncated file deletes nothing.
    path.write_text("".join(documents[:6]))
    run = run_dag(load("example_sync_documents").dag, run_conf={"path": str(path)})
    assert run.states["reconcile"] == "failed"
    assert ids <= set(hook.iter_ids("documents"))


def test_an_example_empties_an_index(vectorize: Vectorize, object_storage: str) -> None:
    vectorize.fill([*(f"v{i}" for i in range(999)), "line\nbreak"])
    conf = {"storage": f"{object_storage}/vectorize", "chunk_size": 300}
    run = run_dag(load("example_empty_index").dag, run_conf=conf)
    assert run.state == "success", run.states
    assert vectorize.ids() == set()
    assert run.pull("wait_until_empty")["mutation_count"] == 4
    # An empty index has nothing to delete and nothing to wait for.
    run = run_dag(load("example_empty_index").dag, run_conf=conf)
    assert set(run.states.values()) == {"success", "skipped"}


def test_files_of_ids_are_deleted(vectorize: Vectorize, object_storage: str) -> None:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    vectorize.fill(f"chunk-{i}" for i in range(300))
    folder = ObjectStoragePath(f"{object_storage}/chunks")
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(3):
        ids = [f"chunk-{i}" for i in range(number * 90, number * 90 + 90)]
        (folder / f"{number}.txt").write_text("".join(f"{id_}\n" for id_ in ids))
    (folder / "README").write_text("chunk-299")
    run = run_dag(load("example_delete_chunks").dag, run_conf={"chunks": str(folder)})
    assert run.state == "success", run.states
    assert vectorize.ids() == {f"chunk-{i}" for i in range(270, 300)}
    assert run.pull("wait_until_all_are_gone")["mutation_count"] == 3


def test_the_asset_example_reads_the_written_index(server: LocalVectorize) -> None:
    # tests/processes tests with a scheduler that the first DAG starts the second.
    module = load("example_asset_schedule")
    for _ in range(2):
        run = run_dag(module.write)
        assert run.state == "success", run.states
        run = run_dag(module.read)
        assert run.state == "success", run.states
        assert [match["id"] for match in run.pull("query")["matches"]] == [
            "article-7",
            "article-6",
            "article-5",
        ]
    uri = f"cloudflare-vectorize://{server.account_id}/articles"
    assert [one.uri for one in module.upsert.outlets] == [uri]
    timetable = module.read.timetable
    condition = getattr(timetable, "asset_condition", None) or timetable.dataset_condition
    assert [one.uri for one in condition.objects] == [uri]
