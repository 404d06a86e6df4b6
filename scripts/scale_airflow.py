# SPDX-License-Identifier: Apache-2.0
"""An Airflow with Celery workers, as processes on this machine."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from playground import Airflow, process
from progress import step
from scale_services import ObjectStorage

STORE_CONN_ID = "object_storage"
WORKERS = ("worker-1", "worker-2")
#: Tasks that a worker runs at once.
CONCURRENCY = 2
#: Seconds without a heartbeat after which Airflow counts a task as lost. Airflow's default is 300.
HEARTBEAT_TIMEOUT = 15
#: Seconds between two checks for lost tasks.
DETECTION_INTERVAL = 5
#: Seconds after which Redis gives a message to another worker, unless the first worker has acknowledged it.
#: Longer than any task here. The Celery provider's default is a day.
VISIBILITY_TIMEOUT = 120
#: Seconds after which the scheduler queues a task again that no worker has started.
QUEUED_TIMEOUT = 60


def settings(database: str, broker: str) -> dict[str, str]:
    """
    Return Airflow's configuration for Celery workers, as environment variables.

    :param database: PostgreSQL's URL without the scheme.
    :param broker: Redis's URL.
    """
    return {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CORE__PARALLELISM": "16",
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(32),
        # The scheduler signs the tokens with which workers authenticate to the API server.
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{database}",
        "AIRFLOW__CELERY__BROKER_URL": broker,
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql+psycopg2://{database}",
        "AIRFLOW__CELERY__WORKER_CONCURRENCY": str(CONCURRENCY),
        # A worker fetches only tasks that it can start, so that a killed worker loses no waiting tasks.
        "AIRFLOW__CELERY__WORKER_PREFETCH_MULTIPLIER": "1",
        "AIRFLOW__CELERY__TASK_ACKS_LATE": "True",
        "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": str(VISIBILITY_TIMEOUT),
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": str(HEARTBEAT_TIMEOUT),
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": str(DETECTION_INTERVAL),
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT": str(QUEUED_TIMEOUT),
        "AIRFLOW__SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": "15",
        "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
    }


class CeleryAirflow(Airflow):
    """
    The processes of an Airflow with Celery workers.

    :param home: an empty directory for its files.
    :param stack: ends the processes.
    :param connection: the connection to Vectorize, as JSON.
    :param port: the port of the API server.
    :param store: the object storage with the chunks.
    :param database: PostgreSQL's URL without the scheme.
    :param broker: Redis's URL.
    """

    def __init__(
        self,
        home: Path,
        stack: ExitStack,
        connection: str,
        port: int,
        *,
        store: ObjectStorage,
        database: str,
        broker: str,
    ) -> None:
        super().__init__(home, connection, port)
        self.logs = home.parent / "logs"
        self.log = self.logs / "api-server.log"
        self.env |= settings(database, broker)
        self.env[f"AIRFLOW_CONN_{STORE_CONN_ID.upper()}"] = json.dumps(store.connection)
        self._stack = stack
        self._parts: dict[str, subprocess.Popen[bytes]] = {}

    def migrate(self) -> None:
        """Create the tables of the database."""
        self.home.mkdir()
        done = subprocess.run(
            [sys.executable, "-m", "airflow", "db", "migrate"],
            env=self.env,
            cwd=self.home,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            sys.exit(f"airflow db migrate failed:\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}")

    def start(self, dag_id: str) -> None:
        """Start everything, and wait until Airflow has read a DAG and both workers are ready."""
        self._run("api-server", "api-server")
        for name in ("scheduler", "dag-processor"):
            self._run(name, name)
        self._run("triggerer", "triggerer", "--skip-serve-logs")
        for name in WORKERS:
            self._run(name, "celery", "worker", "--skip-serve-logs", "--celery-hostname", f"{name}@{name}")
        with step("Airflow: API server and DAG processor") as running:
            self.wait_for_dag(dag_id, self._parts["api-server"], running)
        deadline = time.monotonic() + 120
        while not all(self._is_ready(name) for name in WORKERS):
            self.check_alive()
            if time.monotonic() > deadline:
                sys.exit(f"The workers did not start; see {self.logs}")
            time.sleep(0.5)
        self.check_alive()

    def _is_ready(self, worker: str) -> bool:
        return f"{worker}@{worker} ready" in (self.logs / f"{worker}.log").read_text()

    def _run(self, name: str, *arguments: str) -> None:
        command = [sys.executable, "-m", "airflow", *arguments]
        self._parts[name] = self._stack.enter_context(
            process(command, self.logs / f"{name}.log", self.env, cwd=self.home)
        )
        # The stack calls this first, so that all processes stop at once and not one after the other.
        self._stack.callback(self._signal_all)

    def _signal_all(self) -> None:
        for child in self._parts.values():
            if child.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGTERM)

    def check_alive(self, but: str | None = None) -> None:
        """End the script if a process has ended unexpectedly."""
        for name, child in self._parts.items():
            if name != but and child.poll() is not None:
                log = self.logs / f"{name}.log"
                sys.exit(f"{name} ended unexpectedly; the end of {log}:\n{log.read_text()[-3000:]}")

    def members(self, worker: str) -> list[Any]:
        """Return the processes of a worker: its own, its pool, and their supervisors and tasks."""
        import psutil

        try:
            main = psutil.Process(self._parts[worker].pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def freeze(self, worker: str) -> list[Any]:
        """Suspend all processes of a worker, and return them."""
        import psutil

        frozen: dict[int, Any] = {}
        # Repeat for processes that have started meanwhile.
        while new := [one for one in self.members(worker) if one.pid not in frozen]:
            for one in new:
                frozen[one.pid] = one
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.suspend()
        return list(frozen.values())

    def thaw(self, frozen: list[Any]) -> None:
        """Resume suspended processes."""
        import psutil

        for one in frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.resume()

    def kill(self, worker: str, frozen: list[Any]) -> None:
        """Kill a frozen worker with all its tasks, as if its machine had lost power."""
        import psutil

        # One by one, because each task has its own process group.
        for one in frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self._parts[worker].wait(10)
        psutil.wait_procs(frozen, timeout=10)

    def trigger(self, dag_id: str, conf: dict[str, str]) -> str:
        """Trigger a DAG and return the path of the run in the REST API."""
        path = f"/api/v2/dags/{dag_id}/dagRuns"
        run = self.call("POST", path, {"logical_date": None, "conf": conf})
        return f"{path}/{run['dag_run_id']}"

    def tasks(self, run: str) -> list[dict[str, Any]]:
        """Return the task instances of a run."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.call("GET", f"{run}/taskInstances?limit=100&offset={len(found)}")
            found += page["task_instances"]
            if len(found) >= page["total_entries"] or not page["task_instances"]:
                return found
