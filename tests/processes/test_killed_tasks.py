# SPDX-License-Identifier: Apache-2.0
"""SIGKILL ends task processes of a whole Airflow 3.3 while they write; their retries resume."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_cfvectorize.local import LocalVectorize
from harness import INDEX, Vectorize, wait_until
from processes.standalone import Standalone

VECTORS = 40_000
IDS = 100_000
SURPLUS = 20_000
KEPT = 1000


@pytest.fixture(scope="module")
def index() -> Iterator[Vectorize]:
    with LocalVectorize(apply_delay=0.2, latency=0.05) as server:
        index = Vectorize(server)
        for start in range(0, IDS, 5000):
            index.client.upsert(
                INDEX, [{"id": f"old-{i}", "values": [0.5] * 32} for i in range(start, start + 5000)]
            )
        yield index


@pytest.fixture(scope="module")
def airflow(index: Vectorize, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    home = tmp_path_factory.mktemp("airflow")
    with (home / "vectors.ndjson").open("w") as file:
        for i in range(VECTORS):
            file.write(json.dumps({"id": f"new-{i}", "values": [0.25] * 32}) + "\n")
    (home / "ids.txt").write_text("".join(f"old-{i}\n" for i in range(IDS)))
    (home / "desired.txt").write_text("".join(f"new-{i}\n" for i in range(VECTORS - SURPLUS)))
    with Standalone(
        home,
        Path(__file__).with_name("killed_tasks.py"),
        index.server.connection,
        KILLED_TASKS_HOME=str(home),
    ) as instance:
        yield instance


@pytest.mark.airflow(since="3.3")
@pytest.mark.long
def test_retries_of_killed_tasks_resume(index: Vectorize, airflow: Standalone) -> None:
    run_id = airflow.trigger("killed_tasks")
    numbers: dict[str, Any] = {}
    stats = index.server.stats
    for task_id, endpoint, kill_after, requests in (
        ("upsert", "upsert", 3, VECTORS // 5000),
        ("delete", "delete_by_ids", 500, IDS // 100),
        ("reconcile", "delete_by_ids", 100, SURPLUS // 100),
    ):
        pid = airflow.home / f"{task_id}-1.pid"
        airflow.wait_until(lambda pid=pid: pid.exists(), run_id)  # type: ignore[misc]
        index.server.reset_stats()
        airflow.wait_until(lambda e=endpoint, n=kill_after: stats()[e] >= n, run_id)  # type: ignore[misc]
        os.kill(int(pid.read_text()), signal.SIGKILL)
        retry = airflow.home / f"{task_id}-2.pid"
        airflow.wait_until(lambda retry=retry: retry.exists(), run_id)  # type: ignore[misc]
        # Requests in flight have arrived, and the retry has sent nothing yet.
        first = stats()[endpoint]
        following = {"upsert": "delete-1.pid", "delete": "reconcile-1.pid"}.get(task_id)
        if following:
            airflow.wait_until(lambda f=following: (airflow.home / f).exists(), run_id)  # type: ignore[misc]
        else:
            airflow.wait_for_end(run_id)
        numbers[task_id] = first, stats()[endpoint] - first, requests
    assert airflow.state(run_id) == "success"
    print(numbers, file=sys.stderr)
    for task_id, (first, second, requests) in numbers.items():
        assert first < requests, f"{task_id} was killed half way"
        if task_id != "upsert":
            assert second <= 1.03 * (requests - first) + (1 if task_id == "reconcile" else 0)
        else:
            # An upsert has few large requests: the request without a received answer is sent again.
            assert second <= requests - first + 1
    wait_until(lambda: index.ids() == {f"new-{i}" for i in range(VECTORS - SURPLUS)}, 60)
