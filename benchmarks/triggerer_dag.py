# SPDX-License-Identifier: Apache-2.0
"""The DAG of ``triggerer.py``, which defers its tasks. The first task becomes the probe."""

from __future__ import annotations

import os

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor

with DAG("waits", schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC")) as dag:
    for number in range(int(os.environ.get("BENCHMARK_TASKS", "1"))):
        VectorizeMutationSensor(task_id=f"wait_{number:05d}", index_name="docs", mutation_id="set later")
