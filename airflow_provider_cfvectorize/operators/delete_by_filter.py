# SPDX-License-Identifier: Apache-2.0
"""The operator that deletes the vectors that a filter or a namespace selects."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import conf

from airflow_provider_cfvectorize.airflow_rendering import has_marks
from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.connection import DEFAULT_CONN_ID
from airflow_provider_cfvectorize.exceptions import VectorizeError, VectorizeInputError
from airflow_provider_cfvectorize.operators.base import VectorizeWriteOperator
from airflow_provider_cfvectorize.templating import plain, read_given, read_nothing, read_structure
from airflow_provider_cfvectorize.triggers.events import is_of_an_earlier_try, start_over

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_cfvectorize.client.bulk.delete_by_filter import Deletion
    from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
    from airflow_provider_cfvectorize.lineage import Flow

#: The XCom key of the report.
REPORT_KEY = "report"


class DeleteVectorsByFilterOperator(VectorizeWriteOperator):
    """
    Delete the vectors that a filter, a namespace or both select, and wait until the deletes are applied.

    The service deletes by id only, and a query returns at most 100 ids. This task therefore works in rounds.
    A round queries with different vectors until ``probes`` queries in a row find no new id, deletes the found
    ids, and waits until the delete is applied. The task ends when ``probes`` queries find nothing.

    .. seealso::
        The guide, with examples: :doc:`/docs/operators/delete-vectors-by-filter`

    Search is approximate: the report says how the task searched, and never that no vector is left. A
    filter does not find vectors that were written before the metadata indexes of its properties.

    The return value is the id of the last mutation. It is None, with a warning, if nothing was found. XComs:

    - ``receipt``: the receipt of the last round's delete; ``evidence``: the evidence of its wait.
    - ``report``, after every round: ``outcome`` (``none_found`` at the end, ``dry_run``, or None before the
      end); ``rounds`` and ``queries``, their numbers so far; ``found`` and ``deleted``, numbers of ids;
      ``waits``, the number of waits for each outcome; ``probes``, ``filter`` and ``namespace``, the
      parameters; and ``note``, the limits of a search. After a dry run also ``ids``, the first 10.

    A retry begins with a query and needs no saved progress. The task may also delete selected vectors that
    are written while it runs.

    :param index_name: the index. (templated)
    :param filter: select vectors with this metadata, such as ``{"doc_id": "a17"}``, or a Jinja expression
        that gives a mapping. Each property needs a metadata index. Unless the DAG renders natively, a
        template within a mapping gives text, which is not documented to equal a number. For a number, render
        the whole filter, as in ``filter='{"year": {{ params.year }} }'``. None and a template that renders to
        nothing are errors. (templated)
    :param namespace: select vectors of this namespace. (templated)
    :param max_ids: the most ids that the task may find in all its rounds. If a round exceeds it, the task
        fails before the delete of that round.
    :param probes: the number of queries in a row that must find no new id to end a round, and must find
        nothing to end the task.
    :param dry_run: search as the first round does, read a few of the found ids, and delete nothing.
    :param poll_interval: seconds, or a ``timedelta``, between two polls of a wait.
    :param wait_timeout: the longest wait of one round, in seconds or as a ``timedelta``. After it the task
        fails with ``VectorizeWaitTimeout``, and Airflow retries it if it has retries.
    :param deferrable: wait in the triggerer, without occupying a worker slot.
    :param conn_id: the connection. (templated)
    :param account_id: the account; the connection's login if not given. (templated)
    """

    template_fields: Sequence[str] = ("index_name", "filter", "namespace", "conn_id", "account_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"filter": "json"}

    def __init__(
        self,
        *,
        index_name: str,
        filter: Mapping[str, Any] | str | None = None,
        namespace: str | None = None,
        max_ids: int,
        probes: int = 3,
        dry_run: bool = False,
        poll_interval: timedelta | float = 10,
        wait_timeout: timedelta | float = 900,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        conn_id: str = DEFAULT_CONN_ID,
        account_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            index_name=index_name,
            wait_for_completion=True,
            poll_interval=poll_interval,
            wait_timeout=wait_timeout,
            deferrable=deferrable,
            conn_id=conn_id,
            account_id=account_id,
            **kwargs,
        )
        self.filter = filter
        self.namespace = namespace
        self.max_ids = max_ids
        self.probes = probes
        # Not dry_run: Airflow's base class has a method of that name.
        self.is_dry_run = dry_run
        self._given = {"filter": filter, "namespace": namespace}
        self._may_be_empty = _count_empty(filter) if isinstance(filter, Mapping) else 0
        #: The progress of the task, saved over a deferral.
        self._deletion: Deletion | None = None

    def execute(self, context: Context) -> str | None:
        """
        Search, delete and wait, until a search finds nothing.

        :return: the id of the last mutation, None if nothing was found.
        :raises VectorizeInputError: filter and namespace select nothing in particular, a property has no
            metadata index, or there are more ids than ``max_ids``.
        :raises VectorizeStillVisibleError: two rounds in a row found only ids whose delete is applied.
        :raises VectorizeBatchError: the service accepted only a part; says how many ids.
        :raises VectorizeWaitTimeout: a delete was not observed as applied in time.
        """
        self.check_wait()
        deletion = self._begin()
        if self.is_dry_run:
            self._rehearse(context, deletion)
            return None
        return self._run_rounds(context, deletion)

    def to_resume(self) -> dict[str, Any]:
        """Return the further arguments of ``execute_complete``."""
        return {"deletion": None if self._deletion is None else self._deletion.as_dict()}

    def execute_complete(
        self,
        context: Context,
        event: Any = None,
        done: Mapping[str, Any] | None = None,
        deletion: dict[str, Any] | None = None,
    ) -> str | None:
        """
        Continue after the deferred wait of a round.

        :param context: the task's context.
        :param event: the trigger's event.
        :param done: the acknowledged write.
        :param deletion: the progress of the task.
        :return: the id of the last mutation.
        :raises VectorizeWaitTimeout: the delete was not observed as applied in time.
        """
        from airflow_provider_cfvectorize.client.bulk.delete_by_filter import Deletion

        if done is not None and is_of_an_earlier_try(context, done.get("try_number")):
            mutation_id: str | None = start_over(self, context)
            return mutation_id
        evidence = self.read_wait(context, event, done)
        so_far = Deletion(**deletion) if deletion else self._restore(context, evidence)
        so_far.note_wait(evidence)
        self._finish(context, evidence)
        return self._run_rounds(context, so_far)

    def flow(self, *, failed: bool) -> Flow:
        """Return the index and files that the task has read and written."""
        from airflow_provider_cfvectorize.lineage import Flow

        writes = (self.has_written or failed) and not self.is_dry_run
        return Flow(reads_index=True, writes_index=writes)

    def _begin(self) -> Deletion:
        from airflow_provider_cfvectorize.client.bulk.delete_by_filter import begin, check_limits

        check_limits(max_ids=self.max_ids, probes=self.probes)
        filter, namespace = self._read_filter(), self._read("namespace")
        with self._open() as client:
            return self.send(begin, client, self.index_name, filter, namespace)

    def _run_rounds(self, context: Context, deletion: Deletion) -> str | None:
        from airflow_provider_cfvectorize.client.mutations.evidence import evidence_of_nothing
        from airflow_provider_cfvectorize.client.mutations.receipts import RECEIPT_KEY, Receipt

        while (receipt := self._run_round(context, deletion)) is not None:
            self.push(context, RECEIPT_KEY, receipt.as_dict())
            self.has_written, self.acknowledged, self._deletion = True, deletion.deleted, deletion
            evidence = self.wait_until_applied(context, receipt)
            deletion.note_wait(evidence)
            self._finish(context, evidence)
        if not deletion.rounds:
            nothing = Receipt(None, self.index_name, self.used_account, sampled=0, existing=0)
            self.push(context, RECEIPT_KEY, nothing.as_dict())
            self._finish(context, evidence_of_nothing(nothing))
        self.push(context, REPORT_KEY, deletion.report("none_found", self.probes))
        deletion.log_end(self.probes, self.log)
        return deletion.mutation_id

    def _run_round(self, context: Context, deletion: Deletion) -> Receipt | None:
        from airflow_provider_cfvectorize.client.bulk.delete import delete_ids
        from airflow_provider_cfvectorize.client.bulk.delete_by_filter import run_round

        try:
            with self._open() as client:
                delete = partial(delete_ids, client, self.index_name, stopped=self.is_killed, log=self.log)
                receipt = run_round(client, self.index_name, deletion, delete, **self._options())
        except VectorizeError:
            self.push(context, REPORT_KEY, deletion.report(None, self.probes))
            raise
        if receipt is not None:
            self.push(context, REPORT_KEY, deletion.report(None, self.probes))
        return receipt

    def _rehearse(self, context: Context, deletion: Deletion) -> None:
        from airflow_provider_cfvectorize.client.bulk.delete import take_sample
        from airflow_provider_cfvectorize.client.bulk.delete_by_filter import rehearse
        from airflow_provider_cfvectorize.client.mutations.receipts import RECEIPT_KEY, Receipt

        with self._open() as client:
            read_sample = partial(take_sample, client, self.index_name, log=self.log, stopped=self.is_killed)
            found = rehearse(client, self.index_name, deletion, read_sample, **self._options())
        ids = found.pop("ids")
        receipt = Receipt(None, self.index_name, self.used_account, **found).as_dict()
        rehearsed = {"dry_run": True, "would_delete": deletion.found}
        self.push(context, RECEIPT_KEY, {**receipt, **rehearsed})
        self.push(context, REPORT_KEY, {**deletion.report("dry_run", self.probes), "ids": ids})

    def _restore(self, context: Context, evidence: Mapping[str, Any]) -> Deletion:
        # dag.test() drops the arguments of a deferral. The report has the numbers.
        ti = context["ti"]
        report = ti.xcom_pull(task_ids=ti.task_id, key=REPORT_KEY, map_indexes=ti.map_index) or {}
        names = ("rounds", "queries", "found", "deleted", "waits")
        numbers = {name: report[name] for name in names if name in report}
        return dataclasses.replace(self._begin(), **numbers, mutation_id=evidence["mutation_id"])

    def _open(self) -> Any:
        from airflow_provider_cfvectorize.client.bulk.delete import DEFAULT_CONCURRENCY

        return self.open_client(max_connections=DEFAULT_CONCURRENCY)

    def _options(self) -> dict[str, Any]:
        return {
            "probes": self.probes,
            "max_ids": self.max_ids,
            "stopped": self.is_killed,
            "log": self.log,
        }

    def _read(self, name: str) -> Any:
        harm = f"Without the {name}, the task would delete more than intended"
        return read_given(self, name, self._given[name], harm)

    def _read_filter(self) -> Any:
        # On the task's main thread: reading the results of mapped tasks sends requests to Airflow.
        read = plain(read_structure(self._read("filter"), "filter"))
        given = self._given["filter"]
        is_template = isinstance(given, Mapping) or (isinstance(given, str) and has_marks(given))
        if is_template and _count_empty(read) > self._may_be_empty:
            raise VectorizeInputError(
                f"filter has a value that counts as nothing after rendering: {show(str(read), 200)}. Check "
                "the template or upstream task that gives it. If you mean the empty text, write it into the "
                "filter"
            )
        return read


def _count_empty(value: object) -> int:
    """Return the number of texts in a value that count as nothing."""
    if isinstance(value, Mapping):
        return sum(map(_count_empty, value.values()))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return sum(map(_count_empty, value))
    return int(isinstance(value, str) and read_nothing(value) is None)
