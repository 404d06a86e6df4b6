# SPDX-License-Identifier: Apache-2.0
"""An index: its log, the jobs that apply mutations, and its state for reads. Times are epoch seconds."""

from __future__ import annotations

import copy
import itertools
import uuid
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.local import errors
from airflow_provider_cfvectorize.local.engine import metadata
from airflow_provider_cfvectorize.local.engine.model import (
    Batch,
    IndexConfig,
    Kind,
    MetadataIndex,
    Mutation,
    Vector,
    Watermark,
    iso,
)
from airflow_provider_cfvectorize.local.engine.view import View

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from airflow_provider_cfvectorize.local.behaviour import Behaviour
    from airflow_provider_cfvectorize.local.engine.journal import Journal, Restored


#: Version numbers for past sets of ids, which no current set has.
_PAST: Final = itertools.count(-1, -1)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """
    The delays of writes.

    :param apply_delay: Seconds from the first pending mutation to the job that applies it, and from one job
        to the next while there is a backlog.
    :param visibility_lag: Seconds from a job, which moves the watermark, until reads show its batch.
    """

    apply_delay: float
    visibility_lag: float


class History:
    """
    The changes of the last seconds, stored so that they can be undone.

    :param seconds: How far back the history reaches.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._changes: deque[tuple[float, dict[str, Vector | None]]] = deque()

    def record(self, at: float, vectors: Mapping[str, Vector], mutations: Iterable[Mutation]) -> None:
        """
        Save the vectors that mutations are about to change.

        :param at: When readers see the change, seconds since the epoch.
        """
        while self._changes and self._changes[0][0] <= at - self.seconds:
            self._changes.popleft()
        touched: dict[str, Vector | None] = {}
        for mutation in mutations:
            for vector_id in (*mutation.ids, *(vector.id for vector in mutation.vectors)):
                touched[vector_id] = vectors.get(vector_id)
        self._changes.append((at, touched))

    def as_of(self, at: float, vectors: Mapping[str, Vector]) -> dict[str, Vector]:
        """Return the vectors as they were at a time."""
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


class Index:
    """
    An index and its log.

    No timer runs the jobs. Each access first runs all jobs that are due, with the times at which they were
    due. Readers see no difference, a timer cannot race with a request, and tests control the jobs with their
    own clock.

    :param key: Its number in the journal. An index that is created again has a new one.
    """

    def __init__(
        self, key: int, config: IndexConfig, timing: Timing, behaviour: Behaviour, journal: Journal
    ) -> None:
        self.key = key
        self.config = config
        self.watermark: Watermark | None = None
        self.vectors: dict[str, Vector] = {}
        #: By property.
        self.metadata_indexes: dict[str, MetadataIndex] = {}
        #: Counts the changes to the set of ids. Listings share a snapshot until it changes.
        self.ids_version = 0
        self._timing = timing
        self._behaviour = behaviour
        self._journal = journal
        self._pending: deque[Mutation] = deque()
        self._unseen: deque[Batch] = deque()
        self._job_due: float | None = None
        self._last_sequence = 0
        #: The metadata indexes once the whole log is applied. Requests to create or delete one are checked
        #: against these, because the response cannot wait for a job.
        self._coming: dict[str, MetadataIndex] = {}
        self._view: View | None = None
        self._history: History | None = None

    # --- writing ---------------------------------------------------------------------------------------

    def accept(
        self,
        kind: Kind,
        now: float,
        *,
        vectors: Sequence[Vector] = (),
        ids: Sequence[str] = (),
        property_name: str = "",
        index_type: str = "",
    ) -> str:
        """
        Append one mutation to the log.

        :return: The mutation id.
        """
        self.advance(now)
        sequence = self._last_sequence + 1
        mutation = Mutation(
            sequence,
            str(uuid.uuid4()),
            kind,
            now,
            tuple(Vector(*vector[:4], sequence) for vector in vectors),
            tuple(ids),
            property_name,
            index_type,
        )
        self._journal.append(self.key, mutation)
        self._last_sequence = mutation.sequence
        self._pending.append(mutation)
        if self._job_due is None:
            self._job_due = now + self._timing.apply_delay
        metadata.apply_to_metadata_indexes(self._coming, mutation)
        return mutation.id

    def create_metadata_index(self, property_name: str, index_type: str, now: float) -> str:
        """
        Create a metadata index. If the property already has one, it stays as it is, without an error.

        :return: The mutation id.
        :raises ApiError: The index already has the most metadata indexes.
        """
        if property_name not in self._coming and len(self._coming) >= limits.MAX_METADATA_INDEXES:
            raise errors.refusal("too_many_metadata_indexes", limit=limits.MAX_METADATA_INDEXES)
        return self.accept("create_metadata_index", now, property_name=property_name, index_type=index_type)

    def delete_metadata_index(self, property_name: str, now: float) -> str:
        """
        Delete a metadata index.

        :return: The mutation id.
        :raises ApiError: The property has none.
        """
        if property_name not in self._coming:
            raise errors.refusal("metadata_index_not_found", name=property_name)
        return self.accept("delete_metadata_index", now, property_name=property_name)

    # --- the jobs --------------------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """Run the jobs that are due."""
        while self._job_due is not None and self._job_due <= now:
            self._run_job(self._job_due)
        while self._unseen and self._unseen[0].visible_at <= now:
            batch = self._unseen[0]
            self._journal.apply(self.key, batch.mutations)
            self._unseen.popleft()
            if self._history is not None:
                self._history.record(batch.visible_at, self.vectors, batch.mutations)
            self._apply(batch.mutations)

    def _run_job(self, at: float) -> None:
        taken = self._next_batch()
        last = taken[-1]
        stamp = at if self._behaviour.processed_up_to == "batch" else last.accepted_at
        watermark = Watermark(last.id, stamp)
        visible_at = at + self._timing.visibility_lag
        self._journal.publish(self.key, last.sequence, watermark, visible_at)
        for _ in taken:
            self._pending.popleft()
        self.watermark = watermark
        self._unseen.append(Batch(visible_at, taken))
        self._job_due = at + self._timing.apply_delay if self._pending else None

    def _next_batch(self) -> list[Mutation]:
        taken: list[Mutation] = []
        vectors = 0
        for mutation in self._pending:
            vectors += len(mutation.vectors)
            if self._behaviour.deleted_ids_fill_jobs:
                vectors += len(mutation.ids)
            if taken and (len(taken) == limits.MUTATIONS_PER_JOB or vectors > limits.VECTORS_PER_JOB):
                break
            taken.append(mutation)
        return taken

    def _apply(self, mutations: list[Mutation]) -> None:
        """Apply mutations to the vectors and metadata indexes that reads show."""
        vectors = self.vectors
        changed = replaced = False
        for mutation in mutations:
            if mutation.kind == "delete":
                for vector_id in mutation.ids:
                    changed |= vectors.pop(vector_id, None) is not None
                continue
            before = len(vectors)
            if mutation.kind == "upsert":
                vectors.update((vector.id, vector) for vector in mutation.vectors)
                replaced |= bool(mutation.vectors)
            elif mutation.kind == "insert":
                for vector in mutation.vectors:
                    vectors.setdefault(vector.id, vector)
            else:
                replaced |= metadata.apply_to_metadata_indexes(self.metadata_indexes, mutation)
            changed |= len(vectors) != before
        if changed:
            self.ids_version += 1
        if changed or replaced:
            self._view = None

    # --- reading ---------------------------------------------------------------------------------------

    def view(self) -> View:
        """Return the view that queries search; each change to the index makes a new one."""
        if self._view is None:
            self._view = View(self.config, self.vectors, self.metadata_indexes, self._behaviour)
        return self._view

    def remember(self, seconds: float) -> None:
        """
        Keep a history of the vectors, for :meth:`as_of`.

        :param seconds: How far back it reaches; 0 drops the history.
        """
        if not seconds:
            self._history = None
        elif self._history is None:
            self._history = History(seconds)
        else:
            self._history.seconds = seconds

    def as_of(self, at: float) -> Index:
        """Return a copy for reading, with the vectors as they were at a time within the history."""
        past = copy.copy(self)
        if self._history is not None:
            past.vectors = self._history.as_of(at, self.vectors)
            past.ids_version = next(_PAST)
            past._view = None
        return past

    def describe_metadata_indexes(self) -> list[dict[str, str]]:
        """Return the metadata indexes as the service lists them."""
        shown = self.metadata_indexes if self._behaviour.metadata_index_listed == "applied" else self._coming
        return metadata.describe(shown.values())

    def describe(self) -> dict[str, Any]:
        """Return the description of the index, as in the responses to create, get and list indexes."""
        config: dict[str, Any] = {"dimensions": self.config.dimensions, "metric": self.config.metric}
        if self.config.preset is not None:
            config["preset"] = self.config.preset
        created_on = iso(self.config.created_on, "microseconds")
        return {
            "created_on": created_on,
            "modified_on": created_on,
            "name": self.config.name,
            "description": self.config.description,
            "config": config,
        }

    def info(self) -> dict[str, Any]:
        """Return the result of ``info``; it has no watermark before the first job."""
        shown: dict[str, Any] = {
            "dimensions": self.config.dimensions,
            "vectorCount": len(self.vectors),
        }
        if self.watermark is not None:
            shown["processedUpToDatetime"] = iso(self.watermark.at, "milliseconds")
            shown["processedUpToMutation"] = self.watermark.mutation_id
        return shown

    # --- after a restart -------------------------------------------------------------------------------

    def restore(self, found: Restored, now: float) -> None:
        """
        Continue from the state in the journal.

        The next job is due ``apply_delay`` from now, as after an outage of the service.
        """
        self.watermark = found.watermark
        self.vectors = found.vectors
        self._unseen = deque(found.unseen)
        self._pending = deque(found.pending)
        self.metadata_indexes = found.metadata_indexes
        self._coming = dict(found.metadata_indexes)
        log = [*(mutation for batch in found.unseen for mutation in batch.mutations), *found.pending]
        for mutation in log:
            metadata.apply_to_metadata_indexes(self._coming, mutation)
        # Sequence numbers are only compared with each other, so the next one must only be above those in use.
        entries: list[Vector | MetadataIndex | Mutation] = [
            *log,
            *self.metadata_indexes.values(),
            *self.vectors.values(),
        ]
        self._last_sequence = max((entry.sequence for entry in entries), default=0)
        self._job_due = now + self._timing.apply_delay if found.pending else None
