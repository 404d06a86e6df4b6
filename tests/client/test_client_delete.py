# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_cfvectorize.client import workers
from airflow_provider_cfvectorize.client.bulk.delete import delete_ids, read_back_all, take_sample
from airflow_provider_cfvectorize.client.bulk.list import iter_ids
from airflow_provider_cfvectorize.client.bulk.read import iter_vectors
from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.http.session import RetryLimits
from airflow_provider_cfvectorize.client.inputs.ids import IdList, read_ids
from airflow_provider_cfvectorize.client.inputs.ids_file import IdsFile
from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
from airflow_provider_cfvectorize.client.mutations.wait import Wait
from airflow_provider_cfvectorize.client.workers import Dispatcher, Progress, Stopped
from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeBatchAuthError,
    VectorizeBatchError,
    VectorizeBatchNotFoundError,
    VectorizeBatchThrottledError,
    VectorizeInputError,
    VectorizeInterrupted,
    VectorizeTransportError,
)
from client.servers import AT_ONCE, Reply, Request, ScriptedServer, accepted, make_client, ok, refused

Connect = Callable[..., VectorizeClient]
Serve = Callable[..., ScriptedServer]
log = logging.getLogger("test")


def numbered(count: int) -> list[str]:
    return [f"id-{i}" for i in range(count)]


class Index:
    """An index that records reads and deletes in order; each delete gets its own mutation id."""

    def __init__(self, exist: set[str] | None = None) -> None:
        self.exist = exist or set()
        self.deletes: list[list[str]] = []
        self.questions: list[list[str]] = []
        self.answered: list[str] = []
        self.lock = threading.Lock()
        self.refuse: Callable[[Request], Reply | None] = lambda _: None

    def __call__(self, request: Request) -> Reply:
        with self.lock:
            if reply := self.refuse(request):
                return reply
            if request.path.endswith("get_by_ids"):
                self.questions.append(request.ids)
                return ok([{"id": id_, "values": []} for id_ in request.ids if id_ in self.exist])
            self.deletes.append(request.ids)
            return accepted(f"mutation-{request.ids[0]}")


def test_the_batch_with_witnesses_is_sent_last(serve: Serve, connect: Connect) -> None:
    ids = numbered(1234)
    # Only ids of the second sample (batch 6) exist.
    index = Index(set(ids[600:700]))
    receipt = delete_ids(connect(serve(index), retry=AT_ONCE), "docs", read_ids(ids), log=log)
    assert index.deletes[-1] == ids[600:700]
    assert sorted(map(tuple, index.deletes)) == sorted(map(tuple, read_ids(ids)))
    assert [len(asked) for asked in index.questions] == [20, 20, 20]
    assert receipt.mutation_id == "mutation-id-600"
    assert len(receipt.witness_ids) == 5
    assert set(receipt.witness_ids) <= set(index.questions[1])
    assert (receipt.count, receipt.batches) == (1234, 13)
    assert (receipt.sampled, receipt.existing) == (60, 20)
    assert (receipt.index_name, receipt.account_id) == ("docs", "0123456789abcdef" * 2)
    assert receipt.accepted_at is not None
    assert Receipt.from_dict(receipt.as_dict()) == receipt


def test_the_last_batch_waits_until_all_others_are_acknowledged(serve: Serve, connect: Connect) -> None:
    slow_is_answered = threading.Event()
    order: list[str] = []
    lock = threading.Lock()

    def answer(request: Request) -> Reply:
        first = request.ids[0]
        if first == "id-0":
            # All batches except the held-back one overtake this one.
            while len(order) < 3:
                slow_is_answered.wait(0.002)
        with lock:
            order.append(first)
        return accepted(f"m-{first}")

    receipt = delete_ids(connect(serve(answer)), "docs", read_ids(numbered(500)), witnesses=False)
    assert set(order[:3]) == {"id-100", "id-200", "id-300"}
    assert order[3:] == ["id-0", "id-400"]
    assert receipt.mutation_id == "m-id-400"
    assert receipt.witness_ids == ()


