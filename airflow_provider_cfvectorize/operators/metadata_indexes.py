# SPDX-License-Identifier: Apache-2.0
"""Operators that create and delete metadata indexes; import them from ``operators.indexes``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.common.compat.sdk import conf

from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.connection import DEFAULT_CONN_ID
from airflow_provider_cfvectorize.exceptions import VectorizeInputError, VectorizeResponseError
from airflow_provider_cfvectorize.operators.metadata_index_base import (
    CreatesMetadataIndexes,
    MetadataIndexOperator,
    make_receipt,
)
from airflow_provider_cfvectorize.templating import read_nothing

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_cfvectorize.client.client import VectorizeClient
    from airflow_provider_cfvectorize.client.types import IndexType, MetadataIndex


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

        :param context: the task's context.
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
            receipt = make_receipt(client, self.index_name, mutation)
        return self.hand_on(context, receipt)

    def wanted_types(self) -> Mapping[str, IndexType]:
        """Return the type of the metadata index, by property."""
        from airflow_provider_cfvectorize.client.inputs.queries import check_index_type, check_property_name

        # What Jinja makes of nothing is a property that no vector has.
        name = check_property_name(read_nothing(self.property_name))
        return {name: cast("IndexType", check_index_type(self.index_type))}

    def _count(self, client: VectorizeClient) -> object:
        return self.ask(client.info, self.index_name).get("vectorCount")

    def _is_listed(self, client: VectorizeClient, name: str, index_type: str) -> bool:
        from airflow_provider_cfvectorize.client.limits import MAX_METADATA_INDEXES

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

        :param context: the task's context.
        :return: the mutation id, None if it was not there.
        :raises VectorizeInputError: something passed or configured cannot work; nothing was sent.
        :raises VectorizeResponseError: there is no such metadata index (code 40005), or another refusal.
        :raises VectorizeNotFoundError: there is no such index.
        :raises VectorizeWaitTimeout: the deletion was not seen to be applied in time.
        """
        from airflow_provider_cfvectorize.client.http.responses import METADATA_INDEX_NOT_FOUND_CODE
        from airflow_provider_cfvectorize.client.inputs.queries import check_property_name

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
            receipt = make_receipt(client, self.index_name, mutation)
        return self.hand_on(context, receipt)

    def complete_evidence(self, evidence: dict[str, Any]) -> dict[str, Any]:
        """
        Where no mutation is known, look until the metadata index is gone.

        :param evidence: how it is known that the deletion is applied.
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
