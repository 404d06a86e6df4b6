# SPDX-License-Identifier: Apache-2.0
"""
Measure the requests and the event loop's lag of a thousand deferred waits in an ``airflow triggerer``.

The waits are on one index, then on 50 indexes, then replaced by triggers that only sleep, to show the cost in
Airflow itself. The waits poll for a while before the server applies all mutations, and then all of them end.
Another trigger measures the lag of the event loop.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import HERE, Goal, Report, airflow_home, arguments, environment, finish, say

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.triggers.poll import JITTER

CONN_ID = "cloudflare_vectorize_default"
PROBE = "lag_probe.LagProbe"
IDLE = "lag_probe.Idle"
MAX_LAG_MS = 50.0
#: The number of counted polls of each index.
INTERVALS, BRIEF_INTERVALS = 10, 4

#: Runs in its own process, with the benchmark's Airflow database.
DEFER = """
import json, sys
from airflow.models.taskinstance import TaskInstance
from airflow.models.trigger import Trigger
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
triggers = json.load(sys.stdin)
with create_session() as session:
    tasks = session.query(TaskInstance).order_by(TaskInstance.task_id).all()
    assert len(tasks) == len(triggers), (len(tasks), len(triggers))
    for task, (path, kwargs) in zip(tasks, triggers):
        trigger = Trigger(path, kwargs)
        session.add(trigger)
        session.flush()
        task.state = TaskInstanceState.DEFERRED
        task.trigger_id = trigger.id
        task.next_method = "execute_complete"
        task.next_kwargs = {}
        task.try_number = 1
print("null")
"""


class Clock:
    """The server's clock, which the benchmark can advance."""

    ahead = 0.0

    def __call__(self) -> float:
        """Return the time."""
        return time.time() + self.ahead


@dataclass
class Case:
    """
    The waits of one triggerer.

    :param name: the name in the table.
    :param waits: number of waits.
    :param indexes: number of indexes; 0 for triggers that only sleep.
    """

    name: str
    waits: int
    indexes: int