@pytest.mark.parametrize(("count", "questions"), [(1, 1), (20, 1), (100, 1), (150, 2), (300, 3), (1000, 3)])
def test_no_witness_if_no_sampled_id_exists(
    serve: Serve, connect: Connect, count: int, questions: int
) -> None:
    index = Index()
    receipt = delete_ids(connect(serve(index)), "docs", read_ids(numbered(count)))
    assert receipt.witness_ids == ()
    assert len(index.questions) == questions
    assert index.deletes[-1][-1] == f"id-{count - 1}"


def test_only_sampled_ids_that_exist_become_witnesses(serve: Serve, connect: Connect) -> None:
    index = Index({"id-0", "id-3", "elsewhere"})
    client = connect(serve(index))
    sample = take_sample(client, "docs", read_ids(numbered(7)))
    assert (sample.held_back, sample.asked, sample.exist) == (0, 7, 2)
    assert sample.witnesses == ((0, "id-0"), (0, "id-3"))


def test_another_clients_delete_of_the_last_batch_proves_nothing(serve: Serve, connect: Connect) -> None:
    ids = numbered(300)
    index = Index(set(ids))

    def answer(request: Request) -> Reply:
        if request.path.endswith("info"):
            return ok({"processedUpToMutation": "theirs", "processedUpToDatetime": "2999-01-01T00:00:00Z"})
        return index(request)

    client = connect(serve(answer))
    receipt = delete_ids(client, "docs", read_ids(ids))
    wait = Wait(client, "docs", [receipt], log)
    # The other client deleted the ids of our last batch; none of our deletes is applied yet.
    index.exist -= set(index.deletes[-1])
    assert wait.poll() is None
    index.exist.clear()
    assert wait.poll()["outcome"] == "read_back"


@pytest.mark.parametrize(
    ("exist", "warning"),
    [
        (0, "None of 20 sampled ids exists in index docs; examples of missing ids: 'id-0', 'id-5', 'id-10'."),
        (1, "1 of 20 sampled ids exists in index docs; examples of missing ids: 'id-5', 'id-10', 'id-16'."),
        (100, ""),
    ],
)
def test_a_warning_names_ids_that_do_not_exist(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture, exist: int, warning: str
) -> None:
    index = Index(set(numbered(exist)))
    receipt = delete_ids(connect(serve(index)), "docs", read_ids(numbered(100)), log=log)
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == ([warning] if warning else [])
    assert (receipt.sampled, receipt.existing) == (20, min(exist, 20))


@pytest.mark.parametrize(
    "reply",
    [
        refused(500, 1),
        refused(400, 40007),
        Reply(200, b"<html>"),
        refused(429, 971),
        ok([{"no": "id"}]),
        ok("x"),
    ],
)
def test_a_failed_read_of_witnesses_does_not_fail_the_delete(
    serve: Serve, connect: Connect, reply: Reply, caplog: pytest.LogCaptureFixture
) -> None:
    index = Index(set(numbered(100)))
    index.refuse = lambda request: reply if request.path.endswith("get_by_ids") else None
    receipt = delete_ids(connect(serve(index)), "docs", read_ids(numbered(100)), log=log)
    assert receipt.mutation_id == "mutation-id-0"
    assert receipt.witness_ids == ()
    assert "No witnesses, so the evidence will be weaker" in caplog.text


