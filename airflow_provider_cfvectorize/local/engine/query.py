# SPDX-License-Identifier: Apache-2.0
"""What may be in a query."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.local import errors
from airflow_provider_cfvectorize.local.engine.filters import Condition, parse_filter
from airflow_provider_cfvectorize.local.http.bodies import (
    NUMBERS,
    check_id_length,
    check_namespace_length,
    utf8_length,
)

if TYPE_CHECKING:
    from airflow_provider_cfvectorize.local.behaviour import Behaviour

_METADATA: Final = ("none", "indexed", "all")


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


def parse_query(body: dict[str, Any], dimensions: int, behaviour: Behaviour) -> Query:
    """
    Read the body of a query; null stands for a field that is not there.

    :raises ApiError: It is no query of this index.
    """
    vector, vector_id = body.get("vector"), body.get("vectorId")
    if vector is not None and vector_id is not None:
        if behaviour.vector_and_vector_id == "refuse":
            raise errors.refusal("vector_and_vector_id")
        vector_id = None
    if vector_id is not None:
        _check_text("vectorId", vector_id)
        check_id_length(utf8_length(vector_id), behaviour)
    elif vector is None:
        raise errors.refusal("not_json", detail="missing field `vector`")
    values = body.get("returnValues")
    if values is not None and not isinstance(values, bool):
        raise errors.refusal("not_json", detail="returnValues: expected a boolean")
    metadata = body.get("returnMetadata")
    if metadata is None:
        metadata = "none"
    if not isinstance(metadata, str) or metadata not in _METADATA:
        # This text, for a boolean, is on record.
        raise errors.refusal("not_json", detail="returnMetadata: expected value")
    namespace = body.get("namespace")
    if namespace is not None:
        _check_text("namespace", namespace)
        check_namespace_length(utf8_length(namespace))
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
    if utf8_length(value) < 0:
        raise errors.refusal("not_json", detail=f"{name}: lone surrogate")


def _parse_vector(vector: Any, dimensions: int) -> tuple[float, ...]:
    if not isinstance(vector, list) or not NUMBERS.issuperset(map(type, vector)):
        raise errors.refusal("not_json", detail="vector: expected a sequence of numbers")
    try:
        # What is no float32 could make a score infinite, which no JSON can say.
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
        # 5.0 is the same number as 5 for whoever writes JSON, and the schema asks for a number.
        top_k = int(top_k)
    if type(top_k) is not int:
        raise errors.refusal("not_json", detail="topK: expected a whole number")
    if top_k < 1:
        raise errors.refusal("top_k_too_small")
    limit = limits.MAX_TOP_K_WITH_DATA if with_data else limits.MAX_TOP_K
    if top_k > limit:
        # A number of 400 digits need not come back whole.
        raise errors.refusal(
            "top_k_too_large_with_data" if with_data else "top_k_too_large",
            limit=limit,
            limit_without=limits.MAX_TOP_K,
            got=min(top_k, 2**63 - 1),
        )
    return top_k
