# SPDX-License-Identifier: Apache-2.0
"""The evidence of applied mutations, and the log lines and errors of waits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.inputs.text import counted, show
from airflow_provider_cfvectorize.client.mutations.decide import (
    EXPLAINED_WAITS,
    LONG_AGO,
    Decision,
    IndexState,
    Verdict,
)
from airflow_provider_cfvectorize.client.mutations.receipts import Receipt, format_time, parse_time
from airflow_provider_cfvectorize.exceptions import (
    VectorizeDiffersError,
    VectorizeStillVisibleError,
    VectorizeWaitTimeout,
)

#: The most mutations that evidence lists.
LISTED_MUTATIONS: Final = 100
#: The most characters in the log line of a successful wait.
_COLUMNS: Final = 120


class WaitLog:
    """The results of a wait's polls: logs what is new, and makes the evidence or the error at the end."""

    def __init__(self, receipts: Sequence[Receipt], index_name: str, log: Any) -> None:
        self._receipts = receipts
        self._index_name = index_name
        self._log = log
        self._decisions: Sequence[Decision | None] = [None] * len(receipts)
        self._state: IndexState | None = None
        self._failure = ""
        self._logged = ""

    def note(self, state: IndexState, decisions: Sequence[Decision]) -> None:
        """Store the result of a poll."""
        self._state, self._decisions, self._failure = state, decisions, ""

    def note_failure(self, failure: str) -> None:
        """Store the error of a failed poll; the result of an earlier poll stays."""
        self._failure = failure

    def log_news(self) -> None:
        """Log the last result if it is new; repeating it would fill the log of a long wait."""
        if self._failure:
            text = f"Poll failed, polling again: {self._failure}"
        elif pending := [d for d in self._decisions if d is not None and d.verdict is not Verdict.APPLIED]:
            text = f"Not applied yet: {pending[0].reason}"
        else:
            return
        if text != self._logged:
            self._logged = text
            self._log.info("%s", text)

    def evidence(self, account_id: str) -> dict[str, Any] | None:
        """Return the evidence if the last poll showed that every mutation is applied; None if it did not."""
        decisions = [d for d in self._decisions if d is not None and d.verdict is Verdict.APPLIED]
        if self._failure or len(decisions) < len(self._receipts):
            return None
        return summarize(
            make_evidence(receipt, decision, self._state, account_id=account_id, index_name=self._index_name)
            for receipt, decision in zip(self._receipts, decisions, strict=True)
        )

    def timeout(self, seconds: float) -> VectorizeWaitTimeout:
        """Return the error at the deadline."""
        waits = list(zip(self._receipts, self._decisions, strict=True))
        text = explain_timeout(waits, self._state, seconds, self._index_name, self._failure)
        return VectorizeWaitTimeout(text, is_unseen=is_unseen(self._decisions))


def evidence_of_nothing(receipt: Receipt) -> dict[str, Any]:
    """Return the evidence of a write that sent nothing."""
    decision = Decision(Verdict.APPLIED, "nothing_to_do", "nothing was sent")
    return make_evidence(
        receipt, decision, None, account_id=receipt.account_id or "", index_name=receipt.index_name or ""
    )


def make_evidence(
    receipt: Receipt, decision: Decision, state: IndexState | None, *, account_id: str, index_name: str
) -> dict[str, Any]:
    """
    Return the evidence of one applied mutation, as it goes into XCom.

    :param decision: the decision that it is applied.
    :param state: the observed state of the index; None if no poll was needed.
    """
    evidence: dict[str, Any] = {
        "mutation_id": receipt.mutation_id,
        "index_name": index_name,
        "account_id": account_id,
        "outcome": decision.outcome,
        "watermark": state.watermark if state else None,
        "processed_up_to": format_time(state.processed_up_to) if state else None,
        "accepted_at": format_time(receipt.accepted_at),
        "decided_at": format_time(state.observed_at if state else datetime.now(UTC).replace(microsecond=0)),
        "witnesses_checked": decision.witnesses_checked,
        "still_visible": list(decision.still_visible),
    }
    if receipt.witness_vectors:
        evidence["differing"] = list(decision.differing)
    if receipt.mutations > 1:
        evidence["mutation_count"] = receipt.mutations
    return evidence


