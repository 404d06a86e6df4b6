# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import struct

import pytest

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.local import Behaviour
from local.local_client import DIMENSIONS, Client, mutation, refusal, result, vector

NOT_NDJSON = (
    "vectorize.upstream_error - failed to parse {} vectors request in ndjson format: "
    "line {} was not expected format"
)


def line(**fields) -> str:
    return json.dumps({"id": "a", "values": [0.5] * DIMENSIONS, **fields})


# --- stored vectors -----------------------------------------------------------------------------------------


def test_vectors_are_returned_as_float32_with_all_fields(client: Client, clock):
    values = [0.1, -2, 3.4e38, 1e-45, *[0.0] * (DIMENSIONS - 4)]
    metadata = {"text": "größer ☃", "n": 1.5, "flag": True, "none": None, "tags": ["a"], "deep": {"x": 1}}
    mutation(
        client.upsert(
            [
                {"id": "full", "values": values, "namespace": "ns", "metadata": metadata, "unknown": 1},
                {"id": "bare", "values": values, "namespace": None, "metadata": None},
            ]
        )
    )
    clock.advance(2)

    full, bare = result(client.get(["full", "bare"]))

    assert full == {
        "id": "full",
        "values": list(struct.unpack(f"{DIMENSIONS}f", struct.pack(f"{DIMENSIONS}f", *values))),
        "namespace": "ns",
        "metadata": metadata,
    }
    assert list(bare) == ["id", "values"]


def test_an_insert_keeps_vectors_and_an_upsert_replaces_them(client: Client, clock):
    mutation(client.upsert([vector("a", 1, metadata={"v": 1}, namespace="x")]))
    duplicate = mutation(client.upload("insert", [vector("a", 2, metadata={"v": 2}), vector("b")]))
    clock.advance(2)

    assert client.info()["processedUpToMutation"] == duplicate
    assert client.info()["vectorCount"] == 2
    assert result(client.get(["a"]))[0]["metadata"] == {"v": 1}

    mutation(client.upsert([vector("a", 3)]))
    clock.advance(2)

    assert result(client.get(["a"])) == [vector("a", 3)]


def test_a_duplicate_id_in_an_upload(client: Client, clock):
    mutation(client.upsert([vector("u", 1), vector("u", 2)]))
    mutation(client.upload("insert", [vector("i", 1), vector("i", 2)]))
    clock.advance(2)

    assert [v["values"][0] for v in result(client.get(["u", "i"]))] == [2, 1]


def test_a_form_with_the_field_vectors(client: Client, clock):
    files = {
        "other": ("x", b"noise"),
        "vectors": ("vectors.ndjson", line(id="form") + "\n", "application/x-ndjson"),
    }
    mutation(client.send("POST", "/docs/upsert", files=files))
    clock.advance(2)

    assert client.ids("form") == ["form"]


@pytest.mark.parametrize("name", ["", "body", "file"])
def test_a_form_with_one_file_of_any_name(client: Client, clock, name):
    files = {name: ("anonymous_file", line(id="form"), "application/x-ndjson"), "note": (None, "noise")}
    mutation(client.send("POST", "/docs/upsert", files=files))
    clock.advance(2)

    assert client.ids("form") == ["form"]


def test_a_form_with_two_files_of_other_names_is_refused(client: Client):
    response = client.send("POST", "/docs/upsert", files={"a": ("x", line()), "b": ("x", line())})
    assert refusal(response) == (400, 40023, NOT_NDJSON.format("upsert", "None"))


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "multipart/form-data; boundary=x"),
        (b"--x\r\n\r\n\r\n--x--", "multipart/form-data; boundary=x"),
        (
            b"--x\r\nContent-Disposition: form-data; name=file\r\n\r\n{}\r\n--x--",
            "multipart/form-data; boundary=x",
        ),
        (b"no form at all", "multipart/form-data"),
        (b"no form at all", 'multipart/form-data; boundary="'),
        (b"no form at all", "multipart/form-data; boundary=\xe4"),
    ],
)
def test_damaged_forms_are_refused(client: Client, body, content_type):
    response = client.send("POST", "/docs/upsert", data=body, headers={"Content-Type": content_type})

    assert refusal(response) == (400, 40023, NOT_NDJSON.format("upsert", "None"))


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", "application/ndjson", None])
@pytest.mark.parametrize("operation", ["insert", "upsert"])
def test_other_content_types_are_refused(client: Client, content_type, operation):
    headers = {"Content-Type": content_type} if content_type else {}
    response = client.upload(operation, line().encode(), headers=headers)

    assert refusal(response) == (400, 1005, "vectorize.unknown_content_type")


