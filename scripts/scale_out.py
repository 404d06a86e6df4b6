# SPDX-License-Identifier: Apache-2.0
"""
Delete 50,000 of 60,000 vectors by mapped tasks on two Celery workers, and kill one of them mid-way.

The chunks of ids are in object storage, the broker is Redis, Airflow's database PostgreSQL; all are processes
of this machine, started for this run and ended with it. What the script expects: exactly the intended vectors
are gone, and the account's request budget was never overdrawn.
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
#: Of so many vectors, one stays.
ONE_STAYS_OF = 6
VECTORS_PER_UPSERT = 5000
#: Ids of a chunk that are looked at to see whether its task is in the middle.
SAMPLE = 20
APPLY_DELAY, LATENCY = 0.5, 0.02
VICTIM = WORKERS[0]
#: Seconds for the DAG run.
DEADLINE = 420


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ids", type=int, default=50_000, help="to delete (default: %(default)s)")
    parser.add_argument("--chunks", type=int, default=25, help="files they are in (default: %(default)s)")
    parser.add_argument(
        "--rate-limit",
        metavar="REQUESTS/SECONDS",
        default="90/15",
        help="the account's request budget (default: %(default)s)",
    )
    options = parser.parse_args(arguments)
    if not 1 <= options.chunks <= options.ids // SAMPLE:
        parser.error(f"--chunks must leave at least {SAMPLE} of the --ids for each")
    return options


def plan(ids: int) -> tuple[list[str], set[str]]:
    """Return the ids to delete and those to keep, which lie between them."""
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
    """Cut ids into chunks whose sizes differ by one at most."""
    return [ids[len(ids) * n // chunks : len(ids) * (n + 1) // chunks] for n in range(chunks)]


def sample(chunk: list[str]) -> list[str]:
    """Return some ids from all over a chunk."""
    return [chunk[len(chunk) * n // SAMPLE] for n in range(SAMPLE)]


# --- the Vectorize ------------------------------------------------------------------------------------------


class Vectorize:
    """
    The account, as somebody else who uses it too sees it.

    :param connection: the connection, as JSON.
    """

    def __init__(self, connection: str) -> None:
        from airflow_provider_cfvectorize.client.client import VectorizeClient

        given = json.loads(connection)
        # What the tasks leave to others is for this script.
        self.client = VectorizeClient(
            given["login"], api_token=given["password"], base_url=given["host"], rate_reserve=0.0
        )
        self._report = f"{given['host'].partition('/client/')[0]}/_local/rate-limit"

    def fill(self, ids: list[str]) -> None:
        """Make the index, and wait until it has vectors with these ids."""
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
        """Return how many of some ids have no vector any more."""
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
            sys.exit("The listing has ids twice")
        return set(ids)

    def windows(self) -> list[dict[str, float]]:
        """Return what was used of the budget, window by window."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self._report, timeout=30) as response:
            windows: list[dict[str, float]] = json.load(response)["result"]
        return windows


# --- the run ------------------------------------------------------------------------------------------------


@dataclass
class Story:
    """
    What happened in the run.

    :param state: how the DAG run ended.
    :param tasks: its task instances.
    :param killed_at: seconds since the run's start, None if the worker was never killed.
    :param deleted: ids that were gone then.
    :param lost: the chunks that the worker was at then, each with how many of its sample were gone.
    """

    state: str = ""
    tasks: list[dict[str, Any]] = field(default_factory=list)
    killed_at: float | None = None
    deleted: int = 0
    lost: dict[int, int] = field(default_factory=dict)

    def tries(self) -> dict[int, int]:
        """Return how many tries each chunk took."""
        return {task["map_index"]: task["try_number"] for task in self.tasks if task["task_id"] == "delete"}


def follow(airflow: CeleryAirflow, run: str, vectorize: Vectorize, chunks: list[list[str]]) -> Story:
    """Watch a run to its end, and kill a worker when a third of the ids are gone and it is within a chunk."""
    story = Story()
    begin = time.monotonic()
    total = sum(len(chunk) for chunk in chunks)
    before = vectorize.count()
    told = 0
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
        if deleted * 10 // total > told:
            told = deleted * 10 // total
            say(f"   {deleted:6,} of {total:,} ids are gone, {elapsed:.0f} s")
        is_time = story.killed_at is None and deleted * 3 >= total
        if is_time and (lost := kill_within_a_chunk(airflow, run, vectorize, chunks)):
            story.killed_at, story.deleted, story.lost = elapsed, deleted, lost
        time.sleep(2)


