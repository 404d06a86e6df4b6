# SPDX-License-Identifier: Apache-2.0
"""
Parses and checks request bodies and parameters.

A whole body is checked before any of it is accepted, so that a request makes one mutation or none.
"""

from __future__ import annotations

import json
import math
import re
import struct
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.local import errors
from airflow_provider_cfvectorize.local.engine.model import METRICS, PRESETS, TYPES, IndexConfig, Vector

if TYPE_CHECKING:
    from starlette.requests import Request

    from airflow_provider_cfvectorize.local.behaviour import Behaviour

#: The schema's pattern without its nested repetition, which takes exponential time on some names.
_INDEX_NAME: Final = re.compile(r"[a-z][a-z0-9_-]*[a-z0-9]")
_LIST_COUNT: Final = re.compile(r"[0-9]{1,9}")
#: A form has delimiters and headers beside its NDJSON.
MAX_BODY_BYTES: Final = limits.MAX_UPLOAD_BYTES + 64 * 1024
#: The types of numbers. They are compared exactly, because bool is a subclass of int.
NUMBERS: Final = frozenset({int, float})
_VECTOR_FIELDS: Final = frozenset({"id", "values", "namespace", "metadata"})
_MISSING: Final = object()
#: Levels of nesting in metadata: the default of serde_json, whose error texts look like the service's.
_MAX_DEPTH: Final = 127


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


# Python's decoder accepts NaN and Infinity, which are not JSON and would reappear in responses.
_DECODER: Final = json.JSONDecoder(parse_constant=_no_constant)
ENCODER: Final = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))


async def read_body(request: Request) -> bytes:
    """
    Read a body of limited size.

    :raises ApiError: The body is too large.
    """
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > MAX_BODY_BYTES:
        raise errors.refusal("oversized_upload", limit=limits.MAX_UPLOAD_BYTES)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > MAX_BODY_BYTES:
            raise errors.refusal("oversized_upload", limit=limits.MAX_UPLOAD_BYTES)
        chunks.append(chunk)
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def parse_json(body: bytes) -> dict[str, Any]:
    """
    Parse a JSON body.

    :return: The object.
    :raises ApiError: The body is not a JSON object.
    """
    try:
        parsed = _DECODER.decode(body.decode("utf-8"))
    except json.JSONDecodeError as e:
        raise errors.refusal(
            "not_json", detail=f"expected value at line {e.lineno} column {e.colno}"
        ) from None
    except (ValueError, RecursionError):
        raise errors.refusal("not_json", detail="expected value") from None
    if not isinstance(parsed, dict):
        raise errors.refusal("not_json", detail="expected a JSON object")
    return parsed


def utf8_length(text: str) -> int:
    """Return the length of a text in UTF-8, in bytes; -1 if a lone surrogate makes it invalid."""
    if text.isascii():
        return len(text)
    try:
        return len(text.encode("utf-8"))
    except UnicodeEncodeError:
        return -1


def parse_ids(body: dict[str, Any], limit: int, behaviour: Behaviour) -> list[str]:
    """
    Return the ids in the body of ``delete_by_ids`` or ``get_by_ids``.

    :return: The ids in their order, duplicates included.
    :raises ApiError: An id is invalid, or there are too many.
    """
    ids = body.get("ids", _MISSING)
    if ids is _MISSING:
        if behaviour.missing_ids == "refuse":
            raise errors.refusal("missing_ids")
        return []
    if not isinstance(ids, list):
        raise errors.refusal("not_json", detail="ids: expected a sequence")
    if not ids and behaviour.empty_ids == "refuse":
        raise errors.refusal("empty_ids")
    if len(ids) > limit:
        raise errors.refusal("too_many_ids", limit=limit, got=len(ids))
    for position, vector_id in enumerate(ids):
        if not isinstance(vector_id, str):
            raise errors.refusal("not_json", detail=f"ids[{position}]: expected a string")
        length = utf8_length(vector_id)
        if length < 0:
            raise errors.refusal("not_json", detail=f"ids[{position}]: lone surrogate")
        check_id_length(length, behaviour)
    return ids


def check_id_length(length: int, behaviour: Behaviour) -> None:
    """Refuse an id that is too long or empty."""
    if length > limits.MAX_ID_BYTES:
        raise errors.refusal("id_too_long", limit=limits.MAX_ID_BYTES, got=length)
    if length == 0 and behaviour.empty_id == "refuse":
        raise errors.refusal("empty_id")


