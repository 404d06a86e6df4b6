# SPDX-License-Identifier: Apache-2.0
"""Queries return the results of an independent brute-force search."""

from __future__ import annotations

import math
import random
import struct
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_cfvectorize.local import LocalVectorize
from local.local_client import DIMENSIONS, Client, mutation, result

TOLERANCE = 1e-5
TYPES = {"text": "string", "size": "number", "flag": "boolean", "deep.er": "string"}

# Few values, so that filters often match one exactly.
TEXTS = ["a", "ab", "é", "z" * 64, "z" * 70]
SIZES = [0, 0.5, 1]
VALUES: dict[str, list[Any]] = {"text": TEXTS, "size": SIZES, "flag": [True, False], "deep.er": TEXTS}
values_of = {name: st.sampled_from(values) for name, values in VALUES.items()}


def random_metadata(rng: random.Random) -> dict[str, Any] | None:
    if rng.random() < 0.1:
        return None
    found: dict[str, Any] = {}
    for name, values in VALUES.items():
        kind = rng.random()
        if kind < 0.15:
            continue
        value = rng.choice(values) if kind < 0.75 else rng.choice([None, "other", 7, "7", True, "true", [1]])
        if name == "deep.er":
            found["deep"] = {"er": value, "free": 1}
        else:
            found[name] = value
    return found


@st.composite
def filters(draw: st.DrawFn) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in draw(st.lists(st.sampled_from(list(TYPES)), min_size=1, max_size=2, unique=True)):
        value = values_of[name]
        ordered = value if name != "flag" else st.sampled_from(["a", 0, "true"])
        anything = value | st.none() | st.sampled_from(["other", 7, "7", True, "true"])
        found[name] = draw(
            value
            | st.none()
            | st.fixed_dictionaries({"$eq": anything})
            | st.fixed_dictionaries({"$ne": anything})
            | st.fixed_dictionaries({"$in": st.lists(anything, max_size=3)})
            | st.fixed_dictionaries({"$nin": st.lists(anything, max_size=3)})
            | st.sampled_from(["$lt", "$lte", "$gt", "$gte"]).flatmap(
                lambda operator, ordered=ordered: st.fixed_dictionaries({operator: ordered})
            )
            | st.fixed_dictionaries({"$gt": ordered, "$lte": ordered})
            | st.fixed_dictionaries({"$gte": ordered, "$lt": ordered})
        )
    return found


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[float]]:
    """Return late vectors, vectors older than the metadata indexes, and a query vector."""
    rng = random.Random(draw(st.integers(0, 2**32)))
    style = draw(st.sampled_from(["gauss", "grid", "few"]))
    few = [[rng.uniform(-1, 1) for _ in range(DIMENSIONS)] for _ in range(3)]

    def point() -> list[float]:
        if style == "grid":
            return [float(rng.randint(-2, 2)) for _ in range(DIMENSIONS)]
        if style == "few":
            return rng.choice([*few, [0.0] * DIMENSIONS])
        return [rng.gauss(0, 1) for _ in range(DIMENSIONS)]

    stored = []
    for number in range(rng.randint(0, 20)):
        vector: dict[str, Any] = {"id": f"v{number:02}", "values": point()}
        if (found := random_metadata(rng)) is not None:
            vector["metadata"] = found
        if (namespace := rng.choice([None, None, "one", "two"])) is not None:
            vector["namespace"] = namespace
        stored.append(vector)
    early = draw(st.integers(0, 3))
    return stored[early:], stored[:early], point()


# --- the reference ------------------------------------------------------------------------------------------


def float32(values: list[float]) -> list[float]:
    return [struct.unpack("<f", struct.pack("<f", value))[0] for value in values]


def score(metric: str, stored: list[float], asked: list[float]) -> float:
    if metric == "euclidean":
        return math.dist(stored, asked)
    product = math.fsum(a * b for a, b in zip(stored, asked, strict=True))
    if metric == "dot-product":
        return product
    lengths = math.hypot(*stored) * math.hypot(*asked)
    return product / lengths if lengths else 0.0


