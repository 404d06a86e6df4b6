# SPDX-License-Identifier: Apache-2.0
"""
Vectors on their way out: checked one by one, written as NDJSON, cut into requests.

The checks come in two kinds, because the service treats them differently: what is not a vector at all is what
it calls unparsable and can leave out; a vector beyond a cap is refused with the whole request.
"""

from __future__ import annotations

import io
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, NoReturn, TypeAlias, cast

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.files import MAX_NDJSON_LINE_BYTES, lines_of
from airflow_provider_cfvectorize.client.ids import problem_with_id
from airflow_provider_cfvectorize.client.session import write_json
from airflow_provider_cfvectorize.client.text import show
from airflow_provider_cfvectorize.client.types import Vector
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

#: What can be written: vectors, or NDJSON as bytes or in a file that was opened in binary mode.
Vectors: TypeAlias = Iterable[Vector] | bytes | bytearray | memoryview | BinaryIO

#: Bytes of one request. The service takes 100 MB (limits.MAX_UPLOAD_BYTES); this is what a worker holds, and
#: what is sent again after a lost connection.
MAX_REQUEST_BYTES: Final = 32 * 1000 * 1000
#: The largest finite number of 32 bits; the service stores no more (documented).
MAX_VALUE: Final = 3.4028234663852886e38

#: What a vector has; the schema names no more, and does not say what becomes of other keys.
_KEYS: Final = frozenset({"id", "values", "namespace", "metadata"})
_NOTED_KEYS: Final = 10
_NUMBERS: Final = frozenset({int, float})
_EXPECTED: Final = (
    'expected vectors such as {"id": "a", "values": [0.5, ...]}, or NDJSON as bytes or an open file'
)


@dataclass(frozen=True, slots=True)
class VectorBatch:
    """
    The body of one request.

    :param body: NDJSON.
    :param count: number of vectors in it.
    :param where: where they stand in the input, such as ``lines 1 to 5000``.
    :param is_last: there are no more.
    """

    body: bytes
    count: int
    where: str
    is_last: bool = False

    def __len__(self) -> int:
        return self.count


def problem_with_values(values: object) -> str | None:
    """Say what is wrong with the values of a vector; None if they are finite numbers that can be stored."""
    if not isinstance(values, list | tuple):
        hint = ": of a numpy array, pass .tolist()" if hasattr(values, "tolist") else ""
        return f"is {show(values)}, expected a list of numbers{hint}"
    if not values:
        return "is empty"
    # The first test is for all the values at once and takes a tenth of the time; the second says which.
    if _NUMBERS.issuperset(map(type, values)):
        try:
            # Not-a-number hides from min and max, and not from a sum.
            if math.isfinite(sum(values)) and max(values) <= MAX_VALUE and min(values) >= -MAX_VALUE:
                return None
        except OverflowError:
            pass
    for position, value in enumerate(values):
        if isinstance(value, bool) or not isinstance(value, int | float):
            hint = ": of a numpy array, pass .tolist()" if hasattr(value, "tolist") else ""
            return f"has {show(value)} at position {position}, expected numbers{hint}"
        if not -MAX_VALUE <= value <= MAX_VALUE:
            return f"has {show(value)} at position {position}, which is no finite number of 32 bits"
    return None


def problem_with_namespace(namespace: object) -> str | None:
    """Say what is wrong with the name of a namespace; None if it can be one."""
    if not isinstance(namespace, str):
        return "is not a string"
    try:
        size = len(namespace.encode())
    except UnicodeEncodeError:
        return "has half of a surrogate pair, which is not valid Unicode"
    if size > limits.MAX_NAMESPACE_BYTES:
        return f"has {size} bytes of UTF-8, the most is {limits.MAX_NAMESPACE_BYTES}"
    return None


def problem_with_shape(vector: object) -> str | None:
    """Say why something is no vector at all, None if it is one. The caps are another matter."""
    if not isinstance(vector, Mapping):
        return f"is {show(vector)}, expected an object with id and values"
    id_ = vector.get("id")
    if not isinstance(id_, str):
        return f"has {show(id_)} as its id, expected a string" if "id" in vector else "has no id"
    if "values" not in vector:
        return "has no values"
    if problem := problem_with_values(vector["values"]):
        return f"has values of which the list {problem}"
    namespace = vector.get("namespace")
    if namespace is not None and not isinstance(namespace, str):
        return f"has {show(namespace)} as its namespace, expected a string"
    metadata = vector.get("metadata")
    if metadata is not None and not isinstance(metadata, Mapping):
        return f"has {show(metadata)} as its metadata, expected an object"
    return None


