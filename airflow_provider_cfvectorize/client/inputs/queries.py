# SPDX-License-Identifier: Apache-2.0
"""Checks queries before they cost a request."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.inputs.ids import problem_with_text, read_id
from airflow_provider_cfvectorize.client.inputs.indexes import problem_with_key
from airflow_provider_cfvectorize.client.inputs.text import show, write_json
from airflow_provider_cfvectorize.client.inputs.vectors import problem_with_namespace, read_values
from airflow_provider_cfvectorize.client.types import RETURN_METADATA
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

# https://developers.cloudflare.com/vectorize/reference/metadata-filtering/ lists the operators.
_EQUALITY: Final = ("$eq", "$ne")
_MEMBERSHIP: Final = ("$in", "$nin")
_LOWER: Final = ("$gt", "$gte")
_UPPER: Final = ("$lt", "$lte")
OPERATORS: Final = (*_EQUALITY, *_MEMBERSHIP, *_LOWER, *_UPPER)


def query_body(
    *,
    vector: object,
    vector_id: object,
    top_k: object,
    filter: object,
    namespace: object,
    return_values: object,
    return_metadata: object,
) -> dict[str, object]:
    """
    Return the body of a query.

    The parameters are those of :meth:`~airflow_provider_cfvectorize.client.client.VectorizeClient.query`.
    """
    if (vector is None) == (vector_id is None):
        raise VectorizeInputError(
            "a query needs either vector (values like those of the index) or vector_id (the id of a vector "
            f"in the index), got {'neither' if vector is None else 'both'}"
        )
    body: dict[str, object] = {}
    if vector is not None:
        try:
            body["vector"] = read_values(vector)
        except ValueError as e:
            raise VectorizeInputError(f"vector {e}") from None
    else:
        try:
            body["vectorId"] = read_id(vector_id)
        except ValueError as e:
            raise VectorizeInputError(f"vector_id {show(vector_id)} {e}") from None
    if not isinstance(return_values, bool):
        raise VectorizeInputError(f"return_values is {show(return_values)}, expected True or False")
    _check_return_metadata(return_metadata)
    _check_top_k(top_k, return_values, return_metadata)
    body |= {"topK": top_k, "returnValues": return_values, "returnMetadata": return_metadata}
    if namespace is not None:
        if problem := problem_with_namespace(namespace):
            raise VectorizeInputError(f"namespace {show(namespace)} {problem}")
        body["namespace"] = namespace
    if not (filter is None or (isinstance(filter, Mapping) and not filter)):
        body["filter"] = check_filter(filter)
    return body


def _check_return_metadata(value: object) -> None:
    if isinstance(value, bool):
        # Older versions of the API had a boolean here, and many examples still do.
        instead = "'all' (or 'indexed', for properties with a metadata index)" if value else "'none'"
        raise VectorizeInputError(f"return_metadata is {value}, pass {instead} instead")
    if value not in RETURN_METADATA:
        raise VectorizeInputError(
            f"return_metadata is {show(value)}, expected one of {', '.join(RETURN_METADATA)}"
        )


def _check_top_k(top_k: object, return_values: bool, return_metadata: object) -> None:
    if not isinstance(top_k, int) or isinstance(top_k, bool) or not 1 <= top_k <= limits.MAX_TOP_K:
        raise VectorizeInputError(
            f"top_k is {show(top_k)}, expected an integer from 1 to {limits.MAX_TOP_K} (to "
            f"{limits.MAX_TOP_K_WITH_DATA} with values or all metadata)"
        )
    reasons = [
        *(["return_values=True"] if return_values else []),
        *(["return_metadata='all'"] if return_metadata == "all" else []),
    ]
    if top_k > limits.MAX_TOP_K_WITH_DATA and reasons:
        raise VectorizeInputError(
            f"top_k is {top_k} with {' and '.join(reasons)}: with values or all metadata, a query returns at "
            f"most {limits.MAX_TOP_K_WITH_DATA} matches. For up to {limits.MAX_TOP_K}, pass "
            "return_values=False and return_metadata='indexed' or 'none', and get the rest with get_by_ids"
        )


def check_filter(value: object) -> Mapping[str, Any]:
    """
    Return a checked filter.

    :param value: property names (``.`` for nested ones), each with the value to equal or a mapping of
        operators: ``$eq``, ``$ne``, ``$in``, ``$nin``, or one or two of ``$lt``, ``$lte``, ``$gt``, ``$gte``
        for a range. The values of ``$in`` and ``$nin`` are a list or another sequence.
    :raises VectorizeInputError: it is invalid, or has 2,048 bytes or more as compact JSON.
    """
    if not isinstance(value, Mapping):
        raise VectorizeInputError(f'filter is {show(value)}, expected a mapping such as {{"lang": "en"}}')
    if not value:
        raise VectorizeInputError("filter is an empty mapping: pass None for no filter")
    for key, condition in value.items():
        if problem := problem_with_key(key) or _problem_with_text(key):
            raise VectorizeInputError(f"filter: the key {show(key)} {problem}")
        if problem := _problem_with_condition(condition):
            raise VectorizeInputError(f"filter: the condition of {show(key)} {problem}")
    # JSON has only dicts and lists; a filter may have other mappings and sequences.
    value = {key: _to_json(condition) for key, condition in value.items()}
    size = len(write_json(value))
    if size >= limits.FILTER_BYTES:
        raise VectorizeInputError(
            f"filter has {size} bytes as compact JSON, expected at most {limits.FILTER_BYTES - 1}. Send "
            "several queries, each with some of the values"
        )
    return value


def _problem_with_condition(condition: object) -> str | None:
    if not isinstance(condition, Mapping):
        if not _is_scalar(condition):
            return f"is {show(condition)}: for one of several values, write {{'$in': [...]}}"
        problem = _problem_with_scalar(condition)
        return f"is {show(condition)}, which {problem}" if problem else None
    if not condition:
        return "is an empty mapping"
    for operator, operand in condition.items():
        if operator not in OPERATORS:
            return (
                f"has {show(operator)}, expected one of {', '.join(OPERATORS)}. A nested property is "
                "written with a dot: {'a.b': ...}"
            )
        problem = _problem_with_operand(operator, operand)
        if problem:
            return f"has {operator} with {problem}"
    is_range = (
        len(condition) == 2
        and sum(operator in _LOWER for operator in condition) == 1
        and sum(operator in _UPPER for operator in condition) == 1
    )
    if len(condition) > 1 and not is_range:
        return (
            f"has {' and '.join(condition)}: only one of {', '.join(_LOWER)} and one of {', '.join(_UPPER)} "
            "can be combined"
        )
    return None


def _problem_with_operand(operator: str, operand: object) -> str | None:
    """Return what is wrong with an operator's operand; None if it is valid."""
    if operator in _MEMBERSHIP:
        if not isinstance(operand, Sequence) or isinstance(operand, str | bytes | bytearray):
            return f"{show(operand)}, expected a list of strings, numbers or booleans"
        if not len(operand):
            return "an empty list, expected at least one string, number or boolean"
        for position, item in enumerate(operand):
            if not _is_scalar(item):
                return f"{show(item)} at position {position}, expected strings, numbers or booleans"
            if problem := _problem_with_scalar(item):
                return f"{show(item)} at position {position}, which {problem}"
        return None
    if operator not in _EQUALITY and (operand is None or isinstance(operand, bool)):
        return f"{show(operand)}, expected a string or a number, which have an order"
    if not _is_scalar(operand):
        return f"{show(operand)}, expected a string, a number or a boolean"
    problem = _problem_with_scalar(operand)
    return f"{show(operand)}, which {problem}" if problem else None


def _problem_with_scalar(value: object) -> str | None:
    if isinstance(value, int | float):
        try:
            return None if math.isfinite(float(value)) else "is not a finite number"
        except OverflowError:
            return "is too large for a number of 64 bits"
    return _problem_with_text(value)


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _to_json(condition: Any) -> Any:
    if not isinstance(condition, Mapping):
        return condition
    return {name: o if _is_scalar(o) else list(o) for name, o in condition.items()}


def _problem_with_text(value: object) -> str | None:
    return problem_with_text(value) if isinstance(value, str) else None
