# SPDX-License-Identifier: Apache-2.0
"""
Delete 50,000 of 60,000 vectors with mapped tasks on two Celery workers, and kill one worker during a chunk.

The files of ids are in object storage, the broker is Redis, and Airflow's database is PostgreSQL. All are
processes on this machine that end with the run. The run succeeds if exactly the intended vectors are gone and
the account's request limit was never exceeded.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import urllib.request
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from playground import DIMENSIONS, INDEX, ROOT, fresh, local_vectorize
from progress import say
from scale_airflow import CONCURRENCY, STORE_CONN_ID, WORKERS, CeleryAirflow
from scale_services import (
    BUCKET,
    NotInstalledError,
    ObjectStorage,
    Programs,
    everything_ends,
    free_ports,
    household,
    object_storage,
    postgresql,
    redis,
)

DAG_ID = "vectorize_delete_chunks"
FOLDER = "ids"
#: One of this many vectors stays.
ONE_STAYS_OF = 6
VECTORS_PER_UPSERT = 5000
#: Number of ids to read of a chunk, to see whether its task has deleted a part of it.
SAMPLE = 20
APPLY_DELAY, LATENCY = 0.5, 0.02
VICTIM = WORKERS[0]
#: The most seconds for the DAG run.
DEADLINE = 420


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ids", type=int, default=50_000, help="ids to delete (default: %(default)s)")
    parser.add_argument("--chunks", type=int, default=25, help="files of ids (default: %(default)s)")
    parser.add_argument(
        "--rate-limit",
        metavar="REQUESTS/SECONDS",
        default="90/15",
        help="the account's request limit (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    if not 1 <= options.chunks <= options.ids // SAMPLE:
        parser.error(f"each of --chunks must have at least {SAMPLE} of --ids")
    return options


def plan(ids: int) -> tuple[list[str], set[str]]:
    """Return the ids to delete and the ids to keep, which alternate in the index."""
    doomed: list[str] = []
    kept: set[str] = set()
    number = 0
    while len(doomed) < ids:
        if number % ONE_STAYS_OF:
            doomed.append(f"chunk-{number}")
        else:
            kept.add(f"chunk-{number}")
        number += 1
    return doomed, kept


def cut(ids: list[str], chunks: int) -> list[list[str]]:
    """Cut ids into chunks whose sizes differ by at most one."""
    return [ids[len(ids) * n // chunks : len(ids) * (n + 1) // chunks] for n in range(chunks)]


def sample(chunk: list[str]) -> list[str]:
    """Return ids spread evenly over a chunk."""
    return [chunk[len(chunk) * n // SAMPLE] for n in range(SAMPLE)]


# --- the Vectorize ------------------------------------------------------------------------------------------


class Vectorize:
    """
    Another client of the account.

    :param connection: the connection, as JSON.
    """

    def __init__(self, connection: str) -> None:
        from airflow_provider_cfvectorize.client.client import VectorizeClient

        given = json.loads(connection)
        # This script uses the part of the budget that the tasks reserve for others.
        self.client = VectorizeClient(
            given["login"], api_token=given["password"], base_url=given["host"], rate_reserve=0.0
        )
        self._report = f"{given['host'].partition('/client/')[0]}/_local/rate-limit"

    def fill(self, ids: list[str]) -> None:
        """Create the index, and wait until it has vectors with these ids."""
        self.client.create_index(INDEX, dimensions=DIMENSIONS, metric="cosine")
        mutation: dict[str, Any] = {}
        for first in range(0, len(ids), VECTORS_PER_UPSERT):
            batch = ids[first : first + VECTORS_PER_UPSERT]
            mutation = self.client.upsert(INDEX, [{"id": id_, "values": [1.0] * DIMENSIONS} for id_ in batch])
        while self.client.info(INDEX).get("processedUpToMutation") != mutation["mutationId"]:
            time.sleep(0.5)

    def count(self) -> int:
        """Return the number of vectors."""
        return int(self.client.info(INDEX)["vectorCount"])

    def gone(self, ids: list[str]) -> int:
        """Return how many of these ids have no vector."""
        return len(ids) - len(self.client.get_by_ids(INDEX, ids))

    def ids(self) -> set[str]:
        """Return the ids of all vectors."""
        ids: list[str] = []
        cursor = None
        while True:
            page = self.client.list_vectors(INDEX, count=1000, cursor=cursor)
            ids += [vector["id"] for vector in page["vectors"]]
            cursor = page.get("nextCursor")
            if not page["isTruncated"]:
                break
        if len(ids) != len(set(ids)):
            sys.exit("The listing has duplicate ids")
        return set(ids)

    def windows(self) -> list[dict[str, float]]:
        """Return the windows of the rate limit, with their numbers of requests."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self._report, timeout=30) as response:
            windows: list[dict[str, float]] = json.load(response)["result"]
        return windows


# --- the run ------------------------------------------------------------------------------------------------


