# SPDX-License-Identifier: Apache-2.0
"""
Delete the ids that a person types into the trigger form, and wait until they are gone.

Airflow makes the form from ``params``. Type one id in each line.
"""

from __future__ import annotations

from airflow.providers.common.compat.sdk import DAG, Param

from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByIdsOperator
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor

with DAG(
    "vectorize_delete_by_params",
    schedule=None,
    doc_md=__doc__,
    tags=["cloudflare", "vectorize"],
    params={
        "index_name": Param("docs", type="string", title="Index"),
        "ids": Param(
            ["chunk-0", "chunk-1"],
            type="array",
            # The form refuses an empty line, which would be an empty id.
            items={"type": "string", "minLength": 1},
            title="Ids to delete",
            description="One id in each line, without an empty line at the end.",
        ),
    },
) as dag:
    delete = DeleteVectorsByIdsOperator(
        task_id="delete",
        index_name="{{ params.index_name }}",
        ids="{{ params.ids }}",
        # More ids than a person types are probably a mistake.
        max_ids=1000,
    )
    VectorizeMutationSensor(
        task_id="wait_until_gone",
        index_name="{{ params.index_name }}",
        mutation_id=delete.output,
        deferrable=True,
    )
