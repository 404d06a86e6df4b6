# SPDX-License-Identifier: Apache-2.0
"""Probes: queries and filters."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import requests

from conformance.scenario import LONG_COLOUR, turned
from conformance.service import DIMENSIONS, Service, mutation, result
from conformance.sources import unknown

Probe = Callable[..., None]
Switch = Callable[[str], Any]


def ids(response: requests.Response) -> list[str] | str:
    """Return the ids of the matches, or the refusal of the query."""
    if not response.ok:
        return f"refused: {response.status_code} {response.text[:200]}"
    return [match["id"] for match in result(response)["matches"]]


@pytest.fixture(scope="module")
def query_filtered(vectorize: Service, docs_index: str) -> Callable[..., requests.Response]:
    """Return a function that queries the scenario's index, once its metadata indexes are up to date."""

    def query(conditions: Any, **more: Any) -> requests.Response:
        return vectorize.query(docs_index, turned(0), topK=50, filter=conditions, **more)

    def caught_up() -> None:
        assert len(ids(query({"size": 1}, namespace="nulls"))) == 2

    vectorize.eventually(caught_up)
    return query


# --- queries ------------------------------------------------------------------------------------------------


@unknown("The score in a dot-product index: the product or its negative", "dot_product_score")
def test_dot_product(vectorize: Service, scratch: str, probe: Probe, switch: Switch) -> None:
    sent = [
        {"id": f"dot{x:+}", "values": [float(x)] + [0.0] * (DIMENSIONS - 1), "namespace": "dots"}
        for x in (1, 3, -2)
    ]
    vectorize.wait_for(scratch, mutation(vectorize.upsert(scratch, sent)))

    def all_there() -> list[dict[str, Any]]:
        asked = [2.0] + [0.0] * (DIMENSIONS - 1)
        found = result(vectorize.query(scratch, asked, namespace="dots", returnValues=True))["matches"]
        assert len(found) == len(sent)
        return list(found)

    found = {match["id"]: match["score"] for match in vectorize.eventually(all_there)}
    sign = 1 if switch("dot_product_score") == "product" else -1
    expected = {"dot+3": sign * 6, "dot+1": sign * 2, "dot-2": sign * -4}
    probe("products 6, 2 and -4, in order", list(found.items()), list(expected.items()))


@unknown("The envelope of a successful query", states="has the field `result_info` with the value null. |")
def test_result_info(vectorize: Service, docs_index: str, probe: Probe) -> None:
    body = vectorize.query(docs_index, turned(0)).json()
    probe("its fields", sorted(body), ["errors", "messages", "result", "result_info", "success"])


@unknown("A query by the id of a missing vector", "unknown_vector_id", "unpublished_code")
def test_an_unknown_vector_id(vectorize: Service, docs_index: str, probe: Probe, switch: Switch) -> None:
    refused = (400, switch("unpublished_code"))
    expected = refused if switch("unknown_vector_id") == "refuse" else 200
    probe("vectorId", vectorize.query(docs_index, vectorId="never"), expected)


@unknown("A query with both vector and vectorId", "vector_and_vector_id", "unpublished_code")
def test_a_vector_and_an_id(vectorize: Service, docs_index: str, probe: Probe, switch: Switch) -> None:
    refused = (400, switch("unpublished_code"))
    response = vectorize.query(docs_index, turned(0), vectorId="plain", topK=1)
    probe("both", response, refused if switch("vector_and_vector_id") == "refuse" else 200)


@unknown("A topK below 1", "unpublished_code")
def test_top_k(vectorize: Service, docs_index: str, probe: Probe, switch: Switch) -> None:
    for top_k in (0, -1):
        response = vectorize.query(docs_index, turned(0), topK=top_k)
        probe(f"topK {top_k}", response, (400, switch("unpublished_code")))


@unknown(
    "A topK above 100 without values and metadata",
    states="| Matches of a query | 100; 50 with values or all metadata |",
)
def test_top_k_above_all_limits(vectorize: Service, docs_index: str, probe: Probe) -> None:
    probe("topK 101", vectorize.query(docs_index, turned(0), topK=101), (400, 40025))


# --- filters ------------------------------------------------------------------------------------------------


@unknown("The code of a filter that breaks the rules", "unpublished_code")
def test_invalid_filters(query_filtered: Any, probe: Probe, switch: Switch) -> None:
    for conditions in ({"": 1}, {"$a": 1}, {'a"b': 1}, {"a": {"$like": 1}}, {"a": {"$lt": True}}):
        expected = (400, switch("unpublished_code"))
        probe(f"filter {json.dumps(conditions)}", query_filtered(conditions), expected)


@unknown("An empty filter, which a page of the documentation does not allow", "empty_filter")
def test_an_empty_filter(query_filtered: Any, probe: Probe, switch: Switch) -> None:
    probe("filter {}", query_filtered({}), 200 if switch("empty_filter") == "accept" else 400)


@unknown("A filter on a property without a metadata index", "unindexed_filter_property")
def test_an_unindexed_property(query_filtered: Any, probe: Probe, switch: Switch) -> None:
    assert switch("unindexed_filter_property") == "no_match"
    probe("maker.town", ids(query_filtered({"maker.town": "Oslo"}, namespace="shelf")), [])


@unknown("Values of another type than the metadata index's", "value_of_other_type")
def test_values_of_another_type(query_filtered: Any, probe: Probe, switch: Switch) -> None:
    assert switch("value_of_other_type") == "convert"
    for conditions, expected in (
        ({"size": "1"}, ["shelf-a"]),
        ({"size": "1.0"}, ["shelf-a"]),
        ({"size": True}, []),
        ({"big": 1}, []),
        ({"big": "true"}, ["shelf-b", "shelf-d"]),
    ):
        probe(json.dumps(conditions), ids(query_filtered(conditions, namespace="shelf")), expected)
    for conditions, expected in (
        ({"mixed": True}, ["mixed-d"]),
        ({"mixed": "true"}, ["mixed-d"]),
        ({"mixed": "10"}, ["mixed-b"]),
        ({"mixed": 10.5}, []),
    ):
        probe(json.dumps(conditions), ids(query_filtered(conditions, namespace="mixed")), expected)


@unknown("Vectors without the property, or with null", "missing_property", "null_in_filters")
def test_missing_properties(query_filtered: Any, probe: Probe, switch: Switch) -> None:
    # In the namespace are "null", whose colour is null, and "bare", which has none.
    assert switch("missing_property") == "null"
    assert switch("null_in_filters") == "nothing"
    for conditions, expected in (
        ({"colour": None}, []),
        ({"colour": {"$ne": None}}, ["bare", "null"]),
        ({"colour": {"$ne": "red"}}, ["bare", "null"]),
        ({"colour": {"$nin": ["red"]}}, ["bare", "null"]),
        ({"colour": {"$in": [None]}}, []),
        ({"colour": {"$lt": "red"}}, []),
    ):
        found = ids(query_filtered(conditions, namespace="nulls"))
        probe(json.dumps(conditions), sorted(found) if isinstance(found, list) else found, expected)


@unknown("Strings of more than 64 bytes in a filter", "long_filter_strings")
def test_long_filter_strings(query_filtered: Any, probe: Probe, switch: Switch) -> None:
    found = ids(query_filtered({"colour": LONG_COLOUR}, namespace="long"))
    probe("all 80 bytes of the value", found, ["long-1"] if switch("long_filter_strings") == "cut" else [])
