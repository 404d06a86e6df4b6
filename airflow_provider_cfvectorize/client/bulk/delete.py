# SPDX-License-Identifier: Apache-2.0
"""Deleting any number of ids: batches, the one that is held back, witnesses, and reading everything back."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.bulk.checkpoint import Acknowledged, Checkpoint, Kept
from airflow_provider_cfvectorize.client.http.urls import check_path_name
from airflow_provider_cfvectorize.client.inputs.ids import (
    IdList,
    IdSource,
    in_reads,
    sha256_of_sorted,
    spread,
)
from airflow_provider_cfvectorize.client.inputs.text import counted, show
from airflow_provider_cfvectorize.client.mutations.receipts import MAX_WITNESSES, Receipt
from airflow_provider_cfvectorize.client.types import Mutation
from airflow_provider_cfvectorize.client.workers import (
    Dispatcher,
    Progress,
    Stopped,
    attend,
    batch_error,
    check_concurrency,
    rest,
)
from airflow_provider_cfvectorize.exceptions import (
    VectorizeBatchError,
    VectorizeError,
    VectorizeInputError,
    VectorizeInterrupted,
    is_permanent,
)

if TYPE_CHECKING:
    from airflow_provider_cfvectorize.client.client import VectorizeClient

_log = logging.getLogger(__name__)

DEFAULT_CONCURRENCY: Final = 4
#: Ids still visible that an evidence lists after everything was read back.
SHOWN_VISIBLE: Final = 20
#: Ids of a sample that do not exist, as the log shows them.
SHOWN_MISSING: Final = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """
    What is known of a few of the ids before anything is sent.

    :param held_back: position of the batch to send last.
    :param witnesses: ids that exist, each with the position of its batch, the batch to send last first.
    :param asked: number of ids asked about.
    :param exist: number of those that exist.
    """

    held_back: int
    witnesses: tuple[tuple[int, str], ...] = ()
    asked: int = 0
    exist: int = 0


def take_sample(
    client: VectorizeClient,
    index_name: str,
    ids: IdSource,
    log: Any = _log,
    *,
    fail_if_none_exist: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Sample:
    """
    Find ids that exist, since the absence of one that never existed proves nothing.

    This asks about 20 ids of each of up to three batches spread over the input. The last one that has an id
    that exists is sent last, since it is the least likely to have been sent by an earlier try or run whose
    deletes are still to be applied. Every try asks the same, and so holds the same batch back. The witnesses
    come from each of the batches, since somebody else may delete the ids of one.

    :param log: where to say that asking failed (it costs the witnesses, never the delete), and which ids do
        not exist.
    :param fail_if_none_exist: it is an error if none of the ids asked about exists.
    """
    asked: list[str] = []
    missing: list[str] = []
    seen: list[list[tuple[int, str]]] = []
    # A batch of an id or two has few witnesses to give, and one that is written again leaves none.
    for position, batch in sorted(ids.samples(), key=lambda sample: len(sample[1]) < MAX_WITNESSES):
        some = [batch[i] for i in spread(len(batch), limits.MAX_GET_IDS)]
        try:
            vectors = attend(partial(client.get_by_ids, index_name, some), stopped)
        except Stopped:
            client.session.stop()
            raise VectorizeInterrupted("interrupted: nothing was deleted") from None
        except VectorizeError as e:
            if is_permanent(e, "write"):
                raise
            log.warning("No witnesses, and so a weaker proof later: asking for some of the ids failed: %s", e)
            break
        found = {vector["id"] for vector in vectors}
        asked += some
        missing += [id_ for id_ in some if id_ not in found]
        if exist := [(position, id_) for id_ in some if id_ in found]:
            # More than are needed of the first, since those that stand in another batch as well drop out.
            seen.append(exist[:MAX_WITNESSES] if seen else exist)
    if missing:
        _tell_missing(index_name, missing, len(asked), log, fail=fail_if_none_exist)
    return Sample(
        held_back=seen[0][0][0] if seen else ids.batches - 1,
        witnesses=tuple(itertools.chain(*seen)),
        asked=len(asked),
        exist=len(asked) - len(missing),
    )


def _tell_missing(index_name: str, missing: list[str], asked: int, log: Any, *, fail: bool) -> None:
    exist = asked - len(missing)
    examples = ", ".join(show(id_) for id_ in missing[:SHOWN_MISSING])
    text = f"{exist or 'None'} of {asked} sampled ids exist{'' if exist > 1 else 's'} in index {index_name}"
    if fail and not exist:
        raise VectorizeInputError(
            f"fail_if_none_exist: {text}, so nothing was sent. Missing are, for example, {examples}. Check "
            "the ids (typing errors, white space, another index), or whether they are deleted already"
        )
    log.warning("%s; missing are, for example, %s", text, examples)


def _choose(positions: Mapping[str, int]) -> tuple[str, ...]:
    """
    Return the witnesses for a receipt: of each batch one, then of each another, and so on.

    :param positions: the batch of each id that may be one; the batch to send last comes first.
    """
    groups: dict[int, list[str]] = {}
    for id_, position in positions.items():
        groups.setdefault(position, []).append(id_)
    in_turn = (id_ for ids in itertools.zip_longest(*groups.values()) for id_ in ids if id_ is not None)
    return tuple(itertools.islice(in_turn, MAX_WITNESSES))


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
    fail_if_none_exist: bool = False,
    checkpoint: Checkpoint | None = None,
    stopped: Callable[[], bool] = lambda: False,
    log: Any = _log,
) -> Receipt:
    """
    Delete ids and return the receipt of the last mutation, which comes after all the others.

    One batch is held back until all the others are acknowledged, so that waiting for it is waiting for all.

    :param witnesses: ask for witnesses before.
    :param fail_if_none_exist: with witnesses, send nothing if none of the ids asked about exists.
    :param checkpoint: keeps how far it came; what an earlier try had acknowledged of the same ids is not sent
        again.
    :raises VectorizeBatchError: a batch failed for good; says how many ids are acknowledged and how many not
        sent.
    :raises VectorizeInterrupted: it was told to stop; likewise.
    :raises VectorizeInputError: the index name is invalid, a file changed while it was read, or none of
        the ids asked about exists, with ``fail_if_none_exist``.
    """
    check_path_name(index_name)
    check_concurrency(concurrency)
    if not ids.count:
        return Receipt(None, index_name, client.account_id, sampled=0, existing=0)
    kept = _load(checkpoint, ids, log)
    if kept.receipt is not None:
        return kept.receipt
    if kept.details is not None:
        sample = _read_sample(kept.details)
    elif witnesses:
        sample = take_sample(
            client, index_name, ids, log, fail_if_none_exist=fail_if_none_exist, stopped=stopped
        )
    else:
        sample = Sample(ids.batches - 1)
    details = {
        "ids": ids.fingerprint if checkpoint is not None else "",
        "sample": _as_json(sample),
    }
    progress = Progress(
        log,
        f"deleting from {index_name}",
        count=ids.count,
        batches=ids.batches,
        time_for=partial(client.session.time_for, concurrency=concurrency),
    )
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
    witness_ids = {id_: position for position, id_ in sample.witnesses}

    def all_but_one() -> Iterator[_Batch]:
        numbers = itertools.count()
        for position, batch in enumerate(ids):
            # Of a file, an id may stand in several batches; it proves none of them.
            for id_ in witness_ids.keys() & batch:
                if witness_ids[id_] != position:
                    del witness_ids[id_]
            if position == sample.held_back:
                held_back.append(_Batch(ids.batches - 1, batch))
                continue
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
            f"interrupted: {progress.done} of {counted(ids.count, 'id', 'are')} acknowledged, "
            f"{not_sent()} were not sent. Deleting them again is harmless"
        ) from None
    except VectorizeInputError as e:
        # Of its own kind: a file that changed meanwhile may be whole at the next try.
        raise type(e)(
            f"{e}. {progress.done} of {counted(ids.count, 'id', 'were')} acknowledged by then"
        ) from None
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
        witness_ids=_choose(witness_ids),
        sampled=sample.asked,
        existing=sample.exist,
    )
    if checkpoint is not None:
        # The receipt has the witnesses now, and what is kept stays long after the task.
        checkpoint.keep_receipt(
            receipt, {**details, "sample": _as_json(Sample(sample.held_back)), "missing": []}
        )
    return receipt


def _as_json(sample: Sample) -> dict[str, Any]:
    return {**asdict(sample), "witnesses": [list(witness) for witness in sample.witnesses]}


def _read_sample(details: Mapping[str, Any]) -> Sample:
    sample = details["sample"]
    witnesses = tuple((position, id_) for position, id_ in sample["witnesses"])
    return Sample(**{**sample, "witnesses": witnesses})


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
            "sample": {"held_back": int() as held_back, "witnesses": list(), "asked": int(), "exist": int()},
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
            log.info("Saved progress belongs to different ids; starting over.")
            return checkpoint.start_afresh()
    if kept.receipt is not None:
        log.info("Nothing left to send: an earlier attempt sent everything (%s).", counted(ids.count, "id"))
    else:
        log.info(
            "%d of %s acknowledged in an earlier attempt; sending the rest.",
            kept.done - len(_missing(kept)),
            counted(ids.batches, "batch", "were"),
        )
    return kept


def _batch_error(
    failures: Sequence[tuple[_Batch, VectorizeError]], acknowledged: int, count: int, not_sent: int
) -> VectorizeBatchError:
    failed = sum(len(batch) for batch, _ in failures)
    cause = failures[0][1]
    code = getattr(cause, "code", None)
    message = (
        f"{acknowledged} of {counted(count, 'id', 'are')} acknowledged, {failed} failed"
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

    :param patience: seconds for which those that can still be read are asked for again, since views lag.
    :param interval: seconds between two times of asking again.
    :return: ``ids_verified`` (number of distinct ids asked for), ``ids_sha256`` (see
        :func:`~airflow_provider_cfvectorize.client.inputs.ids.sha256_of_sorted`), ``ids_visible`` (number
        that could be read) and ``still_visible`` (the first 20 of those).
    :raises VectorizeBatchError: not all could be asked for.
    """
    requests = -(-ids.count // limits.MAX_GET_IDS)
    log.info(
        "verify='all': reading back %s in at least %s, five times those of the delete",
        counted(ids.count, "id"),
        counted(requests, "request"),
    )
    time_for = partial(client.session.time_for, concurrency=concurrency)
    measure = partial(Progress, log, time_for=time_for)
    progress = measure(f"reading back from {index_name}", count=ids.count, batches=requests)
    visible = _read_back(client, index_name, ids, concurrency=concurrency, stopped=stopped, progress=progress)
    deadline = time.monotonic() + patience
    while visible and (left := deadline - time.monotonic()) > 0:
        log.info("verify='all': %s can still be read; asking for them again.", counted(len(visible), "id"))
        # The reading sees that it is told to stop as well, and says how far it came.
        with suppress(Stopped):
            rest(min(left, interval), stopped)
        again = IdList(visible)
        requests = -(-again.count // limits.MAX_GET_IDS)
        progress = measure("reading back again", count=again.count, batches=requests)
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
            f"interrupted: {progress.done} of {counted(ids.count, 'id', 'were')} read back. The delete "
            "itself is complete"
        ) from None
    if dispatcher.failed:
        cause = dispatcher.failed[0][1]
        raise VectorizeBatchError(
            f"verify='all': {progress.done} of {counted(ids.count, 'id', 'were')} read back, then: {cause}",
            acknowledged=progress.done,
            failed=sum(len(batch) for batch, _ in dispatcher.failed),
            not_sent=ids.count - dispatcher.sent,
        ) from cause
    return sorted(visible)
