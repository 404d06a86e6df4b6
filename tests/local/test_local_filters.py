# SPDX-License-Identifier: Apache-2.0
"""Filters, by https://developers.cloudflare.com/vectorize/reference/metadata-filtering/."""

from __future__ import annotations

import json

import pytest

from airflow_provider_cfvectorize.local import Behaviour, LocalVectorize
from local.local_client import DIMENSIONS, Client, mutation, refusal, result, vector

ASKED = [0.5] * DIMENSIONS

METADATA = {
    "apple": {"s": "apple", "n": 1, "b": True, "deep": {"er": "x"}},
    "banana": {"s": "banana", "n": 2.5, "b": False, "deep": {"er": "y"}},
    "cherry": {"s": "cherry", "n": -3, "b": True, "deep": "x"},
    "empty": {},
    "mixed": {"s": [1], "n": "1 ", "b": 1, "deep": {"er": {}}},
    "nulls": {"s": None, "n": None, "b": None, "deep": {"er": None}},
    "zbare": None,
}
VALUED = ["apple", "banana", "cherry"]
LACKING = ["empty", "mixed", "nulls", "zbare"]
EVERYTHING = [*VALUED, *LACKING]


def send(client: Client, filter, **more):
    return client.query(ASKED, filter=filter, topK=100, **more)


def found(client: Client, filter, **more) -> list[str]:
    # All vectors are equal: matches are in the order of their ids.
    return [match["id"] for match in result(send(client, filter, **more))["matches"]]


def fill(client: Client) -> Client:
    for name, index_type in (("s", "string"), ("n", "number"), ("b", "boolean"), ("deep.er", "string")):
        mutation(client.create_metadata_index(name, index_type))
    mutation(client.upsert([vector(name, metadata=metadata) for name, metadata in METADATA.items()]))
    return client


@pytest.fixture(scope="module")
def filled():
    """Fill an index for all tests that only read."""
    with LocalVectorize(apply_delay=0) as server:
        client = Client(server.base_url, server.account_id, server.api_token)
        with client.session:
            result(client.create())
            yield fill(client)


@pytest.fixture
def served(start, connect):
    """Start a server with switches and these vectors."""

    def starter(**switches) -> Client:
        client = connect(start(apply_delay=0, behaviour=Behaviour(**switches)))
        result(client.create())
        return fill(client)

    return starter


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        ({"s": "apple"}, ["apple"]),
        ({"s": {"$eq": "apple"}}, ["apple"]),
        ({"s": "Apple"}, []),
        ({"s": {"$ne": "apple"}}, ["banana", "cherry", *LACKING]),
        ({"s": {"$in": ["apple", "cherry", "none"]}}, ["apple", "cherry"]),
        ({"s": {"$nin": ["apple", "cherry"]}}, ["banana", *LACKING]),
        ({"s": {"$in": []}}, []),
        ({"s": {"$nin": []}}, EVERYTHING),
        ({"n": 1}, ["apple"]),
        ({"n": 1.0}, ["apple"]),
        ({"n": {"$ne": 2.5}}, ["apple", "cherry", *LACKING]),
        ({"n": {"$in": [1, -3]}}, ["apple", "cherry"]),
        ({"b": True}, ["apple", "cherry"]),
        ({"b": False}, ["banana"]),
        ({"b": {"$ne": True}}, ["banana", *LACKING]),
        # Null is equal to nothing.
        ({"s": None}, []),
        ({"n": {"$eq": None}}, []),
        ({"b": {"$ne": None}}, EVERYTHING),
        ({"s": {"$in": [None, "apple"]}}, ["apple"]),
        ({"s": {"$nin": [None, "apple"]}}, ["banana", "cherry", *LACKING]),
        # Ranges.
        ({"n": {"$lt": 1}}, ["cherry"]),
        ({"n": {"$lte": 1}}, ["apple", "cherry"]),
        ({"n": {"$gt": 1}}, ["banana"]),
        ({"n": {"$gte": 1}}, ["apple", "banana"]),
        ({"n": {"$gt": -3, "$lte": 1}}, ["apple"]),
        ({"n": {"$lt": 1, "$gte": -3}}, ["cherry"]),
        ({"n": {"$gte": 2, "$lt": 2}}, []),
        ({"s": {"$gte": "b"}}, ["banana", "cherry"]),
        ({"s": {"$gte": "b", "$lt": "c"}}, ["banana"]),
        ({"s": {"$lt": "apples"}}, ["apple"]),
        ({"s": {"$gt": "apple"}}, ["banana", "cherry"]),
        ({"s": {"$gte": "B"}}, VALUED),
        # No condition; and several conditions, which must all hold.
        ({}, EVERYTHING),
        ({"s": {"$gte": "b"}, "b": True}, ["cherry"]),
        ({"s": "apple", "n": 2.5}, []),
        # A dot addresses a nested object.
        ({"deep.er": "x"}, ["apple"]),
        ({"deep.er": {"$ne": "x"}}, ["banana", "cherry", *LACKING]),
        # Values of another type are converted to the type of the metadata index.
        ({"n": "1"}, ["apple"]),
        ({"b": "true"}, ["apple", "cherry"]),
        ({"n": {"$ne": "1e0"}}, ["banana", "cherry", *LACKING]),
        ({"n": {"$lt": "1"}}, ["cherry"]),
        ({"n": {"$gt": 0, "$lt": "9"}}, ["apple", "banana"]),
        # Values that cannot be converted are equal to nothing.
        ({"n": True}, []),
        ({"n": "one"}, []),
        ({"n": "1e999"}, []),
        ({"b": 1}, []),
        ({"b": "True"}, []),
        ({"n": {"$ne": "one"}}, EVERYTHING),
        ({"n": {"$in": ["one", True, 1]}}, ["apple"]),
        ({"n": {"$lt": "one"}}, []),
        ({"b": {"$gte": 0}}, []),
        # Without a metadata index.
        ({"other": "x"}, []),
        ({"deep": "x"}, []),
        ({"other": {"$ne": "x"}}, []),
        ({"s": "apple", "other": None}, []),
    ],
    ids=json.dumps,
)
def test_matches_of_each_filter(filled: Client, filter, expected):
    assert found(filled, filter) == expected


