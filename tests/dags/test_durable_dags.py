# SPDX-License-Identifier: Apache-2.0
"""Retries of real tasks resume on Airflow 3.3; before, they send everything again."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow import __version__ as airflow_version

from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.operators.vectors import (
    DeleteVectorsByIdsOperator,
    ReconcileVectorsOperator,
    UpsertVectorsOperator,
)
from client.servers import Reply, Request, refused
from dags.running import Run, make_dag, query, run_dag
from harness import INDEX, PROVEN, Vectorize
from operators.relay import Relay

pytestmark = pytest.mark.usefixtures("airflow_db")

#: Whether Airflow can store progress.
KEEPS = tuple(int(part) for part in airflow_version.split(".")[:2]) >= (3, 3)
IDS = [f"v{i:04}" for i in range(1000)]


class Breaking:
    """Forwards a number of requests for a route, refuses the next, and forwards all others."""

    def __init__(self, action: str, after: int) -> None:
        self.action = action
        self.after = after
        self.sent = 0

    def __call__(self, route: str, request: Request) -> Reply | str | None:
        if not route.partition("?")[0].endswith(self.action):
            return None
        self.sent += 1
        return refused(400, 40000) if self.sent == self.after + 1 else None


@pytest.fixture
def slow_index() -> Iterator[tuple[Vectorize, Relay]]:
    with LocalVectorize(apply_delay=0.05) as server:
        index = Vectorize(server)
        index.fill(IDS)
        relay = Relay(server)
        yield index, relay
        relay.close()


@pytest.fixture
def connect(slow_index: tuple[Vectorize, Relay], monkeypatch: pytest.MonkeyPatch) -> tuple[Vectorize, Relay]:
    monkeypatch.setenv("AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT", slow_index[1].connection)
    return slow_index


def run(dag_id: str, make: Any, **kwargs: Any) -> Run:
    options = {
        "task_id": "write",
        "index_name": INDEX,
        "retries": 2,
        "retry_delay": timedelta(0),
        "wait_for_completion": True,
        "poll_interval": 0.05,
    }
    with make_dag(dag_id) as dag:
        made = make(**options | kwargs)
        if hasattr(made, "expand"):
            made.expand(verify=["sample"])
    return run_dag(dag)


def clear_once(monkeypatch: pytest.MonkeyPatch, state: str, before: Callable[[], object]) -> None:
    """Clear the first task that reaches a state at once, without a reset of its run."""
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import clear_task_instances

    update_state = DagRun.update_state
    cleared: list[str] = []

    def clear_first(dag_run: Any, *, session: Any, **kwargs: Any) -> Any:
        tis = [ti for ti in dag_run.get_task_instances(session=session) if ti.state == state]
        if tis and not cleared:
            cleared.append(state)
            before()
            clear_task_instances(tis, session, dag_run_state=False)
            session.commit()
        return update_state(dag_run, session=session, **kwargs)

    monkeypatch.setattr(DagRun, "update_state", clear_first)


def count_states(dag_id: str) -> int:
    if not KEEPS:
        return 0
    ((count,),) = query("SELECT count(*) FROM task_state_store WHERE dag_id=?", (dag_id,))
    return int(count)


def test_a_retried_delete_resumes(connect: tuple[Vectorize, Relay]) -> None:
    index, relay = connect
    relay.intercept = breaking = Breaking("/delete_by_ids", 6)
    done = run("durable_delete", DeleteVectorsByIdsOperator, ids=IDS, concurrency=1)
    assert done.states == {"write": "success"}
    assert done.tries("write") == 2
    assert index.ids() == set()
    # Six requests, a refused request, and the rest.
    assert breaking.sent == (6 + 1 + 4 if KEEPS else 6 + 1 + 10)
    assert done.pull("write", "receipt")["count"] == 1000
    assert done.pull("write", "evidence")["outcome"] in PROVEN
    assert count_states("durable_delete") == KEEPS


def test_a_task_that_fails_after_its_write_sends_nothing_again(connect: tuple[Vectorize, Relay]) -> None:
    index, relay = connect
    relay.intercept = breaking = Breaking("/delete_by_ids", 10**6)

    def fail_once(context: Any, result: Any) -> None:
        if context["ti"].try_number == 1:
            index.fill(IDS)
            raise RuntimeError("something after the write")

    done = run("late_failure", DeleteVectorsByIdsOperator, ids=IDS, post_execute=fail_once)
    assert done.states == {"write": "success"}
    assert done.tries("write") == 2
    assert breaking.sent == (10 if KEEPS else 20)
    assert index.ids() == (set(IDS) if KEEPS else set())
    assert len(done.pull("write", "receipt")["witness_ids"]) == 5


@pytest.mark.airflow(since="3.3")
@pytest.mark.parametrize("state", ["up_for_retry", "failed", "success"])
def test_a_cleared_task_starts_over(
    connect: tuple[Vectorize, Relay], monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    index, relay = connect
    relay.intercept = breaking = Breaking("/delete_by_ids", 10**6 if state == "success" else 6)
    clear_once(monkeypatch, state, lambda: index.fill(IDS))
    done = run(
        f"cleared_{state}",
        DeleteVectorsByIdsOperator.partial,
        ids=IDS,
        concurrency=1,
        retries=0 if state == "failed" else 2,
    )
    assert done.states == {"write[0]": "success"}
    assert done.tries("write", 0) == 2
    assert index.ids() == set()
    assert breaking.sent == (10 + 10 if state == "success" else 6 + 1 + 10)


def test_without_durable_everything_is_sent_again(connect: tuple[Vectorize, Relay]) -> None:
    _, relay = connect
    relay.intercept = breaking = Breaking("/delete_by_ids", 6)
    done = run("not_durable", DeleteVectorsByIdsOperator, ids=IDS, concurrency=1, durable=False)
    assert done.states == {"write": "success"}
    assert breaking.sent == 6 + 1 + 10


def test_a_retried_wait_sends_no_delete(connect: tuple[Vectorize, Relay]) -> None:
    index, relay = connect
    # The first poll gets HTTP 404, which ends the wait.
    asked: list[str] = []

    def intercept(route: str, request: Request) -> Reply | str | None:
        if not route.endswith(("/info", "/delete_by_ids")):
            return None
        asked.append(route.rpartition("/")[2])
        return refused(404, 3000) if asked.count("info") == 1 and asked[-1] == "info" else None

    relay.intercept = intercept
    done = run("durable_wait", DeleteVectorsByIdsOperator, ids=IDS)
    assert done.states == {"write": "success"}
    assert done.tries("write") == 2
    assert asked.count("delete_by_ids") == (10 if KEEPS else 20)
    assert index.ids() == set()


def test_a_retried_upsert_resumes(connect: tuple[Vectorize, Relay], tmp_path: Path) -> None:
    index, relay = connect
    path = tmp_path / "vectors.ndjson"
    with path.open("w") as file:
        for i in range(12_000):
            file.write(json.dumps({"id": f"new-{i}", "values": [0.25] * 32}) + "\n")
    relay.intercept = breaking = Breaking("/upsert", 2)
    done = run("durable_upsert", UpsertVectorsOperator, vectors_path=str(path))
    assert done.states == {"write": "success"}
    assert breaking.sent == (2 + 1 + 1 if KEEPS else 2 + 1 + 3)
    assert done.pull("write", "report") == {"vectors": 12_000, "requests": 3, "discarded": 0}
    assert index.ids() == set(IDS) | {f"new-{i}" for i in range(12_000)}
    assert count_states("durable_upsert") == KEEPS


def test_a_changed_file_is_sent_from_the_start(connect: tuple[Vectorize, Relay], tmp_path: Path) -> None:
    index, relay = connect
    path = tmp_path / "vectors.ndjson"

    def write(value: float) -> None:
        with path.open("w") as file:
            for i in range(12_000):
                file.write(json.dumps({"id": f"new-{i}", "values": [value] * 32}) + "\n")

    write(0.25)
    breaking = Breaking("/upsert", 2)

    def intercept(route: str, request: Request) -> Reply | str | None:
        reply = breaking(route, request)
        if reply is not None:
            write(0.75)
        return reply

    relay.intercept = intercept
    assert run("changed_upsert", UpsertVectorsOperator, vectors_path=str(path)).states == {"write": "success"}
    assert breaking.sent == 2 + 1 + 3
    ((first,), (last,)) = (
        [vector["values"][0] for vector in index.client.get_by_ids(INDEX, [id_])]
        for id_ in ("new-0", "new-11999")
    )
    assert (first, last) == (0.75, 0.75)


def test_a_retried_reconcile_resumes(connect: tuple[Vectorize, Relay]) -> None:
    index, relay = connect
    relay.intercept = breaking = Breaking("/delete_by_ids", 6)
    done = run(
        "durable_reconcile",
        ReconcileVectorsOperator,
        ids=IDS[:100],
        max_delete_fraction=1,
        concurrency=1,
    )
    assert done.states == {"write": "success"}
    assert index.ids() == set(IDS[:100])
    # The retry may list accepted deletes that are not yet applied.
    assert 9 + 1 <= breaking.sent <= 6 + 1 + 9
    assert count_states("durable_reconcile") == KEEPS


def test_a_retry_starts_over_on_a_recreated_index(connect: tuple[Vectorize, Relay]) -> None:
    index, relay = connect
    breaking = Breaking("/delete_by_ids", 6)

    def intercept(route: str, request: Request) -> Reply | str | None:
        reply = breaking(route, request)
        if reply is not None:
            index.client.delete_index(INDEX)
            index.client.create_index(INDEX, dimensions=32, metric="cosine")
            index.fill(IDS)
        return reply

    relay.intercept = intercept
    done = run("anew", DeleteVectorsByIdsOperator, ids=IDS, concurrency=1)
    assert done.states == {"write": "success"}
    assert breaking.sent == 6 + 1 + 10
    assert index.ids() == set()
