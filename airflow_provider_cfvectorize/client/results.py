# SPDX-License-Identifier: Apache-2.0
"""What a result must look like before anybody relies on it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, cast

from airflow_provider_cfvectorize.client.answers import Answer
from airflow_provider_cfvectorize.client.mutations import is_mutation_id
from airflow_provider_cfvectorize.client.types import MetadataIndex, Mutation, QueryResult, Vector
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


def expect_vectors(vectors: Any) -> list[Vector]:
    """
    Return vectors of which each has an id.

    :param vectors: an array of a result.
    :raises VectorizeResponseError: it is something else.
    """
    # What is read back decides whether a delete is applied, so it had better be what it is taken for.
    return cast("list[Vector]", _expect_texts(vectors, ["id"], "vectors with an id"))


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
    return cast(QueryResult, {**result, "count": result.get("count", len(matches))})


def read_metadata_indexes(answer: Answer) -> list[MetadataIndex]:
    """
    Return the metadata indexes of an answer, their types in lower case.

    :param answer: what the service said.
    :raises VectorizeResponseError: it has none.
    """
    names = ["propertyName", "indexType"]
    indexes = _expect_texts(expect(answer, dict).get("metadataIndexes"), names, "metadata indexes")
    # The service takes "string" and lists it as "String" (seen in real output).
    return cast("list[MetadataIndex]", [{**one, "indexType": one["indexType"].lower()} for one in indexes])


def _expect_texts(items: Any, names: list[str], what: str) -> list[dict[str, Any]]:
    if not isinstance(items, list) or not all(
        isinstance(item, dict) and all(isinstance(item.get(name), str) for name in names) for item in items
    ):
        raise VectorizeResponseError(
            f"the service's result has something else where {what} were expected", status=200
        )
    return items
