# SPDX-License-Identifier: Apache-2.0
"""Deleting any number of ids: batches, the one that is held back, witnesses, and reading everything back."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.addresses import check_path_name
from airflow_provider_cfvectorize.client.checkpoint import Acknowledged, Checkpoint, Kept
from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.dispatch import (
    Dispatcher,
    Progress,
    Stopped,
    attend,
    batch_error,
    check_concurrency,
    rest,
)
from airflow_provider_cfvectorize.client.ids import IdList, IdSource, in_reads, sha256_of_sorted, spread
from airflow_provider_cfvectorize.client.mutations import MAX_WITNESSES, Receipt
from airflow_provider_cfvectorize.client.types import Mutation
from airflow_provider_cfvectorize.client.waiting import ends_a_wait
from airflow_provider_cfvectorize.exceptions import (
    VectorizeBatchError,
    VectorizeError,
    VectorizeInputError,
    VectorizeInterrupted,
)

_log = logging.getLogger(__name__)

DEFAULT_CONCURRENCY: Final = 4
#: Ids still visible that an evidence lists after everything was read back.
SHOWN_VISIBLE: Final = 20


@dataclass(frozen=True, slots=True)
class Sample:
    """
    What asking about a few ids, before anything is sent, has shown.

    :param held_back: position of the batch to send last.
    :param witness_ids: those ids of that batch that were asked for and exist.
    :param asked: number of ids asked about.
    :param exist: number of those that exist.
    """

    held_back: int
    witness_ids: tuple[str, ...] = ()
    asked: int = 0
    exist: int = 0


def take_sample(
    client: VectorizeClient,
    index_name: str,
    ids: IdSource,
    log: Any = _log,
    *,
    strict: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Sample:
    """
    Find a batch with ids that exist, since the absence of one that never existed proves nothing.

    About 20 ids of a batch are asked for, of up to three batches spread over the input, until one shows one:
    the last batch first, since that is the least likely to have been sent by an earlier try or run whose
    deletes are still to be applied. Every try asks the same, and so holds the same batch back.

    :param client: asks.
    :param index_name: the index.
    :param ids: what is going to be deleted.
    :param log: where to say that asking failed: it costs the witnesses, never the delete.
    :param strict: a refusal is an error all the same; for a rehearsal, which has nothing else to tell.
    :param stopped: says whether to stop; asked on this thread.
    :raises VectorizeInterrupted: it was told to stop.
    """
    asked = 0
    # A batch of an id or two has few witnesses to give, and one that is written again leaves none.
    for position, batch in sorted(ids.samples(), key=lambda sample: len(sample[1]) < MAX_WITNESSES):
        some = [batch[i] for i in spread(len(batch), limits.MAX_GET_IDS)]
        try:
            vectors = attend(partial(client.get_by_ids, index_name, some), stopped)
        except Stopped:
            client.session.stop()
            raise VectorizeInterrupted("told to stop before anything was deleted") from None
        except VectorizeError as e:
            if ends_a_wait(e):
                raise
            log.warning("No witnesses, and so a weaker proof later: asking for some of the ids failed: %s", e)
            break
        asked += len(some)
        found = {vector["id"] for vector in vectors}
        exist = [id_ for id_ in some if id_ in found]
        if exist:
            return Sample(position, tuple(exist), asked, len(exist))
    return Sample(ids.batches - 1, asked=asked)


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch with its number in the order of sending, the one held back being the last."""

    number: int
    ids: list[str]

    def __len__(self) -> int:
        return len(self.ids)


