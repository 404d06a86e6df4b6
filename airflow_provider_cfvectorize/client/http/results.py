# SPDX-License-Identifier: Apache-2.0
"""What a result must look like before anybody relies on it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, cast

from airflow_provider_cfvectorize.client.http.responses import Answer
from airflow_provider_cfvectorize.client.mutations.receipts import is_mutation_id
from airflow_provider_cfvectorize.client.types import (
    Index,
    IndexConfig,
    MetadataIndex,
    Mutation,
    QueryMatch,
    QueryResult,
    Vector,
    VectorPage,
)
from airflow_provider_cfvectorize.exceptions import VectorizeResponseError


def expect(answer: Answer, kind: type) -> Any:
    """
    Return a result of the kind that the API promises.

    :param answer: what the service said.
    :param kind: ``dict`` or ``list``.
    :raises VectorizeResponseError: it is of another kind.
    """
    if not isinstance(answer.result, kind):
        # The result itself is not shown: whatever sent it may have copied the credentials into it.
        expected = "an array" if kind is list else "an object"
        raise VectorizeResponseError(
            f"the service's result is of type {type(answer.result).__name__}, where {expected} was expected",
            status=200,
        )
    return answer.result


def on_record(item: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """
    Return the fields of an item that its kind has, and no others.

    What an operator returns is kept in Airflow's database, for all to see who may see a task. A server that
    adds something of its own, such as what it was sent, credentials among that, must not get it there.

    :param item: what the service sent.
    :param kind: a typed dictionary of :mod:`~airflow_provider_cfvectorize.client.types`.
    """
    return {name: item[name] for name in kind.__annotations__ if name in item}


def read_index(answer: Answer) -> Index:
    """
    Return an index as the service describes it.

    :param answer: what the service said.
    :raises VectorizeResponseError: it is something else.
    """
    index = on_record(expect(answer, dict), Index)
    if isinstance(index.get("config"), Mapping):
        index["config"] = on_record(index["config"], IndexConfig)
    return cast(Index, index)


def read_vectors(answer: Answer) -> list[Vector]:
    """
    Return vectors of which each has an id.

    :param answer: what the service said.
    :raises VectorizeResponseError: it is something else.
    """
    # What is read back decides whether a delete is applied, so it had better be what it is taken for.
    vectors = _expect_texts(expect(answer, list), ["id"], "vectors with an id")
    return cast("list[Vector]", [on_record(vector, Vector) for vector in vectors])


def read_page(answer: Answer) -> VectorPage:
    """
    Return a page of ids.

    :param answer: what the service said.
    :raises VectorizeResponseError: it is something else.
    """
    page = on_record(expect(answer, dict), VectorPage)
    vectors = _expect_texts(page.get("vectors"), ["id"], "vectors with an id")
    return cast(VectorPage, {**page, "vectors": [{"id": vector["id"]} for vector in vectors]})


def read_mutation(answer: Answer) -> Mutation:
    """
    Return the mutation that an answer acknowledges.

    :param answer: what the service said.
    :raises VectorizeResponseError: it names none.
    """
    mutation_id = expect(answer, dict).get("mutationId")
    if not is_mutation_id(mutation_id):
        # The schema allows that there is none, and nothing could ever wait for such a write.
        raise VectorizeResponseError(
            "the service acknowledged a write without a mutationId, so nobody can tell when it is "
            "applied. Send it again: writes by id can be repeated",
            status=200,
        )
    accepted_at = answer.date or datetime.now(UTC).replace(microsecond=0)
    return {"mutationId": mutation_id, "acceptedAt": accepted_at.isoformat().replace("+00:00", "Z")}


def read_matches(answer: Answer) -> QueryResult:
    """
    Return what a query found.

    :param answer: what the service said.
    :raises VectorizeResponseError: it has no matches, each with an id and a score.
    """
    result = expect(answer, dict)
    matches = _expect_texts(result.get("matches"), ["id"], "matches with an id")
    if not all(isinstance(match.get("score"), int | float) for match in matches):
        raise VectorizeResponseError("the service's result has a match without a score", status=200)
    found = [on_record(match, QueryMatch) for match in matches]
    return cast(QueryResult, {"count": result.get("count", len(matches)), "matches": found})


def read_metadata_indexes(answer: Answer) -> list[MetadataIndex]:
    """
    Return the metadata indexes of an answer, their types in lower case.

    :param answer: what the service said.
    :raises VectorizeResponseError: it has none.
    """
    names = ["propertyName", "indexType"]
    indexes = _expect_texts(expect(answer, dict).get("metadataIndexes"), names, "metadata indexes")
    # The service takes "string" and lists it as "String" (seen in real output).
    return [{"propertyName": one["propertyName"], "indexType": one["indexType"].lower()} for one in indexes]


def _expect_texts(items: Any, names: list[str], what: str) -> list[dict[str, Any]]:
    if not isinstance(items, list) or not all(
        isinstance(item, dict) and all(isinstance(item.get(name), str) for name in names) for item in items
    ):
        raise VectorizeResponseError(
            f"the service's result has something else where {what} were expected", status=200
        )
    return items
