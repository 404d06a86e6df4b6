# SPDX-License-Identifier: Apache-2.0
"""
Receipts of writes: the acknowledged mutations and the data that later decides whether they are applied.

The operators push them to XCom in ``operators/base.py``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, Final

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.inputs.ids import problem_with_id
from airflow_provider_cfvectorize.client.inputs.text import counted, show
from airflow_provider_cfvectorize.client.mutations.witnesses import WitnessVector
from airflow_provider_cfvectorize.client.types import Mutation, is_mutation_id
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

#: The XCom key under which an operator pushes its receipt.
RECEIPT_KEY: Final = "receipt"
#: The XCom key under which a waiting operator pushes its evidence.
EVIDENCE_KEY: Final = "evidence"
#: The largest count in a receipt: more than fits into all the indexes of an account.
MAX_COUNT: Final = 10**12
#: Witnesses in a receipt of this package. A receipt of others may have as many as one request can read.
MAX_WITNESSES: Final = 5
#: The most characters of JSON for the receipts of a wait in a trigger's arguments. With the other arguments
#: and Fernet, which adds a third, the row has less than 16 KiB; MySQL allows 64 KiB.
MAX_ARGUMENT_CHARS: Final = 8 * 1024
#: Characters that Airflow 2 adds to each receipt to mark it as a dict.
_DICT_MARK_CHARS: Final = 32
_NEVER: Final = datetime.max.replace(tzinfo=UTC)


def format_time(time: datetime | None) -> str | None:
    """Return a time as ISO 8601 in UTC with a ``Z``."""
    return None if time is None else time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def parse_time(text: object) -> datetime | None:
    """Return the time in an ISO 8601 text, None if it has none; a time without a zone is UTC."""
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
    What the service acknowledged, and what decides later whether it is applied.

    :param mutation_id: the id of the last mutation; None if nothing was sent.
    :param index_name: the index.
    :param account_id: the account.
    :param accepted_at: the server's clock when it accepted the last batch, whole seconds.
    :param count: number of ids or vectors sent.
    :param batches: number of requests.
    :param witness_ids: for a delete, ids of the last batch and of up to two others that existed before; their
        absence proves the delete.
    :param bare: there is no receipt, only a mutation id.
    :param witness_vectors: for an insert or upsert, vectors of the last batch that were absent or different
        before; reading them back as they were written proves the write.
    :param sampled: for a delete, number of ids read before anything was sent.
    :param existing: for a delete, number of those that existed.
    :param mutations: number of mutations; more than 1 for a stand-in, see ``condense``.
    :param first_accepted_at: for a stand-in, when the first of its mutations was accepted.
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
    sampled: int | None = None
    existing: int | None = None
    mutations: int = 1
    first_accepted_at: datetime | None = None

    @property
    def to_read_back(self) -> tuple[str, ...]:
        """Return the ids of all witnesses."""
        return self.witness_ids or tuple(witness.id for witness in self.witness_vectors)

    @property
    def amount(self) -> str:
        """Return the number of ids or vectors as a text."""
        what = "ids" if self.witness_ids else "vectors" if self.witness_vectors else "ids or vectors"
        return f"{what}: {self.count}"

    def acceptance(self, noun: str) -> str:
        """
        Return the log line of the acceptance.

        :param noun: what was sent: ``id`` or ``vector``.
        """
        if self.mutation_id is None:
            return f"No {noun}s, so nothing was sent."
        return (
            f"Accepted: {counted(self.count, noun)} in {counted(self.batches, 'request')}; the last mutation "
            f"is {self.mutation_id}, it has {counted(len(self.to_read_back), 'witness')}."
        )

    def as_dict(self) -> dict[str, Any]:
        """Return the receipt as it goes into XCom."""
        receipt: dict[str, Any] = {
            "mutation_id": self.mutation_id,
            "index_name": self.index_name,
            "account_id": self.account_id,
            "accepted_at": format_time(self.accepted_at),
            "count": self.count,
            "batches": self.batches,
            "witness_ids": list(self.witness_ids),
        }
        if self.sampled is not None:
            receipt |= {"sampled": self.sampled, "existing": self.existing}
        if self.witness_vectors:
            receipt["witness_vectors"] = [witness.as_dict() for witness in self.witness_vectors]
        if self.bare:
            receipt["bare"] = True
        return receipt

    def as_argument(self) -> dict[str, Any]:
        """Return the receipt for a trigger's arguments, which name index and account once."""
        left_out = ("index_name", "account_id", "sampled", "existing")
        argument = {name: value for name, value in self.as_dict().items() if value and name not in left_out}
        if self.mutations > 1:
            argument["mutations"] = self.mutations
            argument["first_accepted_at"] = format_time(self.first_accepted_at)
        return argument

    @classmethod
    def from_argument(cls, value: Mapping[str, Any]) -> Receipt:
        """Read the result of :meth:`as_argument`."""
        receipt = cls.from_dict(value)
        first = parse_time(value.get("first_accepted_at"))
        return replace(receipt, mutations=value.get("mutations", 1), first_accepted_at=first)

    @classmethod
    def of(cls, mutation: Mutation | None, index_name: str, account_id: str, **known: Any) -> Receipt:
        """
        Return the receipt of a write.

        :param mutation: the last mutation, as the client returns it; None if nothing was sent.
        :param known: the other fields.
        """
        if mutation is not None:
            known["accepted_at"] = parse_time(mutation["accepted_at"])
        return cls(mutation["mutationId"] if mutation else None, index_name, account_id, **known)

    @classmethod
    def of_bare_id(cls, mutation_id: object) -> Receipt:
        """
        Return a receipt for a mutation of which only the id is known.

        :raises VectorizeInputError: the id is invalid.
        """
        if not is_mutation_id(mutation_id):
            raise VectorizeInputError(
                f"invalid mutation_id {show(mutation_id)}: expected the text that an upstream task "
                "returned, such as delete.output, or its receipt"
            )
        return cls(mutation_id, bare=True)

    @classmethod
    def from_dict(cls, value: object) -> Receipt:
        """
        Read the result of :meth:`as_dict`.

        :raises VectorizeInputError: it is invalid; the error names the field.
        """
        if not isinstance(value, Mapping) or "mutation_id" not in value:
            raise VectorizeInputError(
                f"receipt is {show(value)}, expected the dict that an operator pushes under the XCom key "
                f"{RECEIPT_KEY!r}"
            )
        mutation_id = value["mutation_id"]
        if value.get("bare") is True:
            return cls.of_bare_id(mutation_id)
        if mutation_id is not None:
            cls.of_bare_id(mutation_id)
        accepted_at = parse_time(value.get("accepted_at"))
        if mutation_id is not None and accepted_at is None:
            raise VectorizeInputError(
                f"receipt: accepted_at is {show(value.get('accepted_at'))}, expected a time such as "
                "2026-01-31T23:59:59Z"
            )
        witnesses, vectors = (value.get(name) or [] for name in ("witness_ids", "witness_vectors"))
        if not _is_few(witnesses) or not all(
            isinstance(w, str) and problem_with_id(w) is None for w in witnesses
        ):
            raise VectorizeInputError(
                f"receipt: witness_ids is {show(witnesses)}, expected a list of at most {limits.MAX_GET_IDS} "
                "ids of 1 to 64 bytes"
            )
        if not _is_few(vectors) or (vectors and witnesses):
            raise VectorizeInputError(
                f"receipt: witness_vectors is {show(vectors)}, expected a list of at most "
                f"{limits.MAX_GET_IDS} vectors, and none together with witness_ids"
            )
        witness_vectors = tuple(WitnessVector.from_dict(vector) for vector in vectors)
        for witness in witness_vectors:
            if problem := problem_with_id(witness.id):
                raise VectorizeInputError(
                    f"receipt: the id of a witness vector, {show(witness.id)}, {problem}"
                )
        numbers: dict[str, int] = {}
        for name in ("count", "batches", "sampled", "existing"):
            number = value.get(name, 0)
            if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number <= MAX_COUNT:
                raise VectorizeInputError(
                    f"receipt: {name} is {show(number)}, expected an integer from 0 to {MAX_COUNT}"
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
            sampled=numbers["sampled"] if "sampled" in value else None,
            existing=numbers["existing"] if "existing" in value else None,
            witness_ids=tuple(witnesses),
            witness_vectors=witness_vectors,
        )


