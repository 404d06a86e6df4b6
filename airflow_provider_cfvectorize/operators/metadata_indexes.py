# SPDX-License-Identifier: Apache-2.0
"""The operators for metadata indexes; import them from ``operators.indexes``."""

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
    """Return the receipt of ``count`` requests that create or delete 1 metadata index each."""
    from airflow_provider_cfvectorize.client.mutations.receipts import Receipt

    return Receipt.of(mutation, index_name, client.account_id, count=count, batches=count)


class MetadataIndexOperator(VectorizeWriteOperator):
    """The base of operators that wait until the index lists certain metadata indexes, or does not."""

    def watch_listed(self, find_problem: Callable[[list[MetadataIndex]], str], *, seconds: float) -> None:
        """
        Poll the list of metadata indexes until it is right, in this process.

        :param find_problem: returns what is wrong with a list, or an empty text.
        """
        from airflow_provider_cfvectorize.client.mutations.wait import WatchingClient, watch_metadata_indexes

        hook = self.make_hook()
        with closing(WatchingClient(hook.get_watching_conn(), hook.get_watching_conn, self.log)) as client:
            watch_metadata_indexes(
                client,
                self.index_name,
                find_problem,
                seconds=seconds,
                interval=self.poll_interval,
                stopped=self.is_killed,
                log=self.log,
            )


class CreatesMetadataIndexes(MetadataIndexOperator):
    """
    The base of operators that create metadata indexes.

    The service lists only applied metadata indexes. It acknowledges the creation of a metadata index whose
    property has one, of any type, and does not change the existing one. The task therefore also creates a
    listed one, since its deletion may be in flight. Only after the creation is applied can it check the type.
    """

    @abstractmethod
    def wanted_types(self) -> Mapping[str, IndexType]:
        """Return the wanted types of the metadata indexes, by property."""

    def push_and_wait(self, context: Context, receipt: Receipt) -> str | None:
        """Push the receipt and, with ``wait_for_completion``, wait."""
        if receipt.mutation_id is not None and not self.wait_for_completion:
            self.log.info(
                "Type not confirmed: another client may just have created a metadata index of another type, "
                "which would stay. To check the types, set wait_for_completion=True."
            )
        return super().push_and_wait(context, receipt)

    def report(self, evidence: dict[str, Any]) -> None:
        """
        Log the outcome of the wait, and check the types of the metadata indexes.

        :raises VectorizeInputError: a metadata index has another type.
        :raises VectorizeWaitTimeout: a metadata index is not listed.
        """
        from airflow_provider_cfvectorize.client.mutations.decide import VISIBILITY_PATIENCE

        super().report(evidence)
        if evidence["mutation_id"] is None:
            return
        # The list may lag behind the watermark.
        patience = min(self.wait_timeout, VISIBILITY_PATIENCE.total_seconds())
        self.watch_listed(self._find_problem, seconds=patience)

    def _find_problem(self, listed: list[MetadataIndex]) -> str:
        from airflow_provider_cfvectorize.client.inputs.indexes import type_differences

        wanted = self.wanted_types()
        if differences := type_differences(listed, wanted):
            raise VectorizeInputError(
                f"index {show(self.index_name)} has a metadata index of another type: "
                f"{'; '.join(differences)}. Another client created it first, and the service does not change "
                "it. Pass that type; or delete it with DeleteVectorizeMetadataIndexOperator and "
                "wait_for_completion=True, create it again, and upsert the vectors"
            )
        there = [one["propertyName"] for one in listed]
        absent = [show(name) for name in wanted if name not in there]
        if not absent:
            return ""
        return (
            f"the metadata indexes of index {show(self.index_name)} are applied, but not listed: "
            f"{', '.join(absent)}. Either the list lags, or another client has deleted them since"
        )


