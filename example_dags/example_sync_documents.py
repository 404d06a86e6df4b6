# SPDX-License-Identifier: Apache-2.0
"""
Synchronize an index with a file of documents and their embeddings every day.

The first run creates the index, fills it and queries it. Every later run replaces the documents in the index
and deletes those that are no longer in the file. While a task waits, it is deferred.

The file ``documents.ndjson`` beside this DAG has one document in each line. To keep the file small, its
embeddings have 32 values, computed from the words. Your embeddings come from a model.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from airflow.providers.common.compat.sdk import DAG, task

from airflow_provider_cfvectorize.operators.indexes import CreateVectorizeIndexOperator
from airflow_provider_cfvectorize.operators.vectors import (
    QueryVectorsOperator,
    ReconcileVectorsOperator,
    UpsertVectorsOperator,
)


def read_documents(path: str) -> Iterator[dict[str, Any]]:
    """Yield a vector for each document. A generator needs little memory, even for a large file."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            document = json.loads(line)
            yield {
                "id": document["id"],
                "values": document["embedding"],
                "metadata": {"lang": document["lang"], "text": document["text"]},
            }


with DAG(
    "vectorize_sync_documents",
    schedule="@daily",
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    catchup=False,
    doc_md=__doc__,
    tags=["cloudflare", "vectorize"],
    default_args={"index_name": "{{ params.index_name }}"},
    params={
        "index_name": "documents",
        "path": str(Path(__file__).parent / "documents.ndjson"),
        "like": "vector-delete",
        "lang": "en",
    },
) as dag:
    create = CreateVectorizeIndexOperator(
        task_id="create",
        dimensions=32,
        metric="cosine",
        # Create it before the first vector: a metadata index does not find earlier vectors.
        metadata_indexes={"lang": "string"},
        if_exists="skip",
    )
    upsert = UpsertVectorsOperator(
        task_id="upsert",
        vectors_callable=read_documents,
        vectors_kwargs={"path": "{{ params.path }}"},
        wait_for_completion=True,
        deferrable=True,
    )
    reconcile = ReconcileVectorsOperator(
        task_id="reconcile",
        # A file of objects with an id is also a file of ids.
        ids_path="{{ params.path }}",
        # If more than a quarter of the documents are missing, the file is probably incomplete.
        max_delete_fraction=0.25,
        deferrable=True,
    )
    query = QueryVectorsOperator(
        task_id="query",
        vector_id="{{ params.like }}",
        filter={"lang": "{{ params.lang }}"},
        top_k=3,
        return_metadata="all",
    )

    @task
    def show(found: dict[str, Any]) -> list[str]:
        """Print the documents that were found, the nearest first."""
        texts = [match["metadata"]["text"] for match in found["matches"]]
        for match, text in zip(found["matches"], texts, strict=True):
            print(f"{match['score']:.3f}  {match['id']}: {text}")
        return texts

    create >> upsert >> reconcile >> query
    show(query.output)
