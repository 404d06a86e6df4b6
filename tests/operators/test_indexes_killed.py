# SPDX-License-Identifier: Apache-2.0
"""A kill stops the operators for indexes while a request waits for the end of a throttle."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_cfvectorize.exceptions import VectorizeInterrupted
from airflow_provider_cfvectorize.operators.indexes import (
    CreateVectorizeIndexOperator,
    CreateVectorizeMetadataIndexOperator,
    DeleteVectorizeIndexOperator,
    DeleteVectorizeMetadataIndexOperator,
)
from client.servers import Reply, Request, refused
from harness import INDEX, Vectorize, make_context
from operators.relay import Relay

#: Longer than the fraction of a second that a kill needs to take effect, and short enough for a task that
#: misses the kill: it waits to the end and succeeds.
THROTTLE = refused(429, 971, Retry_After="20")
LIST = f"GET {INDEX}/metadata_index/list"
CREATE = f"POST {INDEX}/metadata_index/create"
DELETE = f"POST {INDEX}/metadata_index/delete"

NEW = (CreateVectorizeIndexOperator, {"dimensions": 32, "metric": "cosine", "index_name": "other"})
TAKEN = (
    CreateVectorizeIndexOperator,
    {"dimensions": 32, "metric": "cosine", "if_exists": "skip", "metadata_indexes": {"lang": "string"}},
)
ADD = (CreateVectorizeMetadataIndexOperator, {"property_name": "lang", "index_type": "string"})
REMOVE = (
    DeleteVectorizeMetadataIndexOperator,
    {"property_name": "lang", "if_missing": "skip", "wait_for_completion": True},
)


@pytest.mark.parametrize(
    ("operator", "kwargs", "route"),
    [
        (*NEW, "POST"),
        *((*TAKEN, route) for route in (f"GET {INDEX}", LIST, f"GET {INDEX}/info", CREATE)),
        (DeleteVectorizeIndexOperator, {}, f"DELETE {INDEX}"),
        *((*ADD, route) for route in (LIST, f"GET {INDEX}/info", CREATE)),
        (*REMOVE, DELETE),
        # The metadata index is missing: the task lists them.
        (*REMOVE, LIST),
    ],
)
def test_a_kill_ends_a_throttled_task(
    relay: Relay, vectorize: Vectorize, operator: Any, kwargs: dict[str, Any], route: str
) -> None:
    task = operator(**{"task_id": "task", "index_name": INDEX, **kwargs})

    def throttle(asked: str, request: Request) -> Reply | None:
        if asked != route or relay.routes.count(route) > 1:
            return None
        task.on_kill()
        return THROTTLE

    relay.intercept = throttle
    with pytest.raises(VectorizeInterrupted, match="interrupted"):
        task.execute(make_context())
    # Nothing continues in the background.
    assert relay.routes[-1] == route
    assert relay.routes.count(route) == 1
