# SPDX-License-Identifier: Apache-2.0
"""Cuts vectors into requests, in order, with only one request in memory."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, cast

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.inputs.files import MAX_NDJSON_LINE_BYTES, lines_of
from airflow_provider_cfvectorize.client.inputs.text import show, write_json
from airflow_provider_cfvectorize.client.inputs.vectors import (
    Vectors,
    parse_line,
    problem_with_caps,
    read_vector,
)
from airflow_provider_cfvectorize.client.workers import Stopped
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

#: The most bytes of a request. The service accepts 100 MB (limits.MAX_UPLOAD_BYTES), but a worker holds this
#: much in memory, and sends it again after a lost connection.
MAX_REQUEST_BYTES: Final = 32 * 1000 * 1000
#: The keys of a vector in the schema, which does not say how the service treats other keys.
_KEYS: Final = frozenset({"id", "values", "namespace", "metadata"})
_NOTED_KEYS: Final = 10
_EXPECTED: Final = (
    'expected vectors such as {"id": "a", "values": [0.5, ...]}, or NDJSON as bytes or an open file'
)


@dataclass(frozen=True, slots=True)
class VectorBatch:
    """
    The body of one request.

    :param body: NDJSON.
    :param count: number of vectors in it.
    :param where: their place in the input, such as ``lines 1 to 5000``.
    :param is_last: it is the last request.
    """

    body: bytes
    count: int
    where: str
    is_last: bool = False

    def __len__(self) -> int:
        return self.count


class VectorBatches:
    """
    Cuts vectors into requests of at most 5,000 vectors and 32 MB, in order, with one request in memory.

    Iterate once. This checks every vector before it makes the vector's request.

    :param vectors: vectors, or NDJSON as bytes or in a file that was opened in binary mode; empty lines are
        skipped.
    :param dimensions: the number of values of each vector, or a function that returns it, called for the
        first vector; None for the number of the first vector.
    :param discard: skip items that are not vectors. Without it, they are an error.
    :param name: the name of the vectors in errors: the parameter, and the path if there is one.
    :param max_vectors: the most vectors of a request.
    :param max_bytes: the most bytes of a request, unless a single vector is longer.
    :raises VectorizeInputError: the input is invalid; while iterating: a vector is invalid, with its position
        (from 0) or its line (from 1).
    """

    def __init__(
        self,
        vectors: Vectors,
        *,
        dimensions: int | Callable[[], int | None] | None = None,
        discard: bool = False,
        name: str = "vectors",
        stopped: Callable[[], bool] = lambda: False,
        max_vectors: int = limits.MAX_UPSERT_VECTORS,
        max_bytes: int = MAX_REQUEST_BYTES,
    ) -> None:
        self._file: BinaryIO | None = None
        self._vectors: Iterable[object] = ()
        if isinstance(vectors, bytes | bytearray | memoryview):
            self._file = io.BytesIO(vectors)
        elif hasattr(vectors, "read"):
            self._file = cast(BinaryIO, _Bytewise(vectors, name))
        elif isinstance(vectors, str | Mapping) or not isinstance(vectors, Iterable):
            hint = "; for a path, pass open(path, 'rb')" if isinstance(vectors, str) else ""
            raise VectorizeInputError(f"{name} is {show(vectors)}, {_EXPECTED}{hint}")
        else:
            self._vectors = vectors
        self._dimensions = dimensions
        self._discard = discard
        self._name = name
        self._stopped = stopped
        self._counts: dict[str, int] = {}
        self._earlier = _IdsOfEarlierRequests()
        self._max_vectors = max_vectors
        self._max_bytes = max_bytes
        #: Number of skipped lines or items that are not vectors.
        self.discarded = 0
        #: Keys that are not in the schema, each with the place of the first vector that has it.
        self.unknown_keys: dict[str, str] = {}

    def __iter__(self) -> Iterator[VectorBatch]:
        # getvalue() of a BytesIO returns its bytes without a copy.
        body = io.BytesIO()
        count = first = last = 0
        lines = self._lines()
        while True:
            if self._stopped():
                raise Stopped
            # Read one vector ahead, to recognize the last request: it has the witnesses.
            try:
                following = next(lines, None)
            except Exception:
                if count == self._max_vectors:
                    yield self._batch(body, count, first, last)
                raise
            if following is None:
                break
            number, line, id_ = following
            if count == self._max_vectors or (count and body.tell() + len(line) + 1 > self._max_bytes):
                yield self._batch(body, count, first, last)
                self._earlier.add(self._counts)
                self._counts.clear()
                body = io.BytesIO()
                count = 0
            self._counts[id_] = self._counts.get(id_, 0) + 1
            first = first if count else number
            last = number
            count += 1
            body.write(line)
            body.write(b"\n")
        if count:
            yield self._batch(body, count, first, last, is_last=True)

    def is_single(self, id_: str) -> bool:
        """Return whether an id of the last yielded request is in only one vector so far."""
        return self._counts.get(id_) == 1 and id_ not in self._earlier

    def _batch(
        self, body: io.BytesIO, count: int, first: int, last: int, *, is_last: bool = False
    ) -> VectorBatch:
        noun = "position" if self._file is None else "line"
        where = f"{noun} {first}" if first == last else f"{noun}s {first} to {last}"
        batch = VectorBatch(body.getvalue(), count, where, is_last)
        # Only the caller keeps the batch.
        body.close()
        return batch

    def _lines(self) -> Iterator[tuple[int, bytes, str]]:
        if self._file is None:
            for position, vector in enumerate(self._vectors):
                read = self._read(vector, f"at position {position}, the vector")
                if read is not None:
                    yield position, self._write(read, position), read["id"]
            return

        def too_long(line: int) -> str:
            return (
                f"{self._name}: line {line} has more than {MAX_NDJSON_LINE_BYTES} bytes: expected one JSON "
                "object a line, lines ended by LF or CRLF"
            )

        for number, line in enumerate(lines_of(self._file, MAX_NDJSON_LINE_BYTES, too_long), 1):
            if not line or line.isspace():
                continue
            parsed: object = None
            problem = None
            try:
                parsed = parse_line(line)
            except ValueError:
                problem = f"({len(line)} bytes) is not JSON in UTF-8"
            read = self._read(parsed, f"line {number}", problem)
            if read is not None:
                # A line is sent unchanged, unless its id is an integer.
                yield number, line if read is parsed else write_json(read), read["id"]

    def _read(self, vector: object, which: str, problem: str | None = None) -> Mapping[str, Any] | None:
        try:
            if problem:
                raise ValueError(problem)
            read = read_vector(vector)
        except ValueError as e:
            if self._discard:
                self.discarded += 1
                return None
            raise VectorizeInputError(f"{self._name}: {which} {e}") from None
        if callable(self._dimensions):
            self._dimensions = self._dimensions()
        if problem := problem_with_caps(read, self._dimensions):
            raise VectorizeInputError(f"{self._name}: {which} {problem}")
        # All vectors of an index have as many values as it has dimensions.
        self._dimensions = len(read["values"])
        if unknown := read.keys() - _KEYS:
            self._note(unknown, which)
        return read

    def _note(self, unknown: Iterable[object], which: str) -> None:
        for key in unknown:
            if isinstance(key, str) and len(self.unknown_keys) < _NOTED_KEYS:
                self.unknown_keys.setdefault(key, which)

    def _write(self, vector: Mapping[str, Any], position: int) -> bytes:
        try:
            return write_json(vector)
        except VectorizeInputError as e:
            raise VectorizeInputError(f"{self._name}: at position {position}, {e}") from None


class _IdsOfEarlierRequests:
    """
    A Bloom filter of ids, of 4 MiB for any number of ids.

    For a million ids, it mistakes 1 in 250 other ids for one of them. Such an id cannot be a witness, which
    is harmless while there are other ids.
    """

    _BITS: Final = 25

    def __init__(self) -> None:
        self._bits = bytearray()

    def add(self, ids: Iterable[str]) -> None:
        # Most fills are a single request and need no filter.
        self._bits = self._bits or bytearray(1 << (self._BITS - 3))
        for id_ in ids:
            for bit in self._places(id_):
                self._bits[bit >> 3] |= 1 << (bit & 7)

    def __contains__(self, id_: str) -> bool:
        return bool(self._bits) and all(self._bits[bit >> 3] & 1 << (bit & 7) for bit in self._places(id_))

    def _places(self, id_: str) -> tuple[int, int]:
        number = hash(id_)
        mask = (1 << self._BITS) - 1
        return number & mask, number >> self._BITS & mask


class _Bytewise:
    """A file whose reads return bytes, or raise an error that says why not."""

    def __init__(self, file: Any, name: str) -> None:
        self._file = file
        self._name = name

    def read(self, size: int) -> bytes:
        chunk = self._file.read(size)
        if not isinstance(chunk, bytes):
            # None means no data yet. If it counted as the end, the rest would be lost.
            raise VectorizeInputError(
                f"{self._name}: reading the file returned {show(chunk)}, expected bytes: open it with "
                "open(path, 'rb')"
            )
        return chunk
