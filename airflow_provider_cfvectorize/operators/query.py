# SPDX-License-Identifier: Apache-2.0
"""The operator that asks an index for the vectors nearest to one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from airflow_provider_cfvectorize.client.inputs.text import counted
from airflow_provider_cfvectorize.client.limits import DEFAULT_TOP_K
from airflow_provider_cfvectorize.connection import DEFAULT_CONN_ID
from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.operators.base import VectorizeOperator
from airflow_provider_cfvectorize.operators.files import Narrowing
from airflow_provider_cfvectorize.operators.xcom import check_small
from airflow_provider_cfvectorize.templating import (
    check_flags,
    count_nones,
    plain,
    read_integer,
    read_nothing,
    read_structure,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_cfvectorize.client.types import QueryResult, ReturnMetadata
    from airflow_provider_cfvectorize.lineage import Flow


class QueryVectorsOperator(VectorizeOperator):
    """
    Return the vectors nearest to a vector, by the index's metric.

    Returns ``{"count": ..., "matches": [...]}``, the nearest first; a match has an ``id`` and a ``score``
    and, if asked for, ``values`` and ``metadata``. More than 256 KiB as JSON is an error.

    A ``filter`` or ``namespace`` that is given and renders to nothing is an error, and not a query without;
    ``filter={}`` in the DAG is no filter.

    .. seealso::
        The guide, with examples: :doc:`/docs/operators/query-vectors`

    :param index_name: the index. (templated)
    :param vector: the values to compare with, as many as the index has dimensions: a list, an upstream
        task's output, or a Jinja expression that gives a list. Give this or ``vector_id``. (templated)
    :param vector_id: the id of a vector in the index, whose values are taken. (templated)
    :param top_k: the most matches to return: 1 to 100, or to 50 with values or all metadata. (templated)
    :param filter: only vectors with such metadata, such as ``{"lang": "en", "year": {"$gte": 2020}}``, or a
        Jinja expression that gives a mapping. A template within a mapping gives text, which
        is not documented to equal a number, unless the DAG renders natively (in a list
        in it, in any DAG); a number is passed by rendering the whole, as in
        ``filter='{"year": {"$gte": {{ params.year }} }}'``. A value that is None only after rendering is an
        error: null equals nothing, and differs from everything. The properties need a metadata index that was
        there before the vectors were written. (templated)
    :param namespace: only vectors of this namespace. (templated)
    :param return_values: with the matches' values; the scores are exact then, and else approximate.
    :param return_metadata: with the matches' metadata: ``none``, ``indexed`` (what has a metadata index) or
        ``all``. (templated)
    :param conn_id: the connection. (templated)
    :param account_id: the account; the connection's login if not given. (templated)
    """

    template_fields: Sequence[str] = (
        "index_name",
        "vector",
        "vector_id",
        "top_k",
        "filter",
        "namespace",
        "return_metadata",
        "conn_id",
        "account_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"vector": "json", "filter": "json"}

    def __init__(
        self,
        *,
        index_name: str,
        vector: Sequence[float] | str | None = None,
        vector_id: str | None = None,
        top_k: int | str = DEFAULT_TOP_K,
        filter: Mapping[str, Any] | str | None = None,
        namespace: str | None = None,
        return_values: bool = False,
        return_metadata: ReturnMetadata | str = "none",
        conn_id: str = DEFAULT_CONN_ID,
        account_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(index_name=index_name, conn_id=conn_id, account_id=account_id, **kwargs)
        self.vector = vector
        self.vector_id = vector_id
        self.top_k = top_k
        self.filter = filter
        self.namespace = namespace
        self.return_values = return_values
        self.return_metadata = return_metadata
        self._narrowing = Narrowing(filter=filter, namespace=namespace)
        self._nones = count_nones(filter) if isinstance(filter, Mapping) else None

    def execute(self, context: Context) -> QueryResult:
        """
        Query.

        :return: what was found.
        :raises VectorizeInputError: something passed or configured cannot work, or the matches are too large
            for an XCom.
        """
        check_flags(self)
        question: dict[str, Any] = {
            "vector": self._read_vector(),
            "vector_id": read_nothing(self.vector_id),
            "top_k": read_integer(self.top_k),
            "filter": self._read_filter(),
            "namespace": self._narrowing.read(self, "namespace"),
            "return_values": self.return_values,
            "return_metadata": self.return_metadata,
        }
        with self.open_client(max_connections=1) as client:
            result = self.ask(client.query, self.index_name, **question)
        self.log.info("%s.", counted(len(result["matches"]), "match"))
        check_small(
            result,
            f"what the query found ({counted(len(result['matches']), 'match')})",
            "ask for less with a lower top_k, return_values=False, or return_metadata='indexed' or 'none', "
            "and get the rest by the matches' ids into a file (GetVectorsByIdsOperator)",
        )
        return result

    def flow(self, *, failed: bool) -> Flow:
        """Return that the task has read the index."""
        from airflow_provider_cfvectorize.lineage import Flow

        return Flow(reads_index=True)

    def _read_filter(self) -> Any:
        # Here, on the task's main thread: what mapped tasks returned is asked of Airflow when it is read.
        read = plain(read_structure(self._narrowing.read(self, "filter"), "filter"))
        is_written_out = self._nones is not None and "filter" not in (self.mapped_with or ())
        if read == {} and not is_written_out:
            raise VectorizeInputError(
                "filter was given, and is empty now that it is rendered. Without a filter, more would be "
                "read than was meant: check where it comes from. To do without filter, leave it out"
            )
        if self._nones is not None and count_nones(read) > self._nones:
            raise VectorizeInputError(
                "filter: a value in it is None now that it is rendered. None equals nothing and differs from "
                "everything: check the template or upstream task that it comes from. If it is meant, write "
                "None itself into the filter"
            )
        return read

    def _read_vector(self) -> Any:
        vector = read_structure(read_nothing(self.vector), "vector")
        # What mapped tasks returned comes as a sequence of Airflow's own.
        is_lazy = isinstance(vector, Sequence) and not isinstance(vector, str | bytes | list | tuple)
        return list(vector) if is_lazy else vector
