# SPDX-License-Identifier: Apache-2.0
"""SIGKILL ends the server in the middle of a write; it restarts with its data file."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.exceptions import VectorizeBatchError
from chaos.chaos import IMPATIENT, JOBS, PATIENT, WAIT, Job, Run, Store, run_tries, set_policy
from chaos.conftest import CONN
from harness import DIMENSIONS, INDEX, Vectorize, wait_until

pytestmark = pytest.mark.long


class Process:
    """``vectorize-local`` as a process, always on the same port and the same data file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._port = 0
        self._process: subprocess.Popen[str] | None = None
        self.connection = self.start()
        self._port = int(self.connection["host"].split(":")[2].split("/")[0])

    def start(self) -> dict[str, Any]:
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-m", "airflow_provider_cfvectorize.local"),
                *("--port", str(self._port), "--data", str(self._path), "--apply-delay", "0.3"),
                # With latency, some requests are in flight at the kill.
                *("--latency", "0.07"),
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self._process.stdout.readline()
        line = self._process.stdout.readline()
        connection: dict[str, Any] = json.loads(line.split("=", 1)[1].strip().strip("'"))
        return connection

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()

    def requests(self, endpoint: str) -> int:
        with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/_local/stats", timeout=30) as answer:
            return int(json.load(answer)["result"][endpoint])


class Remote(Vectorize):
    """An index of a server process."""

    def __init__(self, process: Process) -> None:
        self.server = self  # type: ignore[assignment]
        self.index_name = INDEX
        self.client = VectorizeClient(
            process.connection["login"],
            api_token=process.connection["password"],
            base_url=process.connection["host"],
        )
        self.client.create_index(INDEX, dimensions=DIMENSIONS, metric="cosine")

    def reset_stats(self) -> None:
        """Do nothing: the process keeps its counts."""


@pytest.fixture
def process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Process]:
    process = Process(tmp_path / "data.sqlite")
    monkeypatch.setenv(CONN, json.dumps(process.connection))
    yield process
    process.kill()


def in_the_middle(process: Process, job: Job, then: Callable[[], None]) -> threading.Thread:
    """Call a function in a thread after some of a job's batches have arrived."""
    before = process.requests(job.write)

    def watch() -> None:
        wait_until(lambda: process.requests(job.write) >= before + job.batches // 3, interval=0.002)
        then()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def check(job: Job, run: Run) -> None:
    assert run.succeeded, run.errors
    job.check_done()
    assert run.pushed["evidence"]["still_visible"] == []
    assert run.pushed["receipt"]["mutation_id"] == run.result


@pytest.mark.parametrize("name", JOBS)
def test_a_task_survives_a_restart_of_the_server(
    process: Process, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    set_policy(monkeypatch, PATIENT)
    job = JOBS[name](Remote(process), tmp_path)

    def restart() -> None:
        process.kill()
        process.start()

    thread = in_the_middle(process, job, restart)
    run = run_tries(lambda: job.make(**WAIT), store=Store())
    thread.join()
    # The task does not resend batches acknowledged before the kill: a lost batch would show.
    assert 0 < process.requests(job.write) < job.batches
    check(job, run)


@pytest.mark.parametrize("name", JOBS)
def test_the_next_attempt_resumes_after_the_kill(
    process: Process, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str
) -> None:
    set_policy(monkeypatch, IMPATIENT)
    job, store = JOBS[name](Remote(process), tmp_path), Store()
    thread = in_the_middle(process, job, process.kill)
    first = run_tries(lambda: job.make(**WAIT), store=store)
    thread.join()
    (error,) = first.errors
    assert isinstance(error, VectorizeBatchError)
    assert "no response from 127.0.0.1" in str(error)
    assert 0 < error.acknowledged < len(job.ids)
    assert "receipt" not in first.pushed
    process.start()
    second = run_tries(lambda: job.make(**WAIT), store=store)
    acknowledged = error.acknowledged // (len(job.ids) // job.batches)
    # A reconciliation may find that requests in flight took effect and only lost their answers.
    least = job.batches - acknowledged - (4 if name == "reconcile" else 0)
    assert least <= process.requests(job.write) <= job.batches - acknowledged
    check(job, second)
