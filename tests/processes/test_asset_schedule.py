# SPDX-License-Identifier: Apache-2.0
"""A whole Airflow 3.3: a DAG that runs after another DAG's upsert, and all OpenLineage events."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_cfvectorize.local import LocalVectorize
from harness import wait_until
from processes.standalone import ROOT, Standalone

EVENTS = "events.ndjson"
WRITE, READ = "vectorize_write_articles", "vectorize_after_articles"
TOKEN = "a-token-that-nobody-may-see"

pytestmark = pytest.mark.airflow(since="3.0")


@pytest.fixture(scope="module")
def server() -> Iterator[LocalVectorize]:
    with LocalVectorize(apply_delay=0.2, api_token=TOKEN) as server:
        yield server


@pytest.fixture(scope="module")
def airflow(server: LocalVectorize, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    home = tmp_path_factory.mktemp("airflow")
    (home / "desired.txt").write_text("secret-id-3\nsecret-id-9\n")
    vectors = [{"id": f"secret-id-{i}", "values": [0.5 + i, *[0.5] * 31]} for i in range(5)]
    (home / "vectors.ndjson").write_text("".join(f"{json.dumps(vector)}\n" for vector in vectors))
    instance = Standalone(
        home,
        Path(__file__).with_name("lineage_of_tasks.py"),
        server.connection,
        LINEAGE_HOME=str(home),
        AIRFLOW__OPENLINEAGE__NAMESPACE="tests",
        AIRFLOW__OPENLINEAGE__TRANSPORT=json.dumps(
            {"type": "file", "log_file_path": str(home / EVENTS), "append": True}
        ),
    )
    shutil.copy(ROOT / "example_dags" / "example_asset_schedule.py", home / "dags")
    with instance:
        yield instance


def query(airflow: Standalone, sql: str, *values: str) -> list[Any]:
    """Query that Airflow's database."""
    connection = sqlite3.connect(f"file:{airflow.home / 'airflow.db'}?mode=ro", uri=True, timeout=60)
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.close()


@pytest.mark.long
def test_a_dag_runs_after_an_upsert_of_another_dag(airflow: Standalone, server: LocalVectorize) -> None:
    known = "SELECT dag_id FROM serialized_dag WHERE dag_id IN (?, ?)"
    wait_until(lambda: len(query(airflow, known, WRITE, READ)) == 2, 300, interval=0.5)
    runs = "SELECT state, run_type, run_id FROM dag_run WHERE dag_id = ?"
    assert query(airflow, runs, READ) == []
    airflow.trigger(WRITE)
    wait_until(
        lambda: [state for state, *_ in query(airflow, runs, READ)] in (["success"], ["failed"]),
        300,
        interval=0.5,
    )
    ((state, run_type, run_id),) = query(airflow, runs, READ)
    assert (state, run_type) == ("success", "asset_triggered")
    xcom = "SELECT value FROM xcom WHERE dag_id = ? AND run_id = ? AND key = 'return_value'"
    ((found,),) = query(airflow, xcom, READ, run_id)
    assert json.loads(found)["count"] == 3
    # One event of one asset, whose name comes from the provider.
    events = (
        "SELECT asset.uri, asset_event.source_dag_id, asset_event.source_task_id FROM asset_event "
        "JOIN asset ON asset.id = asset_event.asset_id"
    )
    uri = f"cloudflare-vectorize://{server.account_id}/articles"
    assert query(airflow, events) == [(uri, WRITE, "upsert")]


@pytest.mark.long
def test_openlineage_receives_an_event_of_every_task(airflow: Standalone, server: LocalVectorize) -> None:
    run_id = airflow.trigger("lineage_of_tasks")
    airflow.wait_for_end(run_id)
    events = airflow.home / EVENTS
    index = (f"cloudflare-vectorize://{server.account_id}", "seen")

    def file(name: str) -> tuple[str, str]:
        return "file", str(airflow.home / name)

    expected: dict[str, Any] = {
        "create": ([], [index], {"lifecycleStateChange": "CREATE"}),
        "upsert": ([file("vectors.ndjson")], [index], {"outputStatistics": 5}),
        "query": ([index], [], {}),
        "list": ([index], [file("listed.txt")], {}),
        "reconcile": ([index, file("desired.txt")], [index, file("surplus.txt")], {}),
        "drop": ([], [index], {"lifecycleStateChange": "DROP"}),
    }
    ends = ["lineage_of_tasks", *(f"lineage_of_tasks.{task_id}" for task_id in expected)]
    # A run and its tasks may end before their events are written.
    ends += ["lineage_of_tasks.delete"] * 3 + ["lineage_of_tasks.fail"]
    wait_until(lambda: all(len(_ends(events, job)) >= ends.count(job) for job in ends), 120, interval=0.5)
    for task_id, lineage in expected.items():
        assert _ends(events, f"lineage_of_tasks.{task_id}") == [("COMPLETE", *lineage)], task_id
    # One event per instance of the mapped task; the instance without ids has no output.
    deletes = _ends(events, "lineage_of_tasks.delete")
    assert sorted(deletes) == [("COMPLETE", [], [], {}), *[("COMPLETE", [], [index], {})] * 2]
    # The index was already deleted, and no file was written.
    assert _ends(events, "lineage_of_tasks.fail") == [("FAIL", [index], [], {})]
    text = events.read_text()
    assert TOKEN not in text
    assert "secret-id" not in text


def _ends(path: Path, job: str) -> list[tuple[str, Any, Any, dict[str, Any]]]:
    """Return the event type, inputs, outputs and facets of each ended run of a job."""
    if not path.exists():
        return []
    found = []
    # The last line may be incomplete.
    for line in path.read_text().split("\n")[:-1]:
        event = json.loads(line)
        if event["job"]["name"] != job or event["eventType"] not in ("COMPLETE", "FAIL"):
            continue
        facets: dict[str, Any] = {}
        names = [[(one["namespace"], one["name"]) for one in event[key]] for key in ("inputs", "outputs")]
        for output in event["outputs"]:
            for name, facet in {**output["facets"], **output["outputFacets"]}.items():
                facets[name] = facet.get("rowCount", facet.get("lifecycleStateChange"))
        found.append((event["eventType"], *names, facets))
    return found
