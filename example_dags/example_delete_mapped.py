# SPDX-License-Identifier: Apache-2.0
"""
Delete many ids with mapped tasks, one for each chunk, and one sensor for all of them.

Airflow retries each mapped task on its own. ``max_active_tis_per_dagrun`` limits how many tasks compete for
the account's request budget.
"""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByIdsOperator
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor

with DAG(
    "vectorize_delete_mapped",
    schedule=None,
    doc_md=__doc__,
    tags=["cloudflare", "vectorize"],
    params={"index_name": "docs", "chunks": 4, "chunk_size": 60},
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
        max_active_tis_per_dagrun=2,
    ).expand(ids=list_chunks())
    VectorizeMutationSensor(
        task_id="wait_until_all_are_gone",
        index_name="{{ params.index_name }}",
        # The mutation ids of all mapped tasks. The sensor finds their receipts.
        mutation_id=delete.output,
        deferrable=True,
    )
