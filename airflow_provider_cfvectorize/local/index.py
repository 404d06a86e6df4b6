# SPDX-License-Identifier: Apache-2.0
"""One index: its log of mutations, the jobs that apply them, and the vectors that readers see."""

from __future__ import annotations

import uuid
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.local.model import (
    IndexConfig,
    Kind,
    Mutation,
    Vector,
    Watermark,
    microseconds,
    milliseconds,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow_provider_cfvectorize.local.behaviour import Behaviour
    from airflow_provider_cfvectorize.local.journal import Journal


@dataclass(frozen=True, slots=True)
class Batch:
    """What one job applied; readers see it from ``visible_at`` on, seconds since the epoch."""

    visible_at: float
    mutations: list[Mutation]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """
    How long writes take.

    :param apply_delay: Seconds from the first pending mutation to the job that applies it, and from one job
        to the next while there is a backlog.
    :param visibility_lag: Seconds from a job until readers other than the watermark see its batch.
    """

    apply_delay: float
    visibility_lag: float


class Index:
    """
    An index and its log.

    Jobs are not run by a timer. Each access first runs all the jobs that were due by then, with the times
    they were due at: no reader can tell the difference, there is no race between a timer and a request, and
    with a clock of their own tests decide what has happened.

    :param key: The number by which the journal knows it; a re-created index has another one.
    :param config: What it was created with.
    :param timing: How long writes take.
    :param behaviour: The switches.
    :param journal: Where everything is written before it counts.
    """

    def __init__(
        self, key: int, config: IndexConfig, timing: Timing, behaviour: Behaviour, journal: Journal
    ) -> None:
        self.key = key
        self.config = config
        self.watermark: Watermark | None = None
        self.vectors: dict[str, Vector] = {}
        #: Counts the changes of the set of ids: while it stays the same, listings can share a snapshot.
        self.ids_version = 0
        self._timing = timing
        self._behaviour = behaviour
        self._journal = journal
        self._pending: deque[Mutation] = deque()
        self._unseen: deque[Batch] = deque()
        self._job_due: float | None = None
        self._last_sequence = 0

    # --- writing ---------------------------------------------------------------------------------------

    def accept(
        self, kind: Kind, now: float, *, vectors: Sequence[Vector] = (), ids: Sequence[str] = ()
    ) -> str:
        """
        Put one mutation into the log.

        :param kind: What it does.
        :param now: Seconds since the epoch.
        :param vectors: The vectors of an insert or upsert.
        :param ids: The ids of a delete.
        :return: The mutation's id.
        """
        self.advance(now)
        mutation = Mutation(self._last_sequence + 1, str(uuid.uuid4()), kind, now, tuple(vectors), tuple(ids))
        self._journal.append(self.key, mutation)
        self._last_sequence = mutation.sequence
        self._pending.append(mutation)
        if self._job_due is None:
            self._job_due = now + self._timing.apply_delay
        return mutation.id

    # --- the jobs --------------------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        """
        Run the jobs that are due.

        :param now: Seconds since the epoch.
        """
        while self._job_due is not None and self._job_due <= now:
            self._run_job(self._job_due)
        while self._unseen and self._unseen[0].visible_at <= now:
            batch = self._unseen[0]
            self._journal.fold(self.key, batch.mutations)
            self._unseen.popleft()
            self._fold(batch.mutations)

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

    def _fold(self, mutations: list[Mutation]) -> None:
        vectors = self.vectors
        changed = False
        for mutation in mutations:
            if mutation.kind == "delete":
                for vector_id in mutation.ids:
                    changed |= vectors.pop(vector_id, None) is not None
                continue
            before = len(vectors)
            if mutation.kind == "upsert":
                vectors.update((vector.id, vector) for vector in mutation.vectors)
            else:
                for vector in mutation.vectors:
                    vectors.setdefault(vector.id, vector)
            changed |= len(vectors) != before
        if changed:
            self.ids_version += 1

    # --- reading ---------------------------------------------------------------------------------------

    def describe(self) -> dict[str, Any]:
        """Return the index as creating, getting and listing indexes show it."""
        config: dict[str, Any] = {"dimensions": self.config.dimensions, "metric": self.config.metric}
        if self.config.preset is not None:
            config["preset"] = self.config.preset
        created_on = microseconds(self.config.created_on)
        return {
            "created_on": created_on,
            "modified_on": created_on,
            "name": self.config.name,
            "description": self.config.description,
            "config": config,
        }

    def info(self) -> dict[str, Any]:
        """Return what ``info`` shows; the watermark's fields are absent before the first mutation."""
        shown: dict[str, Any] = {
            "dimensions": self.config.dimensions,
            "vectorCount": len(self.vectors),
        }
        if self.watermark is not None:
            shown["processedUpToDatetime"] = milliseconds(self.watermark.at)
            shown["processedUpToMutation"] = self.watermark.mutation_id
        return shown

    # --- after a restart -------------------------------------------------------------------------------

    def restore(
        self,
        now: float,
        watermark: Watermark | None,
        vectors: dict[str, Vector],
        unseen: list[Batch],
        pending: list[Mutation],
    ) -> None:
        """
        Go on where the journal ends.

        The next job is due ``apply_delay`` from now, as if the service had been away and come back.

        :param now: Seconds since the epoch.
        :param watermark: The last mutation applied.
        :param vectors: What readers see.
        :param unseen: The batches that are applied but not visible.
        :param pending: The mutations that no job has taken.
        """
        self.watermark = watermark
        self.vectors = vectors
        self._unseen = deque(unseen)
        self._pending = deque(pending)
        known = [*(batch.mutations[-1] for batch in unseen), *pending[-1:]]
        self._last_sequence = known[-1].sequence if known else 0
        self._job_due = now + self._timing.apply_delay if pending else None
