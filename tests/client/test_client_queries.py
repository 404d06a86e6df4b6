# SPDX-License-Identifier: Apache-2.0
"""Queries and metadata indexes: requests, inputs that the client refuses, and required fields of answers."""

from __future__ import annotations

import json
from array import array
from collections import UserList
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Any

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.inputs.queries import check_filter
from airflow_provider_cfvectorize.exceptions import VectorizeInputError, VectorizeResponseError
from client.servers import INDEXES, MUTATION, Reply, Request, ScriptedServer, accepted, ok, refused

Connect = Callable[..., VectorizeClient]
Serve = Callable[..., ScriptedServer]

V = [0.5, 1]
DEFAULTS = {"topK": 5, "returnValues": False, "returnMetadata": "none"}


def a_small_vectorize(request: Request) -> Reply:
    if request.path.endswith("/query"):
        return ok({"count": 1, "matches": [{"id": "a", "score": 0.75}]})
    if request.path.endswith("/metadata_index/list"):
        return ok({"metadataIndexes": [{"propertyName": "lang", "indexType": "String"}]})
    return accepted()


@pytest.fixture
def server(serve: Serve) -> ScriptedServer:
    return serve(a_small_vectorize)


@pytest.fixture
def client(server: ScriptedServer, connect: Connect) -> VectorizeClient:
    return connect(server)


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({"vector": V}, {"vector": V, **DEFAULTS}),
        ({"vector": (1, 2)}, {"vector": [1, 2], **DEFAULTS}),
        ({"vector": list(numpy.ones(2))}, {"vector": [1.0, 1.0], **DEFAULTS}),
        ({"vector": numpy.ones(2, numpy.float16)}, {"vector": [1.0, 1.0], **DEFAULTS}),
        ({"vector": [numpy.float32(0.5), numpy.int8(2)]}, {"vector": [0.5, 2.0], **DEFAULTS}),
        ({"vector": array("f", [0.5, 2])}, {"vector": [0.5, 2.0], **DEFAULTS}),
        ({"vector": (Decimal("0.5"), Fraction(1, 2))}, {"vector": [0.5, 0.5], **DEFAULTS}),
        ({"vector_id": 17}, {"vectorId": "17", **DEFAULTS}),
        ({"vector_id": "é"}, {"vectorId": "é", **DEFAULTS}),
        ({"vector": V, "top_k": 100}, {"vector": V, **DEFAULTS, "topK": 100}),
        (
            {
                "vector": V,
                "top_k": 50,
                "return_values": True,
                "return_metadata": "all",
                "namespace": "n" * 64,
            },
            {"vector": V, "topK": 50, "returnValues": True, "returnMetadata": "all", "namespace": "n" * 64},
        ),
        (
            {"vector": V, "top_k": 100, "return_metadata": "indexed", "filter": {"a.b": {"$gte": 1}}},
            {
                "vector": V,
                "topK": 100,
                "returnValues": False,
                "returnMetadata": "indexed",
                "filter": {"a.b": {"$gte": 1}},
            },
        ),
    ],
)
def test_the_request_of_a_query(
    client: VectorizeClient, server: ScriptedServer, asked: dict[str, Any], sent: dict[str, Any]
) -> None:
    assert client.query("docs", **asked) == {"count": 1, "matches": [{"id": "a", "score": 0.75}]}
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", f"{INDEXES}/docs/query")
    assert json.loads(request.body) == sent


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({}, "either vector .* or vector_id .* got neither"),
        ({"vector": V, "vector_id": "a"}, "got both"),
        ({"vector": []}, "vector is empty"),
        ({"vector": "0.5"}, "vector is '0.5', expected a list of numbers"),
        (
            {"vector": numpy.ones((2, 2))},
            "has a list at position 0, expected numbers: values have one dimension",
        ),
        ({"vector": numpy.array([1, numpy.nan])}, "nan at position 1, which is not a finite 32-bit number"),
        ({"vector": numpy.float32(1)}, "vector is 1.0, expected a list of numbers"),
        ({"vector": numpy.array(["1"])}, "has '1' at position 0, expected numbers"),
        ({"vector": [1, True]}, "has True at position 1, expected numbers"),
        ({"vector": [1, None]}, "has None at position 1, expected numbers"),
        ({"vector": [1, numpy.bool_(True)]}, "has a bool at position 1, expected numbers"),
        ({"vector": [1, float("nan")]}, "has nan at position 1, which is not a finite 32-bit number"),
        ({"vector": [float("-inf")]}, "has -inf at position 0"),
        ({"vector": [1e39]}, r"has 1e\+39 at position 0"),
        ({"vector": [0.5, 10**400]}, "has inf at position 1"),
        ({"vector_id": ""}, "vector_id '' is empty"),
        ({"vector_id": "é" * 33}, "has 66 bytes of UTF-8, expected at most 64"),
        ({"vector_id": 5.0}, "vector_id 5.0 is neither a string nor an integer"),
        ({"vector": V, "top_k": 0}, "top_k is 0, expected an integer from 1 to 100"),
        ({"vector": V, "top_k": 101}, "top_k is 101"),
        ({"vector": V, "top_k": True}, "top_k is True"),
        ({"vector": V, "top_k": 5.0}, "top_k is 5.0"),
        ({"vector": V, "top_k": None}, "top_k is None"),
        ({"vector": V, "top_k": 51, "return_values": True}, "51 with return_values=True: .* at most 50"),
        (
            {"vector": V, "top_k": 60, "return_metadata": "all"},
            "60 with return_metadata='all': .* For up to 100, pass return_values=False and .*'indexed'",
        ),
        (
            {"vector": V, "top_k": 60, "return_metadata": "all", "return_values": True},
            "return_values=True and return_metadata='all'",
        ),
        ({"vector": V, "return_metadata": True}, "is True, pass 'all' .*'indexed'.* instead"),
        ({"vector": V, "return_metadata": False}, "is False, pass 'none' instead"),
        ({"vector": V, "return_metadata": "some"}, "'some', expected one of none, indexed, all"),
        ({"vector": V, "return_metadata": ["all"]}, "a list, expected one of"),
        ({"vector": V, "return_values": "yes"}, "return_values is 'yes', expected True or False"),
        ({"vector": V, "namespace": "é" * 33}, "has 66 bytes of UTF-8"),
        ({"vector": V, "namespace": 5}, "namespace 5 is not a string"),
        ({"vector": V, "namespace": "\ud800"}, "half of a surrogate pair"),
        ({"vector": V, "filter": "lang = en"}, "expected a mapping"),
        ({"vector": V, "filter": []}, "expected a mapping"),
    ],
)
def test_invalid_queries_are_refused(
    client: VectorizeClient, server: ScriptedServer, asked: dict[str, Any], said: str
) -> None:
    with pytest.raises(VectorizeInputError, match=said):
        client.query("docs", **asked)
    assert server.requests == []


