# SPDX-License-Identifier: Apache-2.0
"""The operators that read: vectors by id, nearest vectors, and all ids of an index."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Final

from airflow_provider_cfvectorize.client.inputs.files import is_ndjson
from airflow_provider_cfvectorize.client.inputs.text import counted, show, write_json
from airflow_provider_cfvectorize.client.limits import DEFAULT_TOP_K
from airflow_provider_cfvectorize.connection import DEFAULT_CONN_ID
from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.operators.base import VectorizeOperator
from airflow_provider_cfvectorize.operators.files import (
    origin_of,
    path_of,
    place_of,
    read_id_source,
    write_file,
)
from airflow_provider_cfvectorize.templating import (
    Narrowing,
    check_flags,
    count_nones,
    plain,
    read_integer,
    read_nothing,
    read_structure,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_cfvectorize.client.client import VectorizeClient
    from airflow_provider_cfvectorize.client.inputs.ids import IdSource
    from airflow_provider_cfvectorize.client.types import QueryResult, ReturnMetadata
    from airflow_provider_cfvectorize.lineage import Flow
    from airflow_provider_cfvectorize.operators.files import FilePath

#: The most bytes of JSON that a task returns. Airflow stores an XCom as a row of its database for every run,
#: and passes it whole between worker, API server and every task that reads it. The limit is 10,000 ids of 22
#: characters, or eight vectors of 1,536 values. Larger results belong in a file.
MAX_XCOM_BYTES: Final = 256 * 1024

#: Ids without a vector that a report names.
SHOWN_MISSING: Final = 100


class GetVectorsByIdsOperator(VectorizeOperator):
    """
    Read vectors by id into an XCom or a file, 20 ids per request.

    The return value is the list of the existing vectors, in the order of the ids, each with its id, values,
    namespace and metadata. More than 256 KiB as JSON is an error; 1,536 values need 30 KB. With ``path``, the
    task writes any number of vectors to a file, one JSON object per line, and returns the path. It holds the
    vectors of a few requests in memory. An upsert accepts such a file if the vectors have values.

    The XCom ``report`` has the numbers ``asked``, ``found`` and ``missing``, and ``missing_ids``, the first
    100 ids without a vector.

    .. seealso::
        The guide, with examples: :doc:`/docs/operators/get-vectors-by-ids`

    :param index_name: the index. (templated)
    :param ids: the ids: a list, an upstream task's output, a Jinja expression that gives a list, or one id.
        Integers become strings. Duplicates count once. Pass either this or ``ids_path``. (templated)
    :param ids_path: a file of ids: one id per line, or in a ``.ndjson`` or ``.jsonl`` file one JSON object
        with an ``id`` per line. Duplicates within a hundred ids count once. A local path or a URL of object
        storage. (templated)
    :param path: the file to write, with a name that ends in ``.ndjson`` or ``.jsonl``. The task replaces an
        existing file after it has read all vectors. A local path or a URL of object storage. (templated)
    :param return_values: include the values in the result. The service sends them in any case.
    :param concurrency: the most requests in flight at once.
    :param conn_id: the connection. (templated)
    :param account_id: the account; the connection's login if not given. (templated)
    """

    template_fields: Sequence[str] = ("index_name", "ids", "ids_path", "path", "conn_id", "account_id")
    template_fields_renderers: ClassVar[dict[str, str]] = {"ids": "json"}

    def __init__(
        self,
        *,
        index_name: str,
        ids: Sequence[str | int] | str | None = None,
        ids_path: FilePath | None = None,
        path: FilePath | None = None,
        return_values: bool = True,
        concurrency: int = 4,
        conn_id: str = DEFAULT_CONN_ID,
        account_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(index_name=index_name, conn_id=conn_id, account_id=account_id, **kwargs)
        self.ids = ids
        self.ids_path = ids_path
        self.path = path
        self.return_values = return_values
        self.concurrency = concurrency
        #: Whether there were ids to read.
        self._has_ids = False

    def execute(self, context: Context) -> list[dict[str, Any]] | str:
        """
        Read the vectors.

        :return: the vectors, or with ``path`` that path.
        :raises VectorizeInputError: a parameter or the connection is invalid, or the vectors are too large
            for an XCom.
        """
        self.check_number("concurrency", 1, whole=True)
        check_flags(self)
        path = self._check_path()
        with self.open_client(max_connections=self.concurrency) as client:
            ids = read_id_source(self.ids, self.ids_path, origin=origin_of(self, "ids"), log=self.log)
            self._has_ids = ids.count > 0
            missing: list[str] = []
            vectors = self._read(client, ids, missing)
            result: list[dict[str, Any]] | str
            if path is None:
                result, found = self._collect(vectors)
            else:
                result, found = path, self._write(vectors, path)
        lack = ids.count - found
        self.log.info("Read %s: %d with a vector, %d without.", counted(ids.count, "id"), found, lack)
        report = {"asked": ids.count, "found": found, "missing": lack, "missing_ids": missing}
        self.push(context, "report", report)
        return result

    def flow(self, *, failed: bool) -> Flow:
        """Return the index and files that the task has read and written."""
        from airflow_provider_cfvectorize.lineage import Flow

        return Flow(
            reads_index=self._has_ids,
            input_paths=(self.ids_path,),
            output_paths=() if failed else (self.path,),
        )

    def _check_path(self) -> str | None:
        if self.path is None:
            return None
        path = path_of(self.path, "path")
        if not is_ndjson(path):
            raise VectorizeInputError(
                f"invalid path {show(path, 200)}: expected a name that ends in .ndjson or .jsonl"
            )
        if self.ids_path is not None and place_of(path, "path") == place_of(
            path_of(self.ids_path, "ids_path"), "ids_path"
        ):
            raise VectorizeInputError(
                f"path and ids_path are both {show(path, 200)}, so a retry would read different ids: pass "
                "two files"
            )
        return path

    def _read(self, client: VectorizeClient, ids: IdSource, missing: list[str]) -> Iterator[dict[str, Any]]:
        from airflow_provider_cfvectorize.client.bulk.read import iter_vectors

        for id_, vector in iter_vectors(
            client, self.index_name, ids, concurrency=self.concurrency, stopped=self.is_killed, log=self.log
        ):
            if vector is not None:
                yield {k: v for k, v in vector.items() if k != "values" or self.return_values}
            elif len(missing) < SHOWN_MISSING:
                missing.append(id_)

    def _collect(self, vectors: Iterator[dict[str, Any]]) -> tuple[list[dict[str, Any]], int]:
        advice = "pass path='...ndjson' to write them to a file, or pass fewer ids"
        small = _SmallList("vectors", f"{advice}, or return_values=False" if self.return_values else advice)
        for vector in vectors:
            small.append(vector)
        return small.items, len(small.items)

    @staticmethod
    def _write(vectors: Iterator[dict[str, Any]], path: str) -> int:
        count = 0
        with write_file(path, "path") as file:
            for vector in vectors:
                file.write(write_json(vector) + b"\n")
                count += 1
        return count


class QueryVectorsOperator(VectorizeOperator):
    """
    Query the vectors nearest to a vector, by the metric of the index.

    The return value is ``{"count": ..., "matches": [...]}``, with the nearest match first. A match has an
    ``id`` and a ``score``, and ``values`` and ``metadata`` if the parameters request them. More than 256 KiB
    as JSON is an error.

    A ``filter`` or ``namespace`` that renders to nothing is an error, not a query without it. ``filter={}``
    in the DAG means no filter.

    .. seealso::
        The guide, with examples: :doc:`/docs/operators/query-vectors`

    :param index_name: the index. (templated)
    :param vector: the values to compare with, as many as the index has dimensions: a list, an upstream
        task's output, or a Jinja expression that gives a list. Pass either this or ``vector_id``. (templated)
    :param vector_id: the id of a vector in the index whose values the query uses. (templated)
    :param top_k: the most matches to return: 1 to 100, or 1 to 50 with values or all metadata. (templated)
    :param filter: select vectors with this metadata, such as ``{"lang": "en", "year": {"$gte": 2020}}``, or a
        Jinja expression that gives a mapping. Each property needs a metadata index that existed before the
        vectors were written. Unless the DAG renders natively, a template within a mapping gives text, which
        is not documented to equal a number; within a list it gives text in every DAG. For a number, render
        the whole filter, as in ``filter='{"year": {"$gte": {{ params.year }} }}'``. A value that is None only
        after rendering is an error: null equals nothing and differs from everything. (templated)
    :param namespace: select vectors of this namespace. (templated)
    :param return_values: return the values of the matches. The scores are then exact instead of approximate.
    :param return_metadata: return the metadata of the matches: ``none``, ``indexed`` (only properties with a
        metadata index) or ``all``. (templated)
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
        Send the query.

        :return: the number of matches and the matches.
        :raises VectorizeInputError: a parameter or the connection is invalid, or the matches are too large
            for an XCom.
        """
        check_flags(self)
        query: dict[str, Any] = {
            "vector": self._read_vector(),
            "vector_id": read_nothing(self.vector_id),
            "top_k": read_integer(self.top_k),
            "filter": self._read_filter(),
            "namespace": self._narrowing.read(self, "namespace"),
            "return_values": self.return_values,
            "return_metadata": self.return_metadata,
        }
        with self.open_client(max_connections=1) as client:
            result = self.send(client.query, self.index_name, **query)
        self.log.info("Found %s.", counted(len(result["matches"]), "match"))
        _check_size(
            _size(result),
            f"the result of the query ({counted(len(result['matches']), 'match')}) has",
            "pass a lower top_k, return_values=False, or return_metadata='indexed' or 'none', and read the "
            "rest by the matches' ids into a file with GetVectorsByIdsOperator",
        )
        return result

    def flow(self, *, failed: bool) -> Flow:
        """Return the index that the task has read."""
        from airflow_provider_cfvectorize.lineage import Flow

        return Flow(reads_index=True)

    def _read_filter(self) -> Any:
        # On the task's main thread: reading the results of mapped tasks sends requests to Airflow.
        read = plain(read_structure(self._narrowing.read(self, "filter"), "filter"))
        is_written_out = self._nones is not None and "filter" not in (self.mapped_with or ())
        if read == {} and not is_written_out:
            raise VectorizeInputError(
                "filter is empty after rendering. Without a filter, the task would read more than intended. "
                "Check the template or upstream task that gives it. To run without filter, do not pass it"
            )
        if self._nones is not None and count_nones(read) > self._nones:
            raise VectorizeInputError(
                "filter has a value that is None after rendering. None equals nothing and differs from "
                "everything. Check the template or upstream task that gives it. If you mean None, write "
                "None into the filter"
            )
        return read

    def _read_vector(self) -> Any:
        vector = read_structure(read_nothing(self.vector), "vector")
        # The results of mapped tasks are a lazy sequence of Airflow.
        is_lazy = isinstance(vector, Sequence) and not isinstance(vector, str | bytes | list | tuple)
        return list(vector) if is_lazy else vector


class ListVectorsOperator(VectorizeOperator):
    """
    List the ids of an index into an XCom or a file, 1,000 ids per request.

    The return value is the list of ids. More than ``max_ids`` or 256 KiB as JSON is an error. With
    ``path``, the task writes any number of ids to a file and returns the path. It holds one page of ids in
    memory. :class:`~airflow_provider_cfvectorize.operators.delete.DeleteVectorsByIdsOperator` accepts both,
    as ``ids`` or ``ids_path``.

    The list has the ids of the index at the time of the first page. The task restarts a listing that expires
    before its last page, at most three times.

    The XCom ``report`` has the numbers ``listed`` (all ids of the index) and ``matched`` (the returned ids).

    .. seealso::
        The guide, with examples: :doc:`/docs/operators/list-vectors`

    :param index_name: the index. (templated)
    :param prefix: return only ids with this prefix. The task reads all ids, since the service cannot filter
        by prefix. A prefix that renders to nothing is an error, not a list of all ids. (templated)
    :param path: the file to write: one id per line, or in a ``.ndjson`` or ``.jsonl`` file one JSON object
        with an ``id`` per line. The task replaces an existing file after it has listed all ids. A local
        path or a URL of object storage. (templated)
    :param max_ids: fail if there are more ids than this. It has no effect with ``path``.
    :param conn_id: the connection. (templated)
    :param account_id: the account; the connection's login if not given. (templated)
    """

    template_fields: Sequence[str] = ("index_name", "prefix", "path", "conn_id", "account_id")

    def __init__(
        self,
        *,
        index_name: str,
        prefix: str | None = None,
        path: FilePath | None = None,
        max_ids: int = 10_000,
        conn_id: str = DEFAULT_CONN_ID,
        account_id: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(index_name=index_name, conn_id=conn_id, account_id=account_id, **kwargs)
        self.prefix = prefix
        self.path = path
        self.max_ids = max_ids
        self._narrowing = Narrowing(prefix=prefix)

    def execute(self, context: Context) -> list[str] | str:
        """
        List the ids.

        :return: the ids, or with ``path`` that path.
        :raises VectorizeInputError: a parameter or the connection is invalid, there are more ids than
            ``max_ids``, or an id cannot be written to a file of one id per line.
        :raises VectorizeListingExpired: the listing expired four times before its last page.
        """
        from airflow_provider_cfvectorize.client.bulk.list import repeat_listing

        self.check_number("max_ids", 0, whole=True)
        prefix = self._narrowing.read(self, "prefix")
        if prefix is not None and not isinstance(prefix, str):
            raise VectorizeInputError(f"prefix is {show(prefix)}, expected a string")
        path = None if self.path is None else path_of(self.path, "path")
        with self.open_client(max_connections=1) as client:
            listing = repeat_listing(lambda: self._list(client, prefix, path), log=self.log)
        self.log.info("Listed %s; %d matched.", counted(listing.listed, "id"), listing.matched)
        self.push(context, "report", {"listed": listing.listed, "matched": listing.matched})
        return listing.ids if path is None else path

    def flow(self, *, failed: bool) -> Flow:
        """Return the index and files that the task has read and written."""
        from airflow_provider_cfvectorize.lineage import Flow

        return Flow(reads_index=True, output_paths=() if failed else (self.path,))

    def _list(self, client: VectorizeClient, prefix: str | None, path: str | None) -> _Listing:
        listing = _Listing(self, client, prefix or "")
        if path is None:
            listing.collect(self.max_ids)
        else:
            listing.write(path)
        return listing


class _Listing:
    """One listing of an index, from its first page."""

    def __init__(self, operator: ListVectorsOperator, client: VectorizeClient, prefix: str) -> None:
        self._operator = operator
        self._client = client
        self._prefix = prefix
        self.ids: list[str] = []
        self.listed = 0
        self.matched = 0

    def __iter__(self) -> Iterator[str]:
        from airflow_provider_cfvectorize.client.bulk.list import iter_ids

        operator = self._operator
        # Compare the prefix here, where all ids are counted.
        for id_ in iter_ids(self._client, operator.index_name, stopped=operator.is_killed, log=operator.log):
            self.listed += 1
            if id_.startswith(self._prefix):
                self.matched += 1
                yield id_

    def collect(self, max_ids: int) -> None:
        """Collect the ids in memory."""
        begin = f" that begin with {show(self._prefix)}" if self._prefix else ""
        advice = "pass path to write them to a file"
        small = _SmallList(f"ids{begin}", advice)
        for id_ in self:
            if self.matched > max_ids:
                raise VectorizeInputError(
                    f"index {show(self._operator.index_name)} has more than {counted(max_ids, 'id')}{begin}: "
                    f"{self.matched} of the first {self.listed} listed ids match. "
                    f"{advice.capitalize()}, or raise max_ids"
                )
            small.append(id_)
        self.ids = small.items

    def write(self, path: str) -> None:
        """Write the ids to a file."""
        from airflow_provider_cfvectorize.client.inputs.ids_file import line_of_id

        with write_file(path, "path") as file:
            for id_ in self:
                file.write(line_of_id(id_, ndjson=is_ndjson(path), is_first=self.matched == 1))


class _SmallList:
    """A list that raises an error as soon as it is too large for an XCom."""

    def __init__(self, what: str, advice: str) -> None:
        self.items: list[Any] = []
        self._what = what
        self._advice = advice
        self._bytes = 0

    def append(self, item: object) -> None:
        """Add an item."""
        self._bytes += _size(item) + 2
        self.items.append(item)
        _check_size(self._bytes, f"the first {len(self.items):,} {self._what} have", self._advice)


def _check_size(size: int, what: str, advice: str) -> None:
    if size > MAX_XCOM_BYTES:
        raise VectorizeInputError(
            f"{what} {size:,} bytes as JSON, expected at most {MAX_XCOM_BYTES:,} for an XCom: {advice}"
        )


def _size(value: object) -> int:
    # As Airflow writes it: with spaces and ASCII escapes.
    return len(json.dumps(value))
