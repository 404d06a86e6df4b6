# SPDX-License-Identifier: Apache-2.0
"""
Delete the vectors of rows that a database marks as deleted, and record the proof beside each row.

The table has the columns `id`, `deleted_at`, `erased_at` and `erasure`. The application sets `deleted_at`.
This DAG deletes the vectors, reads every id back, and only then sets `erased_at` and stores the evidence in
`erasure`. A row that is marked while the DAG runs, for the first or the second time, keeps its empty
`erased_at`; the next run erases it.
"""

from __future__ import annotations

import json
from contextlib import closing

from airflow.providers.common.compat.sdk import DAG, BaseHook, task
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByIdsOperator

with DAG(
    "vectorize_ids_from_a_database",
    schedule=None,
    # Two runs at once would delete and record the same rows.
    max_active_runs=1,
    doc_md=__doc__,
    tags=["cloudflare", "vectorize"],
    params={"index_name": "docs"},
) as dag:
    marked = SQLExecuteQueryOperator(
        task_id="marked",
        conn_id="documents_db",
        # As text, deleted_at passes unchanged through the XCom.
        sql="SELECT id, CAST(deleted_at AS VARCHAR(40)) FROM documents "
        "WHERE deleted_at IS NOT NULL AND erased_at IS NULL ORDER BY id",
    )
    delete = DeleteVectorsByIdsOperator(
        task_id="delete",
        index_name="{{ params.index_name }}",
        ids=marked.output.map(lambda row: row[0]),
        verify="all",
        wait_for_completion=True,
        deferrable=True,
    )

    @task
    def record(rows, evidence):
        if not rows:
            return 0
        if evidence["ids_visible"]:
            raise ValueError(f"{evidence['ids_visible']} ids still exist: {evidence['still_visible']}")
        hook = BaseHook.get_hook("documents_db")
        # The mark of a parameter differs between databases.
        mark = hook.placeholder
        sql = (
            f"UPDATE documents SET erased_at = CURRENT_TIMESTAMP, erasure = {mark} "  # noqa: S608
            f"WHERE id = {mark} AND CAST(deleted_at AS VARCHAR(40)) = {mark} AND erased_at IS NULL"
        )
        recorded = 0
        with closing(hook.get_conn()) as connection:
            with closing(connection.cursor()) as cursor:
                for id_, deleted_at in rows:
                    cursor.execute(sql, (json.dumps(evidence), id_, deleted_at))
                    recorded += cursor.rowcount
            connection.commit()
        return recorded

    record(marked.output, delete.output["evidence"])
