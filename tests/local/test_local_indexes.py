# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from datetime import UTC, datetime

import pytest

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.local import Behaviour
from airflow_provider_cfvectorize.local.engine.model import PRESETS
from local.local_client import Client, envelope, mutation, refusal, result, vector

NOT_FOUND = (404, 3000, 'vectorize.index.not_found - Index name "absent"')


def stamp(clock) -> str:
    text = datetime.fromtimestamp(clock.now, UTC).isoformat(timespec="microseconds")
    return text.removesuffix("+00:00") + "Z"


def test_create_answers_with_the_index(client: Client, clock):
    response = client.create("fresh", description="for tests")

    assert result(response) == {
        "created_on": stamp(clock),
        "modified_on": stamp(clock),
        "name": "fresh",
        "description": "for tests",
        "config": {"dimensions": 32, "metric": "cosine"},
    }
    assert result(client.send("GET", "/fresh")) == result(response)


def test_list_indexes_in_the_order_of_creation(client: Client):
    client.create("b-index")
    client.create("a-index")

    assert [index["name"] for index in result(client.send("GET"))] == ["docs", "b-index", "a-index"]


def test_create_with_a_preset(client: Client):
    created = result(client.create("preset", config={"preset": "@cf/baai/bge-base-en-v1.5"}))

    assert created["config"] == {
        "dimensions": 768,
        "metric": "cosine",
        "preset": "@cf/baai/bge-base-en-v1.5",
    }
    assert client.info("preset")["dimensions"] == 768


def test_modified_on_does_not_change_on_writes(client: Client, clock):
    before = result(client.send("GET", "/docs"))
    mutation(client.upsert([vector("a")]))
    clock.advance(100)

    assert result(client.send("GET", "/docs")) == before


def test_duplicate_name(client: Client):
    assert refusal(client.create()) == (
        400,
        3002,
        'vectorize.index.duplicate_name - Index name "docs"',
    )


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (None, "Config must be provided"),
        ({"dimensions": 31, "metric": "cosine"}, "Dimensions must be in range: [32, 1536]"),
        ({"dimensions": 1537, "metric": "cosine"}, "Dimensions must be in range: [32, 1536]"),
        ({"dimensions": 32.5, "metric": "cosine"}, "Dimensions must be in range: [32, 1536]"),
        ({"dimensions": True, "metric": "cosine"}, "Dimensions must be in range: [32, 1536]"),
        ({"metric": "cosine"}, "Dimensions must be in range: [32, 1536]"),
        ({"dimensions": 32, "metric": "manhattan"}, "Metric must be one of: cosine, euclidean, dot-product"),
        ({"dimensions": 32}, "Metric must be one of: cosine, euclidean, dot-product"),
    ],
)
def test_invalid_config(client: Client, config, message):
    status, code, text = refusal(client.create("fresh", config=config))

    assert (status, code) == (400, 3003)
    assert text == f"vectorize.index.invalid_config - {message}"


def test_presets_have_the_dimensions_of_the_clients_table():
    assert {name: dimensions for name, (dimensions, _) in PRESETS.items()} == limits.PRESET_DIMENSIONS


def test_a_preset_with_dimensions_and_a_metric_is_refused(client: Client):
    # The published schema has oneOf.
    config = {"preset": "@cf/baai/bge-base-en-v1.5", "dimensions": 768, "metric": "cosine"}
    status, code, text = refusal(client.create("fresh", config=config))

    assert (status, code) == (400, 3003)
    assert text == (
        "vectorize.index.invalid_config - Config must have dimensions and metric, or a preset, not both"
    )


def test_unknown_preset(client: Client):
    assert "Preset must be one of: @cf/" in refusal(client.create("fresh", config={"preset": "none"}))[2]


@pytest.mark.parametrize("dimensions", [32, 1536])
def test_dimensions_at_the_limits(client: Client, dimensions):
    result(client.create("fresh", config={"dimensions": dimensions, "metric": "euclidean"}))


@pytest.mark.parametrize(
    "name", ["", "a", "Upper", "1abc", "abc-", "abc_", "a b", "ä-index", "a" * 65, None, 7, "a" * 64 + "-"]
)
def test_invalid_names(client: Client, name):
    status, _, text = refusal(client.create(name))

    assert status == 400
    assert text.startswith("vectorize.index.invalid_name")