@dataclass
class Story:
    """
    The record of the run.

    :param state: the final state of the DAG run.
    :param tasks: its task instances.
    :param killed_at: when the worker was killed, seconds since the start; None if it was never killed.
    :param deleted: the number of deleted ids at that time.
    :param lost: the worker's chunks at that time, each with the number of deleted ids in its sample.
    """

    state: str = ""
    tasks: list[dict[str, Any]] = field(default_factory=list)
    killed_at: float | None = None
    deleted: int = 0
    lost: dict[int, int] = field(default_factory=dict)

    def tries(self) -> dict[int, int]:
        """Return the number of attempts of each chunk."""
        return {task["map_index"]: task["try_number"] for task in self.tasks if task["task_id"] == "delete"}


def follow(airflow: CeleryAirflow, run: str, vectorize: Vectorize, chunks: list[list[str]]) -> Story:
    """Watch a run to its end; after a third of the ids are gone, kill a worker during a chunk."""
    story = Story()
    begin = time.monotonic()
    total = sum(len(chunk) for chunk in chunks)
    before = vectorize.count()
    printed = 0
    while True:
        story.state = airflow.call("GET", run)["state"]
        if story.state in ("success", "failed"):
            story.tasks = airflow.tasks(run)
            return story
        elapsed = time.monotonic() - begin
        if elapsed > DEADLINE:
            sys.exit(f"The DAG run has not ended after {DEADLINE} s; see {airflow.logs}")
        airflow.check_alive(but=VICTIM if story.killed_at is not None else None)
        deleted = before - vectorize.count()
        if deleted * 10 // total > printed:
            printed = deleted * 10 // total
            say(f"   {deleted:6,} of {total:,} ids are gone, {elapsed:.0f} s")
        is_time = story.killed_at is None and deleted * 3 >= total
        if is_time and (lost := kill_within_a_chunk(airflow, run, vectorize, chunks)):
            story.killed_at, story.deleted, story.lost = elapsed, deleted, lost
        time.sleep(2)


def kill_within_a_chunk(
    airflow: CeleryAirflow, run: str, vectorize: Vectorize, chunks: list[list[str]]
) -> dict[int, int]:
    """
    Kill the worker if it has deleted some ids of a chunk, but not all.

    :return: its chunks, each with the number of deleted ids in its sample; empty if it was not killed.
    """
    # Freeze the worker, so that its tasks do not continue or end during the check.
    frozen = airflow.freeze(VICTIM)
    # Wait until the tasks' deletes are applied and Airflow has processed the tasks' messages.
    time.sleep(2 * APPLY_DELAY)
    pids = {member.pid for member in frozen}
    lost = {
        task["map_index"]: vectorize.gone(sample(chunks[task["map_index"]]))
        for task in airflow.tasks(run)
        if task["task_id"] == "delete" and task["state"] == "running" and task["pid"] in pids
    }
    if not any(0 < gone < SAMPLE for gone in lost.values()):
        airflow.thaw(frozen)
        return {}
    airflow.kill(VICTIM, frozen)
    say(f"5. SIGKILL to the {len(frozen)} processes of {VICTIM}, during {described(lost)}")
    return lost


def described(lost: dict[int, int]) -> str:
    """Return a text about the chunks of a killed worker."""
    return ", ".join(f"chunk {n} ({gone} of {SAMPLE} sampled ids gone)" for n, gone in sorted(lost.items()))


def seconds(task: dict[str, Any]) -> float:
    """Return the duration of the last attempt of a task."""
    begin, end = (datetime.fromisoformat(task[name]) for name in ("start_date", "end_date"))
    return (end - begin).total_seconds()


# --- the checks ---------------------------------------------------------------------------------------------


def failures(
    story: Story, left: set[str], kept: set[str], doomed: list[str], windows: list[dict[str, float]]
) -> list[str]:
    """Return the problems of a run; an empty list if it succeeded."""
    found = []
    if story.state != "success":
        bad = sorted(
            f"{task['task_id']}[{task['map_index']}] {task['state']}"
            for task in story.tasks
            if task["state"] != "success"
        )
        found.append(f"the DAG run is {story.state!r}: {', '.join(bad[:10])}")
    if lost := kept - left:
        found.append(f"{len(lost)} vectors to keep are gone, such as {min(lost)}")
    if still := left & set(doomed):
        found.append(f"{len(still)} vectors to delete are still in the index, such as {min(still)}")
    if other := left - kept - set(doomed):
        found.append(f"{len(other)} unknown vectors are in the index, such as {min(other)}")
    if story.killed_at is None:
        found.append(f"{VICTIM} was not killed, because it was never found during a chunk")
    tries = story.tries()
    if once := [number for number in story.lost if tries.get(number, 0) < 2]:
        found.append(f"chunks {once} lost their worker and had no second attempt")
    if refused := sum(window["refused"] for window in windows):
        found.append(f"the rate limit was exceeded: {refused:.0f} requests were refused with 429")
    if not windows:
        found.append("the server reports no windows of its rate limit")
    return found


