# SPDX-License-Identifier: Apache-2.0
"""Operators that create and delete metadata indexes; import them from ``operators.indexes``."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.common.compat.sdk import conf

from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.client.limits import MAX_METADATA_INDEXES
from airflow_provider_cfvectorize.connection import DEFAULT_CONN_ID
from airflow_provider_cfvectorize.exceptions import VectorizeInputError, VectorizeResponseError
from airflow_provider_cfvectorize.operators.base import VectorizeWriteOperator
from airflow_provider_cfvectorize.templating import read_nothing

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_cfvectorize.client.client import VectorizeClient
    from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
    from airflow_provider_cfvectorize.client.types import IndexType, MetadataIndex, Mutation


def make_receipt(client: VectorizeClient, index_name: str, mutation: Mutation | None, count: int) -> Receipt:
    """Return the receipt of so many metadata indexes, each created or deleted by a request of its own."""
    from airflow_provider_cfvectorize.client.mutations.receipts import Receipt

    return Receipt.of(mutation, index_name, client.account_id, count=count, batches=count)


class MetadataIndexOperator(VectorizeWriteOperator):
    """The base of operators that wait for metadata indexes, which are seen where they are listed."""

    def watch_listed(self, lack: Callable[[list[MetadataIndex]], str], *, seconds: float) -> None:
        """
        Look at what is listed until it is as it should be, in this process.

        :param lack: says what is not as it should be, with an empty text if nothing.
        """
        from airflow_provider_cfvectorize.client.mutations.wait import WatchingClient, watch_metadata_indexes

        hook = self.make_hook()
        with closing(WatchingClient(hook.get_watching_conn(), hook.get_watching_conn, self.log)) as client:
            watch_metadata_indexes(
                client,
                self.index_name,
                lack,
                seconds=seconds,
                interval=self.poll_interval,
                stopped=self.is_killed,
                log=self.log,
            )


class CreatesMetadataIndexes(MetadataIndexOperator):
    """
    The base of operators that create metadata indexes.

    Only what is applied is listed, and what counts is what is accepted before: the service acknowledges the
    creation of a metadata index whose property has one already, of whatever type, and leaves that as it is.
    So one that is listed is created all the same, since its deletion may be on the way; and whether the type
    is the one wanted can be seen only when the creation is applied.
    """

    @abstractmethod
    def wanted_types(self) -> Mapping[str, IndexType]:
        """Return the types of the metadata indexes that this task creates, by property."""

    def hand_on(self, context: Context, receipt: Receipt) -> str | None:
        """Push the receipt and, with ``wait_for_completion``, wait."""
        if receipt.mutation_id is not None and not self.wait_for_completion:
            self.log.info(
                "Not waited for, and so not confirmed: a metadata index of another type that somebody else "
                "has created just now, and that is not listed yet, would stay. wait_for_completion=True "
                "looks at the types in the end."
            )
        return super().hand_on(context, receipt)

    def report(self, evidence: dict[str, Any]) -> None:
        """
        Say in the log how the wait ended, and see that the metadata indexes are of the types wanted.

        :raises VectorizeInputError: there is one of another type.
        :raises VectorizeWaitTimeout: one is not listed.
        """
        from airflow_provider_cfvectorize.client.mutations.decide import VISIBILITY_PATIENCE

        super().report(evidence)
        if evidence["mutation_id"] is None:
            return
        # Applied and listed are two views of the index, and one of them may lag.
        patience = min(self.wait_timeout, VISIBILITY_PATIENCE.total_seconds())
        self.watch_listed(self._lack, seconds=patience)

    def _lack(self, listed: list[MetadataIndex]) -> str:
        from airflow_provider_cfvectorize.client.inputs.indexes import type_differences

        wanted = self.wanted_types()
        if differences := type_differences(listed, wanted):
            raise VectorizeInputError(
                f"index {show(self.index_name)} has a metadata index of another type: "
                f"{'; '.join(differences)}. Somebody else has created it first, and the service leaves it as "
                "it is. Pass that type; or delete the metadata index and wait for that "
                "(DeleteVectorizeMetadataIndexOperator, wait_for_completion=True), create it again and "
                "upsert the vectors"
            )
        there = [one["propertyName"] for one in listed]
        absent = [show(name) for name in wanted if name not in there]
        if not absent:
            return ""
        return (
            f"the metadata indexes of index {show(self.index_name)} are applied, and these are not listed: "
            f"{', '.join(absent)}. Either that view of the index lags, or somebody has deleted them since"
        )


class CreateVectorizeMetadataIndexOperator(CreatesMetadataIndexes):
    """
    Let queries filter by a property of the metadata, for vectors that are written from now on.

    Vectors that were written before are found by no filter on the property until they are upserted again; the
    log says so where there are any. For a new index, pass ``metadata_indexes`` to
    :class:`CreateVectorizeIndexOperator` instead.

    The return value is the mutation id. The XCom ``receipt`` is always pushed, the XCom ``evidence`` if this
    task waited.

    A metadata index that is listed already is created all the same. That changes nothing, unless its deletion
    was accepted before and is not applied yet; then there is one again in the end. In the same way somebody
    else may just have created one of another type, and that one stays: a task that waits sees that when it is
    applied, and fails; one that does not wait cannot.

    .. seealso::
        The guide, with examples: :doc:`/docs/operators/create-metadata-index`

    :param index_name: the index. (templated)
    :param property_name: the property, ``.`` for nested ones. (templated)
    :param index_type: ``string`` (of which the first 64 bytes are indexed), ``number`` or ``boolean``.
        (templated)
    :param if_exists: ``skip`` to take a metadata index of that type, or ``fail`` if one is listed. One of
        another type is an error in any case. (templated)
    :param wait_for_completion: end only when the metadata index is applied, and has the type wanted.
    :param poll_interval: seconds, or a ``timedelta``, between two looks while waiting.
    :param wait_timeout: seconds, or a ``timedelta``, to wait at most; then the task fails with
        ``VectorizeWaitTimeout``, and is retried if it has retries.
    :param deferrable: wait in the triggerer, without a worker's slot.
    :param conn_id: the connection. (templated)
    :param account_id: the account; the connection's login if not given. (templated)
    """

    template_fields: Sequence[str] = (
        "index_name",
        "property_name",
        "index_type",
        "if_exists",
        "conn_id",
        "account_id",
    )

    def __init__(
        self,
        *,
        index_name: str,
        property_name: str,
        index_type: str,
        if_exists: str = "skip",
        wait_for_completion: bool = False,
        poll_interval: timedelta | float = 10,
        wait_timeout: timedelta | float = 900,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
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
        self.property_name = property_name
        self.index_type = index_type
        self.if_exists = if_exists

    def execute(self, context: Context) -> str | None:
        """
        Create the metadata index, push the receipt and, with ``wait_for_completion``, wait.

        :return: the mutation id.
        :raises VectorizeInputError: something passed or configured cannot work, or the index has this
            metadata index with another type, or ten others; nothing was created. After a wait: somebody else
            has created one of another type first.
        :raises VectorizeNotFoundError: there is no such index.
        :raises VectorizeWaitTimeout: it was not seen to be applied in time.
        """
        self.check_wait()
        self.check_choice("if_exists", "skip", "fail")
        ((name, index_type),) = self.wanted_types().items()
        with self.open_client(max_connections=1) as client:
            # Before, so that what is told is not about vectors written since.
            vectors = None if self._is_listed(client, name, index_type) else self._count(client)
            mutation = self.ask(client.create_metadata_index, self.index_name, name, index_type)
            self.change = "ALTER"
            self.log.info("Accepted: the metadata index, as mutation %s.", mutation["mutationId"])
            if vectors:
                self.log.warning(
                    "Index %s has vectors (%s), which no filter by %s finds until they are upserted again.",
                    self.index_name,
                    show(vectors),
                    show(name),
                )
            receipt = make_receipt(client, self.index_name, mutation, 1)
        return self.hand_on(context, receipt)

    def wanted_types(self) -> Mapping[str, IndexType]:
        """Return the type of the metadata index, by property."""
        from airflow_provider_cfvectorize.client.inputs.indexes import check_index_type, check_property_name

        # What Jinja makes of nothing is a property that no vector has.
        name = check_property_name(read_nothing(self.property_name))
        return {name: cast("IndexType", check_index_type(self.index_type))}

    def _count(self, client: VectorizeClient) -> object:
        return self.ask(client.info, self.index_name).get("vectorCount")

    def _is_listed(self, client: VectorizeClient, name: str, index_type: str) -> bool:
        listed = self.ask(client.list_metadata_indexes, self.index_name)
        types = {one["propertyName"]: one["indexType"] for one in listed}
        found = types.get(name)
        if found is None:
            if len(types) >= MAX_METADATA_INDEXES:
                raise VectorizeInputError(
                    f"index {show(self.index_name)} has {len(types)} metadata indexes, the most it can have: "
                    f"{', '.join(map(show, types))}. Delete one of them first, and wait for that "
                    "(DeleteVectorizeMetadataIndexOperator, wait_for_completion=True)"
                )
            return False
        if found != index_type:
            raise VectorizeInputError(
                f"index {show(self.index_name)} has a metadata index of {show(name)} of another type: "
                f"expected {show(index_type)}, found {show(found)}. Pass that type; or delete the metadata "
                "index first and wait for that (DeleteVectorizeMetadataIndexOperator, "
                "wait_for_completion=True), and upsert the vectors after creating the new one"
            )
        if self.if_exists == "fail":
            raise VectorizeInputError(
                f"index {show(self.index_name)} has a metadata index of {show(name)} already. An earlier try "
                "of this task may have created it. To take it as done, set if_exists='skip'"
            )
        self.log.info(
            "Index %s has this metadata index of %s already. It is created all the same, which changes "
            "nothing unless its deletion is on the way.",
            self.index_name,
            show(name),
        )
        return True


class DeleteVectorizeMetadataIndexOperator(MetadataIndexOperator):
    """
    Let queries filter by a property no more; the vectors keep their metadata.

    The return value is the mutation id, None if there was no such metadata index. The XCom ``receipt`` is
    always pushed, the XCom ``evidence`` if this task waited.

    There is no such metadata index any more, for the service, as soon as it has accepted a deletion: one of
    somebody else, or one of this task whose answer was lost. Its mutation id is not known then. A task that
    takes this as done and waits looks, in the worker (also if ``deferrable``), until the metadata index is
    not listed any more; one that does not wait may end while it is.

    .. seealso::
        The guide, with examples: :doc:`/docs/operators/delete-metadata-index`

    :param index_name: the index. (templated)
    :param property_name: the property, ``.`` for nested ones. (templated)
    :param if_missing: ``fail`` if the index has no such metadata index; ``skip`` to take that as done.
        (templated)
    :param wait_for_completion: end only when the deletion is applied.
    :param poll_interval: seconds, or a ``timedelta``, between two looks while waiting.
    :param wait_timeout: seconds, or a ``timedelta``, to wait at most; then the task fails with
        ``VectorizeWaitTimeout``, and is retried if it has retries.
    :param deferrable: wait in the triggerer, without a worker's slot.
    :param conn_id: the connection. (templated)
    :param account_id: the account; the connection's login if not given. (templated)
    """

    template_fields: Sequence[str] = ("index_name", "property_name", "if_missing", "conn_id", "account_id")

    def __init__(
        self,
        *,
        index_name: str,
        property_name: str,
        if_missing: str = "fail",
        wait_for_completion: bool = False,
        poll_interval: timedelta | float = 10,
        wait_timeout: timedelta | float = 900,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
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
        self.property_name = property_name
        self.if_missing = if_missing

    def execute(self, context: Context) -> str | None:
        """
        Delete the metadata index, push the receipt and, with ``wait_for_completion``, wait.

        :return: the mutation id, None if it was not there.
        :raises VectorizeInputError: something passed or configured cannot work; nothing was sent.
        :raises VectorizeResponseError: there is no such metadata index (code 40005), or another refusal.
        :raises VectorizeNotFoundError: there is no such index.
        :raises VectorizeWaitTimeout: the deletion was not seen to be applied in time.
        """
        from airflow_provider_cfvectorize.client.http.responses import METADATA_INDEX_NOT_FOUND_CODE
        from airflow_provider_cfvectorize.client.inputs.indexes import check_property_name

        self.check_wait()
        self.check_choice("if_missing", "fail", "skip")
        # What Jinja makes of nothing has no metadata index, which with "skip" would look like a success.
        name = check_property_name(read_nothing(self.property_name))
        with self.open_client(max_connections=1) as client:
            mutation = None
            try:
                mutation = self.ask(client.delete_metadata_index, self.index_name, name)
            except VectorizeResponseError as e:
                if e.code != METADATA_INDEX_NOT_FOUND_CODE:
                    raise
                if self.if_missing == "fail":
                    raise type(e)(
                        f"{e}. To take one that is not there as done, set if_missing='skip'",
                        status=e.status,
                        code=e.code,
                    ) from None
                self.log.info("Index %s has no metadata index of %s.", self.index_name, show(name))
            else:
                self.change = "ALTER"
                self.log.info("Accepted: the deletion, as mutation %s.", mutation["mutationId"])
            receipt = make_receipt(client, self.index_name, mutation, 0 if mutation is None else 1)
        return self.hand_on(context, receipt)

    def complete_evidence(self, evidence: dict[str, Any]) -> dict[str, Any]:
        """
        Where no mutation is known, look until the metadata index is gone.

        :raises VectorizeWaitTimeout: it was still listed in the end.
        """
        if evidence["mutation_id"] is None:
            self.watch_listed(self._lack, seconds=self.wait_timeout)
        return evidence

    def _lack(self, listed: list[MetadataIndex]) -> str:
        if self.property_name not in [one["propertyName"] for one in listed]:
            return ""
        return (
            f"index {show(self.index_name)} still lists the metadata index of {show(self.property_name)}: "
            "its deletion was accepted before and is not applied yet, or somebody has created it again"
        )
