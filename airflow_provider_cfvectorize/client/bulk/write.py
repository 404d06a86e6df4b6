# SPDX-License-Identifier: Apache-2.0
"""Writing any number of vectors, in as many requests as the service's caps make of them."""

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
from airflow_provider_cfvectorize.client.http.urls import check_path_name
from airflow_provider_cfvectorize.client.inputs.ids import spread
from airflow_provider_cfvectorize.client.inputs.text import counted, show
from airflow_provider_cfvectorize.client.inputs.vectors import Vectors, check_unparsable_behavior
from airflow_provider_cfvectorize.client.mutations.receipts import MAX_WITNESSES, Receipt
from airflow_provider_cfvectorize.client.mutations.witnesses import WitnessVector, found_among
from airflow_provider_cfvectorize.client.types import Mutation
from airflow_provider_cfvectorize.client.workers import Dispatcher, Stopped, attend, batch_error
from airflow_provider_cfvectorize.exceptions import VectorizeError, VectorizeInputError, VectorizeInterrupted

if TYPE_CHECKING:
    from airflow_provider_cfvectorize.client.client import VectorizeClient

_log = logging.getLogger(__name__)

#: Questions about vectors of the last request, of up to 20 each, until one shows a witness.
QUESTIONS: Final = 3


@dataclass(slots=True)
class Written:
    """
    How far a write came.

    :param mutation: the last one, which comes after all the others; None if nothing was sent.
    :param vectors: number of vectors that are acknowledged.
    :param requests: number of requests that they were sent in.
    :param discarded: number of lines left out because they are no vectors.
    """

    mutation: Mutation | None = None
    vectors: int = 0
    requests: int = 0
    discarded: int = 0


class InputChanged(Exception):  # noqa: N818 - a signal to begin anew
    """The vectors that an earlier try had acknowledged are not those that come now."""


