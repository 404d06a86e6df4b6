# SPDX-License-Identifier: Apache-2.0
"""
Tasks under faults: the jobs, how the tests run them, and the rules that always hold.

One function checks each of five rules: the index has the intended state (:meth:`Job.check_done`), no batch
is silently lost (:meth:`Job.check_partly`), there is no storm of requests (:func:`check_requests`), an error
names the fault (:func:`check_error`), and every reported success is true (:func:`check_success`).
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
#: Vectors per upsert: 5,000 vectors need as many requests as 50,000 with the service's limit.
UPSERT_SIZE = 500
POLL_INTERVAL = 0.05
#: The timeout of clients that get endless answers; long enough for other answers, even on a busy machine.
SHORT_TIMEOUT = 1.0
WAIT: dict[str, Any] = {"wait_for_completion": True, "poll_interval": POLL_INTERVAL, "wait_timeout": 60}

#: Retries for as long as a busy machine needs, with short pauses.
PATIENT = RetryLimits(backoff_total=60, first_backoff=0.002, longest_backoff=0.05, throttle_total=60)
#: Never retries: each fault fails the attempt of the task.
IMPATIENT = RetryLimits(backoff_total=0, throttle_total=0, refusal_total=0)

#: By kind of fault that fails a request: the text of the error.
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
#: Kinds of faults after which the request has taken effect.
APPLIED_DESPITE_THE_FAULT = ("reset-after", "truncated", "hang")


def set_policy(monkeypatch: Any, policy: RetryLimits) -> None:
    """Set the retry policy of the operators' clients, which a connection cannot set."""
    monkeypatch.setattr(vectorize, "client_of", partial(vectorize.client_of, retry=policy))


def set_upsert_size(monkeypatch: Any) -> None:
    """Split 5,000 vectors into several requests."""
    monkeypatch.setattr(write, "VectorBatches", partial(write.VectorBatches, max_vectors=UPSERT_SIZE))


def timeout_for(faults: Iterable[str]) -> float | None:
    """Return a connection's timeout under these faults; None for the default."""
    return SHORT_TIMEOUT if any(fault.startswith("hang") for fault in faults) else None


class Clock(harness.Clock):
    """A server's clock that can be put forward by the minutes between two attempts, or stopped."""

    stopped_at: float | None = None

    def pass_a_minute(self) -> None:
        """Apply everything that is accepted."""
        self.ahead += 60

    def stop(self) -> None:
        """Stop the clock, so that nothing more is applied."""
        self.stopped_at = super().__call__()

    def __call__(self) -> float:
        return super().__call__() if self.stopped_at is None else self.stopped_at


# --- jobs ---------------------------------------------------------------------------------------------------


class Job:
    """
    A task on an index and its effect.

    :param vectorize: the empty index.
    :param directory: a directory for the task's files.
    """

    name: ClassVar[str]
    #: The endpoint of its batches, and the requests of a run without faults, except polls and witnesses.
    write: ClassVar[str]
    requests: ClassVar[int]
    batches: ClassVar[int]
    ids: tuple[str, ...]
    #: The ids of the index before and after.
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
        """Check that the index has exactly the intended state now."""
        assert self.vectorize.ids() == self.after

    def check_partly(self, error: VectorizeBatchError) -> None:
        """Check that the index matches an error's counts, once everything is applied."""
        assert error.acknowledged + error.failed + (error.not_sent or 0) == len(self.ids)
        changed = len(self.before ^ self.vectorize.ids())
        # A failed request may have taken effect and only lost its answer.
        assert error.acknowledged <= changed <= error.acknowledged + error.failed
        assert self.vectorize.ids() >= OTHERS


class Delete(Job):
    """A delete of 5,000 of 5,050 ids."""

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
    """A reconciliation that deletes 5,000 of 6,000 ids; 100 of the 1,050 desired ids are missing."""

    name = "reconcile"
    write = "delete_by_ids"
    #: A request for the index, six pages, and the batches.
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
    """An upsert of 5,000 vectors from a file: 50 exist with other values, and some are in the file twice."""

    name = "upsert"
    write = "upsert"
    #: A request for the index, one for its dimensions, and the batches.
    requests = 12
    batches = 10
    #: The first ids are again in the last request, with the final values.
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
        # Some ids of every request, and those that existed before or are in the file twice.
        some = [*written][:150] + [*written][150::97]
        for start in range(0, len(some), 20):
            found = self.vectorize.client.get_by_ids(INDEX, some[start : start + 20])
            assert {vector["id"]: vector["values"] for vector in found} == {
                id_: written[id_] for id_ in some[start : start + 20]
            }

    def check_partly(self, error: VectorizeBatchError) -> None:
        # Requests are sequential: the acknowledged vectors are at the start of the file.
        there = self.vectorize.ids()
        assert error.failed == UPSERT_SIZE
        assert there >= {*self.before, *self.ids[: error.acknowledged]}
        assert there <= {*self.before, *self.ids[: error.acknowledged + error.failed]}


JOBS: dict[str, type[Job]] = {job.name: job for job in (Delete, Upsert, Reconcile)}


# --- runs ---------------------------------------------------------------------------------------------------


@dataclass
class Run:
    """
    The outcome of a task.

    :param errors: the error of each failed attempt.
    :param pushed: the XComs of the last attempt.
    :param result: the return value of the last attempt, if it succeeded.
    :param succeeded: whether the last attempt succeeded.
    :param seconds: the total time.
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
    Run a task like Airflow, until it succeeds or has no attempts left.

    :param make: creates its operator.
    :param tries: the number of attempts.
    :param store: the store that Airflow keeps between attempts; None as before Airflow 3.3.
    :param between: replaces the minutes between two attempts.
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


# --- checks -------------------------------------------------------------------------------------------------


def injected_failures(server: LocalVectorize) -> int:
    """Return the number of injected failures."""
    return sum(count for kind, count in server.injected().items() if kind in NAMES)


def check_requests(server: LocalVectorize, job: Job, run: Run, *, resumes: bool = True) -> None:
    """
    Check that there was no storm of writes or of polls.

    :param server: the server that counted the requests.
    :param job: the job.
    :param run: its outcome.
    :param resumes: whether an attempt resumes from saved progress; if not, each attempt sends everything.
    """
    stats = Counter(server.stats())
    injected = injected_failures(server)
    polls = stats.pop("info", 0) + stats.pop("get_by_ids", 0)
    sent = +stats
    assert sent.total() <= 1.5 * job.requests * (1 if resumes else run.tries) + injected, (
        sent,
        injected,
        run.errors,
    )
    # Each attempt may read witnesses and the dimensions up to three times, and may poll twice more than it
    # pauses. A poll is two requests.
    assert polls <= 2 * run.seconds / POLL_INTERVAL + 8 * run.tries + injected, (polls, injected, run.errors)


def check_error(error: Exception, kinds: Iterable[str]) -> None:
    """Check that an error names one of the faults."""
    assert isinstance(error, VectorizeError)
    assert any(re.search(NAMES[kind], str(error)) for kind in kinds if kind in NAMES), error


def check_success(job: Job, run: Run) -> None:
    """
    Check that a reported success is true at that moment.

    Call it at once, after all faults are removed.
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
    """Check that each failed attempt names its fault and that none polls like a success."""
    for error in run.errors:
        check_error(error, kinds)
    if not run.succeeded:
        assert run.result is None
        assert not {"receipt", "evidence"} & set(run.pushed)
