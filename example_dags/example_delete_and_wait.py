# SPDX-License-Identifier: Apache-2.0
"""
Delete and wait in one task, and keep the proof.

While it waits the task is deferred: it takes no worker's slot. The XCom ``evidence`` says how it is known
that the vectors are gone; ``verify="all"`` has every single id read back.
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
