# SPDX-License-Identifier: Apache-2.0
"""Results contain only documented fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from airflow_provider_cfvectorize.client.client import VectorizeClient
from client.servers import ScriptedServer, ok

Connect = Callable[..., VectorizeClient]
Serve = Callable[..., ScriptedServer]

CONFIG = {"dimensions": 32, "metric": "cosine", "preset": "m"}
INDEX = {"name": "docs", "description": "d", "created_on": "t", "modified_on": "t", "config": CONFIG}
VECTOR = {"id": "a", "values": [0.5], "namespace": None, "metadata": {"lang": "en"}}
PAGE = {
    "count": 1,
    "totalCount": 1,
    "isTruncated": False,
    "vectors": [{"id": "a"}],
    "nextCursor": None,
    "cursorExpirationTimestamp": "t",
}
TYPES = [{"propertyName": "lang", "indexType": "string"}]


def stuffed(value: Any) -> Any:
    """Return a value with an extra field in each object, except in metadata, which may hold any field."""
    if isinstance(value, list):
        return [stuffed(item) for item in value]
    if isinstance(value, dict):
        return {
            **{name: item if name == "metadata" else stuffed(item) for name, item in value.items()},
            "debug": "x",
        }
    return value


@pytest.mark.parametrize(
    ("call", "result"),
    [
        (lambda c: c.create_index("docs", preset="m"), INDEX),
        (lambda c: c.get_index("docs"), INDEX),
        (lambda c: c.get_by_ids("docs", ["a"]), [VECTOR]),
        (lambda c: c.query("docs", vector=[0.5]), {"count": 1, "matches": [{**VECTOR, "score": 1.0}]}),
        (lambda c: c.list_vectors("docs"), PAGE),
    ],
)
def test_undocumented_fields_are_dropped(
    serve: Serve, connect: Connect, call: Callable[[VectorizeClient], Any], result: Any
) -> None:
    assert call(connect(serve([ok(stuffed(result))]))) == result


def test_undocumented_fields_of_metadata_indexes_are_dropped(serve: Serve, connect: Connect) -> None:
    server = serve([ok(stuffed({"metadataIndexes": TYPES}))])
    assert connect(server).list_metadata_indexes("docs") == TYPES


@pytest.mark.parametrize(
    ("call", "result"),
    [
        (lambda c: c.get_index("docs"), {"name": "docs", "config": None}),
        (lambda c: c.get_by_ids("docs", ["a"]), [{"id": "a"}]),
        (lambda c: c.query("docs", vector=[0.5]), {"count": 1, "matches": [{"id": "a", "score": 1}]}),
        (lambda c: c.list_vectors("docs"), {"vectors": []}),
    ],
)
def test_absent_fields_stay_absent(
    serve: Serve, connect: Connect, call: Callable[[VectorizeClient], Any], result: Any
) -> None:
    assert call(connect(serve([ok(result)]))) == result
