# SPDX-License-Identifier: Apache-2.0
"""Which failed tasks Airflow retries: whole DAGs with the retry policy, and single decisions."""

from __future__ import annotations

import copy
import json
import math
import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_cfvectorize import exceptions
from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeBatchThrottledError,
    VectorizeError,
    VectorizeThrottledError,
)
from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook
from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByIdsOperator
from airflow_provider_cfvectorize.retry import LONGEST_DELAY, delay_asked_for, retry_policy
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor
from client.servers import ACCOUNT, TOKEN, Reply, Request, ScriptedServer, accepted, make_client, ok, refused
from dags.running import Run, change, make_dag, run_dag
from harness import INDEX, Vectorize

CONN = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"
#: Like in a DAG file for every version of Airflow.
THRICE = {"retries": 3, "retry_delay": timedelta(0), "retry_policy": retry_policy}
ALL_ERRORS = {
    name: error
    for name, error in vars(exceptions).items()
    if isinstance(error, type) and issubclass(error, VectorizeError)
}

Answer = Callable[[Request], Reply] | list[Reply | str]


@contextmanager
def scripted(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> Iterator[ScriptedServer]:
    """Run a server that returns prepared answers, as the default connection."""
    server = ScriptedServer(answer)
    connection = {"conn_type": "cloudflare_vectorize", "login": ACCOUNT, "password": TOKEN}
    monkeypatch.setenv(CONN, json.dumps({**connection, "host": server.base_url}))
    try:
        yield server
    finally:
        server.close()


def let_time_pass(context: Any) -> None:
    """Make the next attempt due now; Airflow has already stored its scheduled time."""
    change("UPDATE task_instance SET retry_delay_override=0 WHERE retry_delay_override IS NOT NULL")


def run_failing(dag: DAG) -> Run:
    run = run_dag(dag)
    assert run.state == "failed", run.states
    return run


def delete(task_id: str = "delete", **kwargs: Any) -> DeleteVectorsByIdsOperator:
    return DeleteVectorsByIdsOperator(task_id=task_id, index_name=INDEX, **kwargs)


def wait(**kwargs: Any) -> VectorizeMutationSensor:
    mutation_id = "00000000-0000-4000-8000-000000000000"
    arguments: dict[str, Any] = {"poke_interval": 0.05, "timeout": 20, "mutation_id": mutation_id, **kwargs}
    return VectorizeMutationSensor(task_id="wait", index_name=INDEX, **arguments)


# --- immediate failures -------------------------------------------------------------------------------------


def add_delete() -> None:
    delete(ids=["a"])


def add_mapped_delete() -> None:
    DeleteVectorsByIdsOperator.partial(task_id="delete", index_name=INDEX).expand(ids=[["a"], ["b"]])


def add_sensor() -> None:
    wait()


def add_deferrable_sensor() -> None:
    wait(deferrable=True)


def add_hook_task() -> None:
    @task
    def read_info() -> Any:
        return CloudflareVectorizeHook().info(INDEX)

    read_info()


MAKERS = [add_delete, add_mapped_delete, add_sensor, add_deferrable_sensor, add_hook_task]


def tries_of(run: Run) -> set[int]:
    """Return the numbers of attempts of all tasks of a run."""
    places = (name.rstrip("]").partition("[") for name in run.states)
    return {run.tries(task_id, int(index or -1)) for task_id, _, index in places}


@pytest.mark.airflow(since="3.3")
@pytest.mark.usefixtures("airflow_db")
@pytest.mark.parametrize("make", MAKERS)
def test_a_wrong_token_fails_at_once(
    vectorize: Vectorize, monkeypatch: pytest.MonkeyPatch, make: Callable[[], None]
) -> None:
    monkeypatch.setenv(CONN, vectorize.server.connection_with("wrong-token-0123456789abcdef0123456789"))
    with make_dag("refused", default_args=THRICE) as dag:
        make()
    assert tries_of(run_failing(dag)) == {1}


@pytest.mark.airflow(since="3.3")
@pytest.mark.usefixtures("airflow_db", "server")
@pytest.mark.parametrize("make", MAKERS)
def test_a_missing_index_fails_at_once(make: Callable[[], None]) -> None:
    with make_dag("missing", default_args=THRICE) as dag:
        make()
    assert tries_of(run_failing(dag)) == {1}


@pytest.mark.airflow(since="3.3")
@pytest.mark.usefixtures("airflow_db")
def test_bad_input_fails_at_once(vectorize: Vectorize) -> None:
    how = {"retries": 3, "retry_delay": timedelta(0)}
    with make_dag("bad") as dag:
        delete("in_default_args", ids=["a" * 65], default_args=THRICE)
        delete("as_an_argument", ids=["a" * 65], **how, retry_policy=retry_policy)
        DeleteVectorsByIdsOperator.partial(
            task_id="mapped", index_name=INDEX, **how, retry_policy=retry_policy
        ).expand(ids=[[""]])
        # Without the policy, the task is retried.
        delete("without", ids=["a" * 65], **how)
    run = run_failing(dag)
    tries = [run.tries(task_id) for task_id in ("in_default_args", "as_an_argument", "without")]
    assert (tries, run.tries("mapped", 0)) == ([1, 1, 4], 1)
    assert vectorize.server.stats()["delete_by_ids"] == 0


# --- retries ------------------------------------------------------------------------------------------------


@pytest.mark.airflow(since="3.3")
@pytest.mark.usefixtures("airflow_db")
def test_a_throttle_is_retried_after_retry_after(monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = [True]

    def unblock(context: Any) -> None:
        blocked[0] = False
        let_time_pass(context)

    def answer(request: Request) -> Reply:
        # Longer than the hook's own wait.
        return refused(429, 10429, Retry_After="3600") if blocked[0] else ok({"dimensions": 32})

    with scripted(monkeypatch, answer) as server, make_dag("throttled", default_args=THRICE) as dag:

        @task(on_retry_callback=unblock)
        def read_info() -> Any:
            return CloudflareVectorizeHook().info(INDEX)

        read_info()
        run = run_dag(dag)
    assert run.state == "success", run.states
    assert run.tries("read_info") == 2
    assert run.decisions("read_info") == [(3600.0, "VectorizeThrottledError: retried after 3600 s")]
    assert len(server.requests) == 2


@pytest.mark.airflow(since="3.3")
@pytest.mark.usefixtures("airflow_db")
def test_a_throttled_delete_is_retried_after_retry_after(monkeypatch: pytest.MonkeyPatch) -> None:
    deleted: list[list[str]] = []
    blocked = [True]

    def unblock(context: Any) -> None:
        blocked[0] = False
        let_time_pass(context)

    def answer(request: Request) -> Reply:
        if not request.path.endswith("delete_by_ids"):
            return ok([])
        if blocked[0] and deleted:
            return refused(429, 10429, Retry_After="1800")
        deleted.append(request.ids)
        return accepted()

    with scripted(monkeypatch, answer), make_dag("throttled_delete", default_args=THRICE) as dag:
        DeleteVectorsByIdsOperator.partial(
            task_id="delete", index_name=INDEX, concurrency=1, on_retry_callback=unblock
        ).expand(ids=[[f"v{i}" for i in range(250)]])
        run = run_dag(dag)
    assert run.state == "success", run.states
    assert run.tries("delete", 0) == 2
    ((delay, reason),) = run.decisions("delete", 0)
    assert delay is not None
    # The rest of the pause when the second batch would have started.
    assert 1700 < delay <= 1800
    assert str(reason).startswith("VectorizeBatchThrottledError: ")


@pytest.mark.airflow(since="3.3")
@pytest.mark.usefixtures("airflow_db")
def test_other_errors_are_retried_with_the_tasks_delay() -> None:
    server = ScriptedServer(["reset"])
    base_url = server.base_url
    with make_dag("reset", default_args=THRICE) as dag:

        @task
        def read_info() -> Any:
            # A single attempt, without the hook's own retries.
            return make_client(base_url).info(INDEX)

        @task
        def wrap() -> Any:
            try:
                raise VectorizeAuthError("no")
            except VectorizeAuthError as e:
                raise RuntimeError("something that my team knows how to handle") from e

        read_info()
        wrap()
    run = run_failing(dag)
    server.close()
    for task_id in ("read_info", "wrap"):
        assert run.tries(task_id) == 4
        assert run.decisions(task_id) == [(None, None)] * 3
    assert len(server.requests) == 4


@pytest.mark.airflow(since="3.3")
@pytest.mark.usefixtures("airflow_db")
def test_a_throttle_uses_up_attempts_like_other_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        scripted(monkeypatch, [refused(429, 10429, Retry_After="3600")]) as server,
        make_dag("exhausted", default_args={**THRICE, "retries": 1}) as dag,
    ):

        @task(on_retry_callback=let_time_pass)
        def read_info() -> Any:
            return CloudflareVectorizeHook().info(INDEX)

        read_info()
        assert run_failing(dag).tries("read_info") == 2
    assert len(server.requests) == 2


@pytest.mark.airflow(since="3.3")
@pytest.mark.usefixtures("airflow_db")
def test_a_missing_file_is_retried(vectorize: Vectorize, tmp_path: Path, object_storage: str) -> None:
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    vectorize.fill(["a", "b", "c"])
    local, remote = tmp_path / "ids.txt", ObjectStoragePath(f"{object_storage}/later/ids.txt")
    with make_dag("files", default_args=THRICE) as dag:
        delete("local", ids_path=str(local), on_retry_callback=lambda _: local.write_text("a\n"))
        delete("remote", ids_path=str(remote), on_retry_callback=lambda _: remote.write_text("b\n"))
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert tries_of(run) == {2}
    vectorize.settle()
    assert vectorize.ids() == {"c"}


# --- decisions ----------------------------------------------------------------------------------------------

FOR_GOOD = {
    "VectorizeAuthError",
    "VectorizeBatchAuthError",
    "VectorizeBatchNotFoundError",
    "VectorizeIndexRecreatedError",
    "VectorizeInputError",
    "VectorizeNotFoundError",
}


@pytest.mark.parametrize("kind", [VectorizeThrottledError, VectorizeBatchThrottledError])
def test_the_delay_is_the_services_retry_after(kind: type[VectorizeThrottledError]) -> None:
    assert delay_asked_for(kind("why", retry_after=0.5)) == timedelta(seconds=0.5)
    assert delay_asked_for(kind("why", retry_after=300)) == timedelta(minutes=5)
    for without in (None, 0, 0.0, -1, math.nan):
        assert delay_asked_for(kind("why", retry_after=without)) is None
    for endless in (86_401, 999_999_999, math.inf):
        assert delay_asked_for(kind("why", retry_after=endless)) == LONGEST_DELAY
    # The scheduler adds the delay to the date.
    assert datetime.now(UTC) + LONGEST_DELAY
    assert delay_asked_for(RuntimeError("why")) is None


@pytest.mark.airflow(since="3.3")
@pytest.mark.parametrize("name", ALL_ERRORS)
def test_the_decision_for_each_error(name: str) -> None:
    assert retry_policy is not None
    decision = retry_policy.evaluate(ALL_ERRORS[name]("a text from outside"), 1, 3)
    expected = "fail" if name in FOR_GOOD else "retry" if "Throttled" in name else "default"
    assert (decision.action.value, decision.retry_delay) == (expected, None)
    if expected == "default":
        assert decision.reason is None
    else:
        assert str(decision.reason).startswith(f"{name}: ")
        assert "outside" not in str(decision.reason)


# --- in a DAG -----------------------------------------------------------------------------------------------


def make_retried_dag() -> DAG:
    with make_dag("retried", default_args=THRICE) as dag:
        add_delete()
        wait()
        DeleteVectorsByIdsOperator.partial(task_id="mapped", index_name=INDEX).expand(ids=[["a"]])
        add_hook_task()
    return dag


@pytest.mark.airflow(since="3.3")
def test_the_policy_is_serialized_with_the_dag() -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    dag = make_retried_dag()
    written = json.dumps(DagSerialization.to_dict(dag), sort_keys=True)
    assert json.dumps(DagSerialization.to_dict(make_retried_dag()), sort_keys=True) == written
    read = DagSerialization.from_dict(json.loads(written))
    assert {read.get_task(task_id).has_retry_policy for task_id in dag.task_ids} == {True}
    assert retry_policy is not None
    kind = type(retry_policy)
    for copied in (
        copy.deepcopy(retry_policy),
        pickle.loads(pickle.dumps(retry_policy)),
        kind.deserialize(json.loads(json.dumps(retry_policy.serialize()))),
    ):
        assert type(copied) is kind
        assert repr(copied) == repr(retry_policy) == "VectorizeRetryPolicy()"


@pytest.mark.airflow(before="3.3")
@pytest.mark.usefixtures("airflow_db")
@pytest.mark.parametrize("make", MAKERS)
def test_before_airflow_3_3_tasks_are_retried_with_their_delay(
    vectorize: Vectorize, monkeypatch: pytest.MonkeyPatch, make: Callable[[], None]
) -> None:
    assert retry_policy is None
    monkeypatch.setenv(CONN, vectorize.server.connection_with("wrong-token-0123456789abcdef0123456789"))
    with make_dag("refused", default_args=THRICE) as dag:
        make()
    assert tries_of(run_failing(dag)) == {4}


@pytest.mark.airflow(before="3.3")
def test_before_airflow_3_3_the_policy_is_accepted_only_in_default_args() -> None:
    try:
        from airflow.serialization.serialized_objects import DagSerialization
    except ImportError:  # before 3.2
        from airflow.serialization.serialized_objects import SerializedDAG as DagSerialization

    dag = make_retried_dag()
    read = DagSerialization.from_dict(json.loads(json.dumps(DagSerialization.to_dict(dag))))
    assert {read.get_task(task_id).retries for task_id in dag.task_ids} == {3}
    delete(ids=["a"], default_args=THRICE)
    with pytest.raises(Exception, match="retry_policy"):
        delete(ids=["a"], retry_policy=retry_policy)
