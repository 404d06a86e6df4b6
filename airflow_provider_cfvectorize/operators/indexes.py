# SPDX-License-Identifier: Apache-2.0
"""The operators for indexes; import them, and those for metadata indexes, from here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import conf

from airflow_provider_cfvectorize.client.inputs.names import check_new_index_name, check_path_name
from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.client.limits import MAX_METADATA_INDEXES
from airflow_provider_cfvectorize.connection import DEFAULT_CONN_ID
from airflow_provider_cfvectorize.exceptions import (
    VectorizeError,
    VectorizeInputError,
    VectorizeNotFoundError,
    VectorizeResponseError,
    VectorizeTransportError,
)
from airflow_provider_cfvectorize.operators.base import VectorizeOperator
from airflow_provider_cfvectorize.operators.metadata_indexes import (
    CreatesMetadataIndexes,
    CreateVectorizeMetadataIndexOperator,
    DeleteVectorizeMetadataIndexOperator,
    make_receipt,
)
from airflow_provider_cfvectorize.templating import read_given, read_integer, read_nothing, read_structure

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_cfvectorize.client.client import VectorizeClient
    from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
    from airflow_provider_cfvectorize.client.types import Index, IndexType
    from airflow_provider_cfvectorize.lineage import Flow

__all__ = [
    "CreateVectorizeIndexOperator",
    "CreateVectorizeMetadataIndexOperator",
    "DeleteVectorizeIndexOperator",
    "DeleteVectorizeMetadataIndexOperator",
]


class CreateVectorizeIndexOperator(CreatesMetadataIndexes):
    """
    Create an index and its metadata indexes.

    A metadata index covers only vectors that are written after it. The service applies writes in the order of
    their acceptance, so a task that writes vectors can follow immediately, without waiting for the
    metadata indexes.

    The return value is the mutation id of the last metadata index: once it is applied, all are. It is None
    without ``metadata_indexes``. The task always pushes the XCom ``receipt`` and the XCom ``index``, the
    service's description of the index (``name``, ``description``, ``created_on``, ``modified_on`` and
    ``config``). It pushes the XCom ``evidence`` if it waited.

    The task does not resend the request after a timeout, since the index may exist already. With
    ``if_exists="skip"``, a retry finds the index and creates missing metadata indexes. With ``"fail"``, a
    retry fails, even if an earlier attempt created the index. Pass ``"skip"`` to a task with retries.

    .. seealso::
        The guide, with examples: :doc:`/docs/operators/create-index`

    :param index_name: the index: 2 to 64 lower-case letters, digits, ``_`` and ``-``, with a letter first and
        a letter or digit last. You can reuse the name of a deleted index. (templated)
    :param dimensions: the number of values in each vector, 32 to 1536. Pass it with ``metric``, or pass
        ``preset``. (templated)
    :param metric: ``cosine``, ``euclidean`` or ``dot-product``. (templated)
    :param preset: the name of an embedding model that sets both, such as ``@cf/baai/bge-base-en-v1.5``.
        (templated)
    :param description: a text. The task does not compare it with that of an existing index. (templated)
    :param metadata_indexes: the properties of the metadata that queries can filter by, at most 10: a mapping
        of properties (``.`` for nested ones) to ``string``, ``number`` or ``boolean``, or its text. In a
        mapping, types are templated and properties are not. (templated)
    :param if_exists: ``fail``, or ``skip`` to accept an existing index of equal configuration. With
        ``skip``, the task creates missing metadata indexes only if the index has no vectors, since they would
        not cover those. It sends existing ones again, which restores them if their deletion is pending. It
        does not touch additional ones. (templated)
    :param wait_for_completion: wait until the metadata indexes are applied, and check their types. A task
        that does not wait cannot observe that another client has just created one of another type.
    :param poll_interval: seconds, or a ``timedelta``, between two polls of a wait.
    :param wait_timeout: the longest wait, in seconds or as a ``timedelta``. After it the task fails with
        ``VectorizeWaitTimeout``, and Airflow retries it if it has retries.
    :param deferrable: wait in the triggerer, without occupying a worker slot.
    :param conn_id: the connection. (templated)
    :param account_id: the account; the connection's login if not given. (templated)
    """

    template_fields: Sequence[str] = (
        "index_name",
        "dimensions",
        "metric",
        "preset",
        "description",
        "metadata_indexes",
        "if_exists",
        "conn_id",
        "account_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"metadata_indexes": "json"}

    def __init__(
        self,
        *,
        index_name: str,
        dimensions: int | str | None = None,
        metric: str | None = None,
        preset: str | None = None,
        description: str | None = None,
        metadata_indexes: Mapping[str, str] | str | None = None,
        if_exists: str = "fail",
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
        self.dimensions = dimensions
        self.metric = metric
        self.preset = preset
        self.description = description
        self.metadata_indexes = metadata_indexes
        self._given_metadata_indexes = metadata_indexes
        self.if_exists = if_exists

    def execute(self, context: Context) -> str | None:
        """
        Create the index, push the XComs and, with ``wait_for_completion``, wait.

        :return: the mutation id of the last metadata index, None without ``metadata_indexes``.
        :raises VectorizeInputError: a parameter or the connection is invalid, or the index exists with
            another configuration; nothing was created. After a wait: another client created a metadata
            index of another type first.
        :raises VectorizeResponseError: the index exists (code 3002), or the service refuses the request.
        :raises VectorizeTransportError: the response was lost; the index may exist.
        :raises VectorizeWaitTimeout: the metadata indexes were not observed as applied in time.
        """
        from airflow_provider_cfvectorize.client.inputs.indexes import index_config

        self.check_wait()
        self.check_choice("if_exists", "fail", "skip")
        check_new_index_name(self.index_name)
        config = index_config(
            dimensions=read_integer(read_nothing(self.dimensions)),
            metric=read_nothing(self.metric),
            preset=read_nothing(self.preset),
        )
        wanted = self.wanted_types()
        if self.description is not None and not isinstance(self.description, str):
            raise VectorizeInputError(f"description is {show(self.description)}, expected a string")
        with self.open_client(max_connections=1) as client:
            found = self._find(client) if self.if_exists == "skip" else None
            created = self._create(client, config) if found is None else None
            self.change = "CREATE" if created else None
            index = created or found or self.send(client.get_index, self.index_name)
            if not created:
                self._compare(client, index, config, wanted)
            self.push(context, "index", {**index})
            receipt = self._create_metadata_indexes(client, wanted)
        return self.push_and_wait(context, receipt)

    def wanted_types(self) -> Mapping[str, IndexType]:
        """Return the types of the metadata indexes, by property."""
        from airflow_provider_cfvectorize.client.inputs.indexes import check_metadata_indexes

        harm = "The index would have none, and a later metadata index does not cover earlier vectors"
        wanted = read_given(self, "metadata_indexes", self._given_metadata_indexes, harm)
        return check_metadata_indexes(read_structure(wanted, "metadata_indexes"))

    def _find(self, client: VectorizeClient) -> Index | None:
        from airflow_provider_cfvectorize.client.http.responses import (
            INDEX_DELETED_CODE,
            INDEX_NOT_FOUND_CODE,
        )

        try:
            return self.send(client.get_index, self.index_name)
        except VectorizeNotFoundError as e:
            # The service answers a wrong account with another code.
            if e.code not in (INDEX_NOT_FOUND_CODE, INDEX_DELETED_CODE):
                raise
            return None

    def _create(self, client: VectorizeClient, config: Mapping[str, Any]) -> Index | None:
        """Create the index; return None if it exists and ``if_exists`` is ``skip``."""
        from airflow_provider_cfvectorize.client.http.responses import INDEX_EXISTS_CODE, is_server_fault

        try:
            description = read_nothing(self.description)
            index = self.send(client.create_index, self.index_name, **config, description=description)
        except (VectorizeResponseError, VectorizeTransportError) as e:
            if isinstance(e, VectorizeResponseError) and e.code == INDEX_EXISTS_CODE:
                if self.if_exists == "skip":
                    # Another client has created it since the task read the index.
                    return None
                raise VectorizeResponseError(
                    f"{e}. If an earlier attempt created it, its metadata indexes may be missing. "
                    "To check the index and create the missing ones, set if_exists='skip'. To start over, "
                    "delete the index first (DeleteVectorizeIndexOperator) or pass another index_name",
                    status=e.status,
                    code=e.code,
                ) from None
            if isinstance(e, VectorizeTransportError) or is_server_fault(e):
                self.log.warning(
                    "Index %s may exist although the request failed, so this attempt does not send it "
                    "again. A retry with if_exists='skip' checks the index and continues from there.",
                    self.index_name,
                )
            raise
        self.log.info("Created index %s.", self.index_name)
        return index

    def _compare(
        self,
        client: VectorizeClient,
        index: Index,
        config: Mapping[str, Any],
        wanted: Mapping[str, IndexType],
    ) -> None:
        """Check that an existing index has the wanted configuration or can get it."""
        from airflow_provider_cfvectorize.client.inputs.indexes import (
            config_differences,
            describe_config,
            has_preset,
            type_differences,
        )

        there = self.send(client.list_metadata_indexes, self.index_name)
        differences = config_differences(index, config) + type_differences(there, wanted)
        if differences:
            raise VectorizeInputError(
                f"index {show(self.index_name)} exists with another configuration: {'; '.join(differences)}. "
                "An index cannot be changed. Pass its configuration, pass another index_name, or delete it "
                "first (DeleteVectorizeIndexOperator). To change a metadata index, delete it, wait until "
                "that is applied, create it again, and then upsert the vectors"
            )
        if "preset" in config and not has_preset(index):
            self.log.warning(
                "Index %s exists, and the service does not say whether it was created with preset %s, so its "
                "metric is not checked. To check it, pass its configuration: %s.",
                self.index_name,
                show(config["preset"]),
                describe_config(index),
            )
        properties = [one["propertyName"] for one in there]
        missing = {name: index_type for name, index_type in wanted.items() if name not in properties}
        further = [show(name) for name in properties if name not in wanted]
        self.log.info(
            "Index %s exists with this configuration; missing metadata indexes: %s; additional: %s.",
            self.index_name,
            ", ".join(map(show, missing)) or "none",
            ", ".join(further) or "none",
        )
        if not missing:
            return
        if len(properties) + len(missing) > MAX_METADATA_INDEXES:
            raise VectorizeInputError(
                f"index {show(self.index_name)} has {len(properties)} metadata indexes, and with "
                f"{', '.join(map(show, missing))} it would have more than {MAX_METADATA_INDEXES}, the most "
                f"of an index. Delete some of {', '.join(further)} first, with "
                "DeleteVectorizeMetadataIndexOperator and wait_for_completion=True"
            )
        vectors = self.send(client.info, self.index_name).get("vectorCount")
        if vectors != 0:
            raise VectorizeInputError(
                f"index {show(self.index_name)} has vectors ({show(vectors)}), but no metadata index of "
                f"{', '.join(map(show, missing))}. A filter by it would not find vectors that were written "
                "before it was created. Create it with CreateVectorizeMetadataIndexOperator and upsert the "
                "vectors again, or remove it from metadata_indexes"
            )

    def _create_metadata_indexes(self, client: VectorizeClient, wanted: Mapping[str, IndexType]) -> Receipt:
        mutation = None
        for done, (name, index_type) in enumerate(wanted.items()):
            try:
                mutation = self.send(client.create_metadata_index, self.index_name, name, index_type)
            except VectorizeError:
                self.log.error(
                    "Index %s exists with %d of the %d wanted metadata indexes. A retry with "
                    "if_exists='skip' creates the rest.",
                    self.index_name,
                    done,
                    len(wanted),
                )
                raise
            self.change = self.change or "ALTER"
            self.log.info(
                "Accepted: the metadata index of %s (%s), as mutation %s.",
                show(name),
                index_type,
                mutation["mutationId"],
            )
        return make_receipt(client, self.index_name, mutation, len(wanted))


class DeleteVectorizeIndexOperator(VectorizeOperator):
    """
    Delete an index with all its vectors and metadata indexes.

    The delete is immediate and permanent: the index is gone when the task ends, without a mutation to wait
    for. You can reuse the name.

    .. seealso::
        The guide, with examples: :doc:`/docs/operators/delete-index`

    :param index_name: the index. (templated)
    :param if_missing: ``fail`` if the index does not exist or was deleted before; ``skip`` to succeed.
        (templated)
    :param conn_id: the connection. (templated)
    :param account_id: the account; the connection's login if not given. (templated)
    """

    template_fields: Sequence[str] = ("index_name", "if_missing", "conn_id", "account_id")

    def __init__(
        self,
        *,
        index_name: str,
        if_missing: str = "fail",
        conn_id: str = DEFAULT_CONN_ID,
        account_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(index_name=index_name, conn_id=conn_id, account_id=account_id, **kwargs)
        self.if_missing = if_missing

    def execute(self, context: Context) -> None:
        """
        Delete the index.

        :raises VectorizeInputError: a parameter or the connection is invalid; nothing was sent.
        :raises VectorizeNotFoundError: the index or the account does not exist.
        """
        from airflow_provider_cfvectorize.client.http.responses import (
            INDEX_DELETED_CODE,
            INDEX_NOT_FOUND_CODE,
        )

        self.check_choice("if_missing", "fail", "skip")
        # A name that renders to nothing would succeed with "skip".
        check_path_name(read_nothing(self.index_name))
        with self.open_client(max_connections=1) as client:
            try:
                self.send(client.delete_index, self.index_name)
            except VectorizeNotFoundError as e:
                if e.code not in (INDEX_NOT_FOUND_CODE, INDEX_DELETED_CODE):
                    raise
                if self.if_missing == "fail":
                    raise VectorizeNotFoundError(
                        f"{e}. An earlier attempt may have deleted it. To succeed if the index does "
                        "not exist, set if_missing='skip'",
                        status=e.status,
                        code=e.code,
                    ) from None
                how = "was deleted before" if e.code == INDEX_DELETED_CODE else "never existed"
                self.log.info("Nothing to delete: index %s %s.", self.index_name, how)
                return
        self.change = "DROP"
        self.log.info("Deleted index %s with all its vectors.", self.index_name)

    def flow(self, *, failed: bool) -> Flow:
        """Return the change of the index."""
        from airflow_provider_cfvectorize.lineage import Flow

        return Flow(writes_index=self.change is not None or failed, change=self.change)