class CreateVectorizeMetadataIndexOperator(CreatesMetadataIndexes):
    """
    Create a metadata index, so that queries can filter by a property of the metadata.

    A filter by the property does not find vectors that were written before, until they are upserted again.
    The log says so if the index has vectors. For a new index, pass ``metadata_indexes`` to
    :class:`CreateVectorizeIndexOperator` instead.

    The return value is the mutation id. The task always pushes the XCom ``receipt``, and the XCom
    ``evidence`` if it waited.

    The task also sends the creation if the metadata index is listed. This restores it if its deletion is
    pending. If another client has just created a metadata index of another type, the service keeps that one.
    A task that waits observes this and fails; other tasks cannot.

    .. seealso::
        The guide, with examples: :doc:`/docs/operators/create-metadata-index`

    :param index_name: the index. (templated)
    :param property_name: the property, ``.`` for nested ones. (templated)
    :param index_type: ``string`` (the service indexes its first 64 bytes), ``number`` or ``boolean``.
        (templated)
    :param if_exists: ``skip`` to accept a listed metadata index of that type, or ``fail``. One of another
        type is always an error. (templated)
    :param wait_for_completion: wait until the metadata index is applied, and check its type.
    :param poll_interval: seconds, or a ``timedelta``, between two polls of a wait.
    :param wait_timeout: the longest wait, in seconds or as a ``timedelta``. After it the task fails with
        ``VectorizeWaitTimeout``, and Airflow retries it if it has retries.
    :param deferrable: wait in the triggerer, without occupying a worker slot.
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
        :raises VectorizeInputError: a parameter or the connection is invalid, or the index has this
            metadata index with another type, or ten others; nothing was created. After a wait: another
            client created one of another type first.
        :raises VectorizeNotFoundError: the index does not exist.
        :raises VectorizeWaitTimeout: the creation was not observed as applied in time.
        """
        self.check_wait()
        self.check_choice("if_exists", "skip", "fail")
        ((name, index_type),) = self.wanted_types().items()
        with self.open_client(max_connections=1) as client:
            # Count before the creation: the warning is about earlier vectors only.
            vectors = None if self._is_listed(client, name, index_type) else self._count(client)
            mutation = self.send(client.create_metadata_index, self.index_name, name, index_type)
            self.change = "ALTER"
            self.log.info(
                "Accepted: the metadata index of %s (%s), as mutation %s.",
                show(name),
                index_type,
                mutation["mutationId"],
            )
            if vectors:
                self.log.warning(
                    "Index %s has vectors (%s). A filter by %s finds them only after you upsert them again.",
                    self.index_name,
                    show(vectors),
                    show(name),
                )
            receipt = make_receipt(client, self.index_name, mutation, 1)
        return self.push_and_wait(context, receipt)

    def wanted_types(self) -> Mapping[str, IndexType]:
        """Return the wanted type of the metadata index, by property."""
        from airflow_provider_cfvectorize.client.inputs.indexes import check_index_type, check_property_name

        # A name that renders to nothing is a property that no vector has.
        name = check_property_name(read_nothing(self.property_name))
        return {name: cast("IndexType", check_index_type(self.index_type))}

    def _count(self, client: VectorizeClient) -> object:
        return self.send(client.info, self.index_name).get("vectorCount")

    def _is_listed(self, client: VectorizeClient, name: str, index_type: str) -> bool:
        listed = self.send(client.list_metadata_indexes, self.index_name)
        types = {one["propertyName"]: one["indexType"] for one in listed}
        found = types.get(name)
        if found is None:
            if len(types) >= MAX_METADATA_INDEXES:
                raise VectorizeInputError(
                    f"index {show(self.index_name)} has {len(types)} metadata indexes, the most of an index: "
                    f"{', '.join(map(show, types))}. Delete one of them first, with "
                    "DeleteVectorizeMetadataIndexOperator and wait_for_completion=True"
                )
            return False
        if found != index_type:
            raise VectorizeInputError(
                f"index {show(self.index_name)} has a metadata index of {show(name)} of another type: "
                f"expected {show(index_type)}, found {show(found)}. Pass that type; or delete it first "
                "with DeleteVectorizeMetadataIndexOperator and wait_for_completion=True, create the new one, "
                "and then upsert the vectors"
            )
        if self.if_exists == "fail":
            raise VectorizeInputError(
                f"index {show(self.index_name)} has a metadata index of {show(name)} already. An earlier "
                "attempt may have created it. To accept it, set if_exists='skip'"
            )
        self.log.info(
            "Index %s has this metadata index of %s already; the task sends it again in case its deletion is "
            "in flight.",
            self.index_name,
            show(name),
        )
        return True


