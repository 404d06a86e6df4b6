# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import struct
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_cfvectorize.client.inputs.vectors import MAX_VALUE
from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
from airflow_provider_cfvectorize.client.mutations.witnesses import WitnessVector
from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.local import LocalVectorize
from client.servers import MUTATION
from harness import Vectorize

finite = st.floats(-MAX_VALUE, MAX_VALUE)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def as_stored(values: list[float]) -> list[float]:
    return list(struct.unpack(f"<{len(values)}f", struct.pack(f"<{len(values)}f", *values)))


@given(st.lists(finite, min_size=1, max_size=20))
@example([0.123455])
@example([1e-45, -0.0, 9.99995, 99999.5, 1.0000005])
def test_values_match_after_the_service_stores_them(values: list[float]) -> None:
    written = WitnessVector.of({"id": "a", "values": values})
    stored = as_stored(values)
    assert WitnessVector.of({"id": "a", "values": stored}) == written
    # The shortest text of the 32-bit number.
    shortest = [float(f"{value:.9g}") for value in stored]
    assert WitnessVector.of({"id": "a", "values": shortest}) == written


@pytest.mark.parametrize(
    ("values", "others", "equal"),
    [
        ([0.5], [0.5], True),
        ([0.0], [-0.0], True),
        ([1], [1.0], True),
        ([0.100001], [0.100002], True),
        ([0.10001], [0.10002], False),
        ([0.5, 0.25], [0.25, 0.5], False),
        ([0.5], [0.5, 0.5], False),
        ([1e-30], [2e-30], False),
        ([12345.6], [12345.7], True),
        ([12345.6], [12346.7], False),
    ],
)
def test_values_are_compared_by_five_significant_digits(values: Any, others: Any, equal: bool) -> None:
    a, b = ({"id": "a", "values": one} for one in (values, others))
    assert (WitnessVector.of(a) == WitnessVector.of(b)) is equal


@given(json_values)
@example({"a": 10**400})
@example({"a": 2**53 + 1})
def test_metadata_matches_after_a_round_trip_through_json(metadata: Any) -> None:
    written = WitnessVector.of({"id": "a", "values": [1], "metadata": metadata})
    again = json.loads(json.dumps(metadata))
    if isinstance(again, dict):
        again = dict(reversed(again.items()))
    assert WitnessVector.of({"id": "a", "values": [1], "metadata": again}) == written


@pytest.mark.parametrize(
    ("more", "others", "equal"),
    [
        ({"metadata": {"a": 1, "b": 2}}, {"metadata": {"b": 2.0, "a": 1}}, True),
        ({"metadata": {}}, {}, True),
        ({"metadata": None, "namespace": ""}, {"namespace": None}, True),
        ({"metadata": {"a": 1}}, {"metadata": {"a": "1"}}, False),
        ({"metadata": {"a": True}}, {"metadata": {"a": 1}}, False),
        ({"metadata": {"a": [1, 2]}}, {"metadata": {"a": [2, 1]}}, False),
        ({"metadata": {"a": None}}, {"metadata": {}}, False),
        ({"namespace": "a"}, {"namespace": "b"}, False),
        ({"namespace": "a"}, {}, False),
    ],
)
def test_which_vectors_count_as_equal(more: Any, others: Any, equal: bool) -> None:
    a, b = ({"id": "a", "values": [1], **one} for one in (more, others))
    assert (WitnessVector.of(a) == WitnessVector.of(b)) is equal


@pytest.mark.parametrize("values", [None, "x", ["x"], [None], [10**400], [1e39]])
def test_unusual_values_raise_no_error(values: Any) -> None:
    witness = WitnessVector.of({"id": "a", "values": values})
    witness = witness.known_before(WitnessVector.of({"id": "a", "values": [2]}))
    assert witness != WitnessVector.of({"id": "a", "values": [1.0]})
    assert WitnessVector.from_dict(json.loads(json.dumps(witness.as_dict()))) == witness


GOOD = WitnessVector.of({"id": "a", "values": [1]}).as_dict()


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {**GOOD, "id": ""},
        {**GOOD, "id": "x" * 65},
        {**GOOD, "id": 5},
        {**GOOD, "values": GOOD["values"][1:]},
        {**GOOD, "metadata": GOOD["metadata"].upper() + "\n"},
        {key: GOOD[key] for key in ("id", "values")},
        {**GOOD, "before": "x"},
        {**GOOD, "before": GOOD["values"]},
        {**GOOD, "before": 5},
    ],
    ids=range(12),
)
def test_invalid_witnesses_are_refused(value: object) -> None:
    accepted = {"mutation_id": MUTATION, "accepted_at": "2026-01-31T23:59:59Z", "count": 1, "batches": 1}
    with pytest.raises(VectorizeInputError, match=r"receipt: .*witness.vector"):
        Receipt.from_dict({**accepted, "witness_vectors": [value]})


def test_vectors_match_after_a_round_trip_through_the_server() -> None:
    values = [((i * 7919) % 1000 - 500) / 997 for i in range(32)]
    vectors: list[Any] = [
        {"id": "plain", "values": values},
        {
            "id": "rich",
            "values": values,
            "namespace": "n",
            "metadata": {"a": [1, {"b": "é\u2028"}], "n": 1e300},
        },
    ]
    with LocalVectorize(apply_delay=0.0) as server:
        vectorize = Vectorize(server)
        vectorize.wait_for(vectorize.client.upsert("docs", vectors)["mutationId"])
        read = vectorize.client.get_by_ids("docs", ["plain", "rich"])
    assert [WitnessVector.of(one) for one in read] == [WitnessVector.of(one) for one in vectors]
