# SPDX-License-Identifier: Apache-2.0
"""Sending many batches: a few at a time from threads, everything else on the caller's thread."""

from __future__ import annotations

import itertools
import queue
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, Final, Generic, TypeVar

from airflow_provider_cfvectorize.client.inputs.text import counted
from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeBatchAuthError,
    VectorizeBatchError,
    VectorizeBatchNotFoundError,
    VectorizeBatchThrottledError,
    VectorizeError,
    VectorizeInputError,
    VectorizeNotFoundError,
    VectorizeThrottledError,
)

#: How often the caller's thread looks whether it was told to stop, in seconds.
_LOOK_SECONDS: Final = 0.2
#: How long batches in flight are waited for after that, in seconds: a worker gets five before it is killed.
_PATIENCE_WHEN_STOPPED: Final = 2.0
#: Between two lines of progress; a job that ends before the first one has none.
SECONDS_BETWEEN_LINES: Final = 10.0
#: A rate is that since so many lines of progress before: a minute.
_LINES_FOR_RATE: Final = 6


Batch = TypeVar("Batch", bound=Sized)
Item = TypeVar("Item")
Result = TypeVar("Result")


class Stopped(Exception):  # noqa: N818 - a signal, not an error
    """The caller was told to stop."""


def check_concurrency(concurrency: int) -> None:
    """Check how many requests are to be in flight at once."""
    if concurrency < 1:
        raise VectorizeInputError(f"concurrency is {concurrency}, expected a whole number from 1")


class Progress:
    """
    Logs the progress of a long job: items and batches done, rate of the last minute, time left.

    :param what: what is being done, such as ``deleting``.
    :param time_for: says how many seconds so many more requests, one a batch, will take within the account's
        budget; None where nothing is known of a budget.
    """

    def __init__(
        self,
        log: Any,
        what: str,
        *,
        count: int,
        batches: int,
        time_for: Callable[[int], float | None],
    ) -> None:
        self._log = log
        self._what = what
        self._count = count
        self._batches = batches
        self._time_for = time_for
        #: When the lines of the last minute were written, with the items done by then.
        self._lines = deque([(time.monotonic(), 0)], maxlen=_LINES_FOR_RATE)
        self.skipped = 0
        self.done = 0
        self.batches_done = 0

    def skip(self, items: int) -> None:
        """Count a batch as done by an earlier try."""
        self.skipped += items
        self.done += items
        self.batches_done += 1

    def add(self, items: int) -> None:
        """Count a batch as done."""
        self.done += items
        self.batches_done += 1
        now = time.monotonic()
        new = self.done - self.skipped
        began, before = self._lines[0]
        if now - self._lines[-1][0] < SECONDS_BETWEEN_LINES or self.done >= self._count or new == before:
            return
        self._lines.append((now, new))
        rate = (new - before) / (now - began)
        left = self._time_for(self._batches - self.batches_done)
        if left is None:
            left = (self._count - self.done) / rate
        self._log.info(
            "%s: %d of %s in %d of %s, %.0f ids a second, about %.0f s left",
            self._what,
            self.done,
            counted(self._count, "id"),
            self.batches_done,
            counted(self._batches, "batch"),
            rate,
            left,
        )