def table(
    story: Story, left: int, windows: list[dict[str, float]], times: dict[str, float], limit: str
) -> str:
    """Return the results as a table."""
    deletes = sorted(
        seconds(task) for task in story.tasks if task["task_id"] == "delete" and task["end_date"]
    )
    again = {number: tries for number, tries in sorted(story.tries().items()) if tries > 1}
    accepted = [window["accepted"] for window in windows]
    rows = {
        "tasks": f"{len(deletes)} deletes on {len(WORKERS)} workers of {CONCURRENCY} slots; the median took "
        f"{deletes[len(deletes) // 2] if deletes else 0:.1f} s",
        "killed": "never"
        if story.killed_at is None
        else f"{VICTIM}, {story.killed_at:.0f} s into the run, {story.deleted:,} ids gone",
        "lost with it": described(story.lost),
        "retried": ", ".join(f"chunk {number} ({tries} tries)" for number, tries in again.items()) or "none",
        "left": f"{left:,} vectors",
        "budget": f"{limit} s; {sum(accepted):.0f} requests in {len(windows)} windows, "
        f"{max(accepted, default=0):.0f} in the fullest; "
        f"{sum(window['refused'] for window in windows):.0f} refused",
        **{name: f"{took:.0f} s" for name, took in times.items()},
    }
    return "\n".join(f"   {name:<14} {value}" for name, value in rows.items())


# --- all of it ----------------------------------------------------------------------------------------------


class Clock:
    """Measures the duration of each part."""

    def __init__(self) -> None:
        self.begin = self._last = time.monotonic()
        self.times: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Record the time since the end of the last part."""
        now = time.monotonic()
        self.times[name] = now - self._last
        self._last = now


def write_chunks(store: ObjectStorage, chunks: list[list[str]]) -> str:
    """Write the chunks to object storage, and return the URL of their folder."""
    for number, chunk in enumerate(chunks):
        # The names sort in the order of the numbers, so that the numbers are the indexes of the mapped tasks.
        store.put(f"{FOLDER}/{number:06}.txt", chunk)
    return f"s3://{STORE_CONN_ID}@{BUCKET}/{FOLDER}"


def run(options: argparse.Namespace, programs: Programs, home: Path, stack: ExitStack) -> int:
    """Run the scenario, and return the exit code."""
    clock = Clock()
    doomed, kept = plan(options.ids)
    chunks = cut(doomed, options.chunks)
    postgresql_port, redis_port, store_port, api_port = free_ports(4)

    say(f"1. Vectorize with {len(doomed) + len(kept):,} vectors and a rate limit of {options.rate_limit} s")
    server = (
        "--apply-delay",
        str(APPLY_DELAY),
        "--latency",
        str(LATENCY),
        "--rate-limit",
        options.rate_limit,
    )
    connection = stack.enter_context(local_vectorize(home / "logs", *server))
    vectorize = Vectorize(connection)
    vectorize.fill([*doomed, *kept])

    say(f"2. Object storage with {len(doomed):,} ids in {len(chunks)} objects")
    store = stack.enter_context(object_storage(home / "logs", store_port))
    folder = write_chunks(store, chunks)

    say(f"3. Redis, PostgreSQL and Airflow with {len(WORKERS)} Celery workers (a minute)")
    house = stack.enter_context(household(home))
    database = stack.enter_context(postgresql(house, programs, postgresql_port))
    broker = stack.enter_context(redis(house, programs, redis_port))
    airflow = CeleryAirflow(
        home / "airflow", stack, connection, api_port, store=store, database=database, broker=broker
    )
    airflow.migrate()
    airflow.start(DAG_ID)
    clock.lap("set-up")

    say(f"4. The DAG {DAG_ID}")
    path = airflow.trigger(DAG_ID, {"index_name": INDEX, "chunks": folder})
    story = follow(airflow, path, vectorize, chunks)
    clock.lap("the run")

    say(f"6. The DAG run has ended: {story.state}")
    left = vectorize.ids()
    windows = vectorize.windows()
    clock.lap("the check")
    print(f"""
{table(story, len(left), windows, clock.times, options.rate_limit)}
""")
    wrong = failures(story, left, kept, doomed, windows)
    for text in wrong:
        say(f"WRONG: {text}")
    if wrong:
        say(f"Logs: {(home / 'logs').relative_to(ROOT)} and {(home / 'airflow' / 'logs').relative_to(ROOT)}")
        return 1
    say("Exactly the intended vectors are gone, and the rate limit was never exceeded")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Check that the programs are installed, and run the scenario."""
    options = parse(arguments)
    try:
        programs = Programs.find()
    except NotInstalledError as e:
        print(e, file=sys.stderr)
        return 2
    begin = time.monotonic()
    with everything_ends() as stack:
        code = run(options, programs, fresh(ROOT / ".scale"), stack)
    say(f"Stopped; {time.monotonic() - begin:.0f} s in all")
    return code


if __name__ == "__main__":
    sys.exit(main())
