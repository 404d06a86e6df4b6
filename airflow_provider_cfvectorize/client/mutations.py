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
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any, Final, TypeGuard

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.ids import problem_with_id
from airflow_provider_cfvectorize.client.text import show
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
    :param witness_ids: ids that existed before, in the batch of the last mutation; their absence proves it.
    :param bare: there is no receipt, only a mutation id.
    """

    mutation_id: str | None
    index_name: str | None = None
    account_id: str | None = None
    accepted_at: datetime | None = None
    count: int = 0
    batches: int = 0
    witness_ids: tuple[str, ...] = ()
    bare: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return the receipt as it goes into XCom and into a trigger's arguments."""
        return {
            "mutation_id": self.mutation_id,
            "index_name": self.index_name,
            "account_id": self.account_id,
            "accepted_at": format_time(self.accepted_at),
            "count": self.count,
            "batches": self.batches,
            "witness_ids": list(self.witness_ids),
        }

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
    :param outcome: how an applied mutation is known to be: ``watermark``, ``read_back``, ``inferred`` or
        ``nothing_to_do``.
    :param reason: one sentence for people.
    :param still_visible: witnesses of an applied mutation that can still be read.
    :param witnesses_checked: number of witnesses that were read back.
    """

    verdict: Verdict
    outcome: str | None = None
    reason: str = ""
    still_visible: tuple[str, ...] = ()
    witnesses_checked: int = 0


def decide(
    receipt: Receipt, state: IndexState, visible: Collection[str] | None = None, *, at_deadline: bool = False
) -> Decision:
    """
    Decide whether a mutation is applied; a pure function, the only one that does.

    :param receipt: what was acknowledged.
    :param state: what the index shows.
    :param visible: those witnesses that could be read; None if they were not asked for.
    :param at_deadline: this is the last look.
    """
    if receipt.mutation_id is None:
        return Decision(Verdict.APPLIED, "nothing_to_do", "nothing was sent")
    witnesses = receipt.witness_ids
    still_visible = tuple(id_ for id_ in witnesses if visible is not None and id_ in visible)
    checked = len(witnesses) if visible is not None else 0
    decision = partial(Decision, still_visible=still_visible, witnesses_checked=checked)
    count_visible = f"{len(still_visible)} of {len(witnesses)} witnesses can still be read"

    if state.watermark == receipt.mutation_id:
        if not witnesses:
            return Decision(Verdict.APPLIED, "watermark", "the watermark is this mutation")
        if visible is None:
            return Decision(Verdict.READ_BACK, reason="the watermark is this mutation")
        if not still_visible:
            return decision(
                Verdict.APPLIED, "watermark", "the watermark is this mutation, and its witnesses are gone"
            )
        reason = (
            f"the watermark is this mutation, but {count_visible} (a lagging view, or written again since)"
        )
        since = state.processed_up_to or receipt.accepted_at
        late = since is not None and state.observed_at - since >= VISIBILITY_PATIENCE
        if late or at_deadline:
            return decision(Verdict.APPLIED, "watermark", reason)
        return decision(Verdict.PENDING, reason=reason)

    if receipt.bare or receipt.accepted_at is None:
        return Decision(
            Verdict.PENDING, reason=f"{state}; without a receipt only its own watermark proves it"
        )
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
    if not witnesses:
        if old_enough:
            return Decision(
                Verdict.APPLIED,
                "inferred",
                f"{state}, and this mutation was accepted {age.total_seconds():.0f} s ago; there was no "
                "witness to read back",
            )
        return Decision(Verdict.PENDING, reason=f"{state}; this mutation has no witness to read back")
    if visible is None:
        return Decision(Verdict.READ_BACK, reason=f"{state}, perhaps later than this mutation")
    if not still_visible:
        return decision(Verdict.APPLIED, "read_back", f"{state}, and the witnesses are gone")
    reason = f"{state}, and {count_visible} (not applied yet, or written again since)"
    idle = timedelta(0) if stamp is None else state.observed_at - stamp
    if len(still_visible) < len(witnesses) and old_enough:
        # A delete is applied whole, so one witness gone proves it; the others were written again since.
        return decision(Verdict.APPLIED, "read_back", reason)
    if old_enough and idle >= INFERENCE_TIME:
        # The index has applied nothing for so long that nothing can be waiting to be applied.
        return decision(Verdict.APPLIED, "inferred", f"{reason}; nothing has been applied since")
    return decision(Verdict.PENDING, reason=reason)
