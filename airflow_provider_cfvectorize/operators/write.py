# SPDX-License-Identifier: Apache-2.0
"""The operators that upsert and insert vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from airflow.providers.common.compat.sdk import conf

from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.connection import DEFAULT_CONN_ID
from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.operators.base import VectorizeWriteOperator
from airflow_provider_cfvectorize.operators.files import open_file, path_of
from airflow_provider_cfvectorize.templating import read_given, read_nothing, read_structure

if TYPE_CHECKING:
    from datetime import timedelta

    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_cfvectorize.client.bulk.write import Written
    from airflow_provider_cfvectorize.client.client import VectorizeClient
    from airflow_provider_cfvectorize.client.inputs.vectors import Vectors
    from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
    from airflow_provider_cfvectorize.lineage import Flow
    from airflow_provider_cfvectorize.operators.files import FilePath


class _FillOperator(VectorizeWriteOperator):
    """The base of upsert and insert, which differ in the endpoint only."""

    template_fields: Sequence[str] = (
        "index_name",
        "vectors",
        "vectors_path",
        "vectors_kwargs",
        "conn_id",
        "account_id",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"vectors": "json", "vectors_kwargs": "json"}
    route: ClassVar[Literal["insert", "upsert"]]

    def __init__(
        self,
        *,
        index_name: str,
        vectors: Sequence[Mapping[str, Any]] | str | None = None,
        vectors_path: FilePath | None = None,
        vectors_callable: Callable[..., Vectors] | None = None,
        vectors_kwargs: Mapping[str, Any] | None = None,
        on_unparsable: str = "error",
        wait_for_completion: bool = False,
        poll_interval: timedelta | float = 10,
        wait_timeout: timedelta | float = 900,
        deferrable: bool = conf.getboolean("operators", "default_deferrable", fallback=False),
        durable: bool = True,
        verify: str = "sample",
        require_equal: bool = False,
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
        self.vectors = vectors
        self.vectors_path = vectors_path
        self.vectors_callable = vectors_callable
        self.vectors_kwargs = vectors_kwargs
        self._given_kwargs = vectors_kwargs
        self.on_unparsable = on_unparsable
        self.durable = durable
        self.verify = verify
        self.require_equal = require_equal

    def execute(self, context: Context) -> str | None:
        """
        Write the vectors, push the receipt and, with ``wait_for_completion``, wait.

        :return: the id of the last mutation, None if there was nothing to write.
        :raises VectorizeInputError: a parameter, the connection or a vector is invalid. The error has the
            position of the vector and the number of acknowledged vectors before it.
        :raises VectorizeBatchError: the service accepted only a part; says how many vectors.
        :raises VectorizeWaitTimeout: the write was not observed as applied in time.
        """
        self._check_options()
        with self.open_client(max_connections=1) as client:
            receipt, written = self._fill(context, client)
        report = {key: getattr(written, key) for key in ("vectors", "requests", "discarded")}
        self.push(context, "report", report)
        self.log.info("%s", receipt.acceptance("vector"))
        return self.push_and_wait(context, receipt)

    def _fill(self, context: Context, client: VectorizeClient) -> tuple[Receipt, Written]:
        from airflow_provider_cfvectorize.client.bulk.write import InputChanged, fill

        checkpoint = None
        if self.durable and self.vectors_path is not None:
            path = path_of(self.vectors_path, "vectors_path")
            checkpoint = self.open_checkpoint(context, client, path, self.on_unparsable)
        while True:
            with ExitStack() as stack:
                vectors, name = self._source(stack)
                try:
                    return fill(
                        client,
                        self.route,
                        self.index_name,
                        vectors,
                        unparsable_behavior=self.on_unparsable,
                        name=name,
                        witnesses=self.verify != "none",
                        checkpoint=checkpoint,
                        stopped=self.is_killed,
                        log=self.log,
                    )
                except InputChanged:
                    if checkpoint is None:
                        raise
                    self.log.info("Saved progress belongs to a different file content; starting over.")
                    checkpoint.start_over()

    def report(self, evidence: dict[str, Any]) -> None:
        """Log the outcome of the wait."""
        from airflow_provider_cfvectorize.client.mutations.evidence import report_evidence

        report_evidence(evidence, self.log, require_equal=self.require_equal)

    def flow(self, *, failed: bool) -> Flow:
        """Return the index and files that the task has read and written."""
        from airflow_provider_cfvectorize.lineage import Flow

        return Flow(
            writes_index=self.has_written or failed,
            # An insert's acknowledged number includes skipped vectors.
            rows=self.acknowledged if self.route == "upsert" else None,
            input_paths=(self.vectors_path,),
        )

    def _check_options(self) -> None:
        self.check_wait()
        self.check_choice("on_unparsable", "error", "discard")
        self.check_choice("verify", "sample", "none")
        if self.require_equal and (self.verify == "none" or not self.wait_for_completion):
            raise VectorizeInputError(
                "require_equal=True compares written with read vectors at the end of the wait: set "
                "wait_for_completion=True and verify='sample'"
            )
        names = ("vectors", "vectors_path", "vectors_callable")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise VectorizeInputError(
                f"{' and '.join(given) if given else 'none of ' + ', '.join(names)} given: pass one of "
                f"{', '.join(names)}. An upstream task that returned nothing or was skipped gives None"
            )
        if self.vectors_callable is not None and not callable(self.vectors_callable):
            raise VectorizeInputError(
                f"vectors_callable is {show(self.vectors_callable)}, expected a function that returns "
                "vectors. Pass a list of vectors as vectors"
            )
        if self.vectors_kwargs and self.vectors_callable is None:
            raise VectorizeInputError(
                "vectors_kwargs is given without vectors_callable: pass both or neither"
            )

    def _source(self, stack: ExitStack) -> tuple[Vectors, str]:
        """Return the vectors and their name in errors."""
        if self.vectors_path is not None:
            path = path_of(self.vectors_path, "vectors_path")
            return stack.enter_context(open_file(path, "vectors_path")), f"vectors_path {show(path, 200)}"
        if self.vectors_callable is not None:
            vectors = self.vectors_callable(**self._kwargs())
            # Close a generator when the write ends, not when it is garbage-collected.
            if callable(close := getattr(vectors, "close", None)):
                stack.callback(close)
            return vectors, "vectors_callable"
        given = read_structure(read_nothing(self.vectors), "vectors")
        if not isinstance(given, Sequence) or isinstance(given, str | bytes | bytearray):
            raise VectorizeInputError(
                f"vectors is {show(given)}, expected a list of vectors such as "
                '{"id": "a", "values": [0.5, ...]}. Pass a file as vectors_path and a generator as '
                "vectors_callable"
            )
        return _each(given), "vectors"

    def _kwargs(self) -> dict[str, Any]:
        harm = "Without it, vectors_callable would get no arguments"
        given = read_given(self, "vectors_kwargs", self._given_kwargs, harm)
        kwargs = read_structure(given, "vectors_kwargs")
        if kwargs is None:
            return {}
        if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
            raise VectorizeInputError(
                f"vectors_kwargs is {show(kwargs)}, expected a mapping of the names of vectors_callable's "
                "arguments to their values"
            )
        return dict(kwargs)


def _each(vectors: Iterable[Any]) -> Iterable[Any]:
    # A lazy sequence of XComs can only be iterated.
    yield from vectors


class UpsertVectorsOperator(_FillOperator):
    """
    Write vectors to an index, replacing those whose ids exist, in requests of up to 5,000 vectors and 32 MB.

    The task checks and sends vectors as it reads them, one request after another. The order of the input is
    the order of effects: if it contains an id twice, the last vector wins. It checks the id, the number of
    values, the namespace and the metadata of each vector before it sends it. An error has the line or
    position of the vector and the number of acknowledged vectors before it. Retries are safe, since writing a
    vector again is harmless.

    The return value is the id of the task's last mutation: once it is applied, all are. It is None if there
    was nothing to write. The task always pushes the XCom ``receipt`` and the XCom ``report`` with the numbers
    of ``vectors``, ``requests`` and ``discarded`` lines, and the XCom ``evidence`` if it waited.

    Presence alone does not prove that a vector was replaced. The receipt therefore has digests of up to 5
    witnesses: vectors of the last request that were observed absent or different before the write, with up to
    three requests. If the write of another writer hides the mutation, the wait reads the witnesses back and
    compares them. If they exist but equal neither the written nor the earlier vectors until the end of the
    wait, the outcome is ``present_differs``, with a warning.

    .. seealso::
        The guide, with examples: :doc:`/docs/operators/upsert-vectors`

    :param index_name: the index. (templated)
    :param vectors: a few vectors: a list, an upstream task's output, or a Jinja expression that gives a list.
        Pass either this, ``vectors_path`` or ``vectors_callable``. (templated)
    :param vectors_path: a file of NDJSON, one vector per line. A local path or a URL of object storage.
        (templated)
    :param vectors_callable: a function that returns vectors, preferably a generator; it runs on the worker.
    :param vectors_kwargs: the keyword arguments of ``vectors_callable``. (templated)
    :param on_unparsable: ``error`` to fail at a line that is not a vector; ``discard`` to skip, count and log
        it. A vector above a limit of the service is always an error.
    :param wait_for_completion: wait until the write is applied.
    :param poll_interval: seconds, or a ``timedelta``, between two polls of a wait.
    :param wait_timeout: the longest wait, in seconds or as a ``timedelta``. After it the task fails with
        ``VectorizeWaitTimeout``, and Airflow retries it if it has retries.
    :param deferrable: wait in the triggerer, without occupying a worker slot.
    :param durable: on Airflow 3.3 or newer and with ``vectors_path``, save progress, so that a retry
        continues after the last acknowledged request or at the wait. A different file content, a cleared
        task or a recreated index start over. On an older Airflow, without a file, or with False, every
        attempt sends all vectors.
    :param verify: ``sample`` reads a few ids before the write to choose witnesses; ``none`` reads none.
    :param require_equal: fail with ``VectorizeDiffersError``, instead of logging a warning, if witnesses
        differ.
    :param conn_id: the connection. (templated)
    :param account_id: the account; the connection's login if not given. (templated)
    """

    route = "upsert"


class InsertVectorsOperator(_FillOperator):
    """
    Write vectors to an index, skipping those whose ids exist, in requests of up to 5,000 vectors and 32 MB.

    If the input contains an id twice, the first vector wins. The service does not say which vectors it
    skipped. The witnesses are vectors whose ids did not exist before. In everything else, this operator
    works like :class:`~airflow_provider_cfvectorize.operators.vectors.UpsertVectorsOperator`.

    .. seealso::
        The guide, with examples: :doc:`/docs/operators/insert-vectors`

    :param index_name: the index. (templated)
    :param vectors: a few vectors: a list, an upstream task's output, or a Jinja expression that gives a list.
        Pass either this, ``vectors_path`` or ``vectors_callable``. (templated)
    :param vectors_path: a file of NDJSON, one vector per line. A local path or a URL of object storage.
        (templated)
    :param vectors_callable: a function that returns vectors, preferably a generator; it runs on the worker.
    :param vectors_kwargs: the keyword arguments of ``vectors_callable``. (templated)
    :param on_unparsable: ``error`` to fail at a line that is not a vector; ``discard`` to skip, count and log
        it. A vector above a limit of the service is always an error.
    :param wait_for_completion: wait until the write is applied.
    :param poll_interval: seconds, or a ``timedelta``, between two polls of a wait.
    :param wait_timeout: the longest wait, in seconds or as a ``timedelta``. After it the task fails with
        ``VectorizeWaitTimeout``, and Airflow retries it if it has retries.
    :param deferrable: wait in the triggerer, without occupying a worker slot.
    :param durable: on Airflow 3.3 or newer and with ``vectors_path``, save progress, so that a retry
        continues after the last acknowledged request or at the wait. A different file content, a cleared
        task or a recreated index start over. On an older Airflow, without a file, or with False, every
        attempt sends all vectors.
    :param verify: ``sample`` reads a few ids before the write to choose witnesses; ``none`` reads none.
    :param require_equal: fail with ``VectorizeDiffersError``, instead of logging a warning, if witnesses
        differ.
    :param conn_id: the connection. (templated)
    :param account_id: the account; the connection's login if not given. (templated)
    """

    route = "insert"
