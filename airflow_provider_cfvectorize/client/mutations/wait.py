# SPDX-License-Identifier: Apache-2.0
"""Waiting in a worker: single looks (a sensor's), and looking until a deadline (a waiting operator's)."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.http.budget import LONGEST_BLOCK
from airflow_provider_cfvectorize.client.http.refusals import CredentialHistory
from airflow_provider_cfvectorize.client.http.responses import Answer
from airflow_provider_cfvectorize.client.inputs.text import counted
from airflow_provider_cfvectorize.client.mutations.check import (
    Look,
    created_on,
    describe_mutations,
    explain_timeout,
    found_among,
    is_unseen,
    make_evidence,
    summarize,
)
from airflow_provider_cfvectorize.client.mutations.decide import Decision, IndexState, Verdict
from airflow_provider_cfvectorize.client.mutations.receipts import Receipt, parse_time
from airflow_provider_cfvectorize.client.types import MetadataIndex
from airflow_provider_cfvectorize.client.workers import Stopped, attend, rest
from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeDiffersError,
    VectorizeError,
    VectorizeInterrupted,
    VectorizeStillVisibleError,
    VectorizeWaitTimeout,
    is_permanent,
)

#: Seconds between two readings of a connection whose credentials are refused.
REREAD_SECONDS: Final = 60.0

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
    :param log: where to tell of new credentials.
    """

    def __init__(
        self, client: VectorizeClient, renew: Callable[[], VectorizeClient] | None, log: Any
    ) -> None:
        self.current = client
        self._renew = renew
        self._log = log
        self._read_at = -math.inf

    def ask(self, call: Callable[[VectorizeClient], Result]) -> Result:
        """
        Return what a call returns; after a refusal it is made again if the connection has new credentials.

        :param call: is given the client.
        """
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


def read_state(answer: Answer) -> IndexState:
    """Return what an ``info`` request said, by the server's clock or, where it shows none, this machine's."""
    info = answer.result if isinstance(answer.result, dict) else {}
    return IndexState.from_info(info, answer.date or datetime.now(UTC))


def evidence_of(
    receipts: Sequence[Receipt],
    decisions: Sequence[Decision],
    state: IndexState | None,
    *,
    account_id: str,
    index_name: str,
) -> dict[str, Any]:
    """Return the evidence of one or more applied mutations as one."""
    return summarize(
        make_evidence(receipt, decision, state, account_id=account_id, index_name=index_name)
        for receipt, decision in zip(receipts, decisions, strict=True)
    )


def evidence_of_nothing(receipt: Receipt) -> dict[str, Any]:
    """
    Return the evidence of a write that sent nothing.

    :param receipt: its receipt, with the index and the account.
    """
    decision = Decision(Verdict.APPLIED, "nothing_to_do", "nothing was sent")
    return evidence_of(
        [receipt], [decision], None, account_id=receipt.account_id or "", index_name=receipt.index_name or ""
    )


def describe_evidence(evidence: Mapping[str, Any]) -> str:
    """
    Return the line of the log that says how a wait ended well: the outcome, of what, how soon, and the proof.

    :param evidence: how it is known that the mutation is applied.
    """
    if evidence["outcome"] == "nothing_to_do":
        return "Nothing to do: nothing was sent, so there is nothing to wait for."
    count = evidence.get("mutation_count", 1)
    what = describe_mutations(count, evidence["mutation_id"], evidence["index_name"])
    accepted_at, decided_at = (parse_time(evidence[name]) for name in ("accepted_at", "decided_at"))
    after = ""
    if accepted_at is not None and decided_at is not None:
        seconds = max(0.0, (decided_at - accepted_at).total_seconds())
        after = f", {seconds:.0f} s after {'it' if count == 1 else 'the last'} was accepted"
    return f"Applied ({evidence['outcome']}): {what}{after}; {_describe_proof(evidence, count)}."


def _describe_proof(evidence: Mapping[str, Any], count: int) -> str:
    if "ids_verified" in evidence:
        there, of = evidence["ids_visible"], counted(evidence["ids_verified"], "id", "are")
        return f"{evidence['ids_verified'] - there} of {of} gone"
    checked = evidence["witnesses_checked"]
    if not checked:
        return "no witness was read"
    if count > 1:
        return f"{counted(checked, 'witness', 'were')} read"
    if "differing" in evidence:
        return f"{checked - len(evidence['differing'])} of {counted(checked, 'witness')} confirm it"
    return f"{checked - len(evidence['still_visible'])} of {counted(checked, 'witness', 'are')} gone"