def problem_with_caps(vector: Mapping[str, Any], dimensions: int | None = None) -> str | None:
    """
    Say which cap of the service a vector goes over; None if it keeps within all.

    :param vector: what :func:`problem_with_shape` has found to be a vector.
    :param dimensions: the number of values it must have; None for any.
    """
    if problem := problem_with_id(vector["id"]):
        return f"has an id that {problem}"
    got = len(vector["values"])
    if got != dimensions and (dimensions is not None or got > limits.MAX_DIMENSIONS):
        expected = f"at most {limits.MAX_DIMENSIONS}" if dimensions is None else str(dimensions)
        return f"has {got} values, expected {expected}"
    namespace = vector.get("namespace")
    if namespace is not None and (problem := problem_with_namespace(namespace)):
        return f"has a namespace that {problem}"
    metadata = vector.get("metadata")
    return None if metadata is None else _problem_with_metadata(metadata)


def _problem_with_metadata(metadata: Mapping[str, Any]) -> str | None:
    # https://developers.cloudflare.com/vectorize/best-practices/insert-vectors/ on keys. Without recursion:
    # how deep it is was the sender's choice.
    left: list[object] = [metadata]
    try:
        size = len(write_json(metadata))
    except VectorizeInputError as e:
        return f"has metadata of which no JSON can be made: {e}"
    if size > limits.MAX_METADATA_BYTES:
        return f"has {size} bytes of metadata as compact JSON, the most is {limits.MAX_METADATA_BYTES}"
    while left:
        value = left.pop()
        if isinstance(value, Mapping):
            for key in value:
                if not isinstance(key, str) or not key or key.startswith("$") or "." in key or '"' in key:
                    return (
                        f"has the key {show(key)} in its metadata: keys are strings that are not empty, have "
                        "no '.' or '\"' and do not begin with '$'"
                    )
            left.extend(value.values())
        elif isinstance(value, list | tuple):
            left.extend(value)
    return None


