# SPDX-License-Identifier: Apache-2.0
"""Lists all ids of an index, page by page, without exposing cursors."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Final, Protocol, TypeVar

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.http.responses import NOT_FOUND_CODES
from airflow_provider_cfvectorize.client.http.session import VectorizeSession
from airflow_provider_cfvectorize.client.inputs.names import check_path_name
from airflow_provider_cfvectorize.client.inputs.text import counted, show
from airflow_provider_cfvectorize.client.types import VectorPage
from airflow_provider_cfvectorize.client.workers import Progress, Stopped, stoppable_call
from airflow_provider_cfvectorize.exceptions import (
    VectorizeInputError,
    VectorizeInterrupted,
    VectorizeListingExpired,
    VectorizeNotFoundError,
    VectorizeResponseError,
    VectorizeThrottledError,
)

_log = logging.getLogger(__name__)

#: The most restarts of an expired listing.
MAX_RESTARTS: Final = 3

Result = TypeVar("Result")


class PageReader(Protocol):
    """A client that can read one page of ids."""

    session: VectorizeSession

    def list_vectors(
        self, index_name: str, *, count: int | None = None, cursor: str | None = None
    ) -> VectorPage:
        """Return one page."""


def iter_ids(
    client: PageReader,
    index_name: str,
    *,
    prefix: str | None = None,
    page_size: int = limits.MAX_LIST_COUNT,
    stopped: Callable[[], bool] | None = None,
    log: Any = None,
) -> Iterator[str]:
    """
    Iterate over the ids of an index, with one request a page.

    The ids are a snapshot from the first page on: it lacks later inserts, and has ids that are deleted later.

    :param prefix: yield only ids that begin with this. All ids are read, because the service cannot select.
    :param page_size: ids a request, 1 to 1,000.
    :param stopped: returns whether to stop; called on the iterating thread, also while it waits for a page.
        With None, the listing cannot be stopped.
    :raises VectorizeInputError: at once: an argument is invalid.
    :raises VectorizeListingExpired: while iterating: the snapshot has expired.
    """
    check_path_name(index_name)
    if not isinstance(page_size, int) or not 1 <= page_size <= limits.MAX_LIST_COUNT:
        raise VectorizeInputError(
            f"page_size is {show(page_size)}, expected an integer from 1 to {limits.MAX_LIST_COUNT}"
        )
    if prefix is not None and not isinstance(prefix, str):
        raise VectorizeInputError(f"prefix is {show(prefix)}, expected a string")
    return _iterate(client, index_name, prefix or "", page_size, stopped, log)


def _iterate(
    client: PageReader,
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
            page = read() if stopped is None else stoppable_call(read, stopped)
        except Stopped:
            raise VectorizeInterrupted(
                f"interrupted: {counted(count, 'id')} of index {show(index_name)} listed"
            ) from None
        except VectorizeResponseError as e:
            if cursor is None or not is_cursor_refusal(e):
                raise
            raise VectorizeListingExpired(
                f"the listing of index {show(index_name)} ended after {count} of {show(total)} ids: the "
                f"service refused its own cursor ({e}). Cursors expire: list again, and faster",
                count=count,
            ) from e
        vectors = page["vectors"]
        count += len(vectors)
        total = page.get("totalCount")
        if cursor is None and log is not None and isinstance(total, int):
            progress = Progress(
                log,
                f"Listing {index_name}",
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
                f"the listing of index {show(index_name)} makes no progress: after {counted(count, 'id')} "
                "the service returned the same cursor again",
                status=200,
            )
        cursor = following


def _next_cursor(page: VectorPage) -> str | None:
    """Return the cursor of the next page, None after the last page; raise an error if it is unclear."""
    is_truncated, cursor = page.get("isTruncated"), page.get("nextCursor")
    if is_truncated is False:
        return None
    if is_truncated is True and isinstance(cursor, str) and cursor:
        return cursor
    # If this counted as the end, the remaining ids would be missing silently.
    raise VectorizeResponseError(
        "the service's page of ids has no valid isTruncated or nextCursor", status=200
    )


def is_cursor_refusal(error: VectorizeResponseError) -> bool:
    """
    Decide whether the service refused a page after the first because of its cursor.

    The service's response to an expired cursor is not documented. The page before differed only in its cursor
    and succeeded, so a 4xx without another reason is about the cursor. Other reasons are the credentials, the
    index (known by its codes; a 410 without them is about the cursor), a throttle, and 408, which is retried.
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
    Call a function that uses a listing, and call it again if the listing expires.

    :param work: lists anew on each call; repeating its work on the ids of an expired listing is harmless.
    :raises VectorizeListingExpired: the last listing expired too.
    """
    for restart in range(1, MAX_RESTARTS + 1):
        try:
            return work()
        except VectorizeListingExpired as e:
            log.info("%s. Listing again, restart %d of at most %d.", e, restart, MAX_RESTARTS)
    return work()