def kill_within_a_chunk(
    airflow: CeleryAirflow, run: str, vectorize: Vectorize, chunks: list[list[str]]
) -> dict[int, int]:
    """
    Kill the victim if it has deleted some ids of a chunk and not yet all.

    :return: the chunks it was at, each with how many of its sample are gone; nothing if it lives on.
    """
    # Else its tasks would go on, and perhaps end, while they are looked at.
    frozen = airflow.freeze(VICTIM)
    # What the tasks have sent is applied, and Airflow has read what they have told it.
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
    say(f"5. SIGKILL to {VICTIM}, {len(frozen)} processes, while it was at {described(lost)}")
    return lost


def described(lost: dict[int, int]) -> str:
    """Say where the tasks of a worker were."""
    return ", ".join(f"chunk {n} ({gone} of {SAMPLE} sampled ids gone)" for n, gone in sorted(lost.items()))


def seconds(task: dict[str, Any]) -> float:
    """Return how long the last try of a task took."""
    begin, end = (datetime.fromisoformat(task[name]) for name in ("start_date", "end_date"))
    return (end - begin).total_seconds()


# --- the checks ---------------------------------------------------------------------------------------------


def failures(
    story: Story, left: set[str], kept: set[str], doomed: list[str], windows: list[dict[str, float]]
) -> list[str]:
    """Return what is not as it should be, nothing if all is."""
    found = []
    if story.state != "success":
        bad = sorted(
            f"{task['task_id']}[{task['map_index']}] {task['state']}"
            for task in story.tasks
            if task["state"] != "success"
        )
        found.append(f"the DAG run is {story.state!r}: {', '.join(bad[:10])}")
    if lost := kept - left:
        found.append(f"{len(lost)} vectors are gone that should have stayed, such as {min(lost)}")
    if still := left & set(doomed):
        found.append(f"{len(still)} vectors are there that should be gone, such as {min(still)}")
    if other := left - kept - set(doomed):
        found.append(f"{len(other)} vectors are there that nobody made, such as {min(other)}")
    if story.killed_at is None:
        found.append(f"no moment was found at which {VICTIM} could be killed within a chunk")
    tries = story.tries()
    if once := [number for number in story.lost if tries.get(number, 0) < 2]:
        found.append(f"chunks {once} lost their worker and had no second try")
    if refused := sum(window["refused"] for window in windows):
        found.append(f"the budget was overdrawn: {refused:.0f} requests were refused with 429")
    if not windows:
        found.append("the server reports no windows of its rate limit")
    return found


def table(
    story: Story, left: int, windows: list[dict[str, float]], times: dict[str, float], limit: str
) -> str:
    """Return the results for a person to read."""
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
        "tried again": ", ".join(f"chunk {number} ({tries} tries)" for number, tries in again.items())
        or "none",
        "left": f"{left:,} vectors",
        "budget": f"{limit} s; {sum(accepted):.0f} requests in {len(windows)} windows, "
        f"{max(accepted, default=0):.0f} in the fullest; "
        f"{sum(window['refused'] for window in windows):.0f} refused",
        **{name: f"{took:.0f} s" for name, took in times.items()},
    }
    return "\n".join(f"   {name:<14} {value}" for name, value in rows.items())


# --- all of it ----------------------------------------------------------------------------------------------


class Clock:
    """How long each part took."""

    def __init__(self) -> None:
        self.begin = self._last = time.monotonic()
        self.times: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Note the time since the last part."""
        now = time.monotonic()
        self.times[name] = now - self._last
        self._last = now


def write_chunks(store: ObjectStorage, chunks: list[list[str]]) -> str:
    """Write the chunks, and return the URL of their folder."""
    for number, chunk in enumerate(chunks):
        # The names are in the order of the numbers, which are then those of the mapped tasks.
        store.put(f"{FOLDER}/{number:06}.txt", chunk)
    return f"s3://{STORE_CONN_ID}@{BUCKET}/{FOLDER}"


def run(options: argparse.Namespace, programs: Programs, home: Path, stack: ExitStack) -> int:
    """Do it, and return the exit code."""
    clock = Clock()
    doomed, kept = plan(options.ids)
    chunks = cut(doomed, options.chunks)
    postgresql_port, redis_port, store_port, api_port = free_ports(4)

    say(f"1. A Vectorize with {len(doomed) + len(kept):,} vectors and a budget of {options.rate_limit} s")
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

    say(f"3. Redis, PostgreSQL, and an Airflow with {len(WORKERS)} Celery workers (a minute)")
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
    say("Exactly the intended vectors are gone, and the budget held")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Check what is needed, and run it."""
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
