# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from airflow_provider_cfvectorize.local import Behaviour
from airflow_provider_cfvectorize.local.engine.metadata import cut
from local.local_client import DIMENSIONS, Client, mutation, refusal, result, vector

ASKED = [0.5] * DIMENSIONS


def found(client: Client, filter: dict, **more) -> list[str]:
    return [match["id"] for match in result(client.query(ASKED, filter=filter, **more))["matches"]]


@pytest.fixture
def served(start, connect, clock):
    """Start a server with switches, jobs 2 s after a write, and an index."""

    def starter(**switches) -> Client:
        client = connect(start(clock=clock, apply_delay=2, behaviour=Behaviour(**switches)))
        result(client.create())
        return client

    return starter


def test_types_are_listed_with_a_capital_in_the_order_of_creation(client: Client, clock):
    assert client.metadata_indexes() == []
    for name, index_type in (("s", "string"), ("n", "number"), ("b", "boolean"), ("deep.er", "string")):
        mutation(client.create_metadata_index(name, index_type))
    clock.advance(2)

    assert client.metadata_indexes() == [
        ("s", "String"),
        ("n", "Number"),
        ("b", "Boolean"),
        ("deep.er", "String"),
    ]


def test_create_and_delete_are_mutations(client: Client, clock):
    created = mutation(client.create_metadata_index("k", "string"))
    assert client.metadata_indexes() == []
    assert "processedUpToMutation" not in client.info()
    clock.advance(2)
    assert client.info()["processedUpToMutation"] == created
    assert client.metadata_indexes() == [("k", "String")]

    deleted = mutation(client.delete_metadata_index("k"))
    assert client.metadata_indexes() == [("k", "String")]
    clock.advance(2)
    assert client.info()["processedUpToMutation"] == deleted
    assert client.metadata_indexes() == []


def test_accepted_metadata_indexes_can_be_listed(served):
    client = served(metadata_index_listed="accepted")
    mutation(client.create_metadata_index("k", "string"))
    assert client.metadata_indexes() == [("k", "String")]
    mutation(client.delete_metadata_index("k"))
    assert client.metadata_indexes() == []


@pytest.mark.parametrize("index_type", ["string", "number"])
def test_a_duplicate_is_accepted_and_changes_nothing(client: Client, clock, index_type):
    mutation(client.create_metadata_index("k", "string"))
    mutation(client.upsert([vector("a", metadata={"k": "x"})]))
    clock.advance(2)
    duplicate = mutation(client.create_metadata_index("k", index_type))
    clock.advance(2)

    assert client.info()["processedUpToMutation"] == duplicate
    assert client.metadata_indexes() == [("k", "String")]
    assert found(client, {"k": "x"}) == ["a"]


def test_deleting_a_missing_metadata_index_is_refused(client: Client, served):
    expected = (400, 40005, 'no metadata index for property "k"')
    assert refusal(client.delete_metadata_index("k")) == expected
    mutation(client.create_metadata_index("k", "string"))
    mutation(client.delete_metadata_index("k"))
    assert refusal(client.delete_metadata_index("k")) == expected

    assert refusal(served(metadata_index_not_found_status=404).delete_metadata_index("k"))[:2] == (404, 40005)


def test_an_index_has_at_most_ten_metadata_indexes(client: Client, clock, served):
    for number in range(10):
        mutation(client.create_metadata_index(f"k{number}", "string"))
    expected = (400, 40000, "too many metadata indexes; max is 10")
    assert refusal(client.create_metadata_index("k10", "string")) == expected
    mutation(client.create_metadata_index("k3", "string"))
    clock.advance(2)
    assert refusal(client.create_metadata_index("k10", "string")) == expected
    mutation(client.delete_metadata_index("k3"))
    mutation(client.create_metadata_index("k10", "string"))
    clock.advance(2)
    assert len(client.metadata_indexes()) == 10

    other = served(unpublished_code=41234)
    for number in range(10):
        mutation(other.create_metadata_index(f"k{number}", "string"))
    assert refusal(other.create_metadata_index("k10", "string"))[:2] == (400, 41234)


def test_metadata_indexes_belong_to_one_index(client: Client, clock):
    client.create("other")
    mutation(client.create_metadata_index("k", "string"))
    clock.advance(2)

    assert client.metadata_indexes("other") == []
    client.send("DELETE", "/docs")
    client.create()
    assert client.metadata_indexes() == []


@pytest.mark.parametrize("name", [None, 7, ["k"], "\ud800"])
def test_invalid_property_names_are_refused(client: Client, name):
    for response in (client.create_metadata_index(name, "string"), client.delete_metadata_index(name)):
        status, code, text = refusal(response)
        assert (status, code) == (400, 40026)
        assert text.startswith("Failed to parse the request body as JSON: propertyName: ")


@pytest.mark.parametrize("name", ["", "$k", "a.$k", "a..b", ".a", "a.", 'a"b', "a|b", "k" * 513])
def test_properties_that_a_filter_cannot_name_are_refused(client: Client, name):
    for response in (client.create_metadata_index(name, "string"), client.delete_metadata_index(name)):
        assert refusal(response)[:2] == (400, 40000)


def test_the_code_for_invalid_properties_is_a_switch(served):
    other = served(unpublished_code=41234)
    assert refusal(other.create_metadata_index("$k", "string"))[:2] == (400, 41234)


@pytest.mark.parametrize("index_type", [None, "String", "text", 1, ["string"]])
def test_other_types_are_refused(client: Client, index_type):
    assert refusal(client.create_metadata_index("k", index_type)) == (
        400,
        40026,
        "Failed to parse the request body as JSON: indexType: expected one of string, number, boolean",
    )


# --- covered vectors ----------------------------------------------------------------------------------------


