# SPDX-License-Identifier: Apache-2.0
"""
Tasks on a bad day: what they are to do, how they are run, and what must hold whatever happens.

Five things must hold, and each is asserted in one place here: the state of the index is the intended one
(:meth:`Job.check_done`), no batch is silently lost (:meth:`Job.check_partly`), there is no storm of requests
(:func:`check_requests`), an error names the fault (:func:`check_error`), and no success is reported that is
not true (:func:`check_success`).
"""

from __future__ import annotations

import json
import re
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import harness
from airflow_provider_cfvectorize.client.bulk import write
from airflow_provider_cfvectorize.client.http.session import RetryLimits
from airflow_provider_cfvectorize.exceptions import VectorizeBatchError, VectorizeError
from airflow_provider_cfvectorize.hooks import vectorize
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.operators.vectors import (
    DeleteVectorsByIdsOperator,
    ReconcileVectorsOperator,
    UpsertVectorsOperator,
)
from client.stores import Store
from harness import DIMENSIONS, INDEX, Vectorize, make_context, run_task

COUNT = 5000
OTHERS = {f"other-{i:03}" for i in range(50)}
#: Vectors of one upsert here, so that 5,000 are as many requests as the service's cap makes of 50,000.
UPSERT_SIZE = 500
POLL_INTERVAL = 0.05
#: Of clients that meet answers without an end; long enough for others, on a busy machine too.
SHORT_TIMEOUT = 1.0
WAIT: dict[str, Any] = {"wait_for_completion": True, "poll_interval": POLL_INTERVAL, "wait_timeout": 60}

#: Goes on for as long as a busy machine may take, with pauses that a test can afford.
PATIENT = RetryLimits(backoff_total=60, first_backoff=0.002, longest_backoff=0.05, throttle_total=60)
#: Leaves every fault to the next try of the task.
IMPATIENT = RetryLimits(backoff_total=0, throttle_total=0, refusal_total=0)

#: Of each kind that fails a request, what an error that comes of it says.
NAMES = {
    "reset-before": r"no response from .*([Rr]eset|closed|aborted)",
    "reset-after": r"no response from .*([Rr]eset|closed|aborted)",
    "429": r"HTTP 429, code 10100: the account's request budget is used up",
    "40041": r"HTTP 400, code 40041: the account's request budget is used up",
    "500": r"HTTP 500 with a body that is not the API's JSON",
    "503": r"HTTP 503 with a body that is not the API's JSON",
    "504": r"HTTP 504 with a body that is not the API's JSON",
    "refuse": r"HTTP 403, code 10000: 'Authentication error'",
    "challenge": r"HTTP 403 with a body that is not the API's JSON",
    "truncated": r"HTTP 200 with a body that is not the API's JSON",
    "hang": r"no complete response from .* s between two reads",
}
#: Kinds after which the work is done all the same.
DONE_ALL_THE_SAME = ("reset-after", "truncated", "hang")


def set_policy(monkeypatch: Any, policy: RetryLimits) -> None:
    """Let the clients of operators retry by this policy, which no connection can say."""
    monkeypatch.setattr(vectorize, "client_of", partial(vectorize.client_of, retry=policy))


def set_upsert_size(monkeypatch: Any) -> None:
    """Let 5,000 vectors be several requests."""
    monkeypatch.setattr(write, "VectorBatches", partial(write.VectorBatches, max_vectors=UPSERT_SIZE))


def timeout_for(faults: Iterable[str]) -> float | None:
    """Return the timeout for a connection that meets these faults; None for the default."""
    return SHORT_TIMEOUT if any(fault.startswith("hang") for fault in faults) else None


class Clock(harness.Clock):
    """A server's clock that can be put forward by the minutes between two tries, or stopped."""

    stopped_at: float | None = None

    def pass_a_minute(self) -> None:
        """Let everything be applied that is accepted."""
        self.ahead += 60

    def stop(self) -> None:
        """Let nothing be applied any more."""
        self.stopped_at = super().__call__()

    def __call__(self) -> float:
        return super().__call__() if self.stopped_at is None else self.stopped_at


# --- what is to be done -------------------------------------------------------------------------------------


