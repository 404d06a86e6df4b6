# SPDX-License-Identifier: Apache-2.0
"""Reading any number of vectors in order, with few requests in flight, until a stop."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_cfvectorize.client.bulk.list import iter_ids
from airflow_provider_cfvectorize.client.bulk.read import iter_vectors
from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.inputs.ids import IdList, read_ids
from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeInputError,
    VectorizeInterrupted,
    VectorizeNotFoundError,
    VectorizeResponseError,
)
from client.servers import Reply, Request, ScriptedServer, ok, refused

Connect = Callable[..., VectorizeClient]
Serve = Callable[..., ScriptedServer]


def read_vectors(*args: Any, **kwargs: Any) -> list[Any]:
    return [vector for _, vector in iter_vectors(*args, **kwargs) if vector is not None]


def backwards(request: Request) -> Reply:
    """Return the vectors of even ids only, in reverse order."""
    time.sleep(0.01 if request.ids[0] == "0" else 0)
    return ok([{"id": id_, "values": [1]} for id_ in reversed(request.ids) if int(id_) % 2 == 0])


def test_any_number_of_ids_is_read_in_order(serve: Serve, connect: Connect) -> None:
    server = serve(backwards)
    ids = [str(i) for i in range(250)]
    vectors = read_vectors(connect(server), "docs", read_ids([*ids, "4", "0"]), concurrency=4)
    assert [vector["id"] for vector in vectors] == ids[::2]
    assert max(len(request.ids) for request in server.requests) == 20
    assert sorted(id_ for request in server.requests for id_ in request.ids) == sorted(ids)


def test_no_ids_need_no_request(connect: Connect) -> None:
    assert read_vectors(connect("http://127.0.0.1:9"), "docs", read_ids([]), concurrency=1) == []


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (refused(403, 10000), VectorizeAuthError),
        (refused(404, 3000), VectorizeNotFoundError),
        (refused(400, 40007), VectorizeResponseError),
    ],
)
def test_a_failing_read(serve: Serve, connect: Connect, refusal: Reply, kind: type[Exception]) -> None:
    server = serve([ok([]), refusal])
    with pytest.raises(kind):
        read_vectors(connect(server), "docs", read_ids([str(i) for i in range(99)]), concurrency=1)
    assert len(server.requests) == 2


def test_a_read_can_be_stopped(serve: Serve, connect: Connect) -> None:
    with pytest.raises(VectorizeInterrupted, match="interrupted: 0 of 1 id was read"):
        next(
            iter_vectors(
                connect(serve([ok([])])), "docs", read_ids(["a"]), concurrency=1, stopped=lambda: True
            )
        )


def test_each_id_comes_with_its_vector_or_none(serve: Serve, connect: Connect) -> None:
    ids = [str(i) for i in range(130)]
    read = list(iter_vectors(connect(serve(backwards)), "docs", read_ids(ids), concurrency=3))
    assert [id_ for id_, _ in read] == ids
    for id_, vector in read:
        assert vector == (None if int(id_) % 2 else {"id": id_, "values": [1]})


class Drawn(IdList):
    """Ids that count how many were read."""

    drawn = 0

    def __iter__(self) -> Iterator[list[str]]:
        for batch in super().__iter__():
            self.drawn += len(batch)
            yield batch


def test_ids_are_read_on_demand(serve: Serve, connect: Connect) -> None:
    ids = Drawn([str(i) for i in range(1000)])
    server = serve(backwards)
    for position, _ in enumerate(iter_vectors(connect(server), "docs", ids, concurrency=3)):
        # The ids in flight, the ids being returned, and the rest of the batch.
        assert ids.drawn <= position + 20 * (3 + 1) + 100
        assert len(server.requests) <= position // 20 + 3
    assert len(server.requests) == 50


def test_a_concurrency_of_0_is_refused(connect: Connect) -> None:
    with pytest.raises(VectorizeInputError, match="concurrency is 0"):
        read_vectors(connect("http://127.0.0.1:9"), "docs", read_ids(["a"]), concurrency=0)


@pytest.fixture
def silent(serve: Serve) -> Iterator[ScriptedServer]:
    """Start a server that does not answer before the test ends."""
    over = threading.Event()

    def answer(_: Request) -> Reply:
        over.wait(60)
        return ok([])

    yield serve(answer)
    over.set()


def test_an_unanswered_read_does_not_delay_a_stop(silent: ScriptedServer, connect: Connect) -> None:
    ids = read_ids([str(i) for i in range(99)])
    with pytest.raises(VectorizeInterrupted, match="interrupted: 0 of 99 ids"):
        next(
            iter_vectors(
                connect(silent, timeout=60),
                "docs",
                ids,
                concurrency=2,
                stopped=lambda: len(silent.requests) == 2,
            )
        )


def test_an_unanswered_page_does_not_delay_a_stop(silent: ScriptedServer, connect: Connect) -> None:
    with pytest.raises(VectorizeInterrupted, match="interrupted: 0 ids of index 'docs' listed"):
        list(iter_ids(connect(silent, timeout=60), "docs", stopped=lambda: bool(silent.requests)))


def test_a_listing_stops_between_two_pages(serve: Serve, connect: Connect) -> None:
    page = {"count": 1, "totalCount": 2, "isTruncated": True, "nextCursor": "x", "vectors": [{"id": "a"}]}
    server = serve([ok(page)])
    seen: list[str] = []
    listing = iter_ids(connect(server), "docs", stopped=lambda: bool(seen))
    seen.append(next(listing))
    with pytest.raises(VectorizeInterrupted, match="interrupted: 1 id "):
        next(listing)
    assert (seen, len(server.requests)) == (["a"], 1)