def test_vectors_written_before_are_not_found_until_written_again(client: Client, clock):
    mutation(client.upsert([vector(name, metadata={"k": "x"}) for name in ("old", "again")]))
    clock.advance(2)
    mutation(client.create_metadata_index("k", "string"))
    mutation(client.upsert([vector("new", metadata={"k": "x"})]))
    clock.advance(2)

    assert found(client, {"k": "x"}) == ["new"]
    # They match no condition on the property.
    assert found(client, {"k": {"$ne": "y"}}) == ["new"]
    assert found(client, {"k": {"$nin": ["y"]}}) == ["new"]
    assert found(client, {"k": None}) == []

    # An insert keeps the existing vector, and the metadata index does not cover it.
    mutation(client.upload("insert", [vector("old", metadata={"k": "x"})]))
    mutation(client.upsert([vector("again", metadata={"k": "x"})]))
    clock.advance(2)
    assert found(client, {"k": "x"}) == ["again", "new"]
    assert result(client.query(ASKED))["count"] == 3


def test_the_order_of_acceptance_counts_within_one_job(client: Client, clock):
    mutation(client.upsert([vector("before", metadata={"k": "x"})]))
    mutation(client.create_metadata_index("k", "string"))
    mutation(client.upsert([vector("after", metadata={"k": "x"})]))
    clock.advance(2)

    assert found(client, {"k": "x"}) == ["after"]


def test_a_recreated_metadata_index_starts_empty(client: Client, clock):
    mutation(client.create_metadata_index("k", "string"))
    mutation(client.upsert([vector("a", metadata={"k": "x"})]))
    mutation(client.delete_metadata_index("k"))
    mutation(client.create_metadata_index("k", "string"))
    mutation(client.upsert([vector("b", metadata={"k": "x"})]))
    clock.advance(2)

    assert found(client, {"k": "x"}) == ["b"]


def test_each_metadata_index_covers_vectors_written_after_it(client: Client, clock):
    metadata = {"k": "x", "n": 1}
    mutation(client.create_metadata_index("k", "string"))
    mutation(client.upsert([vector("a", metadata=metadata)]))
    mutation(client.create_metadata_index("n", "number"))
    mutation(client.upsert([vector("b", metadata=metadata)]))
    clock.advance(2)

    assert found(client, {"k": "x"}) == ["a", "b"]
    assert found(client, {"n": 1}) == ["b"]
    assert found(client, {"k": "x", "n": 1}) == ["b"]
    matches = result(client.query(ASKED, returnMetadata="indexed"))["matches"]
    assert [match["metadata"] for match in matches] == [{"k": "x"}, metadata]


def test_visibility_lag_applies_to_metadata_indexes(start, connect, clock):
    client = connect(start(clock=clock, apply_delay=2, visibility_lag=3))
    client.create()
    created = mutation(client.create_metadata_index("k", "string"))
    clock.advance(2)
    assert client.info()["processedUpToMutation"] == created
    assert client.metadata_indexes() == []
    clock.advance(3)
    assert client.metadata_indexes() == [("k", "String")]


# --- files --------------------------------------------------------------------------------------------------


def test_metadata_indexes_survive_a_restart(tmp_path, start, connect, clock):
    options = {"data": tmp_path / "vectors.db", "clock": clock, "apply_delay": 2}
    server = start(**options)
    client = connect(server)
    client.create()
    mutation(client.upsert([vector("before", metadata={"k": "x", "n": 1})]))
    mutation(client.create_metadata_index("k", "string"))
    mutation(client.create_metadata_index("gone", "boolean"))
    mutation(client.upsert([vector("after", metadata={"k": "x", "n": 1})]))
    clock.advance(2)
    assert client.metadata_indexes() == [("k", "String"), ("gone", "Boolean")]
    mutation(client.delete_metadata_index("gone"))
    mutation(client.create_metadata_index("n", "number"))
    mutation(client.upsert([vector("pending", metadata={"k": "x", "n": 1})]))
    server.stop()

    server = start(**options)
    client = connect(server)
    assert client.metadata_indexes() == [("k", "String"), ("gone", "Boolean")]
    assert found(client, {"k": "x"}) == ["after"]
    # Immediate checks use the whole log.
    assert refusal(client.delete_metadata_index("gone"))[1] == 40005
    clock.advance(2)
    assert client.metadata_indexes() == [("k", "String"), ("n", "Number")]
    assert found(client, {"k": "x"}) == ["after", "pending"]
    assert found(client, {"n": 1}) == ["pending"]
    server.stop()

    # With an empty log too, the next write comes after all earlier writes.
    server = start(**options)
    client = connect(server)
    mutation(client.create_metadata_index("late", "string"))
    mutation(client.upsert([vector("last", metadata={"k": "x", "n": 1, "late": "x"})]))
    clock.advance(2)
    assert found(client, {"n": 1}) == ["last", "pending"]
    assert found(client, {"late": {"$ne": "y"}}) == ["last"]
    server.stop()

    client = connect(start(**options))
    assert client.metadata_indexes() == [("k", "String"), ("n", "Number"), ("late", "String")]
    assert found(client, {"late": {"$ne": "y"}}) == ["last"]
    client.send("DELETE", "/docs")
    client.create()
    assert client.metadata_indexes() == []


# --- truncated strings --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("", ""),
        ("a" * 64, "a" * 64),
        ("a" * 65, "a" * 64),
        ("ü" * 32, "ü" * 32),
        ("a" + "ü" * 32, "a" + "ü" * 31),
        ("☃" * 22, "☃" * 21),
        ("😀" * 16, "😀" * 16),
        ("a" + "😀" * 16, "a" + "😀" * 15),
    ],
)
def test_strings_are_truncated_between_characters(text, kept):
    assert cut(text) == kept