class Job:
    """
    A task on an index, and what it leaves.

    :param vectorize: the index, which is empty.
    :param directory: where files of the task may be.
    """

    name: ClassVar[str]
    #: Where its batches go, and the requests of a fault-free run but for looks and questions.
    write: ClassVar[str]
    requests: ClassVar[int]
    batches: ClassVar[int]
    ids: tuple[str, ...]
    #: What the index holds before and after.
    before: frozenset[str]
    after: frozenset[str]

    def __init__(self, vectorize: Vectorize, directory: Path) -> None:
        self.vectorize = vectorize
        self.directory = directory
        vectorize.fill(sorted(self.before))
        vectorize.server.reset_stats()

    def make(self, **kwargs: Any) -> Any:
        """Return an operator."""
        raise NotImplementedError

    def check_done(self) -> None:
        """Check that the index is exactly as intended, now."""
        assert self.vectorize.ids() == self.after

    def check_partly(self, error: VectorizeBatchError) -> None:
        """Check that the index is as an error says, once all is applied."""
        assert error.acknowledged + error.failed + (error.not_sent or 0) == len(self.ids)
        changed = len(self.before ^ self.vectorize.ids())
        # Of what failed, the answer may have been lost and not the work.
        assert error.acknowledged <= changed <= error.acknowledged + error.failed
        assert self.vectorize.ids() >= OTHERS


class Delete(Job):
    """Deletes 5,000 of 5,050 ids."""

    name = "delete"
    write = "delete_by_ids"
    requests = 51
    batches = 50
    ids = tuple(f"v{i:04}" for i in range(COUNT))
    before = OTHERS | frozenset(ids)
    after = frozenset(OTHERS)

    def make(self, **kwargs: Any) -> DeleteVectorsByIdsOperator:
        return DeleteVectorsByIdsOperator(
            **{"task_id": "delete", "index_name": INDEX, "ids": list(self.ids), **kwargs}
        )


class Reconcile(Job):
    """Deletes 5,000 of 6,000 ids, since 1,050 others are desired, of which 100 are missing."""

    name = "reconcile"
    write = "delete_by_ids"
    #: The index once, six pages, and the batches.
    requests = 57
    batches = 50
    ids = tuple(f"v{i:04}" for i in range(COUNT))
    after = OTHERS | frozenset(f"keep-{i:03}" for i in range(900))
    before = after | frozenset(ids)

    def make(self, **kwargs: Any) -> ReconcileVectorsOperator:
        desired = sorted(self.after | {f"missing-{i:02}" for i in range(100)})
        arguments = {"task_id": "reconcile", "index_name": INDEX, "ids": desired, "max_delete_fraction": 0.9}
        return ReconcileVectorsOperator(**{**arguments, **kwargs})


class Upsert(Job):
    """Writes 5,000 vectors from a file, 50 of which are there with other values, and some of which twice."""

    name = "upsert"
    write = "upsert"
    #: The index once, its dimensions once, and the batches.
    requests = 12
    batches = 10
    #: The first ones come again in the last request, with the values that count.
    ids = tuple(f"v{i:04}" for i in [*range(COUNT - 20), *range(20)])
    before = OTHERS | frozenset(ids[100:150])
    after = OTHERS | frozenset(ids)

    def __init__(self, vectorize: Vectorize, directory: Path) -> None:
        super().__init__(vectorize, directory)
        self._path = directory / "vectors.ndjson"
        self._path.write_text("".join(f"{json.dumps(vector)}\n" for vector in self._vectors()))

    def _vectors(self) -> Iterator[dict[str, Any]]:
        for i, id_ in enumerate(self.ids):
            yield {"id": id_, "values": [1 + i / 8] * DIMENSIONS}

    def make(self, **kwargs: Any) -> UpsertVectorsOperator:
        return UpsertVectorsOperator(
            **{"task_id": "upsert", "index_name": INDEX, "vectors_path": str(self._path), **kwargs}
        )

    def check_done(self) -> None:
        super().check_done()
        written = {vector["id"]: vector["values"] for vector in self._vectors()}
        # Some of every request, and those that were there before or come twice.
        some = [*written][:150] + [*written][150::97]
        for start in range(0, len(some), 20):
            found = self.vectorize.client.get_by_ids(INDEX, some[start : start + 20])
            assert {vector["id"]: vector["values"] for vector in found} == {
                id_: written[id_] for id_ in some[start : start + 20]
            }

    def check_partly(self, error: VectorizeBatchError) -> None:
        # One after the other, so what is acknowledged is where the file begins.
        there = self.vectorize.ids()
        assert error.failed == UPSERT_SIZE
        assert there >= {*self.before, *self.ids[: error.acknowledged]}
        assert there <= {*self.before, *self.ids[: error.acknowledged + error.failed]}


