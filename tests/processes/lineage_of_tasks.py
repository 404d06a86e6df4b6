# SPDX-License-Identifier: Apache-2.0
"""A DAG that uses every operator, for the test of its OpenLineage events."""

from __future__ import annotations

import os
from pathlib import Path

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_cfvectorize.operators.indexes import (
    CreateVectorizeIndexOperator,
    DeleteVectorizeIndexOperator,
)
from airflow_provider_cfvectorize.operators.vectors import (
    DeleteVectorsByIdsOperator,
    ListVectorsOperator,
    QueryVectorsOperator,
    ReconcileVectorsOperator,
    UpsertVectorsOperator,
)

HERE = Path(os.environ["LINEAGE_HOME"])

with DAG(
    "lineage_of_tasks",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    default_args={"index_name": "seen", "retries": 0},
) as dag:
    wait = {"wait_for_completion": True, "deferrable": True, "poll_interval": 0.5}
    (
        CreateVectorizeIndexOperator(task_id="create", dimensions=32, metric="cosine")
        >> UpsertVectorsOperator(task_id="upsert", vectors_path=str(HERE / "vectors.ndjson"), **wait)
        >> QueryVectorsOperator(task_id="query", vector_id="secret-id-0")
        >> ListVectorsOperator(task_id="list", path=str(HERE / "listed.txt"))
        >> DeleteVectorsByIdsOperator.partial(task_id="delete", **wait).expand(
            ids=[["secret-id-0", "secret-id-1"], ["secret-id-2"], []]
        )
        >> ReconcileVectorsOperator(
            task_id="reconcile",
            ids_path=str(HERE / "desired.txt"),
            surplus_path=str(HERE / "surplus.txt"),
            max_delete_fraction=1,
            **wait,
        )
        >> DeleteVectorizeIndexOperator(task_id="drop")
        >> ListVectorsOperator(task_id="fail", path=str(HERE / "none.txt"))
    )