def summarize(evidence: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """
    Return the evidence of several mutations as one, with each under ``mutations`` (the first 100).

    The fields are those of the mutation accepted last. But the outcome is the weakest of all, and counts and
    lists are added up.
    """
    every = [dict(single) for single in evidence]
    if len(every) == 1:
        return every[0]
    strength = ["present_differs", "inferred", "read_back", "watermark", "nothing_to_do"]
    newest = max(every, key=lambda single: single["accepted_at"] or "")
    differing = [id_ for single in every for id_ in single.get("differing", ())]
    return {
        **newest,
        **({"differing": differing[: limits.MAX_GET_IDS]} if differing else {}),
        "outcome": min((single["outcome"] for single in every), key=strength.index),
        "decided_at": max(single["decided_at"] for single in every),
        "witnesses_checked": sum(single["witnesses_checked"] for single in every),
        "still_visible": [id_ for single in every for id_ in single["still_visible"]][: limits.MAX_GET_IDS],
        "mutation_count": sum(single.get("mutation_count", 1) for single in every),
        "mutations": every[:LISTED_MUTATIONS],
    }


def describe_evidence(evidence: Mapping[str, Any]) -> str:
    """
    Return the log line of a successful wait: the outcome, the time it took, and the proof.

    The line fits a screen. With a long index name it omits the time and then shortens the name; the evidence
    has both.
    """
    if evidence["outcome"] == "nothing_to_do":
        return "Nothing to do: nothing was sent."
    count = evidence.get("mutation_count", 1)
    accepted_at, decided_at = (parse_time(evidence[name]) for name in ("accepted_at", "decided_at"))
    after = ""
    if accepted_at is not None and decided_at is not None:
        seconds = max(0.0, (decided_at - accepted_at).total_seconds())
        after = f", {seconds:.0f} s after {'it' if count == 1 else 'the last'} was accepted"
    name = evidence["index_name"]
    proof = _describe_proof(evidence, count)

    def line(name: str, after: str = "") -> str:
        what = describe_mutations(count, evidence["mutation_id"], name)
        return f"Applied ({evidence['outcome']}): {what}{after}; {proof}."

    if len(line(name, after)) <= _COLUMNS:
        return line(name, after)
    excess = len(line(name)) - _COLUMNS
    return line(name) if excess <= 0 else line(f"{name[: -excess - 3]}...")


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
    Log how a wait ended.

    :param require_absent: vectors that can still be read are an error.
    :param require_equal: vectors that do not read back as they were written are an error.
    :raises VectorizeStillVisibleError: with ``require_absent``, if there are any.
    :raises VectorizeDiffersError: with ``require_equal``, if there are any.
    """
    log.info("%s", describe_evidence(evidence))
    visible = evidence["still_visible"]
    if visible:
        text = (
            f"mutation {evidence['mutation_id']} of index {evidence['index_name']} is applied "
            f"({evidence['outcome']}), but these ids can still be read: "
            f"{', '.join(ascii(id_) for id_ in visible)}. Either the read lags, or another client has "
            "written them again since"
        )
        if require_absent:
            raise VectorizeStillVisibleError(text)
        log.warning("%s", text)
    if differing := evidence.get("differing"):
        text = (
            f"mutation {evidence['mutation_id']} of index {evidence['index_name']} counts as applied "
            f"({evidence['outcome']}): the index has applied writes since it was accepted. But these vectors "
            f"do not read back as they were written: {', '.join(ascii(id_) for id_ in differing)}. Either "
            "another client has written them since (for an insert: or before), or the service rounds values "
            "differently from 32 bits"
        )
        if require_equal:
            raise VectorizeDiffersError(text)
        log.warning("%s", text)
    if visible or differing:
        return
    if require_equal and evidence["outcome"] == "inferred":
        log.warning("Nothing was compared for require_equal: there was no witness.")
    if evidence["outcome"] == "inferred":
        log.info(
            "Assumed applied because of its age: later mutations already are. This is weaker than an "
            "observation."
        )


def is_unseen(decisions: Iterable[Decision | None]) -> bool:
    """Return whether the index shows that a write of a failed wait is not applied, or lost."""
    return any(
        decision is not None
        and decision.verdict is not Verdict.APPLIED
        and bool(decision.still_visible or decision.differing)
        for decision in decisions
    )


def explain_timeout(
    waits: Sequence[tuple[Receipt, Decision | None]],
    state: IndexState | None,
    seconds: float,
    index_name: str,
    failure: str = "",
) -> str:
    """
    Return the text of the error at the deadline.

    :param waits: the receipts, with the last decision on each; None if no poll succeeded.
    :param state: the last observed state of the index.
    :param failure: the last error, if the last poll failed.
    """
    waits = [wait for wait in waits if wait[1] is None or wait[1].verdict is not Verdict.APPLIED]
    shown = []
    for receipt, decision in waits[:EXPLAINED_WAITS]:
        text = f"mutation {receipt.mutation_id}"
        if receipt.mutations > 1:
            text += f" and {receipt.mutations - 1} more"
        if receipt.bare:
            if state is not None and state.watermark is not None:
                at = format_time(state.processed_up_to) or "an unknown time"
                text += (
                    f": inconclusive, it may have been overtaken by {show(state.watermark)} of {at}, which "
                    "may include it. Pass the receipt instead: "
                    "receipt=\"{{ ti.xcom_pull('...', key='receipt') }}\" or delete.output['receipt']"
                )
            else:
                text += f": {state}" if state else ""
            if state is not None and state.created_on not in (None, LONG_AGO):
                text += f"; the index was created at {format_time(state.created_on)}: earlier writes are lost"
        else:
            text += f", accepted at {format_time(receipt.accepted_at)}"
            if decision is not None and decision.reason:
                text += f": {decision.reason}"
            if decision is not None and decision.still_visible:
                text += f"; still visible: {', '.join(show(id_) for id_ in decision.still_visible[:5])}"
            if decision is not None and decision.differing:
                text += f"; absent or different: {', '.join(show(id_) for id_ in decision.differing[:5])}"
        shown.append(text)
    others = sum(receipt.mutations for receipt, _ in waits[EXPLAINED_WAITS:])
    more = f"; and {others} more" if others else ""
    after = f". The last poll failed: {failure}" if failure else ""
    what = f"not observed as applied in index {index_name} within {seconds:g} s"
    return f"{what}: {'; '.join(shown)}{more}{after}"


def describe_mutations(count: int, mutation_id: str, index_name: str) -> str:
    """Return a short name of the mutations of a wait."""
    what = f"mutation {mutation_id[:8]}" if count == 1 else counted(count, "mutation")
    return f"{what} of index {index_name}"


def describe_deferral(
    receipts: Sequence[Receipt], index_name: str, *, interval: float, seconds: float
) -> str:
    """
    Return the log line of a deferral.

    :param interval: seconds between two polls.
    """
    count = sum(receipt.mutations for receipt in receipts)
    what = describe_mutations(count, receipts[0].mutation_id or "", index_name)
    deadline = datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=round(seconds))
    return (
        f"Deferring: {what}, poll every {interval:g} s, until {format_time(deadline)} ({seconds:g} s) at "
        "the latest."
    )
