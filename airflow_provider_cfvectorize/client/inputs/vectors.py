# SPDX-License-Identifier: Apache-2.0
"""
Checks vectors one by one and writes them as NDJSON.

There are two kinds of checks, because the service has two kinds of refusals. It calls a line that is not a
vector unparsable, and can skip it. For a vector beyond a limit, it refuses the whole request.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from numbers import Real
from typing import Any, BinaryIO, Final, NoReturn, TypeAlias

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.inputs.ids import problem_with_id, problem_with_text, text_of_key
from airflow_provider_cfvectorize.client.inputs.text import counted, show, write_json
from airflow_provider_cfvectorize.client.types import Vector
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

#: The input of a write: vectors, or NDJSON as bytes or in a file opened in binary mode.
Vectors: TypeAlias = Iterable[Mapping[str, Any]] | bytes | bytearray | memoryview | BinaryIO

#: The largest finite 32-bit number; the service stores values with 32 bits (documented).
MAX_VALUE: Final = 3.4028234663852886e38

#: The most levels of metadata. The service's errors have the form of Rust's usual JSON reader, which reads at
#: most 128 levels in all.
MAX_METADATA_LEVELS: Final = 100

_NUMBERS: Final = frozenset({int, float})


def read_values(values: Any) -> Sequence[float]:
    """
    Return the values of a vector: finite numbers that the service can store.

    :param values: a sequence of numbers, or an object with ``tolist()``, such as an array of numpy or of
        ``array``, a pandas Series or a torch tensor.
    :raises ValueError: they are invalid; the text says why, such as "is empty".
    """
    if hasattr(values, "tolist"):
        values = values.tolist()
    if isinstance(values, str | bytes | bytearray) or not isinstance(values, Sequence):
        raise ValueError(f"is {show(values)}, expected a list of numbers")
    if not len(values):
        raise ValueError("is empty")
    # Testing all values at once takes a tenth of the time. Only after a failure, test one by one.
    if isinstance(values, list | tuple) and _NUMBERS.issuperset(map(type, values)):
        try:
            # A sum shows not-a-number; min and max may not.
            if math.isfinite(sum(values)) and max(values) <= MAX_VALUE and min(values) >= -MAX_VALUE:
                return values
        except OverflowError:
            pass
    return [_read_number(value, position) for position, value in enumerate(values)]


def _read_number(value: Any, position: int) -> float:
    # Python's booleans are numbers, numpy's are not.
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        is_nested = isinstance(value, Sequence) and not isinstance(value, str | bytes)
        hint = ": values have one dimension" if is_nested else ""
        raise ValueError(f"has {show(value)} at position {position}, expected numbers{hint}")
    try:
        number = float(value)
    except (OverflowError, ValueError):
        number = math.inf
    if not -MAX_VALUE <= number <= MAX_VALUE:
        raise ValueError(f"has {show(number)} at position {position}, which is not a finite 32-bit number")
    return value if isinstance(value, int) else number


def problem_with_namespace(namespace: object) -> str | None:
    """Return what is wrong with the name of a namespace; None if it is valid."""
    if not isinstance(namespace, str):
        return "is not a string"
    return problem_with_text(namespace, limits.MAX_NAMESPACE_BYTES)


def read_vector(value: object) -> Mapping[str, Any]:
    """
    Return a vector with a text as its id and a list as its values; see also :func:`problem_with_caps`.

    :param value: an object with ``id`` (:func:`~airflow_provider_cfvectorize.client.inputs.ids.text_of_key`),
        ``values`` (:func:`read_values`) and optional ``namespace`` and ``metadata``.
    :raises ValueError: it is not a vector; the text says why, such as "has no id".
    """
    if not isinstance(value, Mapping):
        raise ValueError(f"is {show(value)}, expected an object with id and values")
    id_ = text_of_key(value.get("id"))
    if "id" not in value:
        raise ValueError("has no id")
    if id_ is None:
        raise ValueError(f"has {show(value['id'])} as its id, expected a string or an integer")
    if "values" not in value:
        raise ValueError("has no values")
    try:
        values = read_values(value["values"])
    except ValueError as e:
        raise ValueError(f"has a list of values that {e}") from None
    namespace = value.get("namespace")
    if namespace is not None and not isinstance(namespace, str):
        raise ValueError(f"has {show(namespace)} as its namespace, expected a string")
    metadata = value.get("metadata")
    if metadata is not None and not isinstance(metadata, Mapping):
        raise ValueError(f"has {show(metadata)} as its metadata, expected an object")
    if metadata and _is_too_deep(metadata):
        raise ValueError(f"has metadata of more than {MAX_METADATA_LEVELS} levels")
    is_plain = isinstance(value, dict) and id_ is value["id"] and values is value["values"]
    return value if is_plain else {**value, "id": id_, "values": values}


def _is_too_deep(metadata: object) -> bool:
    # Without recursion, because the input can have any depth.
    level: list[object] = [metadata]
    for _ in range(MAX_METADATA_LEVELS):
        level = [
            inner
            for value in level
            for inner in (value.values() if isinstance(value, Mapping) else value)  # type: ignore[attr-defined]
            if isinstance(inner, Mapping | list | tuple)
        ]
        if not level:
            return False
    return True


def problem_with_caps(vector: Mapping[str, Any], dimensions: int | None = None) -> str | None:
    """
    Return which limit of the service a vector exceeds; None if it exceeds none.

    :param vector: the result of :func:`read_vector`.
    :param dimensions: the number of values that it must have; None for any.
    """
    if problem := problem_with_id(vector["id"]):
        return f"has an id that {problem}"
    got = len(vector["values"])
    if got != dimensions and (dimensions is not None or got > limits.MAX_DIMENSIONS):
        expected = f"at most {limits.MAX_DIMENSIONS}" if dimensions is None else str(dimensions)
        return f"has {counted(got, 'value')}, expected {expected}"
    namespace = vector.get("namespace")
    if namespace is not None and (problem := problem_with_namespace(namespace)):
        return f"has a namespace that {problem}"
    metadata = vector.get("metadata")
    return None if metadata is None else _problem_with_metadata(metadata)


def _problem_with_metadata(metadata: Mapping[str, Any]) -> str | None:
    # Keys: https://developers.cloudflare.com/vectorize/best-practices/insert-vectors/. Without recursion,
    # because the input can have any depth.
    left: list[object] = [metadata]
    try:
        size = len(write_json(metadata))
    except VectorizeInputError as e:
        return f"has invalid metadata: {e}"
    if size > limits.MAX_METADATA_BYTES:
        return f"has {size} bytes of metadata as compact JSON, expected at most {limits.MAX_METADATA_BYTES}"
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
    Return the value in a line of NDJSON.

    :raises ValueError: it is not JSON in UTF-8; NaN and Infinity are not JSON.
    """
    try:
        return json.loads(line.decode(), parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("too deep") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def check_unparsable_behavior(value: object) -> None:
    """
    Check the service's action for lines that it cannot parse.

    :param value: None for the service's default.
    :raises VectorizeInputError: it is neither ``error`` nor ``discard``.
    """
    if value not in (None, "error", "discard"):
        raise VectorizeInputError(f"unparsable_behavior is {show(value)}, expected 'error' or 'discard'")


def write_ndjson(vectors: Iterable[Vector]) -> bytes:
    """
    Return vectors as the NDJSON of one request. The service refuses JSON that is not a vector.

    :raises VectorizeInputError: there are more than one request can have, or one of them cannot be JSON.
    """
    if isinstance(vectors, str | Mapping):
        raise VectorizeInputError(
            f"vectors is {show(vectors)}, expected a list of vectors, or NDJSON as bytes"
        )
    lines: list[bytes] = []
    for position, vector in enumerate(vectors):
        if position == limits.MAX_UPSERT_VECTORS:
            raise VectorizeInputError(
                f"vectors has more than {limits.MAX_UPSERT_VECTORS} items, the most in one request: the "
                "hook's method of this name sends any number"
            )
        problem = ""
        read: Mapping[str, Any] = vector
        try:
            read = read_vector(vector)
        except ValueError as e:
            problem = f"the vector {e}"
        try:
            lines.append(write_json(read))
        except VectorizeInputError as e:
            raise VectorizeInputError(f"vectors: at position {position}, {problem or e}") from None
    return b"\n".join([*lines, b""])
