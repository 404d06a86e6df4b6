# SPDX-License-Identifier: Apache-2.0
"""Writes any number of vectors, in as many requests as the service's limits require."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.bulk.checkpoint import Checkpoint
from airflow_provider_cfvectorize.client.bulk.vector_batches import VectorBatch, VectorBatches
from airflow_provider_cfvectorize.client.inputs.ids import spread
from airflow_provider_cfvectorize.client.inputs.names import check_path_name
from airflow_provider_cfvectorize.client.inputs.text import counted, show
from airflow_provider_cfvectorize.client.inputs.vectors import Vectors, check_unparsable_behavior
from airflow_provider_cfvectorize.client.mutations.receipts import MAX_WITNESSES, Receipt
from airflow_provider_cfvectorize.client.mutations.witnesses import WitnessVector, found_among
from airflow_provider_cfvectorize.client.types import Mutation
from airflow_provider_cfvectorize.client.workers import Dispatcher, Stopped, batch_error, stoppable_call
from airflow_provider_cfvectorize.exceptions import VectorizeError, VectorizeInputError, VectorizeInterrupted

if TYPE_CHECKING:
    from airflow_provider_cfvectorize.client.client import VectorizeClient

_log = logging.getLogger(__name__)

#: The most reads to find witnesses, each of up to 20 vectors of the last request.
WITNESS_READS: Final = 3


@dataclass(slots=True)
class Written:
    """
    The progress of a write.

    :param mutation: the last mutation, which comes after all others; None if nothing was sent.
    :param vectors: number of acknowledged vectors.
    :param requests: number of acknowledged requests.
    :param discarded: number of skipped items that are not vectors.
    """

    mutation: Mutation | None = None
    vectors: int = 0
    requests: int = 0
    discarded: int = 0


class InputChanged(Exception):  # noqa: N818 - a signal to start over
    """The input differs from the vectors that an earlier attempt had acknowledged."""


class FillProgress:
    """
    The acknowledged part of a fill, saved for a retry; a digest identifies its vectors.

    :param checkpoint: saves the progress; None to save nothing.
    """

    def __init__(self, checkpoint: Checkpoint | None, log: Any = _log) -> None:
        self._checkpoint = checkpoint
        self._digest = hashlib.sha256()
        self._saved_digest = ""
        self._to_skip = 0
        self._receipt: Receipt | None = None
        self.written = Written()
        if checkpoint is None:
            return
        saved = checkpoint.load()
        if saved.details is not None and isinstance(saved.details.get("digest"), str):
            self._to_skip = saved.done
            self._saved_digest = saved.details["digest"]
            self._receipt = saved.receipt
            log.info(
                "Continuing from saved progress: an earlier attempt sent %s.", counted(saved.done, "request")
            )

    def was_sent(self, batch: VectorBatch) -> bool:
        """
        Return whether an earlier attempt had this request acknowledged.

        :raises InputChanged: it had different requests acknowledged.
        """
        if self.written.requests >= self._to_skip:
            return False
        self._count(batch)
        if self.written.requests == self._to_skip and self._digest.hexdigest() != self._saved_digest:
            raise InputChanged
        return True

    def check_end(self) -> None:
        """
        Check, after the last vector, that the input has all requests acknowledged in an earlier attempt.

        :raises InputChanged: it has fewer.
        """
        if self.written.requests < self._to_skip:
            raise InputChanged

    def add(self, batch: VectorBatch) -> None:
        """Record a request as acknowledged."""
        self._count(batch)
        # The last request is saved with the receipt. Until then, a retry sends it again, for its mutation.
        if self._checkpoint is not None and not batch.is_last:
            self._checkpoint.note(self.written.requests, {"digest": self._digest.hexdigest()})
            # Saving each at once costs little compared with a request of thousands of vectors.
            self._checkpoint.flush()

    def end(self, receipt: Receipt) -> Receipt:
        """Save and return the receipt, or return the saved one if nothing was left to send."""
        if receipt.mutation_id is None and self._receipt is not None:
            return self._receipt
        if self._checkpoint is not None and receipt.mutation_id is not None:
            self._checkpoint.save_receipt(receipt, {"digest": self._digest.hexdigest()})
        return receipt

    def _count(self, batch: VectorBatch) -> None:
        self.written.vectors += batch.count
        self.written.requests += 1
        if self._checkpoint is not None:
            self._digest.update(batch.body)


_HARMLESS: Final = "Writing all vectors again is harmless"


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
    progress: FillProgress | None = None,
    stopped: Callable[[], bool] = lambda: False,
    log: Any = _log,
) -> Written:
    """
    Write vectors and return the progress, with the last mutation, which comes after all others.

    One request is in flight at a time, so vectors take effect in their order: of two vectors with one id, the
    later one counts (in an insert, the earlier one). Memory holds one request.

    :param route: ``insert`` leaves existing vectors unchanged, ``upsert`` replaces them completely.
    :param vectors: see :class:`~airflow_provider_cfvectorize.client.bulk.vector_batches.VectorBatches`.
    :param unparsable_behavior: ``discard`` skips and counts items that are not vectors; with ``error``, the
        default, they are an error.
    :param before_last: called on this thread before the last request is sent, with the request and a function
        that returns whether an id is in the input only once.
    :param progress: saves the progress. Acknowledged requests of an earlier attempt are not sent again.
    :raises VectorizeInputError: a vector is invalid; says where it is and how many vectors are acknowledged.
    :raises VectorizeBatchError: a request failed for good; says which vectors it had and how many are
        acknowledged.
    :raises VectorizeInterrupted: the task must stop; says how many vectors are acknowledged.
    :raises InputChanged: the input differs from what an earlier attempt had acknowledged; nothing was sent.
    """
    check_path_name(index_name)
    check_unparsable_behavior(unparsable_behavior)
    discard = unparsable_behavior == "discard"
    batches = VectorBatches(vectors, dimensions=dimensions, discard=discard, name=name, stopped=stopped)
    progress = progress or FillProgress(None)
    written = progress.written

    def send(batch: VectorBatch) -> Mutation:
        # Unparsable items are skipped already. The service must not discard others silently.
        return getattr(client, route)(  # type: ignore[no-any-return]
            index_name, batch.body, unparsable_behavior=None if unparsable_behavior is None else "error"
        )

    def done(batch: VectorBatch, mutation: Mutation) -> None:
        written.mutation = mutation
        progress.add(batch)

    def amount() -> str:
        return f"{counted(written.vectors, 'vector')} in {counted(written.requests, 'request')}"

    def acknowledged() -> str:
        last = f" (the last mutation is {written.mutation['mutationId']})" if written.mutation else ""
        verb = "is" if written.vectors == 1 else "are"
        return f"{amount()} {verb} acknowledged{last}"

    def interrupted(in_doubt: str = "") -> VectorizeInterrupted:
        client.session.stop()
        return VectorizeInterrupted(f"interrupted: {acknowledged()}{in_doubt}. {_HARMLESS}")

    source = iter(batches)
    while True:
        # No variable holds a batch when the next one is made.
        try:
            batch = next(source, None)
        except VectorizeInputError as e:
            # Keep the class of the error, because a retry may help after a file has changed; and its cause,
            # which may be a function of the caller.
            raise type(e)(f"{e}. {acknowledged()}. {_HARMLESS}") from e
        except Stopped:
            raise interrupted() from None
        except Exception as e:
            e.add_note(f"This ended the {route}: {acknowledged()}. {_HARMLESS}")
            raise
        if batch is None:
            break
        if progress.was_sent(batch):
            continue
        requests = written.requests
        sent = False
        try:
            if batch.is_last:
                before_last(batch, batches.is_single)
            sent = True
            # A throttle may delay even a single request for minutes. In a thread, a stop can interrupt it.
            request: Dispatcher[VectorBatch, Mutation] = Dispatcher(
                send, done, concurrency=1, stopped=stopped
            )
            request.run([batch])
        except Stopped:
            in_doubt = sent and requests == written.requests
            raise interrupted(", and one more request may take effect" if in_doubt else "") from None
        if request.failed:
            cause = request.failed[0][1]
            raise batch_error(
                cause,
                f"{acknowledged()}, {counted(batch.count, 'vector')} ({batch.where}) failed, the rest was "
                f"not sent. {_HARMLESS}. The failure: {cause}",
                acknowledged=written.vectors,
                failed=batch.count,
                not_sent=0 if batch.is_last else None,
            )
        if not batch.is_last:
            log.info("%sing into %s: %s acknowledged.", route.capitalize(), index_name, amount())
        del request, batch
    progress.check_end()
    written.discarded = batches.discarded
    if batches.discarded:
        items = counted(batches.discarded, "unparsable item")
        log.warning("Skipped %s: %s into %s.", items, route, index_name)
    for key, where in batches.unknown_keys.items():
        log.warning(
            "%s: %s has the unknown key %s, expected id, values, namespace or metadata. It was sent, and its "
            "effect is unknown: put values of your own into metadata.",
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
    checkpoint: Checkpoint | None = None,
    stopped: Callable[[], bool] = lambda: False,
    log: Any = _log,
) -> tuple[Receipt, Written]:
    """
    Write vectors, checked against the index's dimensions, and return the receipt of the last mutation.

    The other parameters and the errors are those of :func:`write_vectors`.

    :param witnesses: read some vectors of the last request before it is sent. Those that are absent or
        different become the receipt's witnesses.
    :param checkpoint: saves the progress. Acknowledged requests of an earlier attempt are not sent again.
    """
    chosen: tuple[WitnessVector, ...] = ()

    def dimensions() -> int | None:
        found = stoppable_call(lambda: client.info(index_name), stopped).get("dimensions")
        return found if isinstance(found, int) else None

    def choose(batch: VectorBatch, is_single: Callable[[str], bool]) -> None:
        nonlocal chosen
        if witnesses:
            chosen = choose_witnesses(client, route, index_name, batch, is_single, stopped=stopped, log=log)

    progress = FillProgress(checkpoint, log)
    written = write_vectors(
        client,
        route,
        index_name,
        vectors,
        unparsable_behavior=unparsable_behavior,
        dimensions=dimensions,
        name=name,
        before_last=choose,
        progress=progress,
        stopped=stopped,
        log=log,
    )
    receipt = Receipt.of(
        written.mutation,
        index_name,
        client.account_id,
        count=written.vectors,
        batches=written.requests,
        witness_vectors=chosen,
    )
    return progress.end(receipt), written


def choose_witnesses(
    client: VectorizeClient,
    route: Literal["insert", "upsert"],
    index_name: str,
    batch: VectorBatch,
    is_single: Callable[[str], bool],
    *,
    stopped: Callable[[], bool],
    log: Any = _log,
) -> tuple[WitnessVector, ...]:
    """
    Return up to 5 vectors of the last request that are absent or different in the index.

    Reading back a vector that already is in the index as written proves nothing. Neither does a vector whose
    id is in the input twice, because the read may return the other one.

    :param client: sends up to three reads.
    :param route: an insert changes only absent vectors.
    :param is_single: returns whether an id is in the input only once.
    :param log: logs a failed read; the write then continues without witnesses.
    :raises Stopped: the task must stop.
    """
    positions = spread(batch.count, WITNESS_READS * limits.MAX_GET_IDS)
    vectors = [WitnessVector.of(json.loads(line)) for line in _lines_at(batch.body, positions)]
    candidates = [vector for vector in vectors if is_single(vector.id)]
    # Each read has vectors from all over the request.
    reads = -(-len(candidates) // limits.MAX_GET_IDS)
    for number in range(reads):
        some = candidates[number::reads]
        try:
            read = stoppable_call(
                lambda some=some: client.get_by_ids(index_name, [vector.id for vector in some]),  # type: ignore[misc]
                stopped,
            )
        except VectorizeError as e:
            log.info(
                "No witnesses, so the evidence will be weaker: reading some of the vectors failed: %s.", e
            )
            return ()
        before = found_among(read)
        chosen = [
            vector.known_before(before.get(vector.id))
            for vector in some
            if not (vector.id in before if route == "insert" else vector.is_as_written(before.get(vector.id)))
        ]
        if chosen:
            return tuple(chosen[:MAX_WITNESSES])
    return ()


def _lines_at(body: bytes, positions: Iterable[int]) -> Iterator[bytes]:
    """Iterate over some lines of a request without splitting all of it. Every line ends in LF."""
    at = start = 0
    for position in positions:
        while at < position:
            start = body.find(b"\n", start) + 1
            at += 1
        yield body[start : body.find(b"\n", start)]