def test_nothing_is_sent_for_no_ids(connect: Connect) -> None:
    receipt = delete_ids(connect("http://127.0.0.1:9"), "docs", read_ids([]))
    assert receipt == Receipt(None, "docs", "0123456789abcdef" * 2, sampled=0, existing=0)
    assert (receipt.count, receipt.as_dict()["mutation_id"]) == (0, None)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        (refused(403, 10000), VectorizeBatchAuthError),
        (refused(404, 3000), VectorizeBatchNotFoundError),
        (refused(429, 971, Retry_After="301"), VectorizeBatchThrottledError),
        (refused(400, 40008, "id too long"), VectorizeBatchError),
        (Reply(504, b"<html>"), VectorizeBatchError),
    ],
)
def test_a_permanent_error_of_a_batch_ends_the_delete(
    serve: Serve, connect: Connect, reply: Reply, kind: type
) -> None:
    index = Index()
    index.refuse = lambda request: reply if "id-250" in request.ids else None
    with pytest.raises(VectorizeBatchError) as e:
        delete_ids(connect(serve(index)), "docs", read_ids(numbered(950)), concurrency=1, witnesses=False)
    error = e.value
    assert type(error) is kind
    assert (error.acknowledged, error.failed, error.not_sent) == (200, 100, 650)
    assert "200 of 950 ids are acknowledged, 100 failed" in str(error)
    assert "650 not sent. Deleting all ids again is harmless. The first failure: POST /" in str(error)
    assert [ids[0] for ids in index.deletes] == ["id-0", "id-100"]
    if isinstance(error, VectorizeBatchAuthError):
        assert isinstance(error, VectorizeAuthError)
        assert (error.status, error.code) == (403, 10000)
    if isinstance(error, VectorizeBatchThrottledError):
        assert error.retry_after == 301
    assert error.__cause__ is not None


def test_after_a_failure_batches_in_flight_finish_and_none_starts() -> None:
    together = threading.Barrier(4, timeout=30)
    pause = threading.Event()
    acknowledged: list[str] = []

    def work(batch: list[str]) -> None:
        together.wait()
        if batch == ["1"]:
            raise VectorizeTransportError("lost")
        while not dispatcher.failed:
            pause.wait(0.001)

    dispatcher = Dispatcher(
        work, lambda batch, _: acknowledged.extend(batch), concurrency=4, stopped=lambda: False
    )
    dispatcher.run([str(i)] for i in range(20))
    assert sorted(acknowledged) == ["0", "2", "3"]
    assert [batch for batch, _ in dispatcher.failed] == [["1"]]
    assert dispatcher.sent == 4


def test_a_failing_held_back_batch_ends_the_delete(serve: Serve, connect: Connect) -> None:
    server = serve([accepted(), "reset"])
    with pytest.raises(VectorizeBatchError) as e:
        delete_ids(connect(server), "docs", read_ids(numbered(200)), witnesses=False)
    assert (e.value.acknowledged, e.value.failed, e.value.not_sent) == (100, 100, 0)
    assert isinstance(e.value.__cause__, VectorizeTransportError)


