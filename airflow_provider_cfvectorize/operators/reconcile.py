# SPDX-License-Identifier: Apache-2.0
"""The operator that deletes every vector whose id is not in the desired set."""

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
#: A template whose value may differ between the instances of a mapped task.
_OF_INSTANCE: Final = re.compile(r"\{[{%].*\b(ti|task_instance|task)\b", re.DOTALL)
#: The most missing ids in the report.
SHOWN_MISSING: Final = 100


class ReconcileVectorsOperator(VectorizeWriteOperator):
    """
    Delete every vector whose id is not in the desired set, and wait until the delete is applied.

    The task lists the index, compares the listing with the desired ids, and deletes the surplus. It reports
    missing ids, which are desired but not in the index. It writes no vectors.

    With an ``id_prefix``, the task compares and deletes only ids with this prefix. Without a prefix, it
    deletes every id of the index that is not desired, and the log warns. To delete all vectors of a tenant,
    pass ``ids=[]``, the tenant's prefix as ``id_prefix`` and ``allow_empty=True``.

    Instances of a mapped task that share a scope would delete each other's ids. The task therefore refuses to
    run in a mapped task or mapped task group without ``id_prefix``, unless the task is mapped over
    ``index_name`` alone and all names differ. It also refuses one ``id_prefix`` and index for all instances.
    If the task cannot see that each instance has its own index, pass ``owns_index=True``.

    Three guards can refuse the delete with a ``VectorizeInputError`` that says how to continue:

    - An empty desired set needs ``allow_empty=True``.
    - A surplus id must not look like a missing one, which is a sign of a damaged list of ids. Two ids look
      alike if they differ only in white space, byte order marks and NULs at the ends or in Unicode
      normalization, or if the surplus id begins with the last line of ``ids_path``.
      ``allow_lookalikes=True`` turns this guard off.
    - At most ``max_delete_fraction`` of the listed ids may be surplus. This guard does not apply to an empty
      desired set with ``allow_empty=True``.

    A vector that is written after the start of the listing is not in the listing and stays. If others
    delete ids and write them again meanwhile, or if listings lag, pass ``confirm_after``: the task lists a
    second time and deletes only ids that were surplus both times. A vector that is written after the desired
    set was made and before the listing is surplus. Do not write ids with the prefix between the two.

    The return value is the id of the task's last mutation: once it is applied, all are. It is None if there
    was nothing to delete. The task pushes the XCom ``report`` before the wait, and also if one of the last
    two guards refuses:

    - ``listed``: the number of ids in scope in the last listing; ``desired``: the number of distinct desired
      ids; ``surplus``: the number of ids to delete; ``deleted``: the number of acknowledged deletes;
    - ``missing``: the number of desired ids that are not in the listing; ``missing_ids``: the first 100;
    - ``surplus_path``, ``missing_path``: the written files, or None;
    - ``refused``: why a guard refuses, or None; ``dry_run``; ``id_prefix``.

    The task pushes the XCom ``receipt`` as soon as the service has accepted the last batch, and the XCom
    ``evidence`` if it waited. Retries are safe: a retry lists again and deletes the surplus at that time.

    The task compares ids in a temporary database on the worker's disk, which needs up to 250 bytes an id.
    Memory does not grow with their number, except for ``ids``. A listing needs 1 request for 1,000 ids; one
    process starts at most 50 of these requests a second.

    .. seealso::
        The guide, with examples: :doc:`/docs/operators/reconcile-vectors`

    :param index_name: the index. (templated)
    :param ids: the desired ids: a list, an upstream task's output, a Jinja expression that gives a list, or
        one id. Integers become strings. Pass either this or ``ids_path``. (templated)
    :param ids_path: a file of desired ids, of any size: one id per line, or in a ``.ndjson`` or ``.jsonl``
        file one JSON object with an ``id`` per line. A local path or a URL of object storage. (templated)
    :param id_prefix: compare and delete only ids with this prefix, which all desired ids must have. End it
        with a delimiter: ``tenant-1`` also selects the ids of ``tenant-10``, ``tenant-1/`` does not.
        (templated)
    :param owns_index: confirm that the task may delete any id of the index. Without ``id_prefix``, this
        avoids a warning. In a mapped task, it confirms that each instance has its own index.
    :param max_delete_fraction: the largest part of the listed ids that the task may delete, from 0 to 1.
    :param allow_empty: accept an empty desired set and delete every id in scope.
    :param allow_lookalikes: delete surplus ids that look like missing ones.
    :param confirm_after: seconds, or a ``timedelta``, before a second listing; None lists once.
    :param dry_run: delete nothing and write the surplus to a file. A guard does not fail the task; the report
        says whether one would refuse.
    :param surplus_path: the file for the surplus, which the task writes before the delete, in a format that
        ``ids_path`` accepts. The task replaces an existing file. A dry run without this parameter writes a
        new file in the worker's temporary directory; the log and the report have its path. (templated)
    :param missing_path: the file for all missing ids, in a format that ``ids_path`` accepts. The task
        replaces an existing file. (templated)
    :param wait_for_completion: wait until the delete is applied. Unlike other operators, this one waits by
        default.
    :param poll_interval: seconds, or a ``timedelta``, between two polls of a wait.
    :param wait_timeout: the longest wait, in seconds or as a ``timedelta``. After it the task fails with
        ``VectorizeWaitTimeout``, and Airflow retries it if it has retries.
    :param deferrable: wait in the triggerer, without occupying a worker slot.
    :param durable: on Airflow 3.3 or newer, save progress: a retry lists again and skips acknowledged batches
        of an equal surplus, or continues at the wait if all were acknowledged. Different ids, a cleared task
        or a recreated index start over.
    :param verify: ``sample`` reads a few ids before and after the delete, which proves it even if others
        write to the index meanwhile; ``none`` reads none.
    :param concurrency: the most deletes in flight at once.
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
        # Not dry_run: Airflow's base class has a method of that name.
        self.is_dry_run = dry_run
        self.surplus_path = surplus_path
        self.missing_path = missing_path
        self.durable = durable
        self.verify = verify
        self.concurrency = concurrency
        # A natively rendered template may give None, which must not mean the whole index.
        self._given_prefix = id_prefix
        self._has_files = False

    def execute(self, context: Context) -> str | None:
        """
        List, compare, delete the surplus, push report and receipt and, with ``wait_for_completion``, wait.

        :return: the id of the last mutation, None if nothing was sent.
        :raises VectorizeInputError: a parameter or the connection is invalid, or a guard refuses; nothing
            was deleted.
        :raises VectorizeListingExpired: the listing expired four times; nothing was deleted.
        :raises VectorizeBatchError: the service accepted only a part; says how many ids.
        :raises VectorizeWaitTimeout: the delete was not observed as applied in time.
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
            receipt = self._earlier_receipt(context, checkpoint)
            if receipt is None:
                self._compare(client, comparison, desired)
                receipt = self._act(context, client, comparison, checkpoint)
        return None if self.is_dry_run else self.push_and_wait(context, receipt)

    def flow(self, *, failed: bool) -> Flow:
        """Return the index and files that the task has read and written."""
        from airflow_provider_cfvectorize.lineage import Flow

        # The task writes files before the delete and the wait.
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
                "id_prefix is None after rendering, and without a prefix the task would own the whole index. "
                "Check the template or upstream task that gives it. To run without id_prefix, do not pass it"
            )
        check_prefix(self.id_prefix)
        self.check_choice("verify", "sample", "none")
        self.check_number(
            "max_delete_fraction",
            0,
            1,
            hint=": the largest part of the listed ids to delete, such as 0.2 for 20 %",
        )
        if self.confirm_after is not None:
            self.check_number("confirm_after", 0)
        self.check_number("concurrency", 1, whole=True)
        self._check_paths()

    def _check_scope(self, context: Context) -> None:
        """Refuse an instance of a mapped task that may delete the desired ids of another instance."""
        if self.owns_index or context["ti"].map_index in (None, -1):
            return
        # A task in a mapped task group is not mapped itself and has no such input.
        dag: Any = self.get_dag()
        over, others = mapped_arguments(dag.get_task(self.task_id))
        if self.id_prefix is None:
            if isinstance(over, dict) and over.keys() == {"index_name"}:
                names = over["index_name"]
                names = list(names.resolve(context) if hasattr(names, "resolve") else names)
                # Two templates may render to one name.
                is_literal = all(isinstance(name, str) and "{" not in name for name in names)
                if is_literal and len(set(names)) == len(names):
                    return
            scope = "no id_prefix"
        else:
            if not isinstance(over, dict) or not over.keys().isdisjoint(SCOPE):
                return
            given = [others.get(name) for name in SCOPE]
            if any(isinstance(value, str) and _OF_INSTANCE.search(value) for value in given):
                return
            scope = f"one id_prefix {show(self.id_prefix)} for all instances"
        raise VectorizeInputError(
            f"this mapped task has {scope}, so it would delete the desired ids of its other instances in "
            f"index {show(self.index_name)}. Nothing was deleted. Pass the ids of all instances to one task, "
            "or map over id_prefix. If each instance has its own index, set owns_index=True"
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
                    f"{names[place]} and {name} are both {show(path, 200)}: pass different files"
                )
            names[place] = name

    def _earlier_receipt(self, context: Context, checkpoint: Checkpoint | None) -> Receipt | None:
        """Return the receipt of an earlier attempt whose delete was acknowledged; None if there is none."""
        if checkpoint is None:
            return None
        saved = checkpoint.load()
        report = (saved.details or {}).get("report")
        if saved.receipt is None or not isinstance(report, dict):
            return None
        count = counted(saved.receipt.count, "id")
        self.log.info("Acknowledged in an earlier attempt: the delete of %s.", count)
        self.push(context, "report", report)
        return saved.receipt

    def _compare(self, client: VectorizeClient, comparison: Comparison, desired: IdSource) -> None:
        from airflow_provider_cfvectorize.client.bulk.reconcile import list_into, pause

        comparison.add_desired(desired, of_file=self.ids_path is not None)
        if desired.count == 0 and not self.is_dry_run:
            # A guard would refuse any listing.
            self._raise(self._refusal(comparison))
        if self.id_prefix is None and not self.owns_index:
            self.log.warning(
                "Without id_prefix, this task owns the whole index %s: every id that is not among the %d "
                "desired ids is surplus, even if another client wrote it. If that is intended, set "
                "owns_index=True.",
                self.index_name,
                comparison.desired,
            )
        if self.id_prefix is not None and self.id_prefix[-1].isalnum():
            self.log.warning(
                "The id_prefix %s ends without a delimiter, so its scope includes ids that begin with %s. "
                "End it with a delimiter, as in %s.",
                *(show(self.id_prefix + end) for end in ("", "0", "/")),
            )
        list_into(comparison, client, self.index_name, stopped=self.is_killed, log=self.log)
        self._log_comparison(comparison)
        if self.confirm_after is None or comparison.surplus.count == 0:
            return
        if self._refusal(comparison) and not self.is_dry_run:
            return
        self.log.info("Waiting %g s before a second listing that confirms the surplus.", self.confirm_after)
        pause(self.confirm_after, self.is_killed)
        list_into(comparison, client, self.index_name, stopped=self.is_killed, log=self.log)
        self._log_comparison(comparison)

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
                checkpoint.add_details({"report": {**report, "deleted": surplus.count}})
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
            self.log.warning("Without dry_run, the task would fail: %s.", report["refused"])
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
            self.log.info("Nothing to delete: no surplus.")
        else:
            self.log.info("%s", receipt.acceptance("id"))
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

    def _log_comparison(self, comparison: Comparison) -> None:
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
        # NDJSON accepts any id. Only the file's owner can read it.
        from airflow_provider_cfvectorize.client.inputs.ids_file import write_ids

        handle, path = tempfile.mkstemp(prefix="cfvectorize-surplus-", suffix=".ndjson")
        try:
            with no_room_explained(path, "surplus_path"), open(handle, "wb") as file:
                write_ids(file, ids, ndjson=True)
        except BaseException:
            os.unlink(path)
            raise
        return path
