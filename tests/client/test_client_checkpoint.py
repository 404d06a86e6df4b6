# SPDX-License-Identifier: Apache-2.0
"""What a later attempt reuses of an earlier attempt's saved progress, and what it sends again."""

from __future__ import annotations

import functools
import io
import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cfvectorize.client.bulk.checkpoint import (
    KEY,
    SAVE_BATCHES,
    Acknowledged,
    Checkpoint,
    fingerprint_of,
    forget,
)
from airflow_provider_cfvectorize.client.bulk.delete import delete_ids
from airflow_provider_cfvectorize.client.bulk.write import InputChanged, fill
from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.inputs.ids import read_ids
from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
from airflow_provider_cfvectorize.exceptions import (
    VectorizeBatchError,
    VectorizeInterrupted,
)
from client.servers import Reply, Request, ScriptedServer, accepted, ok, refused
from client.stores import Store

Connect = Callable[..., VectorizeClient]
Serve = Callable[..., ScriptedServer]

IDS = [f"v{i:04}" for i in range(1000)]
WORK = fingerprint_of("a", "piece", "of", 1, "work")


def checkpoint(store: Store, work: str = WORK, **kwargs: Any) -> Checkpoint:
    return Checkpoint(store, work, clock=lambda: 0.0, **kwargs)


class Service:
    """A service that records the batches it accepts and refuses writes from ``refuse_from`` on."""

    def __init__(self, serve: Serve) -> None:
        self.refuse_from = 10**9
        self.batches: list[list[str]] = []
        self.questions = 0
        self._lock = threading.Lock()
        self.server = serve(self.answer)

    def answer(self, request: Request) -> Reply:
        with self._lock:
            if request.path.endswith("get_by_ids"):
                self.questions += 1
                return ok([{"id": id_, "values": [0.5] * 32} for id_ in request.ids])
            if request.path.endswith("info"):
                return ok({"dimensions": 1, "vectorCount": 0})
            if len(self.batches) >= self.refuse_from:
                return refused(400, 40000)
            if request.path.endswith("delete_by_ids"):
                self.batches.append(request.ids)
            else:
                self.batches.append([json.loads(line)["id"] for line in request.body.splitlines()])
            return accepted(f"00000000-0000-4000-8000-{len(self.batches):012}")

    def take(self) -> list[list[str]]:
        """Return the accepted batches and reset the service."""
        batches, self.batches, self.refuse_from = self.batches, [], 10**9
        return batches


def delete(
    connect: Connect,
    service: Service,
    store: Store | None,
    ids: list[str] = IDS,
    work: str = WORK,
    *,
    server: ScriptedServer | None = None,
    **kw: Any,
) -> Receipt:
    kept = None if store is None else checkpoint(store, work)
    return delete_ids(
        connect(server or service.server), "docs", read_ids(ids), checkpoint=kept, **{"concurrency": 1, **kw}
    )


# --- deletes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 4])
@pytest.mark.parametrize("accepted_before", [0, 1, 5, 8, 9])
def test_a_delete_resumes_after_the_last_acknowledged_batch(
    serve: Serve, connect: Connect, accepted_before: int, concurrency: int
) -> None:
    service, store = Service(serve), Store()
    service.refuse_from = accepted_before
    with pytest.raises(VectorizeBatchError) as error:
        delete(connect, service, store, concurrency=concurrency)
    assert error.value.acknowledged == accepted_before * 100
    first = service.take()
    receipt = delete(connect, service, store, concurrency=concurrency)
    second = service.take()
    # At most the batches that were in flight are sent again.
    again = len(first) + len(second) - 10
    assert 0 <= again < concurrency
    assert {id_ for batch in first + second for id_ in batch} == set(IDS)
    assert (receipt.count, receipt.batches) == (1000, 10)
    # The held-back batch with the witnesses does not change and comes last.
    assert receipt.witness_ids[0] in second[-1]
    # Without saved progress the witnesses are read again.
    assert service.questions == (3 if accepted_before else 6)
    assert IDS[-1] in second[-1]


