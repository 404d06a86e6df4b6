# SPDX-License-Identifier: Apache-2.0
"""Metadata indexes: creating, listing and deleting them. ``test_filters.py`` tests their content."""

from __future__ import annotations

import pytest

from conformance.scenario import METADATA_INDEXES, Scenario
from conformance.service import Service, mutation, refusal
from conformance.sources import source


@source("observed", "wrangler's --json output: indexType is String, with a capital")
@source("schema", "metadata_index/list: propertyName and indexType of each; string, number or boolean")
def test_listing_metadata_indexes(vectorize: Service, docs_index: str) -> None:
    listed = vectorize.eventually(lambda: complete(vectorize.metadata_indexes(docs_index)))
    assert {name: kind.lower() for name, kind in listed.items()} == METADATA_INDEXES
    assert listed["colour"] == "String"


def complete(listed: dict[str, str]) -> dict[str, str]:
    assert set(listed) == set(METADATA_INDEXES)
    return listed


@source(
    "official code", "langchain-cloudflare notebook of 2025-05-13: the wait for one ended by the watermark"
)
def test_metadata_indexes_are_mutations(scenario: Scenario) -> None:
    last = [what for what in scenario.mutations if what.startswith("create metadata index")][-1]
    assert scenario.indexed["processedUpToMutation"] == scenario.mutations[last]


@source("observed", "alchemy-run/distilled#308, a live probe: creating one again answers 200")
def test_creating_an_existing_metadata_index(vectorize: Service, scratch: str) -> None:
    for _ in range(2):
        mutation(vectorize.create_metadata_index(scratch, "twice", "string"))


@source("observed", "alchemy-run/distilled#308, a live probe: code 40005")
def test_deleting_a_missing_metadata_index(vectorize: Service, scratch: str) -> None:
    assert refusal(vectorize.delete_metadata_index(scratch, "unheard_of")).code == 40005


@source("schema", "metadata_index/delete: propertyName; the answer is a mutation id")
@source("official code", "cloudflare/workers-sdk#6502: metadata_index/list is a GET")
def test_a_deleted_metadata_index(vectorize: Service, scratch: str) -> None:
    vectorize.wait_for(scratch, mutation(vectorize.create_metadata_index(scratch, "brief", "boolean")))
    vectorize.wait_for(scratch, mutation(vectorize.delete_metadata_index(scratch, "brief")))

    def is_gone() -> None:
        assert "brief" not in vectorize.metadata_indexes(scratch)

    vectorize.eventually(is_gone)


@pytest.mark.parametrize("index_type", ["text", "String", None])
@source("schema", "metadata_index/create: indexType is string, number or boolean")
def test_unknown_types(vectorize: Service, scratch: str, index_type: str | None) -> None:
    body = {"propertyName": "untyped", "indexType": index_type}
    refusal(vectorize.send("POST", f"/{scratch}/metadata_index/create", json=body))
