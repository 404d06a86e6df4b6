# SPDX-License-Identifier: Apache-2.0
"""Waiting in a worker: single looks (a sensor's), and looking until a deadline (a waiting operator's)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeVar

from airflow_provider_cfvectorize.client.http.budget import LONGEST_BLOCK
from airflow_provider_cfvectorize.client.http.refusals import REREAD_SECONDS, CredentialHistory
from airflow_provider_cfvectorize.client.mutations.check import Look, look_at
from airflow_provider_cfvectorize.client.mutations.evidence import WaitLog
from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
from airflow_provider_cfvectorize.client.types import MetadataIndex
from airflow_provider_cfvectorize.client.workers import Stopped, attend, rest
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
_INTERRUPTED: Final = "told to stop while waiting; the write itself is accepted and will be applied"


def pause_after(error: VectorizeError) -> float:
    """Return the seconds for which a wait does not look again, after a look that failed."""
    return min(getattr(error, "retry_after", None) or 0.0, LONGEST_BLOCK)


class WatchingClient:
    """
    A client of a wait, which takes up new credentials when those it has are refused.

    :param client: makes single attempts.
    :param renew: makes a client from the connection as it is now; None if that is not to be asked.
    """

    def __init__(
        self, client: VectorizeClient, renew: Callable[[], VectorizeClient] | None, log: Any
    ) -> None:
        self.current = client
        self._renew = renew
        self._log = log
        self._read_at = -math.inf

    def ask(self, call: Callable[[VectorizeClient], Result]) -> Result:
        """Return what a call returns; after a refusal, call again if the connection has new credentials."""
        try:
            return call(self.current)
        except VectorizeAuthError:
            if not self._takes_up_new_credentials():
                raise
        return call(self.current)

    def close(self) -> None:
        """Close the client."""
        self.current.close()

    def _takes_up_new_credentials(self) -> bool:
        if self._renew is None or time.monotonic() < self._read_at + REREAD_SECONDS:
            return False
        self._read_at = time.monotonic()
        try:
            fresh = self._renew()
        except Exception as e:
            # The refusal is what the wait ends with, not that.
            self._log.debug("Reading the connection again failed: %s", type(e).__name__)
            return False
        stale = self.current
        if not fresh.replaces(stale):
            fresh.close()
            return False
        self._log.info("The connection has new credentials; the wait goes on with them.")
        # What was answered to the other ones says nothing of these.
        fresh.session.history = CredentialHistory()
        self.current = fresh
        stale.close()
        return True


def _sleep_until(wake: float, stopped: Callable[[], bool]) -> None:
    try:
        rest(wake - time.monotonic(), stopped)
    except Stopped:
        raise VectorizeInterrupted(_INTERRUPTED) from None


def watch_metadata_indexes(
    client: WatchingClient,
    index_name: str,
    lack: Callable[[list[MetadataIndex]], str],
    *,
    seconds: float,
    interval: float,
    stopped: Callable[[], bool],
    log: Any,
) -> None:
    """
    Look at the metadata indexes of an index until they are as they should be.

    :param client: asks; the next look is the retry.
    :param lack: says of the metadata indexes what is not as it should be, with an empty text if nothing; may
        raise what ends the wait.
    :param seconds: how long at most; there is one look in any case.
    :param interval: seconds between two looks.
    :param stopped: says whether to stop; asked while a request is under way, too.
    """
    deadline = time.monotonic() + seconds
    told = ""
    while True:
        last = time.monotonic() >= deadline
        pause = 0.0
        try:
            listed = attend(
                lambda: client.ask(lambda current: current.list_metadata_indexes(index_name)), stopped
            )
        except Stopped:
            raise VectorizeInterrupted(_INTERRUPTED) from None
        except VectorizeError as e:
            if is_permanent(e, "poll"):
                raise
            pause = pause_after(e)
            seen = f"this look failed, which does not end the wait: {e}"
        else:
            seen = lack(listed)
        if not seen:
            return
        if last:
            raise VectorizeWaitTimeout(f"after {seconds:g} s: {seen}")
        if seen != told:
            told = seen
            log.info("Still waiting: %s", seen)
        _sleep_until(min(deadline, time.monotonic() + max(interval, pause)), stopped)


class Wait:
    """
    A wait for mutations of one index, from a worker.

    :param client: asks; makes single attempts, since the next look is the retry.
    :param receipts: what is waited for; at least one.
    :param renew: makes a client from the connection as it is now, for when the credentials are refused; asked
        once a minute at most.
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
        #: Seconds for which the service does not want to be asked again, after the last look.
        self.pause = 0.0
        #: The last look was refused, which may pass.
        self.is_refused = False

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def look(self, *, last: bool = False) -> dict[str, Any] | None:
        """Look once and return the evidence, or None if it is not applied yet."""
        self.pause = 0.0
        self.is_refused = False
        try:
            look = self._client.ask(lambda client: self._ask(client, last))
        except VectorizeError as e:
            if is_permanent(e, "poll"):
                raise
            self.is_refused = isinstance(e, VectorizeAuthError)
            self.pause = pause_after(e)
            self._seen.note_trouble(str(e))
            self._seen.tell()
            return None
        if (loss := look.loss(_KEY, self._index_name)) is not None:
            raise loss
        self._seen.note(look.state, look.decisions(_KEY))
        evidence = self._seen.evidence(self._client.current.account_id)
        if evidence is None:
            self._seen.tell()
        return evidence

    def timeout(self, seconds: float) -> VectorizeWaitTimeout:
        """Return the error at the end of the wait, from the last look."""
        return self._seen.timeout(seconds)

    def until(self, seconds: float, *, interval: float, stopped: Callable[[], bool]) -> dict[str, Any]:
        """
        Look until it is applied and return the evidence.

        :param interval: seconds between two looks.
        """
        deadline = time.monotonic() + seconds
        while True:
            last = time.monotonic() >= deadline
            evidence = self.look(last=last)
            if evidence is not None:
                return evidence
            if last:
                raise self.timeout(seconds)
            _sleep_until(min(deadline, time.monotonic() + max(interval, self.pause)), stopped)

    def _ask(self, client: VectorizeClient, last: bool) -> Look:
        requests = look_at({_KEY: self._receipts}, self._index_name, last=[_KEY] if last else [])
        answer = None
        while True:
            try:
                answer = requests.send(answer)(client)
            except StopIteration as e:
                look: Look = e.value
                return look
