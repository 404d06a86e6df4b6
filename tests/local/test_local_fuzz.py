# SPDX-License-Identifier: Apache-2.0
"""Arbitrary requests get an API envelope and cause no internal error."""

from __future__ import annotations

import http.client
import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_cfvectorize.local import Behaviour, LocalVectorize
from airflow_provider_cfvectorize.local.http.bodies import parse_vectors
from airflow_provider_cfvectorize.local.http.multipart import uploaded
from local.local_client import vector

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

ACTIONS = ["", "/info", "/insert", "/upsert", "/delete_by_ids", "/get_by_ids", "/list", "/query"]
ACTIONS += ["/metadata_index/create", "/metadata_index/list", "/metadata_index/delete", "/nothing"]
METHODS = ["GET", "POST", "DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "HEAD"]
TYPES = [
    "application/json",
    "application/x-ndjson",
    "multipart/form-data; boundary=b",
    "multipart/form-data",
    "text/plain",
    "",
]

surrogates = st.text(st.characters(codec=None, categories=["L", "Cs", "Nd", "Po"]), max_size=5)
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | surrogates
    | st.sampled_from([10**50, -(10**400), 1e39, "a" * 65, "$a", "docs", "é" * 40])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(surrogates, inner, max_size=4),
    max_leaves=12,
)
vectors = st.fixed_dictionaries(
    {},
    optional={
        "id": st.text(max_size=70) | values,
        "values": st.just([0.5] * 32) | st.lists(st.floats() | st.integers(), max_size=33) | values,
        "namespace": values,
        "metadata": st.dictionaries(surrogates, values, max_size=4) | values,
    },
)
clauses = (
    values
    | st.dictionaries(
        st.sampled_from(["$eq", "$ne", "$lt", "$lte", "$gt", "$gte", "$or"]), scalars, max_size=2
    )
    | st.dictionaries(st.sampled_from(["$in", "$nin"]), st.lists(scalars, max_size=3), max_size=2)
)
queries = st.fixed_dictionaries(
    {},
    optional={
        "vector": st.just([0.5] * 32) | st.lists(st.floats() | st.integers(), max_size=33) | values,
        "vectorId": st.sampled_from(["a", "docs"]) | values,
        "namespace": values,
        "topK": st.integers(-1, 120) | values,
        "returnValues": st.booleans() | values,
        "returnMetadata": st.sampled_from(["none", "indexed", "all"]) | values,
        "filter": st.dictionaries(st.sampled_from(["k", "a.b", "$a"]) | surrogates, clauses, max_size=3)
        | values,
    },
)
metadata_indexes = st.fixed_dictionaries(
    {},
    optional={
        "propertyName": st.sampled_from(["k", "a.b"]) | values,
        "indexType": st.sampled_from(["string", "number", "boolean"]) | values,
    },
)
bodies = st.fixed_dictionaries(
    {},
    optional={
        "ids": st.lists(st.text(max_size=70) | values, max_size=4) | values,
        "name": st.sampled_from(["docs", "fuzz-1", "x"]) | values,
        "description": values,
        "config": st.fixed_dictionaries(
            {},
            optional={
                "dimensions": st.integers(0, 2000) | values,
                "metric": st.just("cosine") | values,
                "preset": values,
            },
        )
        | values,
        "index_name": values,
        "count": values,
    },
)
payloads = (
    st.binary(max_size=200)
    | (values | bodies | vectors | queries | metadata_indexes).map(lambda value: json.dumps(value).encode())
    | st.lists(vectors, max_size=3).map(lambda lines: "\n".join(map(json.dumps, lines)).encode())
    | st.lists(vectors, max_size=2).map(
        lambda lines: (
            b'--b\r\nContent-Disposition: form-data; name="vectors"\r\n\r\n'
            + "\n".join(map(json.dumps, lines)).encode()
            + b"\r\n--b--\r\n"
        )
    )
)
header_values = st.text(
    st.characters(min_codepoint=32, max_codepoint=255, exclude_characters="\x7f"), max_size=40
)
path_texts = st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#"), max_size=30)


@pytest.fixture(scope="module")
def server():
    with LocalVectorize(apply_delay=0, read_only_token="reader") as server:
        call(
            server, "POST", "", json.dumps({"name": "docs", "config": {"dimensions": 32, "metric": "cosine"}})
        )
        for property_name, index_type in (("k", "string"), ("a.b", "number")):
            index = {"propertyName": property_name, "indexType": index_type}
            call(server, "POST", "/docs/metadata_index/create", json.dumps(index))
        stored = {**vector("a"), "metadata": {"k": "x", "a": {"b": 1}}}
        call(server, "POST", "/docs/upsert", json.dumps(stored), {"Content-Type": "application/x-ndjson"})
        yield server


