# SPDX-License-Identifier: Apache-2.0
"""Which vectors of a fill can be its witnesses: those of the last request that it is going to change."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Literal

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.bulk.vector_batches import VectorBatch
from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.inputs.ids import spread
from airflow_provider_cfvectorize.client.mutations.check import found_among
from airflow_provider_cfvectorize.client.mutations.receipts import MAX_WITNESSES
from airflow_provider_cfvectorize.client.mutations.witnesses import WitnessVector
from airflow_provider_cfvectorize.client.workers import attend
from airflow_provider_cfvectorize.exceptions import VectorizeError

_log = logging.getLogger(__name__)

#: Questions about vectors of the last request, of up to 20 each, until one shows a witness.
QUESTIONS: Final = 3


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
    :param index_name: the index.
    :param batch: the last request.
    :param is_single: says whether an id stands in the input only once.
    :param stopped: says whether to stop; asked on this thread.
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
