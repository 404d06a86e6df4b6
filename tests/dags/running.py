# SPDX-License-Identifier: Apache-2.0
"""Run whole DAGs in this process and read their results from Airflow's database."""

from __future__ import annotations

import json
import os
import sqlite3
import sys
from dataclasses import dataclass
from functools import cache
from typing import Any

import pendulum
from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import DAG

START = pendulum.datetime(2026, 1, 1, tz="UTC")


def make_dag(dag_id: str, **kwargs: Any) -> DAG:
    """Return a DAG without a schedule."""
    return DAG(dag_id, schedule=None, start_date=START, **kwargs)


@dataclass
class Run:
    """A finished DAG run."""

    dag_id: str
    run_id: str
    state: str
    states: dict[str, str]

    def pull(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """Return an XCom from the database, or None."""
        rows = query(
            "SELECT value FROM xcom WHERE dag_id=? AND run_id=? AND task_id=? AND key=? AND map_index=?",
            (self.dag_id, self.run_id, task_id, key, map_index),
        )
        return json.loads(rows[0][0]) if rows else None

    def tries(self, task_id: str, map_index: int = -1) -> int:
        """Return the number of a task's attempts."""
        ((tries,),) = query(
            "SELECT try_number FROM task_instance WHERE dag_id=? AND run_id=? AND task_id=? AND map_index=?",
            (self.dag_id, self.run_id, task_id, map_index),
        )
        return int(tries)

    def decisions(self, task_id: str, map_index: int = -1) -> list[tuple[float | None, str | None]]:
        """Return the delay and reason that a retry policy gave for each retry."""
        return query(
            "SELECT retry_delay_override, retry_reason FROM task_instance_history "
            "WHERE dag_id=? AND run_id=? AND task_id=? AND map_index=? ORDER BY try_number",
            (self.dag_id, self.run_id, task_id, map_index),
        )


def query(sql: str, values: tuple[Any, ...] = ()) -> list[Any]:
    """Query Airflow's database."""
    path = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].removeprefix("sqlite:///")
    connection = sqlite3.connect(path)
    try:
        return connection.execute(sql, values).fetchall()
    finally:
        connection.close()


def change(sql: str, values: tuple[Any, ...] = ()) -> None:
    """Change Airflow's database."""
    path = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].removeprefix("sqlite:///")
    connection = sqlite3.connect(path)
    try:
        with connection:
            connection.execute(sql, values)
    finally:
        connection.close()


def register(dag: DAG) -> None:
    """Write a DAG that has no file into Airflow's database, as Airflow 3 requires."""
    if airflow_version.startswith("2."):
        return
    from airflow.dag_processing.bundles.manager import DagBundlesManager

    DagBundlesManager().sync_bundles_to_db()
    try:
        from airflow.dag_processing.dagbag import DagBag
    except ImportError:  # before 3.2
        from airflow.models.dagbag import DagBag
    bag = DagBag(dag_folder=os.devnull)
    bag.bag_dag(dag)
    if hasattr(bag, "sync_to_db"):  # before 3.1
        dag.relative_fileloc = dag.fileloc
        bag.sync_to_db("dags-folder", None)
        return
    sync = sys.modules[DagBag.__module__].sync_bag_to_db
    sync(bag, "dags-folder", None)


def share_api() -> None:
    """Share an API between test runs, as Airflow 3.3 does; earlier versions spend seconds per task."""
    if airflow_version.startswith(("3.0", "3.1", "3.2")):
        from airflow.sdk.execution_time import supervisor

        if not hasattr(supervisor.in_process_api_server, "cache_info"):
            supervisor.in_process_api_server = cache(supervisor.in_process_api_server)


def run_dag(dag: DAG, **kwargs: Any) -> Run:
    """Run a DAG to its end in this process."""
    share_api()
    register(dag)
    dag_run = dag.test(**kwargs)
    states = {
        ti.task_id if ti.map_index < 0 else f"{ti.task_id}[{ti.map_index}]": str(ti.state)
        for ti in dag_run.get_task_instances()
    }
    return Run(dag.dag_id, dag_run.run_id, str(dag_run.state), states)
