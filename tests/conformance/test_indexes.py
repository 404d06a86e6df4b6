# SPDX-License-Identifier: Apache-2.0
"""Creating, describing, listing and deleting indexes, and ``info``."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import pytest
import requests

from conformance.routes import OF_AN_INDEX, Route, name_of
from conformance.scenario import Lab, Scenario, remaining, vector
from conformance.service import DIMENSIONS, Service, mutation, refusal, result
from conformance.sources import source

MICROSECONDS = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z"
MILLISECONDS = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z"
COSINE = {"dimensions": DIMENSIONS, "metric": "cosine"}


# --- descriptions -------------------------------------------------------------------------------------------


@source("schema", "vectorize_create-index-response: name, description, config, created_on, modified_on")
@source("observed", "langchain-cloudflare docs/vectorstores.ipynb: created_on 2025-05-13T05:38:04.487284Z")
def test_a_new_index(scenario: Scenario) -> None:
    created = result(scenario.created)
    assert created["name"] == scenario.name
    assert created["description"] == "made by the conformance suite"
    assert (created["config"]["dimensions"], created["config"]["metric"]) == (DIMENSIONS, "cosine")
    assert re.fullmatch(MICROSECONDS, created["created_on"])
    assert re.fullmatch(MICROSECONDS, created["modified_on"])
    assert datetime.fromisoformat(created["created_on"]).utcoffset() is not None


@source("official code", 'langchain-cloudflare docs/vectorstores.ipynb: "description": "" when omitted')
def test_a_missing_description(vectorize: Service, scratch: str) -> None:
    assert result(vectorize.send("GET", f"/{scratch}"))["description"] == ""


@source("schema", "vectorize-get-vectorize-index: the same object as creating it")
@source("observed", "repositories' notes of 2026-10-04: modified_on does not change on data writes")
def test_an_index_described_after_writes(vectorize: Service, scenario: Scenario) -> None:
    described = result(vectorize.send("GET", f"/{scenario.name}"))
    created = result(scenario.created)
    # The service may later show the two times with fewer digits than at first.
    for field in ("created_on", "modified_on"):
        assert described[field][:19] == created[field][:19]
    assert {**described, "created_on": 0, "modified_on": 0} == {**created, "created_on": 0, "modified_on": 0}


@source("schema", "vectorize-list-vectorize-indexes: an array of indexes")
def test_listing_indexes(vectorize: Service, scenario: Scenario, gone: str) -> None:
    listed = {index["name"]: index for index in result(vectorize.send("GET"))}
    assert listed[scenario.name]["config"] == result(scenario.created)["config"]
    assert gone not in listed


@source("schema", "vectorize_index-preset-configuration: config is a preset instead of dimensions and metric")
@source("docs", "get-started/embeddings: @cf/baai/bge-small-en-v1.5 has 384 dimensions")
def test_an_index_from_a_preset(lab: Lab) -> None:
    name = lab.name("preset")
    created = result(lab.create({"name": name, "config": {"preset": "@cf/baai/bge-small-en-v1.5"}}))
    try:
        assert created["config"]["dimensions"] == 384
        assert created["config"]["metric"] == "cosine"
    finally:
        lab.remove(name)


# --- refusals -----------------------------------------------------------------------------------------------


@source("observed", "mastra-ai/mastra#3444: the whole body; alchemy-run/distilled#308: 400, not 409")
def test_a_name_that_is_taken(lab: Lab, docs_index: str) -> None:
    found = refusal(lab.create({"name": docs_index, "config": COSINE}))
    assert (found.status, found.code) == (400, 3002)
    assert found.message == f'vectorize.index.duplicate_name - Index name "{docs_index}"'


@pytest.mark.parametrize("dimensions", [31, 1537])
@source(
    "observed", "first-hand reports of wrangler vectorize create --dimensions=3072: the text, with the range"
)
@source("observed", "repository note of 2026-08-19 on the index plainsong-feel: fewer than 32 are refused")
def test_dimensions_out_of_range(lab: Lab, dimensions: int) -> None:
    name = lab.name(f"d{dimensions}")
    found = refusal(lab.create({"name": name, "config": {"dimensions": dimensions, "metric": "cosine"}}))
    assert found.message == "vectorize.index.invalid_config - Dimensions must be in range: [32, 1536]"


@source("observed", "a public script's comment: a body without config, with this text")
def test_a_missing_config(lab: Lab) -> None:
    body = {"name": lab.name("flat"), **COSINE}
    assert refusal(lab.create(body)).message == "vectorize.index.invalid_config - Config must be provided"


@source("schema", "vectorize_index-metric: cosine, euclidean, dot-product")
def test_an_unknown_metric(lab: Lab) -> None:
    refusal(lab.create({"name": lab.name("metric"), "config": {**COSINE, "metric": "manhattan"}}))


@pytest.mark.parametrize("form", ["{}-", "-{}", "1{}", "{}.dot", "{} space", "X{}"])
@source("schema", "vectorize_index-name: ^([a-z]+[a-z0-9_-]*[a-z0-9]+)$")
def test_invalid_names(lab: Lab, form: str) -> None:
    refusal(lab.create({"name": form.format(lab.name("odd")), "config": COSINE}))


@source("docs", "platform/limits: maximum index name length, 64 bytes")
def test_a_name_that_is_too_long(lab: Lab) -> None:
    refusal(lab.create({"name": lab.name("long").ljust(65, "x"), "config": COSINE}))


@pytest.mark.parametrize("route", OF_AN_INDEX, ids=name_of)
@source("observed", "alchemy-run/distilled#308, a live probe: code 3000")
@source("official code", "langchain-cloudflare looks for 404; a public test double has 400")
def test_a_missing_index(vectorize: Service, never: str, route: Route) -> None:
    found = refusal(route.send(vectorize, never))
    assert found.code == 3000
    assert found.status in (400, 404)
    assert found.message == f'vectorize.index.not_found - Index name "{never}"'


READ_BACK = [route for route in OF_AN_INDEX if route.name in ("get index", "get_by_ids", "info")]


@pytest.mark.parametrize("route", READ_BACK, ids=name_of)
@source("observed", "wordbricks/briar: the read-back of a deleted index answers vectorize.index.deleted")
@source("official code", 'langchain-cloudflare: "404 Not Found or 410 Gone"')
def test_a_deleted_index(vectorize: Service, gone: str, route: Route) -> None:
    found = refusal(route.send(vectorize, gone))
    assert found.code == 3005
    assert found.status in (404, 410)
    assert found.message == f'vectorize.index.deleted - Index name "{gone}"'


# --- delete -------------------------------------------------------------------------------------------------


@source("schema", "vectorize-delete-vectorize-index: the result is an object, a string or null")
@source("docs", "platform/changelog of 2024-12-20: a deleted index's name can be used again")
def test_a_reused_name(vectorize: Service, lab: Lab) -> None:
    name = lab.index("again", description="the first")
    mutation(vectorize.upsert(name, [vector("of-the-first")]))
    deleted = result(lab.remove(name))
    assert deleted is None or isinstance(deleted, dict | str)

    def create() -> requests.Response:
        response = lab.create({"name": name, "description": "the second", "config": COSINE})
        assert response.ok, response.text
        return response

    assert result(vectorize.eventually(create))["description"] == "the second"
    assert vectorize.info(name)["vectorCount"] == 0
    assert vectorize.found(name, "of-the-first") == {}
    lab.remove(name)


# --- info ---------------------------------------------------------------------------------------------------


@source("official code", 'langchain-cloudflare, real output: {"dimensions":1024,"vectorCount":0}')
def test_info_before_the_first_mutation(scenario: Scenario) -> None:
    assert scenario.empty == {"dimensions": DIMENSIONS, "vectorCount": 0}


@source("schema", "vectorize_index-info-response")
@source(
    "official code", "@cloudflare/workers-types VectorizeIndexInfo: the last mutation processed by the index"
)
@source("observed", "all public samples: processedUpToDatetime has milliseconds and Z")
def test_info_after_mutations(scenario: Scenario) -> None:
    info = scenario.settled
    assert set(info) == {"dimensions", "vectorCount", "processedUpToDatetime", "processedUpToMutation"}
    assert info["dimensions"] == DIMENSIONS
    assert info["processedUpToMutation"] == list(scenario.mutations.values())[-1]
    assert re.fullmatch(MILLISECONDS, info["processedUpToDatetime"])


@source("schema", "vectorize_index-info-response: vectorCount, the number of vectors present in the index")
@source("observed", "reports of counts minutes behind the watermark, hence the patience")
def test_the_number_of_vectors(vectorize: Service, docs_index: str) -> None:
    def count() -> None:
        info: dict[str, Any] = vectorize.info(docs_index)
        assert info["vectorCount"] == len(remaining())

    vectorize.eventually(count)


@source("observed", "processedUpToMutation stays as it is while nobody writes: the samples on record")
def test_the_watermark_of_an_idle_index(vectorize: Service, scenario: Scenario) -> None:
    assert vectorize.info(scenario.name)["processedUpToMutation"] == scenario.settled["processedUpToMutation"]
