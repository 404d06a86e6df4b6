# SPDX-License-Identifier: Apache-2.0
"""
Filters: what may be in one, and what it says of a value.

The rules are those of https://developers.cloudflare.com/vectorize/reference/metadata-filtering/.
"""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.local import errors
from airflow_provider_cfvectorize.local.engine.metadata import Absent, Value, convert, cut, key_problem
from airflow_provider_cfvectorize.local.http.bodies import ENCODER, NUMBERS, utf8_length

if TYPE_CHECKING:
    from collections.abc import Callable

    from airflow_provider_cfvectorize.local.behaviour import Behaviour

_UPPER: Final = {"$lt": operator.lt, "$lte": operator.le}
_LOWER: Final = {"$gt": operator.gt, "$gte": operator.ge}
_RANGE: Final[dict[str, Any]] = {**_UPPER, **_LOWER}
_OPERATORS: Final = ("$eq", "$ne", "$in", "$nin", *_RANGE)


class Condition(NamedTuple):
    """One operator on one property; ``operands`` is one value, or all those of ``$in`` and ``$nin``."""

    property: str
    operator: str
    operands: tuple[Value, ...]


def parse_filter(value: Any, behaviour: Behaviour) -> tuple[Condition, ...]:
    """
    Read a filter.

    :param value: The filter.
    :param behaviour: The switches.
    :return: The conditions, all of which must hold.
    :raises ApiError: It breaks a rule.
    """
    if not isinstance(value, dict):
        raise errors.refusal("not_json", detail="filter: expected an object")
    if not value and behaviour.empty_filter == "refuse":
        raise errors.refusal("invalid_filter", detail="must not be empty")
    conditions = tuple(condition for key, clause in value.items() for condition in _clause(key, clause))
    # After the clauses, which have no room for deep nesting, so that the encoder cannot run out of stack.
    size = utf8_length(ENCODER.encode(value))
    if size < 0:
        raise errors.refusal("not_json", detail="filter: lone surrogate")
    if size >= limits.FILTER_BYTES:
        raise errors.refusal(
            "invalid_filter",
            detail=f"the compact JSON representation must be less than {limits.FILTER_BYTES} bytes, "
            f"got {size}",
        )
    return conditions


def _clause(key: str, clause: Any) -> list[Condition]:
    problem = key_problem(key)
    if problem is not None:
        raise errors.refusal("invalid_filter", detail=f"a key {problem}")
    if not isinstance(clause, dict):
        return [Condition(key, "$eq", (_scalar(clause, "$eq"),))]
    for name in clause:
        if name not in _OPERATORS:
            raise errors.refusal("invalid_filter", detail=f"operators are {', '.join(_OPERATORS)}")
    allowed = len(clause) == 1 or (
        len(clause) == 2 and len(clause.keys() & _UPPER.keys()) == len(clause.keys() & _LOWER.keys()) == 1
    )
    if not allowed:
        raise errors.refusal(
            "invalid_filter",
            detail="a property takes one operator, or one of $lt and $lte with one of $gt and $gte",
        )
    found = []
    for name, operand in clause.items():
        if name in ("$in", "$nin"):
            if not isinstance(operand, list):
                raise errors.refusal("invalid_filter", detail=f"{name} takes an array")
            found.append(Condition(key, name, tuple(_scalar(item, name) for item in operand)))
        else:
            found.append(Condition(key, name, (_scalar(operand, name),)))
    return found


def _scalar(value: Any, name: str) -> Value:
    if isinstance(value, str):
        return value
    if type(value) in NUMBERS:
        try:
            finite = math.isfinite(value)
        except OverflowError:
            finite = False
        if not finite:
            # 1e400 is JSON, and infinite for Python's decoder.
            raise errors.refusal("invalid_filter", detail="a number is too large")
        number: float = value
        return number
    if name in _RANGE:
        raise errors.refusal("invalid_filter", detail=f"{name} takes a string or a number")
    if value is None or isinstance(value, bool):
        return value
    raise errors.refusal("invalid_filter", detail=f"{name} takes strings, numbers, booleans and null")


def predicate(condition: Condition, index_type: str, behaviour: Behaviour) -> Callable[[Value], bool]:
    """
    Return what a condition says of the values of a metadata index.

    Strings are ordered by their characters' code points, which is the order of their bytes in UTF-8 too.

    :param condition: The condition.
    :param index_type: The type of the metadata index: its values are of this type, or None.
    :param behaviour: The switches.
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
    if condition.operator in _RANGE:
        if not operands:
            return lambda value: False
        compare, bound = _RANGE[condition.operator], operands[0]
        return lambda value: value is not None and compare(value, bound)
    wanted = frozenset(operands)
    if condition.operator in ("$eq", "$in"):
        return wanted.__contains__
    return lambda value: value not in wanted
