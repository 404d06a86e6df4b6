# SPDX-License-Identifier: Apache-2.0
"""Filters of queries, and the vectors in metadata indexes."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conformance.scenario import LONG_COLOUR, LONG_UMLAUTS, SHELF, turned
from conformance.service import Service, refusal, result
from conformance.sources import source

PAGE = "reference/metadata-filtering"
#: A test suite that runs against the service.
MASTRA = "mastra-ai/mastra, stores/vectorize/src/vector/index.test.ts"


def found(vectorize: Service, index: str, conditions: Any, **more: Any) -> set[str]:
    response = vectorize.query(index, turned(0), topK=100, filter=conditions, **more)
    return {match["id"] for match in result(response)["matches"]}


@pytest.fixture(scope="module")
def index(vectorize: Service, docs_index: str) -> str:
    """Return the index once its metadata indexes are up to date."""

    def filtered() -> None:
        assert found(vectorize, docs_index, {"size": {"$gte": 1}}, namespace="shelf") == set(SHELF)

    vectorize.eventually(filtered)
    return docs_index


FILTERS: list[tuple[dict[str, Any], str]] = [
    ({"colour": "red"}, "ab"),
    ({"colour": {"$eq": "red"}}, "ab"),
    ({"colour": {"$ne": "red"}}, "cde"),
    ({"colour": {"$in": ["red", "green"]}}, "abd"),
    ({"colour": {"$nin": ["red", "green"]}}, "ce"),
    ({"size": 3}, "c"),
    ({"size": {"$eq": 5.5}}, "e"),
    ({"size": {"$lt": 3}}, "ab"),
    ({"size": {"$lte": 3}}, "abc"),
    ({"size": {"$gt": 3}}, "de"),
    ({"size": {"$gte": 3}}, "cde"),
    ({"size": {"$gte": 2, "$lt": 4}}, "bc"),
    ({"size": {"$in": [1, 4]}}, "ad"),
    ({"big": True}, "bd"),
    ({"big": {"$ne": True}}, "ace"),
    # Strings are in lexicographic order: all that begin with b or g.
    ({"colour": {"$gte": "b", "$lt": "h"}}, "cd"),
    # A dot addresses a nested object; all conditions must hold.
    ({"maker.name": "acme"}, "ac"),
    ({"colour": "red", "big": True}, "b"),
    ({"colour": {"$ne": "red"}, "maker.name": "acme", "size": {"$gt": 1}}, "c"),
]


@pytest.mark.parametrize(("conditions", "letters"), FILTERS, ids=lambda value: json.dumps(value))
@source("docs", f"{PAGE}: the operators, the implicit $eq and AND, the dot")
def test_filters(vectorize: Service, index: str, conditions: dict[str, Any], letters: str) -> None:
    assert found(vectorize, index, conditions, namespace="shelf") == {f"shelf-{letter}" for letter in letters}


@source("observed", f"{MASTRA} @c7d904b: an empty filter finds every vector")
def test_an_empty_filter(vectorize: Service, index: str) -> None:
    assert found(vectorize, index, {}, namespace="shelf") == set(SHELF)


@pytest.mark.parametrize(
    ("conditions", "letters"),
    [
        ({"opt": {"$in": [None, "exists"]}}, "a"),
        ({"opt": {"$ne": None}}, "abcd"),
        ({"mixed": {"$in": ["string value", 10, None]}}, "ab"),
        ({"price": {"$gt": "150"}}, "b"),
    ],
    ids=json.dumps,
)
@source("observed", f"{MASTRA} @c7d904b and @18f9e6b: how many vectors each of these filters finds")
@source(
    "inference", "which vectors: both sides take the index's type, null equals nothing, the rest is negated"
)
def test_nulls_and_other_types(vectorize: Service, index: str, conditions: Any, letters: str) -> None:
    assert found(vectorize, index, conditions, namespace="mixed") == {f"mixed-{letter}" for letter in letters}


@source("docs", f"{PAGE}: a namespace filter is applied before metadata filters")
def test_the_namespace_comes_first(vectorize: Service, index: str) -> None:
    # "outside" is red and nearer, but in another namespace, so it is not among the two matches.
    response = vectorize.query(index, turned(0), topK=2, namespace="shelf", filter={"colour": "red"})
    assert [match["id"] for match in result(response)["matches"]] == ["shelf-a", "shelf-b"]


@source("docs", f"{PAGE}: the filter is applied first, and the topK are taken from what is left")
def test_the_filter_comes_before_the_number(vectorize: Service, index: str) -> None:
    response = vectorize.query(index, turned(0), topK=1, filter={"colour": "green"})
    assert [match["id"] for match in result(response)["matches"]] == ["shelf-d"]


@source("docs", f"{PAGE}: vectors from before a metadata index are not in it, until they are upserted again")
def test_vectors_written_before_a_metadata_index(vectorize: Service, index: str) -> None:
    def unfiltered() -> None:
        response = vectorize.query(index, turned(0), topK=10, namespace="old")
        assert {match["id"] for match in result(response)["matches"]} == {"old-1", "old-2"}

    vectorize.eventually(unfiltered)
    assert found(vectorize, index, {"colour": "red"}, namespace="old") == {"old-2"}


@source("docs", f"{PAGE}: of a string, the first 64 bytes are indexed, cut between characters")
def test_long_strings(vectorize: Service, index: str) -> None:
    assert found(vectorize, index, {"colour": LONG_COLOUR[:64]}, namespace="long") == {"long-1"}
    assert found(vectorize, index, {"colour": LONG_UMLAUTS[:32]}, namespace="long") == {"long-2"}


@pytest.mark.parametrize(
    "conditions", [{"colour": None}, {"colour": {"$eq": None}}, {"colour": {"$nin": [None, "red"]}}], ids=str
)
@source("docs", f"{PAGE}: values can be null")
def test_null_in_a_filter(vectorize: Service, index: str, conditions: Any) -> None:
    found(vectorize, index, conditions, namespace="shelf")


@pytest.mark.parametrize(
    "conditions",
    [
        {"": "red"},
        {"$colour": "red"},
        {'col"our': "red"},
        {"col|our": "red"},
        {"c" * 513: "red"},
        {"colour": {"$like": "r%"}},
        {"colour": {"$in": "red"}},
        {"colour": {"$eq": "red", "$ne": "blue"}},
        {"colour": {"$in": ["x" * 60] * 40}},
    ],
    ids=lambda value: json.dumps(value)[:30],
)
@source("docs", f"{PAGE}: what a filter may not be; it has less than 2,048 bytes")
def test_invalid_filters(vectorize: Service, index: str, conditions: Any) -> None:
    refusal(vectorize.query(index, turned(0), filter=conditions))