def delete_ids(
    client: VectorizeClient,
    index_name: str,
    ids: IdSource,
    *,
    concurrency: int = DEFAULT_CONCURRENCY,
    witnesses: bool = True,
    checkpoint: Checkpoint | None = None,
    stopped: Callable[[], bool] = lambda: False,
    log: Any = _log,
) -> Receipt:
    """
    Delete ids and return the receipt of the last mutation, which comes after all the others.

    One batch is held back until all the others are acknowledged, so that waiting for it is waiting for all.

    :param client: sends.
    :param index_name: the index.
    :param ids: what to delete.
    :param concurrency: batches in flight at once.
    :param witnesses: ask for witnesses before.
    :param checkpoint: keeps how far it came; what an earlier try had acknowledged of the same ids is not sent
        again.
    :param stopped: says whether to stop; asked on this thread, between batches.
    :param log: where to tell of progress.
    :raises VectorizeBatchError: a batch failed for good; says how many ids are acknowledged and how many not
        sent.
    :raises VectorizeInterrupted: it was told to stop; likewise.
    :raises VectorizeInputError: the index name cannot be one, or a file changed while it was read.
    """
    check_path_name(index_name)
    check_concurrency(concurrency)
    if not ids.count:
        return Receipt(None, index_name, client.account_id)
    kept = _load(checkpoint, ids, log)
    if kept.receipt is not None:
        return kept.receipt
    if kept.details is not None:
        sample = Sample(kept.details["held_back"], tuple(kept.details["witness_ids"]))
    elif witnesses:
        sample = take_sample(client, index_name, ids, log, stopped=stopped)
    else:
        sample = Sample(ids.batches - 1)
    details = {
        "ids": ids.fingerprint if checkpoint is not None else "",
        "held_back": sample.held_back,
        "witness_ids": list(sample.witness_ids),
    }
    progress = Progress(log, f"deleting from {index_name}", count=ids.count, batches=ids.batches)
    acknowledged = Acknowledged(kept.done, _missing(kept))
    sent_before = Acknowledged(kept.done, _missing(kept))
    last: list[Mutation] = []

    def done(batch: _Batch, mutation: Mutation) -> None:
        progress.add(len(batch))
        last[:] = [mutation]
        acknowledged.add(batch.number)
        if checkpoint is not None:
            checkpoint.note(acknowledged.done, {**details, "missing": acknowledged.missing})

    dispatcher = Dispatcher(
        lambda batch: client.delete_by_ids(index_name, batch.ids),
        done,
        concurrency=concurrency,
        stopped=stopped,
    )
    held_back: list[_Batch] = []
    witness_ids = sample.witness_ids

    def all_but_one() -> Iterator[_Batch]:
        nonlocal witness_ids
        numbers = itertools.count()
        for position, batch in enumerate(ids):
            if position == sample.held_back:
                held_back.append(_Batch(ids.batches - 1, batch))
                continue
            # Of a file, an id may stand in several batches; an earlier one would remove it.
            witness_ids = tuple(id_ for id_ in witness_ids if id_ not in batch)
            number = next(numbers)
            if number in sent_before:
                progress.skip(len(batch))
            else:
                yield _Batch(number, batch)

    def not_sent() -> int:
        return ids.count - progress.skipped - dispatcher.sent

    try:
        dispatcher.run(all_but_one())
        if not dispatcher.failed:
            dispatcher.run(held_back)
    except Stopped:
        client.session.stop()
        raise VectorizeInterrupted(
            f"told to stop: {progress.done} of {ids.count} ids are acknowledged, {not_sent()} were not sent. "
            "Deleting them again is harmless"
        ) from None
    except VectorizeInputError as e:
        # Of its own kind: a file that changed meanwhile may be whole at the next try.
        raise type(e)(f"{e}. {progress.done} of {ids.count} ids were acknowledged by then") from None
    finally:
        if checkpoint is not None:
            checkpoint.flush()
    if dispatcher.failed:
        raise _batch_error(dispatcher.failed, progress.done, ids.count, not_sent())
    receipt = Receipt.of(
        last[0],
        index_name,
        client.account_id,
        count=ids.count,
        batches=ids.batches,
        witness_ids=witness_ids[:MAX_WITNESSES],
    )
    if checkpoint is not None:
        checkpoint.keep_receipt(receipt, {**details, "missing": []})
    return receipt


def _missing(kept: Kept) -> list[int]:
    missing: list[int] = [] if kept.details is None else kept.details["missing"]
    return missing


def _load(checkpoint: Checkpoint | None, ids: IdSource, log: Any) -> Kept:
    if checkpoint is None:
        return Kept()
    kept = checkpoint.load()
    match kept.details:
        case {
            "ids": str() as of,
            "held_back": int() as held_back,
            "witness_ids": list(),
            "missing": list() as missing,
        } if (
            of == ids.fingerprint
            and 0 <= held_back < ids.batches
            and all(number in range(kept.done) for number in missing)
        ):
            pass
        case None:
            return kept
        case _:
            log.info("What an earlier try kept is of other ids: starting afresh.")
            return checkpoint.start_afresh()
    if kept.receipt is not None:
        log.info("All %d ids were acknowledged in an earlier try: nothing is sent again.", ids.count)
    else:
        log.info(
            "%d of %d batches were acknowledged in an earlier try: going on with the others.",
            kept.done - len(_missing(kept)),
            ids.batches,
        )
    return kept