def check_namespace_length(length: int) -> None:
    """Refuse a namespace that is too long."""
    if length > limits.MAX_NAMESPACE_BYTES:
        raise errors.refusal("namespace_too_long", limit=limits.MAX_NAMESPACE_BYTES, got=length)


def parse_list_count(value: str | None) -> int:
    """
    Parse the parameter ``count`` of ``list``.

    :raises ApiError: It is not a number from 1 to 1,000.
    """
    if value is None:
        return limits.DEFAULT_LIST_COUNT
    if not _LIST_COUNT.fullmatch(value) or not 1 <= int(value) <= limits.MAX_LIST_COUNT:
        raise errors.refusal("invalid_list_count", limit=limits.MAX_LIST_COUNT)
    return int(value)


def parse_index(body: dict[str, Any], created_on: float) -> IndexConfig:
    """
    Parse the body of a request to create an index.

    :raises ApiError: The name or the configuration is invalid.
    """
    name = body.get("name")
    if (
        not isinstance(name, str)
        or len(name) > limits.MAX_INDEX_NAME_BYTES
        or not _INDEX_NAME.fullmatch(name)
    ):
        raise errors.refusal("invalid_name")
    description = body.get("description")
    if description is None:
        description = ""
    if not isinstance(description, str) or utf8_length(description) < 0:
        raise errors.refusal("not_json", detail="description: expected a string")
    config = body.get("config")
    if config is None:
        raise errors.refusal("invalid_config", detail="Config must be provided")
    if not isinstance(config, dict):
        raise errors.refusal("not_json", detail="config: expected an object")
    preset = config.get("preset")
    if preset is not None:
        if config.get("dimensions") is not None and config.get("metric") is not None:
            # The schema allows one of the two. Ignoring one would hide a mistake.
            raise errors.refusal(
                "invalid_config",
                detail="Config must have dimensions and metric, or a preset, not both",
            )
        if not isinstance(preset, str) or preset not in PRESETS:
            raise errors.refusal("invalid_config", detail=f"Preset must be one of: {', '.join(PRESETS)}")
        return IndexConfig(name, description, *PRESETS[preset], preset, created_on)
    dimensions = config.get("dimensions")
    if type(dimensions) is not int or not limits.MIN_DIMENSIONS <= dimensions <= limits.MAX_DIMENSIONS:
        raise errors.refusal(
            "invalid_config",
            detail=f"Dimensions must be in range: [{limits.MIN_DIMENSIONS}, {limits.MAX_DIMENSIONS}]",
        )
    metric = config.get("metric")
    if not isinstance(metric, str) or metric not in METRICS:
        raise errors.refusal("invalid_config", detail=f"Metric must be one of: {', '.join(METRICS)}")
    return IndexConfig(name, description, dimensions, metric, None, created_on)


def key_problem(key: str) -> str | None:
    """
    Check the name of a property in a filter or metadata index, with ``.`` between levels of nesting.

    :return: The broken rule; None if the name is valid.
    """
    if len(key) > limits.MAX_FILTER_KEY_CHARS:
        return f"must not be longer than {limits.MAX_FILTER_KEY_CHARS} characters"
    if '"' in key or "|" in key:
        return 'must not contain " or |'
    for part in key.split("."):
        if not part:
            return "must not be empty"
        if part.startswith("$"):
            return "must not start with $"
    return None


def parse_property(body: dict[str, Any]) -> str:
    """
    Return the property in the body of ``metadata_index/create`` or ``/delete``.

    :raises ApiError: It is missing or invalid.
    """
    name = body.get("propertyName")
    if not isinstance(name, str):
        raise errors.refusal("not_json", detail="propertyName: expected a string")
    if utf8_length(name) < 0:
        raise errors.refusal("not_json", detail="propertyName: lone surrogate")
    problem = key_problem(name)
    if problem is not None:
        raise errors.refusal("invalid_property_name", problem=problem)
    return name


def parse_type(body: dict[str, Any]) -> str:
    """
    Return the type in the body of ``metadata_index/create``.

    :raises ApiError: It is not one of the three types.
    """
    index_type = body.get("indexType")
    if not isinstance(index_type, str) or index_type not in TYPES:
        raise errors.refusal("not_json", detail=f"indexType: expected one of {', '.join(TYPES)}")
    return index_type