def report_evidence(
    evidence: dict[str, Any], log: Any, *, require_absent: bool = False, require_equal: bool = False
) -> None:
    """
    Say in the log how a wait ended.

    :param evidence: how it is known that the mutation is applied.
    :param log: where to.
    :param require_absent: vectors that can still be read are an error.
    :param require_equal: vectors that do not read back as they were written are an error.
    :raises VectorizeStillVisibleError: with ``require_absent``, if there are any.
    :raises VectorizeDiffersError: with ``require_equal``, if there are any.
    """
    log.info("%s", describe_evidence(evidence))
    visible = evidence["still_visible"]
    if visible:
        text = (
            f"mutation {evidence['mutation_id']} is applied ({evidence['outcome']}), and yet these can still "
            f"be read: {', '.join(ascii(id_) for id_ in visible)}. Either that view of the index lags, or "
            "somebody has written them again since"
        )
        if require_absent:
            raise VectorizeStillVisibleError(text)
        log.warning("%s", text)
    if differing := evidence.get("differing"):
        text = (
            f"mutation {evidence['mutation_id']} counts as applied ({evidence['outcome']}): the index has "
            "applied writes since it was accepted. And yet these do not read back as they were written: "
            f"{', '.join(ascii(id_) for id_ in differing)}. Either somebody has written them since (of an "
            "insert: or before), or the service rounds values otherwise than to 32 bits"
        )
        if require_equal:
            raise VectorizeDiffersError(text)
        log.warning("%s", text)
    if visible or differing:
        return
    if require_equal and evidence["outcome"] == "inferred":
        log.warning("require_equal: there was no witness, so nothing was compared.")
    if evidence["outcome"] == "inferred":
        log.info(
            "Assumed applied because of its age: later mutations already are. This is weaker than having "
            "seen it."
        )


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
    :param index_name: the index.
    :param lack: says of the metadata indexes what is not as it should be, with an empty text if nothing; may
        raise what ends the wait.
    :param seconds: how long at most; there is one look in any case.
    :param interval: seconds between two looks.
    :param stopped: says whether to stop; asked while a request is under way, too.
    :param log: where to tell what was seen.
    :raises VectorizeWaitTimeout: they were not in time.
    :raises VectorizeAuthError: the credentials are refused.
    :raises VectorizeNotFoundError: the index is not there, or was deleted.
    :raises VectorizeInterrupted: it was told to stop.
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
    :param index_name: the index.
    :param receipts: what is waited for; at least one.
    :param log: where to tell what was seen.
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
        self._log = log
        self._decisions: list[Decision] | None = None
        self._state: IndexState | None = None
        self._trouble = ""
        self._told = ""
        #: Seconds for which the service does not want to be asked again, after the last look.
        self.pause = 0.0
        #: The last look was refused, which may pass.
        self.is_refused = False

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def look(self, *, last: bool = False) -> dict[str, Any] | None:
        """
        Look once and return the evidence, or None if it is not applied yet.

        :param last: this is the last look.
        :raises VectorizeAuthError: the credentials are refused.
        :raises VectorizeNotFoundError: the index is not there, or was deleted.
        :raises VectorizeIndexRecreatedError: the index was created again since.
        """
        self.pause = 0.0
        self.is_refused = False
        try:
            look = self._client.ask(lambda client: self._ask(client, last))
        except VectorizeError as e:
            if is_permanent(e, "poll"):
                raise
            self.is_refused = isinstance(e, VectorizeAuthError)
            self.pause = pause_after(e)
            self._trouble = str(e)
            self._tell(f"This look failed, which does not end the wait: {e}", warning=True)
            return None
        self._trouble = ""
        self._state = look.state
        self._decisions = look.decisions(_KEY)
        if (loss := look.loss(_KEY, self._index_name)) is not None:
            raise loss
        if look.is_over(_KEY):
            return evidence_of(
                self._receipts,
                self._decisions,
                look.state,
                account_id=self._client.current.account_id,
                index_name=self._index_name,
            )
        pending = next(d for d in self._decisions if d.verdict is not Verdict.APPLIED)
        self._tell(f"Not applied yet: {pending.reason}")
        return None

    def explain_timeout(self, seconds: float) -> str:
        """Return the text of the error at the end of the wait, from the last look."""
        decisions: Sequence[Decision | None] = self._decisions or [None] * len(self._receipts)
        return explain_timeout(
            list(zip(self._receipts, decisions, strict=True)), self._state, seconds, self._trouble
        )

    def until(self, seconds: float, *, interval: float, stopped: Callable[[], bool]) -> dict[str, Any]:
        """
        Look until it is applied and return the evidence.

        :param seconds: how long at most.
        :param interval: seconds between two looks.
        :param stopped: says whether to stop.
        :raises VectorizeWaitTimeout: it was not seen to be applied in time.
        :raises VectorizeIndexRecreatedError: the index was created again since.
        :raises VectorizeInterrupted: it was told to stop.
        """
        deadline = time.monotonic() + seconds
        while True:
            last = time.monotonic() >= deadline
            evidence = self.look(last=last)
            if evidence is not None:
                return evidence
            if last:
                raise VectorizeWaitTimeout(
                    self.explain_timeout(seconds), is_unseen=is_unseen(self._decisions or ())
                )
            _sleep_until(min(deadline, time.monotonic() + max(interval, self.pause)), stopped)

    def _ask(self, client: VectorizeClient, last: bool) -> Look:
        state = read_state(client.ask_info(self._index_name))
        look = Look({_KEY: self._receipts}, state, last=[_KEY] if last else [])
        while ids := look.next_read():
            look.feed(found_among(client.get_by_ids(self._index_name, ids)))
        if look.needs_creation():
            look.feed_creation(created_on(client.get_index(self._index_name)))
        return look

    def _tell(self, text: str, *, warning: bool = False) -> None:
        # Only what is new: a wait of an hour would fill the log otherwise.
        if text != self._told:
            self._told = text
            (self._log.warning if warning else self._log.info)("%s", text)
