# SPDX-License-Identifier: Apache-2.0
"""The write-ahead journal of the store: its interface, and the in-memory variant, which writes nothing."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_cfvectorize.local.engine.model import (
        Batch,
        IndexConfig,
        MetadataIndex,
        Mutation,
        Vector,
        Watermark,
    )


@dataclass(frozen=True, slots=True)
class Restored:
    """An index as loaded from the journal."""

    key: int
    config: IndexConfig
    watermark: Watermark | None
    vectors: dict[str, Vector]
    metadata_indexes: dict[str, MetadataIndex]
    unseen: list[Batch]
    pending: list[Mutation]


class Journal:
    """
    The interface of journals; this class stores nothing.

    The store calls a method before it makes the change itself. A method returns once the change is stored. If
    it raises, nothing is stored.
    """

    def __init__(self) -> None:
        self._keys = itertools.count(1)

    def load(self) -> tuple[Sequence[Restored], set[str]]:
        """Return the existing indexes, and the names of deleted indexes."""
        return (), set()

    def create_index(self, config: IndexConfig) -> int:
        """Store a new index and return its key, which no other index ever had."""
        return next(self._keys)

    def delete_index(self, key: int) -> None:
        """Delete an index with its contents, and store its name as deleted."""

    def append(self, key: int, mutation: Mutation) -> None:
        """Store an accepted mutation."""

    def publish(self, key: int, last_sequence: int, watermark: Watermark, visible_at: float) -> None:
        """
        Store that a job has published all pending mutations up to a sequence number.

        :param watermark: The new watermark.
        :param visible_at: When reads show the mutations, seconds since the epoch.
        """

    def apply(self, key: int, mutations: Sequence[Mutation]) -> None:
        """Apply published mutations to the stored vectors and metadata indexes; drop them from the log."""

    def close(self) -> None:
        """Close the journal."""