def indexed(vector: dict[str, Any], name: str) -> Any:
    """Return the value of a vector in the metadata index of a property, or None."""
    value: Any = vector.get("metadata", {})
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    found = in_type(value, TYPES[name])
    return found[:64] if isinstance(found, str) else found


def in_type(value: Any, index_type: str) -> Any:
    """Convert a value to the type of a metadata index, or to None."""
    if index_type == "boolean":
        return {"True": True, "true": True, "False": False}.get(str(value))
    if isinstance(value, bool):
        return str(value).lower() if index_type == "string" else None
    if index_type == "number":
        return value if isinstance(value, int | float) else {"0": 0, "7": 7}.get(str(value))
    return str(value) if isinstance(value, str | int | float) else None


def holds(operator: str, value: Any, operand: Any, index_type: str) -> bool:
    if operator in ("$in", "$nin"):
        return any(holds("$eq", value, item, index_type) for item in operand) == (operator == "$in")
    operand = in_type(operand, index_type)
    if operator in ("$eq", "$ne"):
        return (operand is not None and value == operand) == (operator == "$eq")
    if value is None or operand is None:
        return False
    return {
        "$lt": value < operand,
        "$lte": value <= operand,
        "$gt": value > operand,
        "$gte": value >= operand,
    }[operator]


def passes(vector: dict[str, Any], filter: dict[str, Any]) -> bool:
    return all(
        holds(operator, indexed(vector, name), operand, TYPES[name])
        for name, clause in filter.items()
        for operator, operand in (clause if isinstance(clause, dict) else {"$eq": clause}).items()
    )


# --- the comparison -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served():
    with LocalVectorize(apply_delay=0) as server:
        client = Client(server.base_url, server.account_id, server.api_token)
        with client.session:
            yield client


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot-product"])
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(
    world=worlds(),
    filter=st.none() | filters() | filters(),
    namespace=st.sampled_from([None, None, None, "one", "two", "three"]),
    top_k=st.integers(1, 20),
)
def test_queries_match_brute_force(served: Client, metric, world, filter, namespace, top_k):
    late, early, asked = world
    result(served.create(config={"dimensions": DIMENSIONS, "metric": metric}))
    try:
        if early:
            mutation(served.upsert(early))
        for name, index_type in TYPES.items():
            mutation(served.create_metadata_index(name, index_type))
        if late:
            mutation(served.upsert(late))
        more = {"topK": top_k}
        if filter is not None:
            more["filter"] = filter
        if namespace is not None:
            more["namespace"] = namespace
        found = result(served.query(asked, **more))
    finally:
        served.send("DELETE", "/docs")

    eligible = {
        vector["id"]: score(metric, float32(vector["values"]), asked)
        for vector in (late if filter is not None else [*early, *late])
        if (namespace is None or vector.get("namespace") == namespace)
        and (filter is None or passes(vector, filter))
    }
    sign = 1 if metric == "euclidean" else -1
    expected = sorted(eligible.items(), key=lambda entry: (sign * entry[1], entry[0]))

    got = [(match["id"], match["score"]) for match in found["matches"]]
    assert found["count"] == len(got) == min(top_k, len(expected))
    assert len(dict(got)) == len(got)
    for place, (name, value) in enumerate(got):
        assert abs(value - eligible[name]) <= TOLERANCE
        assert abs(value - expected[place][1]) <= TOLERANCE
        # If no other vector is equally near, the id must match.
        if sum(abs(other - expected[place][1]) <= 2 * TOLERANCE for other in eligible.values()) == 1:
            assert name == expected[place][0]
    # Equal scores are ordered by id, which also decides which vectors are among the first.
    assert got == sorted(got, key=lambda entry: (sign * entry[1], entry[0]))
    gaps = {abs(a - b) for a in eligible.values() for b in eligible.values()}
    if all(gap == 0 or gap > 2 * TOLERANCE for gap in gaps):
        assert [name for name, _ in got] == [name for name, _ in expected[:top_k]]
