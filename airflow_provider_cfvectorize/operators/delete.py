# SPDX-License-Identifier: Apache-2.0
"""The operator that deletes vectors by id."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import conf

from airflow_provider_cfvectorize.client.inputs.text import counted
from airflow_provider_cfvectorize.connection import DEFAULT_CONN_ID
from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.operators.base import VectorizeWriteOperator
from airflow_provider_cfvectorize.operators.files import origin_of, read_id_source

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_cfvectorize.client.client import VectorizeClient
    from airflow_provider_cfvectorize.client.inputs.ids import IdSource
    from airflow_provider_cfvectorize.lineage import Flow
    from airflow_provider_cfvectorize.operators.files import FilePath


class DeleteVectorsByIdsOperator(VectorizeWriteOperator):
    """
    Delete vectors by id, in batches of 100.

    The service applies deletes seconds to minutes after it accepts them. Wait for that with a
    :class:`~airflow_provider_cfvectorize.sensors.mutation.VectorizeMutationSensor` downstream, or in this
    task with ``wait_for_completion``.

    The return value is the id of the task's last mutation: once it is applied, all are. It is None if there
    was nothing to delete. The task always pushes the XCom ``receipt``, as soon as the service has accepted
    the last batch, and the XCom ``evidence`` if it waited.

    Retries are safe, since deleting an id again is harmless. A retry also deletes a vector that was written
    again meanwhile.

    .. seealso::
        The guide, with examples: :doc:`/docs/operators/delete-vectors-by-ids`

    :param index_name: the index. (templated)
    :param ids: the ids: a list, an upstream task's output, a Jinja expression that gives a list, or one id.
        Integers become strings. Pass either this or ``ids_path``. (templated)
    :param ids_path: a file of ids, for more ids than fit into an XCom: one id a line, or in a ``.ndjson`` or
        ``.jsonl`` file one JSON object with an ``id`` a line. A local path or a URL of object storage.
        (templated)
    :param wait_for_completion: wait until the delete is applied.
    :param poll_interval: seconds, or a ``timedelta``, between two polls of a wait.
    :param wait_timeout: the longest wait, in seconds or as a ``timedelta``. After it the task fails with
        ``VectorizeWaitTimeout``, and Airflow retries it if it has retries.
    :param deferrable: wait in the triggerer, without occupying a worker slot.
    :param durable: on Airflow 3.3 or newer, save progress, so that a retry continues after the last
        acknowledged batch or at the wait. Different ids, a cleared task or a recreated index start over. On
        an older Airflow, or with False, every attempt sends all ids.
    :param verify: ``sample`` reads a few ids before and after the delete, which proves it even if others
        write to the index meanwhile; ``none`` reads none; ``all`` also reads every id back at the end (20 a
        request, five times the requests of the delete) and needs ``wait_for_completion``.
    :param concurrency: the most requests in flight at once.
    :param max_ids: fail before the delete if there are more ids than this.
    :param dry_run: check and count the ids, read a few of them, and delete nothing.
    :param fail_if_none_exist: fail before the delete if none of the ids that ``verify`` reads exists. With
        False, the task logs a warning. It needs ``verify="sample"`` or ``"all"``.
    :param conn_id: the connection. (templated)
    :param account_id: the account; the connection's login if not given. (templated)
    """

    template_fields: Sequence[str] = ("index_name", "ids", "ids_path", "conn_id", "account_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"ids": "json"}

    def __init__(
        self,
        *,
        index_name: str,
        ids: Sequence[str | int] | str | None = None,
        ids_path: FilePath | None = None,
        wait_for_completion: bool = False,
        poll_interval: timedelta | float = 10,
        wait_timeout: timedelta | float = 900,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        durable: bool = True,
        verify: str = "sample",
        concurrency: int = 4,
        max_ids: int | None = None,
        dry_run: bool = False,
        fail_if_none_exist: bool = False,
        conn_id: str = DEFAULT_CONN_ID,
        account_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(
            index_name=index_name,
            wait_for_completion=wait_for_completion,
            poll_interval=poll_interval,
            wait_timeout=wait_timeout,
            deferrable=deferrable,
            conn_id=conn_id,
            account_id=account_id,
            **kwargs,
        )
        self.ids = ids
        self.ids_path = ids_path
        self.durable = durable
        self.verify = verify
        self.concurrency = concurrency
        self.max_ids = max_ids
        # Not dry_run: Airflow's base class has a method of that name.
        self.is_dry_run = dry_run
        self.fail_if_none_exist = fail_if_none_exist
        #: The fingerprint of the sent ids, saved over a deferral.
        self._sent = ""

    def execute(self, context: Context) -> str | None:
        """
        Delete the vectors, push the receipt and, with ``wait_for_completion``, wait.

        :return: the id of the last mutation, None if nothing was sent.
        :raises VectorizeInputError: a parameter or the connection is invalid; nothing was sent.
        :raises VectorizeBatchError: the service accepted only a part; says how many ids.
        :raises VectorizeWaitTimeout: the delete was not observed as applied in time.
        """
        from airflow_provider_cfvectorize.client.bulk.delete import delete_ids

        self._check_options()
        with self.open_client(max_connections=self.concurrency) as client:
            ids = self._read_ids()
            self._sent = ids.fingerprint
            if self.is_dry_run:
                self._rehearse(context, client, ids)
                return None
            receipt = delete_ids(
                client,
                self.index_name,
                ids,
                concurrency=self.concurrency,
                witnesses=self.verify != "none",
                fail_if_none_exist=self.fail_if_none_exist,
                checkpoint=self.open_checkpoint(context, client) if ids.count else None,
                stopped=self.is_killed,
                log=self.log,
            )
        self.log.info("%s", receipt.acceptance("id"))
        return self.push_and_wait(context, receipt)

    def to_resume(self) -> dict[str, Any]:
        """Return the further arguments of ``execute_complete``."""
        return {"sent": self._sent}

    def execute_complete(
        self, context: Context, event: Any = None, done: Mapping[str, Any] | None = None, sent: str = ""
    ) -> str | None:
        """
        End the task after a deferred wait.

        :param sent: the fingerprint of the sent ids.
        :return: the mutation id.
        :raises VectorizeWaitTimeout: the delete was not observed as applied in time.
        """
        self._sent = sent
        return super().execute_complete(context, event, done)

    def flow(self, *, failed: bool) -> Flow:
        """Return the index and files that the task has read and written."""
        from airflow_provider_cfvectorize.lineage import Flow

        return Flow(
            reads_index=self.is_dry_run and self.verify != "none",
            writes_index=(self.has_written or failed) and not self.is_dry_run,
            input_paths=(self.ids_path,),
        )

    def complete_evidence(self, evidence: dict[str, Any]) -> dict[str, Any]:
        """With ``verify="all"``, read every id back and add the result to the evidence."""
        if self.verify != "all" or evidence["mutation_id"] is None:
            return evidence
        from airflow_provider_cfvectorize.client.bulk.delete import read_back_all
        from airflow_provider_cfvectorize.client.mutations.decide import VISIBILITY_PATIENCE

        with self.open_client(max_connections=self.concurrency) as client:
            ids = self._read_ids()
            # Empty only after a deferral in dag.test(), which drops the arguments of a deferral.
            if self._sent and ids.fingerprint != self._sent:
                raise VectorizeInputError(
                    "verify='all': the ids have changed since the delete, so reading them back would prove "
                    "nothing. The delete is applied. Do not change the ids or the file before the task ends"
                )
            found = read_back_all(
                client,
                self.index_name,
                ids,
                concurrency=self.concurrency,
                patience=min(self.wait_timeout, VISIBILITY_PATIENCE.total_seconds()),
                interval=self.poll_interval,
                stopped=self.is_killed,
                log=self.log,
            )
        return {**evidence, **found}

    def _check_options(self) -> None:
        self.check_wait()
        self.check_choice("verify", "sample", "all", "none")
        if self.verify == "all" and not (self.wait_for_completion or self.is_dry_run):
            raise VectorizeInputError(
                "verify='all' reads every id back after the delete is applied: set wait_for_completion=True"
            )
        if self.fail_if_none_exist and self.verify == "none":
            raise VectorizeInputError(
                "fail_if_none_exist=True needs a sample of the ids, and verify='none' reads none: set "
                "verify='sample'"
            )
        self.check_number("concurrency", 1, whole=True)
        if self.max_ids is not None:
            self.check_number("max_ids", 0, whole=True)

    def _read_ids(self) -> IdSource:
        return read_id_source(
            self.ids, self.ids_path, max_ids=self.max_ids, origin=origin_of(self, "ids"), log=self.log
        )

    def _rehearse(self, context: Context, client: VectorizeClient, ids: IdSource) -> None:
        from airflow_provider_cfvectorize.client.bulk.delete import Sample, take_sample
        from airflow_provider_cfvectorize.client.mutations.receipts import RECEIPT_KEY, Receipt

        self.log.info(
            "Dry run: %s in %s would be deleted.", counted(ids.count, "id"), counted(ids.batches, "batch")
        )
        sample = Sample(0)
        if ids.count and self.verify != "none":
            sample = take_sample(
                client,
                self.index_name,
                ids,
                self.log,
                fail_if_none_exist=self.fail_if_none_exist,
                stopped=self.is_killed,
            )
            asked = counted(sample.asked, "id")
            verb = "exists" if sample.exist == 1 else "exist"
            self.log.info("Dry run: of %s read, %d %s.", asked, sample.exist, verb)
        receipt = Receipt(
            None, self.index_name, client.account_id, sampled=sample.asked, existing=sample.exist
        )
        rehearsed = {"dry_run": True, "would_delete": ids.count}
        self.push(context, RECEIPT_KEY, {**receipt.as_dict(), **rehearsed})
