# SPDX-License-Identifier: Apache-2.0
"""The engine's data types: vectors, mutations, queries, configurations. Times are epoch seconds."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Final, Literal, NamedTuple

Kind = Literal["insert", "upsert", "delete", "create_metadata_index", "delete_metadata_index"]

#: Dimensions and metric of each preset.
PRESETS: Final[dict[str, tuple[int, str]]] = {
    "@cf/baai/bge-small-en-v1.5": (384, "cosine"),
    "@cf/baai/bge-base-en-v1.5": (768, "cosine"),
    "@cf/baai/bge-large-en-v1.5": (1024, "cosine"),
    "openai/text-embedding-ada-002": (1536, "cosine"),
    "cohere/embed-multilingual-v2.0": (768, "dot-product"),
}
METRICS: Final = ("cosine", "euclidean", "dot-product")
#: The types of metadata indexes, as requests spell them and as responses list them. The schema has one
#: spelling for both, but the live service lists them with a capital.
TYPES: Final = {"string": "String", "number": "Number", "boolean": "Boolean"}


class Vector(NamedTuple):
    """
    A vector in compact form: an index may hold a million.

    ``values`` are little-endian float32. ``metadata`` is compact JSON, None if the vector has none.
    ``sequence`` is the sequence number of the mutation that wrote it.
    """

    id: str
    values: bytes
    namespace: str | None
    metadata: str | None
    sequence: int = 0

    def floats(self) -> tuple[float, ...]:
        """Return the values as numbers."""
        return struct.unpack(f"<{len(self.values) // 4}f", self.values)


class MetadataIndex(NamedTuple):
    """
    A metadata index of one property, with ``.`` between levels of nesting.

    ``type`` is a key of :data:`TYPES`. ``sequence`` is the sequence number of the mutation that created it.
    """

    property: str
    type: str
    sequence: int


#: A value in a metadata index.
Value = str | float | bool | None


@dataclass(frozen=True, slots=True)
class Mutation:
    """
    An entry in the log of an index; ``sequence`` is its position in the order of acceptance.

    ``property`` and ``index_type`` belong to mutations that create or delete a metadata index.
    """

    sequence: int
    id: str
    kind: Kind
    accepted_at: float
    vectors: tuple[Vector, ...] = ()
    ids: tuple[str, ...] = ()
    property: str = ""
    index_type: str = ""


class Condition(NamedTuple):
    """One operator on one property. ``operands`` has one value, or all values of ``$in`` or ``$nin``."""

    property: str
    operator: str
    operands: tuple[Value, ...]


@dataclass(frozen=True, kw_only=True)
class Query:
    """
    A parsed query.

    :param vector: The query vector; None if the query names a vector of the index.
    :param vector_id: The id of that vector; empty if the query has a vector.
    :param top_k: The largest number of matches.
    :param namespace: The namespace to search; None searches all vectors.
    :param conditions: The conditions of the filter. A match fulfils all of them.
    :param values: Whether matches include their values.
    :param metadata: The metadata that matches include: ``none``, ``indexed`` or ``all``.
    """

    vector: tuple[float, ...] | None
    vector_id: str
    top_k: int
    namespace: str | None
    conditions: tuple[Condition, ...]
    values: bool
    metadata: str


class Watermark(NamedTuple):
    """The last applied mutation, and its ``processedUpToDatetime`` in seconds since the epoch."""

    mutation_id: str
    at: float


@dataclass(frozen=True, slots=True)
class IndexConfig:
    """The settings that an index was created with."""

    name: str
    description: str
    dimensions: int
    metric: str
    preset: str | None
    created_on: float


def iso(at: float, digits: Literal["milliseconds", "microseconds"]) -> str:
    """Format a time with ``Z``, with milliseconds for ``info`` or microseconds for an index's description."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec=digits).replace("+00:00", "Z")


def nanoseconds(at: float) -> str:
    """Format a time for ``list``, with nine fractional digits and ``+00:00``."""
    seconds, fraction = divmod(round(at * 1_000_000_000), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{fraction:09d}+00:00"


def http_date(at: float) -> bytes:
    """Format a time for the ``Date`` header."""
    return formatdate(int(at), usegmt=True).encode("ascii")


@dataclass(frozen=True, slots=True)
class Batch:
    """The mutations of one job. Reads show them from ``visible_at`` on, in seconds since the epoch."""

    visible_at: float
    mutations: list[Mutation]