@pytest.mark.parametrize(
    "good",
    [
        {"lang": "en", "n": 1, "x": 0.5, "b": True, "none": None},
        {"a.b.c": {"$eq": None}, "d": {"$ne": False}},
        {"a": {"$in": ["x", 1, None, True]}, "b": {"$nin": (1, 2)}},
        {"a": {"$lt": "m"}, "b": {"$lte": 3, "$gt": 1}, "c": {"$gte": 0.5, "$lt": 1}},
        {"k" * 512: 1},
        {"é": "x" * (2047 - len('{"é":""}'.encode()))},
    ],
)
def test_filters_are_sent_as_json(good: dict[str, Any]) -> None:
    assert json.dumps(check_filter(good)) == json.dumps(good)


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ({"": 1}, "key '' is empty"),
        ({"$eq": 1}, "operators belong in a"),
        ({"a.$eq": 1}, "operators belong in a"),
        ({'a"': 1}, "which is not allowed in a property's name"),
        ({"a|b": 1}, "which is not allowed in a property's name"),
        ({"k" * 513: 1}, "has 513 characters, expected at most 512"),
        ({5: 1}, "key 5 is not a string"),
        ({"a": ["x"]}, r"is a list: for one of several values, write \{'\$in'"),
        ({"a": {}}, "is an empty mapping"),
        ({"a": {"b": 1}}, r"has 'b', expected one of \$eq, .*with a dot: \{'a.b'"),
        ({"a": {"$regex": "x"}}, r"'\$regex', expected one of"),
        ({"a": {"$in": "x"}}, r"has \$in with 'x', expected a list"),
        ({"a": {"$in": []}}, r"has \$in with an empty list, expected at least one"),
        ({"a": {"$in": ()}}, r"has \$in with an empty list, expected at least one"),
        ({"a": {"$in": b"x"}}, r"has \$in with b'x', expected a list"),
        ({"a": {"$nin": [1, [1]]}}, r"has \$nin with a list at position 1, expected strings"),
        (
            {"a": {"$in": [1, float("inf")]}},
            r"'a' has \$in with inf at position 1, which is not a finite number",
        ),
        ({"a": {"$eq": [1]}}, r"has \$eq with a list, expected a string"),
        ({"a": {"$lt": None}}, r"has \$lt with None"),
        ({"a": {"$gte": True}}, r"has \$gte with True, expected a string or a number"),
        ({"a..b": 1}, r"key 'a\.\.b' begins or ends with a dot, or has two in a row"),
        ({"a.": 1}, "begins or ends with a dot"),
        ({".": 1}, "begins or ends with a dot"),
        ({"\ud800": 1}, "filter: the key .* half of a surrogate pair"),
        ({"a": "\ud800"}, "filter: the condition of 'a' .* half of a surrogate pair"),
        ({"a": {"$ne": "\ud800"}}, "filter: the condition of 'a' .* half of a surrogate pair"),
        ({"a": 10**400}, "filter: the condition of 'a' is .* too large for a number of 64 bits"),
        ({"a": {"$lt": 1, "$lte": 1}}, r"only one of \$gt, \$gte and one of \$lt, \$lte can be combined"),
        ({"a": {"$eq": 1, "$gt": 1}}, "can be combined"),
        ({"a": {"$lt": 1, "$gt": 0, "$gte": 0}}, "can be combined"),
        ({"a": float("nan")}, "filter: the condition of 'a' is nan, which is not a finite number"),
        ({"a": "x" * 2041}, "has 2049 bytes as compact JSON, expected at most 2047"),
        ({"a": "x" * 2040}, "has 2048 bytes"),
    ],
)
def test_invalid_filters_are_refused(bad: dict[Any, Any], said: str) -> None:
    with pytest.raises(VectorizeInputError, match=said):
        check_filter(bad)