class Dispatcher(Generic[Batch, Result]):
    """
    Runs one function over batches, several at a time, and hands the results back on the caller's thread.

    Threads only send requests. The caller's thread takes the results, sees that it was told to stop, and is
    never blocked for longer than a moment, so that a signal handler may run.

    :param work: sends one batch; runs in a thread.
    :param done: takes a batch and its result; runs on the caller's thread.
    """

    def __init__(
        self,
        work: Callable[[Batch], Result],
        done: Callable[[Batch, Result], None],
        *,
        concurrency: int,
        stopped: Callable[[], bool],
    ) -> None:
        self._work = work
        self._done = done
        check_concurrency(concurrency)
        self._concurrency = concurrency
        self._stopped = stopped
        self._in_flight: dict[Future[Result], Batch] = {}
        # Not futures.wait, which makes a waiter of its own and hangs it on every future, each time.
        self._finished: queue.SimpleQueue[Future[Result]] = queue.SimpleQueue()
        self.failed: list[tuple[Batch, VectorizeError]] = []
        self.sent = 0

    def run(self, batches: Iterable[Batch]) -> None:
        """
        Send all batches; after one failed for good, start no more, await those in flight, and return.

        :raises Stopped: the caller was told to stop; batches in flight were waited for a moment.
        """
        pool = ThreadPoolExecutor(self._concurrency, thread_name_prefix="cfvectorize")
        try:
            for batch in batches:
                while len(self._in_flight) >= self._concurrency and not self.failed:
                    self._take()
                if self.failed:
                    break
                self._check()
                future = pool.submit(self._work, batch)
                self._in_flight[future] = batch
                future.add_done_callback(self._finished.put)
                self.sent += len(batch)
            while self._in_flight:
                self._take()
        except Stopped:
            self._drain(_PATIENCE_WHEN_STOPPED)
            raise
        except Exception:
            # The batches' own source failed; what is in flight still counts.
            self._drain(None)
            raise
        finally:
            # Also on the errors that Airflow raises out of signal handlers; threads end with their request.
            pool.shutdown(wait=False, cancel_futures=True)

    def _check(self) -> None:
        if self._stopped():
            raise Stopped

    def _take(self) -> None:
        try:
            self._collect([self._finished.get(timeout=_LOOK_SECONDS)])
        except queue.Empty:
            self._check()

    def _drain(self, seconds: float | None) -> None:
        finished, _ = wait(self._in_flight, timeout=seconds)
        self._collect(finished)

    def _collect(self, finished: Iterable[Future[Result]]) -> None:
        for future in finished:
            batch = self._in_flight.pop(future)
            try:
                result = future.result()
            except VectorizeError as e:
                self.failed.append((batch, e))
            else:
                self._done(batch, result)


def in_order(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    *,
    concurrency: int,
    stopped: Callable[[], bool],
) -> Iterator[tuple[Item, Result]]:
    """
    Run one function over items, several at a time, and iterate over the results in the order of the items.

    However slow the first of them is, no more items are at work or wait to be taken than run at a time. The
    caller's thread is never blocked for longer than a moment, so that a signal handler may run.

    :raises Stopped: the caller was told to stop; what is at work is not waited for.
    """
    check_concurrency(concurrency)
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="cfvectorize")
    at_work: deque[tuple[Item, Future[Result]]] = deque()
    source = iter(items)
    try:
        while True:
            if stopped():
                raise Stopped
            for item in itertools.islice(source, concurrency - len(at_work)):
                at_work.append((item, pool.submit(work, item)))
            if not at_work:
                return
            while not wait([at_work[0][1]], timeout=_LOOK_SECONDS).done:
                if stopped():
                    raise Stopped
            item, future = at_work.popleft()
            yield item, future.result()
            # What was taken is the taker's alone.
            del item, future
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def attend(work: Callable[[], Result], stopped: Callable[[], bool]) -> Result:
    """
    Do something in a thread, so that this one sees meanwhile that it is told to stop.

    A single request may take minutes, if it is throttled.

    :raises Stopped: the caller was told to stop; the work is not waited for.
    """
    ((_, result),) = in_order(lambda _: work(), [None], concurrency=1, stopped=stopped)
    return result


def rest(seconds: float, stopped: Callable[[], bool]) -> None:
    """
    Do nothing for some time, and see meanwhile that this thread is told to stop.

    :param stopped: says whether to stop; not asked where there is no time to pass.
    """
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if stopped():
            raise Stopped
        time.sleep(min(left, _LOOK_SECONDS))


def batch_error(
    cause: VectorizeError, message: str, *, acknowledged: int, failed: int, not_sent: int | None
) -> VectorizeBatchError:
    """
    Return the error of a write that ended early, of a kind that the handlers of its cause see as well.

    :param message: how far the write came, and what to do.
    :param acknowledged: number of items that were accepted.
    :param failed: number of items in requests that failed.
    :param not_sent: number of items that were never sent, None if that is unknown.
    """
    numbers: dict[str, Any] = {"acknowledged": acknowledged, "failed": failed, "not_sent": not_sent}
    details: dict[str, Any] = {"status": getattr(cause, "status", None), "code": getattr(cause, "code", None)}
    error: VectorizeBatchError
    match cause:
        case VectorizeAuthError():
            error = VectorizeBatchAuthError(message, **numbers, **details)
        case VectorizeNotFoundError():
            error = VectorizeBatchNotFoundError(message, **numbers, **details)
        case VectorizeThrottledError():
            error = VectorizeBatchThrottledError(message, retry_after=cause.retry_after, **numbers, **details)
        case _:
            error = VectorizeBatchError(message, **numbers)
    error.__cause__ = cause
    return error
