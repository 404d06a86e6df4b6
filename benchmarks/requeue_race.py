# SPDX-License-Identifier: Apache-2.0
"""
Measure how many deferred tasks Airflow 3 fails because they end within seconds of their deferral.

docs/troubleshooting.md describes this bug under "In Airflow". An Airflow runs one mapped task with the
default ``min_heartbeat_interval``, once with our delete and once with Airflow's own trigger. It takes some
minutes, so ``run_all.py`` does not run it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "scripts"))

from playground import Airflow, airflow, local_vectorize, seed
from progress import say

DAG_IDS = {"ours": "race_ours", "airflow": "race_airflow"}
DAGS = """
from datetime import timedelta

import pendulum
from airflow.providers.common.compat.sdk import DAG, BaseOperator
from airflow.providers.standard.triggers.temporal import TimeDeltaTrigger

from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByIdsOperator

START = pendulum.datetime(2026, 1, 1, tz="UTC")


class WaitASecond(BaseOperator):
    def execute(self, context):
        self.defer(trigger=TimeDeltaTrigger(timedelta(seconds=1)), method_name="execute_complete")

    def execute_complete(self, context, event=None):
        pass


with DAG("race_airflow", schedule=None, start_date=START):
    WaitASecond.partial(task_id="task", retries=0).expand(doc=["no code of ours"] * COUNT)

with DAG("race_ours", schedule=None, start_date=START):
    DeleteVectorsByIdsOperator.partial(
        task_id="task", index_name="docs", wait_for_completion=True, deferrable=True, retries=0
    ).expand(ids=[[f"chunk-{i}"] for i in range(COUNT)])
"""


def count_failed(instance: Airflow, dag_id: str, count: int) -> int:
    """Run a DAG to its end and return how many of its tasks have failed."""
    run = instance.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None})
    path = f"/api/v2/dags/{dag_id}/dagRuns/{run['dag_run_id']}"
    while instance.call("GET", path)["state"] not in ("success", "failed"):
        time.sleep(2)
    states = []
    while len(states) < count:
        page = instance.call("GET", f"{path}/taskInstances?limit=50&offset={len(states)}")["task_instances"]
        assert page, f"{len(states)} of {count} tasks"
        states += [task["state"] for task in page]
    return count - states.count("success")


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=100, help="tasks in each run (default: 100)")
    parser.add_argument("--only", choices=DAG_IDS, help="run one of the two (default: both)")
    options = parser.parse_args()
    failed = {}
    with tempfile.TemporaryDirectory(prefix="requeue-race-") as name:
        home = Path(name)
        (home / "dags").mkdir()
        (home / "dags" / "race.py").write_text(DAGS.replace("COUNT", str(options.tasks)))
        settings = {
            "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
            "AIRFLOW__CORE__PARALLELISM": "6",
            "AIRFLOW__CORE__MAX_ACTIVE_TASKS_PER_DAG": "6",
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "5",
        }
        with local_vectorize(home, "--apply-delay", "0.1") as connection:
            seed(connection, options.tasks)
            (home / "airflow").mkdir()
            with airflow(home / "airflow", connection, DAG_IDS["ours"], **settings) as instance:
                for name, dag_id in DAG_IDS.items():
                    if options.only in (None, name):
                        started = time.monotonic()
                        failed[name] = count_failed(instance, dag_id, options.tasks)
                        seconds = time.monotonic() - started
                        say(f"{name}: {failed[name]} of {options.tasks} failed, {seconds:.0f} s")
                log = instance.log.read_text()
                say(f"log lines of the race: {log.count('finished with state success, but the task')}")
    print(json.dumps(failed))
    if failed.get("ours"):
        sys.exit("tasks with our delete have failed")


if __name__ == "__main__":
    main()
