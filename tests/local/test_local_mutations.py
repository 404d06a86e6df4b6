# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import uuid
from datetime import UTC, datetime

import pytest

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.local import Behaviour
from local.local_client import Client, mutation, refusal, result, vector


def stamp(seconds: float) -> str:
    text = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return text.removesuffix("+00:00") + "Z"


def foreign(client: Client, count: int) -> list[str]:
    """Create ``count`` mutations with one request."""
    response = client.session.post(client.root + "/_local/foreign", json={"count": count})
    return result(response)["mutationIds"]["docs"]


@pytest.fixture
def served(start, connect, clock):
    """Start a server with the shared clock and an index."""

    def starter(**options) -> Client:
        client = connect(start(clock=clock, **options))
        result(client.create())
        return client

    return starter


def test_ids_are_random_uuids_of_version_4(client: Client):
    ids = [mutation(client.delete(["x"])) for _ in range(20)]

    assert len(set(ids)) == 20
    assert {uuid.UUID(found).version for found in ids} == {4}
    assert all(str(uuid.UUID(found)) == found for found in ids)


def test_a_job_makes_all_its_writes_visible_at_once(client: Client, clock):
    accepted = clock.now
    mutation(client.upsert([vector("a")]))
    clock.advance(1.5)
    last = mutation(client.upsert([vector("b")]))
    clock.advance(0.499)

    assert client.info() == {"dimensions": 32, "vectorCount": 0}
    assert client.ids("a", "b") == []
    assert client.page()["totalCount"] == 0

    clock.advance(0.001)
    assert client.info() == {
        "dimensions": 32,
        "vectorCount": 2,
        "processedUpToDatetime": stamp(accepted + 2),
        "processedUpToMutation": last,
    }
    assert client.ids("a", "b") == ["a", "b"]
    assert [v["id"] for v in client.page()["vectors"]] == ["a", "b"]


def test_the_watermark_stays_on_an_idle_index(client: Client, clock):
    mutation(client.upsert([vector("a")]))
    clock.advance(2)
    before = client.info()
    clock.advance(1000)

    assert client.info() == before


def test_mutations_are_applied_in_the_order_of_acceptance(client: Client, clock):
    for round_number in range(3):
        mutation(client.upsert([vector("a", round_number)]))
        mutation(client.delete(["a"]))
    mutation(client.upload("insert", [vector("a", 7)]))
    mutation(client.upload("insert", [vector("a", 8)]))
    clock.advance(2)

    assert [v["values"][0] for v in result(client.get(["a"]))] == [7]


def test_a_backlog_of_2500_mutations_takes_three_jobs(client: Client, clock):
    accepted = clock.now
    ids = [*foreign(client, 1200), mutation(client.delete(["x"])), *foreign(client, 1299)]

    seen = []
    for _ in range(5):
        clock.advance(2)
        info = client.info()
        seen.append((info["processedUpToMutation"], info["processedUpToDatetime"]))

    last = (ids[2499], stamp(accepted + 6))
    assert seen == [(ids[999], stamp(accepted + 2)), (ids[1999], stamp(accepted + 4)), last, last, last]


def test_jobs_between_two_requests_run_when_due(client: Client, clock):
    accepted = clock.now
    ids = foreign(client, 1001)
    clock.advance(60)

    info = client.info()
    assert (info["processedUpToMutation"], info["processedUpToDatetime"]) == (ids[1000], stamp(accepted + 4))


def test_a_write_after_the_batch_was_taken_waits_for_the_next_job(client: Client, clock):
    first = mutation(client.delete(["x"]))
    clock.advance(2.5)
    second = mutation(client.delete(["x"]))
    assert client.info()["processedUpToMutation"] == first
    clock.advance(1.9)
    assert client.info()["processedUpToMutation"] == first
    clock.advance(0.2)
    assert client.info()["processedUpToMutation"] == second


def test_a_job_applies_a_limited_number_of_vectors(client: Client, clock, monkeypatch):
    monkeypatch.setattr(limits, "VECTORS_PER_JOB", 10)
    ids = [mutation(client.upsert([vector(f"{name}{i}") for i in range(5)])) for name in "abc"]
    clock.advance(2)
    assert client.info()["processedUpToMutation"] == ids[1]
    assert client.info()["vectorCount"] == 10
    clock.advance(2)
    assert client.info()["processedUpToMutation"] == ids[2]

    # A mutation larger than a job must not block the log.
    large = mutation(client.upsert([vector(f"d{i}") for i in range(11)]))
    clock.advance(2)
    assert client.info()["processedUpToMutation"] == large


def test_deleted_ids_can_count_as_vectors(served, clock, monkeypatch):
    monkeypatch.setattr(limits, "VECTORS_PER_JOB", 10)
    client = served(behaviour=Behaviour(deleted_ids_fill_jobs=True))
    ids = [mutation(client.delete(["x"] * 6)) for _ in range(2)]
    clock.advance(2)

    assert client.info()["processedUpToMutation"] == ids[0]


def test_the_datetime_can_be_the_mutations_own(served, clock):
    client = served(behaviour=Behaviour(processed_up_to="mutation"), apply_delay=5)
    mutation(client.delete(["x"]))
    clock.advance(3)
    accepted = clock.now
    mutation(client.delete(["x"]))
    clock.advance(2)

    assert client.info()["processedUpToDatetime"] == stamp(accepted)


def test_visibility_follows_the_watermark(served, clock):
    client = served(visibility_lag=3)
    mutation(client.upsert([vector("a"), vector("b")]))
    clock.advance(10)
    assert client.ids("a", "b") == ["a", "b"]

    deleted = mutation(client.delete(["a"]))
    clock.advance(2)
    assert client.info()["processedUpToMutation"] == deleted
    clock.advance(2.9)
    assert client.info()["vectorCount"] == 2
    assert client.page()["totalCount"] == 2
    assert client.ids("a") == ["a"]

    clock.advance(0.2)
    assert client.info()["vectorCount"] == 1
    assert client.page()["totalCount"] == 1
    assert client.ids("a") == []


def test_without_a_delay_the_next_request_sees_a_write(served):
    client = served(apply_delay=0)
    last = mutation(client.upsert([vector("a")]))

    assert client.info()["processedUpToMutation"] == last
    assert client.ids("a") == ["a"]


def test_each_index_has_its_own_log(client: Client, clock):
    client.create("other")
    mutation(client.delete(["x"]))
    clock.advance(2)

    assert "processedUpToMutation" in client.info()
    assert client.info("other") == {"dimensions": 32, "vectorCount": 0}


def test_nothing_of_a_refused_request_is_applied(client: Client, clock):
    refusal(client.upsert([vector("a"), vector("b" * 65)]))
    refusal(client.delete(["a"] * 101))
    clock.advance(10)

    assert client.info() == {"dimensions": 32, "vectorCount": 0}


def test_a_clock_set_back_does_not_undo_writes(client: Client, clock):
    mutation(client.upsert([vector("a")]))
    clock.advance(2)
    before = client.info()
    clock.advance(-1000)
    try:
        assert client.info() == before
        last = mutation(client.delete(["a"]))
    finally:
        clock.advance(1000)
    clock.advance(2)
    assert client.info()["processedUpToMutation"] == last
