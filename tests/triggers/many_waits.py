# SPDX-License-Identifier: Apache-2.0
"""A DAG with many sensors on an index, for the test of the triggerer."""

from __future__ import annotations

import os

import pendulum
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor

WAITS = int(os.environ.get("WAITS", "100"))

with DAG("many_waits", schedule=None, start_date=pendulum.datetime(2026, 1, 1, tz="UTC")) as dag:
    for number in range(WAITS):
        VectorizeMutationSensor(task_id=f"wait_{number}", index_name="docs", mutation_id="set below")
