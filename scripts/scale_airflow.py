# SPDX-License-Identifier: Apache-2.0
"""An Airflow whose tasks run on Celery workers, all of them processes of this machine."""

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
from scale_services import ObjectStorage

STORE_CONN_ID = "object_storage"
WORKERS = ("worker-1", "worker-2")
#: Tasks that a worker runs at once.
CONCURRENCY = 2
#: Seconds without a sign of life after which a task counts as lost; Airflow's own is 300.
HEARTBEAT_TIMEOUT = 15
#: Seconds between two looks for such tasks.
DETECTION_INTERVAL = 5
#: Seconds after which Redis gives a message to another worker if the one that took it has not said that it is
#: done; more than any task here takes. The Celery provider's own is a day.
VISIBILITY_TIMEOUT = 120
#: Seconds after which the scheduler hands out a task anew that no worker has begun.
QUEUED_TIMEOUT = 60


def settings(database: str, broker: str) -> dict[str, str]:
    """
    Return the configuration that makes an Airflow one with Celery workers, as environment variables.

    :param database: PostgreSQL's URL without the scheme.
    :param broker: Redis's URL.
    """
    return {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor",
        "AIRFLOW__CORE__PARALLELISM": "16",
        "AIRFLOW__CORE__FERNET_KEY": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
        "AIRFLOW__API__SECRET_KEY": secrets.token_hex(32),
        # The scheduler signs with it what a worker shows to the API server.
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"postgresql+psycopg2://{database}",
        "AIRFLOW__CELERY__BROKER_URL": broker,
        "AIRFLOW__CELERY__RESULT_BACKEND": f"db+postgresql+psycopg2://{database}",
        "AIRFLOW__CELERY__WORKER_CONCURRENCY": str(CONCURRENCY),
        # A worker takes what it can begin, so that what it has not begun is not lost with it.
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

    :param home: an empty directory for all it keeps.
    :param stack: ends what is started here.
    :param connection: the connection to Vectorize, as JSON.
    :param port: for the API server.
    :param store: where the chunks are.
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
        """Make the tables."""
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
        """Start everything, and wait until it knows a DAG and both workers have answered."""
        self._run("api-server", "api-server")
        for name in ("scheduler", "dag-processor"):
            self._run(name, name)
        self._run("triggerer", "triggerer", "--skip-serve-logs")
        for name in WORKERS:
            self._run(name, "celery", "worker", "--skip-serve-logs", "--celery-hostname", f"{name}@{name}")
        self.wait_for_dag(dag_id, self._parts["api-server"])
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
        # Called first when the stack is unwound: they stop together rather than one after the other.
        self._stack.callback(self._signal_all)

    def _signal_all(self) -> None:
        for child in self._parts.values():
            if child.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, signal.SIGTERM)

    def check_alive(self, but: str | None = None) -> None:
        """Stop the script if a part has ended by itself."""
        for name, child in self._parts.items():
            if name != but and child.poll() is not None:
                log = self.logs / f"{name}.log"
                sys.exit(f"{name} ended by itself; the end of {log}:\n{log.read_text()[-3000:]}")

    def members(self, worker: str) -> list[Any]:
        """Return a worker's processes: itself, its pool, and the supervisors and tasks below that."""
        import psutil

        try:
            main = psutil.Process(self._parts[worker].pid)
            return [main, *main.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def freeze(self, worker: str) -> list[Any]:
        """Stop all processes of a worker where they are, and return them."""
        import psutil

        frozen: dict[int, Any] = {}
        # Again for what has begun meanwhile.
        while new := [one for one in self.members(worker) if one.pid not in frozen]:
            for one in new:
                frozen[one.pid] = one
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.suspend()
        return list(frozen.values())

    def thaw(self, frozen: list[Any]) -> None:
        """Let processes go on."""
        import psutil

        for one in frozen:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.resume()

    def kill(self, worker: str, frozen: list[Any]) -> None:
        """Kill a frozen worker with all its tasks, as if its machine had lost power."""
        import psutil

        # Not by process group: each task has its own.
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
