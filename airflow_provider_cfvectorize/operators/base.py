# SPDX-License-Identifier: Apache-2.0
"""The base classes of the operators: requests for all, receipt and wait for those that write."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn, ParamSpec, TypeVar

from airflow.providers.common.compat.sdk import BaseOperator, conf

from airflow_provider_cfvectorize.airflow_rendering import VerbatimStringsMixin
from airflow_provider_cfvectorize.client.http.refusals import CredentialHistory
from airflow_provider_cfvectorize.client.inputs.names import check_path_name
from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.connection import DEFAULT_CONN_ID
from airflow_provider_cfvectorize.exceptions import (
    VectorizeError,
    VectorizeInputError,
    VectorizeInterrupted,
    VectorizeWaitTimeout,
    is_permanent,
)
from airflow_provider_cfvectorize.links import VectorizeIndexLink
from airflow_provider_cfvectorize.templating import (
    check_account,
    check_flags,
    to_seconds,
)
from airflow_provider_cfvectorize.triggers.events import (
    check_execution_timeout,
    is_of_an_earlier_try,
    read_event,
    start_over,
)

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.providers.common.compat.sdk import Context
    from airflow.providers.openlineage.extractors import OperatorLineage

    from airflow_provider_cfvectorize.client.bulk.checkpoint import Checkpoint
    from airflow_provider_cfvectorize.client.client import VectorizeClient
    from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
    from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook
    from airflow_provider_cfvectorize.lineage import Change, Flow

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

#: The limit of numbers of ids and seconds; 10**9 seconds are thirty years.
MOST: Final = 10**9


class VectorizeOperator(VerbatimStringsMixin, BaseOperator):
    """
    The base of all operators.

    :param index_name: the index. (templated)
    :param conn_id: the connection. (templated)
    :param account_id: the account; the connection's login if not given. (templated)
    """

    template_fields: Sequence[str] = ("index_name", "conn_id", "account_id")
    ui_color = "#f6d5c3"
    operator_extra_links = (VectorizeIndexLink(),)

    #: The account that the task uses, set before the first request; for the link and the lineage.
    used_account: str | None = None
    #: The change to the index itself, not to its vectors.
    change: Change | None = None

    def __init__(
        self,
        *,
        index_name: str,
        conn_id: str = DEFAULT_CONN_ID,
        account_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.index_name = index_name
        self.conn_id = conn_id
        self.account_id = account_id
        self._given_account = account_id
        self._history = CredentialHistory()
        self._killed = False

    def on_kill(self) -> None:
        """Set the flag that the main loop checks; this method runs in a signal handler."""
        self._killed = True

    def is_killed(self) -> bool:
        """Return whether the task must stop."""
        return self._killed

    def check_number(
        self, name: str, least: float, most: float = MOST, *, whole: bool = False, hint: str = ""
    ) -> None:
        """Check a numeric parameter."""
        value = getattr(self, name)
        fits = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
        if not fits or not least <= value <= most:
            raise VectorizeInputError(
                f"{name} is {show(value)}, expected {'an integer' if whole else 'a number'} from {least:g} "
                f"to {most:,}{hint}"
            )

    def check_choice(self, name: str, *choices: str) -> None:
        """
        Check that a parameter is one of a few words.

        :param choices: the words, at least two.
        """
        value = getattr(self, name)
        if not isinstance(value, str) or value not in choices:
            *others, last = map(repr, choices)
            raise VectorizeInputError(f"{name} is {show(value)}, expected {', '.join(others)} or {last}")

    def make_hook(self) -> CloudflareVectorizeHook:
        """
        Return a hook, without reading the connection yet.

        :raises VectorizeInputError: ``account_id`` renders to nothing.
        """
        from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook

        check_account(self, self._given_account)
        hook = CloudflareVectorizeHook(self.conn_id, self.account_id)
        # The responses to a write count for the wait after it.
        hook.history = self._history
        return hook

    def make_client(self, *, max_connections: int) -> VectorizeClient:
        """Return a client whose waits end with the task's ``execution_timeout``."""
        hook = self.make_hook()
        hook.max_connections = max_connections
        client = hook.get_conn()
        self.used_account = client.account_id
        if self.execution_timeout is not None:
            client.session.deadline = time.monotonic() + self.execution_timeout.total_seconds()
        return client

    @contextmanager
    def open_client(self, *, max_connections: int) -> Iterator[VectorizeClient]:
        """
        Yield a client that sends nothing after the end of the block.

        :raises VectorizeInputError: the index name or the connection is invalid.
        """
        check_path_name(self.index_name)
        client = self.make_client(max_connections=max_connections)
        try:
            yield client
        finally:
            # Wakes threads that wait to send, also when Airflow ends the task from a signal handler.
            client.session.stop()
            client.close()

    def send(
        self, method: Callable[Parameters, Result], *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """Send a request. A kill ends the wait for it, since a throttle can delay it for many minutes."""
        from airflow_provider_cfvectorize.client.workers import Stopped, stoppable_call

        try:
            return stoppable_call(lambda: method(*args, **kwargs), self.is_killed)
        except Stopped:
            raise VectorizeInterrupted("interrupted: a request in flight may still take effect") from None

    @abstractmethod
    def flow(self, *, failed: bool) -> Flow:
        """
        Return the index and files that the ended task has read and written.

        :param failed: the task failed, and may have written more than the service acknowledged.
        """

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return the read and written datasets, for Airflow's OpenLineage provider."""
        from airflow_provider_cfvectorize.lineage import to_openlineage

        return to_openlineage(self.used_account, self.index_name, self.flow(failed=False))

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> OperatorLineage[Any, Any]:
        """Return the read and possibly written datasets, for Airflow's OpenLineage provider."""
        from airflow_provider_cfvectorize.lineage import to_openlineage

        return to_openlineage(self.used_account, self.index_name, self.flow(failed=True))

    def push(self, context: Context, key: str, value: dict[str, Any]) -> None:
        """Push an XCom even if ``do_xcom_push`` is False: tasks downstream depend on it."""
        context["ti"].xcom_push(key=key, value=value)


class VectorizeWriteOperator(VectorizeOperator):
    """
    The base of operators that write to an index.

    A subclass writes in ``execute`` and ends it with ``return self.push_and_wait(context, receipt)``.

    :param index_name: the index. (templated)
    :param wait_for_completion: wait until the write is applied.
    :param poll_interval: seconds, or a ``timedelta``, between two polls of a wait.
    :param wait_timeout: the longest wait, in seconds or as a ``timedelta``. After it the task fails with
        ``VectorizeWaitTimeout``, and Airflow retries it if it has retries.
    :param deferrable: wait in the triggerer, without occupying a worker slot.
    :param conn_id: the connection. (templated)
    :param account_id: the account; the connection's login if not given. (templated)
    """

    #: Save progress for a retry; see :meth:`open_checkpoint`.
    durable: bool = False
    #: Whether the service has acknowledged a write, and the number of vectors or ids, if it is known.
    has_written: bool = False
    acknowledged: int | None = None

    def __init__(
        self,
        *,
        index_name: str,
        wait_for_completion: bool = False,
        poll_interval: timedelta | float = 10,
        wait_timeout: timedelta | float = 900,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        conn_id: str = DEFAULT_CONN_ID,
        account_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(index_name=index_name, conn_id=conn_id, account_id=account_id, **kwargs)
        self.wait_for_completion = wait_for_completion
        self.poll_interval = to_seconds(poll_interval)
        self.wait_timeout = to_seconds(wait_timeout)
        self.deferrable = deferrable

    def check_wait(self) -> None:
        """Check the flags and the numbers of the wait."""
        check_flags(self)
        self.check_number("poll_interval", 0)
        self.check_number("wait_timeout", 0)

    def push_and_wait(self, context: Context, receipt: Receipt) -> str | None:
        """
        Push the receipt and, with ``wait_for_completion``, wait.

        :return: the mutation id, None if nothing was sent.
        :raises VectorizeWaitTimeout: the write was not observed as applied in time.
        :raises VectorizeIndexRecreatedError: the index was deleted and created again since.
        """
        from airflow_provider_cfvectorize.client.bulk.checkpoint import saved_evidence
        from airflow_provider_cfvectorize.client.mutations.evidence import evidence_of_nothing
        from airflow_provider_cfvectorize.client.mutations.receipts import RECEIPT_KEY

        self.push(context, RECEIPT_KEY, receipt.as_dict())
        self.has_written, self.acknowledged = receipt.mutation_id is not None, receipt.count
        if not self.wait_for_completion:
            return receipt.mutation_id
        if receipt.mutation_id is None:
            return self._end(context, evidence_of_nothing(receipt))
        store = self.progress_store(context)
        if store is not None and (evidence := saved_evidence(store, receipt.mutation_id)) is not None:
            self.log.info("Applied: an earlier attempt has saved the evidence; no further wait.")
            return self._finish(context, evidence)
        return self._end(context, self.wait_until_applied(context, receipt))

    def wait_until_applied(self, context: Context, receipt: Receipt) -> dict[str, Any]:
        """
        Wait for an accepted write and return the evidence; a deferrable task defers instead.

        :raises VectorizeWaitTimeout: the write was not observed as applied in time.
        :raises VectorizeIndexRecreatedError: the index was deleted and created again since.
        """
        from airflow_provider_cfvectorize.client.mutations.wait import Wait

        if self.deferrable:
            self._defer(context, receipt)
        hook = self.make_hook()
        wait = Wait(
            hook.get_watching_conn(), self.index_name, [receipt], self.log, renew=hook.get_watching_conn
        )
        try:
            return wait.until(self.wait_timeout, interval=self.poll_interval, stopped=self.is_killed)
        except VectorizeWaitTimeout as e:
            self._forget_lost_mutation(context, e)
            raise
        finally:
            wait.close()

    def _defer(self, context: Context, receipt: Receipt) -> NoReturn:
        from airflow_provider_cfvectorize.triggers.mutation import defer

        defer(
            self,
            [receipt],
            limit=self.wait_timeout,
            interval=self.poll_interval,
            started=time.time(),
            was_accepted=self._history.accepted,
            kwargs={
                **self.to_resume(),
                "done": {
                    "account_id": receipt.account_id,
                    "count": receipt.count,
                    "change": self.change,
                    "try_number": context["ti"].try_number,
                },
            },
        )

    def flow(self, *, failed: bool) -> Flow:
        """Return the index that the task has written."""
        from airflow_provider_cfvectorize.lineage import Flow

        writes = self.has_written or self.change is not None or failed
        return Flow(writes_index=writes, change=self.change)

    def to_resume(self) -> dict[str, Any]:
        """Return the further arguments of the subclass's ``execute_complete``, as JSON values."""
        return {}

    def execute_complete(
        self, context: Context, event: Any = None, done: Mapping[str, Any] | None = None
    ) -> str | None:
        """
        End the task after a deferred wait.

        :param done: the acknowledged write. None in ``dag.test()``, which drops the arguments of a deferral,
            and if an older version of this provider deferred the task.
        :return: the mutation id.
        :raises VectorizeWaitTimeout: the write was not observed as applied in time.
        """
        if done is not None and is_of_an_earlier_try(context, done.get("try_number")):
            mutation_id: str | None = start_over(self, context)
            return mutation_id
        return self._end(context, self.read_wait(context, event, done))

    def read_wait(self, context: Context, event: Any, done: Mapping[str, Any] | None) -> dict[str, Any]:
        """
        Return the evidence of a deferred wait.

        :raises VectorizeWaitTimeout: the write was not observed as applied in time.
        """
        self.has_written = True
        if done is not None:
            self.used_account, self.acknowledged = done["account_id"], done["count"]
            self.change = done["change"]
        try:
            evidence = read_event(event)
        except VectorizeWaitTimeout as e:
            check_execution_timeout(e, self.execution_timeout, "wait_timeout", self.wait_timeout)
            self._forget_lost_mutation(context, e)
            raise
        self.used_account = evidence.get("account_id")
        # The trigger has read the index with the same connection.
        self._history.note_accepted(reading=True)
        return evidence

    def _end(self, context: Context, evidence: dict[str, Any]) -> str | None:
        from airflow_provider_cfvectorize.client.bulk.checkpoint import save_evidence

        evidence = self.complete_evidence(evidence)
        mutation_id = self._finish(context, evidence)
        if (store := self.progress_store(context)) is not None:
            save_evidence(store, evidence, self.log)
        return mutation_id

    def _finish(self, context: Context, evidence: dict[str, Any]) -> str | None:
        # Push first: the evidence is most useful if the report fails the task.
        from airflow_provider_cfvectorize.client.mutations.receipts import EVIDENCE_KEY

        self.push(context, EVIDENCE_KEY, evidence)
        self.report(evidence)
        mutation_id: str | None = evidence["mutation_id"]
        return mutation_id

    def progress_store(self, context: Context) -> Any:
        """
        Return the store of the task's progress: Airflow's ``task_state_store``, since Airflow 3.3.

        :return: None if there is no store, or the task saves no progress.
        """
        return context.get("task_state_store") if self.durable else None

    def open_checkpoint(self, context: Context, client: VectorizeClient, *parts: object) -> Checkpoint | None:
        """
        Return the progress of a write; None if the task saves none.

        Saved progress is valid for one work only: operator class, account, index, creation time of the index
        and ``parts`` must be equal, and the task must not have been cleared since. Airflow 3.3 does not
        delete the state of a cleared task. Clearing raises the task instance's ``max_tries``, which a retry
        does not change, and the run's ``clear_number`` if the run is reset.

        :param parts: further JSON values that identify this work.
        """
        from airflow_provider_cfvectorize.client.bulk.checkpoint import Checkpoint, fingerprint_of

        store = self.progress_store(context)
        if store is None:
            return None
        try:
            created_on = self.send(client.get_index, self.index_name).get("created_on")
        except VectorizeError as e:
            if is_permanent(e, "write"):
                raise
            self.log.warning(
                "Progress is not saved, so a retry sends everything again: reading the index failed: %s.", e
            )
            return None
        fingerprint = fingerprint_of(
            type(self).__name__,
            client.base_url,
            client.account_id,
            self.index_name,
            created_on,
            getattr(context.get("dag_run"), "clear_number", None),
            context["ti"].max_tries,
            *parts,
        )
        return Checkpoint(store, fingerprint, self.log)

    def _forget_lost_mutation(self, context: Context, timeout: VectorizeWaitTimeout) -> None:
        # Without this, every retry would wait again for a mutation that may never come.
        from airflow_provider_cfvectorize.client.bulk.checkpoint import forget

        if timeout.is_unseen and (store := self.progress_store(context)) is not None:
            self.log.info("The mutation was never observed; a retry sends everything again.")
            forget(store, self.log)

    def complete_evidence(self, evidence: dict[str, Any]) -> dict[str, Any]:
        """Return the evidence with the additions of the subclass."""
        return evidence

    def report(self, evidence: dict[str, Any]) -> None:
        """Log the outcome of the wait."""
        from airflow_provider_cfvectorize.client.mutations.evidence import report_evidence

        report_evidence(evidence, self.log)