@pytest.mark.parametrize("name", ["ab", "a1", "a--b", "a_b", "a" * 64])
def test_valid_names(client: Client, name):
    result(client.create(name))


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "", None),
        ("DELETE", "", None),
        ("GET", "/info", None),
        ("GET", "/list", None),
        ("POST", "/get_by_ids", {"ids": ["a"]}),
        ("POST", "/delete_by_ids", {"ids": ["a"]}),
        ("POST", "/query", {"vector": [0.5] * 32}),
        ("POST", "/metadata_index/create", {"propertyName": "k", "indexType": "string"}),
        ("GET", "/metadata_index/list", None),
        ("POST", "/metadata_index/delete", {"propertyName": "k"}),
    ],
)
def test_answers_for_missing_and_deleted_indexes(client: Client, method, path, body):
    assert refusal(client.send(method, f"/absent{path}", json=body)) == NOT_FOUND

    assert result(client.send("DELETE", "/docs")) is None
    assert refusal(client.send(method, f"/docs{path}", json=body)) == (
        410,
        3005,
        'vectorize.index.deleted - Index name "docs"',
    )


def test_uploads_to_missing_indexes_are_refused(client: Client):
    assert refusal(client.upsert([vector("a")], "absent")) == NOT_FOUND
    client.send("DELETE", "/docs")
    assert refusal(client.upload("insert", [vector("a")]))[:2] == (410, 3005)


def test_a_reused_name_starts_empty(client: Client, clock):
    mutation(client.upsert([vector("old")]))
    clock.advance(2)
    assert client.ids("old") == ["old"]

    client.send("DELETE", "/docs")
    result(client.create("docs", config={"dimensions": 64, "metric": "euclidean"}))

    assert client.info() == {"dimensions": 64, "vectorCount": 0}
    clock.advance(10)
    assert client.ids("old") == []


def test_uncertain_statuses_are_switches(start, connect):
    client = connect(start(behaviour=Behaviour(not_found_status=400, deleted_status=404)))
    client.create()
    client.send("DELETE", "/docs")

    assert refusal(client.send("GET", "/absent"))[:2] == (400, 3000)
    assert refusal(client.send("GET", "/docs"))[:2] == (404, 3005)


@pytest.mark.parametrize(
    ("body", "headers", "message"),
    [
        (b"{", {"Content-Type": "application/json"}, "Failed to parse the request body as JSON: "),
        (b"[]", {"Content-Type": "application/json"}, "Failed to parse the request body as JSON: "),
        (b"\xff", {"Content-Type": "application/json"}, "Failed to parse the request body as JSON: "),
        (
            b'{"name": NaN}',
            {"Content-Type": "application/json"},
            "Failed to parse the request body as JSON: ",
        ),
        (b"[" * 100_000, {"Content-Type": "application/json"}, "Failed to parse the request body as JSON: "),
        (b"{}", {"Content-Type": "text/plain"}, "Expected request with `Content-Type: application/json`"),
        (b"{}", {}, "Expected request with `Content-Type: application/json`"),
    ],
)
def test_bodies_that_are_not_json_are_refused(client: Client, body, headers, message):
    paths = ("", "/docs/delete_by_ids", "/docs/get_by_ids", "/docs/query")
    for path in (*paths, "/docs/metadata_index/create", "/docs/metadata_index/delete"):
        status, code, text = refusal(client.send("POST", path, data=body, headers=headers))
        assert (status, code) == (400, 40026)
        assert text.startswith(message)


def test_unknown_paths_and_methods_are_refused(client: Client):
    for path in ("/docs/unknown", "/docs/info/more", "/docs/", "//info", "/docs/query/"):
        assert refusal(client.send("GET", path))[:2] == (404, 7003)
    response = client.send("PUT", "/docs")
    assert refusal(response) == (405, 7001, "Method PUT not available for that URI.")
    assert response.headers["Allow"] == "GET, DELETE"
    assert refusal(client.send("GET", "/docs/upsert"))[:2] == (405, 7001)
    assert refusal(client.session.get(client.base_url + "/zones"))[:2] == (404, 7003)
    assert refusal(client.session.get(client.root))[:2] == (404, 7003)


def test_head_has_no_body(client: Client):
    response = client.send("HEAD", "/docs")

    assert (response.status_code, response.content) == (405, b"")
    # The connection can still be used.
    assert envelope(client.send("GET", "/docs"))["success"]
