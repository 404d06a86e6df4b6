# SPDX-License-Identifier: Apache-2.0
"""Reads any number of vectors by their ids, in as many requests as the service's limit requires."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.inputs.ids import IdSource, in_reads
from airflow_provider_cfvectorize.client.inputs.text import counted
from airflow_provider_cfvectorize.client.types import Vector
from airflow_provider_cfvectorize.client.workers import Progress, Stopped, in_order
from airflow_provider_cfvectorize.exceptions import VectorizeInterrupted

if TYPE_CHECKING:
    from airflow_provider_cfvectorize.client.client import VectorizeClient

_log = logging.getLogger(__name__)


def iter_vectors(
    client: VectorizeClient,
    index_name: str,
    ids: IdSource,
    *,
    concurrency: int,
    stopped: Callable[[], bool] = lambda: False,
    log: Any = _log,
) -> Iterator[tuple[str, Vector | None]]:
    """
    Iterate over any number of ids, in order, each with its vector, or None if it does not exist.

    Memory holds only the vectors of the requests in flight.

    :param concurrency: the most requests in flight, each for 20 ids.
    :raises VectorizeError: while iterating: the error of the first request that failed for good.
    """
    progress = Progress(
        log,
        "Reading",
        count=ids.count,
        batches=-(-ids.count // limits.MAX_GET_IDS),
        time_for=partial(client.session.time_for, concurrency=concurrency),
    )
    answers = in_order(
        lambda batch: client.get_by_ids(index_name, batch),
        in_reads(ids),
        concurrency=concurrency,
        stopped=stopped,
    )
    try:
        for batch, vectors in answers:
            found = {vector["id"]: vector for vector in vectors}
            for id_ in batch:
                yield id_, found.get(id_)
            progress.add(len(batch))
    except Stopped:
        client.session.stop()
        raise VectorizeInterrupted(
            f"interrupted: {progress.done} of {counted(ids.count, 'id', 'were')} read"
        ) from None
