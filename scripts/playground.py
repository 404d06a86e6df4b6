# SPDX-License-Identifier: Apache-2.0
"""Run an Airflow and a local Vectorize on free ports, for the demo and for `make ui`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from progress import Step, step

ROOT = Path(__file__).resolve().parent.parent
CONN = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"
INDEX = "docs"
DIMENSIONS = 32


def free_port() -> int:
    """Return a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def process(
    arguments: list[str],
    log: Path,
    env: dict[str, str],
    *,
    sign: signal.Signals = signal.SIGTERM,
    **options: Any,
) -> Iterator[subprocess.Popen[bytes]]:
    """
    Run a command in a context, and end it with all its children.

    :param arguments: the command.
    :param log: the file for its output.
    :param env: its environment variables.
    :param sign: the signal that ends it.
    :param options: more arguments of ``Popen``.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        child = subprocess.Popen(
            arguments,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
            **{"cwd": log.parent, **options},
        )
    try:
        yield child
    finally:
        for next_sign in (sign, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, next_sign)
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(15)
                break
        # End children that have outlived their parent.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


@contextlib.contextmanager
def local_vectorize(home: Path, *options: str) -> Iterator[str]:
    """Run vectorize-local on a free port and yield the connection that it prints."""
    log = home / "vectorize-local.log"
    command = [str(Path(sys.executable).with_name("vectorize-local")), "--port", "0", *options]
    with process(command, log, dict(os.environ)) as child:
        deadline = time.monotonic() + 60
        while not (found := re.search(rf"^{CONN}='(.*)'$", log.read_text(), re.M)):
            if child.poll() is not None or time.monotonic() > deadline:
                sys.exit(f"vectorize-local did not start; its output:\n{log.read_text()}")
            time.sleep(0.1)
        yield found.group(1)


class Airflow:
    """
    Airflow's processes, with the example DAGs and a connection to the local Vectorize.

    :param home: an empty directory for its files.
    :param connection: the connection, as JSON; None for no connection.
    :param port: the port of its API server.
    """

    def __init__(self, home: Path, connection: str | None, port: int) -> None:
        self.home = home
        self.url = f"http://127.0.0.1:{port}"
        self.log = home / "airflow.log"
        self.env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")},
            # `airflow standalone` finds the command of its parts in PATH.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}",
            "AIRFLOW_HOME": str(home),
            **({} if connection is None else {CONN: connection}),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "example_dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
            "AIRFLOW__CORE__TEST_CONNECTION": "Enabled",
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__BASE_URL": self.url,
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__LOGGING__LOGGING_LEVEL": "INFO",
            "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
            # Airflow 3 can fail a deferred task within this time, see docs/troubleshooting.md.
            "AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": "1",
            "NO_PROXY": "127.0.0.1,localhost",
        }
        self._token: str | None = None

    def call(self, method: str, path: str, body: object = None) -> Any:
        """Send a request to Airflow's REST API and return the response."""
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data, headers, method=method)  # noqa: S310
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            request, timeout=30
        ) as response:
            return json.load(response)

    def wait_for_dag(self, dag_id: str, child: subprocess.Popen[bytes], running: Step) -> None:
        """Wait until Airflow responds and has read a DAG."""
        deadline = time.monotonic() + 300
        running.doing = "the API server is starting"
        while True:
            try:
                self._token = self._token or self.call("GET", "/auth/token")["access_token"]
                running.doing = "the API server is ready; the DAG processor is reading the DAGs"
                self.call("GET", f"/api/v2/dags/{dag_id}")
                return
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                if child.poll() is not None or time.monotonic() > deadline:
                    sys.exit(f"Airflow did not start; the end of {self.log}:\n{self.log.read_text()[-5000:]}")
                time.sleep(0.5)


@contextlib.contextmanager
def airflow(home: Path, connection: str | None, dag_id: str, **env: str) -> Iterator[Airflow]:
    """
    Run Airflow (scheduler, triggerer, DAG processor, API server), and yield it once it has read a DAG.

    :param home: an empty directory for its files.
    :param connection: the connection, as JSON; None for no connection.
    :param dag_id: the DAG.
    :param env: more environment variables.
    """
    instance = Airflow(home, connection, free_port())
    instance.env |= env
    with process([sys.executable, "-m", "airflow", "standalone"], instance.log, instance.env) as child:
        with step("Airflow: scheduler, triggerer, DAG processor and API server (half a minute)") as running:
            instance.wait_for_dag(dag_id, child, running)
        yield instance


def fresh(directory: Path) -> Path:
    """Empty a directory, or create it, and return it."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    return directory


def seed(connection: str, count: int) -> Any:
    """Fill a new index with the vectors chunk-0, chunk-1, ... and return a client of the server."""
    from airflow_provider_cfvectorize.client.client import VectorizeClient

    given = json.loads(connection)
    client = VectorizeClient(given["login"], api_token=given["password"], base_url=given["host"])
    client.create_index(INDEX, dimensions=DIMENSIONS, metric="cosine")
    mutation = client.upsert(
        INDEX, [{"id": f"chunk-{i}", "values": [i / count, *[1.0] * (DIMENSIONS - 1)]} for i in range(count)]
    )
    while client.info(INDEX).get("processedUpToMutation") != mutation["mutationId"]:
        time.sleep(0.1)
    return client


def all_ids(client: Any) -> list[str]:
    """Return all ids of the index."""
    ids: list[str] = []
    cursor = None
    while True:
        page = client.list_vectors(INDEX, count=1000, cursor=cursor)
        ids += [vector["id"] for vector in page["vectors"]]
        cursor = page.get("nextCursor")
        if not page["isTruncated"]:
            return sorted(ids, key=lambda id_: int(id_.split("-")[1]))
