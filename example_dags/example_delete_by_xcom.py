# SPDX-License-Identifier: Apache-2.0
"""
Delete the vectors of documents that an upstream task no longer finds in the source.

The upstream task returns a list of ids, like a database query.
"""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByIdsOperator
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor

with DAG(
    "vectorize_delete_by_xcom",
    schedule=None,
    doc_md=__doc__,
    tags=["cloudflare", "vectorize"],
    params={"index_name": "docs", "first": 0, "last": 249},
) as dag:

    @task
    def find_deleted_documents(params: dict[str, int] | None = None) -> list[str]:
        """Stand in for a query such as SELECT id FROM documents WHERE deleted_at > ..."""
        span = params or {"first": 0, "last": 249}
        return [f"chunk-{i}" for i in range(span["first"], span["last"] + 1)]

    delete = DeleteVectorsByIdsOperator(
        task_id="delete",
        index_name="{{ params.index_name }}",
        ids=find_deleted_documents(),
    )
    VectorizeMutationSensor(
        task_id="wait_until_gone",
        index_name="{{ params.index_name }}",
        mutation_id=delete.output,
        deferrable=True,
    )
