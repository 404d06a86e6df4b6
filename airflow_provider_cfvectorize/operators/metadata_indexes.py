# SPDX-License-Identifier: Apache-2.0
"""Operators that create and delete metadata indexes; import them from ``operators.indexes``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from typing import TYPE_CHECKING, Any, cast

from airflow.providers.common.compat.sdk import conf

from airflow_provider_cfvectorize.client.text import show
from airflow_provider_cfvectorize.connection import DEFAULT_CONN_ID
from airflow_provider_cfvectorize.exceptions import VectorizeInputError, VectorizeResponseError
from airflow_provider_cfvectorize.operators.base import VectorizeWriteOperator
from airflow_provider_cfvectorize.templating import read_nothing

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_cfvectorize.client.client import VectorizeClient
    from airflow_provider_cfvectorize.client.mutations import Receipt
    from airflow_provider_cfvectorize.client.types import IndexType, Mutation


def make_receipt(
    client: VectorizeClient, index_name: str, mutation: Mutation | None, count: int = 1
) -> Receipt:
    """
    Return the receipt of metadata indexes that were created or deleted.

    :param client: what was asked.
    :param index_name: the index.
    :param mutation: the last mutation; None if nothing was sent.
    :param count: number of metadata indexes, each a request of its own.
    """
    from airflow_provider_cfvectorize.client.mutations import Receipt, parse_time

    if mutation is None:
        return Receipt(None, index_name, client.account_id)
    return Receipt(
        mutation["mutationId"],
        index_name,
        client.account_id,
        accepted_at=parse_time(mutation["acceptedAt"]),
        count=count,
        batches=count,
    )


class CreateVectorizeMetadataIndexOperator(VectorizeWriteOperator):
    """
    Let queries filter by a property of the metadata, for vectors that are written from now on.

    Vectors that were written before are found by no filter on the property until they are upserted again; the
    log says so where there are any. For a new index, pass ``metadata_indexes`` to
    :class:`CreateVectorizeIndexOperator` instead.

    The return value is the mutation id, None if the metadata index was there already. The XCom ``receipt`` is
    always pushed, the XCom ``evidence`` if this task waited.

    :param index_name: the index. (templated)
    :param property_name: the property, ``.`` for nested ones. (templated)
    :param index_type: ``string`` (of which the first 64 bytes are indexed), ``number`` or ``boolean``.
        (templated)
    :param if_exists: ``skip`` to take a metadata index of that type as done, or ``fail``. One of another type
        is an error in any case. (templated)
    :param wait_for_completion: end only when the metadata index is applied.
    :param poll_interval: seconds between two looks while waiting.
    :param wait_timeout: seconds to wait at most; then the task fails with ``VectorizeWaitTimeout``, and is
        retried if it has retries.
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
        poll_interval: float = 10,
        wait_timeout: float = 900,
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
        :return: the mutation id, None if it was there already.
        :raises VectorizeInputError: something passed or configured cannot work, or the index has this
            metadata index with another type, or ten others; nothing was created.
        :raises VectorizeNotFoundError: there is no such index.
        :raises VectorizeWaitTimeout: it was not seen to be applied in time.
        """
        from airflow_provider_cfvectorize.client.addresses import check_path_name
        from airflow_provider_cfvectorize.client.queries import check_index_type, check_property_name

        self.check_wait()
        self.check_choice("if_exists", "skip", "fail")
        check_path_name(self.index_name)
        # What Jinja makes of nothing is a property that no vector has.
        name = check_property_name(read_nothing(self.property_name))
        index_type = cast("IndexType", check_index_type(self.index_type))
        with closing(self.make_client(max_connections=1)) as client:
            mutation = None
            if not self._is_there(client, name, index_type):
                # Before, so that what is told is not about vectors written since.
                vectors = client.info(self.index_name).get("vectorCount")
                mutation = client.create_metadata_index(self.index_name, name, index_type)
                self.log.info("Accepted: the metadata index, as mutation %s.", mutation["mutationId"])
                if vectors:
                    self.log.warning(
                        "Index %s has vectors (%s), which no filter by %s finds until they are upserted "
                        "again.",
                        self.index_name,
                        show(vectors),
                        show(name),
                    )
            receipt = make_receipt(client, self.index_name, mutation)
        return self.hand_on(context, receipt)

    def _is_there(self, client: VectorizeClient, name: str, index_type: str) -> bool:
        from airflow_provider_cfvectorize.client.limits import MAX_METADATA_INDEXES

        # The service acknowledges a duplicate as if it did something, one of another type too.
        types = {
            one["propertyName"]: one["indexType"] for one in client.list_metadata_indexes(self.index_name)
        }
        found = types.get(name)
        if found is None:
            if len(types) >= MAX_METADATA_INDEXES:
                raise VectorizeInputError(
                    f"index {show(self.index_name)} has {len(types)} metadata indexes, the most it can have: "
                    f"{', '.join(map(show, types))}. Delete one of them first "
                    "(DeleteVectorizeMetadataIndexOperator)"
                )
            return False
        if found != index_type:
            raise VectorizeInputError(
                f"index {show(self.index_name)} has a metadata index of {show(name)} of another type: "
                f"expected {show(index_type)}, found {show(found)}. Pass that type; or delete the metadata "
                "index first (DeleteVectorizeMetadataIndexOperator), and upsert the vectors after creating "
                "the new one"
            )
        if self.if_exists == "fail":
            raise VectorizeInputError(
                f"index {show(self.index_name)} has a metadata index of {show(name)} already. An earlier try "
                "of this task may have created it. To take it as done, set if_exists='skip'"
            )
        self.log.info(
            "Index %s has this metadata index of %s already: nothing was sent.", self.index_name, show(name)
        )
        return True


class DeleteVectorizeMetadataIndexOperator(VectorizeWriteOperator):
    """
    Let queries filter by a property no more; the vectors keep their metadata.

    The return value is the mutation id, None if there was no such metadata index. The XCom ``receipt`` is
    always pushed, the XCom ``evidence`` if this task waited.

    :param index_name: the index. (templated)
    :param property_name: the property, ``.`` for nested ones. (templated)
    :param if_missing: ``fail`` if the index has no such metadata index; ``skip`` to take that as done.
        (templated)
    :param wait_for_completion: end only when the deletion is applied.
    :param poll_interval: seconds between two looks while waiting.
    :param wait_timeout: seconds to wait at most; then the task fails with ``VectorizeWaitTimeout``, and is
        retried if it has retries.
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
        poll_interval: float = 10,
        wait_timeout: float = 900,
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
        from airflow_provider_cfvectorize.client.addresses import check_path_name
        from airflow_provider_cfvectorize.client.answers import METADATA_INDEX_NOT_FOUND_CODE
        from airflow_provider_cfvectorize.client.queries import check_property_name

        self.check_wait()
        self.check_choice("if_missing", "fail", "skip")
        check_path_name(self.index_name)
        # What Jinja makes of nothing has no metadata index, which with "skip" would look like a success.
        name = check_property_name(read_nothing(self.property_name))
        with closing(self.make_client(max_connections=1)) as client:
            mutation = None
            try:
                mutation = client.delete_metadata_index(self.index_name, name)
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
                self.log.info("Accepted: the deletion, as mutation %s.", mutation["mutationId"])
            receipt = make_receipt(client, self.index_name, mutation)
        return self.hand_on(context, receipt)
