# SPDX-License-Identifier: Apache-2.0
"""Writing any number of vectors: sequential requests, errors, and bounded memory."""

from __future__ import annotations

import io
import json
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from typing import Any, cast

import pytest

from airflow_provider_cfvectorize.client.bulk.write import Written, write_vectors
from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.exceptions import (
    VectorizeBatchAuthError,
    VectorizeBatchError,
    VectorizeBatchNotFoundError,
    VectorizeBatchThrottledError,
    VectorizeInputError,
    VectorizeInterrupted,
)
from client.servers import (
    AT_ONCE,
    INDEXES,
    MUTATION,
    Reply,
    Request,
    ScriptedServer,
    accepted,
    make_client,
    raw_server,
    refused,
)

Connect = Callable[..., VectorizeClient]
Serve = Callable[..., ScriptedServer]

LAST = "00000000-0000-4000-8000-000000000002"


def some(count: int, start: int = 0) -> Iterator[Any]:
    return ({"id": str(i), "values": [0.5, 1.0]} for i in range(start, start + count))


def ids_of(request: Request) -> list[str]:
    return [json.loads(line)["id"] for line in request.body.splitlines()]


@pytest.mark.parametrize("route", ["insert", "upsert"])
def test_requests_are_sent_one_after_the_other(serve: Serve, connect: Connect, route: Any) -> None:
    in_flight: list[int] = []
    most: list[int] = []

    def answer(request: Request) -> Reply:
        in_flight.append(1)
        most.append(len(in_flight))
        time.sleep(0.02)
        in_flight.pop()
        return accepted(LAST if ids_of(request)[-1] == "11999" else MUTATION)

    server = serve(answer)
    lasts: list[tuple[int, str, int]] = []
    written = write_vectors(
        connect(server),
        route,
        "docs",
        some(12_000),
        before_last=lambda batch, is_single: lasts.append((batch.count, batch.where, len(server.requests))),
    )
    last: Any = {"mutationId": LAST, "accepted_at": "2026-01-31T23:59:59Z"}
    assert written == Written(last, vectors=12_000, requests=3)
    assert [request.path for request in server.requests] == [f"{INDEXES}/docs/{route}"] * 3
    assert [id_ for request in server.requests for id_ in ids_of(request)] == [str(i) for i in range(12_000)]
    assert max(most) == 1
    assert lasts == [(2000, "positions 10000 to 11999", 2)]


def test_an_empty_input_sends_no_request(serve: Serve, connect: Connect) -> None:
    server = serve([accepted()])
    for nothing in ([], b"\n", io.BytesIO()):
        written = write_vectors(connect(server), "upsert", "docs", nothing)
        assert written == Written()
    assert server.requests == []


def test_discarded_lines_are_counted_and_not_sent(serve: Serve, connect: Connect) -> None:
    server = serve([accepted()])
    body = b'{"id":"a","values":[1]}\nnonsense\n{"id":"b"}\n'
    written = write_vectors(connect(server), "upsert", "docs", body, unparsable_behavior="discard")
    assert (written.vectors, written.discarded) == (1, 2)
    (request,) = server.requests
    assert request.path.endswith("/upsert?unparsable-behavior=error")
    assert request.body == b'{"id":"a","values":[1]}\n'


def test_the_error_of_a_bad_line_counts_acknowledged_vectors(serve: Serve, connect: Connect) -> None:
    server = serve([accepted()])
    lines = [json.dumps(vector) for vector in some(7000)]
    lines[6000] = "{"
    with pytest.raises(
        VectorizeInputError,
        match=r"line 6001 \(1 bytes\) is not JSON in UTF-8\. 5000 vectors in 1 request are acknowledged "
        rf"\(the last mutation is {MUTATION}\)\. Writing all vectors again is harmless",
    ):
        write_vectors(connect(server), "upsert", "docs", io.BytesIO("\n".join(lines).encode()))
    assert len(server.requests) == 1
    with pytest.raises(VectorizeInputError, match="0 vectors in 0 requests are acknowledged"):
        write_vectors(connect(server), "upsert", "docs", b"{")


