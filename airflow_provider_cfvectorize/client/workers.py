# SPDX-License-Identifier: Apache-2.0
"""Sends many batches: a few at a time in threads, everything else on the caller's thread."""

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

#: Seconds between two checks of the caller's thread whether to stop.
_CHECK_SECONDS: Final = 0.2
#: The most seconds to wait for batches in flight after a stop: a worker gets five before it is killed.
_DRAIN_SECONDS: Final = 2.0
#: Seconds between two lines of progress; a shorter job has none.
SECONDS_BETWEEN_LINES: Final = 10.0
#: A rate is measured over this many lines of progress: a minute.
_LINES_FOR_RATE: Final = 6


Batch = TypeVar("Batch", bound=Sized)
Item = TypeVar("Item")
Result = TypeVar("Result")


class Stopped(Exception):  # noqa: N818 - a signal, not an error
    """The task must stop."""


def check_concurrency(concurrency: int) -> None:
    """Check the number of requests in flight."""
    if concurrency < 1:
        raise VectorizeInputError(f"concurrency is {concurrency}, expected an integer from 1")


class Progress:
    """
    Logs the progress of a long job: items and batches done, rate of the last minute, time left.

    :param what: the activity, such as ``Deleting``.
    :param time_for: returns the seconds that this many more requests, one a batch, will take within the
        account's budget; None without a known budget.
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
        #: The times of the last minute's lines, each with the number of items done.
        self._lines = deque([(time.monotonic(), 0)], maxlen=_LINES_FOR_RATE)
        self.skipped = 0
        self.done = 0
        self.batches_done = 0

    def skip(self, items: int) -> None:
        """Count a batch as done by an earlier attempt."""
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
            "%s: %d of %s in %d of %s, %.0f ids a second, about %.0f s left.",
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
    Runs a function over batches, several at a time, and handles the results on the caller's thread.

    Threads only send requests. The caller's thread handles the results and checks whether to stop. It never
    blocks for long, so that a signal handler can run.

    :param work: sends one batch; runs in a thread.
    :param done: handles a batch and its result; runs on the caller's thread.
    :param stopped: returns whether to stop.
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
        # Each call of futures.wait would add a waiter to every future.
        self._finished: queue.SimpleQueue[Future[Result]] = queue.SimpleQueue()
        self.failed: list[tuple[Batch, VectorizeError]] = []
        self.sent = 0

    def run(self, batches: Iterable[Batch]) -> None:
        """
        Send all batches. After one fails for good, start no more, and return when those in flight end.

        :raises Stopped: the task must stop; batches in flight had two seconds to end.
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
            self._drain(_DRAIN_SECONDS)
            raise
        except Exception:
            # The source of the batches failed; batches in flight still count.
            self._drain(None)
            raise
        finally:
            # Airflow's signal handlers may raise errors here too. A thread ends with its request.
            pool.shutdown(wait=False, cancel_futures=True)

    def _check(self) -> None:
        if self._stopped():
            raise Stopped

    def _take(self) -> None:
        try:
            self._collect([self._finished.get(timeout=_CHECK_SECONDS)])
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
    Run a function over items in threads, and yield the items with their results, in order.

    At most ``concurrency`` items run or wait to be yielded, however slow the first one is. The caller's
    thread never blocks for long, so that a signal handler can run.

    :param stopped: returns whether to stop.
    :raises Stopped: the task must stop; running items may still end later.
    """
    check_concurrency(concurrency)
    pool = ThreadPoolExecutor(concurrency, thread_name_prefix="cfvectorize")
    started: deque[tuple[Item, Future[Result]]] = deque()
    source = iter(items)
    try:
        while True:
            if stopped():
                raise Stopped
            for item in itertools.islice(source, concurrency - len(started)):
                started.append((item, pool.submit(work, item)))
            if not started:
                return
            while not wait([started[0][1]], timeout=_CHECK_SECONDS).done:
                if stopped():
                    raise Stopped
            item, future = started.popleft()
            yield item, future.result()
            # Only the caller keeps a yielded result.
            del item, future
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def stoppable_call(work: Callable[[], Result], stopped: Callable[[], bool]) -> Result:
    """
    Call a function in a thread, and check meanwhile whether to stop: a throttled request may take minutes.

    :raises Stopped: the task must stop; the call may still end later.
    """
    ((_, result),) = in_order(lambda _: work(), [None], concurrency=1, stopped=stopped)
    return result


def stoppable_sleep(seconds: float, stopped: Callable[[], bool]) -> None:
    """
    Sleep, and check meanwhile whether to stop.

    :param stopped: returns whether to stop; not called if ``seconds`` is 0.
    :raises Stopped: the task must stop.
    """
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if stopped():
            raise Stopped
        time.sleep(min(left, _CHECK_SECONDS))


def batch_error(
    cause: VectorizeError, message: str, *, acknowledged: int, failed: int, not_sent: int | None
) -> VectorizeBatchError:
    """
    Return the error of a write that ended early; handlers of its cause catch it too.

    :param message: the progress of the write, and what to do.
    :param acknowledged: number of items that were accepted.
    :param failed: number of items in requests that failed.
    :param not_sent: number of items that were not sent; None if unknown.
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
