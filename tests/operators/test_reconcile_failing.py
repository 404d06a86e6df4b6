# SPDX-License-Identifier: Apache-2.0
"""Refusals, failures, timeouts and kills that end a reconciliation early."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_cfvectorize.client.bulk import reconcile as reconcile_module
from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeBatchError,
    VectorizeInputError,
    VectorizeInterrupted,
    VectorizeNotFoundError,
    VectorizeTransportError,
    VectorizeWaitTimeout,
)
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.operators.vectors import ReconcileVectorsOperator
from harness import INDEX, Clock, Vectorize, make_context, run_task, wait_until
from operators.reconciling import make, pushed, reconcile, report_of_failure

CONN = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"


# --- refused inputs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"ids": None}, "ids is None"),
        ({"ids": "None"}, "which Jinja renders for a missing value"),
        ({"ids": ["x" * 65]}, "65 bytes"),
        ({"ids": {"a"}}, "sorted"),
        ({"ids_path": "x"}, "both ids and ids_path"),
        ({"ids": None, "ids_path": "/does/not/exist"}, "cannot be read"),
        ({"ids": None, "ids_path": ""}, "expected a path"),
        ({"ids": None, "ids_path": "/proc/self/environ"}, "/proc"),
        ({"surplus_path": "None"}, "surplus_path is 'None'"),
        ({"missing_path": 7}, "missing_path is 7"),
        ({"surplus_path": "/proc/self/x"}, "/proc"),
        ({"surplus_path": "/tmp/x", "missing_path": "file:///tmp/../tmp/x"}, "pass different files"),
        ({"ids": None, "ids_path": "s3://b/x", "missing_path": "S3://b/x"}, "ids_path and missing_path"),
        ({"id_prefix": ""}, "for the whole index, omit id_prefix"),
        ({"id_prefix": 2024}, "id_prefix is 2024"),
        ({"id_prefix": "b"}, "1 of 1 desired ids do not begin with the id_prefix 'b': 'a' at position 0"),
        ({"max_delete_fraction": 20}, "max_delete_fraction is 20, expected a number from 0 to 1"),
        ({"max_delete_fraction": 1.01}, "0.2 for 20 %"),
        ({"max_delete_fraction": -0.1}, "max_delete_fraction is -0.1, expected a number from 0 to 1:"),
        ({"max_delete_fraction": float("nan")}, "max_delete_fraction is nan"),
        ({"max_delete_fraction": "0.2"}, "max_delete_fraction is '0.2'"),
        ({"max_delete_fraction": True}, "max_delete_fraction is True"),
        ({"allow_empty": "False"}, "allow_empty is 'False', expected True or False"),
        ({"dry_run": "False"}, "dry_run is 'False', expected True or False"),
        ({"confirm_after": -1}, "confirm_after is -1"),
        ({"confirm_after": "60"}, "confirm_after is '60'"),
        ({"verify": "all"}, "verify is 'all', expected 'sample' or 'none'"),
        ({"concurrency": 0}, "concurrency is 0"),
        ({"wait_timeout": -1}, "wait_timeout is -1"),
        ({"poll_interval": "1"}, "poll_interval is '1'"),
        ({"index_name": "a/b"}, "index name 'a/b'"),
        ({"account_id": "f" * 31}, "32 hexadecimal digits"),
    ],
)
def test_invalid_arguments_are_refused(server: LocalVectorize, kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(VectorizeInputError) as error:
        reconcile(**{"ids": ["a"], **kwargs})
    assert text in str(error.value)
    assert sum(server.stats().values()) == 0


def test_a_prefix_that_renders_to_none_is_refused(server: LocalVectorize) -> None:
    operator = make(ids=[], allow_empty=True, id_prefix="{{ params.prefix }}")
    # Native rendering of an unset param gives None.
    operator.id_prefix = None
    with pytest.raises(VectorizeInputError, match="id_prefix is None after rendering"):
        operator.execute(make_context())
    assert sum(server.stats().values()) == 0


def test_errors_do_not_show_ids_of_a_file(server: LocalVectorize, tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("b1\n\nhunter2\nb2\n")
    with pytest.raises(VectorizeInputError) as error:
        reconcile(ids_path=str(path), id_prefix="b")
    assert "1 of 3 desired ids do not begin with the id_prefix 'b': at position 1" in str(error.value)
    assert "hunter2" not in str(error.value)
    assert sum(server.stats().values()) == 0


# --- waits, failures, kills ---------------------------------------------------------------------------------


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_wait_that_times_out_pushes_the_receipt_and_report(
    monkeypatch: pytest.MonkeyPatch, deferrable: bool
) -> None:
    clock = Clock()
    with LocalVectorize(apply_delay=60, clock=clock) as server:
        monkeypatch.setenv(CONN, server.connection)
        vectorize = Vectorize(server)
        mutation = vectorize.client.upsert(INDEX, [{"id": id_, "values": [1.0] * 32} for id_ in "ab"])
        clock.ahead += 100
        vectorize.wait_for(mutation["mutationId"])
        context = make_context()
        with pytest.raises(VectorizeWaitTimeout):
            reconcile(context, ids=["a"], deferrable=deferrable, wait_timeout=0.2)
        xcoms = context["ti"].pushed
        assert (xcoms["report"]["deleted"], xcoms["receipt"]["witness_ids"]) == (1, ["b"])


def test_a_deferred_task_resumes_without_the_ids(vectorize: Vectorize, tmp_path: Path) -> None:
    vectorize.fill(["a", "b"])
    path = tmp_path / "ids.txt"
    path.write_text("a\n")
    context = make_context()
    deferred: list[bool] = []

    def on_defer() -> None:
        deferred.append(True)
        path.unlink()

    mutation_id = run_task(lambda: make(ids_path=str(path), deferrable=True), context, on_defer)
    assert deferred == [True]
    assert context["ti"].pushed["evidence"]["mutation_id"] == mutation_id
    assert vectorize.ids() == {"a"}


@pytest.mark.parametrize("verify", ["sample", "none"])
def test_without_a_wait_nothing_is_verified(vectorize: Vectorize, verify: str) -> None:
    vectorize.fill(["a", "b"])
    vectorize.server.reset_stats()
    xcoms = pushed(ids=["a"], wait_for_completion=False, verify=verify)
    assert "evidence" not in xcoms
    assert xcoms["receipt"]["witness_ids"] == (["b"] if verify == "sample" else [])
    stats = vectorize.server.stats()
    assert (stats["info"], stats["get_by_ids"]) == (0, 1 if verify == "sample" else 0)


def test_a_retry_after_a_failed_delete_completes_it(
    vectorize: Vectorize, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = [f"old{i:03}" for i in range(350)]
    vectorize.fill(["a", *old])
    left = iter(range(2))
    send = VectorizeClient.delete_by_ids

    def break_off(client: VectorizeClient, *args: Any) -> Any:
        if next(left, None) is None:
            raise VectorizeTransportError("broken")
        return send(client, *args)

    with monkeypatch.context() as patch:
        patch.setattr(VectorizeClient, "delete_by_ids", break_off)
        report = report_of_failure(
            VectorizeBatchError, "200 of 350 ids are acknowledged", ids=["a"], concurrency=1
        )
    assert (report["surplus"], report["deleted"]) == (350, 200)
    vectorize.settle()
    vectorize.client.upsert(INDEX, [{"id": "new", "values": [1.0] * 32}])
    vectorize.settle()
    # The retry lists the index again.
    xcoms = pushed(ids=["a", "new"])
    assert xcoms["report"]["deleted"] == 150
    assert not vectorize.ids() & set(old)


def test_a_missing_index_and_a_wrong_token_are_errors(
    vectorize: Vectorize, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(VectorizeNotFoundError):
        reconcile(ids=["a"], index_name="other")
    token = "wrong-token-0123456789abcdef0123456789ab"
    monkeypatch.setenv(CONN, vectorize.server.connection_with(token))
    with pytest.raises(VectorizeAuthError) as error:
        reconcile(ids=["a"])
    assert token not in str(error.value)


@pytest.mark.usefixtures("impatient_refusals")
def test_a_read_only_token_allows_a_dry_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    token = "read-only-token-0123456789abcdef01234567"
    with LocalVectorize(apply_delay=0.02, read_only_token=token) as server:
        vectorize = Vectorize(server)
        vectorize.fill(["a", "b"])
        monkeypatch.setenv(CONN, server.connection_with(token))
        pushed(ids=["a"], dry_run=True, surplus_path=str(tmp_path / "surplus.txt"))
        report_of_failure(VectorizeAuthError, "Vectorize: Edit", ids=["a"])
        assert vectorize.ids() == {"a", "b"}


def killed(operator: ReconcileVectorsOperator, when: Callable[[], bool]) -> str:
    """Run a task, kill it once ``when()`` is true, and return its error."""
    previous = signal.signal(signal.SIGTERM, lambda *_: operator.on_kill())

    def kill_at_work() -> None:
        wait_until(when)
        os.kill(os.getpid(), signal.SIGTERM)

    killer = threading.Thread(target=kill_at_work)
    killer.start()
    try:
        with pytest.raises(VectorizeInterrupted) as error:
            operator.execute(make_context())
    finally:
        killer.join()
        signal.signal(signal.SIGTERM, previous)
    return str(error.value)


def test_a_kill_between_two_listings(vectorize: Vectorize, monkeypatch: pytest.MonkeyPatch) -> None:
    vectorize.fill(["a", "b"])
    resting = threading.Event()
    sleep = reconcile_module.stoppable_sleep

    def note(*args: Any) -> None:
        resting.set()
        sleep(*args)

    monkeypatch.setattr(reconcile_module, "stoppable_sleep", note)
    said = killed(make(ids=["a"], confirm_after=3600), resting.is_set)
    assert said == "interrupted between two listings: nothing was deleted"
    assert vectorize.ids() == {"a", "b"}


def test_a_kill_while_the_index_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalVectorize(apply_delay=0.02) as server:
        Vectorize(server).fill([f"v{i}" for i in range(5000)])
        # The test holds the listing until the signal arrives.
        listed, resume = threading.Event(), threading.Event()
        list_vectors = VectorizeClient.list_vectors

        def hold(client: VectorizeClient, *args: Any, **kwargs: Any) -> Any:
            page = list_vectors(client, *args, **kwargs)
            listed.set()
            resume.wait(30)
            return page

        monkeypatch.setattr(VectorizeClient, "list_vectors", hold)
        monkeypatch.setenv(CONN, server.connection)
        try:
            said = killed(make(ids=["v1"]), listed.is_set)
        finally:
            resume.set()
        assert "interrupted during the listing of index 'docs': nothing was deleted" in said
        assert (server.stats()["list_vectors"], server.stats()["delete_by_ids"]) == (1, 0)