def run(*words: str, env: dict[str, str], given: str | None = None) -> None:
    """Run a Python process to its end."""
    done = subprocess.run(
        [sys.executable, *words], env=env, input=given, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{words} failed:\n{done.stderr[-3000:]}")


def set_up(home: Path, tasks: int) -> None:
    """Create a database with a run of the DAG, without started tasks."""
    shutil.copy(HERE / "triggerer_dag.py", home / "dags")
    env = environment(home, BENCHMARK_TASKS=str(tasks))
    for words in (["db", "migrate"], ["dags", "reserialize"], ["dags", "trigger", "waits"]):
        run("-m", "airflow", *words, env=env)


class Stage:
    """An Airflow database, a local server, and a triggerer that uses both."""

    def __init__(self, home: Path, case: Case, interval: float) -> None:
        self.home = home
        self.case = case
        self.interval = interval
        self.clock = Clock()
        self.server = LocalVectorize(apply_delay=3600, clock=self.clock)
        self.output = home / "triggerer.log"
        self.lag_file = home / "lag.txt"
        self.process: subprocess.Popen[bytes] | None = None
        self._told: set[Path] = set()

    def prepare(self) -> None:
        """Fill the indexes, delete the vectors, and defer one task for each wait."""
        self.server.start()
        self.env = environment(
            self.home,
            AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT=self.server.connection,
            AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT="0",
        )
        triggers: list[tuple[str, dict[str, Any]]] = [(PROBE, {"path": str(self.lag_file)})]
        if self.case.indexes:
            triggers += [
                (
                    "airflow_provider_cfvectorize.triggers.mutation.VectorizeMutationTrigger",
                    {
                        "conn_id": CONN_ID,
                        "index_name": receipt["index_name"],
                        "receipts": [receipt],
                        "end_time": time.time() + 3600,
                        "wait_seconds": 3600,
                        "poll_interval": self.interval,
                        "account_id": None,
                    },
                )
                for receipt in self._delete()
            ]
        else:
            triggers += [(IDLE, {})] * self.case.waits
        run("-c", DEFER, env=self.env, given=json.dumps(triggers))

    def _delete(self) -> list[dict[str, Any]]:
        client = VectorizeClient(
            self.server.account_id, api_token=self.server.api_token, base_url=self.server.base_url
        )
        names = [f"docs-{number}" for number in range(self.case.indexes)]
        waits = [(f"v{number}", names[number % len(names)]) for number in range(self.case.waits)]
        for name in names:
            client.create_index(name, dimensions=32, metric="cosine")
            mine = [id_ for id_, where in waits if where == name]
            client.upsert(name, [{"id": id_, "values": [0.5] * 32} for id_ in mine])
        self.clock.ahead += 3600
        # A job applies all pending mutations at once, so there must be no others.
        self.wait_until(
            lambda: all(client.info(name)["vectorCount"] for name in names), 60, "the indexes were filled"
        )
        # With a watermark of the fill that is as recent as the deletes, each poll would read their witnesses.
        self.clock.ahead += 60
        receipts = []
        for id_, name in waits:
            mutation = client.delete_by_ids(name, [id_])
            receipts.append(
                {
                    "mutation_id": mutation["mutationId"],
                    "index_name": name,
                    "account_id": client.account_id,
                    "accepted_at": mutation["accepted_at"],
                    "count": 1,
                    "batches": 1,
                    "witness_ids": [id_],
                }
            )
        client.close()
        return receipts

    def start(self) -> None:
        """Start the triggerer."""
        with self.output.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "airflow", "triggerer", "--skip-serve-logs"),
                    *("--capacity", str(self.case.waits + 100)),
                ],
                env=self.env,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.home,
                start_new_session=True,
            )

    def stop(self) -> None:
        """End everything that was started."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.server.stop()

    def wait_until(self, condition: Callable[[], bool], seconds: float, what: str) -> None:
        """Wait for a condition; end the script if the triggerer ends."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.process is not None and self.process.poll() is not None:
                raise SystemExit(f"the triggerer ended:\n{self.output.read_text()[-3000:]}")
            if time.monotonic() > deadline:
                raise SystemExit(f"timed out waiting until {what}:\n{self.output.read_text()[-3000:]}")
            time.sleep(0.5)

    def are_all_running(self) -> bool:
        """Return whether each wait has polled or sleeps, according to its log."""
        sign = "Not applied yet" if self.case.indexes else " starting"
        for path in self.home.glob("logs/**/*trigger*.log"):
            if path not in self._told and sign in path.read_text():
                self._told.add(path)
        # The probe is not a wait, but also logs that it starts.
        return len(self._told) >= self.case.waits + (not self.case.indexes)

    def deferred(self) -> int:
        """Return the number of deferred tasks, including the probe's."""
        return self._count("state='deferred'")

    def _count(self, condition: str) -> int:
        connection = sqlite3.connect(self.home / "airflow.db", timeout=60)
        try:
            query = f"SELECT count(*) FROM task_instance WHERE {condition}"  # noqa: S608 - only ours
            return int(connection.execute(query).fetchone()[0])
        finally:
            connection.close()

    def lags(self, start: float, end: float) -> list[float]:
        """Return the loop's lags between two times, in milliseconds, sorted."""
        found = []
        for line in self.lag_file.read_text().splitlines():
            words = line.split()
            if len(words) == 2 and start <= float(words[0]) <= end:
                found.append(float(words[1]) * 1000)
        return sorted(found)


