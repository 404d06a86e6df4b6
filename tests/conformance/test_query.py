# SPDX-License-Identifier: Apache-2.0
"""Queries: results, order and refusals. ``test_filters.py`` tests filters."""

from __future__ import annotations

import math
from typing import Any

import pytest

from conformance.scenario import SHELF, STEP, Lab, turned, vector
from conformance.service import DIMENSIONS, Service, mutation, refusal, result
from conformance.sources import source


def matches(response: Any) -> list[dict[str, Any]]:
    found = result(response)
    assert found["count"] == len(found["matches"])
    return list(found["matches"])


def ids(response: Any) -> list[str]:
    return [match["id"] for match in matches(response)]


@pytest.fixture(scope="module")
def index(vectorize: Service, docs_index: str) -> str:
    """Return the index once queries are up to date."""

    def queried() -> None:
        assert set(ids(vectorize.query(docs_index, turned(0), topK=100, namespace="shelf"))) == set(SHELF)

    vectorize.eventually(queried)
    return docs_index


# --- answers ------------------------------------------------------------------------------------------------


@source("schema", "vectorize_index-query-v2-response: count, and matches of id and score")
@source("schema", "vectorize_index-query-v2-request: returnValues false, returnMetadata none by default")
def test_the_fields_of_a_query(vectorize: Service, index: str) -> None:
    found = matches(vectorize.query(index, turned(0), namespace="shelf"))
    assert len(found) == len(SHELF)
    for match in found:
        assert set(match) - {"namespace"} == {"id", "score"}
        assert isinstance(match["score"], float | int)


@source("schema", "vectorize_index-query-v2-request: topK is 5 by default")
def test_the_number_of_matches(vectorize: Service, index: str) -> None:
    assert len(matches(vectorize.query(index, turned(0)))) == 5
    assert len(matches(vectorize.query(index, turned(0), topK=2))) == 2


@source("schema", "returnValues, returnMetadata: all")
def test_values_and_metadata(vectorize: Service, index: str) -> None:
    found = matches(
        vectorize.query(index, turned(0), namespace="shelf", returnValues=True, returnMetadata="all")
    )
    assert {match["id"]: match["metadata"] for match in found} == SHELF
    for match in found:
        assert match["values"] == pytest.approx(turned(1 + list(SHELF).index(match["id"])), abs=1e-6)


@source("schema", "returnMetadata: indexed")
@source("docs", "reference/client-api: indexed returns the metadata that has metadata indexes")
def test_indexed_metadata(vectorize: Service, index: str) -> None:
    found = matches(vectorize.query(index, turned(0), namespace="shelf", returnMetadata="indexed"))
    for match in found:
        whole = SHELF[match["id"]]
        assert {key: match["metadata"][key] for key in ("colour", "size", "big")} == {
            key: whole[key] for key in ("colour", "size", "big")
        }
        assert "Oslo" not in str(match)


# --- ranks --------------------------------------------------------------------------------------------------


@source("docs", "best-practices/create-indexes: cosine, from -1 to 1, the most similar")
@source("docs", "best-practices/query-vectors: with returnValues, scores are exact")
def test_cosine(vectorize: Service, index: str) -> None:
    found = matches(vectorize.query(index, turned(0), namespace="shelf", returnValues=True))
    assert [match["id"] for match in found] == list(SHELF)
    expected = [math.cos(step * STEP) for step in range(1, len(SHELF) + 1)]
    assert [match["score"] for match in found] == pytest.approx(expected, abs=1e-4)


@source("docs", "best-practices/create-indexes: euclidean, 0 is identical, larger is further apart")
def test_euclidean(vectorize: Service, lab: Lab) -> None:
    index = lab.index("euclidean", metric="euclidean")
    axis = [{"id": f"at-{x}", "values": [float(x)] + [0.0] * (DIMENSIONS - 1)} for x in (3, 0, 1)]
    vectorize.wait_for(index, mutation(vectorize.upsert(index, axis)))

    def ranked() -> list[dict[str, Any]]:
        found = matches(vectorize.query(index, [0.0] * DIMENSIONS, returnValues=True))
        assert len(found) == 3
        return found

    found = vectorize.eventually(ranked)
    assert [match["id"] for match in found] == ["at-0", "at-1", "at-3"]
    assert [match["score"] for match in found] == pytest.approx([0, 1, 3], abs=1e-4)
    lab.remove(index)


