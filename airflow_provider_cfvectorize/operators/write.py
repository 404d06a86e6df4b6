# SPDX-License-Identifier: Apache-2.0
"""The operators that fill an index."""

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
    """What the operators that fill an index share: all but the endpoint."""

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
        Write, push the receipt and, with ``wait_for_completion``, wait.

        :return: the id of the last mutation, None if there was nothing to write.
        :raises VectorizeInputError: something passed or configured cannot work, or a vector cannot be one;
            says where it stands and how many before it are acknowledged.
        :raises VectorizeBatchError: not all were accepted; says how many were.
        :raises VectorizeWaitTimeout: the write was not seen to be applied in time.
        """
        self._check_options()
        with self.open_client(max_connections=1) as client:
            receipt, written = self._fill(context, client)
        report = {key: getattr(written, key) for key in ("vectors", "requests", "discarded")}
        self.push(context, "report", report)
        self.log.info("%s", receipt.acceptance("vector"))
        return self.hand_on(context, receipt)

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
                    self.log.info("What an earlier try sent is not in the file any more: starting afresh.")
                    checkpoint.start_afresh()

    def report(self, evidence: dict[str, Any]) -> None:
        """Say in the log how the wait ended."""
        from airflow_provider_cfvectorize.client.mutations.evidence import report_evidence

        report_evidence(evidence, self.log, require_equal=self.require_equal)

    def flow(self, *, failed: bool) -> Flow:
        """Return what the task has read and written."""
        from airflow_provider_cfvectorize.lineage import Flow

        return Flow(
            writes_index=self.has_written or failed,
            # An insert is acknowledged for what it leaves alone as well.
            rows=self.acknowledged if self.route == "upsert" else None,
            input_paths=(self.vectors_path,),
        )

    def _check_options(self) -> None:
        self.check_wait()
        self.check_choice("on_unparsable", "error", "discard")
        self.check_choice("verify", "sample", "none")
        if self.require_equal and (self.verify == "none" or not self.wait_for_completion):
            raise VectorizeInputError(
                "require_equal compares what was written with what can be read when the wait ends: it needs "
                "wait_for_completion=True and verify='sample'"
            )
        names = ("vectors", "vectors_path", "vectors_callable")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise VectorizeInputError(
                f"{' and '.join(given) if given else 'none of ' + ', '.join(names)} given: pass one of "
                f"{', '.join(names)}. An upstream task that returned nothing, or was skipped, gives None"
            )
        if self.vectors_callable is not None and not callable(self.vectors_callable):
            raise VectorizeInputError(
                f"vectors_callable is {show(self.vectors_callable)}, expected a function that returns "
                "vectors; vectors themselves go into vectors"
            )
        if self.vectors_kwargs and self.vectors_callable is None:
            raise VectorizeInputError("vectors_kwargs are for vectors_callable, which is not given")

    def _source(self, stack: ExitStack) -> tuple[Vectors, str]:
        """Return the vectors, and what errors call them."""
        if self.vectors_path is not None:
            path = path_of(self.vectors_path, "vectors_path")
            return stack.enter_context(open_file(path, "vectors_path")), f"vectors_path {show(path, 200)}"
        if self.vectors_callable is not None:
            vectors = self.vectors_callable(**self._kwargs())
            # A generator is closed when the write ends, and not when somebody collects it.
            if callable(close := getattr(vectors, "close", None)):
                stack.callback(close)
            return vectors, "vectors_callable"
        given = read_structure(read_nothing(self.vectors), "vectors")
        if not isinstance(given, Sequence) or isinstance(given, str | bytes | bytearray):
            raise VectorizeInputError(
                f"vectors: got {show(given)}, expected a list of vectors such as "
                '{"id": "a", "values": [0.5, ...]}. A file goes into vectors_path, a generator into '
                "vectors_callable"
            )
        return _each(given), "vectors"

    def _kwargs(self) -> dict[str, Any]:
        harm = "vectors_callable would be called without arguments"
        given = read_given(self, "vectors_kwargs", self._given_kwargs, harm)
        kwargs = read_structure(given, "vectors_kwargs")
        if kwargs is None:
            return {}
        if not isinstance(kwargs, Mapping) or not all(isinstance(name, str) for name in kwargs):
            raise VectorizeInputError(
                f"vectors_kwargs: got {show(kwargs)}, expected a mapping of names to what vectors_callable "
                "is called with"
            )
        return dict(kwargs)


def _each(vectors: Iterable[Any]) -> Iterable[Any]:
    # A lazy sequence of XComs gives one item after the other, and has no other methods.
    yield from vectors


class UpsertVectorsOperator(_FillOperator):
    """
    Write vectors into an index, replacing those whose id exists already whole, and hand on the mutation id.

    Vectors are checked and sent as they are read, 5,000 or 32 MB a request and one request after the other:
    the order of the input is the order of effects, so of two vectors with one id the later one counts. Each
    is checked (id, number of values, namespace, metadata) before it costs a request; an error tells its line
    or position, and how many vectors before it were acknowledged. Writing the same again is harmless, so the
    task can be retried.

    The return value is the id of the last mutation, so that waiting for it is waiting for all; None if there
    was nothing to write. XComs: ``receipt``, always; ``report`` with the numbers of ``vectors``, ``requests``
    and ``discarded`` lines; ``evidence``, if this task waited.

    Presence alone does not prove that a vector was replaced. So the receipt carries digests of up to 5
    vectors of the last request that were not so before (asked with up to three requests). If somebody else's
    write hides the mutation, they are read back and compared. If they are there, and neither as they were
    written nor as they were before, until the end of the wait, it ends with the outcome ``present_differs``
    and a warning.

    .. seealso::
        The guide, with examples: :doc:`/docs/operators/upsert-vectors`

    :param index_name: the index. (templated)
    :param vectors: a few vectors: a list, an upstream task's output, or a Jinja expression that gives a list.
        Give this, ``vectors_path`` or ``vectors_callable``. (templated)
    :param vectors_path: a file of NDJSON, one vector a line. A local path, or a URL of object storage.
        (templated)
    :param vectors_callable: a function that returns vectors, best as a generator; called on the worker.
    :param vectors_kwargs: what it is called with. (templated)
    :param on_unparsable: ``error``, or ``discard`` to leave out, count and log lines that are no vectors. A
        vector beyond a cap of the service is an error in any case.
    :param wait_for_completion: end only when the write is applied.
    :param poll_interval: seconds, or a ``timedelta``, between two looks while waiting.
    :param wait_timeout: seconds, or a ``timedelta``, to wait at most; then the task fails with
        ``VectorizeWaitTimeout``, and is retried if it has retries.
    :param deferrable: wait in the triggerer, without a worker's slot.
    :param durable: on Airflow 3.3 or newer and with ``vectors_path``, keep how far the task came, so that a
        retry goes on after the last acknowledged request, or straight to the wait. Another file content, a
        cleared task or an index that was created anew start afresh. Else every try sends everything.
    :param verify: ``sample`` takes witnesses as described; ``none`` asks nothing.
    :param require_equal: fail with ``VectorizeDiffersError`` where witnesses differ, rather than warn.
    :param conn_id: the connection. (templated)
    :param account_id: the account; the connection's login if not given. (templated)
    """

    route = "upsert"


class InsertVectorsOperator(_FillOperator):
    """
    Write vectors into an index, leaving those whose id exists already, and hand on the mutation id.

    Of two vectors with one id the earlier one counts. The service acknowledges what it leaves alone as well,
    and does not tell it apart. In all else this is as
    :class:`~airflow_provider_cfvectorize.operators.vectors.UpsertVectorsOperator`; its witnesses are vectors
    whose ids did not exist before.

    .. seealso::
        The guide, with examples: :doc:`/docs/operators/insert-vectors`

    :param index_name: the index. (templated)
    :param vectors: a few vectors: a list, an upstream task's output, or a Jinja expression that gives a list.
        Give this, ``vectors_path`` or ``vectors_callable``. (templated)
    :param vectors_path: a file of NDJSON, one vector a line. A local path, or a URL of object storage.
        (templated)
    :param vectors_callable: a function that returns vectors, best as a generator; called on the worker.
    :param vectors_kwargs: what it is called with. (templated)
    :param on_unparsable: ``error``, or ``discard`` to leave out, count and log lines that are no vectors. A
        vector beyond a cap of the service is an error in any case.
    :param wait_for_completion: end only when the write is applied.
    :param poll_interval: seconds, or a ``timedelta``, between two looks while waiting.
    :param wait_timeout: seconds, or a ``timedelta``, to wait at most; then the task fails with
        ``VectorizeWaitTimeout``, and is retried if it has retries.
    :param deferrable: wait in the triggerer, without a worker's slot.
    :param durable: on Airflow 3.3 or newer and with ``vectors_path``, keep how far the task came, so that a
        retry goes on after the last acknowledged request, or straight to the wait. Another file content, a
        cleared task or an index that was created anew start afresh. Else every try sends everything.
    :param verify: ``sample`` takes witnesses as described; ``none`` asks nothing.
    :param require_equal: fail with ``VectorizeDiffersError`` where witnesses differ, rather than warn.
    :param conn_id: the connection. (templated)
    :param account_id: the account; the connection's login if not given. (templated)
    """

    route = "insert"
