# SPDX-License-Identifier: Apache-2.0
"""The sensor that waits until writes are applied."""

from __future__ import annotations

import inspect
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow.providers.common.compat.sdk import (
    AirflowSensorTimeout,
    AirflowSkipException,
    BaseSensorOperator,
    PokeReturnValue,
    conf,
)

from airflow_provider_cfvectorize.airflow_rendering import VerbatimStringsMixin
from airflow_provider_cfvectorize.client.inputs.names import check_path_name
from airflow_provider_cfvectorize.connection import DEFAULT_CONN_ID
from airflow_provider_cfvectorize.exceptions import VectorizeError, VectorizeInputError, VectorizeWaitTimeout
from airflow_provider_cfvectorize.links import VectorizeIndexLink
from airflow_provider_cfvectorize.templating import check_account, check_flags
from airflow_provider_cfvectorize.triggers.events import (
    check_execution_timeout,
    is_of_an_earlier_try,
    read_event,
    start_over,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
    from airflow_provider_cfvectorize.client.mutations.wait import Wait
    from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook


#: The most seconds between two polls while the service refuses a rescheduled sensor.
LONGEST_BACKOFF: Final = 30.0


class VectorizeMutationTimeout(VectorizeError, AirflowSensorTimeout):  # noqa: N818 - as Airflow's own
    """
    The sensor's ``timeout`` passed before the mutation was observed as applied.

    It is an ``AirflowSensorTimeout``: ``soft_fail`` skips it, and Airflow never retries it.
    """


class VectorizeMutationSensor(VerbatimStringsMixin, BaseSensorOperator):
    """
    Wait until a delete or another write is applied, and return the evidence.

    Pass the output of an upstream task, ``mutation_id=delete.output``. The sensor finds the receipt that the
    task pushed beside it. With the receipt, the wait succeeds even if other writers change the index
    meanwhile. With a mutation id alone, such writes can hide the mutation.

    The evidence is a dict with ``mutation_id``, ``index_name``, ``account_id``, ``outcome`` (``watermark``,
    ``read_back``, ``inferred``, ``present_differs`` or ``nothing_to_do``), ``watermark``,
    ``processed_up_to``, ``accepted_at``, ``decided_at``, ``witnesses_checked`` and ``still_visible``. An
    insert or upsert with witnesses adds ``differing``; several mutations add ``mutation_count`` and
    ``mutations``, the evidence of each.

    Every mode ends with equal evidence, at one deadline. The sensor refuses ``never_fail``, because Airflow
    skips different errors in each mode and version. ``exponential_backoff``, ``max_wait`` and ``silent_fail``
    have no effect on a deferred wait, and its log says so.

    .. seealso::
        The guide, with examples: :doc:`/docs/operators/mutation-sensor`

    :param index_name: the index. (templated)
    :param mutation_id: a mutation id, a receipt, a sequence of either (the output of a mapped task, a list of
        outputs), or a template that renders to one of these. With None, the sensor waits for the receipts of
        the upstream tasks, and succeeds at once if there is none. (templated)
    :param receipt: a receipt or a sequence of receipts, instead of those of the upstream tasks. (templated)
    :param require_absent: fail, instead of logging a warning, if vectors of an applied delete can still be
        read after two minutes.
    :param require_equal: fail, instead of logging a warning, if vectors of an overtaken insert or upsert do
        not read back as written.
    :param deferrable: wait in the triggerer, without occupying a worker slot.
    :param conn_id: the connection. (templated)
    :param account_id: the account; the connection's login if not given. (templated)
    :param poke_interval: seconds, or a ``timedelta``, between two polls.
    :param timeout: the longest wait, in seconds or as a ``timedelta``.
    :raises VectorizeInputError: ``never_fail`` is set.
    """

    template_fields: Sequence[str] = (
        "index_name",
        "mutation_id",
        "receipt",
        "conn_id",
        "account_id",
    )
    # The text "False" would count as true and skip a sensor that must fail.
    flags = VerbatimStringsMixin.flags | {"soft_fail"}
    ui_color = "#f6d5c3"
    operator_extra_links = (VectorizeIndexLink(),)

    #: The account that the task uses, set before the first request; for the link.
    used_account: str | None = None

    def __init__(
        self,
        *,
        index_name: str,
        mutation_id: Any = None,
        receipt: Any = None,
        require_absent: bool = False,
        require_equal: bool = False,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        conn_id: str = DEFAULT_CONN_ID,
        account_id: str | None = None,
        poke_interval: timedelta | float = 10,
        timeout: timedelta | float = 900,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, timeout=timeout, **kwargs)
        if self.never_fail:
            raise VectorizeInputError(
                "never_fail is True, expected False: with it, Airflow skips different errors in each mode, "
                "including a refused token. Use soft_fail=True, which skips a timeout in every mode"
            )
        self.index_name = index_name
        self.mutation_id = mutation_id
        self.receipt = receipt
        self.require_absent = require_absent
        self.require_equal = require_equal
        self.deferrable = deferrable
        self.conn_id = conn_id
        self.account_id = account_id
        self._given_account = account_id
        given = {"mutation_id": mutation_id, "receipt": receipt}
        self._given_texts = {name for name, value in given.items() if isinstance(value, str)}
        self._wait: Wait | None = None

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Wait in the sensor's mode and return the evidence.

        :param context: the task's context.
        :return: the evidence.
        :raises VectorizeMutationTimeout: the mutation was not observed as applied in time.
        :raises VectorizeNotFoundError: the index does not exist, or was deleted.
        :raises VectorizeIndexRecreatedError: the index was deleted and created again since.
        :raises VectorizeAuthError: the service refuses the credentials.
        :raises VectorizeInputError: a parameter is not a mutation, or belongs to another index or account.
        :raises VectorizeStillVisibleError: with ``require_absent``, deleted vectors can still be read.
        :raises VectorizeDiffersError: with ``require_equal``, vectors differ from the written ones.
        """
        from airflow_provider_cfvectorize.client.mutations.evidence import evidence_of_nothing
        from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
        from airflow_provider_cfvectorize.client.mutations.wait import Wait
        from airflow_provider_cfvectorize.sensors.upstream_receipts import read_waits

        check_flags(self)
        check_path_name(self.index_name)
        hook = self._make_hook()
        if self.reschedule and _was_rescheduled(self, context):
            # An earlier process has polled with success.
            hook.history.note_accepted(reading=True)
        client = hook.get_watching_conn()
        self.used_account = client.account_id
        try:
            receipts = read_waits(
                self.mutation_id,
                self.receipt,
                context,
                index_name=self.index_name,
                account_id=client.account_id,
                texts=self._given_texts,
            )
            self._wait = Wait(client, self.index_name, receipts, self.log, renew=hook.get_watching_conn)
            if not receipts:
                evidence = evidence_of_nothing(Receipt(None, self.index_name, client.account_id))
            elif self.deferrable:
                evidence = self._defer_unless_applied(context, receipts, hook)
            else:
                evidence = self._poke_until_applied(context)
        finally:
            (self._wait or client).close()
        return self._end(evidence)

    def poke(self, context: Context) -> PokeReturnValue:
        """
        Poll once.

        :param context: the task's context.
        """
        if self._wait is None:
            raise VectorizeError(
                "poke() was called before execute(), which prepares the wait: call execute()"
            )
        evidence = self._wait.poll()
        while self.reschedule and self._wait.is_refused:
            # Wait here: a later process would not know since when the service refuses.
            time.sleep(min(self.poke_interval, LONGEST_BACKOFF))
            evidence = self._wait.poll()
        return PokeReturnValue(is_done=evidence is not None, xcom_value=evidence)

    def execute_complete(
        self,
        context: Context,
        event: Any = None,
        account_id: str | None = None,
        try_number: int | None = None,
    ) -> dict[str, Any]:
        """
        End the task after a deferred wait.

        :param context: the task's context.
        :param event: the trigger's event.
        :param account_id: the account that the task used, if it is known.
        :param try_number: the attempt that deferred, if it is known.
        :return: the evidence.
        :raises VectorizeMutationTimeout: the mutation was not observed as applied in time.
        :raises VectorizeWaitTimeout: the task's ``execution_timeout`` came before the sensor's ``timeout``.
        """
        evidence: dict[str, Any]
        if is_of_an_earlier_try(context, try_number):
            evidence = start_over(self, context)
            return evidence
        self.used_account = account_id
        try:
            evidence = read_event(event)
        except VectorizeWaitTimeout as e:
            check_execution_timeout(e, self.execution_timeout, "timeout", self.timeout)
            raise VectorizeMutationTimeout(str(e)) from None
        self.used_account = evidence.get("account_id")
        return self._end(evidence)

    def _make_hook(self) -> CloudflareVectorizeHook:
        from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook

        check_account(self, self._given_account)
        return CloudflareVectorizeHook(self.conn_id, self.account_id)

    def _end(self, evidence: dict[str, Any]) -> dict[str, Any]:
        from airflow_provider_cfvectorize.client.mutations.evidence import report_evidence

        report_evidence(
            evidence, self.log, require_absent=self.require_absent, require_equal=self.require_equal
        )
        return evidence

    # --- poke and reschedule --------------------------------------------------------------------------

    def _poke_until_applied(self, context: Context) -> dict[str, Any]:
        # The base class skips a timed-out sensor before its last poll, and its error lacks the observations.
        # So soft_fail is off in the base class and handled here.
        soft_fail, self.soft_fail = self.soft_fail, False
        try:
            # Unwrapped: Airflow 2's guard mistakes a call of super() for a call from outside of Airflow.
            evidence: dict[str, Any] = inspect.unwrap(BaseSensorOperator.execute)(self, context)
        except AirflowSensorTimeout:
            evidence = self._poll_last_time(soft_fail)
        finally:
            self.soft_fail = soft_fail
        return evidence

    def _poll_last_time(self, soft_fail: bool) -> dict[str, Any]:
        assert self._wait is not None  # noqa: S101 - for the type checker
        evidence = self._wait.poll(last=True)
        if evidence is not None:
            return evidence
        message = str(self._wait.timeout(self.timeout))
        if soft_fail:
            raise AirflowSkipException(message)
        raise VectorizeMutationTimeout(message)

    def _get_next_poke_interval(
        self, started_at: datetime | float, run_duration: Callable[[], float], poke_count: int
    ) -> float:
        # The last poll is at the deadline and not up to an interval later, as in the triggerer. A pause that
        # the service requests counts.
        interval: float = super()._get_next_poke_interval(started_at, run_duration, poke_count)
        pause = self._wait.pause if self._wait is not None else 0.0
        return max(0.0, min(max(interval, pause), self.timeout - run_duration()))

    # --- deferrable -----------------------------------------------------------------------------------

    def _defer_unless_applied(
        self, context: Context, receipts: Sequence[Receipt], hook: CloudflareVectorizeHook
    ) -> dict[str, Any]:
        from airflow_provider_cfvectorize.client.mutations.decide import YOUNG
        from airflow_provider_cfvectorize.triggers.mutation import defer

        assert self._wait is not None  # noqa: S101 - for the type checker
        started = time.time()
        young = datetime.now(UTC) - YOUNG
        # A bare id needs the watermark of its own mutation, which one poll rarely finds.
        if not any(r.bare or (r.accepted_at is not None and r.accepted_at > young) for r in receipts):
            evidence = self._wait.poll()
            if evidence is not None:
                return evidence
        ignored = [name for name in ("exponential_backoff", "max_wait", "silent_fail") if getattr(self, name)]
        if ignored:
            self.log.warning(
                "Ignored in a deferred wait: %s. Remove them from this task.", ", ".join(ignored)
            )
        defer(
            self,
            receipts,
            limit=self.timeout,
            interval=self.poke_interval,
            started=started,
            was_accepted=hook.history.accepted,
            kwargs={"account_id": self.used_account, "try_number": context["ti"].try_number},
        )


def _was_rescheduled(sensor: BaseSensorOperator, context: Context) -> bool:
    """Return whether an earlier process of this attempt has polled and rescheduled the task."""
    ti: Any = context["ti"]
    if hasattr(ti, "get_first_reschedule_date"):
        return ti.get_first_reschedule_date(context) is not None
    # Before Airflow 3, as the base class does.
    from airflow.sensors.base import _orig_start_date  # type: ignore[import-not-found]

    first_try = (ti.max_tries or 0) - (sensor.retries or 0) + 1
    start = _orig_start_date(
        dag_id=ti.dag_id,
        task_id=ti.task_id,
        run_id=ti.run_id,
        map_index=ti.map_index,
        try_number=first_try,
    )
    return start is not None
