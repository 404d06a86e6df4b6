# SPDX-License-Identifier: Apache-2.0
"""
The one function that decides whether a write is applied: :func:`decide`.

Vectorize applies writes in the order of their acceptance, in batches, some seconds to minutes later, and
shows one watermark an index: the last mutation that was applied, by any writer. A later one overwrites it, so
the watermark of one's own mutation may never be seen. What can be seen, and what follows from it, is decided
here and nowhere else: the sensor in each of its modes, the trigger and the waiting operator all ask here.
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

#: The ``Date`` header that a receipt's ``accepted_at`` comes from has whole seconds, and clocks differ a
#: little.
CLOCK_TOLERANCE: Final = timedelta(seconds=2)
#: How long an applied delete's vectors may still be readable before that is reported: p99 of applying is
#: below two minutes (Cloudflare's changelog, 2026-06-30), and the views lag less than that.
VISIBILITY_PATIENCE: Final = timedelta(seconds=120)
#: After so long, plus :data:`INFERENCE_TIME_PER_JOB` for each full job's worth of batches or vectors, a
#: mutation is assumed applied if later ones already are: more than twice the p99 of applying.
INFERENCE_TIME: Final = timedelta(seconds=300)
INFERENCE_TIME_PER_JOB: Final = timedelta(seconds=60)
#: A receipt younger than this is not worth a look: the median of applying is below 30 s (same changelog).
YOUNG: Final = timedelta(seconds=20)
#: When an index was created of which the service does not tell: it counts as old.
LONG_AGO: Final = datetime.min.replace(tzinfo=UTC)
#: Mutations that the error at the end of a wait tells about.
EXPLAINED_WAITS: Final = 3


@dataclass(frozen=True, slots=True)
class IndexState:
    """
    What one ``info`` request said.

    :param watermark: ``processedUpToMutation``; None before the first mutation.
    :param processed_up_to: ``processedUpToDatetime``; None where it is absent or null.
    :param observed_at: the server's clock when it said so.
    :param created_on: when the index was created, by the same clock; None as long as nobody has asked. It
        takes a request of its own: :attr:`Verdict.CREATION`.
    """

    watermark: str | None
    processed_up_to: datetime | None
    observed_at: datetime
    created_on: datetime | None = None

    @classmethod
    def from_info(cls, info: Mapping[str, Any], observed_at: datetime) -> IndexState:
        """Read what :meth:`~airflow_provider_cfvectorize.client.client.VectorizeClient.info` returned."""
        watermark = info.get("processedUpToMutation")
        return cls(
            watermark if isinstance(watermark, str) else None,
            parse_time(info.get("processedUpToDatetime")),
            observed_at,
        )

    def __str__(self) -> str:
        if self.watermark is None:
            return "the index has applied no mutation yet"
        at = format_time(self.processed_up_to) or "a time the service does not say"
        return f"the watermark is {show(self.watermark)} of {at}"


class Verdict(Enum):
    """What :func:`decide` says."""

    PENDING = "pending"
    #: Whether it is applied depends on the witnesses: read them and ask again.
    READ_BACK = "read_back"
    #: The index may have been deleted and created again since: ask when it was created and decide again.
    CREATION = "creation"
    #: The index was created after it accepted the mutation, so this index never had it.
    RECREATED = "recreated"
    APPLIED = "applied"


@dataclass(frozen=True, slots=True)
class Decision:
    """
    A verdict, and how it is known.

    :param verdict: what is so.
    :param outcome: how an applied mutation is known to be: ``watermark``, ``read_back``, ``inferred``,
        ``present_differs`` or ``nothing_to_do``.
    :param reason: one sentence for people.
    :param still_visible: ids of a delete's witnesses that can still be read.
    :param witnesses_checked: number of witnesses that were read back.
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
    Decide whether a mutation is applied; a pure function, the only one that does.

    :param found: those witnesses that could be read, by id; None if they were not asked for.
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
    """Return a decision that holds only in the index that has accepted the mutation."""
    if state.created_on is None:
        return replace(decision, verdict=Verdict.CREATION, outcome=None)
    accepted_at = receipt.first_accepted_at or receipt.accepted_at
    if accepted_at is None or state.created_on - accepted_at <= CLOCK_TOLERANCE:
        return decision
    reason = f"the index was created at {format_time(state.created_on)}, after this mutation was accepted"
    return Decision(Verdict.RECREATED, reason=reason)


