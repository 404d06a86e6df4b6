# SPDX-License-Identifier: Apache-2.0
"""Insert, upsert and delete: effects, accepted forms and refusals."""

from __future__ import annotations

import json
import uuid
from typing import Any

import pytest

from conformance.scenario import DELETED, SHELF, Scenario, turned, vector
from conformance.service import Service, mutation, refusal, result
from conformance.sources import source

OPERATIONS = pytest.mark.parametrize("operation", ["insert", "upsert"])
NOT_NDJSON = "vectorize.upstream_error - failed to parse {} vectors request in ndjson format: "
#: 64 bytes of UTF-8 in 32 characters.
LONGEST = "é" * 32


# --- mutations ----------------------------------------------------------------------------------------------


@source("schema", "vectorize_mutation-uuid in the answers of all five kinds of write")
@source(
    "official code", "@cloudflare/workers-types VectorizeAsyncMutation: UUIDv4; and in all public samples"
)
def test_mutation_ids_are_random_uuids(scenario: Scenario) -> None:
    ids = list(scenario.mutations.values())
    assert len(set(ids)) == len(ids)
    for mutation_id in ids:
        parsed = uuid.UUID(mutation_id)
        assert (parsed.version, parsed.variant, str(parsed)) == (4, uuid.RFC_4122, mutation_id)


@source("docs", "client-api: vectors are inserted; best-practices/insert-vectors: asynchronously")
def test_upserted_vectors_can_be_read(vectorize: Service, docs_index: str) -> None:
    found = vectorize.found(docs_index, *SHELF, "plain")
    assert {key: shown.get("metadata") for key, shown in found.items()} == {**SHELF, "plain": None}
    assert found["shelf-a"]["namespace"] == "shelf"
    assert found["shelf-a"]["values"] == pytest.approx(turned(1), abs=1e-6)


@source("docs", "get-started/intro: insert keeps a vector that is there, and still answers a mutation id")
def test_an_insert_keeps_existing_vectors(vectorize: Service, docs_index: str) -> None:
    found = vectorize.found(docs_index, "kept", "inserted")
    assert found["kept"]["metadata"] == {"colour": "red", "version": 1}
    assert found["kept"]["values"] == pytest.approx(turned(3), abs=1e-6)
    assert found["inserted"]["values"] == pytest.approx(turned(6), abs=1e-6)


@source(
    "docs", "reference/client-api: upsert replaces the whole vector, values and metadata, without merging"
)
def test_an_upsert_replaces_the_whole_vector(vectorize: Service, docs_index: str) -> None:
    replaced = vectorize.found(docs_index, "replaced")["replaced"]
    assert replaced["metadata"] == {"colour": "blue"}
    assert replaced["values"] == pytest.approx(turned(7), abs=1e-6)
    assert not replaced.get("namespace")


@source(
    "observed", "wordbricks/briar: after the watermark met the delete's receipt, getByIds returned no vectors"
)
def test_deleted_vectors_are_gone(vectorize: Service, docs_index: str) -> None:
    assert vectorize.found(docs_index, *DELETED) == {}


# --- forms --------------------------------------------------------------------------------------------------


@OPERATIONS
@source("official code", "wrangler client.ts: a form with the file field vectors")
@source("docs", "best-practices/insert-vectors: files=dict(vectors=...)")
def test_a_form(vectorize: Service, scratch: str, operation: str) -> None:
    files = {"vectors": ("vectors.ndjson", json.dumps(vector("from-a-form")), "application/x-ndjson")}
    mutation(vectorize.send("POST", f"/{scratch}/{operation}", files=files))


@OPERATIONS
@source("official code", "cloudflare-go 6.6.0: insert and upsert send a form with one file that has no name")
def test_a_form_with_a_file_that_has_no_name(vectorize: Service, scratch: str, operation: str) -> None:
    files = {"": ("anonymous_file", json.dumps(vector("from-a-form")), "application/octet-stream")}
    mutation(vectorize.send("POST", f"/{scratch}/{operation}", files=files))


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("text/plain", json.dumps(vector("plain-text"))),
        ("application/json", json.dumps([vector("array")])),
        ("application/json", json.dumps({"ids": ["array"], "vectors": [turned(0)]})),
    ],
    ids=["text", "array", "ids and vectors"],
)
@source("observed", "n8n-nodes-cloudflare#1: the whole body, for a JSON body")
def test_a_wrong_content_type(vectorize: Service, scratch: str, content_type: str, body: str) -> None:
    response = vectorize.upsert(scratch, body, headers={"Content-Type": content_type})
    assert response.status_code == 400
    assert response.json() == {
        "result": None,
        "success": False,
        "errors": [{"code": 1005, "message": "vectorize.unknown_content_type"}],
        "messages": [],
    }


UNPARSABLE = {
    "a string of JSON": json.dumps(json.dumps(vector("quoted"))),
    "a typed array": json.dumps({"id": "typed", "values": {str(i): 0.5 for i in range(32)}}),
    "half a surrogate pair": json.dumps(vector("half", metadata={"text": "\ud835"})),
    "no JSON": "id,values",
}