@pytest.mark.parametrize(
    ("filter", "message"),
    [
        ({"": 1}, "a key must not be empty"),
        ({"a..b": 1}, "a key must not be empty"),
        ({"a.": 1}, "a key must not be empty"),
        ({"$s": 1}, "a key must not start with $"),
        ({"a.$s": 1}, "a key must not start with $"),
        ({"$and": [{"s": 1}]}, "a key must not start with $"),
        ({'a"b': 1}, 'a key must not contain " or |'),
        ({"a|b": 1}, 'a key must not contain " or |'),
        ({"k" * 513: 1}, "a key must not be longer than 512 characters"),
        ({"s": {}}, "a property takes one operator, or one of $lt and $lte with one of $gt and $gte"),
        ({"s": {"$eq": 1, "$ne": 2}}, "a property takes one operator, or one of $lt and"),
        ({"s": {"$lt": 1, "$lte": 2}}, "a property takes one operator, or one of $lt and"),
        ({"s": {"$gt": 1, "$gte": 2}}, "a property takes one operator, or one of $lt and"),
        ({"s": {"$gt": 1, "$ne": 2}}, "a property takes one operator, or one of $lt and"),
        ({"s": {"$gt": 1, "$lt": 3, "$ne": 2}}, "a property takes one operator, or one of $lt and"),
        ({"s": {"$or": []}}, "operators are $eq, $ne, $in, $nin, $lt, $lte, $gt, $gte"),
        ({"s": {"nested": 1}}, "operators are $eq,"),
        ({"s": ["apple"]}, "$eq takes strings, numbers, booleans and null"),
        ({"s": {"$eq": ["apple"]}}, "$eq takes strings, numbers, booleans and null"),
        ({"s": {"$ne": {}}}, "$ne takes strings, numbers, booleans and null"),
        ({"s": {"$in": "apple"}}, "$in takes an array"),
        ({"s": {"$nin": None}}, "$nin takes an array"),
        ({"s": {"$in": [["apple"]]}}, "$in takes strings, numbers, booleans and null"),
        ({"s": {"$lt": None}}, "$lt takes a string or a number"),
        ({"s": {"$gte": True}}, "$gte takes a string or a number"),
        ({"s": {"$gt": [1]}}, "$gt takes a string or a number"),
        ({"n": 10**400}, "a number is too large"),
        ({"s": "x" * 2048}, "the compact JSON representation must be less than 2048 bytes, got 2056"),
    ],
    ids=lambda value: json.dumps(value)[:50],
)
def test_invalid_filters_are_refused(filled: Client, filter, message):
    status, code, text = refusal(send(filled, filter))

    assert (status, code) == (400, 40000)
    assert text.startswith(f"invalid filter: {message}")


@pytest.mark.parametrize("filter", ["s", ["s"], 7, True])
def test_a_filter_must_be_an_object(filled: Client, filter):
    assert refusal(send(filled, filter)) == (
        400,
        40026,
        "Failed to parse the request body as JSON: filter: expected an object",
    )


