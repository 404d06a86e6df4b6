# SPDX-License-Identifier: Apache-2.0
"""
Delete many ids with mapped tasks that share a pool, and retry only errors that a retry can fix.

The tasks in the pool occupy at most two worker slots, in all runs and DAGs together. Create the pool once;
without it, the tasks never start:

    airflow pools set cloudflare_vectorize 2 "Tasks that write to Vectorize"

Airflow retries only the chunk that fails. On Airflow 3.3 and newer, ``retry_policy`` fails a task with a
wrong token or invalid ids without a retry, and a throttled task waits for as long as the service requires. On
older versions it is None, and Airflow retries every error.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByIdsOperator
from airflow_provider_cfvectorize.retry import retry_policy
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor

with DAG(
    "vectorize_delete_in_a_pool",
    schedule=None,
    doc_md=__doc__,
    tags=["cloudflare", "vectorize"],
    params={"index_name": "docs", "chunks": 4, "chunk_size": 60},
    # In default_args, where Airflow before 3.3 ignores retry_policy.
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1), "retry_policy": retry_policy},
) as dag:

    @task
    def list_chunks(params: dict[str, int] | None = None) -> list[list[str]]:
        """Return chunks of ids, in place of your own source."""
        plan = params or {"chunks": 4, "chunk_size": 60}
        size = plan["chunk_size"]
        return [[f"chunk-{i}" for i in range(n * size, (n + 1) * size)] for n in range(plan["chunks"])]

    delete = DeleteVectorsByIdsOperator.partial(
        task_id="delete",
        index_name="{{ params.index_name }}",
        pool="cloudflare_vectorize",
    ).expand(ids=list_chunks())
    # Not in the pool: the sensor writes nothing and occupies no worker slot while it waits.
    VectorizeMutationSensor(
        task_id="wait_until_all_are_gone",
        index_name="{{ params.index_name }}",
        mutation_id=delete.output,
        deferrable=True,
    )
