# SPDX-License-Identifier: Apache-2.0
"""Writing any number of vectors, in as many requests as the service's caps make of them."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final, Literal

from airflow_provider_cfvectorize.client.addresses import check_path_name
from airflow_provider_cfvectorize.client.batches import VectorBatch, VectorBatches
from airflow_provider_cfvectorize.client.candidates import choose_witnesses
from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.dispatch import Dispatcher, Stopped, attend, batch_error
from airflow_provider_cfvectorize.client.mutations import Receipt
from airflow_provider_cfvectorize.client.text import show
from airflow_provider_cfvectorize.client.types import Mutation, Written
from airflow_provider_cfvectorize.client.vectors import Vectors, check_unparsable_behavior
from airflow_provider_cfvectorize.client.witnesses import WitnessVector
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
    dimensions: int | Callable[[], int | None] | None = None,
    name: str = "vectors",
    before_last: Callable[[VectorBatch, Callable[[str], bool]], None] = lambda batch, is_single: None,
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
    :param dimensions: see there.
    :param name: see there.
    :param before_last: told of the last request before it is sent, on this thread, with what says of an id
        whether it stands in the input only once.
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
    batches = VectorBatches(vectors, dimensions=dimensions, discard=discard, name=name, stopped=stopped)
    written: Written = {
        "mutationId": None,
        "acceptedAt": None,
        "vectors": 0,
        "requests": 0,
        "discarded": 0,
    }

    def send(batch: VectorBatch) -> Mutation:
        # What is to be discarded has been; what the service discarded beyond that, nobody would hear of.
        return getattr(client, route)(  # type: ignore[no-any-return]
            index_name, batch.body, unparsable_behavior=None if unparsable_behavior is None else "error"
        )

    def done(batch: VectorBatch, mutation: Mutation) -> None:
        written.update(mutation)  # type: ignore[typeddict-item]
        written["vectors"] += batch.count
        written["requests"] += 1

    def acknowledged() -> str:
        last = f" (the last mutation is {written['mutationId']})" if written["mutationId"] else ""
        requests = f"{written['requests']} request{'' if written['requests'] == 1 else 's'}"
        return f"{written['vectors']} vectors in {requests} are acknowledged{last}"

    def interrupted(under_way: str = "") -> VectorizeInterrupted:
        client.session.stop()
        return VectorizeInterrupted(f"told to stop: {acknowledged()}{under_way}. {_HARMLESS}")

    source = iter(batches)
    while True:
        # No name holds a batch when the next one is made.
        try:
            batch = next(source, None)
        except VectorizeInputError as e:
            # With its cause, which may be the caller's own function.
            raise VectorizeInputError(f"{e}. {acknowledged()}. {_HARMLESS}") from e
        except Stopped:
            raise interrupted() from None
        except Exception as e:
            e.add_note(f"This ended an {route} of vectors: {acknowledged()}. {_HARMLESS}")
            raise
        if batch is None:
            break
        requests = written["requests"]
        sent = False
        try:
            if batch.is_last:
                before_last(batch, batches.is_single)
            sent = True
            # From a thread, though it is only one request: it may be throttled for minutes, and this thread
            # must see meanwhile that it is told to stop.
            request: Dispatcher[VectorBatch, Mutation] = Dispatcher(
                send, done, concurrency=1, stopped=stopped
            )
            request.run([batch])
        except Stopped:
            in_doubt = sent and requests == written["requests"]
            raise interrupted(", and one more request may be carried out" if in_doubt else "") from None
        if request.failed:
            cause = request.failed[0][1]
            raise batch_error(
                cause,
                f"{acknowledged()}, the {batch.count} of {batch.where} failed, and what follows was not "
                f"sent. {_HARMLESS}. The failure: {cause}",
                acknowledged=written["vectors"],
                failed=batch.count,
                not_sent=0 if batch.is_last else None,
            )
        del request, batch
        log.info("%s into %s: %s", route, index_name, acknowledged())
    written["discarded"] = batches.discarded
    if batches.discarded:
        log.warning("%s into %s: left out %d that are no vectors", route, index_name, batches.discarded)
    for key, where in batches.unknown_keys.items():
        log.warning(
            "%s: %s has the key %s, which is none of a vector's (id, values, namespace, metadata): it was "
            "sent, and what the service makes of it is unknown. What belongs to a vector goes into metadata",
            name,
            where,
            show(key),
        )
    return written


def fill(
    client: VectorizeClient,
    route: Literal["insert", "upsert"],
    index_name: str,
    vectors: Vectors,
    *,
    unparsable_behavior: str | None = None,
    name: str = "vectors",
    witnesses: bool = True,
    stopped: Callable[[], bool] = lambda: False,
    log: Any = _log,
) -> tuple[Receipt, Written]:
    """
    Write vectors, checked against the index's dimensions, and return the receipt of the last mutation.

    The parameters are those of :func:`write_vectors`, which also says what is raised.

    :param witnesses: ask, before the last request is sent, about some of its vectors: those that are not so
        yet are the receipt's witnesses.
    """
    chosen: tuple[WitnessVector, ...] = ()

    def dimensions() -> int | None:
        asked = attend(lambda: client.info(index_name), stopped).get("dimensions")
        return asked if isinstance(asked, int) else None

    def choose(batch: VectorBatch, is_single: Callable[[str], bool]) -> None:
        nonlocal chosen
        if witnesses:
            chosen = choose_witnesses(client, route, index_name, batch, is_single, stopped=stopped, log=log)

    written = write_vectors(
        client,
        route,
        index_name,
        vectors,
        unparsable_behavior=unparsable_behavior,
        dimensions=dimensions,
        name=name,
        before_last=choose,
        stopped=stopped,
        log=log,
    )
    receipt = Receipt.of(
        written,
        index_name,
        client.account_id,
        count=written["vectors"],
        batches=written["requests"],
        witness_vectors=chosen,
    )
    return receipt, written
