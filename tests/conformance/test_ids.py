# SPDX-License-Identifier: Apache-2.0
"""``delete_by_ids`` and ``get_by_ids``: their limits, and the result of a read."""

from __future__ import annotations

import json

import pytest

from conformance.scenario import SHELF
from conformance.service import NDJSON, Service, mutation, refusal, result
from conformance.sources import source


@source("observed", "wevm/vocs#577, RolinShmily/SrP-CFG_ForCS2#11: 100 ids are accepted")
def test_a_delete_of_100_ids(vectorize: Service, scratch: str) -> None:
    mutation(vectorize.delete(scratch, [f"x{number}" for number in range(100)]))


@pytest.mark.parametrize("count", [101, 173])
@source(
    "observed", "JSONbored/metagraphed#11137: the text, for 173 ids; wevm/vocs#577: 101 are refused whole"
)
def test_a_delete_of_too_many_ids(vectorize: Service, scratch: str, count: int) -> None:
    found = refusal(vectorize.delete(scratch, [f"x{number}" for number in range(count)]))
    assert (found.status, found.code) == (400, 40007)
    assert found.message == f"too many ids in payload; max id count is 100, got {count}"


@source("observed", "reports of 20 as the most ids of one get_by_ids")
@source("observed", "get_by_ids omits ids that are not there")
def test_a_read_of_20_ids(vectorize: Service, docs_index: str) -> None:
    asked = [*SHELF, "deleted-1", *(f"never-{number}" for number in range(14))]
    assert len(asked) == 20
    assert {shown["id"] for shown in result(vectorize.get(docs_index, asked))} == set(SHELF)


@pytest.mark.parametrize("count", [21, 92])
@source("observed", "reports over HTTP and by the binding: max id count is 20, got 92")
def test_a_read_of_too_many_ids(vectorize: Service, docs_index: str, count: int) -> None:
    found = refusal(vectorize.get(docs_index, [f"x{number}" for number in range(count)]))
    assert (found.status, found.code) == (400, 40007)
    assert found.message == f"too many ids in payload; max id count is 20, got {count}"


@source("observed", "get_by_ids omits ids that are not there")
def test_a_read_of_missing_ids(vectorize: Service, docs_index: str) -> None:
    assert result(vectorize.get(docs_index, ["never-1", "deleted-1"])) == []


@source("schema", "vectorize_index-get-vectors-by-id-response: id, values, metadata, namespace")
def test_the_fields_of_a_read(vectorize: Service, docs_index: str) -> None:
    (shown,) = result(vectorize.get(docs_index, ["shelf-a"]))
    assert set(shown) == {"id", "values", "metadata", "namespace"}
    assert len(shown["values"]) == 32


@pytest.mark.parametrize("route", ["delete_by_ids", "get_by_ids", "query"])
@source("observed", "cloudflare/workers-sdk#6516, over HTTP: code 40026 with this text")
def test_a_body_without_the_json_content_type(vectorize: Service, docs_index: str, route: str) -> None:
    body, headers = json.dumps({"ids": ["never"]}), {"Content-Type": NDJSON}
    found = refusal(vectorize.send("POST", f"/{docs_index}/{route}", data=body, headers=headers))
    assert (found.status, found.code) == (400, 40026)
    assert found.message == "Expected request with `Content-Type: application/json`"


@pytest.mark.parametrize("route", ["delete_by_ids", "get_by_ids", "query"])
@source("observed", "cloudflare/workers-sdk#6516: code 40026, Failed to parse the request body as JSON")
def test_a_body_that_is_not_json(vectorize: Service, docs_index: str, route: str) -> None:
    headers = {"Content-Type": "application/json"}
    found = refusal(vectorize.send("POST", f"/{docs_index}/{route}", data="{'ids': []", headers=headers))
    assert (found.status, found.code) == (400, 40026)
    assert found.message.startswith("Failed to parse the request body as JSON")
