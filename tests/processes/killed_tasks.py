# SPDX-License-Identifier: Apache-2.0
"""A DAG whose tasks the test kills halfway; each task writes its process id to a file."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_cfvectorize.operators.vectors import (
    DeleteVectorsByIdsOperator,
    ReconcileVectorsOperator,
    UpsertVectorsOperator,
)

HERE = Path(os.environ["KILLED_TASKS_HOME"])


def write_pid(context: Any) -> None:
    ti = context["ti"]
    (HERE / f"{ti.task_id}-{ti.try_number}.pid").write_text(str(os.getpid()))


with DAG(
    "killed_tasks",
    schedule=None,
    start_date=pendulum.datetime(2026, 1, 1, tz="UTC"),
    default_args={
        "retries": 1,
        "retry_delay": timedelta(0),
        "pre_execute": write_pid,
        "index_name": "docs",
        "wait_for_completion": True,
        "poll_interval": 1,
    },
) as dag:
    (
        UpsertVectorsOperator(task_id="upsert", vectors_path=str(HERE / "vectors.ndjson"))
        >> DeleteVectorsByIdsOperator(task_id="delete", ids_path=str(HERE / "ids.txt"))
        >> ReconcileVectorsOperator(
            task_id="reconcile", ids_path=str(HERE / "desired.txt"), max_delete_fraction=1.0
        )
    )