def parse_line(line: bytes) -> object:
    """
    Return what a line of NDJSON says.

    :param line: the line, without its end.
    :raises ValueError: it is not JSON in UTF-8; NaN and Infinity are not.
    """
    try:
        return json.loads(line.decode(), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("too deep") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


class VectorBatches:
    """
    Vectors in requests of at most 5,000 and 32 MB, in their order; only one request's bytes are held.

    Iterate once. Every vector is checked before the request it is in is made.

    :param vectors: vectors, or NDJSON as bytes or in a file that was opened in binary mode; empty lines are
        skipped.
    :param dimensions: the number of values that each must have, or what to ask for it when the first vector
        is there; None for as many as the first has.
    :param discard: leave out what is no vector; otherwise it is an error.
    :param name: what the vectors are called in errors: the parameter, and the path if there is one.
    :param max_vectors: the most vectors of one request.
    :param max_bytes: the most bytes of one request, unless a single vector is longer.
    :raises VectorizeInputError: what was passed cannot be vectors; on iterating, one of them cannot be, with
        its position (from 0) or its line (from 1).
    """

    def __init__(
        self,
        vectors: Vectors,
        *,
        dimensions: int | Callable[[], int | None] | None = None,
        discard: bool = False,
        name: str = "vectors",
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
            hint = "; of a path, pass open(path, 'rb')" if isinstance(vectors, str) else ""
            raise VectorizeInputError(f"{name}: got {show(vectors)}, {_EXPECTED}{hint}")
        else:
            self._vectors = vectors
        self._dimensions = dimensions
        self._discard = discard
        self._name = name
        self._max_vectors = max_vectors
        self._max_bytes = max_bytes
        #: Number of lines, or items, that were left out because they are no vectors.
        self.discarded = 0
        #: Keys of vectors that Vectorize does not know, with the place of the first vector that has it.
        self.unknown_keys: dict[str, str] = {}

    def __iter__(self) -> Iterator[VectorBatch]:
        # getvalue() of a BytesIO hands its bytes over without a copy.
        body = io.BytesIO()
        count = first = last = 0
        lines = self._lines()
        while True:
            # One vector ahead, to know the last request as such: it has the witnesses.
            try:
                following = next(lines, None)
            except Exception:
                if count == self._max_vectors:
                    yield self._batch(body, count, first, last)
                raise
            if following is None:
                break
            number, line = following
            if count == self._max_vectors or (count and body.tell() + len(line) + 1 > self._max_bytes):
                yield self._batch(body, count, first, last)
                body = io.BytesIO()
                count = 0
            first = first if count else number
            last = number
            count += 1
            body.write(line)
            body.write(b"\n")
        if count:
            yield self._batch(body, count, first, last, is_last=True)

    def _batch(
        self, body: io.BytesIO, count: int, first: int, last: int, *, is_last: bool = False
    ) -> VectorBatch:
        noun = "position" if self._file is None else "line"
        where = f"{noun} {first}" if first == last else f"{noun}s {first} to {last}"
        batch = VectorBatch(body.getvalue(), count, where, is_last)
        # Whoever has asked for the batch is the only one to hold it.
        body.close()
        return batch

    def _lines(self) -> Iterator[tuple[int, bytes]]:
        if self._file is None:
            for position, vector in enumerate(self._vectors):
                if self._is_good(vector, f"at position {position}, the vector"):
                    yield position, self._write(vector, position)
            return
        too_long = (
            f"{self._name}: a line has more than {MAX_NDJSON_LINE_BYTES} bytes: expected one JSON object a "
            "line, lines ended by LF or CRLF"
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
            if self._is_good(parsed, f"line {number}", problem):
                yield number, line

    def _is_good(self, vector: object, which: str, problem: str | None = None) -> bool:
        problem = problem or problem_with_shape(vector)
        if problem and self._discard:
            self.discarded += 1
            return False
        if not problem:
            checked = cast("Mapping[str, Any]", vector)
            if callable(self._dimensions):
                self._dimensions = self._dimensions()
            problem = problem_with_caps(checked, self._dimensions)
            if not problem:
                # All vectors of an index have as many values as it has dimensions.
                self._dimensions = len(checked["values"])
                if unknown := checked.keys() - _KEYS:
                    self._note(unknown, which)
                return True
        raise VectorizeInputError(f"{self._name}: {which} {problem}")

    def _note(self, unknown: Iterable[object], which: str) -> None:
        for key in unknown:
            if isinstance(key, str) and len(self.unknown_keys) < _NOTED_KEYS:
                self.unknown_keys.setdefault(key, which)

    def _write(self, vector: object, position: int) -> bytes:
        try:
            # Of a mapping that is no dict, no JSON can be made.
            return write_json(vector if isinstance(vector, dict) else dict(cast("Mapping[str, Any]", vector)))
        except VectorizeInputError as e:
            raise VectorizeInputError(f"{self._name}: at position {position}, {e}") from None


class _Bytewise:
    """A file of which every read gives bytes, or an error that says why not."""

    def __init__(self, file: Any, name: str) -> None:
        self._file = file
        self._name = name

    def read(self, size: int) -> bytes:
        chunk = self._file.read(size)
        if not isinstance(chunk, bytes):
            # None is what a file gives that has nothing yet: taken for its end, the rest would be lost.
            raise VectorizeInputError(
                f"{self._name}: reading the file gave {show(chunk)}, expected bytes: open it with "
                "open(path, 'rb')"
            )
        return chunk


def check_unparsable_behavior(value: object) -> None:
    """
    Refuse what the service does not know to do with lines that it cannot parse.

    :param value: what was passed; None for the service's default.
    :raises VectorizeInputError: it is neither ``error`` nor ``discard``.
    """
    if value not in (None, "error", "discard"):
        raise VectorizeInputError(f"unparsable_behavior {show(value)} is neither 'error' nor 'discard'")


def write_ndjson(vectors: Iterable[Vector]) -> bytes:
    """
    Return vectors as the NDJSON of one request; whether they are any, the service says.

    :param vectors: at most 5,000.
    :raises VectorizeInputError: there are more, or of one no JSON can be made.
    """
    if isinstance(vectors, str | Mapping):
        raise VectorizeInputError(
            f"vectors: got {show(vectors)}, expected a list of vectors, or NDJSON as bytes"
        )
    lines: list[bytes] = []
    for position, vector in enumerate(vectors):
        if position == limits.MAX_UPSERT_VECTORS:
            raise VectorizeInputError(
                f"vectors: there are more than {limits.MAX_UPSERT_VECTORS}, which is what one request takes: "
                "the hook's method of the same name sends any number"
            )
        try:
            lines.append(write_json(vector))
        except VectorizeInputError as e:
            raise VectorizeInputError(f"vectors: at position {position}, {e}") from None
    return b"\n".join([*lines, b""])
