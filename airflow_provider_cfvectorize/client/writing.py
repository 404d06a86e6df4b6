# SPDX-License-Identifier: Apache-2.0
"""Writing any number of vectors, in as many requests as the service's caps make of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, Literal

from airflow_provider_cfvectorize.client.addresses import check_path_name
from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.dispatch import Dispatcher, Stopped, batch_error
from airflow_provider_cfvectorize.client.types import Mutation, Written
from airflow_provider_cfvectorize.client.vectors import (
    VectorBatch,
    VectorBatches,
    Vectors,
    check_unparsable_behavior,
)
from airflow_provider_cfvectorize.exceptions import VectorizeInputError, VectorizeInterrupted

_log = logging.getLogger(__name__)

_HARMLESS: Final = "Writing all of them again is harmless"


def write_vectors(
    client: VectorizeClient,
    route: Literal["insert", "upsert"],
    index_name: str,
    vectors: Vectors,
    *,
    unparsable_behavior: str | None = None,
    dimensions: int | None = None,
    on_batch: Callable[[VectorBatch, Mutation], None] = lambda batch, mutation: None,
    stopped: Callable[[], bool] = lambda: False,
    log: Any = _log,
) -> Written:
    """
    Write vectors and return the last mutation, which comes after all the others.

    One request is in flight at a time: the order of the vectors is the order of their effects, so that of two
    with the same id the later one counts (of an insert: the earlier one). A request is made when it is its
    turn, and its bytes are forgotten when it is acknowledged.

    :param client: sends.
    :param route: ``insert`` leaves a vector whose id exists already as it is, ``upsert`` replaces it whole.
    :param index_name: the index.
    :param vectors: see :class:`~airflow_provider_cfvectorize.client.vectors.VectorBatches`.
    :param unparsable_behavior: ``discard`` leaves out what is no vector and counts it; for ``error``, the
        default, that is an error.
    :param dimensions: the number of values that each must have; None for as many as the first has.
    :param on_batch: told of each request that was acknowledged, on this thread.
    :param stopped: says whether to stop; asked on this thread.
    :param log: where to tell of progress.
    :raises VectorizeInputError: a vector cannot be one; says where it stands and how many before it were
        acknowledged.
    :raises VectorizeBatchError: a request failed for good; says which vectors were in it and how many before
        it were acknowledged.
    :raises VectorizeInterrupted: it was told to stop; likewise.
    """
    check_path_name(index_name)
    check_unparsable_behavior(unparsable_behavior)
    discard = unparsable_behavior == "discard"
    batches = VectorBatches(vectors, dimensions=dimensions, discard=discard)
    written: Written = {
        "mutationId": None,
        "acceptedAt": None,
        "vectors": 0,
        "requests": 0,
        "discarded": 0,
    }

    def send(batch: VectorBatch) -> Mutation:
        return getattr(client, route)(  # type: ignore[no-any-return]
            index_name, batch.body, unparsable_behavior=unparsable_behavior
        )

    def done(batch: VectorBatch, mutation: Mutation) -> None:
        written.update(mutation)  # type: ignore[typeddict-item]
        written["vectors"] += batch.count
        written["requests"] += 1
        on_batch(batch, mutation)

    def acknowledged() -> str:
        last = f" (the last mutation is {written['mutationId']})" if written["mutationId"] else ""
        requests = f"{written['requests']} request{'' if written['requests'] == 1 else 's'}"
        return f"{written['vectors']} vectors in {requests} are acknowledged{last}"

    source = iter(batches)
    while True:
        # No name holds a batch when the next one is made.
        try:
            batch = next(source, None)
        except VectorizeInputError as e:
            raise VectorizeInputError(f"{e}. {acknowledged()}. {_HARMLESS}") from None
        except Exception as e:
            e.add_note(f"This ended an {route} of vectors: {acknowledged()}. {_HARMLESS}")
            raise
        if batch is None:
            break
        # From a thread, though it is only one request: it may be throttled for minutes, and this thread must
        # see meanwhile that it is told to stop.
        request: Dispatcher[VectorBatch, Mutation] = Dispatcher(send, done, concurrency=1, stopped=stopped)
        try:
            request.run([batch])
        except Stopped:
            client.session.stop()
            raise VectorizeInterrupted(f"told to stop: {acknowledged()}. {_HARMLESS}") from None
        if request.failed:
            cause = request.failed[0][1]
            raise batch_error(
                cause,
                f"{acknowledged()}, the {batch.count} of {batch.where} failed, and what follows was not "
                f"sent. {_HARMLESS}. The failure: {cause}",
                acknowledged=written["vectors"],
                failed=batch.count,
                not_sent=None,
            )
        del request, batch
        log.info("%s into %s: %s", route, index_name, acknowledged())
    written["discarded"] = batches.discarded
    if batches.discarded:
        log.warning("%s into %s: left out %d that are no vectors", route, index_name, batches.discarded)
    return written