def parse_vectors(
    body: bytes, operation: str, dimensions: int, discard: bool, behaviour: Behaviour
) -> list[Vector]:
    """
    Parse the NDJSON of an insert or upsert.

    :param discard: Whether to skip lines that cannot be parsed; if not, they fail the request.
    :return: The vectors in their order.
    :raises ApiError: A line is not a vector, a vector does not fit the index, or there are too many.
    """
    if len(body) > limits.MAX_UPLOAD_BYTES:
        raise errors.refusal("oversized_upload", limit=limits.MAX_UPLOAD_BYTES)
    lines = [(number, line) for number, line in enumerate(body.split(b"\n")) if line and not line.isspace()]
    if len(lines) > limits.MAX_UPSERT_VECTORS:
        raise errors.refusal("too_many_vectors", limit=limits.MAX_UPSERT_VECTORS, got=len(lines))
    vectors = []
    for number, line in lines:
        try:
            vector, keys = _parse_line(line, behaviour)
        except (ValueError, RecursionError):
            if discard:
                continue
            raise errors.refusal("not_ndjson", operation=operation, line=f"Some({number})") from None
        _check_vector(vector, keys, dimensions, behaviour)
        vectors.append(vector)
    if not vectors and behaviour.empty_upload == "refuse":
        raise errors.refusal("not_ndjson", operation=operation, line=None)
    return vectors


def _parse_line(line: bytes, behaviour: Behaviour) -> tuple[Vector, set[str]]:
    parsed = _DECODER.decode(line.decode("utf-8"))
    if not isinstance(parsed, dict):
        raise ValueError("not an object")
    if behaviour.unknown_vector_field == "refuse" and not _VECTOR_FIELDS.issuperset(parsed):
        raise ValueError("unknown field")
    vector_id, values = parsed.get("id"), parsed.get("values")
    namespace, metadata = parsed.get("namespace"), parsed.get("metadata")
    if not isinstance(vector_id, str) or utf8_length(vector_id) < 0:
        raise ValueError("id")
    if not isinstance(values, list) or not NUMBERS.issuperset(map(type, values)):
        raise ValueError("values")
    if namespace is not None and (not isinstance(namespace, str) or utf8_length(namespace) < 0):
        raise ValueError("namespace")
    if metadata is not None and not isinstance(metadata, dict):
        raise ValueError("metadata")
    try:
        packed = struct.pack(f"<{len(values)}f", *values)
    except (struct.error, OverflowError) as e:
        raise ValueError("values") from e
    # 1e400 is valid JSON, but Python's decoder makes it infinite. The float64 sum of finite float32 is
    # finite.
    if not math.isfinite(sum(values)):
        raise ValueError("values")
    compact = None if metadata is None else ENCODER.encode(metadata)
    if compact is not None and utf8_length(compact) < 0:
        raise ValueError("metadata")
    return Vector(vector_id, packed, namespace, compact), _keys(metadata or {})


def _keys(metadata: dict[str, Any]) -> set[str]:
    """Return the keys on all levels, without recursion: the sender chooses the depth."""
    keys: set[str] = set()
    level: list[Any] = [metadata]
    for _ in range(_MAX_DEPTH):
        if not level:
            return keys
        below: list[Any] = []
        for value in level:
            if isinstance(value, dict):
                keys.update(value)
                below.extend(value.values())
            elif isinstance(value, list):
                below.extend(value)
        level = below
    if any(isinstance(value, dict | list) for value in level):
        # Deeper metadata could overflow the stack of the decoder, which parses it again for each response.
        raise ValueError("metadata")
    return keys


def _check_vector(vector: Vector, keys: set[str], dimensions: int, behaviour: Behaviour) -> None:
    check_id_length(utf8_length(vector.id), behaviour)
    got = len(vector.values) // 4
    if got != dimensions:
        raise errors.refusal("wrong_dimensions", id=vector.id, expected=dimensions, got=got)
    if vector.namespace is not None:
        check_namespace_length(utf8_length(vector.namespace))
    size = utf8_length(vector.metadata or "")
    if size > limits.MAX_METADATA_BYTES:
        raise errors.refusal("oversized_metadata", id=vector.id, limit=limits.MAX_METADATA_BYTES, got=size)
    if any(not key or key.startswith("$") or "." in key or '"' in key for key in keys):
        raise errors.refusal("invalid_metadata_key", id=vector.id)
