# SPDX-License-Identifier: Apache-2.0
"""What the vectors of an index were before its last changes, for readers who are to see the past."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from airflow_provider_cfvectorize.local.engine.model import Mutation, Vector


class History:
    """
    The changes of the last seconds, as what it takes to undo them.

    :param seconds: How far back anybody will ask.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._changes: deque[tuple[float, dict[str, Vector | None]]] = deque()

    def note(self, at: float, vectors: Mapping[str, Vector], mutations: Iterable[Mutation]) -> None:
        """
        Keep what mutations are about to change.

        :param at: When readers see the change, seconds since the epoch.
        :param vectors: The vectors before it, by id.
        :param mutations: The mutations.
        """
        while self._changes and self._changes[0][0] <= at - self.seconds:
            self._changes.popleft()
        touched: dict[str, Vector | None] = {}
        for mutation in mutations:
            for vector_id in (*mutation.ids, *(vector.id for vector in mutation.vectors)):
                touched[vector_id] = vectors.get(vector_id)
        self._changes.append((at, touched))

    def as_of(self, at: float, vectors: Mapping[str, Vector]) -> dict[str, Vector]:
        """
        Return the vectors that there were.

        :param at: When, seconds since the epoch.
        :param vectors: The vectors there are now, by id.
        """
        past = dict(vectors)
        for changed_at, touched in reversed(self._changes):
            if changed_at <= at:
                break
            for vector_id, before in touched.items():
                if before is None:
                    past.pop(vector_id, None)
                else:
                    past[vector_id] = before
        return past
