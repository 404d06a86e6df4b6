# SPDX-License-Identifier: Apache-2.0
"""The indexes of the account. Only the event loop's thread uses them, and no method blocks."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from airflow_provider_cfvectorize.local import errors
from airflow_provider_cfvectorize.local.engine.index import Index, Timing
from airflow_provider_cfvectorize.local.engine.listing import Listings

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_cfvectorize.local.behaviour import Behaviour
    from airflow_provider_cfvectorize.local.engine.journal import Journal
    from airflow_provider_cfvectorize.local.engine.model import IndexConfig, Watermark


class Store:
    """All indexes of the account, by name."""

    def __init__(
        self, journal: Journal, clock: Callable[[], float], timing: Timing, behaviour: Behaviour
    ) -> None:
        self.behaviour = behaviour
        self.listings = Listings(behaviour)
        self._journal = journal
        self._clock = clock
        self._timing = timing
        self._latest = clock()
        self._indexes: dict[str, Index] = {}
        self._remembered = 0.0
        restored, self._deleted = journal.load()
        for found in restored:
            index = Index(found.key, found.config, timing, behaviour, journal)
            index.restore(found, self._latest)
            self._indexes[found.config.name] = index

    def now(self) -> float:
        """Return seconds since the epoch; the result never decreases, even if the clock is set back."""
        self._latest = max(self._latest, self._clock())
        return self._latest

    def index(self, name: str) -> Index:
        """
        Return an index, after its due jobs have run.

        :raises ApiError: The index does not exist or was deleted.
        """
        index = self._indexes.get(name)
        if index is None:
            if name in self._deleted:
                raise errors.refusal("index_deleted", name=name)
            raise errors.refusal("index_not_found", name=name)
        index.advance(self.now())
        return index

    def indexes(self) -> list[Index]:
        """Return all indexes, in the order of their creation."""
        return list(self._indexes.values())

    def create(self, config: IndexConfig) -> Index:
        """
        Create an index.

        :raises ApiError: An index has this name.
        """
        if config.name in self._indexes:
            raise errors.refusal("duplicate_name", name=config.name)
        index = Index(self._journal.create_index(config), config, self._timing, self.behaviour, self._journal)
        index.remember(self._remembered)
        self._deleted.discard(config.name)
        self._indexes[config.name] = index
        return index

    def delete(self, name: str) -> None:
        """
        Delete an index with its contents.

        :raises ApiError: The index does not exist or was deleted.
        """
        index = self.index(name)
        self._journal.delete_index(index.key)
        del self._indexes[name]
        self._deleted.add(name)
        self.listings.forget(index.key)

    def remember(self, seconds: float) -> None:
        """
        Keep a history of the vectors of each index.

        :param seconds: How far back it reaches; 0 drops the histories.
        """
        self._remembered = seconds
        for index in self.indexes():
            index.remember(seconds)

    def watermarks(self) -> dict[int, Watermark | None]:
        """Return the current watermarks, by the key of the index."""
        now = self.now()
        for index in self.indexes():
            index.advance(now)
        return {index.key: index.watermark for index in self.indexes()}

    def foreign_writes(self, name: str | None, count: int) -> dict[str, list[str]]:
        """
        Make mutations as another writer would. Each deletes an id that never existed.

        :param name: The index; None for every index.
        :return: The mutation ids by index name.
        :raises ApiError: The index does not exist.
        """
        chosen = self.indexes() if name is None else [self.index(name)]
        return {
            index.config.name: [
                index.accept("delete", self.now(), ids=(f"foreign-{uuid.uuid4()}",)) for _ in range(count)
            ]
            for index in chosen
        }

    def close(self) -> None:
        """Close the journal."""
        self._journal.close()
