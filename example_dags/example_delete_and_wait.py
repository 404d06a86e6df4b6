# SPDX-License-Identifier: Apache-2.0
"""
Delete ids and wait in one task, with evidence.

While it waits, the task is deferred and occupies no worker slot. The XCom ``evidence`` states how the task
knows that the vectors are gone. ``verify="all"`` reads back every id.
"""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByIdsOperator

with DAG(
    "vectorize_delete_and_wait",
    schedule=None,
    doc_md=__doc__,
    tags=["cloudflare", "vectorize"],
    params={"index_name": "docs", "ids": ["chunk-0", "chunk-1", "chunk-2"]},
) as dag:
    DeleteVectorsByIdsOperator(
        task_id="delete",
        index_name="{{ params.index_name }}",
        ids="{{ params.ids }}",
        wait_for_completion=True,
        deferrable=True,
        verify="all",
    )