def test_the_size_limit_applies_to_compact_json(filled: Client):
    frame = len('{"s":""}')
    assert found(filled, {"s": "x" * (2047 - frame)}) == []
    assert found(filled, {"s": "é" * ((2047 - frame) // 2)}) == []
    assert "got 2048" in refusal(send(filled, {"s": "x" * (2048 - frame)}))[2]
    spaced = '{"filter": {"s":' + " " * 5000 + '"apple"}, "vector": ' + json.dumps(ASKED) + "}"
    response = filled.send("POST", "/docs/query", data=spaced, headers={"Content-Type": "application/json"})
    assert [match["id"] for match in result(response)["matches"]] == ["apple"]


def test_values_that_json_or_utf8_cannot_hold_are_refused(filled: Client):
    assert refusal(send(filled, {"s": "\ud800"}))[:2] == (400, 40026)
    assert refusal(send(filled, {"\ud800": "s"}))[:2] == (400, 40026)
    body = json.dumps({"vector": ASKED, "filter": {"n": "?"}}).replace('"?"', "1e999")
    response = filled.send("POST", "/docs/query", data=body, headers={"Content-Type": "application/json"})
    assert refusal(response) == (400, 40000, "invalid filter: a number is too large")


def test_keys_of_512_characters(client: Client, clock):
    key = "k" * 512
    mutation(client.create_metadata_index(key, "string"))
    mutation(client.upsert([vector("a", metadata={key: "x"})]))
    clock.advance(2)

    assert found(client, {key: "x"}) == ["a"]


def test_numbers_are_float64(client: Client, clock):
    mutation(client.create_metadata_index("n", "number"))
    mutation(client.upsert([vector("a", metadata={"n": 2**53 + 1}), vector("b", metadata={"n": 10**400})]))
    clock.advance(2)

    assert found(client, {"n": 2**53}) == ["a"]
    # Numbers that float64 cannot hold are not indexed.
    assert found(client, {"n": {"$gt": 0}}) == ["a"]


@pytest.mark.parametrize(
    ("index_type", "stored", "expected"),
    [
        ("string", ["10", 10, 10.0, 10.5, True, "true", "9"], {10: "012", "10.5": "3", True: "45", "9": "6"}),
        (
            "number",
            [10, "10", "1e1", 2**53 + 1, "-0.5", True],
            {10: "012", "10": "012", 2**53: "3", -0.5: "4"},
        ),
        ("boolean", [True, "true", False, "false", 1, "True"], {True: "01", "false": "23"}),
    ],
)
def test_values_are_converted_to_the_type_of_the_index(client: Client, clock, index_type, stored, expected):
    mutation(client.create_metadata_index("v", index_type))
    mutation(client.upsert([vector(str(i), metadata={"v": value}) for i, value in enumerate(stored)]))
    clock.advance(2)

    assert {value: "".join(found(client, {"v": value})) for value in expected} == expected


def test_large_numbers_in_a_string_index_keep_their_digits(client: Client, clock):
    mutation(client.create_metadata_index("s", "string"))
    mutation(client.upsert([vector("a", metadata={"s": 2**63 + 1}), vector("b", metadata={"s": 2**63})]))
    clock.advance(2)

    assert found(client, {"s": 2**63 + 1}) == found(client, {"s": str(2**63 + 1)}) == ["a"]


def test_strings_are_indexed_on_their_first_64_bytes(client: Client, clock):
    long = "ü" * 40
    mutation(client.create_metadata_index("s", "string"))
    mutation(
        client.upsert(
            [
                vector("a", metadata={"s": long}),
                vector("b", metadata={"s": long + "!"}),
                vector("c", metadata={"s": "ü" * 32}),
                vector("d", metadata={"s": "x" + long}),
            ]
        )
    )
    clock.advance(2)

    assert found(client, {"s": "ü" * 32}) == ["a", "b", "c"]
    assert found(client, {"s": "x" + "ü" * 31}) == ["d"]
    assert found(client, {"s": long}) == []
    assert found(client, {"s": {"$lt": long, "$gte": "ü"}}) == ["a", "b", "c"]
    shown = result(client.query(ASKED, returnMetadata="indexed"))["matches"]
    assert [match["metadata"]["s"] for match in shown] == ["ü" * 32] * 3 + ["x" + "ü" * 31]
    whole = result(client.query(ASKED, returnMetadata="all"))["matches"]
    assert [len(match["metadata"]["s"]) for match in whole] == [40, 41, 32, 41]


def test_strings_are_ordered_by_their_bytes(client: Client, clock):
    mutation(client.create_metadata_index("s", "string"))
    texts = ["", "Z", "a", "aa", "z", "ä", "\uffff", "😀"]
    mutation(client.upsert([vector(f"{i}", metadata={"s": text}) for i, text in enumerate(texts)]))
    clock.advance(2)

    assert texts == sorted(texts, key=str.encode)
    for place, text in enumerate(texts):
        assert found(client, {"s": {"$lt": text}}) == [str(i) for i in range(place)]
        assert found(client, {"s": {"$gte": text}}) == [str(i) for i in range(place, len(texts))]


def test_nested_metadata_must_be_objects(client: Client, clock):
    mutation(client.create_metadata_index("a.b.c", "number"))
    inner = [{"b": {"c": 1}}, {"b": [{"c": 1}]}, {"b": 1}, [1], {"b": {"c": [1]}}]
    mutation(client.upsert([vector(str(i), metadata={"a": value}) for i, value in enumerate(inner)]))
    clock.advance(2)

    assert found(client, {"a.b.c": 1}) == ["0"]


def test_the_namespace_is_applied_before_the_filter(client: Client, clock):
    mutation(client.create_metadata_index("s", "string"))
    mutation(
        client.upsert(
            [
                vector("a", metadata={"s": "x"}, namespace="one"),
                vector("b", metadata={"s": "y"}, namespace="one"),
                vector("c", metadata={"s": "x"}, namespace="two"),
                vector("d", metadata={"s": "x"}),
            ]
        )
    )
    clock.advance(2)

    assert found(client, {"s": "x"}) == ["a", "c", "d"]
    assert found(client, {"s": "x"}, namespace="one") == ["a"]
    assert found(client, {"s": "y"}, namespace="two") == []
    # An invalid filter is refused in an empty namespace too.
    assert refusal(send(client, {"$s": 1}, namespace="none"))[1] == 40000


# --- switches -----------------------------------------------------------------------------------------------


def test_an_empty_filter_can_be_refused(served):
    client = served(empty_filter="refuse")
    assert refusal(send(client, {})) == (400, 40000, "invalid filter: must not be empty")


def test_an_unindexed_property_can_be_refused(served):
    client = served(unindexed_filter_property="refuse", unpublished_code=41234)
    assert refusal(send(client, {"s": "apple", "other": 1})) == (
        400,
        41234,
        'invalid filter: there is no metadata index for property "other"',
    )
    assert found(client, {"s": "apple"}) == ["apple"]


def test_a_value_of_another_type_can_be_refused(served):
    client = served(value_of_other_type="refuse")
    for filter in ({"n": "1"}, {"n": {"$in": [1, "1"]}}, {"n": {"$lt": "1"}}, {"n": False}):
        assert refusal(send(client, filter)) == (
            400,
            40000,
            'invalid filter: the metadata index of "n" is of type number',
        )
    assert found(client, {"n": {"$in": [1, None]}}) == ["apple"]


def test_a_value_of_another_type_can_be_left_out(served):
    client = served(value_of_other_type="leave_out")
    mutation(client.upsert([vector("other", metadata={"s": 1, "n": "1", "b": "true"})]))

    for filter in ({"s": 1}, {"s": "1"}, {"n": "1"}, {"n": {"$lte": "1"}}, {"b": "true"}):
        assert found(client, filter) == []
    assert found(client, {"n": 1}) == ["apple"]
    assert "other" in found(client, {"s": {"$ne": 1}})


def test_null_can_match_null(served):
    client = served(null_in_filters="null")
    assert found(client, {"s": None}) == LACKING
    assert found(client, {"b": {"$ne": None}}) == VALUED
    assert found(client, {"s": {"$in": [None, "apple"]}}) == ["apple", *LACKING]
    assert found(client, {"s": {"$nin": [None, "apple"]}}) == ["banana", "cherry"]


def test_a_missing_property_can_match_nothing(served):
    client = served(missing_property="no_match", null_in_filters="null")
    assert found(client, {"s": {"$ne": "apple"}}) == ["banana", "cherry", "nulls"]
    assert found(client, {"s": {"$nin": []}}) == [*VALUED, "nulls"]
    assert found(client, {"s": None}) == ["nulls"]


def test_long_strings_in_a_filter_can_be_truncated(served):
    client = served(long_filter_strings="cut")
    mutation(client.upsert([vector("long", metadata={"s": "x" * 100})]))

    assert found(client, {"s": "x" * 80}) == ["long"]
    assert found(client, {"s": {"$in": ["x" * 80, "apple"]}}) == ["apple", "long"]
    assert found(client, {"n": {"$gte": 2}}) == ["banana"]
