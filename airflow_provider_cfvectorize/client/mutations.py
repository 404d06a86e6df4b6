# SPDX-License-Identifier: Apache-2.0
"""
Receipts of writes, and the one function that decides whether a write is applied: :func:`decide`.

Vectorize applies writes in the order of their acceptance, in batches, some seconds to minutes later, and
shows one watermark an index: the last mutation that was applied, by any writer. A later one overwrites it, so
the watermark of one's own mutation may never be seen. What can be seen, and what follows from it, is decided
here and nowhere else: the sensor in each of its modes, the trigger and the waiting operator all ask here.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any, Final, TypeGuard

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.ids import problem_with_id
from airflow_provider_cfvectorize.client.text import show
from airflow_provider_cfvectorize.client.witnesses import WitnessVector
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

#: The ``Date`` header that a receipt's ``accepted_at`` comes from has whole seconds, and clocks differ a
#: little.
CLOCK_TOLERANCE: Final = timedelta(seconds=2)
#: How long an applied delete's vectors may still be readable before that is reported: p99 of applying is
#: below two minutes (Cloudflare's changelog, 2026-06-30), and the views lag less than that.
VISIBILITY_PATIENCE: Final = timedelta(seconds=120)
#: After so long, plus :data:`INFERENCE_TIME_PER_JOB` for each full job's worth of batches, a mutation is
#: taken as applied if later ones were: more than twice the p99 of applying.
INFERENCE_TIME: Final = timedelta(seconds=300)
INFERENCE_TIME_PER_JOB: Final = timedelta(seconds=60)
#: A receipt younger than this is not worth a look: the median of applying is below 30 s (same changelog).
YOUNG: Final = timedelta(seconds=20)
#: Ids and batches that a receipt may count: more than fit into all the indexes of an account.
MAX_COUNT: Final = 10**12
#: Witnesses in a receipt that this package writes; those of others may have as many as one request can read.
MAX_WITNESSES: Final = 5

_MUTATION_ID = re.compile(rf"[A-Za-z0-9_-]{{1,{limits.MAX_MUTATION_ID_CHARS}}}", re.ASCII)


def is_mutation_id(value: object) -> TypeGuard[str]:
    """Say whether something can be the id of a mutation."""
    return isinstance(value, str) and bool(_MUTATION_ID.fullmatch(value))


def format_time(time: datetime | None) -> str | None:
    """Return a time as ISO 8601 in UTC with a ``Z``."""
    return None if time is None else time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def parse_time(text: object) -> datetime | None:
    """Return the time an ISO 8601 text stands for, None if it does not stand for one; naive ones are UTC."""
    if not isinstance(text, str):
        return None
    try:
        parsed = datetime.fromisoformat(text)
        return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


@dataclass(frozen=True, slots=True)
class Receipt:
    """
    What the service acknowledged, and what is needed to tell later whether it is applied.

    :param mutation_id: the id of the last mutation; None if nothing was sent.
    :param index_name: the index.
    :param account_id: the account.
    :param accepted_at: the server's clock when it accepted the last batch, whole seconds.
    :param count: number of ids sent.
    :param batches: number of requests they were sent in.
    :param witness_ids: of a delete, ids that existed before, in the batch of the last mutation; their absence
        proves it.
    :param bare: there is no receipt, only a mutation id.
    :param witness_vectors: of an insert or upsert, vectors of the batch of the last mutation that were not so
        before; that they read back as they were written proves it.
    """

    mutation_id: str | None
    index_name: str | None = None
    account_id: str | None = None
    accepted_at: datetime | None = None
    count: int = 0
    batches: int = 0
    witness_ids: tuple[str, ...] = ()
    bare: bool = False
    witness_vectors: tuple[WitnessVector, ...] = ()

    @property
    def to_read_back(self) -> tuple[str, ...]:
        """Return the ids of all witnesses."""
        return self.witness_ids or tuple(witness.id for witness in self.witness_vectors)

    def as_dict(self) -> dict[str, Any]:
        """Return the receipt as it goes into XCom and into a trigger's arguments."""
        receipt: dict[str, Any] = {
            "mutation_id": self.mutation_id,
            "index_name": self.index_name,
            "account_id": self.account_id,
            "accepted_at": format_time(self.accepted_at),
            "count": self.count,
            "batches": self.batches,
            "witness_ids": list(self.witness_ids),
        }
        if self.witness_vectors:
            receipt["witness_vectors"] = [witness.as_dict() for witness in self.witness_vectors]
        return receipt

    @classmethod
    def of_bare_id(cls, mutation_id: object) -> Receipt:
        """
        Return a stand-in for the receipt of a mutation of which only the id is known.

        :raises VectorizeInputError: this cannot be a mutation id.
        """
        if not is_mutation_id(mutation_id):
            raise VectorizeInputError(
                f"mutation_id {show(mutation_id)} cannot be one: expected the text that an upstream task "
                "returned, such as delete.output, or its receipt"
            )
        return cls(mutation_id, bare=True)

    @classmethod
    def from_dict(cls, value: object) -> Receipt:
        """
        Read a receipt back.

        :param value: what :meth:`as_dict` returned.
        :raises VectorizeInputError: it is not one, with the field that is wrong.
        """
        if not isinstance(value, Mapping) or "mutation_id" not in value:
            raise VectorizeInputError(
                f"receipt: got {show(value)}, expected the dict that an operator pushes under the XCom key "
                "'receipt'"
            )
        mutation_id = value["mutation_id"]
        if mutation_id is not None:
            cls.of_bare_id(mutation_id)
        accepted_at = parse_time(value.get("accepted_at"))
        if mutation_id is not None and accepted_at is None:
            raise VectorizeInputError(
                f"receipt: accepted_at is {show(value.get('accepted_at'))}, expected a time such as "
                "2026-01-31T23:59:59Z"
            )
        witnesses = value.get("witness_ids") or []
        if (
            not isinstance(witnesses, list | tuple)
            or len(witnesses) > limits.MAX_GET_IDS
            or not all(isinstance(id_, str) and problem_with_id(id_) is None for id_ in witnesses)
        ):
            raise VectorizeInputError(
                f"receipt: witness_ids is {show(witnesses)}, expected a list of at most {limits.MAX_GET_IDS} "
                "ids of 1 to 64 bytes"
            )
        vectors = value.get("witness_vectors") or []
        if (
            not isinstance(vectors, list | tuple)
            or len(vectors) > limits.MAX_GET_IDS
            or (vectors and witnesses)
        ):
            raise VectorizeInputError(
                f"receipt: witness_vectors is {show(vectors)}, expected a list of at most "
                f"{limits.MAX_GET_IDS}, and no witness_ids beside it"
            )
        numbers: dict[str, int] = {}
        for name in ("count", "batches"):
            number = value.get(name, 0)
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= MAX_COUNT:
                raise VectorizeInputError(
                    f"receipt: {name} is {show(number)}, expected a whole number from 0 to {MAX_COUNT}"
                )
            numbers[name] = number
        texts: dict[str, str | None] = {}
        for name in ("index_name", "account_id"):
            text = value.get(name)
            if text is not None and not isinstance(text, str):
                raise VectorizeInputError(f"receipt: {name} is {show(text)}, expected a string")
            texts[name] = text
        return cls(
            mutation_id,
            index_name=texts["index_name"],
            account_id=texts["account_id"],
            accepted_at=accepted_at,
            count=numbers["count"],
            batches=numbers["batches"],
            witness_ids=tuple(witnesses),
            witness_vectors=tuple(WitnessVector.from_dict(vector) for vector in vectors),
        )