class DeleteVectorizeMetadataIndexOperator(MetadataIndexOperator):
    """
    Delete a metadata index; the vectors keep their metadata.

    The return value is the mutation id, or None if the metadata index did not exist. The task always pushes
    the XCom ``receipt``, and the XCom ``evidence`` if it waited.

    For the service, a metadata index does not exist as soon as its deletion is accepted. The deletion may be
    another client's, or this task's with a lost response, and its mutation id is then unknown. With
    ``if_missing="skip"`` and ``wait_for_completion``, the task then polls on the worker (even if
    ``deferrable``) until the metadata index is not listed. A task that does not wait may end earlier.

    .. seealso::
        The guide, with examples: :doc:`/docs/operators/delete-metadata-index`

    :param index_name: the index. (templated)
    :param property_name: the property, ``.`` for nested ones. (templated)
    :param if_missing: ``fail`` if the metadata index does not exist; ``skip`` to succeed. (templated)
    :param wait_for_completion: wait until the deletion is applied.
    :param poll_interval: seconds, or a ``timedelta``, between two polls of a wait.
    :param wait_timeout: the longest wait, in seconds or as a ``timedelta``. After it the task fails with
        ``VectorizeWaitTimeout``, and Airflow retries it if it has retries.
    :param deferrable: wait in the triggerer, without occupying a worker slot.
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

        :return: the mutation id, None if the metadata index did not exist.
        :raises VectorizeInputError: a parameter or the connection is invalid; nothing was sent.
        :raises VectorizeResponseError: the metadata index does not exist (code 40005), or another refusal.
        :raises VectorizeNotFoundError: the index does not exist.
        :raises VectorizeWaitTimeout: the deletion was not observed as applied in time.
        """
        from airflow_provider_cfvectorize.client.http.responses import METADATA_INDEX_NOT_FOUND_CODE
        from airflow_provider_cfvectorize.client.inputs.indexes import check_property_name

        self.check_wait()
        self.check_choice("if_missing", "fail", "skip")
        # A name that renders to nothing would succeed with "skip".
        name = check_property_name(read_nothing(self.property_name))
        with self.open_client(max_connections=1) as client:
            mutation = None
            try:
                mutation = self.send(client.delete_metadata_index, self.index_name, name)
            except VectorizeResponseError as e:
                if e.code != METADATA_INDEX_NOT_FOUND_CODE:
                    raise
                if self.if_missing == "fail":
                    raise type(e)(
                        f"{e}. To succeed if the metadata index does not exist, set if_missing='skip'",
                        status=e.status,
                        code=e.code,
                    ) from None
                self.log.info(
                    "Nothing to delete: index %s has no metadata index of %s.", self.index_name, show(name)
                )
            else:
                self.change = "ALTER"
                self.log.info(
                    "Accepted: the deletion of the metadata index of %s, as mutation %s.",
                    show(name),
                    mutation["mutationId"],
                )
            receipt = make_receipt(client, self.index_name, mutation, 0 if mutation is None else 1)
        return self.push_and_wait(context, receipt)

    def complete_evidence(self, evidence: dict[str, Any]) -> dict[str, Any]:
        """
        If the mutation is unknown, poll until the metadata index is not listed.

        :raises VectorizeWaitTimeout: it was still listed at the end of the wait.
        """
        if evidence["mutation_id"] is None:
            self.watch_listed(self._find_problem, seconds=self.wait_timeout)
        return evidence

    def _find_problem(self, listed: list[MetadataIndex]) -> str:
        if self.property_name not in [one["propertyName"] for one in listed]:
            return ""
        return (
            f"index {show(self.index_name)} still lists the metadata index of {show(self.property_name)}: "
            "its deletion is accepted and not applied yet, or another client has created it again"
        )