@source("official code", "wrangler query: --vector-id sends vectorId in place of vector")
def test_a_query_by_the_id_of_a_vector(vectorize: Service, index: str) -> None:
    found = matches(vectorize.query(index, vectorId="shelf-c", namespace="shelf", topK=1, returnValues=True))
    assert [match["id"] for match in found] == ["shelf-c"]
    assert found[0]["score"] == pytest.approx(1, abs=1e-4)


@source("docs", "best-practices/insert-vectors: a namespace narrows a query")
@source("official code", "wrangler query: --namespace sends namespace")
def test_namespaces(vectorize: Service, index: str) -> None:
    assert ids(vectorize.query(index, turned(0), namespace="yard")) == ["outside"]
    assert ids(vectorize.query(index, turned(0), namespace="never-used")) == []


# --- limits -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimensions", [0, 31, 33])
@source("observed", "mastra-ai/mastra#3444, over HTTP: the whole body; other reports have 0 dimensions")
def test_wrong_dimensions(vectorize: Service, index: str, dimensions: int) -> None:
    found = refusal(vectorize.query(index, [0.5] * dimensions))
    assert (found.status, found.code) == (400, 40006)
    assert found.message == (f"invalid query vector, expected 32 dimensions, and got {dimensions} dimensions")


@pytest.mark.parametrize("more", [{"returnValues": True}, {"returnMetadata": "all"}], ids=str)
@source(
    "observed", "rahilp/second-brain-cloudflare#89 and others: code 40025, with the text for topK 60 and 100"
)
@source("docs", "changelog of 2026-03-16: 50 with values or all metadata")
def test_too_many_matches_with_data(vectorize: Service, index: str, more: dict[str, Any]) -> None:
    found = refusal(vectorize.query(index, turned(0), topK=100, **more))
    assert (found.status, found.code) == (400, 40025)
    assert found.message == (
        "with returnValues=true or returnMetadata=all, max top K is 50, but got 100; for a top K up to 100, "
        "retry with returnValues=false and returnMetadata=indexed"
    )
    assert len(matches(vectorize.query(index, turned(0), topK=50, **more))) == 50


@pytest.mark.parametrize("metadata", ["none", "indexed"])
@source("docs", "platform/limits: 100 matches without values and with indexed metadata at most")
@source("observed", "RamaAditya49/titen#200: topK 200 is refused without values and metadata too")
def test_too_many_matches_without_data(vectorize: Service, index: str, metadata: str) -> None:
    refusal(vectorize.query(index, turned(0), topK=101, returnMetadata=metadata))
    assert len(matches(vectorize.query(index, turned(0), topK=100, returnMetadata=metadata))) == 100


@pytest.mark.parametrize("value", [True, False])
@source("observed", "reports of boolean returnMetadata: code 40026 with this text")
def test_metadata_as_a_boolean(vectorize: Service, index: str, value: bool) -> None:
    found = refusal(vectorize.query(index, turned(0), returnMetadata=value))
    assert (found.status, found.code) == (400, 40026)
    assert found.message.startswith(
        "Failed to parse the request body as JSON: returnMetadata: expected value"
    )


@source("schema", "vectorize_index-query-v2-request: vector is required")
def test_a_query_without_a_vector(vectorize: Service, index: str) -> None:
    refusal(vectorize.query(index, topK=1))


@source("inference", "a vector with the very values of the query is its nearest, whatever the index holds")
def test_a_vector_is_nearest_to_itself(vectorize: Service, index: str) -> None:
    assert ids(vectorize.query(index, vector("", 12)["values"], topK=1)) == ["plain"]
