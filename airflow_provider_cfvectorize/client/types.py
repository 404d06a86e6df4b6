# SPDX-License-Identifier: Apache-2.0
"""Types of the service's requests and responses, with its field names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NotRequired, TypedDict, TypeGuard, get_args

from airflow_provider_cfvectorize.client import limits

#: The metadata of matches that a query returns: nothing, the indexed properties (of strings, the indexed
#: part), or everything.
ReturnMetadata = Literal["none", "indexed", "all"]
RETURN_METADATA: Final[tuple[str, ...]] = get_args(ReturnMetadata)
#: The measure of the distance between two vectors.
Metric = Literal["cosine", "euclidean", "dot-product"]
METRICS: Final[tuple[str, ...]] = get_args(Metric)
#: The type of the values in a metadata index.
IndexType = Literal["string", "number", "boolean"]
INDEX_TYPES: Final[tuple[str, ...]] = get_args(IndexType)

_MUTATION_ID = re.compile(rf"[A-Za-z0-9_-]{{1,{limits.MAX_MUTATION_ID_CHARS}}}", re.ASCII)


def is_mutation_id(value: object) -> TypeGuard[str]:
    """Return whether a value can be the id of a mutation."""
    return isinstance(value, str) and bool(_MUTATION_ID.fullmatch(value))


class IndexConfig(TypedDict):
    """The configuration of an index."""

    dimensions: int
    metric: str
    preset: NotRequired[str]


class Index(TypedDict):
    """The service's description of an index; times are UTC with microseconds."""

    name: str
    description: str
    created_on: str
    modified_on: str
    config: IndexConfig


class IndexInfo(TypedDict):
    """
    The state of an index.

    ``processedUpToMutation`` is the watermark: the last mutation that the service applied, of any writer. It
    and ``processedUpToDatetime`` are absent before the first mutation.
    """

    dimensions: int
    vectorCount: int
    processedUpToMutation: NotRequired[str | None]
    processedUpToDatetime: NotRequired[str | None]


class Mutation(TypedDict):
    """
    The acknowledgement of one write, and its time.

    ``accepted_at`` is not in the response's body. It is the server's clock (the response's ``Date``, whole
    seconds, ISO 8601), or this machine's clock if the response has no ``Date``.
    """

    mutationId: str
    accepted_at: str


class Vector(TypedDict):
    """A vector to write, or as read back."""

    id: str
    values: Sequence[float]
    namespace: NotRequired[str | None]
    metadata: NotRequired[Mapping[str, Any] | None]


class VectorPage(TypedDict):
    """One page of ids, with the cursor of the next page."""

    count: int
    totalCount: int
    isTruncated: bool
    vectors: list[dict[str, str]]
    nextCursor: NotRequired[str | None]
    cursorExpirationTimestamp: NotRequired[str | None]


class QueryMatch(TypedDict):
    """
    A vector that a query found.

    ``score`` depends on the index's metric: the nearest vector has the highest score for ``cosine``, and the
    lowest for ``euclidean``. With every metric, the matches are in order, the nearest first.
    """

    id: str
    score: float
    values: NotRequired[Sequence[float] | None]
    namespace: NotRequired[str | None]
    metadata: NotRequired[Mapping[str, Any] | None]


class QueryResult(TypedDict):
    """The matches of a query, the nearest first."""

    count: int
    matches: list[QueryMatch]


class MetadataIndex(TypedDict):
    """A property of the metadata by which a query can filter."""

    propertyName: str
    indexType: str