def _must_have_applied(receipt: Receipt, state: IndexState) -> bool:
    """Say whether the index that has accepted a mutation must have applied one by now."""
    had_vectors = receipt.witness_ids or any(witness.before for witness in receipt.witness_vectors)
    return bool(had_vectors) or _is_old(receipt, state)


def _is_old(receipt: Receipt, state: IndexState) -> bool:
    """Say whether a mutation was accepted longer ago than mutations take to be applied."""
    if receipt.accepted_at is None:
        return False
    jobs = max(receipt.batches // limits.MUTATIONS_PER_JOB, receipt.count // limits.VECTORS_PER_JOB)
    return state.observed_at - receipt.accepted_at >= INFERENCE_TIME + jobs * INFERENCE_TIME_PER_JOB


def _decide_in_one_index(
    receipt: Receipt, state: IndexState, found: Mapping[str, WitnessVector] | None, at_deadline: bool
) -> Decision:
    """Decide as if the index were the one that has accepted the mutation."""
    if receipt.mutation_id is None:
        return Decision(Verdict.APPLIED, "nothing_to_do", "nothing was sent")
    # The watermark of one of its mutations proves nothing of a stand-in's others.
    if state.watermark == receipt.mutation_id and receipt.mutations == 1:
        return _decide_by_watermark(receipt, state, found, at_deadline)
    if receipt.bare or receipt.accepted_at is None:
        return Decision(
            Verdict.PENDING, reason=f"{state}; without a receipt only its own watermark proves it"
        )
    decision = _about_witnesses(receipt, found)
    if state.watermark is None:
        return decision(Verdict.PENDING, reason=str(state))
    stamp = state.processed_up_to
    if stamp is not None and receipt.accepted_at - stamp > CLOCK_TOLERANCE:
        return decision(Verdict.PENDING, reason=f"{state}, before this mutation was accepted")
    # Another mutation's watermark, not older than this one: perhaps overtaken, perhaps still behind a
    # backlog.
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
    """Decide on a mutation whose watermark is there: the service says itself that it is applied."""
    if not receipt.to_read_back:
        return Decision(Verdict.APPLIED, "watermark", "the watermark is this mutation")
    if found is None:
        return Decision(Verdict.READ_BACK, reason="the watermark is this mutation")
    if receipt.witness_ids:
        against = _against(receipt, found)
        decision = partial(Decision, still_visible=against, witnesses_checked=len(receipt.witness_ids))
        seen, count = "gone", _count_visible(receipt, against)
    else:
        # Whether they are as they were written is not asked here: the service may round them.
        against = _as_before(receipt, found)
        decision = partial(Decision, differing=against, witnesses_checked=len(receipt.witness_vectors))
        seen, count = (
            "written",
            f"{len(against)} of {counted(len(receipt.witness_vectors), 'witness', 'are')} as before",
        )
    if not against:
        return decision(
            Verdict.APPLIED, "watermark", f"the watermark is this mutation, and its witnesses are {seen}"
        )
    reason = f"the watermark is this mutation, but {count} (a lagging view, or written again since)"
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
    """Decide on a mutation that perhaps was overtaken, by what can be read of its witnesses."""
    if found is None:
        return Decision(Verdict.READ_BACK, reason=f"{state}, perhaps later than this mutation")
    decision = _about_witnesses(receipt, found)
    against = _against(receipt, found)
    is_delete = bool(receipt.witness_ids)
    if not against:
        how = "are gone" if is_delete else "read back as they were written"
        return decision(Verdict.APPLIED, "read_back", f"{state}, and the witnesses {how}")
    stamp = state.processed_up_to
    idle = timedelta(0) if stamp is None else state.observed_at - stamp
    # The index has applied nothing for so long that nothing can be waiting to be applied.
    settled = old_enough and idle >= INFERENCE_TIME
    count = _count_visible(receipt, against) if is_delete else _count_differing(receipt, against)
    reason = f"{state}, and {count} (not applied yet, or written again since)"
    if len(against) < len(receipt.to_read_back) and old_enough:
        # A mutation is applied whole, so one witness proves it; the others were written again since. A delete
        # of several batches has witnesses of several mutations, so there its age counts.
        outcome = "inferred" if is_delete and receipt.batches > 1 else "read_back"
        return decision(Verdict.APPLIED, outcome, reason)
    changed = not is_delete and all(id_ in found for id_ in against) and not _as_before(receipt, found)
    if changed and (settled or at_deadline):
        # Nobody knows how the service rounds, so they may be what was written. They are not what was there.
        return decision(Verdict.APPLIED, "present_differs", reason)
    if settled:
        return decision(Verdict.APPLIED, "inferred", f"{reason}; nothing has been applied since")
    return decision(Verdict.PENDING, reason=reason)


def _against(receipt: Receipt, found: Mapping[str, WitnessVector]) -> tuple[str, ...]:
    """Return the ids of the witnesses that do not show the mutation to be applied."""
    if receipt.witness_ids:
        return tuple(id_ for id_ in receipt.witness_ids if id_ in found)
    return tuple(w.id for w in receipt.witness_vectors if not w.is_as_written(found.get(w.id)))


def _as_before(receipt: Receipt, found: Mapping[str, WitnessVector]) -> tuple[str, ...]:
    """Return the ids of an insert's or upsert's witnesses that are still as they were before it."""
    return tuple(w.id for w in receipt.witness_vectors if w.is_as_before(found.get(w.id)))


def _about_witnesses(receipt: Receipt, found: Mapping[str, WitnessVector] | None) -> Callable[..., Decision]:
    """Return a maker of decisions that have what was read of the witnesses."""
    if found is None:
        return Decision
    against = _against(receipt, found)
    checked = len(receipt.to_read_back)
    if receipt.witness_ids:
        return partial(Decision, still_visible=against, witnesses_checked=checked)
    return partial(Decision, differing=against, witnesses_checked=checked)


def _count_visible(receipt: Receipt, visible: tuple[str, ...]) -> str:
    return f"{len(visible)} of {counted(len(receipt.witness_ids), 'witness')} can still be read"


def _count_differing(receipt: Receipt, differing: tuple[str, ...]) -> str:
    witnesses = counted(len(receipt.witness_vectors), "witness", "are")
    return f"{len(differing)} of {witnesses} absent or not as they were written"


def is_later(one: Receipt, other: Receipt) -> bool:
    """Say whether one mutation was certainly accepted after another of the same index."""
    if one.accepted_at is None or other.accepted_at is None:
        return False
    return one.accepted_at - other.accepted_at > CLOCK_TOLERANCE


def settle(receipts: Sequence[Receipt], decisions: Sequence[Decision], state: IndexState) -> list[Decision]:
    """
    Decide on those mutations of a wait that came before one which is known to be applied.

    These are the pending ones, and those that were inferred to be applied, which is known better now.

    Mutations are applied in the order of their acceptance. So of two writes of the same ids the later one
    proves the earlier, of which nothing may be left to see.
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
        # What is seen now may be the later one's doing; but no delete makes a vector visible.
        visible = decision.still_visible if all(proof.witness_ids for proof, _ in later) else ()
        outcome = min((outcome for _, outcome in later), key=lambda outcome: outcome != "watermark")
        reason = "a later mutation of this wait is known to be applied"
        proven = Decision(Verdict.APPLIED, outcome, reason, visible, decision.witnesses_checked)
        # The order holds within one index, and the later mutation may be of another of the same name.
        return _unless_recreated(receipt, state, proven)

    return [settled(receipt, decision) for receipt, decision in zip(receipts, decisions, strict=True)]