def _batch_error(
    failures: Sequence[tuple[_Batch, VectorizeError]], acknowledged: int, count: int, not_sent: int
) -> VectorizeBatchError:
    failed = sum(len(batch) for batch, _ in failures)
    cause = failures[0][1]
    code = getattr(cause, "code", None)
    message = (
        f"{acknowledged} of {count} ids are acknowledged, {failed} failed"
        f"{f' with code {code}' if code is not None else ''}, {not_sent} were not sent. Deleting all of them "
        f"again is harmless. The first failure: {cause}"
    )
    return batch_error(cause, message, acknowledged=acknowledged, failed=failed, not_sent=not_sent)


def read_back_all(
    client: VectorizeClient,
    index_name: str,
    ids: IdSource,
    *,
    concurrency: int = DEFAULT_CONCURRENCY,
    patience: float = 0.0,
    interval: float = 10.0,
    stopped: Callable[[], bool] = lambda: False,
    log: Any = _log,
) -> dict[str, Any]:
    """
    Ask for every id and return what an auditor needs.

    :param client: asks.
    :param index_name: the index.
    :param ids: what was deleted.
    :param concurrency: requests in flight at once.
    :param patience: seconds for which those that can still be read are asked for again, since views lag.
    :param interval: seconds between two times of asking again.
    :param stopped: says whether to stop.
    :param log: where to tell of progress.
    :return: ``ids_verified`` (number of distinct ids asked for), ``ids_sha256`` (see
        :func:`~airflow_provider_cfvectorize.client.ids.sha256_of_sorted`), ``ids_visible`` (number that could
        be read) and ``still_visible`` (the first 20 of those).
    :raises VectorizeBatchError: not all could be asked for.
    """
    requests = -(-ids.count // limits.MAX_GET_IDS)
    log.info(
        "verify='all': reading back %d ids in at least %d requests, five times those of the delete",
        ids.count,
        requests,
    )
    progress = Progress(log, f"reading back from {index_name}", count=ids.count, batches=requests)
    visible = _read_back(client, index_name, ids, concurrency=concurrency, stopped=stopped, progress=progress)
    deadline = time.monotonic() + patience
    while visible and (left := deadline - time.monotonic()) > 0:
        log.info("verify='all': %d ids can still be read; asking for them again.", len(visible))
        # The reading sees that it is told to stop as well, and says how far it came.
        with suppress(Stopped):
            rest(min(left, interval), stopped)
        again = IdList(visible)
        progress = Progress(log, "reading back again", count=again.count, batches=again.batches)
        visible = _read_back(
            client, index_name, again, concurrency=concurrency, stopped=stopped, progress=progress
        )
    distinct, digest = sha256_of_sorted(ids)
    return {
        "ids_verified": distinct,
        "ids_sha256": digest,
        "ids_visible": len(visible),
        "still_visible": visible[:SHOWN_VISIBLE],
    }


def _read_back(
    client: VectorizeClient,
    index_name: str,
    ids: IdSource,
    *,
    concurrency: int,
    stopped: Callable[[], bool],
    progress: Progress,
) -> list[str]:
    visible: set[str] = set()

    def done(batch: Sequence[str], found: list[str]) -> None:
        progress.add(len(batch))
        visible.update(found)

    dispatcher = Dispatcher(
        lambda batch: [vector["id"] for vector in client.get_by_ids(index_name, batch)],
        done,
        concurrency=concurrency,
        stopped=stopped,
    )
    try:
        dispatcher.run(in_reads(ids))
    except Stopped:
        client.session.stop()
        raise VectorizeInterrupted(
            f"told to stop: {progress.done} of {ids.count} ids were read back. The delete itself is complete"
        ) from None
    if dispatcher.failed:
        cause = dispatcher.failed[0][1]
        raise VectorizeBatchError(
            f"verify='all': {progress.done} of {ids.count} ids were read back, then: {cause}",
            acknowledged=progress.done,
            failed=sum(len(batch) for batch, _ in dispatcher.failed),
            not_sent=ids.count - dispatcher.sent,
        ) from cause
    return sorted(visible)
