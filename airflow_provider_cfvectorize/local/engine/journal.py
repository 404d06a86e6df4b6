# SPDX-License-Identifier: Apache-2.0
"""Where the store writes everything before it counts; in memory that is nowhere."""

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
    """One index as the journal has it."""

    key: int
    config: IndexConfig
    watermark: Watermark | None
    vectors: dict[str, Vector]
    metadata_indexes: dict[str, MetadataIndex]
    unseen: list[Batch]
    pending: list[Mutation]


class Journal:
    """
    A journal that keeps nothing, and what each journal must do.

    A method returns once what it was told is safe; if it raises, nothing of it has happened.
    """

    def __init__(self) -> None:
        self._keys = itertools.count(1)

    def load(self) -> tuple[Sequence[Restored], set[str]]:
        """Return the indexes there are, and the names of those that were deleted."""
        return (), set()

    def create_index(self, config: IndexConfig) -> int:
        """Keep a new index and return its key, which no other index ever had."""
        return next(self._keys)

    def delete_index(self, key: int) -> None:
        """Drop an index with all it has, and keep its name as deleted."""

    def append(self, key: int, mutation: Mutation) -> None:
        """Keep one accepted mutation."""

    def publish(self, key: int, last_sequence: int, watermark: Watermark, visible_at: float) -> None:
        """
        Keep that a job has taken the mutations up to this one.

        :param watermark: What ``info`` shows from now on.
        :param visible_at: When readers see the batch, seconds since the epoch.
        """

    def fold(self, key: int, mutations: Sequence[Mutation]) -> None:
        """Apply published mutations to vectors and metadata indexes, and drop them from the log."""

    def close(self) -> None:
        """Let go of everything."""
