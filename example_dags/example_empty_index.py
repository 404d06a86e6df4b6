# SPDX-License-Identifier: Apache-2.0
"""
Empty an index of a million vectors with mapped tasks, through files of ids in object storage.

The service has no call to empty an index, and an index that is deleted and created again has no metadata
indexes. The DAG therefore lists all ids, 1,000 in each request, and writes them to files of 50,000. One task
deletes the ids of each file, and Airflow retries each task on its own.

A million ids need 1,000 requests to list and 10,000 to delete. Cloudflare allows an account 1,200 requests in
five minutes, so the DAG takes about 46 minutes, in which the account can do little else.
"""

from __future__ import annotations

import json
from itertools import islice

from airflow.providers.common.compat.sdk import DAG, ObjectStoragePath, Param, task

from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook
from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByIdsOperator
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor

with DAG(
    "vectorize_empty_index",
    schedule=None,
    doc_md=__doc__,
    tags=["cloudflare", "vectorize"],
    params={
        "index_name": Param("docs", type="string", title="Index to empty"),
        "storage": Param(
            "s3://aws_default@my-bucket/vectorize",
            type="string",
            title="Folder for the files of ids",
            description="In object storage that all workers can reach.",
        ),
        "chunk_size": Param(50_000, type="integer", minimum=1),
    },
) as dag:

    @task
    def write_chunks(index_name: str, folder: str, chunk_size: str) -> list[str]:
        """Write all ids to files, and return the paths."""
        chunks = ObjectStoragePath(folder)
        chunks.mkdir(parents=True, exist_ok=True)
        ids = CloudflareVectorizeHook().iter_ids(index_name)
        paths = []
        while chunk := list(islice(ids, int(chunk_size))):
            # As JSON objects, because an id may contain a line break.
            path = chunks / f"{len(paths):06}.ndjson"
            path.write_text("".join(f"{json.dumps({'id': id_})}\n" for id_ in chunk))
            paths.append(str(path))
        return paths

    delete = DeleteVectorsByIdsOperator.partial(
        task_id="delete",
        index_name="{{ params.index_name }}",
        # More tasks at once would not be faster, because they share the account's request budget.
        max_active_tis_per_dagrun=1,
    ).expand(
        ids_path=write_chunks(
            index_name="{{ params.index_name }}",
            folder="{{ params.storage }}/{{ run_id | replace(':', '') }}",
            chunk_size="{{ params.chunk_size }}",
        )
    )
    VectorizeMutationSensor(
        task_id="wait_until_empty",
        index_name="{{ params.index_name }}",
        mutation_id=delete.output,
        timeout=3600,
        deferrable=True,
    )
