# SPDX-License-Identifier: Apache-2.0
"""
Metadata indexes: which there are, and what each knows of a vector.

A metadata index knows the vectors that were written after it, in the order of the log, and no others. So a
vector keeps the place in the log of the mutation that wrote it, a metadata index the place of the one that
created it, and comparing the two numbers is all it takes. It holds after a restart, and when a property's
metadata index is deleted and created again.
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
    """What a metadata index has of a vector that it does not know: nothing, not even null."""


ABSENT: Final = Absent()
#: The operators of filters that compare.
COMPARISONS: Final[dict[str, Any]] = {
    "$lt": operator.lt,
    "$lte": operator.le,
    "$gt": operator.gt,
    "$gte": operator.ge,
}
#: A number of JSON.
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][+-]?[0-9]+)?")


def apply(indexes: dict[str, MetadataIndex], mutation: Mutation) -> bool:
    """
    Create or delete a metadata index as a mutation says.

    :return: Whether anything changed; a property that has a metadata index keeps the one it has.
    """
    if mutation.kind == "create_metadata_index" and mutation.property not in indexes:
        indexes[mutation.property] = MetadataIndex(mutation.property, mutation.index_type, mutation.sequence)
        return True
    return mutation.kind == "delete_metadata_index" and indexes.pop(mutation.property, None) is not None


def describe(indexes: Iterable[MetadataIndex]) -> list[dict[str, str]]:
    """Return metadata indexes as the service lists them."""
    return [{"propertyName": index.property, "indexType": TYPES[index.type]} for index in indexes]


def cut(text: str) -> str:
    """Cut a text to what a metadata index keeps of it: 64 bytes of UTF-8, and no half character."""
    if len(text) * 4 <= limits.MAX_INDEXED_BYTES:
        return text
    return text.encode("utf-8")[: limits.MAX_INDEXED_BYTES].decode("utf-8", errors="ignore")


def convert(value: Any, index_type: str, behaviour: Behaviour) -> Value | Absent:
    """
    Return a value of metadata or of a filter in the type of a metadata index.

    :return: :data:`ABSENT` if it is of another type and cannot be turned into this one; null is null.
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
            # 10.0 is the same number as 10.
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
    Return what a metadata index has of one vector that it knows.

    :return: :data:`ABSENT` if the property is not there, or cannot be turned into the metadata index's type.
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
    Return what a condition says of the values of a metadata index.

    Strings are ordered by their characters' code points, which is the order of their bytes in UTF-8 too.

    :raises ApiError: A value is of another type, and the switch refuses that.
    """
    operands: list[Value] = []
    for given in condition.operands:
        # What is left out equals nothing.
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
    """Return what metadata indexes have of vectors, by property and in the vectors' order."""
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
    """Return of a vector's metadata what the metadata indexes have, nested as it was."""
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