def test_a_content_type_may_have_a_parameter(client: Client):
    mutation(client.upsert(line(), headers={"Content-Type": "Application/X-NDJSON; charset=utf-8"}))


# --- invalid vectors ----------------------------------------------------------------------------------------

UNPARSABLE = [
    b"{",
    b"null",
    b"[]",
    b'"text"',
    b"\xff",
    b'{"id": 1, "values": []}',
    b'{"values": []}',
    b'{"id": "a"}',
    b'{"id": "a", "values": {"0": 0.1}}',
    b'{"id": "a", "values": ["1"]}',
    b'{"id": "a", "values": [true]}',
    b'{"id": "a", "values": [null]}',
    b'{"id": "a", "values": [NaN]}',
    b'{"id": "a", "values": [1e400]}',
    b'{"id": "a", "values": [1e39]}',
    b'{"id": "a", "values": [1' + b"0" * 400 + b"]}",
    b'{"id": "\\ud800", "values": []}',
    line(namespace=7).encode(),
    line(metadata=[1]).encode(),
    line(metadata={"a": "\ud800"}).encode(),
    line(metadata={"a": 1}).replace("1}", "1e999}").encode(),
    line(metadata={"a": 1}).replace("1}", "[" * 200 + "]" * 200 + "}").encode(),
    line(metadata={"a": 1}).replace("1}", "[" * 50_000 + "]" * 50_000 + "}").encode(),
]


@pytest.mark.parametrize("bad", UNPARSABLE)
def test_an_invalid_line_is_refused(client: Client, clock, bad):
    body = b"\n".join([line(id="before").encode(), bad, line(id="after").encode()])

    refused = refusal(client.upsert(body))
    assert refused == (400, 40023, NOT_NDJSON.format("upsert", "Some(1)"))
    assert refusal(client.upsert(body, params={"unparsable-behavior": "error"})) == refused
    assert refusal(client.upload("insert", body))[2] == NOT_NDJSON.format("insert", "Some(1)")

    mutation(client.upsert(body, params={"unparsable-behavior": "discard"}))
    clock.advance(2)
    assert client.info()["vectorCount"] == 2


def test_a_body_encoded_as_a_json_string_is_refused(client: Client):
    assert refusal(client.upsert(json.dumps(line() + "\n"))) == (
        400,
        40023,
        NOT_NDJSON.format("upsert", "Some(0)"),
    )


def test_line_ends_and_empty_lines(client: Client, clock):
    mutation(client.upsert(f"\n{line(id='x')}\r\n\r\n  \n{line(id='y')}"))
    clock.advance(2)

    assert client.ids("x", "y") == ["x", "y"]


@pytest.mark.parametrize("body", ["", "\n\n"])
def test_an_upload_without_vectors_is_refused(client: Client, start, connect, body):
    assert refusal(client.upsert(body)) == (400, 40023, NOT_NDJSON.format("upsert", "None"))
    assert refusal(client.upsert("{", params={"unparsable-behavior": "discard"}))[1] == 40023

    other = connect(start(behaviour=Behaviour(empty_upload="accept")))
    other.create()
    mutation(other.upsert(body))