def call(
    server: LocalVectorize,
    method: str,
    path: str,
    body: bytes | str = b"",
    headers: dict[str, str | None] | None = None,
    *,
    absolute: bool = False,
) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    prefix = "" if absolute else f"/client/v4/accounts/{server.account_id}/vectorize/v2/indexes"
    sent: dict[str, str | None] = {
        "Host": "localhost",
        "Authorization": f"Bearer {server.api_token}",
        "Content-Type": "application/json",
        **(headers or {}),
    }
    payload = body if isinstance(body, bytes) else body.encode()
    try:
        connection.putrequest(method, prefix + path, skip_host=True, skip_accept_encoding=True)
        for name, value in sent.items():
            if value is not None:
                connection.putheader(name, value.encode("latin-1"))
        connection.putheader("Content-Length", str(len(payload)))
        connection.endheaders(payload)
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    assert answer.status < 500, content
    assert answer.headers["Content-Type"] == "application/json"
    assert answer.headers["Date"]
    if method == "HEAD":
        assert content == b""
        return
    envelope: dict[str, Any] = json.loads(content, parse_constant=pytest.fail)
    assert set(envelope) - {"result_info"} == {"result", "success", "errors", "messages"}
    assert envelope.get("result_info") is None
    assert envelope["success"] is (answer.status == 200)
    assert bool(envelope["errors"]) is not envelope["success"]
    for error in envelope["errors"]:
        assert error["code"] >= 1000
        assert isinstance(error["message"], str)


@FUZZ
@given(
    method=st.sampled_from(["POST", "POST", "GET", "DELETE"]),
    name=st.sampled_from(["", "/docs", "/docs", "/docs", "/absent"]),
    action=st.sampled_from(ACTIONS),
    content_type=st.sampled_from(TYPES),
    query=st.sampled_from(["", "?unparsable-behavior=discard", "?count=3", "?cursor=x&count=0"]),
    body=payloads,
)
def test_arbitrary_bodies(server, method, name, action, content_type, query, body):
    if not name:
        action = ""
    if method == "DELETE" and action == "":
        method = "POST"
    call(server, method, name + action + query, body, {"Content-Type": content_type})
    # Accepted vectors can be read back.
    call(server, "POST", "/docs/get_by_ids", json.dumps({"ids": ["", "a", "$a"]}))
    call(server, "GET", "/docs/list?count=1000")


@FUZZ
@given(body=queries | queries.map(lambda query: {**query, "vector": [0.5] * 32}))
def test_arbitrary_queries(server, body):
    call(server, "POST", "/docs/query", json.dumps(body))


@FUZZ
@given(
    method=st.sampled_from(METHODS),
    path=path_texts
    | st.sampled_from(["%2e%2e/docs", "docs/%00/info", "%ff/info", "docs/info%3f", "%ed%a0%80"]),
    absolute=st.booleans(),
)
def test_arbitrary_paths(server, method, path, absolute):
    if method == "DELETE" and not absolute:
        method = "GET"
    call(server, method, "/" + path, absolute=absolute)


@FUZZ
@given(
    authorization=st.none() | header_values | header_values.map("Bearer {}".format),
    email=st.none() | header_values,
    key=st.none() | header_values,
    host=st.just("localhost") | header_values,
    content_type=header_values,
    path=st.sampled_from(["", "/docs/info", "/docs/upsert", "/docs/delete_by_ids"]),
)
def test_arbitrary_headers(server, authorization, email, key, host, content_type, path):
    headers = {
        "Authorization": authorization,
        "X-Auth-Email": email,
        "X-Auth-Key": key,
        "Host": host,
        "Content-Type": content_type,
    }
    call(server, "POST", path, b"{}", headers)


@FUZZ
@given(body=payloads, method=st.sampled_from(METHODS), path=st.sampled_from(["foreign", "stats", "x"]))
def test_arbitrary_requests_to_local_routes(server, body, method, path):
    call(server, method, f"/_local/{path}", body, absolute=True)


@settings(max_examples=100, deadline=None)
@given(body=st.binary(max_size=300) | payloads, content_type=st.sampled_from(TYPES) | st.text(max_size=40))
def test_arbitrary_forms(body, content_type):
    found = uploaded(body, content_type)
    assert found is None or found in body


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=500))
def test_the_form_parser_returns_the_sent_content(content):
    boundary = b"0123456789abcdef"
    if boundary in content:
        return
    body = (
        b"--" + boundary + b'\r\nContent-Disposition: form-data; name="vectors"; filename="v"\r\n\r\n'
        + content + b"\r\n--" + boundary + b"--\r\n"
    )  # fmt: skip
    assert uploaded(body, f'multipart/form-data; boundary="{boundary.decode()}"') == content


@settings(max_examples=100, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=32, max_size=32))
def test_float32_values_are_stored_exactly(floats):
    import struct

    line = json.dumps({**vector("a"), "values": floats}).encode()
    (parsed,) = parse_vectors(line, "upsert", 32, False, Behaviour())
    assert list(struct.unpack("<32f", parsed.values)) == floats
