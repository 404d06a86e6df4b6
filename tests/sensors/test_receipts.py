# SPDX-License-Identifier: Apache-2.0
"""Which receipts of upstream tasks a sensor uses."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.sensors.upstream_receipts import read_waits
from harness import make_context

ACCOUNT = "a" * 32


def receipt(mutation_id: str | None, index_name: str = "docs") -> dict[str, Any]:
    return {
        "mutation_id": mutation_id,
        "index_name": index_name,
        "account_id": ACCOUNT,
        "accepted_at": "2026-01-01T00:00:00Z" if mutation_id else None,
        "count": 1 if mutation_id else 0,
        "batches": 1 if mutation_id else 0,
        "witness_ids": [],
    }


def waits(mutation_id: Any, *pushed: Any, index_name: str = "docs") -> list[tuple[str | None, bool]]:
    context: Any = make_context({"upstream": list(pushed)})
    found = read_waits(mutation_id, None, context, index_name=index_name, account_id=ACCOUNT)
    return [(wait.mutation_id, wait.bare) for wait in found]


def test_a_mutation_id_uses_its_receipt() -> None:
    assert waits("m", receipt("m"), receipt("n")) == [("m", False)]
    assert waits(["m", "n", None, "m"], receipt("m"), receipt("n")) == [("m", False), ("n", False)]


def test_a_mutation_id_without_a_receipt_is_a_bare_id() -> None:
    assert waits("m") == [("m", True)]
    assert waits("m", receipt("n")) == [("m", True)]


@pytest.mark.parametrize(
    ("mutation_id", "pushed", "expected"),
    [
        ("None", [], None),
        ("", [receipt(None, "other")], None),
        (["m", "None"], [receipt("m")], None),
        (["None"], [], None),
        ("None", [receipt(None)], []),
        ("None", [receipt("m")], [("m", False)]),
        (["m", "None"], [receipt("m"), receipt(None)], [("m", False)]),
        ([None], [], []),
    ],
)
def test_a_mutation_id_that_renders_to_nothing(mutation_id: Any, pushed: list[Any], expected: Any) -> None:
    if expected is not None:
        assert waits(mutation_id, *pushed) == expected
        return
    with pytest.raises(VectorizeInputError, match=r"^mutation_id is .* after rendering, and no task"):
        waits(mutation_id, *pushed)


def test_without_a_mutation_id_all_receipts_of_the_index_are_used() -> None:
    assert waits(None, receipt("m"), receipt("n", "other")) == [("m", False)]
    assert waits(None) == []


@pytest.mark.parametrize("index_name", ["a", "c"])
def test_empty_receipts_and_other_indexes_are_ignored(index_name: str) -> None:
    pushed = [receipt(None, "a"), receipt("m", "b"), receipt(None, "c")]
    assert waits(None, *pushed, index_name=index_name) == []


@pytest.mark.parametrize(
    "other", [5, "text", ["list"], {"total": 5}, {"mutation_id": 1, "index_name": 2, "account_id": 3}]
)
def test_other_values_under_the_xcom_key_are_ignored(other: Any) -> None:
    assert waits("m", other, receipt("m")) == [("m", False)]
    assert waits(None, other) == []