@dataclass(frozen=True, slots=True)
class IndexState:
    """
    What one ``info`` request said.

    :param watermark: ``processedUpToMutation``; None before the first mutation.
    :param processed_up_to: ``processedUpToDatetime``; None where it is absent or null.
    :param observed_at: the server's clock when it said so.
    """

    watermark: str | None
    processed_up_to: datetime | None
    observed_at: datetime

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

    :param receipt: what was acknowledged.
    :param state: what the index shows.
    :param found: those witnesses that could be read, by id; None if they were not asked for.
    :param at_deadline: this is the last look.
    """
    if receipt.mutation_id is None:
        return Decision(Verdict.APPLIED, "nothing_to_do", "nothing was sent")
    if state.watermark == receipt.mutation_id:
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
    age = state.observed_at - receipt.accepted_at
    jobs = receipt.batches // limits.MUTATIONS_PER_JOB
    old_enough = (
        stamp is not None
        and stamp >= receipt.accepted_at
        and age >= INFERENCE_TIME + jobs * INFERENCE_TIME_PER_JOB
    )
    if receipt.to_read_back:
        return _decide_by_witnesses(receipt, state, found, old_enough, at_deadline)
    if old_enough:
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
    if not receipt.witness_ids:
        return Decision(Verdict.APPLIED, "watermark", "the watermark is this mutation")
    if found is None:
        return Decision(Verdict.READ_BACK, reason="the watermark is this mutation")
    decision = _about_witnesses(receipt, found)
    still_visible = _against(receipt, found)
    if not still_visible:
        return decision(
            Verdict.APPLIED, "watermark", "the watermark is this mutation, and its witnesses are gone"
        )
    reason = (
        f"the watermark is this mutation, but {_count_visible(receipt, still_visible)} (a lagging view, or "
        "written again since)"
    )
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
        # A mutation is applied whole, so one witness proves it; the others were written again since.
        return decision(Verdict.APPLIED, "read_back", reason)
    if not is_delete and all(id_ in found for id_ in against) and (settled or at_deadline):
        # Nobody knows how the service rounds, so that they differ is no proof of anything.
        return decision(Verdict.APPLIED, "present_differs", reason)
    if settled:
        return decision(Verdict.APPLIED, "inferred", f"{reason}; nothing has been applied since")
    return decision(Verdict.PENDING, reason=reason)


def _against(receipt: Receipt, found: Mapping[str, WitnessVector]) -> tuple[str, ...]:
    """Return the ids of the witnesses that do not show the mutation to be applied."""
    if receipt.witness_ids:
        return tuple(id_ for id_ in receipt.witness_ids if id_ in found)
    return tuple(witness.id for witness in receipt.witness_vectors if found.get(witness.id) != witness)


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
    return f"{len(visible)} of {len(receipt.witness_ids)} witnesses can still be read"


def _count_differing(receipt: Receipt, differing: tuple[str, ...]) -> str:
    return (
        f"{len(differing)} of {len(receipt.witness_vectors)} witnesses are absent or not as they were written"
    )
