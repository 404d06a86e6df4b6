# SPDX-License-Identifier: Apache-2.0
"""
Metadata indexes: how they are created and deleted, which values they hold, and how filters match these.

A metadata index holds values of those vectors that were written after its creation, in the order of the log.
A vector has the sequence number of the mutation that wrote it, and a metadata index has that of the mutation
that created it. Comparing the two numbers decides, also after a restart and when a metadata index is deleted
and created again.
"""

from __future__ import annotations

import json
import math
import operator
import re
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.local import errors
from airflow_provider_cfvectorize.local.engine.model import TYPES, MetadataIndex, Value

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from airflow_provider_cfvectorize.local.behaviour import Behaviour
    from airflow_provider_cfvectorize.local.engine.model import Condition, Mutation, Vector


class Absent:
    """The type of :data:`ABSENT`: a metadata index holds no value for a vector, not even null."""


ABSENT: Final = Absent()
#: The filter operators that compare by order.
COMPARISONS: Final[dict[str, Any]] = {
    "$lt": operator.lt,
    "$lte": operator.le,
    "$gt": operator.gt,
    "$gte": operator.ge,
}
#: A JSON number.
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def apply_to_metadata_indexes(indexes: dict[str, MetadataIndex], mutation: Mutation) -> bool:
    """
    Apply a mutation that creates or deletes a metadata index; ignore any other mutation.

    :return: Whether anything changed. An existing metadata index of the property stays as it is.
    """
    if mutation.kind == "create_metadata_index" and mutation.property not in indexes:
        indexes[mutation.property] = MetadataIndex(mutation.property, mutation.index_type, mutation.sequence)
        return True
    return mutation.kind == "delete_metadata_index" and indexes.pop(mutation.property, None) is not None


def describe(indexes: Iterable[MetadataIndex]) -> list[dict[str, str]]:
    """Return metadata indexes as the service lists them."""
    return [{"propertyName": index.property, "indexType": TYPES[index.type]} for index in indexes]


def cut(text: str) -> str:
    """Cut a text to the part that a metadata index holds: whole characters in at most 64 bytes of UTF-8."""
    if len(text) * 4 <= limits.MAX_INDEXED_BYTES:
        return text
    return text.encode("utf-8")[: limits.MAX_INDEXED_BYTES].decode("utf-8", errors="ignore")


def convert(value: Any, index_type: str, behaviour: Behaviour) -> Value | Absent:
    """
    Convert a value from metadata or from a filter to the type of a metadata index.

    :return: The value; None for null; :data:`ABSENT` if it has another type and cannot be converted.
    """
    converts = behaviour.value_of_other_type == "convert"
    if value is None:
        return None
    if index_type == "boolean":
        if converts and value in ("true", "false"):
            return bool(value == "true")
        return value if isinstance(value, bool) else ABSENT
    if index_type == "string":
        if converts and isinstance(value, bool | int | float):
            # 10.0 and 10 are one number.
            whole = isinstance(value, float) and value.is_integer()
            return json.dumps(int(value) if whole else value)
        return value if isinstance(value, str) else ABSENT
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number and not (converts and isinstance(value, str) and _NUMBER.fullmatch(value)):
        return ABSENT
    try:
        # Documented: "the indexed number precision is that of float64".
        number = float(value)
    except OverflowError:
        return ABSENT
    return number if math.isfinite(number) else ABSENT


def value_of(metadata: dict[str, Any], index: MetadataIndex, behaviour: Behaviour) -> Value | Absent:
    """
    Return the value that a metadata index holds for a vector written after its creation.

    :return: :data:`ABSENT` if the vector lacks the property, or its value cannot be converted.
    """
    found: Any = metadata
    for part in index.property.split("."):
        if not isinstance(found, dict) or part not in found:
            return ABSENT
        found = found[part]
    value = convert(found, index.type, behaviour)
    return cut(value) if isinstance(value, str) else value


def predicate(condition: Condition, index_type: str, behaviour: Behaviour) -> Callable[[Value], bool]:
    """
    Return a function that evaluates a condition on a value of a metadata index.

    Strings compare by code point, which is also the order of their bytes in UTF-8.

    :raises ApiError: A value has another type, and the switch ``value_of_other_type`` refuses it.
    """
    operands: list[Value] = []
    for given in condition.operands:
        # A skipped value matches nothing.
        if given is None and behaviour.null_in_filters == "nothing":
            continue
        operand = convert(given, index_type, behaviour)
        if not isinstance(operand, Absent):
            cuts = behaviour.long_filter_strings == "cut" and isinstance(operand, str)
            operands.append(cut(str(operand)) if cuts else operand)
        elif behaviour.value_of_other_type == "refuse":
            raise errors.refusal(
                "invalid_filter",
                detail=f'the metadata index of "{condition.property}" is of type {index_type}',
            )
    if condition.operator in COMPARISONS:
        if not operands:
            return lambda value: False
        compare, bound = COMPARISONS[condition.operator], operands[0]
        return lambda value: value is not None and compare(value, bound)
    wanted = frozenset(operands)
    if condition.operator in ("$eq", "$in"):
        return wanted.__contains__
    return lambda value: value not in wanted


def columns(
    vectors: Iterable[Vector], indexes: Iterable[MetadataIndex], behaviour: Behaviour
) -> dict[str, list[Value | Absent]]:
    """Return the values that metadata indexes hold, by property, in the order of the vectors."""
    missing = None if behaviour.missing_property == "null" else ABSENT
    indexes = list(indexes)
    found: dict[str, list[Value | Absent]] = {index.property: [] for index in indexes}
    pairs = [(index, found[index.property].append) for index in indexes]
    for vector in vectors:
        parsed: dict[str, Any] | None = None
        for index, append in pairs:
            if vector.sequence < index.sequence:
                append(ABSENT)
                continue
            if parsed is None:
                parsed = {} if vector.metadata is None else json.loads(vector.metadata)
            value = value_of(parsed, index, behaviour)
            append(missing if isinstance(value, Absent) else value)
    return found


def indexed_only(vector: Vector, indexes: Iterable[MetadataIndex], behaviour: Behaviour) -> dict[str, Any]:
    """Return the part of a vector's metadata that metadata indexes hold, with its original nesting."""
    shown: dict[str, Any] = {}
    if vector.metadata is None:
        return shown
    metadata = json.loads(vector.metadata)
    for index in indexes:
        if vector.sequence < index.sequence:
            continue
        value = value_of(metadata, index, behaviour)
        if isinstance(value, Absent):
            continue
        *outer, last = index.property.split(".")
        level = shown
        for part in outer:
            level = level.setdefault(part, {})
        level[last] = value
    return shown
