# SPDX-License-Identifier: Apache-2.0
"""
Delete the ids in files in object storage: one mapped task for each file, and one sensor for all of them.

The tasks pass paths to each other, so they can run on any machine. If a worker is lost, Airflow retries its
task on another worker with the file of that task.
"""

from __future__ import annotations

from datetime import timedelta

from airflow.providers.common.compat.sdk import DAG, ObjectStoragePath, Param, task

from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByIdsOperator
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor

with DAG(
    "vectorize_delete_chunks",
    schedule=None,
    doc_md=__doc__,
    tags=["cloudflare", "vectorize"],
    params={
        "index_name": Param("docs", type="string", title="Index"),
        "chunks": Param(
            "s3://aws_default@my-bucket/vectorize/chunks",
            type="string",
            title="Folder with the files of ids",
            description="In object storage that all workers can reach. Each line of a file has one id.",
        ),
    },
) as dag:

    @task
    def list_chunks(folder: str) -> list[str]:
        """Return the paths of all files of ids."""
        return sorted(str(path) for path in ObjectStoragePath(folder).iterdir() if path.suffix == ".txt")

    delete = DeleteVectorsByIdsOperator.partial(
        task_id="delete",
        index_name="{{ params.index_name }}",
        # All tasks share the account's request budget. More tasks at once would only wait longer.
        max_active_tis_per_dagrun=4,
        retries=3,
        retry_delay=timedelta(seconds=10),
    ).expand(ids_path=list_chunks(folder="{{ params.chunks }}"))
    VectorizeMutationSensor(
        task_id="wait_until_all_are_gone",
        index_name="{{ params.index_name }}",
        mutation_id=delete.output,
        deferrable=True,
    )
