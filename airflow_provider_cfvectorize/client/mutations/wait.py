# SPDX-License-Identifier: Apache-2.0
"""Waits in a worker: single polls for a sensor, and polls until a deadline for a waiting operator."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from airflow_provider_cfvectorize.client.http.budget import LONGEST_BLOCK
from airflow_provider_cfvectorize.client.http.refusals import REREAD_SECONDS, CredentialHistory
from airflow_provider_cfvectorize.client.mutations.check import Poll, poll_index
from airflow_provider_cfvectorize.client.mutations.evidence import WaitLog
from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
from airflow_provider_cfvectorize.client.types import MetadataIndex
from airflow_provider_cfvectorize.client.workers import Stopped, stoppable_call, stoppable_sleep
from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeError,
    VectorizeInterrupted,
    VectorizeWaitTimeout,
    is_permanent,
)

if TYPE_CHECKING:
    from airflow_provider_cfvectorize.client.client import VectorizeClient

Result = TypeVar("Result")

_KEY: Final = "wait"
_INTERRUPTED: Final = "interrupted: the wait ended early, but the write is accepted and will be applied"


def pause_after(error: VectorizeError) -> float:
    """Return the seconds that a wait pauses after a failed poll."""
    return min(getattr(error, "retry_after", None) or 0.0, LONGEST_BLOCK)


class WatchingClient:
    """
    The client of a wait. It uses the connection's new credentials after a refusal of the old ones.

    :param client: makes single attempts.
    :param renew: creates a client from the current connection; None to keep the first client.
    """

    def __init__(
        self, client: VectorizeClient, renew: Callable[[], VectorizeClient] | None, log: Any
    ) -> None:
        self.current = client
        self._renew = renew
        self._log = log
        self._read_at = -math.inf

    def send(self, request: Callable[[VectorizeClient], Result]) -> Result:
        """Send a request. After a refusal, repeat it if the connection has new credentials."""
        try:
            return request(self.current)
        except VectorizeAuthError:
            if not self._renew_credentials():
                raise
        return request(self.current)

    def close(self) -> None:
        """Close the client."""
        self.current.close()

    def _renew_credentials(self) -> bool:
        if self._renew is None or time.monotonic() < self._read_at + REREAD_SECONDS:
            return False
        self._read_at = time.monotonic()
        try:
            fresh = self._renew()
        except Exception as e:
            # The wait ends with the refusal, not with this error.
            self._log.debug("Reading the connection again failed: %s", type(e).__name__)
            return False
        stale = self.current
        if not fresh.replaces(stale):
            fresh.close()
            return False
        self._log.info("The connection has new credentials; the wait continues with them.")
        # Responses to the old credentials say nothing about the new ones.
        fresh.session.history = CredentialHistory()
        self.current = fresh
        stale.close()
        return True


def _sleep_until(wake: float, stopped: Callable[[], bool]) -> None:
    try:
        stoppable_sleep(wake - time.monotonic(), stopped)
    except Stopped:
        raise VectorizeInterrupted(_INTERRUPTED) from None


def watch_metadata_indexes(
    client: WatchingClient,
    index_name: str,
    find_problem: Callable[[list[MetadataIndex]], str],
    *,
    seconds: float,
    interval: float,
    stopped: Callable[[], bool],
    log: Any,
) -> None:
    """
    List the metadata indexes of an index until they are as expected.

    :param client: sends the requests without retries; the next poll is the retry.
    :param find_problem: returns what differs from the expectation, or an empty text. It may raise an error
        that ends the wait.
    :param seconds: the most seconds to wait; there is at least one poll.
    :param interval: seconds between two polls.
    :param stopped: returns whether to stop; also called while a request is in flight.
    """
    deadline = time.monotonic() + seconds
    logged = ""
    while True:
        last = time.monotonic() >= deadline
        pause = 0.0
        try:
            listed = stoppable_call(
                lambda: client.send(lambda current: current.list_metadata_indexes(index_name)), stopped
            )
        except Stopped:
            raise VectorizeInterrupted(_INTERRUPTED) from None
        except VectorizeError as e:
            if is_permanent(e, "poll"):
                raise
            pause = pause_after(e)
            seen = f"the last poll failed: {e}"
        else:
            seen = find_problem(listed)
        if not seen:
            return
        if last:
            raise VectorizeWaitTimeout(f"the wait of {seconds:g} s has ended: {seen}")
        if seen != logged:
            logged = seen
            log.info("Still waiting: %s.", seen)
        _sleep_until(min(deadline, time.monotonic() + max(interval, pause)), stopped)


class Wait:
    """
    A wait for mutations of one index, from a worker.

    :param client: makes single attempts, because the next poll is the retry.
    :param receipts: the receipts of the mutations; at least one.
    :param renew: creates a client from the current connection after a refusal, at most once a minute.
    """

    def __init__(
        self,
        client: VectorizeClient,
        index_name: str,
        receipts: Sequence[Receipt],
        log: Any,
        renew: Callable[[], VectorizeClient] | None = None,
    ) -> None:
        self._client = WatchingClient(client, renew, log)
        self._index_name = index_name
        self._receipts = receipts
        self._seen = WaitLog(receipts, index_name, log)
        #: Seconds that the service asked for after the last poll.
        self.pause = 0.0
        #: Whether the service refused the last poll, which may pass.
        self.is_refused = False

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def poll(self, *, last: bool = False) -> dict[str, Any] | None:
        """Poll once and return the evidence, None while a mutation is pending."""
        self.pause = 0.0
        self.is_refused = False
        try:
            poll = self._client.send(lambda client: self._send(client, last))
        except VectorizeError as e:
            if is_permanent(e, "poll"):
                raise
            self.is_refused = isinstance(e, VectorizeAuthError)
            self.pause = pause_after(e)
            self._seen.note_failure(str(e))
            evidence = None
        else:
            if (loss := poll.loss(_KEY, self._index_name)) is not None:
                raise loss
            self._seen.note(poll.state, poll.decisions(_KEY))
            evidence = self._seen.evidence(self._client.current.account_id)
        # The error of the timeout has the result of the last poll.
        if evidence is None and not last:
            self._seen.log_news()
        return evidence

    def timeout(self, seconds: float) -> VectorizeWaitTimeout:
        """Return the error at the deadline, with the state of the last poll."""
        return self._seen.timeout(seconds)

    def until(self, seconds: float, *, interval: float, stopped: Callable[[], bool]) -> dict[str, Any]:
        """
        Poll until every mutation is applied and return the evidence.

        :param interval: seconds between two polls.
        """
        deadline = time.monotonic() + seconds
        while True:
            last = time.monotonic() >= deadline
            evidence = self.poll(last=last)
            if evidence is not None:
                return evidence
            if last:
                raise self.timeout(seconds)
            _sleep_until(min(deadline, time.monotonic() + max(interval, self.pause)), stopped)

    def _send(self, client: VectorizeClient, last: bool) -> Poll:
        requests = poll_index({_KEY: self._receipts}, self._index_name, last=[_KEY] if last else [])
        answer = None
        while True:
            try:
                answer = requests.send(answer)(client)
            except StopIteration as e:
                poll: Poll = e.value
                return poll
