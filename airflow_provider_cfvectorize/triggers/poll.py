# SPDX-License-Identifier: Apache-2.0
"""
Polls an index for all waits on it in a triggerer, with one shared loop for each index.

A thousand waits on one index cost one ``info`` request an interval. One read-back request checks twenty
witnesses of any waits. The account's pace decides when a poll may send a request; see ``sending.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import logging
import math
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.http.poll_pacer import Turn
from airflow_provider_cfvectorize.client.http.refusals import REREAD_SECONDS
from airflow_provider_cfvectorize.client.http.responses import Answer
from airflow_provider_cfvectorize.client.mutations.check import Poll, poll_index
from airflow_provider_cfvectorize.client.mutations.decide import YOUNG, Decision, IndexState
from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
from airflow_provider_cfvectorize.exceptions import VectorizeAuthError, VectorizeError, is_permanent
from airflow_provider_cfvectorize.triggers.sending import AccountRequests

log = logging.getLogger(__name__)

#: The largest random addition to an interval, as a fraction. It spreads the polls of many indexes.
JITTER: Final = 0.1
#: Seconds after a wait's deadline within which its last poll must end; half of Airflow's own margin.
LAST_POLL_SECONDS: Final = 30.0
#: The number of waits that get a result before the event loop runs other tasks.
WAITS_AT_A_TIME: Final = 20
#: The most seconds for which the first poll gathers further waits.
GATHER_SECONDS: Final = 1.0

_polls: dict[Any, IndexPoll] = {}


@dataclass(frozen=True, slots=True)
class Seen:
    """
    The result of one poll for one wait.

    :param state: the observed state of the index; None if the poll failed.
    :param decisions: the decision on each of the wait's receipts; None if the poll failed.
    :param is_over: all receipts are applied.
    :param is_last: the wait's deadline has passed.
    :param failure: why the poll failed; empty if it succeeded.
    :param is_refused: the poll failed because the service refused the credentials.
    """

    state: IndexState | None = None
    decisions: list[Decision] | None = None
    is_over: bool = False
    is_last: bool = False
    failure: str = ""
    is_refused: bool = False


class _Ended(Exception):  # noqa: N818 - a signal between coroutines
    """The poll ended, for any reason; a wait that receives it starts a new poll."""


@dataclass(eq=False)
class _Wait:
    receipts: Sequence[Receipt]
    interval: float
    seconds_left: Callable[[], float]
    results: asyncio.Queue[Seen | BaseException]
    #: The time from which the newest mutation may be applied, in seconds of the monotonic clock.
    ripe_at: float


async def watch(
    client: VectorizeClient,
    index_name: str,
    receipts: Sequence[Receipt],
    *,
    interval: float,
    seconds_left: Callable[[], float],
    renew: Callable[[], Awaitable[VectorizeClient]],
) -> AsyncGenerator[Seen, None]:
    """
    Yield the result of each poll of an index for some receipts, until the deadline.

    :param client: makes single attempts; closed if a poll of the index already has an equal client.
    :param interval: seconds between two polls. A shared poll may be more frequent; with many indexes, polls
        may be less frequent.
    :param seconds_left: returns the seconds to the deadline.
    :param renew: makes a client from the current connection; called after a refusal, at most once a minute.
        With new credentials the wait continues.
    """
    read_at = -math.inf
    while True:
        poll = _join(client, index_name)
        wait = _Wait(receipts, interval, seconds_left, asyncio.Queue(), time.monotonic() + _youth(receipts))
        poll.add(wait)
        renewed = None
        try:
            while True:
                seen: Seen | BaseException
                try:
                    async with asyncio.timeout(max(0.0, seconds_left()) + LAST_POLL_SECONDS):
                        seen = await wait.results.get()
                except TimeoutError:
                    # Before Airflow's own timeout, whose error lacks the observations.
                    seen = Seen(is_last=True, failure="the last poll did not end")
                if isinstance(seen, _Ended):
                    break
                is_refused = (
                    seen.is_refused if isinstance(seen, Seen) else isinstance(seen, VectorizeAuthError)
                )
                if is_refused and time.monotonic() >= read_at + REREAD_SECONDS:
                    read_at = time.monotonic()
                    renewed = await _renewed(client, renew)
                    if renewed is not None:
                        break
                if isinstance(seen, BaseException):
                    raise seen
                yield seen
                if seen.is_last:
                    return
        finally:
            poll.remove(wait)
        if renewed is not None:
            client = renewed
            continue
        # Not at once: the cause might end the next poll at once.
        await asyncio.sleep(min(interval, max(0.0, seconds_left())) * random.random())  # noqa: S311


async def _renewed(
    client: VectorizeClient, renew: Callable[[], Awaitable[VectorizeClient]]
) -> VectorizeClient | None:
    """Return a client with new credentials for the same account; None if the connection has none."""
    try:
        fresh = await renew()
    except Exception as e:
        # The wait ends with the refusal, not with this error.
        log.debug("Reading the connection again failed: %s", type(e).__name__)
        return None
    if fresh.replaces(client):
        log.info("The connection has new credentials; the wait continues with them.")
        return fresh
    fresh.close()
    return None


def _youth(receipts: Sequence[Receipt]) -> float:
    """Return the seconds until the newest mutation may be applied."""
    accepted = max((receipt.accepted_at for receipt in receipts if receipt.accepted_at), default=None)
    if accepted is None:
        return 0.0
    # The two times come from two clocks, and either may be wrong.
    return min(max(accepted + YOUNG - datetime.now(UTC), timedelta(0)), YOUNG).total_seconds()


def _join(client: VectorizeClient, index_name: str) -> IndexPoll:
    loop = asyncio.get_running_loop()
    requests = AccountRequests.of(client)
    requests.share_history(client)
    # The credential is part of the key: waits of different connections must not share results.
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
    The poll of one index, which runs as long as there are waits.

    :param forget: called once when the poll has ended.
    """

    def __init__(
        self, client: VectorizeClient, index_name: str, *, forget: Callable[[IndexPoll], None]
    ) -> None:
        self.client = client
        self._index_name = index_name
        self._forget = forget
        self._waits: set[_Wait] = set()
        self._joined = asyncio.Event()
        self._requests = AccountRequests.of(client)
        self._turn: Turn | None = None
        self._answered_at = -math.inf
        self.has_ended = False
        # In an empty context: its log lines belong to no task, although a task's trigger starts it.
        self._task = asyncio.get_running_loop().create_task(
            self._run(), name=f"cfvectorize poll of {index_name}", context=contextvars.Context()
        )

    def add(self, wait: _Wait) -> None:
        """Add a wait."""
        self._waits.add(wait)
        self._joined.set()
        if self._turn is not None:
            self._adjust(self._turn)
            self._requests.reconsider()

    def remove(self, wait: _Wait) -> None:
        """Remove a wait; the last one ends the poll."""
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
            wait.results.put_nowait(reason)
        self.client.close()

    async def _run(self) -> None:
        log.debug("Polling index %s of account %s.", self._index_name, self.client.account_id)
        reason: BaseException = _Ended()
        try:
            await asyncio.sleep(min(GATHER_SECONDS, self._interval() * JITTER) * random.random())  # noqa: S311
            started = await self._poll()
            while self._waits:
                await self._sleep_until_due(started)
                started = await self._poll()
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
            left = min(started + self._interval() * stretch, self._deadline()) - now
            if left <= 0:
                return
            # A new wait may have a shorter interval or an earlier deadline.
            # Not wait_for: before Python 3.12 it can swallow a cancellation.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left):
                    await self._joined.wait()

    def _deadline(self) -> float:
        return time.monotonic() + min((wait.seconds_left() for wait in self._waits), default=0.0)

    def _adjust(self, turn: Turn) -> None:
        turn.last_at = self._deadline()
        turn.ripe_at = min((wait.ripe_at for wait in self._waits), default=-math.inf)

    async def _wait_for_turn(self) -> None:
        turn = self._turn = Turn(self._answered_at, reserve=self.client.rate_reserve)
        self._adjust(turn)
        try:
            await self._requests.turn(turn)
        finally:
            self._turn = None

    async def _poll(self) -> float:
        """Poll once, send each wait its result and return the start time; raise a permanent error."""
        await self._wait_for_turn()
        started = time.monotonic()
        waits = {wait: wait.receipts for wait in self._waits}
        last = {wait for wait in waits if wait.seconds_left() <= 0}
        try:
            poll = await self._send_requests(waits, last)
        except VectorizeError as e:
            self._answered_at = time.monotonic()
            if is_permanent(e, "poll"):
                raise
            seen = Seen(failure=str(e), is_refused=isinstance(e, VectorizeAuthError))
            for wait in waits:
                self._report(wait, replace(seen, is_last=wait in last))
            return started
        for number, wait in enumerate(waits, start=1):
            loss = poll.loss(wait, self._index_name)
            seen = Seen(poll.state, poll.decisions(wait), is_over=poll.is_over(wait), is_last=wait in last)
            self._report(wait, seen if loss is None else loss)
            if number % WAITS_AT_A_TIME == 0:
                await asyncio.sleep(0)
        return started

    def _report(self, wait: _Wait, seen: Seen | VectorizeError) -> None:
        if isinstance(seen, VectorizeError) or seen.is_last or seen.is_over:
            # This was its last result: further polls for it would only cost requests.
            self._waits.discard(wait)
        wait.results.put_nowait(seen)

    async def _send_requests(self, waits: Mapping[_Wait, Sequence[Receipt]], last: Collection[_Wait]) -> Poll:
        requests = poll_index(waits, self._index_name, last)
        request = next(requests)
        while True:
            call = partial(request, self.client)
            answer = await self._requests.send(call, timeout=self.client.timeout)
            if isinstance(answer, Answer):
                self._answered_at = time.monotonic()
            try:
                request = requests.send(answer)
            except StopIteration as e:
                poll: Poll = e.value
                return poll
            # The first request had its turn before the waits were read.
            await self._requests.turn(
                Turn(
                    self._answered_at,
                    last_at=-math.inf if last else self._deadline(),
                    reserve=self.client.rate_reserve,
                    is_continued=True,
                )
            )