def test_a_stopped_delete_counts_acknowledged_ids(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_CHECK_SECONDS", 0.01)
    monkeypatch.setattr(workers, "_DRAIN_SECONDS", 0.01)
    index = Index()
    killed: list[bool] = []

    def refuse(request: Request) -> Reply | None:
        if "id-200" in request.ids:
            killed.append(True)
            return refused(429, 971, Retry_After="500")
        return None

    index.refuse = refuse
    client = connect(serve(index), retry=RetryLimits())
    with pytest.raises(VectorizeInterrupted, match="200 of 900 ids are acknowledged, 600 not sent"):
        delete_ids(
            client,
            "docs",
            read_ids(numbered(900)),
            concurrency=1,
            witnesses=False,
            stopped=lambda: bool(killed),
        )
    assert [ids[0] for ids in index.deletes] == ["id-0", "id-100"]
    with pytest.raises(VectorizeInterrupted):
        client.info("docs")


def test_a_stop_interrupts_a_throttled_read_of_witnesses(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "_CHECK_SECONDS", 0.01)
    monkeypatch.setattr(workers, "_DRAIN_SECONDS", 0.01)
    server = serve([refused(429, 971, Retry_After="500")])
    with pytest.raises(VectorizeInterrupted, match="interrupted: nothing was deleted"):
        delete_ids(
            connect(server, retry=RetryLimits()),
            "docs",
            read_ids(["a"]),
            stopped=lambda: len(server.requests) > 0,
        )
    assert len(server.requests) == 1


def test_a_file_changed_during_the_delete(serve: Serve, connect: Connect, tmp_path: Path) -> None:
    path = tmp_path / "ids.txt"
    path.write_text("\n".join(numbered(500)))
    ids = IdsFile(str(path))
    path.write_text("\n".join([*numbered(250), "other"]))
    index = Index()
    with pytest.raises(VectorizeInputError, match=r"changed.*\. 200 of 500 ids were acknowledged by then"):
        delete_ids(connect(serve(index)), "docs", ids, witnesses=False)
    assert sorted(ids[0] for ids in index.deletes) == ["id-0", "id-100"]


def test_an_unexpected_error_of_a_worker_is_raised(serve: Serve, connect: Connect) -> None:
    def work(batch: list[str]) -> None:
        raise ZeroDivisionError

    dispatcher = Dispatcher(work, lambda *_: None, concurrency=2, stopped=lambda: False)
    with pytest.raises(ZeroDivisionError):
        dispatcher.run([["a"], ["b"]])


def test_results_arrive_on_the_callers_thread() -> None:
    threads = set()
    dispatcher = Dispatcher(
        lambda batch: threading.current_thread(),
        lambda _, thread: threads.update({thread is threading.current_thread(), threading.current_thread()}),
        concurrency=3,
        stopped=lambda: False,
    )
    dispatcher.run([[str(i)] for i in range(20)])
    assert threads == {False, threading.current_thread()}
    assert dispatcher.sent == 20


def test_a_stopped_dispatcher_starts_nothing() -> None:
    started: list[object] = []
    dispatcher = Dispatcher(started.append, lambda *_: None, concurrency=1, stopped=lambda: True)
    with pytest.raises(Stopped):
        dispatcher.run([["a"]])
    assert started == []


def test_progress_is_logged_at_intervals(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    now = [50.0]
    monkeypatch.setattr(workers.time, "monotonic", lambda: now[0])
    time_for = partial(make_client("http://127.0.0.1:9").session.time_for, concurrency=1)
    progress = Progress(log, "Deleting", count=400, batches=4, time_for=time_for)
    for _ in range(4):
        now[0] += 6
        progress.add(100)
    assert [record.getMessage() for record in caplog.records] == [
        "Deleting: 200 of 400 ids in 2 of 4 batches, 17 ids a second, about 12 s left."
    ]


def test_the_rate_is_that_of_the_last_minute(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    now = [50.0]
    monkeypatch.setattr(workers.time, "monotonic", lambda: now[0])
    time_for = partial(make_client("http://127.0.0.1:9").session.time_for, concurrency=1)
    progress = Progress(log, "Deleting", count=100_000, batches=1000, time_for=time_for)
    progress.add(50_000)
    for _ in range(7):
        now[0] += 10
        progress.add(100)
    assert "50700 of 100000 ids in 8 of 1000 batches, 10 ids a second" in caplog.messages[-1]


def test_the_time_left_of_every_job_includes_the_budget(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(workers, "SECONDS_BETWEEN_LINES", 0.0)
    # 8 requests in 300 s, and 1 more now.
    budget = {"Ratelimit": '"default";r=9;t=300', "Ratelimit-Policy": '"default";q=10;w=300'}
    page = {"vectors": [{"id": "a"}], "totalCount": 20_000, "isTruncated": True, "nextCursor": "b"}

    def answer(request: Request) -> Reply:
        deleted = request.path.endswith("/delete_by_ids")
        reply = accepted() if deleted else ok(page if "/list" in request.path else [])
        return replace(reply, headers=budget)

    client = connect(serve(answer), retry=AT_ONCE)
    ids = read_ids(numbered(400))
    delete_ids(client, "docs", read_ids(numbered(2000)), witnesses=False, log=log)
    list(iter_vectors(client, "docs", ids, concurrency=1, log=log))
    read_back_all(client, "docs", ids, log=log)
    next(iter_ids(client, "docs", log=log))
    first = [message for message in caplog.messages if "in 1 of 20 batches" in message]
    assert [message.split()[0] for message in first] == ["Deleting", "Reading:", "Reading", "Listing"]
    assert all(500 < int(message.split()[-3]) < 900 for message in first)


def test_there_is_no_rate_before_the_first_item(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A page of a listing can be empty and take minutes.
    caplog.set_level(logging.INFO)
    now = [50.0]
    monkeypatch.setattr(workers.time, "monotonic", lambda: now[0])
    time_for = partial(make_client("http://127.0.0.1:9").session.time_for, concurrency=1)
    progress = Progress(log, "listing", count=400, batches=4, time_for=time_for)
    now[0] += 60
    progress.add(0)
    assert caplog.records == []


def test_read_back_all_reports_visible_ids(
    serve: Serve, connect: Connect, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    ids = numbered(130)
    path = tmp_path / "ids.txt"
    path.write_text("\n".join([*ids, "id-0"]))
    index = Index({"id-5", "id-129"})
    found = read_back_all(connect(serve(index)), "docs", IdsFile(str(path)), log=log)
    digest = hashlib.sha256("".join(f"{id_}\n" for id_ in sorted(ids)).encode()).hexdigest()
    assert found == {
        "ids_verified": 130,
        "ids_sha256": digest,
        "ids_visible": 2,
        "still_visible": ["id-129", "id-5"],
    }
    assert sorted(len(asked) for asked in index.questions) == [11, *[20] * 6]
    assert "five times as many as the delete needs" in caplog.text


def test_visible_ids_are_read_again(serve: Serve, connect: Connect) -> None:
    index = Index({"id-1", "id-2"})

    def lag(request: Request) -> None:
        if len(index.questions) > 6:
            index.exist.discard("id-1")
        if len(index.questions) > 8:
            index.exist.clear()

    index.refuse = lag
    found = read_back_all(connect(serve(index)), "docs", IdList(numbered(100)), patience=20, interval=0.001)
    assert (found["ids_verified"], found["ids_visible"], found["still_visible"]) == (100, 0, [])
    assert all(set(asked) <= {"id-1", "id-2"} for asked in index.questions[5:])


def test_a_read_back_names_at_most_20_visible_ids(serve: Serve, connect: Connect) -> None:
    ids = numbered(60)
    client = connect(serve(Index(set(ids))))
    found = read_back_all(client, "docs", IdList(ids), patience=0.02, interval=0.001)
    assert found["ids_visible"] == 60
    assert found["still_visible"] == sorted(ids)[:20]


def test_a_failing_read_back_is_an_error(serve: Serve, connect: Connect) -> None:
    server = serve([ok([]), ok([]), refused(403, 10000)])
    with pytest.raises(VectorizeBatchError, match=r"40 of 100 ids were read back, then: .*code 10000") as e:
        read_back_all(connect(server), "docs", IdList(numbered(100)), concurrency=1)
    assert (e.value.acknowledged, e.value.failed, e.value.not_sent) == (40, 20, 40)


def test_a_read_back_can_be_stopped(connect: Connect) -> None:
    with pytest.raises(VectorizeInterrupted, match=r"0 of 5 ids were read back\. The delete is applied"):
        read_back_all(connect("http://127.0.0.1:9"), "docs", IdList(numbered(5)), stopped=lambda: True)


def test_a_repeated_read_back_can_be_stopped(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(VectorizeInterrupted, match=r"0 of 2 ids were read back"):
        read_back_all(
            connect(serve(Index({"id-1", "id-2"}))),
            "docs",
            IdList(numbered(5)),
            patience=3600,
            interval=3600,
            stopped=lambda: "reading again" in caplog.text,
            log=log,
        )


def test_delete_and_read_back_against_the_local_server(index: tuple[VectorizeClient, str]) -> None:
    client, name = index
    ids = numbered(350)
    client.upsert(name, [{"id": id_, "values": [1.0] * 32} for id_ in [*ids, "kept"]])
    while client.info(name)["vectorCount"] < 351:
        time.sleep(0.01)
    receipt = delete_ids(client, name, read_ids([*ids, "never-there"]))
    assert len(receipt.witness_ids) == 5
    evidence = Wait(client, name, [receipt], log).until(30, interval=0.02, stopped=lambda: False)
    assert evidence["outcome"] in ("watermark", "read_back")
    assert evidence["witnesses_checked"] == 5
    found: dict[str, Any] = read_back_all(
        client, name, read_ids([*ids, "never-there"]), patience=10, interval=0.02
    )
    assert (found["ids_verified"], found["ids_visible"]) == (351, 0)
    assert [vector["id"] for vector in client.get_by_ids(name, ["kept"])] == ["kept"]
