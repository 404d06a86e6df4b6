# SPDX-License-Identifier: Apache-2.0
"""
The one function that decides whether a write is applied: :func:`decide`.

Vectorize applies writes in the order of acceptance, in batches, some seconds to minutes later. For each index
it shows one watermark: the last mutation that it applied, of any writer. A later mutation replaces it, so a
writer may never see its own. The sensor in each mode, the trigger and the waiting operators all decide here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any, Final

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.inputs.text import counted, show
from airflow_provider_cfvectorize.client.mutations.receipts import (
    Receipt,
    format_time,
    parse_time,
)
from airflow_provider_cfvectorize.client.mutations.witnesses import WitnessVector

#: A receipt's ``accepted_at`` comes from the ``Date`` header: whole seconds, and clocks differ a little.
CLOCK_TOLERANCE: Final = timedelta(seconds=2)
#: How long the vectors of an applied delete may stay readable before the wait reports them. p99 of applying
#: is below two minutes (Cloudflare's changelog, 2026-06-30), and reads lag less than that.
VISIBILITY_PATIENCE: Final = timedelta(seconds=120)
#: A mutation of this age, plus :data:`INFERENCE_TIME_PER_JOB` for each full job of its batches or vectors, is
#: assumed applied if later ones already are. The time is more than twice the p99 of applying.
INFERENCE_TIME: Final = timedelta(seconds=300)
INFERENCE_TIME_PER_JOB: Final = timedelta(seconds=60)
#: A receipt younger than this is not worth a poll: the median of applying is below 30 s (same changelog).
YOUNG: Final = timedelta(seconds=20)
#: The creation time of an index if the service does not return one: the index counts as old.
LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)
#: Mutations that the error at the deadline describes.
EXPLAINED_WAITS: Final = 3


@dataclass(frozen=True, slots=True)
class IndexState:
    """
    The response of one ``info`` request.

    :param watermark: ``processedUpToMutation``; None before the first mutation.
    :param processed_up_to: ``processedUpToDatetime``; None if it is absent or null.
    :param observed_at: the server's clock at the response.
    :param created_on: when the index was created, by the same clock; None until a second request reads it,
        see :attr:`Verdict.CREATION`.
    """

    watermark: str | None
    processed_up_to: datetime | None
    observed_at: datetime
    created_on: datetime | None = None

    @classmethod
    def from_info(cls, info: Mapping[str, Any], observed_at: datetime) -> IndexState:
        """Read the result of :meth:`~airflow_provider_cfvectorize.client.client.VectorizeClient.info`."""
        watermark = info.get("processedUpToMutation")
        return cls(
            watermark if isinstance(watermark, str) else None,
            parse_time(info.get("processedUpToDatetime")),
            observed_at,
        )

    def __str__(self) -> str:
        if self.watermark is None:
            return "the index has applied no mutation yet"
        at = format_time(self.processed_up_to) or "an unknown time"
        return f"the watermark is {show(self.watermark)} of {at}"


class Verdict(Enum):
    """The verdicts of :func:`decide`."""

    PENDING = "pending"
    #: The decision depends on the witnesses: read them and decide again.
    READ_BACK = "read_back"
    #: The index may have been created again since: read its creation time and decide again.
    CREATION = "creation"
    #: The index was created after the mutation was accepted, so it never had the mutation.
    RECREATED = "recreated"
    APPLIED = "applied"


@dataclass(frozen=True, slots=True)
class Decision:
    """
    A verdict and its reasons.

    :param outcome: how an applied mutation is known to be applied: ``watermark``, ``read_back``,
        ``inferred``, ``present_differs`` or ``nothing_to_do``.
    :param reason: the reason as a text for logs and errors.
    :param still_visible: ids of a delete's witnesses that can still be read.
    :param witnesses_checked: number of witnesses read back.
    :param differing: ids of an insert's or upsert's witnesses that are absent or not as they were written.
    """

    verdict: Verdict
    outcome: str | None = None
    reason: str = ""
    still_visible: tuple[str, ...] = ()
    witnesses_checked: int = 0
    differing: tuple[str, ...] = ()


def decide(
    receipt: Receipt,
    state: IndexState,
    found: Mapping[str, WitnessVector] | None = None,
    *,
    at_deadline: bool = False,
) -> Decision:
    """
    Decide whether a mutation is applied. This is a pure function, and the only one that decides this.

    :param found: the witnesses that could be read, by id; None if they were not read.
    """
    decision = _decide_in_one_index(receipt, state, found, at_deadline)
    if decision.verdict is Verdict.PENDING:
        is_doubtful = at_deadline or (state.watermark is None and _must_have_applied(receipt, state))
    elif decision.verdict is Verdict.APPLIED:
        contrary = bool(decision.still_visible or decision.differing)
        is_doubtful = decision.outcome == "inferred" or (contrary and decision.outcome != "watermark")
    else:
        is_doubtful = False
    return _unless_recreated(receipt, state, decision) if is_doubtful else decision


def _unless_recreated(receipt: Receipt, state: IndexState, decision: Decision) -> Decision:
    """Return a decision that needs the index that accepted the mutation; RECREATED if this is another."""
    if state.created_on is None:
        return replace(decision, verdict=Verdict.CREATION, outcome=None)
    accepted_at = receipt.first_accepted_at or receipt.accepted_at
    if accepted_at is None or state.created_on - accepted_at <= CLOCK_TOLERANCE:
        return decision
    reason = f"the index was created at {format_time(state.created_on)}, after this mutation was accepted"
    return Decision(Verdict.RECREATED, reason=reason)


def _must_have_applied(receipt: Receipt, state: IndexState) -> bool:
    """Return whether the index that accepted a mutation must have applied one by now."""
    had_vectors = receipt.witness_ids or any(witness.before for witness in receipt.witness_vectors)
    return bool(had_vectors) or _is_old(receipt, state)


def _is_old(receipt: Receipt, state: IndexState) -> bool:
    """Return whether a mutation is older than mutations take to be applied."""
    if receipt.accepted_at is None:
        return False
    jobs = max(receipt.batches // limits.MUTATIONS_PER_JOB, receipt.count // limits.VECTORS_PER_JOB)
    return state.observed_at - receipt.accepted_at >= INFERENCE_TIME + jobs * INFERENCE_TIME_PER_JOB


def _decide_in_one_index(
    receipt: Receipt, state: IndexState, found: Mapping[str, WitnessVector] | None, at_deadline: bool
) -> Decision:
    """Decide, assuming that this index accepted the mutation."""
    if receipt.mutation_id is None:
        return Decision(Verdict.APPLIED, "nothing_to_do", "nothing was sent")
    # For a stand-in, the watermark of one mutation proves nothing about the others.
    if state.watermark == receipt.mutation_id and receipt.mutations == 1:
        return _decide_by_watermark(receipt, state, found, at_deadline)
    if receipt.bare or receipt.accepted_at is None:
        return Decision(
            Verdict.PENDING, reason=f"{state}; without a receipt, only its own watermark proves the mutation"
        )
    decision = _about_witnesses(receipt, found)
    if state.watermark is None:
        return decision(Verdict.PENDING, reason=str(state))
    stamp = state.processed_up_to
    if stamp is not None and receipt.accepted_at - stamp > CLOCK_TOLERANCE:
        return decision(Verdict.PENDING, reason=f"{state}, before this mutation was accepted")
    # The watermark is another mutation and not older: this one was overtaken, or is still in a backlog.
    old_enough = stamp is not None and stamp >= receipt.accepted_at and _is_old(receipt, state)
    if receipt.to_read_back:
        return _decide_by_witnesses(receipt, state, found, old_enough, at_deadline)
    if old_enough:
        age = state.observed_at - receipt.accepted_at
        return Decision(
            Verdict.APPLIED,
            "inferred",
            f"{state}, and this mutation was accepted {age.total_seconds():.0f} s ago; there was no witness "
            "to read back",
        )
    return Decision(Verdict.PENDING, reason=f"{state}; this mutation has no witness to read back")


def _decide_by_watermark(
    receipt: Receipt, state: IndexState, found: Mapping[str, WitnessVector] | None, at_deadline: bool
) -> Decision:
    """Decide on a mutation that is the watermark: the service itself says that it is applied."""
    if not receipt.to_read_back:
        return Decision(Verdict.APPLIED, "watermark", "the watermark is this mutation")
    if found is None:
        return Decision(Verdict.READ_BACK, reason="the watermark is this mutation")
    if receipt.witness_ids:
        contrary = _contrary(receipt, found)
        decision = partial(Decision, still_visible=contrary, witnesses_checked=len(receipt.witness_ids))
        seen, count = "gone", _count_visible(receipt, contrary)
    else:
        # Not compared with what was written: the service may round the values.
        contrary = _as_before(receipt, found)
        decision = partial(Decision, differing=contrary, witnesses_checked=len(receipt.witness_vectors))
        seen, count = (
            "written",
            f"{len(contrary)} of {counted(len(receipt.witness_vectors), 'witness', 'are')} as before",
        )
    if not contrary:
        return decision(
            Verdict.APPLIED, "watermark", f"the watermark is this mutation, and its witnesses are {seen}"
        )
    reason = f"the watermark is this mutation, but {count} (the read lags, or another client wrote them)"
    since = state.processed_up_to or receipt.accepted_at
    late = since is not None and state.observed_at - since >= VISIBILITY_PATIENCE
    if late or at_deadline:
        return decision(Verdict.APPLIED, "watermark", reason)
    return decision(Verdict.PENDING, reason=reason)


def _decide_by_witnesses(
    receipt: Receipt,
    state: IndexState,
    found: Mapping[str, WitnessVector] | None,
    old_enough: bool,
    at_deadline: bool,
) -> Decision:
    """Decide by its witnesses on a mutation that may have been overtaken."""
    if found is None:
        return Decision(Verdict.READ_BACK, reason=f"{state}, perhaps later than this mutation")
    decision = _about_witnesses(receipt, found)
    contrary = _contrary(receipt, found)
    is_delete = bool(receipt.witness_ids)
    if not contrary:
        how = "are gone" if is_delete else "read back as they were written"
        return decision(Verdict.APPLIED, "read_back", f"{state}, and the witnesses {how}")
    stamp = state.processed_up_to
    idle = timedelta(0) if stamp is None else state.observed_at - stamp
    # The index has applied nothing for so long that no mutation can be pending.
    settled = old_enough and idle >= INFERENCE_TIME
    count = _count_visible(receipt, contrary) if is_delete else _count_differing(receipt, contrary)
    reason = f"{state}, and {count} (not applied yet, or another client wrote them)"
    if len(contrary) < len(receipt.to_read_back) and old_enough:
        # The service applies a mutation as a whole, so one witness proves it; the others were written again.
        # A delete of several batches has witnesses of several mutations, so its age decides.
        outcome = "inferred" if is_delete and receipt.batches > 1 else "read_back"
        return decision(Verdict.APPLIED, outcome, reason)
    changed = not is_delete and all(id_ in found for id_ in contrary) and not _as_before(receipt, found)
    if changed and (settled or at_deadline):
        # How the service rounds is unknown: these may be the vectors written, but not the earlier ones.
        return decision(Verdict.APPLIED, "present_differs", reason)
    if settled:
        return decision(Verdict.APPLIED, "inferred", f"{reason}; nothing has been applied since")
    return decision(Verdict.PENDING, reason=reason)


def _contrary(receipt: Receipt, found: Mapping[str, WitnessVector]) -> tuple[str, ...]:
    """Return the ids of the witnesses that do not show the mutation as applied."""
    if receipt.witness_ids:
        return tuple(id_ for id_ in receipt.witness_ids if id_ in found)
    return tuple(w.id for w in receipt.witness_vectors if not w.is_as_written(found.get(w.id)))


def _as_before(receipt: Receipt, found: Mapping[str, WitnessVector]) -> tuple[str, ...]:
    """Return the ids of an insert's or upsert's witnesses that are still as before the write."""
    return tuple(w.id for w in receipt.witness_vectors if w.is_as_before(found.get(w.id)))


def _about_witnesses(receipt: Receipt, found: Mapping[str, WitnessVector] | None) -> Callable[..., Decision]:
    """Return a constructor of decisions that have the result of reading the witnesses."""
    if found is None:
        return Decision
    contrary = _contrary(receipt, found)
    checked = len(receipt.to_read_back)
    if receipt.witness_ids:
        return partial(Decision, still_visible=contrary, witnesses_checked=checked)
    return partial(Decision, differing=contrary, witnesses_checked=checked)


def _count_visible(receipt: Receipt, visible: tuple[str, ...]) -> str:
    return f"{len(visible)} of {counted(len(receipt.witness_ids), 'witness')} can still be read"


def _count_differing(receipt: Receipt, differing: tuple[str, ...]) -> str:
    witnesses = counted(len(receipt.witness_vectors), "witness", "are")
    return f"{len(differing)} of {witnesses} absent or not as they were written"


def is_later(one: Receipt, other: Receipt) -> bool:
    """Return whether one mutation was certainly accepted after another of the same index."""
    if one.accepted_at is None or other.accepted_at is None:
        return False
    return one.accepted_at - other.accepted_at > CLOCK_TOLERANCE


def settle(receipts: Sequence[Receipt], decisions: Sequence[Decision], state: IndexState) -> list[Decision]:
    """
    Decide on the mutations of a wait that were accepted before one known to be applied.

    The service applies mutations in the order of acceptance, so the later one proves the pending ones, and is
    stronger evidence for the inferred ones. A later write of the same ids may hide the earlier one.
    """
    proofs = [
        (receipt, decision.outcome)
        for receipt, decision in zip(receipts, decisions, strict=True)
        if decision.outcome in ("watermark", "read_back")
    ]

    def settled(receipt: Receipt, decision: Decision) -> Decision:
        later = [proof for proof in proofs if is_later(proof[0], receipt)]
        is_open = decision.verdict is Verdict.PENDING or decision.outcome == "inferred"
        if not is_open or not later:
            return decision
        # A later write may have made the vectors visible again; a delete cannot.
        visible = decision.still_visible if all(proof.witness_ids for proof, _ in later) else ()
        outcome = min((outcome for _, outcome in later), key=lambda outcome: outcome != "watermark")
        reason = "a later mutation of this wait is known to be applied"
        proven = Decision(Verdict.APPLIED, outcome, reason, visible, decision.witnesses_checked)
        # The order holds within one index. The later mutation may belong to another index of this name.
        return _unless_recreated(receipt, state, proven)

    return [settled(receipt, decision) for receipt, decision in zip(receipts, decisions, strict=True)]
