# SPDX-License-Identifier: Apache-2.0
"""The rounds and probes of a delete by filter and the rules that stop it, without a server."""

from __future__ import annotations

import json
import math

import pytest

from airflow_provider_cfvectorize.client.bulk.delete_by_filter import Deletion, Round, probe_vector


def take(deletion: Deletion, *ids: str, max_ids: int = 10_000) -> Round:
    """Run a round that finds these ids and save the result as a deferral does."""
    this = Round(deletion, probes=1, max_ids=max_ids)
    this.add(ids)
    this.add(ids)
    assert this.is_over
    deletion.add_round(this)
    kept = Deletion(**json.loads(json.dumps(deletion.as_dict())))
    assert kept == deletion
    return this


@pytest.mark.parametrize("dimensions", [32, 1536])
def test_probe_vectors_are_distinct_unit_vectors(dimensions: int) -> None:
    vectors = [probe_vector(number, dimensions) for number in range(5)]
    assert all(math.isclose(math.hypot(*vector), 1) for vector in vectors)
    assert len({tuple(vector) for vector in vectors}) == 5
    assert vectors[3] == probe_vector(3, dimensions)


def test_a_round_ends_after_enough_probes_without_a_new_id() -> None:
    this = Round(Deletion(None, "n", 32), probes=2, max_ids=5)
    for ids in (["a"], ["a"], ["a", "b"], ["b"]):
        this.add(ids)
        assert not this.is_over
    this.add([])
    assert this.is_over
    assert list(this.ids) == ["a", "b"]


def test_a_round_ends_at_too_many_ids() -> None:
    deletion = Deletion(None, "n", 32)
    take(deletion, "a", "b")
    this = Round(deletion, probes=3, max_ids=3)
    this.add(["a", "c"])
    assert not this.is_over
    this.add(["d"])
    assert this.is_too_much


@pytest.mark.parametrize("count", [1, 200, 201, 5000])
def test_rounds_with_only_known_ids_are_fruitless(count: int) -> None:
    deletion = Deletion(None, "n", 32)
    ids = [f"v{i}" for i in range(count)]
    take(deletion, *ids)
    # An id that the first round missed is new.
    take(deletion, "missed")
    assert (deletion.found, deletion.fruitless) == (count + 1, 0)
    for round_ in (1, 2):
        take(deletion, *ids)
        assert (deletion.found, deletion.fruitless) == (count + 1, round_)
    # New ids among known ids are progress.
    take(deletion, *ids, *(f"w{i}" for i in range(count)))
    assert deletion.fruitless == 0
    assert count * 2 + 1 <= deletion.found <= count * 3
    assert len(json.dumps(deletion.as_dict())) < 5000