def test_filters_of_other_types_are_sent_as_json(client: VectorizeClient, server: ScriptedServer) -> None:
    asked = MappingProxyType(
        {"a": MappingProxyType({"$in": range(3)}), "b": {"$nin": UserList(["x"])}, "c": 1}
    )
    client.query("docs", vector=V, filter=asked)
    assert json.loads(server.requests[0].body)["filter"] == {
        "a": {"$in": [0, 1, 2]},
        "b": {"$nin": ["x"]},
        "c": 1,
    }


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["$eq", "$in", "$lt", "$gte", "a", "a.b", "$x", ""]), inner, max_size=3
        )
    ),
    max_leaves=8,
)


@given(anything)
def test_any_filter_is_accepted_unchanged_or_refused(value: Any) -> None:
    try:
        checked = check_filter(value)
    except VectorizeInputError:
        return
    assert json.dumps(checked) == json.dumps(value)
    assert len(json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()) < 2048


@pytest.mark.parametrize(
    "result",
    [
        None,
        [],
        {},
        {"matches": {}},
        {"matches": [None]},
        {"matches": [{"id": 1, "score": 1}]},
        {"matches": [{"id": "a"}]},
    ],
)
def test_an_answer_without_matches_is_an_error(serve: Serve, connect: Connect, result: object) -> None:
    with pytest.raises(VectorizeResponseError, match=r"expected|without a score"):
        connect(serve([ok(result)])).query("docs", vector=V)


