# SPDX-License-Identifier: Apache-2.0
"""The trigger that waits in the triggerer until writes are applied, and the deferral to it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final, NoReturn

from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import conf
from airflow.triggers.base import BaseTrigger, TriggerEvent

from airflow_provider_cfvectorize.exceptions import VectorizeError
from airflow_provider_cfvectorize.triggers.events import (
    applied_event,
    error_event,
    timeout_event,
)

if TYPE_CHECKING:
    from airflow_provider_cfvectorize.client.mutations.receipts import Receipt

#: Seconds for a process to end and for the scheduler to read its end. With 1 s, Airflow failed 1 of 100
#: tasks on a busy machine.
EXIT_SECONDS: Final = 5.0
#: Seconds after the trigger's own deadline at which Airflow ends a deferral without an event.
BACKSTOP_SECONDS: Final = 60


def _seconds_before_event() -> float:
    # Airflow 3 fails a task that is queued again before the scheduler has read the end of the worker process
    # that deferred it (process_executor_events of 3.0.6 to 3.3.2). The supervisor of that process can notice
    # its end one interval late. Airflow 2 has another supervisor.
    if airflow_version.startswith("2."):
        return 0.0
    interval: float = conf.getfloat("workers", "min_heartbeat_interval", fallback=5.0)
    return interval + EXIT_SECONDS


class VectorizeMutationTrigger(BaseTrigger):
    """
    Wait until mutations of an index are applied. All waits on one index share one poll.

    The trigger only reads, so running it twice is harmless. Its arguments are in Airflow's database
    unencrypted; they contain no secret.

    :param conn_id: the connection.
    :param index_name: the index.
    :param receipts: the receipts to wait for, each as ``Receipt.as_argument`` returns it; ``condense`` limits
        their number.
    :param end_time: the deadline in seconds since the epoch, which is valid across processes.
    :param wait_seconds: the length of the whole wait in seconds, for the error at its end.
    :param poll_interval: seconds between two polls.
    :param account_id: the account; the connection's login if not given.
    :param was_accepted: the service has accepted the credentials in this task, so a refusal may be temporary.
    """

    def __init__(
        self,
        *,
        conn_id: str,
        index_name: str,
        receipts: Sequence[dict[str, Any]],
        end_time: float,
        wait_seconds: float,
        poll_interval: float = 10,
        account_id: str | None = None,
        was_accepted: bool = False,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.conn_id = conn_id
        self.index_name = index_name
        self.receipts = list(receipts)
        self.end_time = end_time
        self.wait_seconds = wait_seconds
        self.poll_interval = poll_interval
        self.account_id = account_id
        self.was_accepted = was_accepted

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and its arguments as JSON values."""
        return (
            "airflow_provider_cfvectorize.triggers.mutation.VectorizeMutationTrigger",
            {
                "conn_id": self.conn_id,
                "index_name": self.index_name,
                "receipts": self.receipts,
                "end_time": self.end_time,
                "wait_seconds": self.wait_seconds,
                "poll_interval": self.poll_interval,
                "account_id": self.account_id,
                "was_accepted": self.was_accepted,
            },
        )

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """
        Wait and send one event: applied with the evidence, timed out, or failed.

        In a triggerer of Airflow 3, the event comes at least 10 s after the start.
        """
        started = time.monotonic()
        try:
            event = await self._wait()
        except VectorizeError as e:
            event = error_event(e)
        except Exception as e:
            # soft_fail would skip an exception that leaves run().
            self.log.exception("The wait ended unexpectedly")
            event = error_event(VectorizeError(f"the trigger failed: {type(e).__name__}: {e}"))
        # Only a triggerer gives its triggers an id; dag.test() does not.
        if self.trigger_id is not None:
            await asyncio.sleep(started + _seconds_before_event() - time.monotonic())
        yield TriggerEvent(event)

    async def _wait(self) -> dict[str, Any]:
        from airflow_provider_cfvectorize.client.mutations.evidence import WaitLog
        from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
        from airflow_provider_cfvectorize.triggers.poll import watch

        receipts = [Receipt.from_argument(value) for value in self.receipts]
        client = await self._make_client()
        if self.was_accepted:
            client.session.history.note_accepted(reading=True)
        so_far = WaitLog(receipts, self.index_name, self.log)
        seeing = watch(
            client,
            self.index_name,
            receipts,
            interval=self.poll_interval,
            # The poll uses the monotonic clock; the deadline is in wall time.
            seconds_left=lambda: self.end_time - time.time(),
            renew=self._make_client,
        )
        async with aclosing(seeing):
            async for seen in seeing:
                if seen.state is not None and seen.decisions is not None:
                    so_far.note(seen.state, seen.decisions)
                if seen.failure:
                    so_far.note_failure(seen.failure)
                if (evidence := so_far.evidence(client.account_id)) is not None:
                    return applied_event(evidence)
                if seen.is_last:
                    return timeout_event(so_far.timeout(self.wait_seconds))
                so_far.log_news()
        raise VectorizeError("the poll ended without an event")

    async def _make_client(self) -> Any:
        from airflow.providers.common.compat.connection import get_async_connection

        from airflow_provider_cfvectorize.hooks.vectorize import client_of

        # Without the hook's class: older releases do not accept it.
        conn = await get_async_connection(self.conn_id)
        # Nothing sleeps or retries here: the next poll is the retry.
        return client_of(conn, account_id=self.account_id, retry=None)


def defer(
    task: Any,
    receipts: Sequence[Receipt],
    *,
    limit: float,
    interval: float,
    started: float,
    was_accepted: bool,
    kwargs: Mapping[str, Any],
) -> NoReturn:
    """
    Defer a task until mutations are applied; its ``execute_complete`` gets the trigger's event.

    :param task: a sensor or operator with an index, a connection and an account.
    :param limit: the longest wait in seconds; a shorter ``execution_timeout`` of the task replaces it.
    :param interval: seconds between two polls.
    :param started: the start of the wait in seconds since the epoch.
    :param was_accepted: the service has accepted the credentials in this task.
    :param kwargs: further arguments of ``execute_complete``.
    """
    from airflow_provider_cfvectorize.client.mutations.evidence import describe_deferral

    seconds = limit
    if task.execution_timeout is not None:
        # Airflow 3 does not apply it to a deferred task.
        seconds = min(limit, task.execution_timeout.total_seconds())
    text = describe_deferral(receipts, task.index_name, interval=interval, seconds=seconds)
    task.log.info("%s", text)
    task.defer(
        trigger=VectorizeMutationTrigger(
            conn_id=task.conn_id,
            account_id=task.account_id,
            index_name=task.index_name,
            receipts=[receipt.as_argument() for receipt in receipts],
            end_time=started + seconds,
            wait_seconds=seconds,
            poll_interval=interval,
            was_accepted=was_accepted,
        ),
        method_name="execute_complete",
        kwargs=kwargs,
        timeout=timedelta(seconds=seconds + BACKSTOP_SECONDS),
    )
    raise AssertionError("defer() does not return")
