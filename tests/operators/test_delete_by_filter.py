# SPDX-License-Identifier: Apache-2.0
"""Deleting by filter or namespace with the operator and the hook, over real HTTP."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_cfvectorize.exceptions import (
    VectorizeInputError,
    VectorizeInterrupted,
    VectorizeStillVisibleError,
)
from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByFilterOperator
from client.servers import Request
from harness import DIMENSIONS, INDEX, PROVEN, Vectorize, make_context, run_task, wait_until
from operators.relay import Logged, Relay

CONN = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"
TYPES = {"doc": "string", "year": "number", "live": "boolean", "of.page": "string"}
COUNTS = (0, 1, 100, 101, 5000)
VECTORS = 50_000
PROBES = 3


def make(**kwargs: Any) -> DeleteVectorsByFilterOperator:
    arguments = {"task_id": "delete", "index_name": INDEX, "poll_interval": 0.02, "wait_timeout": 20}
    return DeleteVectorsByFilterOperator(**{"max_ids": 10_000} | arguments | kwargs)


def run(context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    return run_task(lambda: make(**kwargs), context or make_context())


def lines(metadata: list[dict[str, Any]], namespace: str | None = None) -> str:
    """Return vectors in random directions as NDJSON; ``id`` in the metadata is the id."""
    draw = random.Random(0)
    return "\n".join(
        json.dumps(
            {
                "id": one["id"],
                "values": [round(draw.gauss(0, 1), 3) for _ in range(DIMENSIONS)],
                "metadata": {name: value for name, value in one.items() if name != "id"},
                "namespace": namespace,
            }
        )
        for one in metadata
    )


def fill(vectorize: Vectorize, metadata: list[dict[str, Any]], namespace: str | None = None) -> None:
    for start in range(0, len(metadata), 5000):
        body = lines(metadata[start : start + 5000], namespace).encode()
        mutation = vectorize.client.upsert(INDEX, body)
    vectorize.wait_for(mutation["mutationId"])


def index_properties(vectorize: Vectorize) -> None:
    for name, kind in TYPES.items():
        mutation = vectorize.client.create_metadata_index(INDEX, name, kind)
    vectorize.wait_for(mutation["mutationId"])


@pytest.fixture
def indexed(vectorize: Vectorize) -> Vectorize:
    index_properties(vectorize)
    return vectorize


@pytest.fixture(scope="module")
def large() -> Iterator[Vectorize]:
    """Create an index of 50,000 vectors, with a document of each count for each way."""
    with LocalVectorize(apply_delay=0.02) as server:
        vectorize = Vectorize(server)
        index_properties(vectorize)
        documents = [f"{n} {way}" for way in ("poke", "deferred") for n in COUNTS for _ in range(n)]
        documents += ["other"] * (VECTORS - len(documents))
        random.Random(0).shuffle(documents)
        fill(vectorize, [{"id": f"v{i}", "doc": doc} for i, doc in enumerate(documents)])
        yield vectorize


# --- how many -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["poke", "deferred"])
@pytest.mark.parametrize("count", COUNTS)
def test_all_vectors_of_a_document_are_deleted(
    large: Vectorize, monkeypatch: pytest.MonkeyPatch, count: int, way: str, logged: Logged
) -> None:
    monkeypatch.setenv(CONN, large.server.connection)
    before = large.client.info(INDEX)["vectorCount"]
    large.server.reset_stats()
    context = make_context()
    doc = {"doc": f"{count} {way}"}
    mutation_id = run(context, filter=doc, deferrable=way == "deferred")
    requests = large.server.stats()
    pushed = context["ti"].pushed
    report, evidence, receipt = (pushed[key] for key in ("report", "evidence", "receipt"))
    assert large.client.info(INDEX)["vectorCount"] == before - count
    vector = [1.0] * DIMENSIONS
    assert large.client.query(INDEX, vector=vector, filter=doc)["count"] == 0
    assert report["outcome"] == "none_found"
    assert (report["found"], report["deleted"], report["probes"]) == (count, count, PROBES)
    assert mutation_id == receipt["mutation_id"] == evidence["mutation_id"]
    assert sum(report["waits"].values()) == report["rounds"]
    assert report["queries"] == requests["query"]
    text = logged()
    assert "this does not prove that none is left" in text
    assert "before the metadata indexes" in text
    assert "before the metadata indexes" in report["note"]
    # The formulas of docs/operators/delete-vectors-by-filter.md.
    assert requests["list_metadata_indexes"] + requests["get_index"] == 2
    if count == 0:
        assert (requests["query"], requests["delete_by_ids"], mutation_id) == (PROBES, 0, None)
        assert (receipt["count"], evidence["outcome"]) == (0, "nothing_to_do")
        assert "nothing was deleted" in text
        return
    assert evidence["outcome"] in PROVEN
    expected = 5 * count / 100 + 2 * PROBES
    assert expected * 0.5 < requests["query"] < expected * 1.3
    assert -(-count // 100) <= requests["delete_by_ids"] < count / 100 + report["rounds"]
    if count <= 100:
        assert (requests["query"], requests["delete_by_ids"]) == (2 * PROBES + 1, 1)
        assert report["rounds"] == 1


# --- which --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({"doc": "d1"}, lambda i: i % 3 == 1),
        ({"doc": {"$eq": "d1"}}, lambda i: i % 3 == 1),
        ({"doc": {"$ne": "d1"}}, lambda i: i % 3 != 1),
        ({"doc": {"$in": ["d1", "d2"]}}, lambda i: i % 3),
        ({"doc": {"$nin": ["d1", "d2"]}}, lambda i: i % 3 == 0),
        ({"year": {"$lt": 2010}}, lambda i: i < 10),
        ({"year": {"$lte": 2010}}, lambda i: i <= 10),
        ({"year": {"$gt": 2010}}, lambda i: i > 10),
        ({"year": {"$gte": 2010, "$lt": 2020}}, lambda i: 10 <= i < 20),
        ({"live": True, "of.page": "p0"}, lambda i: i % 2 and i < 15),
        ('{"year": 2007}', lambda i: i == 7),
    ],
)
def test_each_operator_of_a_filter(indexed: Vectorize, filter: Any, expected: Callable[[int], bool]) -> None:
    metadata = [
        {
            "id": f"v{i}",
            "doc": f"d{i % 3}",
            "year": 2000 + i,
            "live": bool(i % 2),
            "of": {"page": f"p{i // 15}"},
        }
        for i in range(30)
    ]
    fill(indexed, metadata)
    run(filter=filter)
    assert indexed.ids() == {f"v{i}" for i in range(30) if not expected(i)}


@pytest.mark.parametrize(
    ("given", "left"),
    [
        ({"namespace": "a"}, {"b0", "b1"}),
        ({"namespace": "a", "filter": {"doc": "d0"}}, {"a1", "b0", "b1"}),
    ],
)
def test_a_namespace_is_deleted(indexed: Vectorize, given: dict[str, Any], left: set[str]) -> None:
    for name in ("a", "b"):
        fill(indexed, [{"id": f"{name}{i}", "doc": f"d{i}"} for i in range(2)], name)
    indexed.server.reset_stats()
    report = CloudflareVectorizeHook().delete_by_filter(INDEX, **given, max_ids=2, poll_interval=0.02)
    assert indexed.ids() == left
    assert (report["namespace"], report["filter"]) == ("a", given.get("filter"))
    assert indexed.server.stats()["list_metadata_indexes"] == ("filter" in given)
    assert report["receipt"]["mutation_id"] == report["evidence"]["mutation_id"]
    assert ("metadata indexes" in report["note"]) == ("filter" in given)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"filter": {}},
        {"filter": ""},
        {"namespace": ""},
        {"filter": "{}", "namespace": "a"},
        {"filter": {}, "namespace": "a"},
        {"filter": {"doc": "d0"}, "namespace": ""},
        {"filter": {"doc": None}},
        {"filter": {"doc": {"$ne": None}}},
        {"filter": {"doc": {"$nin": ("d1", None)}}},
        {"filter": {"no": {"such": "operator"}}},
        {"filter": {"doc": "d0"}, "max_ids": -1},
        {"filter": {"doc": "d0"}, "max_ids": "5"},
        {"filter": {"doc": "d0"}, "probes": 0},
    ],
)
def test_empty_selections_are_refused(indexed: Vectorize, given: dict[str, Any]) -> None:
    indexed.server.reset_stats()
    with pytest.raises(VectorizeInputError):
        run(**given)
    hook = {"max_ids": 10} | given
    if not isinstance(given.get("filter"), str):
        with pytest.raises(VectorizeInputError):
            CloudflareVectorizeHook().delete_by_filter(INDEX, **hook)
    assert sum(indexed.server.stats().values()) == 0


def test_a_filter_by_an_empty_string_is_accepted(indexed: Vectorize) -> None:
    fill(indexed, [{"id": "a", "doc": ""}, {"id": "b", "doc": "d"}])
    run(filter={"doc": ""})
    assert indexed.ids() == {"b"}


def test_a_property_without_a_metadata_index_is_refused(indexed: Vectorize) -> None:
    fill(indexed, [{"id": "a", "doc": "d0", "lang": "en"}])
    indexed.server.reset_stats()
    for filter in ({"lang": "en"}, {"doc": "d0", "of": "p0"}):
        with pytest.raises(VectorizeInputError, match=r"no metadata index of '(lang|of)'.*Create.*by id"):
            run(filter=filter)
    stats = {name: count for name, count in indexed.server.stats().items() if count}
    assert stats == {"list_metadata_indexes": 2}


def test_vectors_older_than_their_metadata_index_are_not_found(vectorize: Vectorize, logged: Logged) -> None:
    fill(vectorize, [{"id": "old", "doc": "d0"}])
    index_properties(vectorize)
    fill(vectorize, [{"id": "new", "doc": "d0"}])
    context = make_context()
    run(context, filter={"doc": "d0"})
    assert vectorize.ids() == {"old"}
    text = "does not find vectors that were written before the metadata indexes"
    assert text in logged()
    assert text in context["ti"].pushed["report"]["note"]


def test_equal_vectors_need_a_round_per_100_ids(vectorize: Vectorize) -> None:
    vectors: list[Any] = [{"id": f"v{i}", "values": [0.5] * DIMENSIONS, "namespace": "n"} for i in range(250)]
    vectorize.wait_for(vectorize.client.upsert(INDEX, vectors)["mutationId"])
    context = make_context()
    run(context, namespace="n", deferrable=True)
    report = context["ti"].pushed["report"]
    assert (report["found"], report["rounds"], vectorize.ids()) == (250, 3, set())


# --- limits -------------------------------------------------------------------------------------------------


def test_nothing_is_deleted_over_max_ids(indexed: Vectorize) -> None:
    ids = [f"v{i}" for i in range(101)]
    fill(indexed, [{"id": id_, "doc": "d0"} for id_ in ids])
    context = make_context()
    for dry_run in (True, False):
        with pytest.raises(VectorizeInputError, match=r"101 ids were found so far.*100.*nothing was deleted"):
            run(context, filter={"doc": "d0"}, max_ids=100, dry_run=dry_run)
    assert context["ti"].pushed["report"]["deleted"] == 0
    assert indexed.ids() == set(ids)
    run(filter={"doc": "d0"}, max_ids=101)
    assert indexed.ids() == set()


def test_a_dry_run_deletes_nothing(indexed: Vectorize, logged: Logged) -> None:
    fill(indexed, [{"id": f"v{i}", "doc": "d0"} for i in range(101)])
    context = make_context()
    assert run(context, filter={"doc": "d0"}, dry_run=True) is None
    report, receipt = (context["ti"].pushed[key] for key in ("report", "receipt"))
    assert (report["outcome"], report["found"], report["deleted"]) == ("dry_run", 101, 0)
    assert len(report["ids"]) == 10
    assert (receipt["would_delete"], receipt["dry_run"]) == (101, True)
    assert receipt["sampled"] == receipt["existing"] > 0
    assert "101 ids would be deleted, for example 'v" in (text := logged())
    assert "may miss" in text
    assert len(indexed.ids()) == 101
    again = CloudflareVectorizeHook().delete_by_filter(INDEX, filter={"doc": "d0"}, max_ids=500, dry_run=True)
    assert again["ids"] == report["ids"]


# --- imperfect recall and other writers ---------------------------------------------------------------------


@pytest.mark.parametrize("deferrable", [False, True])
def test_imperfect_recall_needs_several_rounds(monkeypatch: pytest.MonkeyPatch, deferrable: bool) -> None:
    with LocalVectorize(apply_delay=0.02, recall=0.7, foreign_writes_per_second=50) as server:
        monkeypatch.setenv(CONN, server.connection)
        vectorize = Vectorize(server)
        index_properties_of_busy(vectorize)
        fill_busy(vectorize, [{"id": f"v{i}", "doc": "d0" if i < 800 else "d1"} for i in range(2000)])
        context = make_context()
        run(context, filter={"doc": "d0"}, deferrable=deferrable)
        report = context["ti"].pushed["report"]
        assert (report["outcome"], report["found"], report["deleted"]) == ("none_found", 800, 800)
        assert report["rounds"] >= 2
        assert vectorize.ids() == {f"v{i}" for i in range(800, 2000)}


def index_properties_of_busy(vectorize: Vectorize) -> None:
    vectorize.client.create_metadata_index(INDEX, "doc", "string")


def fill_busy(vectorize: Vectorize, metadata: list[dict[str, Any]]) -> None:
    """Fill an index whose watermark another writer soon replaces."""
    vectorize.client.upsert(INDEX, lines(metadata).encode())
    wait_until(lambda: vectorize.client.info(INDEX)["vectorCount"] == len(metadata))


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("count", [7, 500])
def test_ids_that_another_writer_restores_are_an_error(
    relay: Relay, indexed: Vectorize, count: int, deferrable: bool
) -> None:
    metadata = [{"id": f"v{i}", "doc": "d0"} for i in range(count)]
    fill(indexed, metadata)

    def write_again(route: str, request: Request) -> None:
        if route.endswith("/query") and indexed.client.info(INDEX)["vectorCount"] == 0:
            fill(indexed, metadata)

    relay.intercept = write_again
    context = make_context()
    with pytest.raises(VectorizeStillVisibleError, match=r"2 rounds in a row .*'v\d+', 'v\d+'"):
        run(context, filter={"doc": "d0"}, max_ids=count, deferrable=deferrable)
    report = context["ti"].pushed["report"]
    # The task deletes them twice and then fails.
    assert report["found"] == count
    assert count < report["deleted"] <= 2 * count


def test_new_ids_of_another_writer_count_towards_max_ids(relay: Relay, indexed: Vectorize) -> None:
    fill(indexed, [{"id": "v0", "doc": "d0"}])

    def write(route: str, request: Request) -> None:
        if route.endswith("/query") and indexed.client.info(INDEX)["vectorCount"] == 0:
            fill(indexed, [{"id": f"w{len(relay.routes)}", "doc": "d0"}])

    relay.intercept = write
    with pytest.raises(VectorizeInputError, match=r"6 ids were found so far.*5 ids were deleted in 5 rounds"):
        run(filter={"doc": "d0"}, max_ids=5)


# --- interrupted runs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["query", "delete_by_ids"])
def test_a_retry_after_a_kill_completes_the_delete(relay: Relay, indexed: Vectorize, route: str) -> None:
    fill(indexed, [{"id": f"v{i}", "doc": "d0"} for i in range(500)])
    asked: list[bytes] = []
    task = make(filter={"doc": "d0"})

    def kill(asked_for: str, request: Request) -> None:
        if asked_for.endswith("/query"):
            asked.append(request.body)
        if asked_for.endswith(f"/{route}") and relay.routes.count(asked_for) >= 2:
            task.on_kill()

    relay.intercept = kill
    with pytest.raises(VectorizeInterrupted, match="interrupted"):
        task.execute(make_context())
    first, asked[:] = asked[:], []
    indexed.settle()
    left = len(indexed.ids())
    assert left == 500 if route == "query" else left < 500
    context = make_context()
    run(context, filter={"doc": "d0"})
    assert asked[:2] == first[:2]
    assert indexed.ids() == set()
    assert context["ti"].pushed["report"]["found"] == left


def test_a_retry_after_a_killed_process_completes_the_delete(relay: Relay, indexed: Vectorize) -> None:
    fill(indexed, [{"id": f"v{i}", "doc": "d0"} for i in range(1000)])
    code = (
        "from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook as Hook\n"
        f"Hook().delete_by_filter({INDEX!r}, filter={{'doc': 'd0'}}, max_ids=1000)"
    )
    started: list[subprocess.Popen[bytes]] = []

    def kill(route: str, request: Request) -> None:
        if relay.routes.count(f"POST {INDEX}/delete_by_ids") >= 3:
            started[0].kill()

    relay.intercept = kill
    started.append(subprocess.Popen([sys.executable, "-c", code]))
    assert started[0].wait(120) == -signal.SIGKILL
    relay.intercept = lambda route, request: None
    indexed.settle()
    left = len(indexed.ids())
    assert 0 < left < 1000
    report = CloudflareVectorizeHook().delete_by_filter(
        INDEX, filter={"doc": "d0"}, max_ids=left, poll_interval=0.02
    )
    assert report["deleted"] == left
    assert indexed.ids() == set()


def test_the_state_of_a_deferral_has_a_bounded_size(indexed: Vectorize) -> None:
    fill(indexed, [{"id": f"{i:064}", "doc": "d0"} for i in range(2000)])
    with pytest.raises(TaskDeferred) as deferred:
        make(filter={"doc": "d0"}, deferrable=True).execute(make_context())
    assert len(json.dumps(deferred.value.kwargs)) < 6000


def test_later_rounds_use_the_filter_of_the_first(indexed: Vectorize) -> None:
    fill(indexed, [{"id": f"v{i}", "doc": f"d{i}"} for i in range(3)])
    # A template with the time of day changes like this.
    filters = iter([{"doc": f"d{i}"} for i in range(3)])
    run_task(lambda: make(filter=next(filters), deferrable=True), make_context())
    assert indexed.ids() == {"v1", "v2"}
