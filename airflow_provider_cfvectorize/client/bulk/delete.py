# SPDX-License-Identifier: Apache-2.0
"""Deletes any number of ids in batches, finds witnesses before, and reads the ids back afterwards."""

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
from airflow_provider_cfvectorize.client.bulk.checkpoint import Acknowledged, Checkpoint, Saved
from airflow_provider_cfvectorize.client.inputs.ids import (
    IdList,
    IdSource,
    in_reads,
    sha256_of_sorted,
    spread,
)
from airflow_provider_cfvectorize.client.inputs.names import check_path_name
from airflow_provider_cfvectorize.client.inputs.text import counted, show
from airflow_provider_cfvectorize.client.mutations.receipts import MAX_WITNESSES, Receipt
from airflow_provider_cfvectorize.client.types import Mutation
from airflow_provider_cfvectorize.client.workers import (
    Dispatcher,
    Progress,
    Stopped,
    batch_error,
    check_concurrency,
    stoppable_call,
    stoppable_sleep,
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
#: The most ids in ``still_visible`` of an evidence.
SHOWN_VISIBLE: Final = 20
#: The most missing ids of a sample in the log.
SHOWN_MISSING: Final = 3


@dataclass(frozen=True, slots=True)
class Sample:
    """
    The result of reading a few of the ids before anything is sent.

    :param held_back: position of the batch to send last.
    :param witnesses: ids that exist, each with the position of its batch; the batch to send last comes first.
    :param asked: number of ids that were read.
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
    Find ids that exist, because the absence of an id that never existed proves nothing.

    The sample has 20 ids of each of up to three batches spread over the input. The last of these batches with
    an existing id is sent last: it is the least likely to belong to pending deletes of an earlier attempt or
    run. Every attempt reads the same sample, and so holds the same batch back. The witnesses come from all
    of these batches, because another client may delete the ids of one.

    :param log: logs missing ids, and a failed read: the delete then continues without witnesses.
    :param fail_if_none_exist: raise an error if none of the sampled ids exists.
    """
    asked: list[str] = []
    missing: list[str] = []
    seen: list[list[tuple[int, str]]] = []
    # Small batches come last: they offer few witnesses, and another client may write those again.
    for position, batch in sorted(ids.samples(), key=lambda sample: len(sample[1]) < MAX_WITNESSES):
        some = [batch[i] for i in spread(len(batch), limits.MAX_GET_IDS)]
        try:
            vectors = stoppable_call(partial(client.get_by_ids, index_name, some), stopped)
        except Stopped:
            client.session.stop()
            raise VectorizeInterrupted("interrupted: nothing was deleted") from None
        except VectorizeError as e:
            if is_permanent(e, "write"):
                raise
            log.info("No witnesses, so the evidence will be weaker: reading some of the ids failed: %s.", e)
            break
        found = {vector["id"] for vector in vectors}
        asked += some
        missing += [id_ for id_ in some if id_ not in found]
        if exist := [(position, id_) for id_ in some if id_ in found]:
            # All of the first batch: an id that is also in another batch drops out later.
            seen.append(exist[:MAX_WITNESSES] if seen else exist)
    if missing:
        _report_missing(index_name, missing, len(asked), log, fail=fail_if_none_exist)
    return Sample(
        held_back=seen[0][0][0] if seen else ids.batches - 1,
        witnesses=tuple(itertools.chain(*seen)),
        asked=len(asked),
        exist=len(asked) - len(missing),
    )


def _report_missing(index_name: str, missing: list[str], asked: int, log: Any, *, fail: bool) -> None:
    exist = asked - len(missing)
    examples = ", ".join(show(id_) for id_ in missing[:SHOWN_MISSING])
    text = f"{exist or 'None'} of {asked} sampled ids exist{'' if exist > 1 else 's'} in index {index_name}"
    if fail and not exist:
        raise VectorizeInputError(
            f"fail_if_none_exist: {text}, so nothing was sent. Examples of missing ids: {examples}. Check "
            "the ids (typing errors, white space, another index), or whether they are deleted already"
        )
    log.warning("%s; examples of missing ids: %s.", text, examples)


def _choose(positions: Mapping[str, int]) -> tuple[str, ...]:
    """
    Return the witnesses for a receipt, taken from the batches in turn.

    :param positions: the batch of each candidate; the batch to send last comes first.
    """
    groups: dict[int, list[str]] = {}
    for id_, position in positions.items():
        groups.setdefault(position, []).append(id_)
    in_turn = (id_ for ids in itertools.zip_longest(*groups.values()) for id_ in ids if id_ is not None)
    return tuple(itertools.islice(in_turn, MAX_WITNESSES))


@dataclass(frozen=True, slots=True)
class _Batch:
    """A batch with its number in the order of sending; the batch held back has the last number."""

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
    Delete ids and return the receipt of the last mutation.

    One batch is held back until all others are acknowledged. A wait for its mutation is then a wait for all.

    :param witnesses: read a sample of the ids first, to find witnesses.
    :param fail_if_none_exist: send nothing if the sample has no id that exists.
    :param checkpoint: saves the progress. Acknowledged batches of an earlier attempt are not sent again.
    :raises VectorizeBatchError: a batch failed for good; says how many ids are acknowledged.
    :raises VectorizeInterrupted: the task must stop; says how many ids are acknowledged.
    :raises VectorizeInputError: the index name is invalid, a file changed while it was read, or, with
        ``fail_if_none_exist``, no sampled id exists.
    """
    check_path_name(index_name)
    check_concurrency(concurrency)
    if not ids.count:
        return Receipt(None, index_name, client.account_id, sampled=0, existing=0)
    saved = _load(checkpoint, ids, log)
    if saved.receipt is not None:
        return saved.receipt
    if saved.details is not None:
        sample = _read_sample(saved.details)
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
        f"Deleting from {index_name}",
        count=ids.count,
        batches=ids.batches,
        time_for=partial(client.session.time_for, concurrency=concurrency),
    )
    acknowledged = Acknowledged(saved.done, _missing(saved))
    sent_before = Acknowledged(saved.done, _missing(saved))
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
            # In a file, an id may be in several batches, and then proves none of them.
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
            f"{not_sent()} not sent. Deleting all ids again is harmless"
        ) from None
    except VectorizeInputError as e:
        # Keep the class of the error: a retry may help after a file has changed.
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
        # Without the witnesses: the receipt has them, and saved progress outlives the task.
        checkpoint.save_receipt(
            receipt, {**details, "sample": _as_json(Sample(sample.held_back)), "missing": []}
        )
    return receipt


def _as_json(sample: Sample) -> dict[str, Any]:
    return {**asdict(sample), "witnesses": [list(witness) for witness in sample.witnesses]}


def _read_sample(details: Mapping[str, Any]) -> Sample:
    sample = details["sample"]
    witnesses = tuple((position, id_) for position, id_ in sample["witnesses"])
    return Sample(**{**sample, "witnesses": witnesses})


def _missing(saved: Saved) -> list[int]:
    missing: list[int] = [] if saved.details is None else saved.details["missing"]
    return missing


def _load(checkpoint: Checkpoint | None, ids: IdSource, log: Any) -> Saved:
    if checkpoint is None:
        return Saved()
    saved = checkpoint.load()
    match saved.details:
        case {
            "ids": str() as of,
            "sample": {"held_back": int() as held_back, "witnesses": list(), "asked": int(), "exist": int()},
            "missing": list() as missing,
        } if (
            of == ids.fingerprint
            and 0 <= held_back < ids.batches
            and all(number in range(saved.done) for number in missing)
        ):
            pass
        case None:
            return saved
        case _:
            log.info("Saved progress belongs to different ids; starting over.")
            return checkpoint.start_over()
    if saved.receipt is not None:
        log.info("Nothing left to send: an earlier attempt sent everything (%s).", counted(ids.count, "id"))
    else:
        log.info(
            "%d of %s acknowledged in an earlier attempt; sending the rest.",
            saved.done - len(_missing(saved)),
            counted(ids.batches, "batch", "were"),
        )
    return saved


def _batch_error(
    failures: Sequence[tuple[_Batch, VectorizeError]], acknowledged: int, count: int, not_sent: int
) -> VectorizeBatchError:
    failed = sum(len(batch) for batch, _ in failures)
    cause = failures[0][1]
    code = getattr(cause, "code", None)
    message = (
        f"{acknowledged} of {counted(count, 'id', 'are')} acknowledged, {failed} failed"
        f"{f' with code {code}' if code is not None else ''}, {not_sent} not sent. Deleting all ids again "
        f"is harmless. The first failure: {cause}"
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
    Read every id back and return the evidence for an auditor.

    :param patience: seconds for which ids that still exist are read again, because views lag.
    :param interval: seconds between these reads.
    :return: ``ids_verified`` (number of distinct ids read), ``ids_sha256`` (see
        :func:`~airflow_provider_cfvectorize.client.inputs.ids.sha256_of_sorted`), ``ids_visible`` (number of
        ids that still exist) and ``still_visible`` (the first 20 of them).
    :raises VectorizeBatchError: a read failed for good.
    """
    requests = -(-ids.count // limits.MAX_GET_IDS)
    log.info(
        "Reading back %s in at least %s, five times as many as the delete needs (verify='all').",
        counted(ids.count, "id"),
        counted(requests, "request"),
    )
    time_for = partial(client.session.time_for, concurrency=concurrency)
    measure = partial(Progress, log, time_for=time_for)
    progress = measure(f"Reading back from {index_name}", count=ids.count, batches=requests)
    visible = _read_back(client, index_name, ids, concurrency=concurrency, stopped=stopped, progress=progress)
    deadline = time.monotonic() + patience
    while visible and (left := deadline - time.monotonic()) > 0:
        log.info("Still visible: %s; reading again.", counted(len(visible), "id"))
        # The next read checks whether to stop, and its error has the progress.
        with suppress(Stopped):
            stoppable_sleep(min(left, interval), stopped)
        again = IdList(visible)
        requests = -(-again.count // limits.MAX_GET_IDS)
        progress = measure("Reading back again", count=again.count, batches=requests)
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
            f"interrupted: {progress.done} of {counted(ids.count, 'id', 'were')} read back. The delete is "
            "applied"
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