@pytest.mark.parametrize("body", UNPARSABLE.values(), ids=UNPARSABLE)
@source("observed", "cloudflare/cloudflare-typescript#2646: the text, and its usual causes")
def test_lines_that_cannot_be_parsed(vectorize: Service, scratch: str, body: str) -> None:
    found = refusal(vectorize.upsert(scratch, body))
    assert (found.status, found.code) == (400, 40023)
    assert found.message == NOT_NDJSON.format("upsert") + "line Some(0) was not expected format"


@source("inference", "cloudflare/cloudflare-typescript#2646: Some(0) for the first line counts from 0")
@source("schema", "unparsable-behavior: error or discard, the behavior for ndjson parse failures")
def test_the_line_that_cannot_be_parsed_is_named(vectorize: Service, scratch: str) -> None:
    body = f"{json.dumps(vector('good'))}\nbad\n"
    found = refusal(vectorize.upsert(scratch, body, params={"unparsable-behavior": "error"}))
    assert (found.status, found.code) == (400, 40023)
    assert "Some(1)" in found.message


@OPERATIONS
@source("schema", "unparsable-behavior=discard")
def test_unparsable_lines_can_be_discarded(vectorize: Service, scratch: str, operation: str) -> None:
    body = f"bad\n{json.dumps(vector('good'))}\n"
    mutation(vectorize.upload(scratch, operation, body, params={"unparsable-behavior": "discard"}))


# --- limits -------------------------------------------------------------------------------------------------


@OPERATIONS
@source("observed", "first-hand reports over HTTP: synchronous, and for the whole request")
def test_wrong_dimensions(vectorize: Service, scratch: str, operation: str) -> None:
    wrong = {"id": "wrong", "values": [0.5] * 31}
    found = refusal(vectorize.upload(scratch, operation, [vector("innocent"), wrong]))
    assert (found.status, found.code) == (400, 40012)
    assert found.message == 'invalid vector for id="wrong", expected 32 dimensions, and got 31 dimensions'


@pytest.mark.parametrize(("vector_id", "got"), [("x" * 87, 87), (LONGEST + "x", 65)])
@source("observed", "kayac/nepp-chan#249: code 40008; Liplus-Project/github-rag-mcp#83: the text")
@source("docs", "platform/limits: maximum vector id length, 64 bytes")
def test_an_id_that_is_too_long(vectorize: Service, scratch: str, vector_id: str, got: int) -> None:
    found = refusal(vectorize.upsert(scratch, [vector(vector_id)]))
    assert (found.status, found.code) == (400, 40008)
    assert found.message == f"id too long; max is 64 bytes, got {got} bytes"


def metadata_of(size: int) -> dict[str, str]:
    """Return metadata whose compact JSON has ``size`` bytes."""
    return {"text": "é" + "x" * (size - len('{"text":"é"}'.encode()))}


@source(
    "observed", "kayac/nepp-chan#1126, AmintaCCCP/GithubStarsManager#271: code 40016, of the whole request"
)
@source("docs", "platform/limits: 10 KiB of metadata per vector")
def test_metadata_that_is_too_large(vectorize: Service, scratch: str) -> None:
    found = refusal(vectorize.upsert(scratch, [vector("big", metadata=metadata_of(10241))]))
    assert (found.status, found.code) == (400, 40016)
    assert found.message == (
        'oversized metadata for vector id="big"; the compact JSON representation of the metadata must not '
        "exceed 10240 bytes, got 10241 bytes"
    )


@source("docs", "platform/limits: maximum namespace name length, 64 bytes")
def test_a_namespace_that_is_too_long(vectorize: Service, scratch: str) -> None:
    refusal(vectorize.upsert(scratch, [vector("spaced", namespace="n" * 65)]))


@source("docs", "platform/limits: 64 bytes of id and namespace, 10 KiB of metadata")
def test_vectors_at_the_limits(vectorize: Service, scratch: str) -> None:
    largest: dict[str, Any] = {"namespace": LONGEST, "metadata": metadata_of(10240)}
    mutation(vectorize.upsert(scratch, [vector(LONGEST, **largest)]))


@source("docs", "platform/limits: 5,000 vectors in one upsert over HTTP")
def test_the_largest_upsert(vectorize: Service, scratch: str) -> None:
    lines = [f'{{"id":"v{number}","values":[{",".join("1" * 32)}]}}' for number in range(5000)]
    mutation(vectorize.upsert(scratch, "\n".join(lines)))


@source(
    "observed", "a refused write answers no mutation id: n8n-nodes-cloudflare#1, cloudflare-typescript#2646"
)
def test_a_refused_write_is_not_a_mutation(vectorize: Service, scratch: str) -> None:
    response = vectorize.upsert(scratch, [vector("good"), {"id": "bad", "values": []}])
    assert refusal(response).code == 40012
    assert "mutationId" not in response.text


@source("schema", "vectorize_index-delete-vectors-by-id-v2-response: mutationId")
def test_a_delete_is_a_mutation(vectorize: Service, scratch: str) -> None:
    assert set(result(vectorize.delete(scratch, ["v0"]))) == {"mutationId"}
