# SPDX-License-Identifier: Apache-2.0
"""The operator that makes an index hold no id outside a desired set."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from airflow.providers.common.compat.sdk import conf

from airflow_provider_cfvectorize.airflow_rendering import mapped_arguments
from airflow_provider_cfvectorize.client.inputs.files import is_ndjson, no_room_explained
from airflow_provider_cfvectorize.client.inputs.text import counted, show
from airflow_provider_cfvectorize.connection import DEFAULT_CONN_ID
from airflow_provider_cfvectorize.exceptions import VectorizeBatchError, VectorizeInputError
from airflow_provider_cfvectorize.operators.base import VectorizeWriteOperator
from airflow_provider_cfvectorize.operators.files import (
    origin_of,
    path_of,
    place_of,
    read_id_source,
    write_file,
)
from airflow_provider_cfvectorize.templating import is_given, to_seconds

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_cfvectorize.client.bulk.checkpoint import Checkpoint
    from airflow_provider_cfvectorize.client.bulk.reconcile import Comparison
    from airflow_provider_cfvectorize.client.client import VectorizeClient
    from airflow_provider_cfvectorize.client.inputs.ids import IdSource
    from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
    from airflow_provider_cfvectorize.lineage import Flow
    from airflow_provider_cfvectorize.operators.files import FilePath

#: The parameters that say which ids a task may delete.
SCOPE: Final = ("index_name", "id_prefix", "conn_id", "account_id")
#: A template that may give each instance of a mapped task something else.
_OF_INSTANCE: Final = re.compile(r"\{[{%].*\b(ti|task_instance|task)\b", re.DOTALL)
#: Missing ids that the report has in it.
SHOWN_MISSING: Final = 100


class ReconcileVectorsOperator(VectorizeWriteOperator):
    """
    Make an index hold no id outside a desired set: list it, delete the surplus, wait until that is applied.

    Ids that are desired and not in the index are counted and handed on; this task writes no vectors.

    With an ``id_prefix``, only ids that begin so are compared, and only those can be deleted: what is not of
    this task stays. Without, the task owns the whole index, which the log says, and deletes whatever is not
    desired, whoever wrote it. To delete everything of a tenant, pass ``ids=[]``, the tenant's prefix as
    ``id_prefix`` and ``allow_empty=True``.

    Instances of a mapped task that share a scope would delete each other's ids. A mapped task (or one in a
    mapped task group) without ``id_prefix`` is refused, unless it is mapped over ``index_name`` alone and
    all names differ; so is one that gives all its instances one ``id_prefix`` of one index.
    ``owns_index=True`` says that each instance has an index of its own, where this cannot be told.

    Three guards stand before the delete; a refusal is a ``VectorizeInputError`` that says how to go on, and
    then nothing was deleted. An empty desired set needs ``allow_empty=True``. No surplus id may look like a
    missing one, which a damaged list of ids would explain: they differ in white space, byte order marks and
    NULs at the ends or in Unicode normalization only, or the surplus id begins with the last line of
    ``ids_path``; ``allow_lookalikes=True`` goes on. And no more than ``max_delete_fraction`` of the listed
    ids may be surplus (with an empty desired set the fraction is not looked at, since ``allow_empty`` has
    said it).

    A vector that is written after the listing has begun is not in the listing and stays. Where others delete
    and write meanwhile, or where a listing lags, ``confirm_after`` lists a second time and deletes only what
    was surplus both times. Neither helps a vector written before the listing and after the desired set was
    made: it is surplus, so nobody may write in scope between those two.

    The return value is the id of a mutation that comes after all others of this task, None if there was
    nothing to delete. The XCom ``report`` is pushed before the wait, also when a guard refuses:

    - ``listed``: number of ids in scope of the last listing; ``desired``: number of distinct desired ids;
      ``surplus``: number of ids to delete; ``deleted``: number of ids whose delete is acknowledged;
    - ``missing``: number of ids that are desired and were not listed; ``missing_ids``: the first 100;
    - ``surplus_path``, ``missing_path``: the files that were written, or None;
    - ``refused``: why a guard refuses, or None; ``dry_run``; ``id_prefix``.

    The XCom ``receipt`` is pushed as soon as the service accepted the last batch, the XCom ``evidence`` if
    this task waited. A retry lists anew and deletes what is surplus then, so the task can be retried.

    Desired ids and listing are compared in a temporary database on the worker's disk, of up to 250 bytes an
    id; memory does not grow with their number, apart from ``ids`` themselves. A listing takes a request for
    1,000 ids, of which one process starts at most 50 a second.

    .. seealso::
        The guide, with examples: :doc:`/docs/operators/reconcile-vectors`

    :param index_name: the index. (templated)
    :param ids: the ids that may stay: a list, an upstream task's output, a Jinja expression that gives a
        list, or a single id. Integers become strings. Give this or ``ids_path``. (templated)
    :param ids_path: a file of them, of any size: one id a line, or (``.ndjson``, ``.jsonl``) one JSON object
        with an ``id`` a line. A local path, or a URL of object storage. (templated)
    :param id_prefix: limit the task to ids that begin so; all desired ids must. End it with a delimiter:
        ``tenant-1`` takes the ids of ``tenant-10`` too, ``tenant-1/`` does not. (templated)
    :param owns_index: the task owns the whole index, and each instance of a mapped task an index of its own.
    :param max_delete_fraction: the most of the listed ids that may be deleted, 0 to 1.
    :param allow_empty: accept an empty desired set, and delete everything in scope then.
    :param allow_lookalikes: delete ids that look like desired ones which are missing.
    :param confirm_after: seconds, or a ``timedelta``, after which to list again; None lists once.
    :param dry_run: delete nothing, and write the surplus to a file; the guards do not end the task, the
        report says whether they would have.
    :param surplus_path: a file for the surplus, written before anything is deleted, in a form that
        ``ids_path`` takes; what is there is replaced. In a dry run without it, a new file in the worker's
        temporary directory, which the log and the report name. (templated)
    :param missing_path: a file for all missing ids, likewise. (templated)
    :param wait_for_completion: end only when the delete is applied. By default, unlike in other operators,
        because what this task promises is the state of the index.
    :param poll_interval: seconds, or a ``timedelta``, between two looks while waiting.
    :param wait_timeout: seconds, or a ``timedelta``, to wait at most; then the task fails with
        ``VectorizeWaitTimeout``, and is retried if it has retries.
    :param deferrable: wait in the triggerer, without a worker's slot.
    :param durable: on Airflow 3.3 or newer, keep how far the task came: a retry lists again, and does not
        send what was acknowledged of the same surplus; or goes straight to the wait, if all was. Other ids,
        a cleared task or an index that was created anew start afresh.
    :param verify: ``sample`` asks about a few ids before and after, which proves the delete even if somebody
        else writes to the index meanwhile; ``none`` asks nothing.
    :param concurrency: requests in flight at once while deleting.
    :param conn_id: the connection. (templated)
    :param account_id: the account; the connection's login if not given. (templated)
    """

    template_fields: Sequence[str] = (
        "index_name",
        "ids",
        "ids_path",
        "id_prefix",
        "surplus_path",
        "missing_path",
        "conn_id",
        "account_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"ids": "json"}

    def __init__(
        self,
        *,
        index_name: str,
        ids: Sequence[str | int] | str | None = None,
        ids_path: FilePath | None = None,
        id_prefix: str | None = None,
        owns_index: bool = False,
        max_delete_fraction: float = 0.2,
        allow_empty: bool = False,
        allow_lookalikes: bool = False,
        confirm_after: timedelta | float | None = None,
        dry_run: bool = False,
        surplus_path: FilePath | None = None,
        missing_path: FilePath | None = None,
        wait_for_completion: bool = True,
        poll_interval: timedelta | float = 10,
        wait_timeout: timedelta | float = 900,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        durable: bool = True,
        verify: str = "sample",
        concurrency: int = 4,
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
        self.id_prefix = id_prefix
        self.owns_index = owns_index
        self.max_delete_fraction = max_delete_fraction
        self.allow_empty = allow_empty
        self.allow_lookalikes = allow_lookalikes
        self.confirm_after = None if confirm_after is None else to_seconds(confirm_after)
        # Not dry_run: that is a method of Airflow's base class.
        self.is_dry_run = dry_run
        self.surplus_path = surplus_path
        self.missing_path = missing_path
        self.durable = durable
        self.verify = verify
        self.concurrency = concurrency
        # With native rendering a template may give None, which must not become "the whole index".
        self._given_prefix = id_prefix
        self._has_files = False

    def execute(self, context: Context) -> str | None:
        """
        List, compare, delete the surplus, push report and receipt and, with ``wait_for_completion``, wait.

        :return: the id of the last mutation, None if nothing was sent.
        :raises VectorizeInputError: something passed or configured cannot work, or a guard refuses; nothing
            was deleted.
        :raises VectorizeListingExpired: the listing expired for the fourth time; nothing was deleted.
        :raises VectorizeBatchError: not all deletes were accepted; says how many were.
        :raises VectorizeWaitTimeout: the delete was not seen to be applied in time.
        """
        from airflow_provider_cfvectorize.client.bulk.reconcile import Comparison

        self._check_options()
        self._check_scope(context)
        with (
            self.open_client(max_connections=self.concurrency) as client,
            Comparison(self.id_prefix) as comparison,
        ):
            desired = read_id_source(self.ids, self.ids_path, origin=origin_of(self, "ids"), log=self.log)
            checkpoint = None
            if self.durable and not self.is_dry_run:
                checkpoint = self.open_checkpoint(context, client, desired.fingerprint, self.id_prefix)
            receipt = self._take_up(context, checkpoint)
            if receipt is None:
                self._compare(client, comparison, desired)
                receipt = self._act(context, client, comparison, checkpoint)
        return None if self.is_dry_run else self.hand_on(context, receipt)

    def flow(self, *, failed: bool) -> Flow:
        """Return what the task has read and written."""
        from airflow_provider_cfvectorize.lineage import Flow

        # Files come before the delete, and so before any wait.
        has_files = self._has_files or self.has_written or not failed
        return Flow(
            reads_index=True,
            writes_index=(self.has_written or failed) and not self.is_dry_run,
            input_paths=(self.ids_path,),
            output_paths=(self.surplus_path, self.missing_path) if has_files else (),
        )

    def _check_options(self) -> None:
        from airflow_provider_cfvectorize.client.bulk.reconcile import check_prefix

        self.check_wait()
        if self.id_prefix is None and is_given(self, "id_prefix", self._given_prefix):
            raise VectorizeInputError(
                "id_prefix was given and became None: a template or an upstream task gave nothing, and the "
                "task will not take that for the whole index"
            )
        check_prefix(self.id_prefix)
        self.check_choice("verify", "sample", "none")
        self.check_number(
            "max_delete_fraction",
            0,
            1,
            hint=": the part of the listed ids that may be deleted, 0.2 for 20 %",
        )
        if self.confirm_after is not None:
            self.check_number("confirm_after", 0)
        self.check_number("concurrency", 1, whole=True)
        self._check_paths()

    def _check_scope(self, context: Context) -> None:
        """Refuse an instance of a mapped task that may delete what another instance keeps."""
        if self.owns_index or context["ti"].map_index in (None, -1):
            return
        # In a mapped task group the task itself is not mapped, and has no such input.
        dag: Any = self.get_dag()
        over, others = mapped_arguments(dag.get_task(self.task_id))
        if self.id_prefix is None:
            if isinstance(over, dict) and over.keys() == {"index_name"}:
                names = over["index_name"]
                names = list(names.resolve(context) if hasattr(names, "resolve") else names)
                # Two templates may give one name.
                told = all(isinstance(name, str) and "{" not in name for name in names)
                if told and len(set(names)) == len(names):
                    return
            scope = "no id_prefix"
        else:
            if not isinstance(over, dict) or not over.keys().isdisjoint(SCOPE):
                return
            given = [others.get(name) for name in SCOPE]
            if any(isinstance(value, str) and _OF_INSTANCE.search(value) for value in given):
                return
            scope = f"the same id_prefix {show(self.id_prefix)} in each instance"
        raise VectorizeInputError(
            f"this mapped task has {scope}, so it would delete what its other instances keep in index "
            f"{show(self.index_name)}: nothing was deleted. Pass the ids of all instances to one task, or "
            "map over id_prefix. If each instance has an index of its own, set owns_index=True"
        )

    def _check_paths(self) -> None:
        names: dict[str, str] = {}
        for name in ("ids_path", "surplus_path", "missing_path"):
            if getattr(self, name) is None:
                continue
            path = path_of(getattr(self, name), name)
            setattr(self, name, path)
            place = place_of(path, name)
            if place in names:
                raise VectorizeInputError(
                    f"{names[place]} and {name} are both {show(path, 200)}: one would replace the other"
                )
            names[place] = name

    def _take_up(self, context: Context, checkpoint: Checkpoint | None) -> Receipt | None:
        """Return the receipt of an earlier try that had everything acknowledged, None if there is none."""
        if checkpoint is None:
            return None
        kept = checkpoint.load()
        report = (kept.details or {}).get("report")
        if kept.receipt is None or not isinstance(report, dict):
            return None
        count = counted(kept.receipt.count, "id")
        self.log.info("The delete of %s was acknowledged in an earlier try.", count)
        self.push(context, "report", report)
        return kept.receipt

    def _compare(self, client: VectorizeClient, comparison: Comparison, desired: IdSource) -> None:
        from airflow_provider_cfvectorize.client.bulk.reconcile import pause, see_index

        comparison.want(desired, of_file=self.ids_path is not None)
        if desired.count == 0 and not self.is_dry_run:
            # Whatever is listed would be refused.
            self._raise(self._refusal(comparison))
        if self.id_prefix is None and not self.owns_index:
            self.log.warning(
                "Without id_prefix this task owns the whole index %s: whatever is not among the %d desired "
                "ids counts as surplus, whoever wrote it. If it does, set owns_index=True.",
                self.index_name,
                comparison.desired,
            )
        if self.id_prefix is not None and self.id_prefix[-1].isalnum():
            self.log.warning(
                "The id_prefix %s ends without a delimiter, so ids that begin with %s are in scope too. "
                "End it with one, as in %s.",
                *(show(self.id_prefix + end) for end in ("", "0", "/")),
            )
        see_index(comparison, client, self.index_name, stopped=self.is_killed, log=self.log)
        self._tell(comparison)
        if self.confirm_after is None or comparison.surplus.count == 0:
            return
        if self._refusal(comparison) and not self.is_dry_run:
            return
        self.log.info("Listing again in %g s, to confirm the surplus.", self.confirm_after)
        pause(self.confirm_after, self.is_killed)
        see_index(comparison, client, self.index_name, stopped=self.is_killed, log=self.log)
        self._tell(comparison)

    def _act(
        self,
        context: Context,
        client: VectorizeClient,
        comparison: Comparison,
        checkpoint: Checkpoint | None,
    ) -> Receipt:

        from airflow_provider_cfvectorize.client.mutations.receipts import Receipt

        surplus, missing = comparison.surplus, comparison.missing
        report: dict[str, Any] = {
            "listed": comparison.listed,
            "desired": comparison.desired,
            "surplus": surplus.count,
            "deleted": 0,
            "missing": missing.count,
            "missing_ids": missing.first(SHOWN_MISSING),
            "surplus_path": None,
            "missing_path": None,
            "dry_run": self.is_dry_run,
            "refused": self._refusal(comparison),
            "id_prefix": self.id_prefix,
        }
        if report["refused"] and not self.is_dry_run:
            self.push(context, "report", report)
            self._raise(report["refused"])
        self._write_files(report, surplus, missing)
        if self.is_dry_run:
            receipt = Receipt(None, self.index_name, client.account_id)
            self._end_dry_run(context, report, receipt)
            return receipt
        try:
            if checkpoint is not None:
                checkpoint.keep_also({"report": {**report, "deleted": surplus.count}})
            receipt = self._delete(client, surplus, checkpoint)
        except VectorizeBatchError as e:
            self.push(context, "report", {**report, "deleted": e.acknowledged})
            raise
        self.push(context, "report", {**report, "deleted": receipt.count})
        return receipt

    def _write_files(self, report: dict[str, Any], surplus: IdSource, missing: IdSource) -> None:
        if self.missing_path is not None:
            self._write(missing, self.missing_path, "missing_path")
            report["missing_path"] = self.missing_path
        if self.surplus_path is not None:
            self._write(surplus, self.surplus_path, "surplus_path")
            report["surplus_path"] = self.surplus_path
        elif self.is_dry_run:
            report["surplus_path"] = self._write_temporary(surplus)
        self._has_files = True

    def _end_dry_run(self, context: Context, report: dict[str, Any], receipt: Receipt) -> None:
        from airflow_provider_cfvectorize.client.mutations.receipts import RECEIPT_KEY

        self.log.info(
            "Dry run: %s would be deleted; the list is in %s.",
            counted(report["surplus"], "id"),
            show(report["surplus_path"], 200),
        )
        if report["refused"]:
            self.log.warning("Without dry_run the task would fail: %s.", report["refused"])
        self.push(context, "report", report)
        rehearsed = {"dry_run": True, "would_delete": report["surplus"]}
        self.push(context, RECEIPT_KEY, {**receipt.as_dict(), **rehearsed})

    def _delete(self, client: VectorizeClient, surplus: IdSource, checkpoint: Checkpoint | None) -> Receipt:
        from airflow_provider_cfvectorize.client.bulk.delete import delete_ids

        receipt = delete_ids(
            client,
            self.index_name,
            surplus,
            concurrency=self.concurrency,
            witnesses=self.verify != "none",
            checkpoint=checkpoint,
            stopped=self.is_killed,
            log=self.log,
        )
        if receipt.mutation_id is None:
            self.log.info("No surplus, so nothing was sent.")
        else:
            self.log.info(
                "Accepted: the delete of %s in %s; the last mutation is %s.",
                counted(receipt.count, "id"),
                counted(receipt.batches, "request"),
                receipt.mutation_id,
            )
        return receipt

    def _refusal(self, comparison: Comparison) -> str | None:
        from airflow_provider_cfvectorize.client.bulk.reconcile import refusal

        return refusal(
            desired=comparison.desired,
            listed=comparison.listed,
            surplus=comparison.surplus.count,
            lookalikes=comparison.lookalikes,
            allow_empty=self.allow_empty,
            max_delete_fraction=self.max_delete_fraction,
            allow_lookalikes=self.allow_lookalikes,
        )

    def _raise(self, refused: str | None) -> None:
        if refused is not None:
            raise VectorizeInputError(f"index {show(self.index_name)}: {refused}")

    def _tell(self, comparison: Comparison) -> None:
        self.log.info(
            "Index %s, %s: %s listed, %d desired, %d surplus, %d missing.",
            self.index_name,
            "all ids" if self.id_prefix is None else f"ids that begin with {show(self.id_prefix)}",
            counted(comparison.listed, "id"),
            comparison.desired,
            comparison.surplus.count,
            comparison.missing.count,
        )

    def _write(self, ids: IdSource, given: FilePath, name: str) -> None:
        from airflow_provider_cfvectorize.client.inputs.ids_file import write_ids

        path = path_of(given, name)
        with write_file(path, name) as file:
            write_ids(file, ids, ndjson=is_ndjson(path))
        self.log.info("Wrote %s to the %s %s.", counted(ids.count, "id"), name, show(path, 200))

    def _write_temporary(self, ids: IdSource) -> str:
        # NDJSON, since any id can stand in it; made so that only its owner can read it.
        from airflow_provider_cfvectorize.client.inputs.ids_file import write_ids

        handle, path = tempfile.mkstemp(prefix="cfvectorize-surplus-", suffix=".ndjson")
        try:
            with no_room_explained(path, "surplus_path"), open(handle, "wb") as file:
                write_ids(file, ids, ndjson=True)
        except BaseException:
            os.unlink(path)
            raise
        return path
