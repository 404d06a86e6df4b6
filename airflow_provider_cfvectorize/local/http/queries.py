# SPDX-License-Identifier: Apache-2.0
"""
Parses and checks queries and their filters.

The rules of filters come from https://developers.cloudflare.com/vectorize/reference/metadata-filtering/.
"""

from __future__ import annotations

import math
import struct
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.local import errors
from airflow_provider_cfvectorize.local.engine.metadata import COMPARISONS
from airflow_provider_cfvectorize.local.engine.model import Condition, Query, Value
from airflow_provider_cfvectorize.local.http import bodies

if TYPE_CHECKING:
    from airflow_provider_cfvectorize.local.behaviour import Behaviour

_METADATA: Final = ("none", "indexed", "all")
_UPPER: Final = frozenset({"$lt", "$lte"})
_LOWER: Final = frozenset({"$gt", "$gte"})
_OPERATORS: Final = ("$eq", "$ne", "$in", "$nin", *COMPARISONS)


def parse_query(body: dict[str, Any], dimensions: int, behaviour: Behaviour) -> Query:
    """
    Parse the body of a query. A field with null counts as missing.

    :raises ApiError: The query is invalid for this index.
    """
    vector, vector_id = body.get("vector"), body.get("vectorId")
    if vector is not None and vector_id is not None:
        if behaviour.vector_and_vector_id == "refuse":
            raise errors.refusal("vector_and_vector_id")
        vector_id = None
    if vector_id is not None:
        _check_text("vectorId", vector_id)
        bodies.check_id_length(bodies.utf8_length(vector_id), behaviour)
    elif vector is None:
        raise errors.refusal("not_json", detail="missing field `vector`")
    values = body.get("returnValues")
    if values is not None and not isinstance(values, bool):
        raise errors.refusal("not_json", detail="returnValues: expected a boolean")
    metadata = body.get("returnMetadata")
    if metadata is None:
        metadata = "none"
    if not isinstance(metadata, str) or metadata not in _METADATA:
        # On record: this text, in response to a boolean.
        raise errors.refusal("not_json", detail="returnMetadata: expected value")
    namespace = body.get("namespace")
    if namespace is not None:
        _check_text("namespace", namespace)
        bodies.check_namespace_length(bodies.utf8_length(namespace))
    conditions = body.get("filter")
    return Query(
        vector=None if vector is None else _parse_vector(vector, dimensions),
        vector_id=vector_id or "",
        top_k=_parse_top_k(body.get("topK"), bool(values) or metadata == "all"),
        namespace=namespace,
        conditions=() if conditions is None else parse_filter(conditions, behaviour),
        values=bool(values),
        metadata=metadata,
    )


def _check_text(name: str, value: Any) -> None:
    if not isinstance(value, str):
        raise errors.refusal("not_json", detail=f"{name}: expected a string")
    if bodies.utf8_length(value) < 0:
        raise errors.refusal("not_json", detail=f"{name}: lone surrogate")


def _parse_vector(vector: Any, dimensions: int) -> tuple[float, ...]:
    if not isinstance(vector, list) or not bodies.NUMBERS.issuperset(map(type, vector)):
        raise errors.refusal("not_json", detail="vector: expected a sequence of numbers")
    try:
        # A number outside float32 could make a score infinite, which JSON cannot express.
        struct.pack(f"<{len(vector)}f", *vector)
    except (struct.error, OverflowError):
        raise errors.refusal("not_json", detail="vector: number out of range") from None
    if not math.isfinite(sum(vector)):
        raise errors.refusal("not_json", detail="vector: number out of range")
    if len(vector) != dimensions:
        raise errors.refusal("wrong_query_dimensions", expected=dimensions, got=len(vector))
    return tuple(map(float, vector))


def _parse_top_k(top_k: Any, with_data: bool) -> int:
    if top_k is None:
        return limits.DEFAULT_TOP_K
    if isinstance(top_k, float) and top_k.is_integer():
        # 5.0 and 5 are one number in JSON, and the schema requires a number.
        top_k = int(top_k)
    if type(top_k) is not int:
        raise errors.refusal("not_json", detail="topK: expected a whole number")
    if top_k < 1:
        raise errors.refusal("top_k_too_small")
    limit = limits.MAX_TOP_K_WITH_DATA if with_data else limits.MAX_TOP_K
    if top_k > limit:
        # Do not repeat a number of 400 digits in the error.
        raise errors.refusal(
            "top_k_too_large_with_data" if with_data else "top_k_too_large",
            limit=limit,
            limit_without=limits.MAX_TOP_K,
            got=min(top_k, 2**63 - 1),
        )
    return top_k


def parse_filter(value: Any, behaviour: Behaviour) -> tuple[Condition, ...]:
    """
    Parse a filter.

    :return: The conditions. A match must fulfil all of them.
    :raises ApiError: The filter breaks a rule.
    """
    if not isinstance(value, dict):
        raise errors.refusal("not_json", detail="filter: expected an object")
    if not value and behaviour.empty_filter == "refuse":
        raise errors.refusal("invalid_filter", detail="must not be empty")
    conditions = tuple(condition for key, clause in value.items() for condition in _clause(key, clause))
    # The clauses are checked first. They allow no deep nesting, so the encoder cannot overflow its stack.
    size = bodies.utf8_length(bodies.ENCODER.encode(value))
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
    problem = bodies.key_problem(key)
    if problem is not None:
        raise errors.refusal("invalid_filter", detail=f"a key {problem}")
    if not isinstance(clause, dict):
        return [Condition(key, "$eq", (_scalar(clause, "$eq"),))]
    for name in clause:
        if name not in _OPERATORS:
            raise errors.refusal("invalid_filter", detail=f"operators are {', '.join(_OPERATORS)}")
    allowed = len(clause) == 1 or (
        len(clause) == 2 and len(clause.keys() & _UPPER) == len(clause.keys() & _LOWER) == 1
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
    if type(value) in bodies.NUMBERS:
        try:
            finite = math.isfinite(value)
        except OverflowError:
            finite = False
        if not finite:
            # 1e400 is valid JSON, but Python's decoder makes it infinite.
            raise errors.refusal("invalid_filter", detail="a number is too large")
        number: float = value
        return number
    if name in COMPARISONS:
        raise errors.refusal("invalid_filter", detail=f"{name} takes a string or a number")
    if value is None or isinstance(value, bool):
        return value
    raise errors.refusal("invalid_filter", detail=f"{name} takes strings, numbers, booleans and null")
