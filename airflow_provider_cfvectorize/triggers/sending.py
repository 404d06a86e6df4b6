# SPDX-License-Identifier: Apache-2.0
"""
Sends the requests of all polls in a triggerer: one pace for each account, a few threads for each host.

All polls of an account share one pace, whichever index they read; see ``client/http/poll_pacer.py``. The
threads keep requests off the event loop, so no request blocks other triggers of the process. A host that
hangs delays only its own waits. No thread sleeps or retries.
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

#: Threads for the requests to one host. More are useless with a budget of four requests a second.
THREADS_PER_HOST: Final = MOST_POLLS_IN_FLIGHT
#: The number of timeouts after which a request counts as hung; its own limits usually end it earlier.
HUNG_AFTER_TIMEOUTS: Final = 4

Result = TypeVar("Result")


class HostThreads:
    """The threads of one host. They end with their last user."""

    _shared: ClassVar[weakref.WeakValueDictionary[Any, HostThreads]] = weakref.WeakValueDictionary()

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(THREADS_PER_HOST, thread_name_prefix="cfvectorize-poll")
        self._free = asyncio.Semaphore(THREADS_PER_HOST)

    @classmethod
    def of(cls, base_url: str) -> HostThreads:
        """Return the threads of a host."""
        key = (asyncio.get_running_loop(), base_url)
        shared = cls._shared.get(key)
        if shared is None:
            shared = cls._shared[key] = cls()
        return shared

    async def run(self, call: Callable[[], Result], seconds: float) -> Result:
        """
        Run a call in a thread and return its result.

        :param seconds: the longest duration of the call, without the wait for a thread.
        :raises VectorizeTransportError: the call has not ended by then. It occupies its thread until it ends.
        """
        loop = asyncio.get_running_loop()
        await self._free.acquire()

        def release(_: Future[Result]) -> None:
            # The loop may be closed when a hanging request ends.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(self._free.release)

        running = self._threads.submit(call)
        running.add_done_callback(release)
        try:
            async with asyncio.timeout(seconds):
                return await asyncio.wrap_future(running)
        except TimeoutError:
            raise VectorizeTransportError(f"the request has not ended after {seconds:g} s") from None


class AccountRequests:
    """The requests of all polls of one account."""

    _shared: ClassVar[weakref.WeakValueDictionary[Any, AccountRequests]] = weakref.WeakValueDictionary()

    def __init__(self, client: VectorizeClient) -> None:
        self._host = HostThreads.of(client.base_url)
        # A server with plain http is not Cloudflare: only the limits that it announces count.
        self._pacer = PollPacer(assumed=DOCUMENTED if client.base_url.startswith("https:") else None)
        self._histories: dict[Any, CredentialHistory] = {}
        self._starts: dict[Turn, asyncio.Future[None]] = {}
        self._timer: asyncio.TimerHandle | None = None

    @classmethod
    def of(cls, client: VectorizeClient) -> AccountRequests:
        """Return the requests of the client's account."""
        key = (asyncio.get_running_loop(), client.base_url, client.account_id)
        shared = cls._shared.get(key)
        if shared is None:
            shared = cls._shared[key] = cls(client)
        return shared

    def share_history(self, client: VectorizeClient) -> None:
        """Judge a refusal by the responses to the same credentials on every index."""
        known = client.session.history
        shared = client.session.history = self._histories.setdefault(client.identity, known)
        if known.accepted and not shared.accepted:
            shared.note_accepted(reading=True)

    async def turn(self, turn: Turn) -> None:
        """Wait until a request may start. Send it at once, with :meth:`send`."""
        start = self._starts[turn] = asyncio.get_running_loop().create_future()
        self._pacer.enqueue(turn)
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
        Send a request and return its result.

        :raises VectorizeError: the error of the call; or it has not ended after four times the timeout.
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
        """Start the requests that may start, after a change."""
        # In an empty context: the pacer's log lines belong to no task.
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
