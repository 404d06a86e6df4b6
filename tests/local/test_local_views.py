# SPDX-License-Identifier: Apache-2.0
"""Queries while an index changes."""

from __future__ import annotations

import threading

from local.local_client import DIMENSIONS, Client, mutation, result, vector

ASKED = [0.5] * DIMENSIONS


def matches(client: Client, asked: list[float]) -> list[dict]:
    return result(client.query(asked))["matches"]


def ids(client: Client, asked: list[float]) -> list[str]:
    return [match["id"] for match in matches(client, asked)]


def test_a_query_sees_applied_writes(client: Client, clock):
    axis = [1.0, *[0.0] * (DIMENSIONS - 1)]
    mutation(client.upsert([vector("a"), vector("b")]))
    assert ids(client, ASKED) == []
    clock.advance(2)
    assert ids(client, ASKED) == ["a", "b"]

    mutation(client.delete(["a"]))
    mutation(client.upsert([{"id": "b", "values": axis}]))
    assert ids(client, ASKED) == ["a", "b"]
    clock.advance(2)
    assert [match["id"] for match in matches(client, axis) if match["score"] > 0.999] == ["b"]
    assert ids(client, ASKED) == ["b"]


def test_the_matrix_is_reused_until_the_index_changes(client: Client, clock, shared):
    def view():
        assert client.query(ASKED).status_code == 200
        return shared._store.index("docs").view()

    mutation(client.upsert([vector("a"), vector("b")]))
    clock.advance(2)
    first = view()
    matrix = first._matrix
    assert matrix is not None

    shared.foreign_write("docs", 3)
    mutation(client.upload("insert", [vector("a", 9)]))
    clock.advance(2)
    assert view() is first
    assert first._matrix is matrix

    for write in (
        lambda: client.upsert([vector("a", 9)]),
        lambda: client.upload("insert", [vector("c")]),
        lambda: client.delete(["a"]),
        lambda: client.create_metadata_index("k", "string"),
        lambda: client.delete_metadata_index("k"),
    ):
        before = view()
        mutation(write())
        clock.advance(2)
        assert view() is not before


def test_a_large_query_does_not_delay_other_requests(start, connect, monkeypatch):
    from airflow_provider_cfvectorize.local.engine.view import View

    server = start(apply_delay=0)
    client, other = connect(server), connect(server)
    client.create(config={"dimensions": 1536, "metric": "cosine"})
    mutation(client.upsert([{"id": str(number), "values": [0.5] * 1536} for number in range(200)]))
    begun, resume = threading.Event(), threading.Event()
    search = View.search

    def waits(self, *arguments):
        begun.set()
        assert resume.wait(20)
        return search(self, *arguments)

    monkeypatch.setattr(View, "search", waits)
    answers: list = []
    thread = threading.Thread(target=lambda: answers.append(ids(client, [0.5] * 1536)))
    thread.start()
    assert begun.wait(20)
    try:
        # Reads and writes do not wait for the query, and it does not see them.
        assert other.info()["vectorCount"] == 200
        mutation(other.delete(["0"]))
        assert other.info()["vectorCount"] == 199
    finally:
        resume.set()
        thread.join(20)
    assert answers == [["0", "1", "10", "100", "101"]]
