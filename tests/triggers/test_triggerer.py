# SPDX-License-Identifier: Apache-2.0
"""Many deferred waits on an index in Airflow's triggerer."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from airflow import __version__ as airflow_version

from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.triggers.mutation import VectorizeMutationTrigger
from harness import INDEX, Clock, Vectorize, wait_until

WAITS = 100
INTERVAL = 0.5
POLL_LINE = "Polling index docs"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return an Airflow home whose folder of DAGs has the DAG."""
    (tmp_path / "dags").mkdir()
    source = Path(__file__).with_name("many_waits.py")
    (tmp_path / "dags" / source.name).write_text(source.read_text())
    return tmp_path


@pytest.fixture
def env(home: Path) -> dict[str, str]:
    return os.environ | {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__LOGGING__LOGGING_LEVEL": "DEBUG",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        # Airflow 2 would also serve the logs on another port.
        "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": "0",
    }


@pytest.fixture
def held(env: dict[str, str]) -> Iterator[tuple[Vectorize, Clock]]:
    """A server that applies nothing until a test puts its clock forward."""
    clock = Clock()
    with LocalVectorize(apply_delay=3600, clock=clock) as server:
        env["AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"] = server.connection
        yield Vectorize(server), clock


def airflow(env: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "airflow", *arguments], env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


#: Run in a separate process whose Airflow has this test's database.
DEFER = """
import json, sys
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
path, all_kwargs = json.load(sys.stdin)
with create_session() as session:
    tasks = session.query(TaskInstance).order_by(TaskInstance.task_id).all()
    assert len(tasks) == len(all_kwargs), len(tasks)
    for task, kwargs in zip(tasks, all_kwargs):
        trigger = Trigger(path, kwargs)
        session.add(trigger)
        session.flush()
        task.state = TaskInstanceState.DEFERRED
        task.trigger_id = trigger.id
        task.next_method = "execute_complete"
        task.next_kwargs = {}
        task.try_number = 1
"""


def query(home: Path, sql: str) -> list[tuple[Any, ...]]:
    connection = sqlite3.connect(home / "airflow.db", timeout=60)
    try:
        return connection.execute(sql).fetchall()
    finally:
        connection.close()


def count_deferred(home: Path) -> int:
    ((count,),) = query(home, "SELECT count(*) FROM task_instance WHERE state='deferred'")
    return int(count)


def defer_waits(vectorize: Vectorize, clock: Clock, env: dict[str, str], home: Path, waits: int) -> None:
    """Create a run of the DAG and defer each task for a pending delete."""
    ids = [f"v{i}" for i in range(waits)]
    vectorize.client.upsert(INDEX, [{"id": id_, "values": [0.5] * 32} for id_ in ids])
    clock.ahead += 3600
    receipts = [vectorize.delete([id_]) for id_ in ids]

    env["WAITS"] = str(waits)
    airflow(env, "db", "migrate")
    airflow(env, "dags", "reserialize")
    airflow(env, "dags", "trigger", "many_waits")
    triggers = [
        VectorizeMutationTrigger(
            conn_id="cloudflare_vectorize_default",
            index_name=INDEX,
            receipts=[receipt],
            end_time=time.time() + 3600,
            wait_seconds=3600,
            poll_interval=INTERVAL,
        ).serialize()
        for receipt in receipts
    ]
    done = subprocess.run(
        [sys.executable, "-c", DEFER],
        input=json.dumps([triggers[0][0], [kwargs for _, kwargs in triggers]]),
        env=env,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert count_deferred(home) == waits


@contextmanager
def run_triggerer(env: dict[str, str], home: Path, output: Path) -> Iterator[subprocess.Popen[Any]]:
    """Run Airflow's triggerer and end it with SIGTERM."""
    command = [sys.executable, "-m", "airflow", "triggerer", "--capacity", "1000"]
    with output.open("wb") as log:
        triggerer = subprocess.Popen(
            [*command, "--skip-serve-logs"],
            env=env,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=home,
            start_new_session=True,
        )
    try:
        yield triggerer
    finally:
        os.killpg(triggerer.pid, signal.SIGTERM)
        try:
            triggerer.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(triggerer.pid, signal.SIGKILL)
            triggerer.wait()


def count_polled(home: Path) -> int:
    """Return how many waits have logged a poll."""
    return sum("Not applied yet" in path.read_text() for path in home.glob("logs/**/*trigger*.log"))


def test_many_waits_in_a_triggerer(home: Path, env: dict[str, str], held: tuple[Vectorize, Clock]) -> None:
    vectorize, clock = held
    defer_waits(vectorize, clock, env, home, WAITS)
    output = home / "triggerer.log"
    with run_triggerer(env, home, output) as triggerer:
        watch(vectorize, clock, home, output, triggerer)

    logs = {path: path.read_text() for path in home.glob("logs/**/*trigger*.log")}
    assert len(logs) == WAITS
    if not airflow_version.startswith("3.0"):
        # Airflow 3.0 logs only level INFO there.
        others = output.read_text() + "".join(path.read_text() for path in home.glob("logs/*.log"))
        assert POLL_LINE in others, "some log has the lines of the poll"
    assert not [path for path, text in logs.items() if POLL_LINE in text], "but in no task's log"
    assert not [path for path, text in logs.items() if vectorize.server.api_token in text]


def watch(
    vectorize: Vectorize, clock: Clock, home: Path, output: Path, triggerer: subprocess.Popen[Any]
) -> None:
    stats = vectorize.server.stats

    def count() -> int:
        assert triggerer.poll() is None, output.read_text()[-3000:]
        return count_polled(home)

    wait_until(lambda: count() == WAITS, 600, interval=0.2)
    started = time.monotonic()
    vectorize.server.reset_stats()
    wait_until(lambda: stats()["info"] >= 4, 120)
    requests, elapsed = stats()["info"], time.monotonic() - started
    # One request at each end; and a request may have been in flight for longer than the next.
    assert requests <= elapsed / INTERVAL + 2, "one request per interval, with any number of waits"

    vectorize.server.reset_stats()
    clock.ahead += 3600
    wait_until(lambda: count_deferred(home) == 0, 600, interval=0.2)
    # 20 witnesses per request.
    assert stats()["get_by_ids"] <= WAITS / 20 + 10


@pytest.mark.long
def test_waits_continue_after_a_restart_of_the_triggerer(
    home: Path, env: dict[str, str], held: tuple[Vectorize, Clock]
) -> None:
    vectorize, clock = held
    waits = 20
    defer_waits(vectorize, clock, env, home, waits)
    with run_triggerer(env, home, home / "first.log"):
        wait_until(lambda: count_polled(home) == waits, 120, interval=0.5)
    assert count_deferred(home) == waits, "the end of the triggerer ends no wait"
    vectorize.server.reset_stats()
    clock.ahead += 3600
    with run_triggerer(env, home, home / "second.log"):
        wait_until(lambda: count_deferred(home) == 0, 120, interval=0.5)
    events = [str(event) for (event,) in query(home, "SELECT next_kwargs FROM task_instance")]
    assert len(events) == waits
    assert all("applied" in event and "watermark" in event for event in events), events[0]
    stats = vectorize.server.stats()
    assert stats["get_by_ids"] <= waits / 20 + 10
    assert stats["delete_by_ids"] == 0