def test_an_error_of_the_source_is_raised_with_a_note(serve: Serve, connect: Connect) -> None:
    def source() -> Iterator[Any]:
        yield from some(5001)
        raise KeyError("embedding")

    with pytest.raises(KeyError) as e:
        write_vectors(connect(serve([accepted()])), "upsert", "docs", source())
    assert "5000 vectors in 1 request are acknowledged" in e.value.__notes__[0]


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (refused(400, 40012, "invalid vector"), VectorizeBatchError),
        (refused(403, 10000), VectorizeBatchAuthError),
        (refused(404, 3000), VectorizeBatchNotFoundError),
        (refused(400, 40041), VectorizeBatchThrottledError),
        ("reset", VectorizeBatchError),
    ],
)
def test_a_failed_request_is_an_error(
    serve: Serve, connect: Connect, refusal: Any, kind: type[Exception]
) -> None:
    server = serve([accepted(), accepted(LAST), refusal, accepted()])
    with pytest.raises(VectorizeBatchError) as e:
        write_vectors(connect(server), "upsert", "docs", some(25_000))
    assert type(e.value) is kind
    assert (e.value.acknowledged, e.value.failed, e.value.not_sent) == (10_000, 5000, None)
    assert str(e.value).startswith(
        f"10000 vectors in 2 requests are acknowledged (the last mutation is {LAST}), 5000 vectors "
        "(positions 10000 to 14999) failed, the rest was not sent. Writing all vectors again is harmless. "
        "The failure: "
    )
    assert e.value.__cause__ is not None
    assert len(server.requests) == 3


def test_a_retry_sends_identical_bytes(serve: Serve, connect: Connect) -> None:
    server = serve(["reset", refused(503, None), accepted()])
    written = write_vectors(connect(server, retry=AT_ONCE), "upsert", "docs", some(3))
    assert (written.vectors, written.requests) == (3, 1)
    assert len({request.body for request in server.requests}) == 1
    assert len(server.requests) == 3


def test_a_write_can_be_stopped(serve: Serve, connect: Connect) -> None:
    stop = threading.Event()

    def answer(request: Request) -> Reply:
        if ids_of(request)[0] != "0":
            stop.set()
            time.sleep(0.5)
        return accepted()

    with pytest.raises(VectorizeInterrupted, match=r"interrupted: \d+ vectors in [12] requests? are ack"):
        write_vectors(connect(serve(answer)), "upsert", "docs", some(20_000), stopped=stop.is_set)


def test_invalid_options_are_refused_before_a_request(connect: Connect) -> None:
    with pytest.raises(VectorizeInputError, match="index name"):
        write_vectors(connect("http://127.0.0.1:9"), "upsert", "../docs", [])
    with pytest.raises(VectorizeInputError, match="expected 'error' or 'discard'"):
        write_vectors(connect("http://127.0.0.1:9"), "upsert", "docs", some(1), unparsable_behavior="ignore")


def test_the_clients_method_sends_at_most_one_request(serve: Serve, connect: Connect) -> None:
    server = serve([accepted()])
    client = connect(server)
    client.upsert("docs", some(5000))
    with pytest.raises(VectorizeInputError, match=r"more than 5000 items, .* the hook's method of this name"):
        client.upsert("docs", some(5001))
    assert len(server.requests) == 1


class ManyLines(io.RawIOBase):
    """120 MB of NDJSON that is never whole in memory."""

    def __init__(self) -> None:
        text = json.dumps({"id": "a", "values": [1.5, 2.5], "metadata": {"k": "x" * 10_000}})
        self._block = (text.encode() + b"\n") * 100
        self._blocks = 120

    def read(self, size: int = -1) -> bytes:
        self._blocks -= 1
        return self._block if self._blocks >= 0 else b""


def test_only_the_bytes_of_one_request_are_in_memory() -> None:
    sizes: list[int] = []

    class Client:
        def upsert(self, index_name: str, body: bytes, **_: Any) -> Any:
            sizes.append(len(body))
            return {"mutationId": MUTATION, "accepted_at": "2026-01-31T23:59:59Z"}

    tracemalloc.start()
    try:
        written = write_vectors(cast(VectorizeClient, Client()), "upsert", "docs", cast(Any, ManyLines()))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (written.vectors, written.requests) == (12_000, 4)
    assert sum(sizes) > 120_000_000
    # The bytes of a request, the growth of a buffer, and the block being read.
    assert peak < 48_000_000


def test_a_large_request_may_take_longer_than_the_timeout() -> None:
    body = b'{"id":"a","values":[1]}\n' + b"\n" * 12_000_000
    seen: list[int] = []

    def slowly(connection: socket.socket, over: threading.Event) -> None:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        left = len(body)
        while left > 65536:
            left -= len(connection.recv(65536))
            # About 2.5 s in total, without a long pause.
            time.sleep(0.013)
        seen.append(left)
        answer = accepted().body
        connection.sendall(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(answer), answer)
        )
        over.wait(1)

    with raw_server(slowly) as base_url:
        client = make_client(base_url, timeout=1.5)
        assert client.upsert("docs", body)["mutationId"] == MUTATION
        client.close()
    assert seen
