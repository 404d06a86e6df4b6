# SPDX-License-Identifier: Apache-2.0
"""What the log and the index hold. Here and in the whole engine, a time is in seconds since the epoch."""

from __future__ import annotations

import struct
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from typing import Final, Literal, NamedTuple

Kind = Literal["insert", "upsert", "delete", "create_metadata_index", "delete_metadata_index"]

#: What a preset stands for: dimensions and metric.
PRESETS: Final[dict[str, tuple[int, str]]] = {
    "@cf/baai/bge-small-en-v1.5": (384, "cosine"),
    "@cf/baai/bge-base-en-v1.5": (768, "cosine"),
    "@cf/baai/bge-large-en-v1.5": (1024, "cosine"),
    "openai/text-embedding-ada-002": (1536, "cosine"),
    "cohere/embed-multilingual-v2.0": (768, "dot-product"),
}
METRICS: Final = ("cosine", "euclidean", "dot-product")
#: The types a metadata index can have, as they are asked for and as they are listed. The schema has the same
#: spelling for both; the live service lists them with a capital.
TYPES: Final = {"string": "String", "number": "Number", "boolean": "Boolean"}


class Vector(NamedTuple):
    """
    One vector, as small as it can be kept: an index may hold a million.

    ``values`` are little-endian float32; ``metadata`` is compact JSON, None if the vector has none;
    ``sequence`` is the place in the log of the mutation that wrote it.
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
    A metadata index of one property; levels of nesting are separated by ``.``.

    ``type`` is as it was asked for, in small letters; ``sequence`` is the place in the log of the mutation
    that created it.
    """

    property: str
    type: str
    sequence: int


#: A value of a property as its metadata index has it.
Value = str | float | bool | None


@dataclass(frozen=True, slots=True)
class Mutation:
    """
    One entry of an index's log; ``sequence`` is its place in the order of acceptance.

    ``property`` and ``index_type`` are those of a metadata index that is created or deleted.
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
    """One operator on one property; ``operands`` is one value, or all those of ``$in`` and ``$nin``."""

    property: str
    operator: str
    operands: tuple[Value, ...]


@dataclass(frozen=True, kw_only=True)
class Query:
    """
    A query.

    :param vector: The vector asked about; None if it is one of the index.
    :param vector_id: The id of that one; empty if there is a vector.
    :param top_k: The most matches.
    :param namespace: The namespace to search; None searches all vectors.
    :param conditions: What the metadata must fulfil.
    :param values: Whether matches have their values.
    :param metadata: ``none``, ``indexed`` or ``all``: what they have of their metadata.
    """

    vector: tuple[float, ...] | None
    vector_id: str
    top_k: int
    namespace: str | None
    conditions: tuple[Condition, ...]
    values: bool
    metadata: str


class Watermark(NamedTuple):
    """The last mutation applied and the time that goes with it, in seconds since the epoch."""

    mutation_id: str
    at: float


@dataclass(frozen=True, slots=True)
class IndexConfig:
    """What an index was created with."""

    name: str
    description: str
    dimensions: int
    metric: str
    preset: str | None
    created_on: float


def iso(at: float, digits: Literal["milliseconds", "microseconds"]) -> str:
    """Write a time with ``Z``: ``info`` has milliseconds, the description of an index microseconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec=digits).replace("+00:00", "Z")


def nanoseconds(at: float) -> str:
    """Write a time as ``list`` does: nine fractional digits and ``+00:00``."""
    seconds, fraction = divmod(round(at * 1_000_000_000), 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{fraction:09d}+00:00"


def http_date(at: float) -> bytes:
    """Write a time as the ``Date`` header does."""
    return formatdate(int(at), usegmt=True).encode("ascii")


@dataclass(frozen=True, slots=True)
class Batch:
    """What one job applied; readers see it from ``visible_at`` on, seconds since the epoch."""

    visible_at: float
    mutations: list[Mutation]
