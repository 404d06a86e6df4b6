# SPDX-License-Identifier: Apache-2.0
"""What the service takes and returns, with its own field names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NotRequired, TypedDict


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
    An acknowledged write.

    ``acceptedAt`` is the server's clock (the response's ``Date``, whole seconds, ISO 8601) or, where the
    response has none, this machine's.
    """

    mutationId: str
    acceptedAt: str


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
