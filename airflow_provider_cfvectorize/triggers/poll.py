# SPDX-License-Identifier: Apache-2.0
"""
The poll that all waits on one index share in the triggerer.

A thousand waits on one index cost one ``info`` request an interval, and witnesses are read back twenty to a
request whoever's they are. Requests run in a few threads of their own, so that the event loop, and with it
every other trigger of the process, is never blocked; nothing sleeps or retries in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.looks import Look, found_among
from airflow_provider_cfvectorize.client.mutations import Decision, IndexState, Receipt
from airflow_provider_cfvectorize.client.pacing import poll_pause, read_budget
from airflow_provider_cfvectorize.client.waiting import ends_a_wait, read_state
from airflow_provider_cfvectorize.client.witnesses import WitnessVector
from airflow_provider_cfvectorize.exceptions import (
    VectorizeError,
    VectorizeThrottledError,
    VectorizeTransportError,
)

log = logging.getLogger(__name__)

#: Threads for requests: the account's budget of four requests a second makes more of them useless.
REQUEST_THREADS: Final = 4
#: A request that has not ended after so many timeouts is given up; its own bounds end it before that.
HUNG_AFTER_TIMEOUTS: Final = 4
#: The most by which an interval is stretched at random, so that the polls of many indexes do not keep in
#: step.
JITTER: Final = 0.1
#: Seconds after a wait's deadline within which its last look must end; half of Airflow's own patience.
LAST_LOOK_SECONDS: Final = 30.0
#: The most seconds for which the first poll gathers further waits.
GATHER_SECONDS: Final = 1.0

_threads = ThreadPoolExecutor(REQUEST_THREADS, thread_name_prefix="cfvectorize-poll")
_polls: dict[Any, IndexPoll] = {}

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Seen:
    """
    What a wait learns from one poll.

    :param state: what the index showed; None as long as no poll has succeeded.
    :param decisions: what was decided on each of the wait's receipts; None likewise.
    :param is_over: all of them are applied.
    :param is_last: the wait's deadline is over.
    :param trouble: why this poll failed; empty if it did not.
    """

    state: IndexState | None
    decisions: list[Decision] | None
    is_over: bool = False
    is_last: bool = False
    trouble: str = ""


class _Ended(Exception):  # noqa: N818 - a signal between coroutines
    """The poll ended, for whatever reason; a wait that hears it starts a new one."""


@dataclass(eq=False)
class _Wait:
    receipts: Sequence[Receipt]
    interval: float
    seconds_left: Callable[[], float]
    heard: asyncio.Queue[Seen | BaseException]
    last: Seen = Seen(None, None)

    def tell(self, seen: Seen | BaseException) -> None:
        if isinstance(seen, Seen):
            self.last = seen
        self.heard.put_nowait(seen)


async def watch(
    client: VectorizeClient,
    index_name: str,
    receipts: Sequence[Receipt],
    *,
    interval: float,
    seconds_left: Callable[[], float],
) -> AsyncGenerator[Seen, None]:
    """
    Yield what each poll of an index shows of some receipts, until the deadline.

    :param client: makes single attempts; closed if the index is being polled already, with an equal one.
    :param index_name: the index.
    :param receipts: what is waited for.
    :param interval: seconds between two polls; a poll that others share may be more frequent.
    :param seconds_left: says how long it is to the deadline.
    :raises VectorizeError: an error that ends the wait for good.
    """
    while True:
        poll = _join(client, index_name)
        wait = _Wait(receipts, interval, seconds_left, asyncio.Queue())
        poll.add(wait)
        try:
            while True:
                seen: Seen | BaseException
                try:
                    async with asyncio.timeout(max(0.0, seconds_left()) + LAST_LOOK_SECONDS):
                        seen = await wait.heard.get()
                except TimeoutError:
                    # Before Airflow's own timeout, whose error says nothing of what was seen.
                    seen = replace(wait.last, is_last=True, trouble="the last look did not end")
                if isinstance(seen, _Ended):
                    break
                if isinstance(seen, BaseException):
                    raise seen
                yield seen
                if seen.is_last:
                    return
        finally:
            poll.remove(wait)
        # Not at once: whatever ended the poll might end the next one just as fast.
        await asyncio.sleep(min(interval, max(0.0, seconds_left())) * random.random())  # noqa: S311


def _join(client: VectorizeClient, index_name: str) -> IndexPoll:
    loop = asyncio.get_running_loop()
    # The credential is part of the key: one connection's waits must not learn by another's.
    key = (loop, client.identity, index_name)
    poll = _polls.get(key)
    if poll is None or poll.has_ended:
        poll = _polls[key] = IndexPoll(client, index_name, forget=lambda ended: _forget(key, ended))
    elif poll.client is not client:
        client.close()
    return poll


def _forget(key: Any, poll: IndexPoll) -> None:
    if _polls.get(key) is poll:
        del _polls[key]


class IndexPoll:
    """
    One poll of one index, for as long as somebody waits.

    :param client: asks.
    :param index_name: the index.
    :param forget: called once, when the poll has ended.
    """

    def __init__(
        self, client: VectorizeClient, index_name: str, *, forget: Callable[[IndexPoll], None]
    ) -> None:
        self.client = client
        self._index_name = index_name
        self._forget = forget
        self._waits: set[_Wait] = set()
        self._joined = asyncio.Event()
        self._not_before = 0.0
        self._throttle = ""
        self._pause = 0.0
        self.has_ended = False
        # In an empty context: its log lines are no task's, though a task's trigger happens to start it.
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name=f"cfvectorize poll of {index_name}", context=contextvars.Context()
        )

    def add(self, wait: _Wait) -> None:
        """Let a wait take part."""
        self._waits.add(wait)
        self._joined.set()

    def remove(self, wait: _Wait) -> None:
        """Let a wait leave; the last one ends the poll."""
        self._waits.discard(wait)
        if not self._waits:
            self._end(_Ended())
            self._task.cancel()

    def _end(self, reason: BaseException) -> None:
        if self.has_ended:
            return
        self.has_ended = True
        self._forget(self)
        for wait in self._waits:
            wait.tell(reason)
        self.client.close()

    async def _run(self) -> None:
        log.debug("Polling index %s of account %s.", self._index_name, self.client.account_id)
        reason: BaseException = _Ended()
        try:
            await asyncio.sleep(min(GATHER_SECONDS, self._interval() * JITTER) * random.random())  # noqa: S311
            started = time.monotonic()
            await self._poll()
            while self._waits:
                await self._sleep_until_due(started)
                started = time.monotonic()
                await self._poll()
        except VectorizeError as e:
            reason = e
        except Exception:
            log.exception("The poll of index %s ended unexpectedly; waits start a new one.", self._index_name)
        finally:
            self._end(reason)

    def _interval(self) -> float:
        return min((wait.interval for wait in self._waits), default=0.0)

    async def _sleep_until_due(self, started: float) -> None:
        stretch = 1 + JITTER * random.random()  # noqa: S311
        while True:
            self._joined.clear()
            now = time.monotonic()
            due = max(started + max(self._interval() * stretch, self._pause), self._not_before)
            deadline = now + min((wait.seconds_left() for wait in self._waits), default=0.0)
            left = min(due, deadline) - now
            if left <= 0:
                return
            # A wait that joins may have a shorter interval, or a nearer deadline.
            # Not wait_for: before Python 3.12 it can swallow a cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._joined.wait()

    async def _poll(self) -> None:
        """Look once for everybody; raises what ends all waits, and tells everything else to each."""
        waits = {wait: wait.receipts for wait in self._waits}
        last = {wait for wait in waits if wait.seconds_left() <= 0}
        try:
            if time.monotonic() < self._not_before:
                raise VectorizeThrottledError(
                    f"not asked again yet, since {self._throttle}"
                )
            answer = await self._in_thread(lambda: self.client.ask_info(self._index_name))
            budget = read_budget(answer.headers)
            self._pause = poll_pause(0.0, budget, self.client.rate_reserve)
            look = Look(waits, read_state(answer), last)
            while ids := look.next_read():
                look.feed(await self._in_thread(lambda ids=ids: self._read_back(ids)))  # type: ignore[misc]
        except VectorizeError as e:
            if ends_a_wait(e):
                raise
            if isinstance(e, VectorizeThrottledError) and e.retry_after:
                self._not_before = time.monotonic() + e.retry_after
                self._throttle = str(e)
            for wait in waits:
                self._tell(
                    wait, Seen(wait.last.state, wait.last.decisions, is_last=wait in last, trouble=str(e))
                )
            return
        for wait in waits:
            self._tell(
                wait,
                Seen(look.state, look.decisions(wait), is_over=look.is_over(wait), is_last=wait in last),
            )

    def _tell(self, wait: _Wait, seen: Seen) -> None:
        if seen.is_last or seen.is_over:
            # It has heard its last; were it looked for again before it leaves, it would only cost requests.
            self._waits.discard(wait)
        wait.tell(seen)

    def _read_back(self, ids: list[str]) -> dict[str, WitnessVector]:
        return found_among(self.client.get_by_ids(self._index_name, ids))

    async def _in_thread(self, call: Callable[[], Result]) -> Result:
        seconds = HUNG_AFTER_TIMEOUTS * self.client.timeout
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.get_running_loop().run_in_executor(_threads, call)
        except TimeoutError:
            raise VectorizeTransportError(f"a request has not ended after {seconds:g} s") from None
