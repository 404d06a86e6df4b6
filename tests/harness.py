# SPDX-License-Identifier: Apache-2.0
"""Shared tools: a test index, fake task instances, and a task run in each of Airflow's modes."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import AirflowSkipException, TaskDeferred
from airflow.triggers.base import BaseTrigger

try:
    from airflow.sdk.exceptions import AirflowRescheduleException
except ImportError:
    from airflow.exceptions import AirflowRescheduleException

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.local import LocalVectorize

INDEX = "docs"
DIMENSIONS = 32
MODES = ("poke", "reschedule", "deferrable")
#: The outcomes of a wait for a write. A poll is two requests: if the write is applied between them, the
#: witnesses show it before the watermark does.
PROVEN = ("watermark", "read_back")


class Clock:
    """A server's clock, which a test can put forward."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


class Vectorize:
    """An index of a local server, accessed through a plain client instead of the hook."""

    def __init__(
        self, server: LocalVectorize, index_name: str = INDEX, *, dimensions: int = DIMENSIONS
    ) -> None:
        self.server = server
        self.index_name = index_name
        self.client = VectorizeClient(
            server.account_id, api_token=server.api_token, base_url=server.base_url, retry=None
        )
        self.client.create_index(index_name, dimensions=dimensions, metric="cosine")

    def fill(self, ids: Iterable[str]) -> None:
        """Upsert vectors and wait until they can be read."""
        vectors = [{"id": id_, "values": [0.5] * DIMENSIONS} for id_ in ids]
        mutation = None
        for start in range(0, len(vectors), 5000):
            mutation = self.client.upsert(self.index_name, vectors[start : start + 5000])
        if mutation:
            self.wait_for(mutation["mutationId"])

    def delete(self, ids: Iterable[str]) -> dict[str, Any]:
        """Delete up to 100 ids and return the receipt, as an operator would."""
        batch = list(ids)
        mutation = self.client.delete_by_ids(self.index_name, batch)
        return {
            "mutation_id": mutation["mutationId"],
            "index_name": self.index_name,
            "account_id": self.client.account_id,
            "accepted_at": mutation["accepted_at"],
            "count": len(batch),
            "batches": 1,
            "witness_ids": batch[:5],
        }

    def ids(self) -> set[str]:
        """Return all ids of the index."""
        found: set[str] = set()
        cursor = None
        while True:
            page = self.client.list_vectors(self.index_name, count=1000, cursor=cursor)
            found |= {vector["id"] for vector in page["vectors"]}
            cursor = page.get("nextCursor")
            if not page["isTruncated"]:
                return found

    def watermark(self) -> str | None:
        """Return the last applied mutation."""
        return self.client.info(self.index_name).get("processedUpToMutation")

    def wait_for(self, mutation_id: str) -> None:
        """Wait until the watermark is this mutation."""
        wait_until(lambda: self.watermark() == mutation_id)

    def settle(self) -> None:
        """Wait until all accepted mutations are applied."""
        self.wait_for(self.server.foreign_write(self.index_name)[self.index_name][-1])


def wait_until(condition: Callable[[], bool], seconds: float = 30, *, interval: float = 0.01) -> None:
    """Check a condition every ``interval`` seconds until it is true; fail after ``seconds``."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(interval)


class FakeTaskInstance:
    """A task instance in memory, with the methods that an operator calls."""

    dag_id, run_id, map_index, try_number, max_tries, task_id = "dag", "run", -1, 1, 0, "task"

    def __init__(self, upstream: dict[str, list[Any]] | None = None) -> None:
        self.pushed: dict[str, Any] = {}
        self.upstream = upstream or {}
        self.first_reschedule: datetime | None = None

    def xcom_push(self, key: str, value: Any) -> None:
        # Airflow stores JSON.
        self.pushed[key] = json.loads(json.dumps(value))

    def xcom_pull(self, task_ids: list[str], key: str) -> list[Any]:
        assert key == "receipt"
        return [value for task_id in task_ids for value in self.upstream.get(task_id, [])]

    def get_first_reschedule_date(self, context: Any) -> datetime | None:
        return self.first_reschedule


class FakeTask:
    """A task that knows its upstream tasks."""

    def __init__(self, upstream: Iterable[str]) -> None:
        self.upstream_task_ids = set(upstream)


def make_context(upstream: dict[str, list[Any]] | None = None) -> dict[str, Any]:
    """Return a task's context; ``upstream`` holds the receipts that upstream tasks pushed."""
    return {"ti": FakeTaskInstance(upstream), "task": FakeTask(upstream or {})}


@contextmanager
def first_reschedule_date(ti: FakeTaskInstance) -> Iterator[None]:
    """Let Airflow 2 read the first reschedule date from our task instance instead of its database."""
    if not airflow_version.startswith("2."):
        yield
        return
    import airflow.sensors.base as base

    original = base._orig_start_date
    base._orig_start_date = lambda **_: ti.first_reschedule
    try:
        yield
    finally:
        base._orig_start_date = original


def run_task(
    make: Callable[[], Any], context: dict[str, Any], on_defer: Callable[[], None] = lambda: None
) -> Any:
    """
    Run a task to its end as Airflow does, in each mode, and return its result.

    A new operator continues after each reschedule and each deferral, as in a new process. The trigger's
    arguments and its event go through JSON.
    """
    ti = context["ti"]
    with first_reschedule_date(ti):
        resume = lambda: make().execute(context)  # noqa: E731
        while True:
            try:
                return resume()
            except AirflowRescheduleException as e:
                ti.first_reschedule = ti.first_reschedule or datetime.now(UTC)
                time.sleep(max(0.0, (e.reschedule_date - datetime.now(UTC)).total_seconds()))
            except TaskDeferred as deferred:
                on_defer()
                event = asyncio.run(first_event(remake(deferred.trigger)))
                kwargs = json.loads(json.dumps(deferred.kwargs or {})) | {"event": event}
                resume = partial(make().resume_execution, deferred.method_name, kwargs, context)


def remake(trigger: BaseTrigger) -> BaseTrigger:
    """Return the trigger as the triggerer builds it from its row in the database."""
    path, kwargs = trigger.serialize()
    assert path == f"{type(trigger).__module__}.{type(trigger).__qualname__}"
    return type(trigger)(**json.loads(json.dumps(kwargs)))


async def first_event(trigger: BaseTrigger) -> Any:
    """Return the payload of the trigger's only event."""
    events = [event.payload async for event in trigger.run()]
    assert len(events) == 1
    return json.loads(json.dumps(events[0]))


def outcome_of(run: Callable[[], Any]) -> tuple[str, Any]:
    """Return how Airflow ends a task: success and the result, or skipped or failed and the error."""
    try:
        return "success", run()
    except AirflowSkipException as e:
        return "skipped", e
    except Exception as e:
        return "failed", e
