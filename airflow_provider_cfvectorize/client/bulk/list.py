# SPDX-License-Identifier: Apache-2.0
"""All ids of an index, page by page, with no cursor for the caller to mind."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.http.responses import NOT_FOUND_CODES
from airflow_provider_cfvectorize.client.http.session import VectorizeSession
from airflow_provider_cfvectorize.client.http.urls import check_path_name
from airflow_provider_cfvectorize.client.inputs.text import counted, show
from airflow_provider_cfvectorize.client.types import VectorPage
from airflow_provider_cfvectorize.client.workers import Progress, Stopped, attend
from airflow_provider_cfvectorize.exceptions import (
    VectorizeInputError,
    VectorizeInterrupted,
    VectorizeListingExpired,
    VectorizeNotFoundError,
    VectorizeResponseError,
    VectorizeThrottledError,
)

_log = logging.getLogger(__name__)

#: How often a listing that expired is started again.
MAX_RESTARTS: Final = 3

Result = TypeVar("Result")


class Lists(Protocol):
    """What can read one page."""

    session: VectorizeSession

    def list_vectors(
        self, index_name: str, *, count: int | None = None, cursor: str | None = None
    ) -> VectorPage:
        """Return one page."""


def iter_ids(
    client: Lists,
    index_name: str,
    *,
    prefix: str | None = None,
    page_size: int = limits.MAX_LIST_COUNT,
    stopped: Callable[[], bool] | None = None,
    log: Any = None,
) -> Iterator[str]:
    """
    Iterate over the ids of an index as they were when the first page was read.

    One request a page. The ids are from a snapshot: what is inserted meanwhile is not among them, what is
    deleted meanwhile still is.

    :param prefix: only ids that begin so. All are read all the same, since the service cannot select.
    :param page_size: ids a request, 1 to 1,000.
    :param stopped: says whether to stop; asked on the thread that iterates, also while it waits for a page.
        With None, nothing but the pages can end the listing.
    :raises VectorizeInputError: at once, for what cannot be listed.
    :raises VectorizeListingExpired: while iterating: the service has given the snapshot up.
    """
    check_path_name(index_name)
    if not isinstance(page_size, int) or not 1 <= page_size <= limits.MAX_LIST_COUNT:
        raise VectorizeInputError(
            f"page_size {show(page_size)} is not an integer from 1 to {limits.MAX_LIST_COUNT}"
        )
    if prefix is not None and not isinstance(prefix, str):
        raise VectorizeInputError(f"prefix is {show(prefix)}, expected a string")
    return _iterate(client, index_name, prefix or "", page_size, stopped, log)


def _iterate(
    client: Lists,
    index_name: str,
    prefix: str,
    page_size: int,
    stopped: Callable[[], bool] | None,
    log: Any,
) -> Iterator[str]:
    cursor: str | None = None
    count = 0
    total: object = None
    progress: Progress | None = None
    while True:
        try:
            read = partial(client.list_vectors, index_name, count=page_size, cursor=cursor)
            page = read() if stopped is None else attend(read, stopped)
        except Stopped:
            raise VectorizeInterrupted(
                f"interrupted: {counted(count, 'id')} of index {show(index_name)} had been listed"
            ) from None
        except VectorizeResponseError as e:
            if cursor is None or not is_cursor_refusal(e):
                raise
            raise VectorizeListingExpired(
                f"the listing of index {show(index_name)} ended after {count} of {show(total)} ids: the "
                f"service did not take its own cursor any more ({e}). List again, and faster: cursors expire",
                count=count,
            ) from e
        vectors = page["vectors"]
        count += len(vectors)
        total = page.get("totalCount")
        if cursor is None and log is not None and isinstance(total, int):
            progress = Progress(
                log,
                f"listing {index_name}",
                count=total,
                batches=-(-total // page_size),
                time_for=partial(client.session.time_for, concurrency=1),
            )
        if progress is not None:
            progress.add(len(vectors))
        for vector in vectors:
            if vector["id"].startswith(prefix):
                yield vector["id"]
        following = _next_cursor(page)
        if following is None:
            return
        if following == cursor:
            raise VectorizeResponseError(
                f"the listing of index {show(index_name)} does not go on: after {counted(count, 'id')} the "
                "service gave the same cursor again",
                status=200,
            )
        cursor = following


def _next_cursor(page: VectorPage) -> str | None:
    """Return where the listing goes on, None at its end; an answer that leaves it open is an error."""
    is_truncated, cursor = page.get("isTruncated"), page.get("nextCursor")
    if is_truncated is False:
        return None
    if is_truncated is True and isinstance(cursor, str) and cursor:
        return cursor
    # Taken for the end, the rest of the ids would be missing and nobody would know.
    raise VectorizeResponseError(
        "the service's page of ids does not say whether there are more, or how to get them", status=200
    )


def is_cursor_refusal(error: VectorizeResponseError) -> bool:
    """
    Decide whether the refusal of a page after the first is about its cursor.

    What the service answers to an expired cursor is nowhere on record. The page
    before was given to the same credentials, for the same index, with the same parameters but the cursor, so
    a 4xx that has no other reason is about that. Other reasons are: the credentials, the index (known by its
    codes; a bare 410 is taken for the cursor's), a throttle, and 408, which is sent again as it is.
    """
    if error.status is None or not 400 <= error.status < 500 or error.status == 408:
        return False
    if error.is_refusal or isinstance(error, VectorizeThrottledError):
        return False
    if isinstance(error, VectorizeNotFoundError):
        return error.status == 410 and error.code not in NOT_FOUND_CODES
    return True


def repeat_listing(work: Callable[[], Result], *, log: Any = _log) -> Result:
    """
    Do something with a listing, and all of it again if the listing expires on the way.

    :param work: lists anew each time it is called, and does no harm when what it did with the ids of a
        listing that expired is done again.
    :param log: where to say that it is.
    :return: what ``work`` returned.
    :raises VectorizeListingExpired: the last listing expired too.
    """
    for restart in range(1, MAX_RESTARTS + 1):
        try:
            return work()
        except VectorizeListingExpired as e:
            log.warning("%s. Listing again, for the %d. of at most %d times", e, restart, MAX_RESTARTS)
    return work()