JOBS: dict[str, type[Job]] = {job.name: job for job in (Delete, Upsert, Reconcile)}


# --- how it is run ------------------------------------------------------------------------------------------


@dataclass
class Run:
    """
    What became of a task.

    :param errors: what each failed try ended with.
    :param pushed: the XComs of the last try.
    :param result: what the last try returned, if it succeeded.
    :param succeeded: whether it did.
    :param seconds: how long all of it took.
    """

    errors: list[Exception] = field(default_factory=list)
    pushed: dict[str, Any] = field(default_factory=dict)
    result: Any = None
    succeeded: bool = False
    seconds: float = 0.0

    @property
    def tries(self) -> int:
        return len(self.errors) + self.succeeded


def run_tries(
    make: Callable[[], Any],
    tries: int = 1,
    store: Store | None = None,
    between: Callable[[], None] = lambda: None,
) -> Run:
    """
    Run a task as Airflow would, until it succeeds or has no more tries.

    :param make: makes its operator.
    :param tries: how many it has.
    :param store: what Airflow keeps of it between two tries; None as before Airflow 3.3.
    :param between: stands in for the minutes between two tries.
    """
    run = Run()
    started = time.monotonic()
    while not run.succeeded and len(run.errors) < tries:
        context = make_context()
        if store is not None:
            context["task_state_store"] = store
        try:
            run.result = run_task(make, context)
            run.succeeded = True
        except VectorizeError as e:
            run.errors.append(e)
            between()
        run.pushed = context["ti"].pushed
    run.seconds = time.monotonic() - started
    return run


# --- what must hold -----------------------------------------------------------------------------------------


def injected_failures(server: LocalVectorize) -> int:
    """Return how many requests failed on purpose."""
    return sum(count for kind, count in server.injected().items() if kind in NAMES)


def check_requests(server: LocalVectorize, job: Job, run: Run, *, kept: bool = True) -> None:
    """
    Check that there was no storm: of what the task sends, and of looks while it waits.

    :param server: counts them.
    :param job: what was done.
    :param run: how.
    :param kept: whether a try knows how far the one before it came; else each sends everything.
    """
    stats = Counter(server.stats())
    injected = injected_failures(server)
    looks = stats.pop("info", 0) + stats.pop("get_by_ids", 0)
    sent = +stats
    assert sent.total() <= 1.5 * job.requests * (1 if kept else run.tries) + injected, (
        sent,
        injected,
        run.errors,
    )
    # Of each try, up to three questions about witnesses (and the dimensions), and two looks more than there
    # were pauses, of two requests each.
    assert looks <= 2 * run.seconds / POLL_INTERVAL + 8 * run.tries + injected, (looks, injected, run.errors)


def check_error(error: Exception, kinds: Iterable[str]) -> None:
    """Check that an error names one of the faults that there were."""
    assert isinstance(error, VectorizeError)
    assert any(re.search(NAMES[kind], str(error)) for kind in kinds if kind in NAMES), error


def check_success(job: Job, run: Run) -> None:
    """
    Check that what a task reported is true, at the moment when it did.

    To be called at once, and with no faults any more that the check would meet.
    """
    assert run.succeeded, run.errors
    job.check_done()
    receipt, evidence = run.pushed["receipt"], run.pushed["evidence"]
    assert run.result == receipt["mutation_id"] == evidence["mutation_id"]
    assert evidence["outcome"] in ("watermark", "read_back", "nothing_to_do"), evidence
    assert evidence["still_visible"] == []
    if run.tries == 1:
        assert (receipt["count"], receipt["batches"]) == (len(job.ids), job.batches)


def check_failures(run: Run, kinds: Collection[str]) -> None:
    """Check that no try that failed is taken for a success, and that each names its fault."""
    for error in run.errors:
        check_error(error, kinds)
    if not run.succeeded:
        assert run.result is None
        assert not {"receipt", "evidence"} & set(run.pushed)
