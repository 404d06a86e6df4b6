# SPDX-License-Identifier: Apache-2.0
"""What the service takes and returns, with its own field names."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, NotRequired, TypedDict, TypeGuard, get_args

from airflow_provider_cfvectorize.client import limits

#: What a query returns of the matches' metadata: nothing, what has a metadata index (of strings, as much as
#: is indexed), or everything.
ReturnMetadata = Literal["none", "indexed", "all"]
RETURN_METADATA: Final[tuple[str, ...]] = get_args(ReturnMetadata)
#: How the distance of two vectors is measured.
Metric = Literal["cosine", "euclidean", "dot-product"]
METRICS: Final[tuple[str, ...]] = get_args(Metric)
#: What kind of values a metadata index is of.
IndexType = Literal["string", "number", "boolean"]
INDEX_TYPES: Final[tuple[str, ...]] = get_args(IndexType)

_MUTATION_ID = re.compile(rf"[A-Za-z0-9_-]{{1,{limits.MAX_MUTATION_ID_CHARS}}}", re.ASCII)


def is_mutation_id(value: object) -> TypeGuard[str]:
    """Say whether something can be the id of a mutation."""
    return isinstance(value, str) and bool(_MUTATION_ID.fullmatch(value))


class IndexConfig(TypedDict):
    """What an index was created with."""

    dimensions: int
    metric: str
    preset: NotRequired[str]


class Index(TypedDict):
    """An index as the service describes it; times are UTC with microseconds."""

    name: str
    description: str
    created_on: str
    modified_on: str
    config: IndexConfig


class IndexInfo(TypedDict):
    """
    The state of an index.

    ``processedUpToMutation`` is the watermark: the last mutation that was applied, by any writer. It and
    ``processedUpToDatetime`` are absent before the first.
    """

    dimensions: int
    vectorCount: int
    processedUpToMutation: NotRequired[str | None]
    processedUpToDatetime: NotRequired[str | None]


class Mutation(TypedDict):
    """
    What the service answers to one request that writes, and when it did.

    ``accepted_at`` is not in the response's body: it is the server's clock (the response's ``Date``, whole
    seconds, ISO 8601) or, where the response has none, this machine's.
    """

    mutationId: str
    accepted_at: str


class Vector(TypedDict):
    """A vector as it is written and read back."""

    id: str
    values: Sequence[float]
    namespace: NotRequired[str | None]
    metadata: NotRequired[Mapping[str, Any] | None]


class VectorPage(TypedDict):
    """One page of ids, and how to get the next one."""

    count: int
    totalCount: int
    isTruncated: bool
    vectors: list[dict[str, str]]
    nextCursor: NotRequired[str | None]
    cursorExpirationTimestamp: NotRequired[str | None]


class QueryMatch(TypedDict):
    """
    A vector that a query found.

    ``score`` is by the index's metric: for ``cosine`` the highest is the nearest, for ``euclidean`` the
    lowest. Go by the order of the matches, which is the nearest first for every metric.
    """

    id: str
    score: float
    values: NotRequired[Sequence[float] | None]
    namespace: NotRequired[str | None]
    metadata: NotRequired[Mapping[str, Any] | None]


class QueryResult(TypedDict):
    """What a query found, the nearest first."""

    count: int
    matches: list[QueryMatch]


class MetadataIndex(TypedDict):
    """A property of the metadata by which a query can filter."""

    propertyName: str
    indexType: str
