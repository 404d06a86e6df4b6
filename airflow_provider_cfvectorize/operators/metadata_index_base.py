# SPDX-License-Identifier: Apache-2.0
"""What the operators for metadata indexes have in common: the receipt, and looking at what is listed."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.operators.base import VectorizeWriteOperator

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_cfvectorize.client.client import VectorizeClient
    from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
    from airflow_provider_cfvectorize.client.types import IndexType, MetadataIndex, Mutation


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
    from airflow_provider_cfvectorize.client.mutations.receipts import Receipt

    if mutation is None:
        return Receipt(None, index_name, client.account_id)
    return Receipt.of(mutation, index_name, client.account_id, count=count, batches=count)


class MetadataIndexOperator(VectorizeWriteOperator):
    """The base of operators that wait for metadata indexes, which are seen where they are listed."""

    def watch_listed(self, lack: Callable[[list[MetadataIndex]], str], *, seconds: float) -> None:
        """
        Look at what is listed until it is as it should be, in this process.

        :param lack: says what is not as it should be, with an empty text if nothing.
        :param seconds: how long at most.
        :raises VectorizeWaitTimeout: it was not in time.
        :raises VectorizeInterrupted: the task is to stop.
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
        """
        Push the receipt and, with ``wait_for_completion``, wait.

        :param context: the task's context.
        :param receipt: what the service acknowledged.
        """
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

        :param evidence: how it is known that they are applied.
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