def test_unparsable_behavior_has_two_values(client: Client, start, connect):
    assert refusal(client.upsert(line(), params={"unparsable-behavior": "ignore"}))[:2] == (400, 40000)

    other = connect(start(behaviour=Behaviour(unknown_parameter_value="accept")))
    other.create()
    mutation(other.upsert(line(), params={"unparsable-behavior": "ignore"}))


def test_unknown_fields_are_ignored_or_refused(client: Client, start, connect):
    mutation(client.upsert(line(metdata={})))

    strict = connect(start(behaviour=Behaviour(unknown_vector_field="refuse")))
    strict.create()
    mutation(strict.upsert(line(metadata={}, namespace="x")))
    expected = (400, 40023, NOT_NDJSON.format("upsert", "Some(1)"))
    assert refusal(strict.upsert(f"{line()}\n{line(metdata={})}")) == expected
    assert refusal(strict.upsert(line(metdata={}), params={"unparsable-behavior": "discard"}))[1] == 40023


# --- limits -------------------------------------------------------------------------------------------------


def test_an_invalid_vector_refuses_the_whole_request(client: Client, clock):
    response = client.upsert([vector("good"), {"id": 'b"ad', "values": [0.5] * 31}])

    assert refusal(response) == (
        400,
        40012,
        'invalid vector for id="b"ad", expected 32 dimensions, and got 31 dimensions',
    )
    clock.advance(10)
    assert client.info() == {"dimensions": 32, "vectorCount": 0}


def test_discard_does_not_skip_parsable_vectors(client: Client):
    response = client.upsert(line(values=[1.0]), params={"unparsable-behavior": "discard"})

    assert refusal(response)[1] == 40012


@pytest.mark.parametrize("good", ["a" * 64, "ü" * 32, " ", "\u0000"])
def test_ids_of_64_bytes(client: Client, clock, good):
    mutation(client.upsert([vector(good)]))
    clock.advance(2)
    assert client.ids(good) == [good]


@pytest.mark.parametrize(("bad", "got"), [("a" * 65, 65), ("ü" * 33, 66), ("a" * 87, 87)])
def test_ids_that_are_too_long_are_refused(client: Client, bad, got):
    expected = (400, 40008, f"id too long; max is 64 bytes, got {got} bytes")

    assert refusal(client.upsert([vector(bad)])) == expected
    assert refusal(client.delete([bad])) == expected
    assert refusal(client.get(["a", bad])) == expected


def test_an_empty_id_is_refused(client: Client, start, connect):
    for response in (client.upsert([vector("")]), client.delete([""]), client.get([""])):
        assert refusal(response) == (400, 40000, "id must not be empty")

    other = connect(start(behaviour=Behaviour(empty_id="accept")))
    other.create()
    mutation(other.delete([""]))


def test_namespaces_of_64_bytes(client: Client):
    mutation(client.upsert([vector("a", namespace="n" * 64)]))
    assert refusal(client.upsert([vector("a", namespace="n" * 65)])) == (
        400,
        40000,
        "namespace too long; max is 64 bytes, got 65 bytes",
    )