def measure(case: Case, interval: float, report: Report, template: Path) -> None:
    """Add the rows and goals of one case."""
    with airflow_home() as home:
        shutil.copy(template / "airflow.db", home)
        stage = Stage(home, case, interval)
        try:
            stage.prepare()
            started = time.time()
            stage.start()
            stage.wait_until(stage.are_all_running, 900, "all waits had polled")
            polling = time.time()
            say(f"  {case.name}: all running after {polling - started:.0f} s")
            stage.server.reset_stats()
            time.sleep((BRIEF_INTERVALS if report.brief else INTERVALS) * interval)
            polled = time.time()
            polls = stage.server.stats()
            stage.server.reset_stats()
            if case.indexes:
                stage.clock.ahead += 3600
                stage.wait_until(lambda: stage.deferred() == 1, 600, "all waits had ended")
                time.sleep(2)
            ended = time.time()
            ending = stage.server.stats()
            say(f"  {case.name}: all ended after {ended - polled:.0f} s")
        finally:
            stage.stop()
        phases = {
            "starting": (started, polling),
            "polling": (polling, polled),
            **({"ending": (polled, ended)} if case.indexes else {}),
        }
        lags = {name: stage.lags(*times) for name, times in phases.items()}
        lags["all"] = sorted(lag for some in lags.values() for lag in some)
        waiting = sorted(lag for name in ("polling", "ending") for lag in lags.get(name, []))
        seconds = polled - polling
        # Each interval is extended by a random part of up to a tenth.
        mean_interval = interval * (1 + JITTER / 2)
        an_interval = polls.get("info", 0) / (seconds / mean_interval)
        ending_rounds = ending.get("info", 0)
        others = sum(polls.values()) - polls.get("info", 0) + sum(ending.values()) - ending_rounds
        for name, some in lags.items():
            report.rows.append(
                [
                    case.name,
                    name,
                    len(some),
                    quantile(some, 0.5),
                    quantile(some, 0.99),
                    quantile(some, 1),
                    round(an_interval, 2) if name == "polling" and case.indexes else None,
                    others if name == "all" and case.indexes else None,
                ]
            )
        report.samples[case.name] = {
            "seconds": {name: end - start for name, (start, end) in phases.items()},
            "requests while polling": polls,
            "requests while ending": ending,
        }
        if case.indexes:
            report.goals += [
                Goal(
                    f"{case.name}: polls an interval, of the number of indexes",
                    an_interval / case.indexes,
                    most=1.05,
                ),
                Goal(f"{case.name}: other requests in all", others, most=case.waits + 10),
                Goal(f"{case.name}: p99 of the loop's lag, ms", quantile(waiting, 0.99), most=MAX_LAG_MS),
            ]


def quantile(values: list[float], share: float) -> float:
    """Return a quantile of sorted values."""
    if not values:
        raise SystemExit("the probe measured nothing")
    return values[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    """Measure, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--waits", type=int, help="number of waits (default: 1,000, briefly 50)")
    options = parser.parse_args()
    waits: int = options.waits or (50 if options.brief else 1000)
    report = Report(
        "triggerer",
        options.brief,
        [
            *("waits", "phase", "lags measured", "median ms", "p99 ms", "max ms"),
            *("polls an interval", "other requests"),
        ],
    )
    interval = 2.0 if options.brief else 5.0
    many = 5 if options.brief else 50
    cases = [
        Case(f"{waits:,} on 1 index", waits, 1),
        Case(f"{waits:,} on {many} indexes", waits, many),
        Case(f"{waits:,} that only sleep", waits, 0),
    ]
    with airflow_home() as template:
        set_up(template, waits + 1)
        for case in cases[1:2] if options.brief else cases:
            measure(case, interval, report, template)
    report.notes += [
        f"every wait polls each {interval:g} s; polls are counted while nothing is applied",
        "polls: GET info, with intervals extended by 5 % on average; others: read-backs of witnesses",
        "lag: how much longer than 10 ms a sleep on the triggerer's loop took. The goal is for polling and",
        "ending, because starting is Airflow's own work, as the triggers that only sleep show",
    ]
    finish(report, options)


if __name__ == "__main__":
    main()
