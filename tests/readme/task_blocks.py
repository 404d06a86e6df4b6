# SPDX-License-Identifier: Apache-2.0
"""Rules for the fenced blocks of the how-to guides: tenants, filling, alerts."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Callable, Mapping

from airflow_provider_cfvectorize.client.types import Vector
from dags.running import run_dag
from harness import DIMENSIONS, PROVEN, Vectorize
from readme.bench import Bench
from readme.markdown import Block


def deletes_a_tenant(block: Block, bench: Bench) -> None:
    vectorize = Vectorize(bench.server)
    vectorize.fill(["tenant-7/a", "tenant-7/b", "tenant-70/a"])
    surplus = bench.directory / "surplus.txt"
    dag = bench.load(block).dag
    params = {"prefix": "tenant-7/", "surplus": str(surplus)}
    run = run_dag(dag, run_conf=params)
    assert run.states["delete"] == "skipped"
    assert sorted(surplus.read_text().split()) == ["tenant-7/a", "tenant-7/b"]
    run = run_dag(dag, run_conf={**params, "delete": True})
    assert run.state == "success", run.states
    assert vectorize.ids() == {"tenant-70/a"}
    assert run.pull("delete", "evidence")["outcome"] in PROVEN


def is_a_vector(block: Block, bench: Bench) -> None:
    assert json.loads(block.text).keys() == {"id", "values", "metadata"}


def keeps_in_step(block: Block, bench: Bench) -> None:
    vectorize = Vectorize(bench.server)
    vectorize.fill(["old", *(f"doc-{i}" for i in range(9))])
    path = bench.directory / "vectors.ndjson"
    ids = [f"doc-{i}" for i in range(10)]
    path.write_text("".join(json.dumps({"id": id_, "values": [0.5] * DIMENSIONS}) + "\n" for id_ in ids))
    run = run_dag(bench.load(block).dag, run_conf={"path": str(path)})
    assert run.state == "success", run.states
    assert vectorize.ids() == set(ids)
    # The file has lost most of its lines.
    path.write_text(path.read_text().splitlines()[0] + "\n")
    assert run_dag(bench.load(block).dag, run_conf={"path": str(path)}).state == "failed"
    assert vectorize.ids() == set(ids)


def alerts(block: Block, bench: Bench) -> None:
    module = bench.load(block)
    alerted = []

    def alert(context: dict[str, object]) -> None:
        module.alert(context)
        alerted.append(context["task_instance"].task_id)  # type: ignore[attr-defined]

    module.dag.get_task("delete").on_failure_callback = [alert]
    # The index does not exist.
    assert run_dag(module.dag).state == "failed"
    assert alerted == ["delete"]


def deletes_rows(block: Block, bench: Bench) -> None:
    vectorize = Vectorize(bench.server)
    vectorize.fill(["a", "b", "c"])
    path = bench.directory / "documents.db"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE documents (id TEXT, deleted_at TEXT)")
        database.execute("INSERT INTO documents VALUES ('a', '2026-01-31'), ('b', NULL), ('c', '2026-01-31')")
    connection = {"conn_type": "sqlite", "host": str(path)}
    bench.monkeypatch.setenv("AIRFLOW_CONN_DOCUMENTS_DB", json.dumps(connection))
    run = run_dag(bench.load(block).dag)
    assert run.state == "success", run.states
    assert vectorize.ids() == {"b"}


def creates_the_index(block: Block, bench: Bench) -> None:
    run = run_dag(bench.load(block).dag)
    assert run.state == "success", run.states
    vectorize = Vectorize(bench.server)
    listed = vectorize.client.list_metadata_indexes("documents")
    assert listed == [{"propertyName": "doc_id", "indexType": "string"}]


def deletes_a_document(block: Block, bench: Bench) -> None:
    vectorize = Vectorize(bench.server, "documents")
    vectorize.client.create_metadata_index("documents", "doc_id", "string")
    vectors: list[Vector] = [
        {"id": f"{doc}-{i}", "values": [0.5] * DIMENSIONS, "metadata": {"doc_id": doc}}
        for doc in ("a", "b")
        for i in range(2)
    ]
    vectorize.wait_for(vectorize.client.upsert("documents", vectors)["mutationId"])
    run = run_dag(bench.load(block).dag, run_conf={"doc_id": "a"})
    assert run.state == "success", run.states
    assert vectorize.ids() == {"b-0", "b-1"}


RULES: Mapping[str, Callable[[Block, Bench], None]] = {
    "docs/delete-a-tenant.md#delete-by-a-prefix-of-the-ids/1": deletes_a_tenant,
    "docs/delete-by-metadata.md#prepare-the-index/1": creates_the_index,
    "docs/delete-by-metadata.md#delete-a-document/1": deletes_a_document,
    "docs/fill-and-reconcile.md#fill-an-index-and-keep-it-in-step/1": is_a_vector,
    "docs/fill-and-reconcile.md#fill-an-index-and-keep-it-in-step/2": keeps_in_step,
    "docs/alerts.md#callbacks/1": alerts,
    "docs/ids-from-a-database.md#rows-as-ids/1": deletes_rows,
}