def test_metadata_of_10_kib(client: Client):
    frame = len('{"k":""}')
    mutation(client.upsert([vector("a", metadata={"k": "x" * (10240 - frame)})]))
    mutation(client.upsert([vector("a", metadata={"k": "é" * ((10240 - frame) // 2)})]))
    response = client.upsert([vector("a", metadata={"k": "x" * (10241 - frame)})])
    assert refusal(response) == (
        400,
        40016,
        'oversized metadata for vector id="a"; the compact JSON representation of the metadata '
        "must not exceed 10240 bytes, got 10241 bytes",
    )


@pytest.mark.parametrize("key", ["", "a.b", 'a"b', "$a"])
def test_metadata_keys(client: Client, key):
    for metadata in ({key: 1}, {"outer": {key: 1}}, {"outer": [{key: 1}]}):
        assert refusal(client.upsert([vector("a", metadata=metadata)]))[:2] == (400, 40000)


def test_vectors_in_one_request(client: Client, clock):
    mutation(client.upsert([vector(f"v{i}") for i in range(limits.MAX_UPSERT_VECTORS)]))
    response = client.upsert([vector("v")] * (limits.MAX_UPSERT_VECTORS + 1))

    assert refusal(response) == (
        400,
        40000,
        "too many vectors in payload; max vector count is 5000, got 5001",
    )
    clock.advance(2)
    assert client.info()["vectorCount"] == 5000


def test_bodies_too_large(client: Client, monkeypatch):
    monkeypatch.setattr(limits, "MAX_UPLOAD_BYTES", 1000)
    monkeypatch.setattr("airflow_provider_cfvectorize.local.http.bodies.MAX_BODY_BYTES", 2000)
    expected = (413, 40000, "request body too large; max is 1000 bytes")

    assert refusal(client.upsert(line() + " " * 1000)) == expected
    assert refusal(client.upsert(line() + " " * 5000)) == expected
    chunks = (b" " * 500 for _ in range(10))
    chunked = client.send(
        "POST", "/docs/upsert", data=chunks, headers={"Content-Type": "application/x-ndjson"}
    )
    assert refusal(chunked) == expected
    large = client.delete(["x" * 5000])
    assert refusal(large) == expected
    mutation(client.upsert(line()))


# --- ids ----------------------------------------------------------------------------------------------------


def test_ids_in_one_request(client: Client):
    mutation(client.delete([f"v{i}" for i in range(100)]))
    assert refusal(client.delete([f"v{i}" for i in range(101)])) == (
        400,
        40007,
        "too many ids in payload; max id count is 100, got 101",
    )
    assert result(client.get([f"v{i}" for i in range(20)])) == []
    assert refusal(client.get([f"v{i}" for i in range(21)])) == (
        400,
        40007,
        "too many ids in payload; max id count is 20, got 21",
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"ids": "a"}, "ids: expected a sequence"),
        ({"ids": None}, "ids: expected a sequence"),
        ({"ids": {"a": 1}}, "ids: expected a sequence"),
        ({"ids": ["a", 1]}, "ids[1]: expected a string"),
        ({"ids": [None]}, "ids[0]: expected a string"),
        ({"ids": ["\ud800"]}, "ids[0]: lone surrogate"),
    ],
)
@pytest.mark.parametrize("operation", ["delete_by_ids", "get_by_ids"])
def test_invalid_ids_are_refused(client: Client, operation, body, message):
    assert refusal(client.send("POST", f"/docs/{operation}", json=body)) == (
        400,
        40026,
        f"Failed to parse the request body as JSON: {message}",
    )


def test_empty_and_missing_ids(client: Client, start, connect):
    for operation in ("delete_by_ids", "get_by_ids"):
        for body, message in (({"ids": []}, "no ids in payload"), ({}, "missing field `ids`")):
            response = client.send("POST", f"/docs/{operation}", json=body)
            assert refusal(response) == (400, 40000, message)

    lenient = connect(start(behaviour=Behaviour(empty_ids="accept", missing_ids="accept")))
    lenient.create()
    for body in ({"ids": []}, {}):
        mutation(lenient.send("POST", "/docs/delete_by_ids", json=body))
        assert result(lenient.send("POST", "/docs/get_by_ids", json=body)) == []


def test_get_omits_unknown_ids(client: Client, clock, start, connect):
    mutation(client.upsert([vector("a"), vector("b")]))
    clock.advance(2)

    assert client.ids("b", "unknown", "a", "b") == ["b", "a"]

    each = connect(start(clock=clock, behaviour=Behaviour(duplicate_ids_in_get="each"), apply_delay=0))
    each.create()
    mutation(each.upsert([vector("a")]))
    assert each.ids("a", "a") == ["a", "a"]


def test_deletes_of_unknown_ids_advance_the_watermark(client: Client, clock):
    mutation(client.upsert([vector("a"), vector("b")]))
    last = mutation(client.delete(["never", "a", "a"]))
    clock.advance(2)

    assert client.info()["processedUpToMutation"] == last
    assert client.ids("a", "b") == ["b"]