def test_progress_survives_a_batch_that_hangs(serve: Serve, connect: Connect) -> None:
    service, store = Service(serve), Store()
    others_are_accepted = threading.Event()

    def hang(request: Request) -> Reply:
        if request.path.endswith("delete_by_ids") and IDS[0] in request.ids:
            assert others_are_accepted.wait(20)
            return refused(400, 40000)
        reply = service.answer(request)
        if len(service.batches) == 8:
            others_are_accepted.set()
        return reply

    with pytest.raises(VectorizeBatchError) as error:
        delete(connect, service, store, server=serve(hang), concurrency=2)
    assert (error.value.acknowledged, error.value.failed, error.value.not_sent) == (800, 100, 100)
    service.take()
    # Twice: the second attempt must save the gaps again.
    service.refuse_from = 0
    with pytest.raises(VectorizeBatchError):
        delete(connect, service, store)
    service.take()
    delete(connect, service, store)
    assert [batch[0] for batch in service.take()] == [IDS[0], IDS[900]]


def test_the_error_of_a_resumed_delete_counts_all_ids(serve: Serve, connect: Connect) -> None:
    service, store = Service(serve), Store()
    service.refuse_from = 4
    with pytest.raises(VectorizeBatchError):
        delete(connect, service, store)
    service.take()
    service.refuse_from = 3
    with pytest.raises(VectorizeBatchError, match="700 of 1000 ids are acknowledged") as error:
        delete(connect, service, store)
    assert (error.value.acknowledged, error.value.failed, error.value.not_sent) == (700, 100, 200)


def test_a_completed_delete_is_not_sent_again(serve: Serve, connect: Connect) -> None:
    service, store = Service(serve), Store()
    receipt = delete(connect, service, store)
    service.take()
    assert delete(connect, service, store) == receipt
    assert service.take() == []


@pytest.mark.parametrize(
    ("ids", "work"), [(IDS[:-1], WORK), ([*IDS[1:], IDS[0]], WORK), (IDS, fingerprint_of("other"))]
)
def test_progress_of_other_work_is_discarded(
    serve: Serve, connect: Connect, ids: list[str], work: str
) -> None:
    service, store = Service(serve), Store()
    service.refuse_from = 7
    with pytest.raises(VectorizeBatchError):
        delete(connect, service, store)
    service.take()
    delete(connect, service, store, ids, work)
    sent = service.take()
    assert sorted(id_ for batch in sent for id_ in batch) == sorted(ids)


def test_without_a_store_everything_is_sent_again(serve: Serve, connect: Connect) -> None:
    service = Service(serve)
    service.refuse_from = 7
    with pytest.raises(VectorizeBatchError):
        delete(connect, service, None)
    service.take()
    delete(connect, service, None)
    assert len(service.take()) == 10


def test_an_interrupted_delete_saves_its_progress(serve: Serve, connect: Connect) -> None:
    service, store = Service(serve), Store()
    with pytest.raises(VectorizeInterrupted):
        delete(connect, service, store, stopped=lambda: len(service.batches) >= 3)
    first = service.take()
    delete(connect, service, store)
    assert len(first) == 3
    assert len(service.take()) == 7


