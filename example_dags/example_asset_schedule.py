# SPDX-License-Identifier: Apache-2.0
"""
Fill an index, and run whatever depends on it when that is done.

The first DAG creates the index if it is not there, and writes documents into it. Its last task names the
index as its outlet. The second DAG is scheduled on that and no clock: it runs each time the documents have
been written, with whatever wrote them.

An asset is part of a DAG, so its account stands here: that of the local server, unless the environment names
another. In Airflow 2 an asset is called a dataset, and all else is the same.
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
        # Whoever is scheduled on the asset is to find them.
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