def test_a_missing_count_is_the_number_of_matches(serve: Serve, connect: Connect) -> None:
    result = connect(serve([ok({"matches": []})])).query("docs", vector=V)
    assert result == {"count": 0, "matches": []}


# --- metadata indexes ---------------------------------------------------------------------------------------


def test_the_requests_for_metadata_indexes(client: VectorizeClient, server: ScriptedServer) -> None:
    mutation = {"mutationId": MUTATION, "accepted_at": "2026-01-31T23:59:59Z"}
    assert client.create_metadata_index("docs", "a.b", "number") == mutation
    assert client.list_metadata_indexes("docs") == [{"propertyName": "lang", "indexType": "string"}]
    assert client.delete_metadata_index("docs", "lang") == mutation
    create, listing, delete = server.requests
    assert (create.method, create.path) == ("POST", f"{INDEXES}/docs/metadata_index/create")
    assert json.loads(create.body) == {"propertyName": "a.b", "indexType": "number"}
    assert (listing.method, listing.path) == ("GET", f"{INDEXES}/docs/metadata_index/list")
    assert (delete.method, delete.path) == ("POST", f"{INDEXES}/docs/metadata_index/delete")
    assert json.loads(delete.body) == {"propertyName": "lang"}


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda c: c.create_metadata_index("docs", "", "string"), "property_name '' is empty"),
        (lambda c: c.create_metadata_index("docs", "$a", "string"), "has a level that begins"),
        (lambda c: c.create_metadata_index("docs", None, "string"), "None is not a string"),
        (lambda c: c.create_metadata_index("docs", "\ud800", "string"), "half of a surrogate pair"),
        (lambda c: c.create_metadata_index("docs", "a", "text"), "expected one of string, number, boolean"),
        (lambda c: c.create_metadata_index("docs", "a", "String"), "expected one of"),
        (lambda c: c.create_metadata_index("docs", "a", str), "index_type is a type, expected one of string"),
        (lambda c: c.create_metadata_index("../x", "a", "string"), "index name"),
        (lambda c: c.delete_metadata_index("docs", 'a"b'), "is not allowed"),
        (lambda c: c.delete_metadata_index("docs", "a" * 513), "513 characters"),
    ],
)
def test_invalid_metadata_indexes_are_refused(
    client: VectorizeClient, server: ScriptedServer, call: Any, said: str
) -> None:
    with pytest.raises(VectorizeInputError, match=said):
        call(client)
    assert server.requests == []


@pytest.mark.parametrize("result", [None, [], {}, {"metadataIndexes": [{"propertyName": "a"}]}])
def test_an_answer_without_metadata_indexes_is_an_error(
    serve: Serve, connect: Connect, result: object
) -> None:
    with pytest.raises(VectorizeResponseError, match="expected"):
        connect(serve([ok(result)])).list_metadata_indexes("docs")


@pytest.mark.parametrize(
    ("code", "advice"),
    [
        (40005, "list_metadata_indexes lists those that exist"),
        (40006, "as many values as the index has dimensions"),
        (40008, "at most 64 bytes"),
        (40012, "Nothing of this request was written"),
        (40016, "Store large values elsewhere"),
        (40023, "NDJSON is one JSON object a line"),
        (40025, "at most 50 matches"),
    ],
)
def test_a_refused_query_includes_advice(serve: Serve, connect: Connect, code: int, advice: str) -> None:
    with pytest.raises(VectorizeResponseError, match=rf"code {code}: 'what it says'\. .*{advice}") as e:
        connect(serve([refused(400, code, "what it says")])).query("docs", vector=V)
    assert e.value.code == code
