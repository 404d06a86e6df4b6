# SPDX-License-Identifier: Apache-2.0
"""
Fill an index, and run another DAG each time the index has new documents.

The first DAG creates the index if it does not exist, and writes documents into it. Its last task has the
index as its outlet. The second DAG has this asset as its schedule: it runs each time a task has written the
index.

The asset contains the account id. The DAG takes it from the environment; the default is the local server's
account. Airflow 2 calls an asset a dataset.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime

from airflow.providers.common.compat.sdk import DAG

from airflow_provider_cfvectorize.assets import vectorize_asset
from airflow_provider_cfvectorize.operators.indexes import CreateVectorizeIndexOperator
from airflow_provider_cfvectorize.operators.vectors import QueryVectorsOperator, UpsertVectorsOperator

INDEX = "articles"
ARTICLES = vectorize_asset(
    account_id=os.environ.get("CLOUDFLARE_ACCOUNT_ID", "10ca10ca10ca10ca10ca10ca10ca10ca"),
    index_name=INDEX,
)

with DAG(
    "vectorize_write_articles",
    schedule=None,
    doc_md=__doc__,
    tags=["cloudflare", "vectorize"],
    default_args={"index_name": INDEX},
) as write:
    create = CreateVectorizeIndexOperator(task_id="create", dimensions=32, metric="cosine", if_exists="skip")
    upsert = UpsertVectorsOperator(
        task_id="upsert",
        vectors=[{"id": f"article-{i}", "values": [i / 8, *[1.0] * 31]} for i in range(8)],
        # The DAGs scheduled on the asset start after the documents are applied.
        wait_for_completion=True,
        deferrable=True,
        outlets=[ARTICLES],
    )
    create >> upsert

with DAG(
    "vectorize_after_articles",
    schedule=[ARTICLES],
    start_date=datetime(2026, 1, 1, tzinfo=UTC),
    doc_md=__doc__,
    tags=["cloudflare", "vectorize"],
) as read:
    QueryVectorsOperator(task_id="query", index_name=INDEX, vector=[1.0] * 32, top_k=3, inlets=[ARTICLES])