def test_a_failing_store_does_not_fail_the_delete(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    service, store = Service(serve), Store()
    store.broken = True
    assert delete(connect, service, store).count == 1000
    warnings = [record for record in caplog.records if "Saving the task's progress failed" in record.message]
    assert [record.levelno for record in warnings] == [logging.WARNING]
    forget(store)
    assert "no API server" in caplog.text


@pytest.mark.parametrize(
    "value",
    [
        7,
        {},
        {"v": 1, "fingerprint": WORK},
        {"v": 2, "fingerprint": WORK, "done": 5, "details": {}, "receipt": None},
        {"v": 1, "fingerprint": WORK, "done": -1, "details": {}, "receipt": None},
        {"v": 1, "fingerprint": WORK, "done": 5, "details": {}, "receipt": {"mutation_id": 7}},
        {"v": 1, "fingerprint": WORK, "done": 5, "details": {"ids": "x"}, "receipt": None},
        {"v": 1, "fingerprint": WORK, "done": 5, "details": {"digest": "x"}, "receipt": None},
        *(
            {
                "v": 1,
                "fingerprint": WORK,
                "done": 5,
                "details": {
                    "ids": read_ids(IDS).fingerprint,
                    "sample": {"held_back": 9, "witnesses": [], "asked": 0, "exist": 0},
                    "missing": missing,
                },
                "receipt": None,
            }
            for missing in (None, [5], [-1], ["1"], [[1]])
        ),
    ],
)
def test_malformed_progress_is_ignored(serve: Serve, connect: Connect, value: Any) -> None:
    service, store = Service(serve), Store()
    store.set(KEY, value)
    delete(connect, service, store)
    assert len(service.take()) == 10


def test_progress_is_saved_every_five_batches(serve: Serve, connect: Connect) -> None:
    service, store = Service(serve), Store()
    kept: list[int] = []
    original = store.set

    def set_(key: str, value: Any) -> None:
        kept.append(value["done"])
        original(key, value)

    store.set = set_  # type: ignore[method-assign]
    delete(connect, service, store, [f"{i}" for i in range(2000)])
    assert kept == [5, 10, 15, 20, 20]
    assert SAVE_BATCHES == 5


def test_progress_is_saved_every_second(serve: Serve, connect: Connect) -> None:
    service, store = Service(serve), Store()
    seconds = iter(range(100))
    kept = Checkpoint(store, WORK, clock=lambda: next(seconds) * 0.5)
    delete_ids(connect(service.server), "docs", read_ids(IDS[:400]), checkpoint=kept, concurrency=1)
    assert store.sets >= 3


def test_saved_progress_is_small_and_holds_few_ids(serve: Serve, connect: Connect) -> None:
    service, store = Service(serve), Store()
    client = connect(service.server)
    ids = [f"{i:064}" for i in range(1000)]
    delete_ids(client, "docs", read_ids(ids), checkpoint=checkpoint(store))
    assert len(store.values[KEY]) < 4096
    assert sum(id_ in store.values[KEY] for id_ in ids) <= 30


@given(st.permutations(range(12)), st.integers(0, 12), st.integers(0, 12))
def test_acknowledged_batches_are_tracked_in_any_order(order: list[int], seen: int, tries: int) -> None:
    acknowledged = Acknowledged()
    for position, number in enumerate(order[:seen]):
        if position == tries:
            acknowledged = Acknowledged(acknowledged.done, acknowledged.missing)
        acknowledged.add(number)
    assert [number for number in range(13) if number in acknowledged] == sorted(order[:seen])
    assert acknowledged.done == max(order[:seen], default=-1) + 1
    assert acknowledged.missing == sorted(set(range(acknowledged.done)) - set(order[:seen]))


# --- fills --------------------------------------------------------------------------------------------------


@functools.cache
def lines(count: int, value: float = 0.5) -> bytes:
    return b"".join(json.dumps({"id": f"v{i:05}", "values": [value]}).encode() + b"\n" for i in range(count))


def write(connect: Connect, service: Service, store: Store, body: bytes, **kwargs: Any) -> Receipt:
    receipt, _ = fill(
        connect(service.server),
        "upsert",
        "docs",
        io.BytesIO(body),
        checkpoint=checkpoint(store),
        witnesses=False,
        **kwargs,
    )
    return receipt


@pytest.mark.parametrize("accepted_before", [0, 1, 3, 4])
def test_a_fill_resumes_after_the_last_acknowledged_request(
    serve: Serve, connect: Connect, accepted_before: int
) -> None:
    service, store = Service(serve), Store()
    service.refuse_from = accepted_before
    with pytest.raises(VectorizeBatchError):
        write(connect, service, store, lines(22_000))
    first = service.take()
    receipt = write(connect, service, store, lines(22_000))
    second = service.take()
    assert [id_ for batch in first + second for id_ in batch] == [f"v{i:05}" for i in range(22_000)]
    assert (receipt.count, receipt.batches) == (22_000, 5)
    assert write(connect, service, store, lines(22_000)) == receipt
    assert service.take() == []


@pytest.mark.parametrize(
    "other", [lines(22_000, 0.25), lines(9_000), lines(22_000).replace(b"v00007", b"v7")]
)
def test_resuming_a_fill_with_another_file_sends_nothing(
    serve: Serve, connect: Connect, other: bytes
) -> None:
    service, store = Service(serve), Store()
    service.refuse_from = 3
    with pytest.raises(VectorizeBatchError):
        write(connect, service, store, lines(22_000))
    service.take()
    with pytest.raises(InputChanged):
        write(connect, service, store, other)
    assert service.take() == []


def test_a_resumed_fill_sends_lines_added_to_the_file(serve: Serve, connect: Connect) -> None:
    service, store = Service(serve), Store()
    service.refuse_from = 3
    with pytest.raises(VectorizeBatchError):
        write(connect, service, store, lines(22_000))
    service.take()
    assert write(connect, service, store, lines(23_000)).count == 23_000
    assert [len(batch) for batch in service.take()] == [5000, 3000]
