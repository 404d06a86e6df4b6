# SPDX-License-Identifier: Apache-2.0
"""The sensor that waits until a write is applied."""

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

from airflow_provider_cfvectorize.client.http.urls import check_path_name
from airflow_provider_cfvectorize.connection import DEFAULT_CONN_ID
from airflow_provider_cfvectorize.exceptions import VectorizeError, VectorizeInputError, VectorizeWaitTimeout
from airflow_provider_cfvectorize.links import VectorizeIndexLink
from airflow_provider_cfvectorize.rendering import VerbatimStringsMixin
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


#: The most seconds between two looks while a rescheduled sensor is refused.
LONGEST_BACKOFF: Final = 30.0


class VectorizeMutationTimeout(VectorizeError, AirflowSensorTimeout):  # noqa: N818 - as Airflow's own
    """
    The sensor's ``timeout`` is over and the mutation was not seen to be applied.

    As an ``AirflowSensorTimeout`` it is skipped with ``soft_fail`` and never retried.
    """


class VectorizeMutationSensor(VerbatimStringsMixin, BaseSensorOperator):
    """
    Wait until a delete (or any other write) is applied, and return how that is known.

    Pass what an upstream task returned, ``mutation_id=delete.output``; the receipt that the task pushed
    beside it is found by itself. With it the wait ends well even if somebody else writes to the index
    meanwhile; with a mutation id from elsewhere, that is inconclusive.

    The evidence is a dict with ``mutation_id``, ``index_name``, ``account_id``, ``outcome`` (``watermark``,
    ``read_back``, ``inferred``, ``present_differs`` or ``nothing_to_do``), ``watermark``,
    ``processed_up_to``, ``accepted_at``, ``decided_at``, ``witnesses_checked`` and ``still_visible``; of an
    insert or upsert with witnesses also ``differing``; for several mutations also ``mutation_count`` and
    ``mutations``, the evidence of each.

    It ends with the same in each mode, at the same deadline. Of what Airflow's other sensors take,
    ``never_fail`` is refused: Airflow skips different errors in each mode and version.
    ``exponential_backoff``, ``max_wait`` and ``silent_fail`` have no effect on a deferred wait, and its log
    says so.

    .. seealso::
        The guide, with examples: :doc:`/docs/operators/mutation-sensor`

    :param index_name: the index. (templated)
    :param mutation_id: a mutation id, a receipt, a sequence of either (the output of a mapped task, a list of
        outputs), what Jinja makes of one of these, or None, for which there is nothing to wait unless an
        upstream task has pushed a receipt. (templated)
    :param receipt: a receipt, or a sequence of them, instead of looking among the upstream tasks. (templated)
    :param require_absent: fail if vectors of an applied delete can still be read after two minutes, rather
        than warn.
    :param require_equal: fail if vectors of an insert or upsert that was overtaken do not read back as they
        were written, rather than warn.
    :param deferrable: wait in the triggerer, without a worker's slot.
    :param conn_id: the connection. (templated)
    :param account_id: the account; the connection's login if not given. (templated)
    :param poke_interval: seconds between two looks.
    :param timeout: seconds to wait at most.
    :raises VectorizeInputError: ``never_fail`` is set.
    """

    template_fields: Sequence[str] = (
        "index_name",
        "mutation_id",
        "receipt",
        "conn_id",
        "account_id",
    )
    # The text "False" would skip a sensor that is to fail.
    flags = VerbatimStringsMixin.flags | {"soft_fail"}
    ui_color = "#f6d5c3"
    operator_extra_links = (VectorizeIndexLink(),)

    #: The account that the task talks to, as soon as it does; for the link.
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
                "never_fail is True, expected False: Airflow skips different errors in each mode with it, a "
                "refused token among them. Use soft_fail=True, which skips a timeout in every mode."
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
        Wait, in the mode that was asked for.

        :param context: the task's context.
        :return: the evidence.
        :raises VectorizeMutationTimeout: not seen to be applied in time.
        :raises VectorizeNotFoundError: the index is not there, or was deleted.
        :raises VectorizeIndexRecreatedError: the index was deleted and created again since.
        :raises VectorizeAuthError: the credentials are refused.
        :raises VectorizeInputError: what was passed is no mutation, or one of another index or account.
        :raises VectorizeStillVisibleError: with ``require_absent``.
        :raises VectorizeDiffersError: with ``require_equal``.
        """
        from airflow_provider_cfvectorize.client.mutations.evidence import evidence_of_nothing
        from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
        from airflow_provider_cfvectorize.client.mutations.wait import Wait
        from airflow_provider_cfvectorize.sensors.receipts import read_waits

        check_flags(self)
        check_path_name(self.index_name)
        hook = self._make_hook()
        if self.reschedule and _was_rescheduled(self, context):
            # Then an earlier process has looked, with success.
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
        Look once.

        :param context: the task's context.
        """
        if self._wait is None:
            raise VectorizeError("poke() is called by execute(), which prepares it")
        evidence = self._wait.look()
        while self.reschedule and self._wait.is_refused:
            # Here, since no later process would know for how long.
            time.sleep(min(self.poke_interval, LONGEST_BACKOFF))
            evidence = self._wait.look()
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
        :param event: what the trigger sent.
        :param account_id: the account that the task has talked to, where it is known.
        :param try_number: the try that deferred, where it is known.
        :return: the evidence.
        :raises VectorizeMutationTimeout: not seen to be applied in time.
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
        # The base class skips a sensor that timed out before anyone could look a last time, and its error
        # says nothing of what was seen; so it is told not to skip, and soft_fail is carried out here.
        soft_fail, self.soft_fail = self.soft_fail, False
        try:
            # Past Airflow 2's guard, which takes the call of super() for one from outside of Airflow.
            evidence: dict[str, Any] = inspect.unwrap(BaseSensorOperator.execute)(self, context)
        except AirflowSensorTimeout:
            evidence = self._look_a_last_time(soft_fail)
        finally:
            self.soft_fail = soft_fail
        return evidence

    def _look_a_last_time(self, soft_fail: bool) -> dict[str, Any]:
        assert self._wait is not None  # noqa: S101 - for the type checker
        evidence = self._wait.look(last=True)
        if evidence is not None:
            return evidence
        message = str(self._wait.timeout(self.timeout))
        if soft_fail:
            raise AirflowSkipException(message)
        raise VectorizeMutationTimeout(message)

    def _get_next_poke_interval(
        self, started_at: datetime | float, run_duration: Callable[[], float], poke_count: int
    ) -> float:
        # So that the last look is at the deadline and not up to an interval later, as in the triggerer; and a
        # service that asks to be left alone for a while is.
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
        # Of a bare id nothing but its own watermark would be accepted, which one look hardly meets.
        if not any(r.bare or (r.accepted_at is not None and r.accepted_at > young) for r in receipts):
            evidence = self._wait.look()
            if evidence is not None:
                return evidence
        ignored = [name for name in ("exponential_backoff", "max_wait", "silent_fail") if getattr(self, name)]
        if ignored:
            self.log.warning("Ignored while the sensor is deferred: %s.", ", ".join(ignored))
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
    """Say whether an earlier process of this try has looked, and left the rest to this one."""
    ti: Any = context["ti"]
    if hasattr(ti, "get_first_reschedule_date"):
        return ti.get_first_reschedule_date(context) is not None
    # Before Airflow 3, the way that the base class takes.
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
