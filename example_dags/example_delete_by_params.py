# SPDX-License-Identifier: Apache-2.0
"""
Delete the ids that a person types into the trigger form, and wait until they are gone.

The form is made from ``params``; the ids go one a line.
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
            # An empty line, as after the last id, would be an id of no character: the form refuses it.
            items={"type": "string", "minLength": 1},
            title="Ids to delete",
            description="One a line, without an empty line at the end.",
        ),
    },
) as dag:
    delete = DeleteVectorsByIdsOperator(
        task_id="delete",
        index_name="{{ params.index_name }}",
        ids="{{ params.ids }}",
        # More than anybody types by hand is probably a mistake.
        max_ids=1000,
    )
    VectorizeMutationSensor(
        task_id="wait_until_gone",
        index_name="{{ params.index_name }}",
        mutation_id=delete.output,
        deferrable=True,
    )
