# SPDX-License-Identifier: Apache-2.0
"""The delete operator over real HTTP, without a scheduler."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_cfvectorize.client.http.session import RetryLimits
from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeBatchError,
    VectorizeInputError,
    VectorizeInterrupted,
    VectorizeNotFoundError,
    VectorizeTransportError,
    VectorizeWaitTimeout,
)
from airflow_provider_cfvectorize.hooks import vectorize as hook_module
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByIdsOperator
from airflow_provider_cfvectorize.triggers.events import timeout_event
from client.stores import Store
from harness import INDEX, PROVEN, FakeTaskInstance, Vectorize, make_context, run_task, wait_until

CONN = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"
ODD_IDS = [
    "a,b",
    "it's",
    'say "hi"',
    "two words",
    " padded ",
    "line\u2028sep",
    "é漢😀",
    "1e5",
    "None",
    "[x]",
    "0x1f",
]


def make(**kwargs: Any) -> DeleteVectorsByIdsOperator:
    arguments = {
        "task_id": "delete",
        "index_name": INDEX,
        "poll_interval": 0.05,
        "wait_timeout": 20,
        **kwargs,
    }
    return DeleteVectorsByIdsOperator(**arguments)


def delete(context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    return run_task(lambda: make(**kwargs), context or make_context())


# --- what is deleted ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 100, 101, 250, 10_000])
@pytest.mark.parametrize("how", ["list", "tuple", "text", "lines", "ndjson"])
def test_exactly_the_ids_are_deleted(vectorize: Vectorize, tmp_path: Path, count: int, how: str) -> None:
    ids = [f"id-{i}" for i in range(count)]
    others = {"id", "id-", "id--1", f"id-{count}", "x"}
    vectorize.fill([*ids, *others])
    kwargs: dict[str, Any]
    if how in ("lines", "ndjson"):
        path = tmp_path / f"ids.{how}"
        lines = ids if how == "lines" else [json.dumps({"id": id_, "values": [1, 2]}) for id_ in ids]
        path.write_text("\n".join(lines))
        kwargs = {"ids_path": str(path)}
    else:
        kwargs = {"ids": {"list": ids, "tuple": tuple(ids), "text": str(ids)}[how]}
    context = make_context()
    mutation_id = delete(context, **kwargs)
    vectorize.wait_for(mutation_id)
    assert vectorize.ids() == others
    receipt = context["ti"].pushed["receipt"]
    assert receipt["mutation_id"] == mutation_id
    assert (receipt["count"], receipt["batches"]) == (count, -(-count // 100))
    assert len(receipt["witness_ids"]) == min(5, count)
    assert set(receipt) == {
        "mutation_id",
        "index_name",
        "account_id",
        "accepted_at",
        "count",
        "batches",
        "witness_ids",
        "sampled",
        "existing",
    }


@pytest.mark.parametrize("how", ["list", "text", "json", "lines", "ndjson"])
def test_unusual_ids_are_deleted(vectorize: Vectorize, tmp_path: Path, how: str) -> None:
    vectorize.fill([*ODD_IDS, "other"])
    if how in ("lines", "ndjson"):
        path = tmp_path / ("ids.txt" if how == "lines" else "ids.NDJSON")
        lines = ODD_IDS if how == "lines" else [json.dumps({"id": id_}) for id_ in ODD_IDS]
        # A byte order mark, both line endings, an empty line, and no line feed at the end.
        path.write_bytes(("\ufeff" + "\r\n".join(lines[:5]) + "\n\n" + "\n".join(lines[5:])).encode())
        delete(ids_path=str(path), wait_for_completion=True)
    else:
        ids: Any = {"list": ODD_IDS, "text": str(ODD_IDS), "json": json.dumps(ODD_IDS)}[how]
        delete(ids=ids, wait_for_completion=True)
    assert vectorize.ids() == {"other"}


def test_integers_and_duplicates_are_accepted(vectorize: Vectorize) -> None:
    vectorize.fill(["1", "2", "3"])
    context = make_context()
    delete(context, ids=[1, "2", 2, 1], wait_for_completion=True)
    assert vectorize.ids() == {"3"}
    assert context["ti"].pushed["receipt"]["count"] == 2


def test_a_single_id_is_deleted(vectorize: Vectorize) -> None:
    vectorize.fill(["1e5", "100000.0"])
    delete(ids="1e5", wait_for_completion=True)
    assert vectorize.ids() == {"100000.0"}


# --- refused inputs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"ids": None}, "ids is None"),
        ({"ids": "None"}, "which Jinja renders for a missing value"),
        ({"ids": ""}, "which Jinja renders for a missing value"),
        ({"ids": "a,b"}, "comma"),
        ({"ids": "a\nb"}, "line break"),
        ({"ids": "a "}, "white space"),
        ({"ids": ["x" * 65]}, "65 bytes"),
        ({"ids": ["é" * 32 + "x"]}, "65 bytes"),
        ({"ids": ["a", ""]}, "ids[1]: '' is empty"),
        ({"ids": [1.5]}, "1.5 is neither"),
        ({"ids": [True]}, "True is neither"),
        ({"ids": {"a": 1}}, "keys or values"),
        ({"ids": {"a"}}, "sorted"),
        ({"ids": (x for x in "ab")}, "generator"),
        ({"ids": b"ab"}, "decode"),
        ({"ids": [["a", "b"], ["c"]]}, "ids[0] is a row of 2 columns, expected 1 column"),
        ({"ids": "[['a', 'b']]"}, "ids[0] is a row of 2 columns"),
        ({"ids": "[a, b"}, "begins like a list"),
        ({"ids": ["\ud800"]}, "surrogate"),
        ({"ids": ["a", "b", "c"], "max_ids": 2}, "max_ids is 2"),
        ({"ids": ["a"], "ids_path": "x"}, "both ids and ids_path"),
        ({"ids_path": "/does/not/exist"}, "cannot be read"),
        ({"ids_path": "/proc/self/environ"}, "/proc"),
        ({"ids_path": "file:///proc/self/environ"}, "/proc"),
        ({"ids_path": "local:///proc/self/environ"}, "/proc"),
        ({"ids_path": "/"}, "not a regular file"),
        ({"ids_path": "nosuchstore://bucket/ids"}, "cannot be read"),
        ({"ids": ["a"], "index_name": "a/b"}, "index name 'a/b'"),
        ({"ids": ["a"], "index_name": ".."}, "index name '..'"),
        ({"ids": ["a"], "index_name": "a" * 8000}, "(8000 long)"),
        ({"ids": ["a"], "account_id": "f" * 31}, "32 hexadecimal digits"),
        ({"ids": ["a"], "verify": "al"}, "'sample', 'all' or 'none'"),
        ({"ids": ["a"], "verify": "all"}, "wait_for_completion=True"),
        ({"ids": ["a"], "concurrency": 0}, "concurrency is 0"),
        ({"ids": ["a"], "wait_timeout": -1}, "wait_timeout is -1"),
        ({"ids": ["a"], "wait_timeout": float("inf"), "wait_for_completion": True}, "wait_timeout is inf"),
        ({"ids": ["a"], "max_ids": 1.5}, "max_ids is 1.5"),
    ],
)
def test_invalid_arguments_are_refused(server: LocalVectorize, kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(VectorizeInputError) as error:
        delete(**kwargs)
    assert text in str(error.value)
    assert sum(server.stats().values()) == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"login": "not-hex"}, "32 hexadecimal digits"),
        ({"login": None}, "no login"),
        ({"password": None}, "no password"),
        ({"password": "two words"}, "cannot be sent in a header"),
        ({"conn_type": "postgres"}, "of type 'postgres'"),
        ({"host": "http://example.com"}, "allow_http_hosts"),
        ({"host": "https://user:pw@example.com"}, "no user, password"),
        ({"port": 8787}, "has a port"),
        ({"schema": "http"}, "has a schema"),
        ({"extra": {"timeout": "soon"}}, "timeout is 'soon'"),
        ({"extra": {"timeout": 0}}, "above 0"),
        ({"extra": {"rate_reserve": 1}}, "from 0 to below 1"),
    ],
)
def test_invalid_connections_are_refused(
    server: LocalVectorize, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], text: str
) -> None:
    connection = json.loads(server.connection) | change
    monkeypatch.setenv(CONN, json.dumps(connection))
    with pytest.raises(VectorizeInputError) as error:
        delete(ids=["a"])
    assert text in str(error.value)
    assert str(error.value).startswith("connection 'cloudflare_vectorize_default'")
    assert sum(server.stats().values()) == 0
    assert "pw" not in str(error.value)
    assert server.api_token not in str(error.value)


# --- empty inputs, dry runs, verification -------------------------------------------------------------------


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("deferrable", [False, True])
def test_nothing_to_delete(server: LocalVectorize, wait: bool, deferrable: bool) -> None:
    context = make_context()
    assert delete(context, ids=[], wait_for_completion=wait, deferrable=deferrable) is None
    receipt = context["ti"].pushed["receipt"]
    assert (receipt["mutation_id"], receipt["count"], receipt["accepted_at"]) == (None, 0, None)
    assert ("evidence" in context["ti"].pushed) is wait
    assert sum(server.stats().values()) == 0


def test_a_dry_run_sends_nothing(
    vectorize: Vectorize, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    vectorize.fill(["a", "b"])
    vectorize.server.reset_stats()
    context = make_context()
    with caplog.at_level(logging.INFO):
        assert delete(context, ids=["a", "b", "c"], dry_run=True, wait_for_completion=True) is None
    stats = vectorize.server.stats()
    assert (stats["delete_by_ids"], stats["get_by_ids"]) == (0, 1)
    receipt = context["ti"].pushed["receipt"]
    assert (receipt["mutation_id"], receipt["count"], receipt["would_delete"]) == (None, 0, 3)
    assert vectorize.ids() == {"a", "b"}
    assert "of 3 ids read, 2 exist" in caplog.text + capfd.readouterr().out


def test_a_dry_run_fails_like_a_delete(vectorize: Vectorize, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(VectorizeNotFoundError):
        delete(ids=["a"], index_name="other", dry_run=True)
    monkeypatch.setenv(CONN, vectorize.server.connection_with("wrong-token-0123456789abcdef0123456789"))
    with pytest.raises(VectorizeAuthError):
        delete(ids=["a"], dry_run=True)


@pytest.mark.parametrize("deferrable", [False, True])
def test_verify_all_fails_if_the_file_changed(
    vectorize: Vectorize, tmp_path: Path, deferrable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectorize.fill(["a", "b"])
    path = tmp_path / "ids.txt"
    path.write_text("a\nb\n")
    push = FakeTaskInstance.xcom_push

    def push_and_replace(ti: FakeTaskInstance, key: str, value: Any) -> None:
        push(ti, key, value)
        path.write_text("c\n")

    monkeypatch.setattr(FakeTaskInstance, "xcom_push", push_and_replace)
    with pytest.raises(VectorizeInputError, match="the ids have changed since the delete"):
        delete(ids_path=str(path), wait_for_completion=True, deferrable=deferrable, verify="all")


def test_verify_none_reads_no_ids(vectorize: Vectorize) -> None:
    vectorize.fill(["a"])
    vectorize.server.reset_stats()
    context = make_context()
    delete(context, ids=["a"], verify="none")
    assert vectorize.server.stats()["get_by_ids"] == 0
    assert context["ti"].pushed["receipt"]["witness_ids"] == []


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("how", ["list", "file"])
def test_verify_all_reads_every_id_back(
    vectorize: Vectorize, tmp_path: Path, deferrable: bool, how: str
) -> None:
    ids = [f"é{i}" for i in range(130)]
    vectorize.fill(ids)
    vectorize.server.reset_stats()
    path = tmp_path / "ids.txt"
    path.write_text("\n".join(ids))
    kwargs: dict[str, Any] = {"ids": ids} if how == "list" else {"ids_path": str(path)}
    context = make_context()
    delete(context, wait_for_completion=True, deferrable=deferrable, verify="all", **kwargs)
    evidence = context["ti"].pushed["evidence"]
    digest = hashlib.sha256(b"".join(id_ + b"\n" for id_ in sorted(i.encode() for i in ids))).hexdigest()
    assert (evidence["ids_verified"], evidence["ids_visible"], evidence["still_visible"]) == (130, 0, [])
    assert evidence["ids_sha256"] == digest
    assert vectorize.server.stats()["get_by_ids"] >= 7


# --- waiting ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_wait_ends_when_the_delete_is_applied(monkeypatch: pytest.MonkeyPatch, deferrable: bool) -> None:
    with LocalVectorize(apply_delay=0.3) as server:
        monkeypatch.setenv(CONN, server.connection)
        vectorize = Vectorize(server)
        vectorize.fill(["a", "b"])
        context = make_context()
        deferred: list[bool] = []
        mutation_id = run_task(
            lambda: make(ids=["a"], wait_for_completion=True, deferrable=deferrable),
            context,
            on_defer=lambda: deferred.append(True),
        )
        assert vectorize.ids() == {"b"}
        assert bool(deferred) is deferrable
        evidence = context["ti"].pushed["evidence"]
        assert evidence["mutation_id"] == mutation_id
        assert evidence["outcome"] in PROVEN


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_wait_times_out(monkeypatch: pytest.MonkeyPatch, deferrable: bool) -> None:
    with LocalVectorize(apply_delay=3600) as server:
        monkeypatch.setenv(CONN, server.connection)
        Vectorize(server)
        context = make_context()
        with pytest.raises(VectorizeWaitTimeout, match="no mutation yet"):
            delete(context, ids=["a"], wait_for_completion=True, deferrable=deferrable, wait_timeout=0.2)
        # The receipt is pushed for a sensor or a person.
        assert context["ti"].pushed["receipt"]["mutation_id"]


def test_a_deferral_ends_with_the_execution_timeout(vectorize: Vectorize) -> None:
    with pytest.raises(TaskDeferred) as deferred:
        make(
            ids=["a"],
            wait_for_completion=True,
            deferrable=True,
            wait_timeout=900,
            execution_timeout=timedelta(seconds=100),
        ).execute(make_context())
    assert deferred.value.timeout == timedelta(seconds=160)
    assert deferred.value.trigger.serialize()[1]["wait_seconds"] == 100
    with pytest.raises(TaskDeferred) as deferred:
        make(ids=["a"], wait_for_completion=True, deferrable=True, wait_timeout=900).execute(make_context())
    assert deferred.value.timeout == timedelta(seconds=960)


def test_an_execution_timeout_ends_a_deferred_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalVectorize(apply_delay=3600) as server:
        monkeypatch.setenv(CONN, server.connection)
        Vectorize(server)
        text = r"execution_timeout of 0\.2 s ended the wait before its wait_timeout of 5 s: not observed as"
        with pytest.raises(VectorizeWaitTimeout, match=text):
            delete(
                ids=["a"],
                wait_for_completion=True,
                deferrable=True,
                wait_timeout=5,
                execution_timeout=timedelta(seconds=0.2),
            )


def test_a_retry_resumed_with_the_event_of_the_first_attempt(vectorize: Vectorize) -> None:
    # Airflow 3.0 does this.
    vectorize.fill(["a", "b"])
    context = make_context()

    def make_delete() -> DeleteVectorsByIdsOperator:
        return make(ids=["a"], wait_for_completion=True, deferrable=True)

    with pytest.raises(TaskDeferred) as deferred:
        make_delete().execute(context)
    event = timeout_event(VectorizeWaitTimeout("not observed as applied in index docs within 900 s"))
    kwargs = {**deferred.value.kwargs, "event": event}
    with pytest.raises(VectorizeWaitTimeout):
        make_delete().resume_execution("execute_complete", kwargs, context)

    vectorize.settle()
    vectorize.fill(["a"])
    context["ti"].try_number = 2
    with pytest.raises(TaskDeferred) as deferred:
        make_delete().resume_execution("execute_complete", kwargs, context)
    vectorize.settle()
    assert vectorize.ids() == {"b"}
    with pytest.raises(VectorizeWaitTimeout):
        make_delete().resume_execution("execute_complete", {**deferred.value.kwargs, "event": event}, context)


# --- failing ------------------------------------------------------------------------------------------------


def test_a_refused_token_ends_the_task(
    vectorize: Vectorize, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    token = "wrong-token-0123456789abcdef0123456789ab"
    monkeypatch.setenv(CONN, vectorize.server.connection_with(token))
    with pytest.raises(VectorizeAuthError, match="Vectorize: Edit") as error:
        delete(ids=["a"])
    assert token not in str(error.value)
    # The refused read of witnesses is the first request and ends the task without a warning.
    assert (vectorize.server.stats()["delete_by_ids"], str(error.value).count("Check, in this order")) == (
        0,
        1,
    )
    assert "witnesses" not in caplog.text
    context = make_context() | {"task_state_store": Store()}
    with pytest.raises(VectorizeAuthError, match=rf"GET .*/{INDEX} \(connection '.*'\): HTTP 401"):
        make(ids=["a"], wait_for_completion=True).execute(context)
    assert "Progress is not saved" not in caplog.text


def test_a_server_that_is_down(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    policy = RetryLimits(backoff_total=0.3, first_backoff=0.01, longest_backoff=0.05)
    monkeypatch.setattr(hook_module, "client_of", partial(hook_module.client_of, retry=policy))
    connection = {"conn_type": "cloudflare_vectorize", "login": "a" * 32, "password": "token"}
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        host = f"http://127.0.0.1:{unused.getsockname()[1]}"
        monkeypatch.setenv(CONN, json.dumps({**connection, "host": host}))
        operator = make(ids=["a"], wait_for_completion=True)
        with pytest.raises(
            VectorizeTransportError,
            match=rf"^GET .*/{INDEX} \(connection 'cloudflare_vectorize_default'\): no response from 127.*"
            "Nothing has responded for .*Check the connection's host and, on this worker",
        ):
            operator.execute(make_context() | {"task_state_store": Store()})
    # One backoff and one error, although three requests could each have had one; no warning prepares for it.
    assert not [r for r in caplog.records if r.levelname == "WARNING" and "client" in r.name]
    assert "Progress is not saved" not in caplog.text


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("kind", ["refuse", "challenge"])
def test_temporary_refusals_are_retried(vectorize: Vectorize, kind: str, deferrable: bool) -> None:
    ids = [f"v{i}" for i in range(3000)]
    vectorize.server.set_faults([f"{kind}:delete_by_ids#15", f"{kind}:get_by_ids#2", f"{kind}:info#1-2"])
    try:
        # The wait has its own client and knows that the write was accepted.
        delete(ids=ids, wait_for_completion=True, deferrable=deferrable, poll_interval=0.05)
    finally:
        vectorize.server.set_faults([])
    assert vectorize.server.injected()[kind] == 4


@pytest.mark.usefixtures("impatient_refusals")
def test_a_read_only_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    token = "read-only-token-0123456789abcdef01234567"
    with LocalVectorize(apply_delay=0.02, read_only_token=token) as server:
        vectorize = Vectorize(server)
        vectorize.fill(["a"])
        monkeypatch.setenv(CONN, server.connection_with(token))
        with pytest.raises(VectorizeAuthError, match="Vectorize: Edit") as error:
            delete(ids=["a"])
        assert (error.value.status, error.value.code) == (403, 10000)
        assert vectorize.ids() == {"a"}


def test_a_missing_index_is_an_error(vectorize: Vectorize) -> None:
    with pytest.raises(VectorizeNotFoundError, match="Check index_name") as error:
        delete(ids=[str(i) for i in range(250)], index_name="other")
    assert error.value.code == 3000
    assert vectorize.server.stats()["delete_by_ids"] == 0
    vectorize.client.delete_index(INDEX)
    with pytest.raises(VectorizeNotFoundError, match="was deleted"):
        delete(ids=["a"])


def test_a_retry_holds_back_the_same_batch(vectorize: Vectorize, monkeypatch: pytest.MonkeyPatch) -> None:
    # An attempt that ended midway has not sent its held-back batch. If the retry took witnesses from another
    # batch, deletes of the first attempt that are applied later would look like its own.
    from airflow_provider_cfvectorize.client.client import VectorizeClient

    ids = [f"v{i}" for i in range(400)]
    vectorize.fill(ids[100:])
    sent: list[list[str]] = []
    send = VectorizeClient.delete_by_ids

    def break_at_the_third(client: VectorizeClient, index_name: str, batch: Any) -> Any:
        if len(sent) == 2:
            raise VectorizeTransportError("broken")
        sent.append(batch)
        return send(client, index_name, batch)

    monkeypatch.setattr(VectorizeClient, "delete_by_ids", break_at_the_third)
    with pytest.raises(VectorizeBatchError, match="broken"):
        delete(ids=ids, concurrency=1)
    monkeypatch.undo()
    monkeypatch.setenv(CONN, vectorize.server.connection)
    context = make_context()
    delete(context, ids=ids)
    witnesses = set(context["ti"].pushed["receipt"]["witness_ids"])
    assert len(witnesses) == 5
    assert not witnesses & {id_ for batch in sent for id_ in batch}


def test_an_id_in_two_batches_is_not_a_witness(vectorize: Vectorize, tmp_path: Path) -> None:
    # Duplicates in a file are dropped only within a batch; the first delete removes the vector.
    ids = [f"v{i}" for i in range(120)]
    vectorize.fill(ids)
    path = tmp_path / "ids.txt"
    path.write_text("\n".join([*ids[:100], *ids[:18], *ids[100:102]]))
    context = make_context()
    delete(context, ids_path=str(path))
    witness_ids = context["ti"].pushed["receipt"]["witness_ids"]
    assert (witness_ids[0], witness_ids[2]) == (ids[100], ids[101])
    assert set(witness_ids) <= set(ids[18:102])


@pytest.mark.parametrize("dry_run", [False, True])
def test_fail_if_none_exist_sends_nothing(vectorize: Vectorize, dry_run: bool) -> None:
    vectorize.fill(["a"])
    options = {"fail_if_none_exist": True, "dry_run": dry_run}
    with pytest.raises(VectorizeInputError, match="None of 3 sampled ids exists in index docs, so"):
        delete(ids=["chnk-1", "chnk-2", "a "], **options)
    assert vectorize.server.stats()["delete_by_ids"] == 0
    context = make_context()
    delete(context, ids=["chnk-1", "a"], **options)
    receipt = context["ti"].pushed["receipt"]
    assert (receipt["sampled"], receipt["existing"]) == (2, 1)
    delete(ids=[], **options)
    with pytest.raises(VectorizeInputError, match="verify='none' reads none"):
        delete(ids=["a"], verify="none", **options)


# --- stopping -----------------------------------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Vectorize]:
    with LocalVectorize(apply_delay=0.02, latency=0.2) as server:
        monkeypatch.setenv(CONN, server.connection)
        yield Vectorize(server)


def test_no_batch_starts_after_a_kill(slow: Vectorize) -> None:
    operator = make(ids=[str(i) for i in range(10_000)], concurrency=2)
    previous = signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())

    def kill_at_work() -> None:
        wait_until(lambda: slow.server.stats()["delete_by_ids"] >= 3)
        os.kill(os.getpid(), signal.SIGTERM)

    killer = threading.Thread(target=kill_at_work)
    killer.start()
    try:
        with pytest.raises(VectorizeInterrupted, match="of 10000 ids are acknowledged"):
            operator.execute(make_context())
    finally:
        killer.join()
        signal.signal(signal.SIGTERM, previous)
    assert slow.server.stats()["delete_by_ids"] < 20


def test_a_kill_ends_a_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalVectorize(apply_delay=3600) as server:
        monkeypatch.setenv(CONN, server.connection)
        Vectorize(server)
        operator = make(ids=["a"], wait_for_completion=True, wait_timeout=3600)

        def kill_at_work() -> None:
            wait_until(lambda: server.stats()["info"] >= 1)
            operator.on_kill()

        killer = threading.Thread(target=kill_at_work)
        killer.start()
        with pytest.raises(VectorizeInterrupted, match="accepted and will be applied"):
            operator.execute(make_context())
        killer.join()


# --- logging ------------------------------------------------------------------------------------------------


def test_progress_is_logged(
    vectorize: Vectorize,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from airflow_provider_cfvectorize.client import workers

    monkeypatch.setattr(workers, "SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO):
        delete(ids=[str(i) for i in range(300)])
    # Airflow 3 logs to standard output without a supervisor.
    text = caplog.text + capfd.readouterr().out
    assert "100 of 300 ids in 1 of 3 batches" in text
    assert "ids a second" in text
    assert "s left" in text


def test_the_token_appears_nowhere(
    vectorize: Vectorize, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    vectorize.fill(["a"])
    context = make_context()
    with caplog.at_level(logging.DEBUG):
        operator = make(ids=["a"], wait_for_completion=True)
        operator.execute(context)
        with pytest.raises(TaskDeferred) as deferred:
            make(ids=["a"], wait_for_completion=True, deferrable=True).execute(context)
    client = operator.make_client(max_connections=1)
    logged = "\n".join(
        [
            caplog.text,
            *capfd.readouterr(),
            json.dumps(context["ti"].pushed),
            repr(deferred.value.trigger.serialize()),
            repr(client),
            repr(client.session),
            repr(vars(operator)),
        ]
    )
    assert vectorize.server.api_token not in logged