class FillProgress:
    """
    What is acknowledged of a fill, kept for a later try; the vectors are told from others by a digest.

    :param checkpoint: keeps it; None for not at all.
    """

    def __init__(self, checkpoint: Checkpoint | None, log: Any = _log) -> None:
        self._checkpoint = checkpoint
        self._digest = hashlib.sha256()
        self._digest_of_kept = ""
        self._to_skip = 0
        self._receipt: Receipt | None = None
        self.written = Written()
        if checkpoint is None:
            return
        kept = checkpoint.load()
        if kept.details is not None and isinstance(kept.details.get("digest"), str):
            self._to_skip = kept.done
            self._digest_of_kept = kept.details["digest"]
            self._receipt = kept.receipt
            log.info(
                "Continuing from saved progress: an earlier attempt sent %s.", counted(kept.done, "request")
            )

    def was_sent(self, batch: VectorBatch) -> bool:
        """
        Say whether an earlier try had this request acknowledged.

        :raises InputChanged: it had others acknowledged.
        """
        if self.written.requests >= self._to_skip:
            return False
        self._count(batch)
        if self.written.requests == self._to_skip and self._digest.hexdigest() != self._digest_of_kept:
            raise InputChanged
        return True

    def check_end(self) -> None:
        """
        Check at the end of the vectors that there were as many as an earlier try had acknowledged.

        :raises InputChanged: there were fewer.
        """
        if self.written.requests < self._to_skip:
            raise InputChanged

    def add(self, batch: VectorBatch) -> None:
        """Note that a request is acknowledged."""
        self._count(batch)
        # The last one's mutation is the one to wait for: it is kept with the receipt, or sent again.
        if self._checkpoint is not None and not batch.is_last:
            self._checkpoint.note(self.written.requests, {"digest": self._digest.hexdigest()})
            # Each at once: next to a request of thousands of vectors it costs nothing.
            self._checkpoint.flush()

    def end(self, receipt: Receipt) -> Receipt:
        """Keep the receipt and return it; or the one of an earlier try, if nothing was left to send."""
        if receipt.mutation_id is None and self._receipt is not None:
            return self._receipt
        if self._checkpoint is not None and receipt.mutation_id is not None:
            self._checkpoint.keep_receipt(receipt, {"digest": self._digest.hexdigest()})
        return receipt

    def _count(self, batch: VectorBatch) -> None:
        self.written.vectors += batch.count
        self.written.requests += 1
        if self._checkpoint is not None:
            self._digest.update(batch.body)


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
    progress: FillProgress | None = None,
    stopped: Callable[[], bool] = lambda: False,
    log: Any = _log,
) -> Written:
    """
    Write vectors and return how many, with the last mutation, which comes after all the others.

    One request is in flight at a time: the order of the vectors is the order of their effects, so that of two
    with the same id the later one counts (of an insert: the earlier one). A request is made when it is its
    turn, and its bytes are forgotten when it is acknowledged.

    :param route: ``insert`` leaves a vector whose id exists already as it is, ``upsert`` replaces it whole.
    :param vectors: see :class:`~airflow_provider_cfvectorize.client.inputs.vectors.VectorBatches`.
    :param unparsable_behavior: ``discard`` leaves out what is no vector and counts it; for ``error``, the
        default, that is an error.
    :param before_last: told of the last request before it is sent, on this thread, with what says of an id
        whether it stands in the input only once.
    :param progress: keeps what is acknowledged; what an earlier try had acknowledged is not sent again.
    :raises VectorizeInputError: a vector is invalid; says where it stands and how many before it were
        acknowledged.
    :raises VectorizeBatchError: a request failed for good; says which vectors were in it and how many before
        it were acknowledged.
    :raises VectorizeInterrupted: it was told to stop; likewise.
    :raises InputChanged: an earlier try had other vectors acknowledged than those that come now; nothing was
        sent.
    """
    check_path_name(index_name)
    check_unparsable_behavior(unparsable_behavior)
    discard = unparsable_behavior == "discard"
    batches = VectorBatches(vectors, dimensions=dimensions, discard=discard, name=name, stopped=stopped)
    progress = progress or FillProgress(None)
    written = progress.written

    def send(batch: VectorBatch) -> Mutation:
        # What is to be discarded has been; what the service discarded beyond that, nobody would hear of.
        return getattr(client, route)(  # type: ignore[no-any-return]
            index_name, batch.body, unparsable_behavior=None if unparsable_behavior is None else "error"
        )

    def done(batch: VectorBatch, mutation: Mutation) -> None:
        written.mutation = mutation
        progress.add(batch)

    def acknowledged() -> str:
        last = f" (the last mutation is {written.mutation['mutationId']})" if written.mutation else ""
        verb = "is" if written.vectors == 1 else "are"
        requests = counted(written.requests, "request")
        return f"{counted(written.vectors, 'vector')} in {requests} {verb} acknowledged{last}"

    def interrupted(under_way: str = "") -> VectorizeInterrupted:
        client.session.stop()
        return VectorizeInterrupted(f"interrupted: {acknowledged()}{under_way}. {_HARMLESS}")

    source = iter(batches)
    while True:
        # No name holds a batch when the next one is made.
        try:
            batch = next(source, None)
        except VectorizeInputError as e:
            # Of its own kind: a file may be whole at the next try. With its cause, which may be a function of
            # the caller's.
            raise type(e)(f"{e}. {acknowledged()}. {_HARMLESS}") from e
        except Stopped:
            raise interrupted() from None
        except Exception as e:
            e.add_note(f"This ended an {route} of vectors: {acknowledged()}. {_HARMLESS}")
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
            # From a thread, though it is only one request: it may be throttled for minutes, and this thread
            # must see meanwhile that it is told to stop.
            request: Dispatcher[VectorBatch, Mutation] = Dispatcher(
                send, done, concurrency=1, stopped=stopped
            )
            request.run([batch])
        except Stopped:
            in_doubt = sent and requests == written.requests
            raise interrupted(", and one more request may be carried out" if in_doubt else "") from None
        if request.failed:
            cause = request.failed[0][1]
            raise batch_error(
                cause,
                f"{acknowledged()}, the {batch.count} of {batch.where} failed, and what follows was not "
                f"sent. {_HARMLESS}. The failure: {cause}",
                acknowledged=written.vectors,
                failed=batch.count,
                not_sent=0 if batch.is_last else None,
            )
        del request, batch
        log.info("%s into %s: %s", route, index_name, acknowledged())
    progress.check_end()
    written.discarded = batches.discarded
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
    checkpoint: Checkpoint | None = None,
    stopped: Callable[[], bool] = lambda: False,
    log: Any = _log,
) -> tuple[Receipt, Written]:
    """
    Write vectors, checked against the index's dimensions, and return the receipt of the last mutation.

    The parameters are those of :func:`write_vectors`, which also says what is raised.

    :param witnesses: ask, before the last request is sent, about some of its vectors: those that are not so
        yet are the receipt's witnesses.
    :param checkpoint: keeps how far it came; the requests that an earlier try had acknowledged are not sent
        again.
    """
    chosen: tuple[WitnessVector, ...] = ()

    def dimensions() -> int | None:
        asked = attend(lambda: client.info(index_name), stopped).get("dimensions")
        return asked if isinstance(asked, int) else None

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
    Return up to 5 vectors of the last request that will be seen to be written, because they are not so yet.

    Of a vector that is in the index just as it is going to be written, reading it back would prove nothing;
    nor of one that stands in the input twice, since the other might be what is read.

    :param client: asks, up to three requests.
    :param route: an insert changes only what is absent.
    :param is_single: says whether an id stands in the input only once.
    :param log: where to say that asking failed: it costs the witnesses, never the write.
    :raises Stopped: it was told to stop.
    """
    positions = spread(batch.count, QUESTIONS * limits.MAX_GET_IDS)
    vectors = [WitnessVector.of(json.loads(line)) for line in _lines_at(batch.body, positions)]
    candidates = [vector for vector in vectors if is_single(vector.id)]
    # Each question is about vectors from all over the request.
    questions = -(-len(candidates) // limits.MAX_GET_IDS)
    for question in range(questions):
        some = candidates[question::questions]
        try:
            read = attend(
                lambda some=some: client.get_by_ids(index_name, [vector.id for vector in some]),  # type: ignore[misc]
                stopped,
            )
        except VectorizeError as e:
            log.warning(
                "No witnesses, and so a weaker proof later: asking for some of the vectors failed: %s", e
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
    """Iterate over some lines of a request, all of which end in LF, without splitting it whole."""
    at = start = 0
    for position in positions:
        while at < position:
            start = body.find(b"\n", start) + 1
            at += 1
        yield body[start : body.find(b"\n", start)]
