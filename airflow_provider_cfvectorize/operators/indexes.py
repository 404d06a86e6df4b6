# SPDX-License-Identifier: Apache-2.0
"""Operators that create and delete indexes; the place to import those for metadata indexes from, too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.providers.common.compat.sdk import conf

from airflow_provider_cfvectorize.client.http.urls import check_new_index_name, check_path_name
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
    Create an index, and its metadata indexes before anybody can write the first vector.

    A metadata index knows the vectors that are written after it, and no others. Writes are applied in the
    order of their acceptance, so a task that writes vectors can follow at once: it need not wait for the
    metadata indexes to be applied.

    The return value is the mutation id of the last metadata index, waiting for which is waiting for all; None
    without ``metadata_indexes``. The XCom ``receipt`` is always pushed; the XCom ``index`` is the index as
    the service describes it (``name``, ``description``, ``created_on``, ``modified_on`` and ``config``); the
    XCom ``evidence`` is pushed if this task waited.

    Creating is not sent again after a timeout, since it may have been carried out. With ``if_exists="skip"``
    a retry of the task finds what is there, and creates what is missing; with ``"fail"`` it fails, also where
    an earlier try has created the index itself. So a task that has retries takes ``"skip"``.

    .. seealso::
        The guide, with examples: :doc:`/docs/operators/create-index`

    :param index_name: the index: 2 to 64 characters, a lower-case letter first, then lower-case letters,
        digits, ``_`` and ``-``, a letter or digit last. The name of an index that was deleted can be used
        again. (templated)
    :param dimensions: values in each vector, 32 to 1536. With ``metric``, instead of ``preset``. (templated)
    :param metric: ``cosine``, ``euclidean`` or ``dot-product``. (templated)
    :param preset: the name of an embedding model that fixes both, such as ``@cf/baai/bge-base-en-v1.5``.
        (templated)
    :param description: a text; of an index that exists it is not compared. (templated)
    :param metadata_indexes: the properties of the metadata that queries can filter by, at most 10: a mapping
        of properties (``.`` for nested ones) to ``string``, ``number`` or ``boolean``, or a text of one. Of a
        mapping, the types are rendered and the properties are not. (templated)
    :param if_exists: ``fail``, or ``skip`` to take an index that exists. It must have the same configuration.
        Metadata indexes it lacks are created as long as it shows no vectors, since vectors would not be found
        by them; those it has are created all the same, which changes nothing unless their deletion is on the
        way; those it has beyond these are left alone. (templated)
    :param wait_for_completion: end only when the metadata indexes are applied, and have the types wanted. A
        task that does not wait does not see that somebody else has just created one of another type.
    :param poll_interval: seconds, or a ``timedelta``, between two looks while waiting.
    :param wait_timeout: seconds, or a ``timedelta``, to wait at most; then the task fails with
        ``VectorizeWaitTimeout``, and is retried if it has retries.
    :param deferrable: wait in the triggerer, without a worker's slot.
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
        Create what is missing, push receipt and index and, with ``wait_for_completion``, wait.

        :return: the mutation id of the last metadata index, None without ``metadata_indexes``.
        :raises VectorizeInputError: something passed or configured cannot work, or the index exists with
            another configuration; nothing was created. After a wait: somebody else has created a metadata
            index of another type first.
        :raises VectorizeResponseError: the index exists (code 3002), or another refusal.
        :raises VectorizeTransportError: the answer was lost; the index may have been created.
        :raises VectorizeWaitTimeout: the metadata indexes were not seen to be applied in time.
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
            index = created or found or self.ask(client.get_index, self.index_name)
            if not created:
                self._compare(client, index, config, wanted)
            self.push(context, "index", {**index})
            receipt = self._create_metadata_indexes(client, wanted)
        return self.hand_on(context, receipt)

    def wanted_types(self) -> Mapping[str, IndexType]:
        """Return the types of the metadata indexes, by property."""
        from airflow_provider_cfvectorize.client.inputs.indexes import check_metadata_indexes

        harm = "The index would have none, and one that is created later does not find earlier vectors"
        wanted = read_given(self, "metadata_indexes", self._given_metadata_indexes, harm)
        return check_metadata_indexes(read_structure(wanted, "metadata_indexes"))

    def _find(self, client: VectorizeClient) -> Index | None:
        from airflow_provider_cfvectorize.client.http.responses import (
            INDEX_DELETED_CODE,
            INDEX_NOT_FOUND_CODE,
        )

        try:
            return self.ask(client.get_index, self.index_name)
        except VectorizeNotFoundError as e:
            # A wrong account is not found either, and creates nothing.
            if e.code not in (INDEX_NOT_FOUND_CODE, INDEX_DELETED_CODE):
                raise
            return None

    def _create(self, client: VectorizeClient, config: Mapping[str, Any]) -> Index | None:
        """Create the index; None if there is one that may be taken."""
        from airflow_provider_cfvectorize.client.http.responses import INDEX_EXISTS_CODE, is_server_fault

        try:
            description = read_nothing(self.description)
            index = self.ask(client.create_index, self.index_name, **config, description=description)
        except (VectorizeResponseError, VectorizeTransportError) as e:
            if isinstance(e, VectorizeResponseError) and e.code == INDEX_EXISTS_CODE:
                if self.if_exists == "skip":
                    # Somebody else has created it since it was looked for.
                    return None
                raise VectorizeResponseError(
                    f"{e}. If an earlier try of this task has created it, its metadata indexes may be "
                    "missing. With if_exists='skip' this task checks that the index is as it should be, and "
                    "creates what is missing; to begin anew, delete the index first "
                    "(DeleteVectorizeIndexOperator) or take another index_name",
                    status=e.status,
                    code=e.code,
                ) from None
            if isinstance(e, VectorizeTransportError) or is_server_fault(e):
                self.log.warning(
                    "Index %s may have been created all the same, so this is not sent again. A retry with "
                    "if_exists='skip' finds out, and goes on from there.",
                    self.index_name,
                )
            raise
        self.log.info("Index %s is created.", self.index_name)
        return index

    def _compare(
        self,
        client: VectorizeClient,
        index: Index,
        config: Mapping[str, Any],
        wanted: Mapping[str, IndexType],
    ) -> None:
        """Check that an index that exists is the one wanted, or can be made so."""
        from airflow_provider_cfvectorize.client.inputs.indexes import (
            config_differences,
            describe_config,
            tells_preset,
            type_differences,
        )

        there = self.ask(client.list_metadata_indexes, self.index_name)
        differences = config_differences(index, config) + type_differences(there, wanted)
        if differences:
            raise VectorizeInputError(
                f"index {show(self.index_name)} exists, and not as it should be: {'; '.join(differences)}. "
                "An index cannot be changed: pass what it has, take another index_name, or delete it first "
                "(DeleteVectorizeIndexOperator). A metadata index can be deleted and, when that is applied, "
                "created again, and the vectors upserted after that"
            )
        if "preset" in config and not tells_preset(index):
            self.log.warning(
                "Index %s exists, and the service does not say whether it was created with preset %s: its "
                "metric is not checked. Its configuration is %s; pass that to have it checked.",
                self.index_name,
                show(config["preset"]),
                describe_config(index),
            )
        properties = [one["propertyName"] for one in there]
        missing = {name: index_type for name, index_type in wanted.items() if name not in properties}
        further = [show(name) for name in properties if name not in wanted]
        self.log.info(
            "Index %s exists, with this configuration. Metadata indexes it lacks: %s; there beyond those "
            "asked for: %s. Those it has are created all the same, which changes nothing unless their "
            "deletion is on the way.",
            self.index_name,
            ", ".join(map(show, missing)) or "none",
            ", ".join(further) or "none",
        )
        if not missing:
            return
        if len(properties) + len(missing) > MAX_METADATA_INDEXES:
            raise VectorizeInputError(
                f"index {show(self.index_name)} has {len(properties)} metadata indexes, and "
                f"{', '.join(map(show, missing))} would make it more than {MAX_METADATA_INDEXES}, the most "
                f"that an index has. There beyond those asked for: {', '.join(further)}. Delete some of them "
                "first, and wait for that (DeleteVectorizeMetadataIndexOperator, wait_for_completion=True)"
            )
        vectors = self.ask(client.info, self.index_name).get("vectorCount")
        if vectors != 0:
            raise VectorizeInputError(
                f"index {show(self.index_name)} has vectors ({show(vectors)}), and no metadata index of "
                f"{', '.join(map(show, missing))}: no filter by it would find vectors that were written "
                "before it was created. If that is meant, create it with "
                "CreateVectorizeMetadataIndexOperator and upsert the vectors again; otherwise leave it out "
                "of metadata_indexes"
            )

    def _create_metadata_indexes(self, client: VectorizeClient, wanted: Mapping[str, IndexType]) -> Receipt:
        mutation = None
        for done, (name, index_type) in enumerate(wanted.items()):
            try:
                mutation = self.ask(client.create_metadata_index, self.index_name, name, index_type)
            except VectorizeError:
                self.log.error(
                    "Index %s is there with %d of the %d metadata indexes that were to be created. A retry "
                    "with if_exists='skip' creates the rest.",
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
    Delete an index with all its vectors and metadata indexes, at once and for good.

    This is no mutation that could be waited for: the index is gone when the task ends, and nothing brings it
    back. The name can be used again.

    .. seealso::
        The guide, with examples: :doc:`/docs/operators/delete-index`

    :param index_name: the index. (templated)
    :param if_missing: ``fail`` if there is no such index, or it was deleted before; ``skip`` to take that as
        done. (templated)
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

        :raises VectorizeInputError: something passed or configured cannot work; nothing was sent.
        :raises VectorizeNotFoundError: there is no such index, or no such account.
        """
        from airflow_provider_cfvectorize.client.http.responses import (
            INDEX_DELETED_CODE,
            INDEX_NOT_FOUND_CODE,
        )

        self.check_choice("if_missing", "fail", "skip")
        # What Jinja makes of nothing is the name of no index, which with "skip" would look like a success.
        check_path_name(read_nothing(self.index_name))
        with self.open_client(max_connections=1) as client:
            try:
                self.ask(client.delete_index, self.index_name)
            except VectorizeNotFoundError as e:
                if e.code not in (INDEX_NOT_FOUND_CODE, INDEX_DELETED_CODE):
                    raise
                if self.if_missing == "fail":
                    raise VectorizeNotFoundError(
                        f"{e}. An earlier try of this task may have deleted it. To take an index that is not "
                        "there as done, set if_missing='skip'",
                        status=e.status,
                        code=e.code,
                    ) from None
                how = "was deleted before" if e.code == INDEX_DELETED_CODE else "is not there and never was"
                self.log.info("Index %s %s: nothing was deleted.", self.index_name, how)
                return
        self.change = "DROP"
        self.log.info("Index %s is deleted with all its vectors.", self.index_name)

    def flow(self, *, failed: bool) -> Flow:
        """Return what the task has done to the index."""
        from airflow_provider_cfvectorize.lineage import Flow

        return Flow(writes_index=self.change is not None or failed, change=self.change)
