# SPDX-License-Identifier: Apache-2.0
"""
How the polls of a triggerer send their requests.

All polls of an account share one pace, whichever index they read; see ``client/http/poll_pacer.py``. Requests
run in a few threads a host. They never block the event loop and so no other trigger of the process, and a
host that hangs delays only its own waits. Nothing sleeps or retries in a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import math
import time
import weakref
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, ClassVar, Final, TypeVar

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.http.budget import MOST_POLLS_IN_FLIGHT
from airflow_provider_cfvectorize.client.http.poll_pacer import DOCUMENTED, PollPacer, Turn
from airflow_provider_cfvectorize.client.http.refusals import CredentialHistory
from airflow_provider_cfvectorize.client.http.responses import Answer
from airflow_provider_cfvectorize.exceptions import VectorizeThrottledError, VectorizeTransportError

#: Threads for the requests to one host: the budget of four requests a second makes more of them useless.
THREADS_PER_HOST: Final = MOST_POLLS_IN_FLIGHT
#: A request that has not ended after so many timeouts is given up; its own bounds end it before that.
HUNG_AFTER_TIMEOUTS: Final = 4

Result = TypeVar("Result")


class HostThreads:
    """The threads of one host; they end when nobody uses this any more."""

    _shared: ClassVar[weakref.WeakValueDictionary[Any, HostThreads]] = weakref.WeakValueDictionary()

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS_PER_HOST, thread_name_prefix="cfvectorize-poll")
        self._free = asyncio.Semaphore(THREADS_PER_HOST)

    @classmethod
    def of(cls, base_url: str) -> HostThreads:
        """Return those of a host."""
        key = (asyncio.get_running_loop(), base_url)
        shared = cls._shared.get(key)
        if shared is None:
            shared = cls._shared[key] = cls()
        return shared

    async def run(self, call: Callable[[], Result], seconds: float) -> Result:
        """
        Return what a call returns, made in a thread.

        :param seconds: how long it may take from when it begins.
        :raises VectorizeTransportError: it has not ended by then. It keeps its thread until it does.
        """
        loop = asyncio.get_running_loop()
        await self._free.acquire()

        def release(_: Future[Result]) -> None:
            # The loop may be gone by the time that a hanging request ends.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._free.release)

        running = self._threads.submit(call)
        running.add_done_callback(release)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(running)
        except TimeoutError:
            raise VectorizeTransportError(f"a request has not ended after {seconds:g} s") from None


class AccountRequests:
    """The requests of all polls of one account."""

    _shared: ClassVar[weakref.WeakValueDictionary[Any, AccountRequests]] = weakref.WeakValueDictionary()

    def __init__(self, client: VectorizeClient) -> None:
        self._host = HostThreads.of(client.base_url)
        # Over plain http there is never Cloudflare: only what such a server tells of is kept to.
        self._pacer = PollPacer(assumed=DOCUMENTED if client.base_url.startswith("https:") else None)
        self._histories: dict[Any, CredentialHistory] = {}
        self._starts: dict[Turn, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def of(cls, client: VectorizeClient) -> AccountRequests:
        """Return those of the client's account."""
        key = (asyncio.get_running_loop(), client.base_url, client.account_id)
        shared = cls._shared.get(key)
        if shared is None:
            shared = cls._shared[key] = cls(client)
        return shared

    def share_history(self, client: VectorizeClient) -> None:
        """Let a refusal count by what was answered to the same credentials, whichever index was asked for."""
        known = client.session.history
        shared = client.session.history = self._histories.setdefault(client.identity, known)
        if known.accepted and not shared.accepted:
            shared.note_accepted(reading=True)

    async def turn(self, turn: Turn) -> None:
        """Return when a request may start, which must then be sent at once, with :meth:`send`."""
        start = self._starts[turn] = asyncio.get_running_loop().create_future()
        self._pacer.ask(turn)
        self.reconsider()
        try:
            await start
        except asyncio.CancelledError:
            if self._starts.pop(turn, None) is not None:
                self._pacer.withdraw(turn)
            else:
                self._pacer.end(time.monotonic(), None)
            self.reconsider()
            raise

    async def send(self, call: Callable[[], Result], *, timeout: float) -> Result:
        """
        Return what a request returns.

        :raises VectorizeError: as the call; and it has not ended after four times the timeout.
        """
        started_at = time.monotonic()
        headers = None
        throttle: VectorizeThrottledError | None = None
        try:
            result = await self._host.run(call, HUNG_AFTER_TIMEOUTS * timeout)
            headers = result.headers if isinstance(result, Answer) else None
            return result
        except VectorizeThrottledError as e:
            throttle = e
            raise
        finally:
            self._pacer.end(
                started_at,
                headers,
                throttled=throttle is not None,
                retry_after=throttle.retry_after if throttle is not None else None,
            )
            self.reconsider()

    def reconsider(self) -> None:
        """See which requests may start, after something has changed."""
        # In an empty context: what the pacer logs is no task's.
        contextvars.Context().run(self._start_due)

    def _start_due(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while True:
            turn, pause = self._pacer.start_next()
            if turn is None:
                break
            start = self._starts.pop(turn)
            if not start.done():
                start.set_result(None)
        if math.isfinite(pause):
            self._timer = asyncio.get_running_loop().call_later(pause, self._start_due)
