# SPDX-License-Identifier: Apache-2.0
"""
Vectors as witnesses of a write: short digests of what was written, to compare with what is read back.

That a vector is there does not prove that it was replaced, so its content is compared. The digests are of the
values as the service can at best return them (32 bits each, documented), rounded to 5 significant digits, and
of namespace and metadata without regard to the order of keys. How the service rounds is nowhere on record.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

#: Bytes of a digest.
_DIGEST_BYTES: Final = 16
_DIGEST = re.compile(rf"[0-9a-f]{{{2 * _DIGEST_BYTES}}}", re.ASCII)


@dataclass(frozen=True, slots=True)
class WitnessVector:
    """
    What is kept of a vector to know it again.

    :param id: its id.
    :param values: a digest of its values, 32 hexadecimal digits.
    :param metadata: a digest of its namespace and metadata, 32 hexadecimal digits.
    :param before: what of these two was read of a vector of that id before the write, one behind the other;
        None if there was none.
    """

    id: str
    values: str
    metadata: str
    before: str | None = None

    @classmethod
    def of(cls, vector: Mapping[str, Any]) -> WitnessVector:
        """
        Return the digests of a vector that was checked, or that the service returned.

        :param vector: what has an ``id`` and, in any case that matters, ``values``.
        """
        # An empty namespace or metadata and none are not told apart: the service may return either.
        about = [vector.get("namespace") or None, vector.get("metadata") or None]
        return cls(vector["id"], _digest(_rounded(vector.get("values"))), _digest(_canonical(about)))

    def known_before(self, vector: WitnessVector | None) -> WitnessVector:
        """
        Return the same with what was there before.

        :param vector: what was read before the write; None if there was no such vector.
        """
        return replace(self, before=None if vector is None else vector._content)

    def is_as_written(self, vector: WitnessVector | None) -> bool:
        """Say whether a vector that was read, None if there was none, is what was written."""
        return vector is not None and vector._content == self._content

    def is_as_before(self, vector: WitnessVector | None) -> bool:
        """Say whether a vector that was read, None if there was none, is still what was there before."""
        return (None if vector is None else vector._content) == self.before

    @property
    def _content(self) -> str:
        return self.values + self.metadata

    def as_dict(self) -> dict[str, str | None]:
        """Return it as it stands in a receipt."""
        return {"id": self.id, "values": self.values, "metadata": self.metadata, "before": self.before}

    @classmethod
    def from_dict(cls, value: object) -> WitnessVector:
        """Read one back."""
        match value:
            case {"id": str() as id_, "values": str() as values, "metadata": str() as metadata, **others}:
                before = others.get("before")
                digests = [values, metadata]
                if isinstance(before, str):
                    digests += [before[: 2 * _DIGEST_BYTES], before[2 * _DIGEST_BYTES :]]
                if all(map(_DIGEST.fullmatch, digests)) and isinstance(before, str | None):
                    return cls(id_, values, metadata, before)
        raise VectorizeInputError(
            f"receipt: {show(value)} among the witness_vectors, expected an object with an id, two digests "
            f"of {2 * _DIGEST_BYTES} hexadecimal digits (values and metadata) and what was there before"
        )


def found_among(vectors: Iterable[Mapping[str, Any]]) -> dict[str, WitnessVector]:
    """Return the vectors that a read found, by their ids."""
    return {vector["id"]: WitnessVector.of(vector) for vector in vectors}


def _rounded(values: object) -> str:
    if not isinstance(values, Sequence):
        return "none"
    try:
        # First as the service stores them: 0.123455 and its nearest number of 32 bits round differently.
        stored = struct.unpack(f"<{len(values)}f", struct.pack(f"<{len(values)}f", *values))
    except (struct.error, OverflowError, TypeError):
        return "no numbers"
    # Adding zero makes one of the two zeros.
    return ",".join(f"{value + 0.0:.4e}" for value in stored)


def _canonical(value: object) -> str:
    # ASCII, so that whatever the service does to text shows and nothing fails.
    return json.dumps(_with_plain_numbers(value), sort_keys=True, separators=(",", ":"))


def _with_plain_numbers(value: object) -> object:
    # 1 may come back as 1.0. Metadata has at most 10 KiB, and nothing too deep for this is sent.
    if isinstance(value, Mapping):
        return {str(key): _with_plain_numbers(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_with_plain_numbers(item) for item in value]
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return str(value)
    return value


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).hexdigest()
