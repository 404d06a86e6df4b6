# SPDX-License-Identifier: Apache-2.0
"""
Delete many ids by mapped tasks that share a pool, and retry only what a retry can cure.

However many mapped tasks there are, in however many runs and DAGs, those in the pool take two workers' slots
at a time. Create it once, or the tasks are never started:

    airflow pools set cloudflare_vectorize 2 "Tasks that write to Vectorize"

A chunk that fails is retried by itself. On Airflow 3.3 and newer, ``retry_policy`` ends a task with a wrong
token or bad ids at its first try, and lets a throttled one wait as long as the service asks; before, it is
None, and every error is retried.
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
    # In default_args, where Airflow before 3.3 takes retry_policy as well.
    default_args={"retries": 3, "retry_delay": timedelta(minutes=1), "retry_policy": retry_policy},
) as dag:

    @task
    def list_chunks(params: dict[str, int] | None = None) -> list[list[str]]:
        """Stand in for whatever knows which ids have to go."""
        plan = params or {"chunks": 4, "chunk_size": 60}
        size = plan["chunk_size"]
        return [[f"chunk-{i}" for i in range(n * size, (n + 1) * size)] for n in range(plan["chunks"])]

    delete = DeleteVectorsByIdsOperator.partial(
        task_id="delete",
        index_name="{{ params.index_name }}",
        pool="cloudflare_vectorize",
    ).expand(ids=list_chunks())
    # Not in the pool: it writes nothing, and takes no worker's slot while it waits.
    VectorizeMutationSensor(
        task_id="wait_until_all_are_gone",
        index_name="{{ params.index_name }}",
        mutation_id=delete.output,
        deferrable=True,
    )
