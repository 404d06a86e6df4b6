# SPDX-License-Identifier: Apache-2.0
"""
Vectors as witnesses of a write: short digests of the written vectors, to compare with what is read back.

The existence of a vector does not prove that it was replaced, so its content is compared. One digest is of
the values as the service can at best return them (32 bits each, documented), rounded to 5 significant digits.
The other is of namespace and metadata, in any order of keys. How the service rounds is documented nowhere.
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
    The digests of a vector, which identify its content.

    :param values: the digest of its values, 32 hexadecimal digits.
    :param metadata: the digest of its namespace and metadata, 32 hexadecimal digits.
    :param before: both digests, joined, of the vector that had this id before the write; None if none had.
    """

    id: str
    values: str
    metadata: str
    before: str | None = None

    @classmethod
    def of(cls, vector: Mapping[str, Any]) -> WitnessVector:
        """
        Return the digests of a vector.

        :param vector: has ``id``, and ``values`` if its content is to be compared.
        """
        # An empty namespace or metadata counts as none: the service may return either.
        about = [vector.get("namespace") or None, vector.get("metadata") or None]
        return cls(vector["id"], _digest(_rounded(vector.get("values"))), _digest(_canonical(about)))

    def known_before(self, vector: WitnessVector | None) -> WitnessVector:
        """
        Return this witness with its content before the write.

        :param vector: the vector as read before the write; None if it did not exist.
        """
        return replace(self, before=None if vector is None else vector._content)

    def is_as_written(self, vector: WitnessVector | None) -> bool:
        """Return whether a vector (None if it does not exist) reads back as it was written."""
        return vector is not None and vector._content == self._content

    def is_as_before(self, vector: WitnessVector | None) -> bool:
        """Return whether a vector (None if it does not exist) reads back as before the write."""
        return (None if vector is None else vector._content) == self.before

    @property
    def _content(self) -> str:
        return self.values + self.metadata

    def as_dict(self) -> dict[str, str | None]:
        """Return the witness as it goes into a receipt."""
        return {"id": self.id, "values": self.values, "metadata": self.metadata, "before": self.before}

    @classmethod
    def from_dict(cls, value: object) -> WitnessVector:
        """Read the result of :meth:`as_dict`."""
        match value:
            case {"id": str() as id_, "values": str() as values, "metadata": str() as metadata, **others}:
                before = others.get("before")
                digests = [values, metadata]
                if isinstance(before, str):
                    digests += [before[: 2 * _DIGEST_BYTES], before[2 * _DIGEST_BYTES :]]
                if all(map(_DIGEST.fullmatch, digests)) and isinstance(before, str | None):
                    return cls(id_, values, metadata, before)
        raise VectorizeInputError(
            f"receipt: witness_vectors has {show(value)}, expected an object with id, before, values and "
            f"metadata; the last two are digests of {2 * _DIGEST_BYTES} hexadecimal digits"
        )


def found_among(vectors: Iterable[Mapping[str, Any]]) -> dict[str, WitnessVector]:
    """Return the digests of the vectors that a read found, by id."""
    return {vector["id"]: WitnessVector.of(vector) for vector in vectors}


def _rounded(values: object) -> str:
    if not isinstance(values, Sequence):
        return "none"
    try:
        # As 32 bits first, which the service stores: 0.123455 and its nearest such number round differently.
        stored = struct.unpack(f"<{len(values)}f", struct.pack(f"<{len(values)}f", *values))
    except (struct.error, OverflowError, TypeError):
        return "no numbers"
    # Adding zero turns -0.0 into 0.0.
    return ",".join(f"{value + 0.0:.4e}" for value in stored)


def _canonical(value: object) -> str:
    # ASCII shows each change that the service makes to a text, and can always be encoded.
    return json.dumps(_with_plain_numbers(value), sort_keys=True, separators=(",", ":"))


def _with_plain_numbers(value: object) -> object:
    # The service may return 1 as 1.0. Recursion is safe: metadata was checked for size and depth.
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
