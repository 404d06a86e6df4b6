# SPDX-License-Identifier: Apache-2.0
"""The operators that create and delete metadata indexes, over real HTTP."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_cfvectorize.exceptions import (
    VectorizeInputError,
    VectorizeNotFoundError,
    VectorizeResponseError,
    VectorizeWaitTimeout,
)
from airflow_provider_cfvectorize.local import Behaviour, LocalVectorize
from airflow_provider_cfvectorize.operators.indexes import (
    CreateVectorizeMetadataIndexOperator,
    DeleteVectorizeMetadataIndexOperator,
)
from harness import DIMENSIONS, INDEX, Vectorize, make_context, run_task
from operators.relay import Logged, Relay, once

CONN = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"
OPERATORS = [CreateVectorizeMetadataIndexOperator, DeleteVectorizeMetadataIndexOperator]


def run(operator: Any, context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    arguments = {
        "task_id": "task",
        "index_name": INDEX,
        "property_name": "lang",
        "poll_interval": 0.05,
        "wait_timeout": 20,
        **({"index_type": "string"} if operator is CreateVectorizeMetadataIndexOperator else {}),
        **kwargs,
    }
    return run_task(lambda: operator(**arguments), context or make_context())


def create(context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    return run(CreateVectorizeMetadataIndexOperator, context, **kwargs)


def delete(context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    return run(DeleteVectorizeMetadataIndexOperator, context, **kwargs)


def types_of(vectorize: Vectorize) -> dict[str, str]:
    listed = vectorize.client.list_metadata_indexes(vectorize.index_name)
    return {one["propertyName"]: one["indexType"] for one in listed}


def give(vectorize: Vectorize, **types: Any) -> None:
    """Create metadata indexes and wait for them."""
    for name, index_type in types.items():
        vectorize.client.create_metadata_index(vectorize.index_name, name, index_type)
    vectorize.settle()


def check_receipt(context: dict[str, Any], mutation_id: str) -> None:
    receipt = context["ti"].pushed["receipt"]
    assert (receipt["mutation_id"], receipt["index_name"]) == (mutation_id, INDEX)
    assert (receipt["count"], receipt["batches"], receipt["witness_ids"]) == (1, 1, [])
    assert receipt["accepted_at"].endswith("Z")


# --- changes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("index_type", ["string", "number", "boolean"])
@pytest.mark.parametrize("if_exists", ["skip", "fail"])
def test_create_a_metadata_index(vectorize: Vectorize, index_type: str, if_exists: str) -> None:
    context = make_context()
    mutation_id = create(context, property_name="deep.er", index_type=index_type, if_exists=if_exists)
    vectorize.wait_for(mutation_id)
    assert types_of(vectorize) == {"deep.er": index_type}
    check_receipt(context, mutation_id)
    assert "evidence" not in context["ti"].pushed


@pytest.mark.parametrize("if_missing", ["fail", "skip"])
def test_delete_a_metadata_index(vectorize: Vectorize, if_missing: str) -> None:
    give(vectorize, lang="string", year="number")
    context = make_context()
    mutation_id = delete(context, if_missing=if_missing)
    vectorize.wait_for(mutation_id)
    assert types_of(vectorize) == {"year": "number"}
    check_receipt(context, mutation_id)


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_wait_for_a_change(monkeypatch: pytest.MonkeyPatch, operator: Any, deferrable: bool) -> None:
    with LocalVectorize(apply_delay=0.3) as server:
        monkeypatch.setenv(CONN, server.connection)
        vectorize = Vectorize(server)
        is_creating = operator is CreateVectorizeMetadataIndexOperator
        if not is_creating:
            give(vectorize, lang="string")
        context = make_context()
        mutation_id = run(operator, context, wait_for_completion=True, deferrable=deferrable)
        assert types_of(vectorize) == ({"lang": "string"} if is_creating else {})
        evidence = context["ti"].pushed["evidence"]
        assert (evidence["mutation_id"], evidence["outcome"]) == (mutation_id, "watermark")


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("operator", OPERATORS)
def test_a_wait_times_out(monkeypatch: pytest.MonkeyPatch, operator: Any, deferrable: bool) -> None:
    with LocalVectorize(apply_delay=3600) as server:
        monkeypatch.setenv(CONN, server.connection)
        vectorize = Vectorize(server)
        vectorize.client.create_metadata_index(INDEX, "lang", "string")
        context = make_context()
        with pytest.raises(VectorizeWaitTimeout):
            run(operator, context, wait_for_completion=True, deferrable=deferrable, wait_timeout=0.2)
        assert context["ti"].pushed["receipt"]["mutation_id"]


@pytest.mark.parametrize("has_vectors", [False, True])
def test_existing_vectors_cause_a_warning(vectorize: Vectorize, logged: Logged, has_vectors: bool) -> None:
    if has_vectors:
        vectorize.fill(["a", "b"])
    create(property_name="lang")
    text = logged()
    assert ("has vectors" in text) is has_vectors
    assert ("(2). A filter by 'lang' finds them only after you upsert them again" in text) is has_vectors


# --- existing and missing metadata indexes ------------------------------------------------------------------


@pytest.mark.parametrize("wait", [False, True])
@pytest.mark.parametrize("deferrable", [False, True])
def test_an_existing_metadata_index_is_sent_again(
    vectorize: Vectorize, logged: Logged, wait: bool, deferrable: bool
) -> None:
    give(vectorize, lang="string")
    vectorize.fill(["a"])
    context = make_context()
    mutation_id = create(context, wait_for_completion=wait, deferrable=deferrable)
    check_receipt(context, mutation_id)
    text = logged()
    assert "already; the task sends it again" in text
    # The author knew this when the metadata index was created.
    assert "has vectors" not in text
    if wait:
        assert context["ti"].pushed["evidence"]["outcome"] == "watermark"
    assert vectorize.server.stats()["create_metadata_index"] == 2


def test_an_existing_metadata_index_is_an_error_with_if_exists_fail(vectorize: Vectorize) -> None:
    give(vectorize, lang="string")
    with pytest.raises(VectorizeInputError, match="already") as error:
        create(if_exists="fail")
    assert "if_exists='skip'" in str(error.value)
    assert vectorize.server.stats()["create_metadata_index"] == 1


@pytest.mark.parametrize("if_exists", ["skip", "fail"])
def test_an_existing_metadata_index_of_another_type_is_an_error(vectorize: Vectorize, if_exists: str) -> None:
    give(vectorize, lang="string")
    with pytest.raises(VectorizeInputError, match="expected 'number', found 'string'") as error:
        create(index_type="number", if_exists=if_exists)
    assert "DeleteVectorizeMetadataIndexOperator" in str(error.value)
    assert vectorize.server.stats()["create_metadata_index"] == 1


def test_an_eleventh_metadata_index_is_an_error(vectorize: Vectorize) -> None:
    give(vectorize, **{f"p{i}": "string" for i in range(10)})
    with pytest.raises(VectorizeInputError, match="has 10 metadata indexes, the most of an index: 'p0', "):
        create()
    create(property_name="p9", wait_for_completion=True)
    assert vectorize.server.stats()["create_metadata_index"] == 11


@pytest.mark.parametrize("status", [400, 404])
def test_deleting_a_missing_metadata_index(
    monkeypatch: pytest.MonkeyPatch, logged: Logged, status: Any
) -> None:
    behaviour = Behaviour(metadata_index_not_found_status=status)
    with LocalVectorize(apply_delay=0.02, behaviour=behaviour) as server:
        monkeypatch.setenv(CONN, server.connection)
        Vectorize(server)
        with pytest.raises(VectorizeResponseError, match="set if_missing='skip'") as error:
            delete()
        assert (error.value.status, error.value.code) == (status, 40005)
        assert isinstance(error.value, VectorizeNotFoundError) is (status == 404)
        context = make_context()
        assert delete(context, if_missing="skip", wait_for_completion=True) is None
        assert "has no metadata index of 'lang'" in logged()
        assert context["ti"].pushed["receipt"]["mutation_id"] is None
        assert context["ti"].pushed["evidence"]["outcome"] == "nothing_to_do"


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_missing_index_is_an_error(server: LocalVectorize, operator: Any) -> None:
    kwargs = {"if_missing": "skip"} if operator is DeleteVectorizeMetadataIndexOperator else {}
    with pytest.raises(VectorizeNotFoundError, match="Check index_name") as error:
        run(operator, **kwargs)
    assert error.value.code == 3000


@pytest.mark.parametrize(("operator", "route"), [(OPERATORS[0], "create"), (OPERATORS[1], "delete")])
def test_a_lost_answer_is_retried(relay: Relay, vectorize: Vectorize, operator: Any, route: str) -> None:
    if route == "delete":
        give(vectorize, lang="string")
    relay.intercept = once(f"POST {INDEX}/metadata_index/{route}", "lost")
    # The retry finds nothing to delete: the mutation id is lost with the answer.
    kwargs = {"if_missing": "skip"} if route == "delete" else {}
    assert (run(operator, **kwargs) is None) is (route == "delete")
    assert relay.routes.count(f"POST {INDEX}/metadata_index/{route}") == 2
    vectorize.settle()
    assert types_of(vectorize) == ({} if route == "delete" else {"lang": "string"})


def test_a_metadata_index_can_be_recreated_with_another_type(vectorize: Vectorize) -> None:
    give(vectorize, year="string")
    delete(property_name="year", wait_for_completion=True)
    create(property_name="year", index_type="number", wait_for_completion=True)
    vector: Any = {"id": "a", "values": [0.5] * DIMENSIONS, "metadata": {"year": 2026}}
    vectorize.wait_for(vectorize.client.upsert(INDEX, [vector])["mutationId"])
    found = vectorize.client.query(INDEX, vector=[0.5] * DIMENSIONS, filter={"year": {"$gt": 2025}})
    assert found["count"] == 1


# --- refused inputs -----------------------------------------------------------------------------------------

REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"index_name": "a/b"}, "index name 'a/b'"),
    ({"property_name": "None"}, "property_name None is not a string"),
    ({"property_name": ""}, "property_name None is not a string"),
    ({"property_name": 7}, "property_name 7 is not a string"),
    ({"property_name": "$lang"}, "property_name '$lang' has a level"),
    ({"property_name": 'a"b'}, "which is not allowed in a property's name"),
    ({"wait_timeout": -1}, "wait_timeout is -1"),
    ({"poll_interval": float("nan")}, "poll_interval is nan"),
    ({"account_id": "x"}, "32 hexadecimal digits"),
]


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        *REFUSED,
        ({"index_type": "String"}, "index_type is 'String', expected one of string, number, boolean"),
        ({"index_type": None}, "index_type is None, expected one of string"),
        ({"if_exists": "replace"}, "if_exists is 'replace', expected 'skip' or 'fail'"),
    ],
)
def test_invalid_creates_are_refused(server: LocalVectorize, kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(VectorizeInputError) as error:
        create(**kwargs)
    assert text in str(error.value)
    assert sum(server.stats().values()) == 0


@pytest.mark.parametrize(
    ("kwargs", "text"), [*REFUSED, ({"if_missing": True}, "if_missing is True, expected 'fail' or 'skip'")]
)
def test_invalid_deletes_are_refused(server: LocalVectorize, kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(VectorizeInputError) as error:
        delete(**{"if_missing": "skip", **kwargs})
    assert text in str(error.value)
    assert sum(server.stats().values()) == 0
