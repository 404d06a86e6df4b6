# SPDX-License-Identifier: Apache-2.0
"""The operator that creates indexes, over real HTTP, without a scheduler."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.exceptions import (
    VectorizeInputError,
    VectorizeResponseError,
    VectorizeWaitTimeout,
)
from airflow_provider_cfvectorize.local import LocalVectorize
from harness import DIMENSIONS, INDEX, Vectorize, make_context, run_task, wait_until
from operators.indexing import CONN, TYPES, create, make, types_of
from operators.relay import Logged

BASE, SMALL = "@cf/baai/bge-base-en-v1.5", "@cf/baai/bge-small-en-v1.5"


# --- create -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("if_exists", ["fail", "skip"])
@pytest.mark.parametrize(
    ("kwargs", "config"),
    [
        ({"dimensions": 64, "metric": "euclidean"}, {"dimensions": 64, "metric": "euclidean"}),
        ({"dimensions": "1536", "metric": "dot-product"}, {"dimensions": 1536, "metric": "dot-product"}),
        ({"preset": BASE}, {"dimensions": 768, "metric": "cosine", "preset": BASE}),
        (
            {"preset": BASE, "dimensions": "None", "metric": "None"},
            {"dimensions": 768, "metric": "cosine", "preset": BASE},
        ),
    ],
)
def test_create_an_index(
    client: VectorizeClient, kwargs: dict[str, Any], config: dict[str, Any], if_exists: str
) -> None:
    context = make_context()
    assert create(context, description="of documents", if_exists=if_exists, **kwargs) is None
    pushed = context["ti"].pushed
    assert pushed["index"] == client.get_index(INDEX)
    assert (pushed["index"]["config"], pushed["index"]["description"]) == (config, "of documents")
    assert (pushed["receipt"]["mutation_id"], pushed["receipt"]["count"]) == (None, 0)
    assert pushed["receipt"]["index_name"] == INDEX
    assert "evidence" not in pushed


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_wait_without_metadata_indexes_has_nothing_to_do(server: LocalVectorize, deferrable: bool) -> None:
    context = make_context()
    assert create(context, wait_for_completion=True, deferrable=deferrable) is None
    assert context["ti"].pushed["evidence"]["outcome"] == "nothing_to_do"


@pytest.mark.parametrize("as_text", [False, True])
def test_create_with_metadata_indexes(client: VectorizeClient, as_text: bool) -> None:
    context = make_context()
    mutation_id = create(context, metadata_indexes=json.dumps(TYPES) if as_text else TYPES)
    wait_until(lambda: client.info(INDEX).get("processedUpToMutation") == mutation_id)
    # The last creation is applied after all others.
    assert types_of(client) == TYPES
    receipt = context["ti"].pushed["receipt"]
    assert (receipt["mutation_id"], receipt["index_name"]) == (mutation_id, INDEX)
    assert (receipt["count"], receipt["batches"], receipt["witness_ids"]) == (3, 3, [])
    assert receipt["accepted_at"].endswith("Z")


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_wait_for_metadata_indexes(monkeypatch: pytest.MonkeyPatch, deferrable: bool) -> None:
    with LocalVectorize(apply_delay=0.3) as server:
        monkeypatch.setenv(CONN, server.connection)
        context, deferred = make_context(), []
        mutation_id = run_task(
            lambda: make(metadata_indexes=TYPES, wait_for_completion=True, deferrable=deferrable),
            context,
            on_defer=lambda: deferred.append(True),
        )
        assert bool(deferred) is deferrable
        evidence = context["ti"].pushed["evidence"]
        assert (evidence["mutation_id"], evidence["outcome"]) == (mutation_id, "watermark")
        with_token = {"api_token": server.api_token, "base_url": server.base_url}
        assert types_of(VectorizeClient(server.account_id, **with_token)) == TYPES


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_wait_times_out(monkeypatch: pytest.MonkeyPatch, deferrable: bool) -> None:
    with LocalVectorize(apply_delay=3600) as server:
        monkeypatch.setenv(CONN, server.connection)
        context = make_context()
        waiting = {"wait_for_completion": True, "deferrable": deferrable, "wait_timeout": 0.2}
        with pytest.raises(VectorizeWaitTimeout, match="no mutation yet"):
            create(context, metadata_indexes=TYPES, **waiting)
        assert context["ti"].pushed["receipt"]["mutation_id"]
        assert context["ti"].pushed["index"]["name"] == INDEX


def test_a_filter_finds_vectors_written_right_after_the_creation(monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing is applied in between: the order of acceptance counts.
    with LocalVectorize(apply_delay=0.3) as server:
        monkeypatch.setenv(CONN, server.connection)
        create(metadata_indexes=TYPES)
        client = VectorizeClient(server.account_id, api_token=server.api_token, base_url=server.base_url)
        vector: Any = {
            "id": "a",
            "values": [0.5] * DIMENSIONS,
            "metadata": {"lang": "en", "year": 2026, "deep": {"er": True}},
        }
        mutation = client.upsert(INDEX, [vector])
        wait_until(lambda: client.info(INDEX).get("processedUpToMutation") == mutation["mutationId"])
        asked = {"lang": "en", "year": {"$gt": 2025}, "deep.er": True}
        found = client.query(INDEX, vector=[0.5] * DIMENSIONS, filter=asked)
        assert [match["id"] for match in found["matches"]] == ["a"]


@pytest.mark.parametrize("if_exists", ["fail", "skip"])
def test_the_name_of_a_deleted_index_can_be_reused(vectorize: Vectorize, if_exists: str) -> None:
    vectorize.client.delete_index(INDEX)
    create(dimensions=64, if_exists=if_exists)
    assert vectorize.client.get_index(INDEX)["config"]["dimensions"] == 64


# --- refused inputs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"index_name": "Docs"}, "invalid name for a new index"),
        ({"index_name": "a/b"}, "index name 'a/b'"),
        ({"index_name": "a" * 65}, "1 to 64 characters"),
        ({"dimensions": None}, "either dimensions and metric, or a preset, but not both, got metric"),
        ({"metric": None}, "got dimensions"),
        ({"dimensions": None, "metric": "None"}, "got none of them"),
        ({"preset": BASE, "metric": "cosine"}, "got metric and preset"),
        ({"preset": 7}, "preset is 7, expected the name of an embedding model"),
        ({"dimensions": 31}, "dimensions is 31, expected an integer from 32 to 1536"),
        ({"dimensions": 1537}, "dimensions is 1537"),
        ({"dimensions": 32.0}, "dimensions is 32.0"),
        ({"dimensions": True}, "dimensions is True"),
        ({"dimensions": "many"}, "dimensions is 'many'"),
        ({"metric": "cosinus"}, "'cosinus', expected one of cosine, euclidean, dot-product"),
        ({"metric": ["cosine"]}, "a list, expected one of cosine"),
        ({"description": 7}, "description is 7, expected a string"),
        ({"metadata_indexes": ["lang"]}, "expected a mapping of properties to types"),
        ({"metadata_indexes": "lang"}, "expected a mapping of properties to types"),
        ({"metadata_indexes": "{lang: string}"}, "neither valid JSON nor a Python literal"),
        (
            {"metadata_indexes": {f"p{i}": "string" for i in range(11)}},
            "metadata_indexes has 11 properties, expected at most 10",
        ),
        ({"metadata_indexes": {"lang": "text"}}, "'lang': index_type is 'text', expected one of string"),
        ({"metadata_indexes": {"lang": None}}, "'lang': index_type is None"),
        ({"metadata_indexes": {"$lang": "string"}}, "'$lang': property_name '$lang' has a level"),
        ({"metadata_indexes": {"": "string"}}, "'' is empty"),
        ({"metadata_indexes": {1: "string"}}, "property_name 1 is not a string"),
        ({"if_exists": "replace"}, "if_exists is 'replace', expected 'fail' or 'skip'"),
        ({"if_exists": None}, "if_exists is None"),
        ({"wait_timeout": -1}, "wait_timeout is -1"),
        ({"poll_interval": "1"}, "poll_interval is '1'"),
        ({"account_id": "f" * 31}, "32 hexadecimal digits"),
    ],
)
def test_invalid_arguments_are_refused(server: LocalVectorize, kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(VectorizeInputError) as error:
        create(**kwargs)
    assert text in str(error.value)
    assert sum(server.stats().values()) == 0


# --- existing indexes ---------------------------------------------------------------------------------------


def test_an_existing_index_is_an_error(vectorize: Vectorize) -> None:
    with pytest.raises(VectorizeResponseError, match="already exists") as error:
        create(dimensions=64, metadata_indexes=TYPES)
    assert error.value.code == 3002
    assert "If an earlier attempt created it" in str(error.value)
    assert "if_exists='skip'" in str(error.value)
    assert vectorize.server.stats()["create_metadata_index"] == 0


def test_an_existing_index_with_the_wanted_configuration(vectorize: Vectorize, logged: Logged) -> None:
    for name, index_type in {**TYPES, "further": "string"}.items():
        vectorize.client.create_metadata_index(INDEX, name, index_type)  # type: ignore[arg-type]
    vectorize.fill(["a"])
    vectorize.server.reset_stats()
    context = make_context()
    mutation_id = create(context, metadata_indexes=TYPES, if_exists="skip", wait_for_completion=True)
    pushed = context["ti"].pushed
    assert pushed["index"] == vectorize.client.get_index(INDEX)
    assert (pushed["receipt"]["mutation_id"], pushed["receipt"]["count"]) == (mutation_id, 3)
    assert (pushed["evidence"]["mutation_id"], pushed["evidence"]["outcome"]) == (mutation_id, "watermark")
    stats = vectorize.server.stats()
    assert (stats["create_index"], stats["create_metadata_index"]) == (0, 3)
    text = logged()
    assert "missing metadata indexes: none; additional: 'further'" in text


@pytest.mark.parametrize(
    ("kwargs", "texts"),
    [
        ({"dimensions": 64}, ["dimensions: expected 64, found 32."]),
        ({"metric": "euclidean"}, ["metric: expected 'euclidean', found 'cosine'."]),
        (
            {"dimensions": 64, "metric": "euclidean", "metadata_indexes": {"lang": "number"}},
            ["expected 64", "expected 'euclidean'", "of 'lang': expected 'number', found 'string'."],
        ),
        ({"preset": SMALL}, ["dimensions: expected 384, found 32."]),
    ],
)
def test_an_index_that_differs(vectorize: Vectorize, kwargs: dict[str, Any], texts: list[str]) -> None:
    vectorize.client.create_metadata_index(INDEX, "lang", "string")
    vectorize.settle()
    with pytest.raises(VectorizeInputError, match="exists with another configuration") as error:
        create(if_exists="skip", **kwargs)
    assert all(text in str(error.value) for text in texts)
    assert str(error.value).count("expected") == len(texts)
    assert vectorize.server.stats()["create_metadata_index"] == 1


def test_an_index_with_a_known_preset(client: VectorizeClient, logged: Logged) -> None:
    client.create_index(INDEX, preset=BASE)
    create(preset=BASE, if_exists="skip")
    create(dimensions=768, metric="cosine", if_exists="skip")
    with pytest.raises(VectorizeInputError, match=f"preset: expected '{SMALL}', found '{BASE}'"):
        create(preset=SMALL, if_exists="skip")
    assert "does not say" not in logged()


@pytest.mark.parametrize("preset", [BASE, "some/new-model"])
def test_an_index_without_a_known_preset(client: VectorizeClient, logged: Logged, preset: str) -> None:
    client.create_index(INDEX, dimensions=768, metric="euclidean")
    create(preset=preset, if_exists="skip")
    text = logged()
    assert f"does not say whether it was created with preset '{preset}', so" in text
    assert "'dimensions': 768, 'metric': 'euclidean'" in text


def test_missing_metadata_indexes_are_created_in_an_empty_index(vectorize: Vectorize) -> None:
    vectorize.client.create_metadata_index(INDEX, "lang", "string")
    vectorize.settle()
    context = make_context()
    mutation_id = create(context, metadata_indexes=TYPES, if_exists="skip")
    vectorize.wait_for(mutation_id)
    assert types_of(vectorize.client) == TYPES
    assert context["ti"].pushed["receipt"]["count"] == 3
    assert vectorize.server.stats()["create_metadata_index"] == 4


def test_missing_metadata_indexes_are_an_error_if_there_are_vectors(vectorize: Vectorize) -> None:
    vectorize.fill(["a", "b"])
    with pytest.raises(VectorizeInputError, match=r"has vectors \(2\)") as error:
        create(metadata_indexes=TYPES, if_exists="skip")
    assert "no metadata index of 'lang', 'year', 'deep.er'" in str(error.value)
    assert "CreateVectorizeMetadataIndexOperator" in str(error.value)
    assert vectorize.server.stats()["create_metadata_index"] == 0


def test_too_many_metadata_indexes_are_an_error(vectorize: Vectorize) -> None:
    for i in range(8):
        vectorize.client.create_metadata_index(INDEX, f"p{i}", "string")
    vectorize.settle()
    with pytest.raises(VectorizeInputError, match="has 8 metadata indexes") as error:
        create(metadata_indexes={"p0": "string", **TYPES}, if_exists="skip")
    assert "with 'lang', 'year', 'deep.er' it would have more than 10" in str(error.value)
    assert "Delete some of 'p1', 'p2'" in str(error.value)
    assert vectorize.server.stats()["create_metadata_index"] == 8
