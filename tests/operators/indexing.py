# SPDX-License-Identifier: Apache-2.0
"""Helpers that run the operators for indexes and read the created metadata indexes."""

from __future__ import annotations

from typing import Any

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.operators.indexes import (
    CreateVectorizeIndexOperator,
    DeleteVectorizeIndexOperator,
)
from harness import DIMENSIONS, INDEX, make_context, run_task, wait_until

CONN = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"
TYPES = {"lang": "string", "year": "number", "deep.er": "boolean"}


def make(**kwargs: Any) -> CreateVectorizeIndexOperator:
    arguments: dict[str, Any] = {"task_id": "create", "index_name": INDEX, "poll_interval": 0.05, **kwargs}
    if "preset" not in kwargs:
        arguments = {"dimensions": DIMENSIONS, "metric": "cosine", **arguments}
    return CreateVectorizeIndexOperator(**{"wait_timeout": 20} | arguments)


def create(context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    return run_task(lambda: make(**kwargs), context or make_context())


def delete(**kwargs: Any) -> Any:
    arguments = {"task_id": "delete", "index_name": INDEX, **kwargs}
    return DeleteVectorizeIndexOperator(**arguments).execute(make_context())


def types_of(client: VectorizeClient) -> dict[str, str]:
    return {one["propertyName"]: one["indexType"] for one in client.list_metadata_indexes(INDEX)}


def wait_for_types(client: VectorizeClient, types: dict[str, str]) -> None:
    wait_until(lambda: types_of(client) == types)