def _is_few(value: object) -> bool:
    return isinstance(value, list | tuple) and len(value) <= limits.MAX_GET_IDS


def condense(receipts: Sequence[Receipt]) -> Sequence[Receipt]:
    """
    Return few enough receipts for a trigger's row. To wait for them is to wait for all.

    The newest receipts stay. One stand-in without witnesses replaces the others. It has their latest time of
    acceptance and their largest counts, so none of them would wait longer without its witnesses. A newer
    mutation that is known to be applied proves it, and so does its age.

    :param receipts: mutations of one index, each once.
    """
    # Bare ids first: only its own watermark proves one, so no newer mutation may replace it.
    newest_first = sorted(receipts, key=lambda one: (one.bare, one.accepted_at or _NEVER), reverse=True)
    room = MAX_ARGUMENT_CHARS
    for count, receipt in enumerate(newest_first):
        room -= len(json.dumps(receipt.as_argument())) + _DICT_MARK_CHARS
        if room < 0 and count:
            return [*newest_first[:count], _stand_in(newest_first[count:])]
    return receipts


def _stand_in(newest_first: Sequence[Receipt]) -> Receipt:
    newest, oldest = newest_first[0], newest_first[-1]
    return Receipt(
        newest.mutation_id,
        accepted_at=newest.accepted_at,
        count=max(receipt.count for receipt in newest_first),
        batches=max(receipt.batches for receipt in newest_first),
        bare=newest.bare,
        mutations=len(newest_first),
        first_accepted_at=oldest.accepted_at,
    )
