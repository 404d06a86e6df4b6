# SPDX-License-Identifier: Apache-2.0
"""Queries and metadata indexes against the local server."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.inputs.queries import check_filter
from airflow_provider_cfvectorize.exceptions import VectorizeInputError, VectorizeResponseError

Index = tuple[VectorizeClient, str]

FILLER = [0.0] * 30


@pytest.fixture
def applied(index: Index) -> Callable[[Any], None]:
    client, name = index

    def wait(mutation: Any) -> None:
        while client.info(name).get("processedUpToMutation") != mutation["mutationId"]:
            time.sleep(0.01)

    return wait


@pytest.fixture
def filled(index: Index, applied: Callable[[Any], None]) -> Index:
    client, name = index
    client.create_metadata_index(name, "lang", "string")
    applied(client.create_metadata_index(name, "meta.year", "number"))
    vectors: list[Any] = [
        {
            "id": id_,
            "values": [x, y, *FILLER],
            "namespace": namespace,
            "metadata": {"lang": lang, "meta": {"year": year}, "more": id_},
        }
        for id_, x, y, namespace, lang, year in [
            ("a", 1, 0, "n", "en", 2020),
            ("b", 0.8, 0.6, "n", "de", 2021),
            ("c", 0, 1, "m", "en", 2022),
        ]
    ]
    applied(client.upsert(name, vectors))
    return index


def test_a_query_returns_the_nearest_vectors(filled: Index) -> None:
    client, name = filled
    result = client.query(name, vector=[1, 0, *FILLER])
    assert result["count"] == 3
    assert [match["id"] for match in result["matches"]] == ["a", "b", "c"]
    assert [match["score"] for match in result["matches"]] == pytest.approx([1, 0.8, 0], abs=1e-6)
    assert not any(match.get("values") or match.get("metadata") for match in result["matches"])
    assert [match["id"] for match in client.query(name, vector_id="c", top_k=2)["matches"]] == ["c", "b"]


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        ({"namespace": "n"}, ["a", "b"]),
        ({"filter": {"lang": "en"}}, ["a", "c"]),
        ({"filter": {}}, ["a", "b", "c"]),
        ({"filter": {"lang": {"$ne": "en"}}}, ["b"]),
        ({"filter": {"lang": {"$in": ["de", "fr"]}}}, ["b"]),
        ({"filter": {"meta.year": {"$gt": 2020, "$lte": 2022}}}, ["b", "c"]),
        ({"filter": {"meta.year": {"$gte": 2021}, "lang": "en"}}, ["c"]),
        ({"filter": {"lang": "en"}, "namespace": "m"}, ["c"]),
    ],
)
def test_filters_select_matches(filled: Index, options: dict[str, Any], ids: list[str]) -> None:
    client, name = filled
    result = client.query(name, vector=[1, 0, *FILLER], **options)
    assert [match["id"] for match in result["matches"]] == ids


def test_optional_fields_of_a_match(filled: Index) -> None:
    client, name = filled
    (match,) = client.query(name, vector=[1, 0, *FILLER], top_k=1, return_values=True, return_metadata="all")[
        "matches"
    ]
    assert (match["id"], match["namespace"]) == ("a", "n")
    assert match["values"] == [1, 0, *FILLER]
    assert match["metadata"] == {"lang": "en", "meta": {"year": 2020}, "more": "a"}
    (match,) = client.query(name, vector=[1, 0, *FILLER], top_k=1, return_metadata="indexed")["matches"]
    assert match["metadata"] == {"lang": "en", "meta": {"year": 2020}}


def test_metadata_indexes(filled: Index, applied: Callable[[Any], None]) -> None:
    client, name = filled

    def listed() -> set[tuple[str, str]]:
        return {(one["propertyName"], one["indexType"]) for one in client.list_metadata_indexes(name)}

    assert listed() == {("lang", "string"), ("meta.year", "number")}
    applied(client.create_metadata_index(name, "seen", "boolean"))
    applied(client.create_metadata_index(name, "seen", "boolean"))
    assert listed() == {("lang", "string"), ("meta.year", "number"), ("seen", "boolean")}
    applied(client.delete_metadata_index(name, "lang"))
    assert listed() == {("meta.year", "number"), ("seen", "boolean")}
    with pytest.raises(VectorizeResponseError, match=r"code 40005: .*list_metadata_indexes lists") as e:
        client.delete_metadata_index(name, "lang")
    assert e.value.code == 40005


def test_a_refused_query_explains_the_expected_dimensions(index: Index) -> None:
    client, name = index
    with pytest.raises(VectorizeResponseError, match=r"code 40006: .*expected 32 dimensions.*as many values"):
        client.query(name, vector=[1])


KEYS = st.lists(st.sampled_from(["a", "b", ".", "$", "$eq", "|", "é", "\ud800"]), max_size=3).map("".join)
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.sampled_from([10**400, "\ud800"]),
)
CLAUSES = st.dictionaries(
    st.sampled_from(["$eq", "$ne", "$in", "$nin", "$lt", "$lte", "$gt", "$gte", "a"]),
    SCALARS | st.lists(SCALARS, max_size=2),
    max_size=2,
)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(filter=st.dictionaries(KEYS, SCALARS | CLAUSES, max_size=2))
def test_the_client_refuses_what_the_server_refuses(index: Index, filter: dict[str, Any]) -> None:
    client, name = index
    try:
        client.query(name, vector=[1, 0, *FILLER], filter=filter)
    except VectorizeInputError:
        assert filter, "an empty filter is no filter"
        # The client refused it. A refusal by the server raises another error and fails this test.
        with pytest.raises(VectorizeInputError, match=r"^filter: "):
            check_filter(filter)


def test_the_largest_accepted_query_passes_the_server(index: Index) -> None:
    """The server accepts a query with the largest value of each option that the client accepts."""
    client, name = index
    key = "k" * limits.MAX_FILTER_KEY_CHARS
    frame = len(json.dumps({key: ""}, separators=(",", ":")))
    client.create_metadata_index(name, key, "string")
    client.query(
        name,
        vector=[-3.4028234663852886e38, 1e-300, *FILLER],
        top_k=limits.MAX_TOP_K,
        return_metadata="indexed",
        namespace="é" * 32,
        filter={key: "x" * (limits.FILTER_BYTES - 1 - frame)},
    )
    for return_metadata in ("none", "all"):
        client.query(
            name,
            vector=[1, 1, *FILLER],
            top_k=limits.MAX_TOP_K_WITH_DATA,
            return_values=True,
            return_metadata=return_metadata,  # type: ignore[arg-type]
            filter={"a": {"$in": [None, True, 1, "x"]}, "b": {"$ne": None}, "c": {"$gt": "a", "$lte": "b"}},
        )
    metadata = {"k": "x" * (limits.MAX_METADATA_BYTES - 8)}
    client.upsert(
        name, [{"id": "é" * 32, "values": [1, 1, *FILLER], "namespace": "é" * 32, "metadata": metadata}]
    )
