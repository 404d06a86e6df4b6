# SPDX-License-Identifier: Apache-2.0
"""Show the main job: a DAG deletes 250 of 1,000 vectors and waits until they are gone."""

from __future__ import annotations

import sys
import time
from datetime import datetime
from typing import Any

from playground import INDEX, ROOT, Airflow, airflow, all_ids, fresh, local_vectorize, seed
from progress import say, step

DAG_ID = "vectorize_delete_by_xcom"
VECTORS, DELETED = 1000, 250
APPLY_DELAY = "6"


def watch(instance: Airflow, run_id: str) -> dict[str, list[str]]:
    """Print each new state of a run's tasks until the run ends; return the states of each task."""
    seen: dict[str, list[str]] = {}
    path = f"/api/v2/dags/{DAG_ID}/dagRuns/{run_id}"
    deadline = time.monotonic() + 300
    while True:
        state = instance.call("GET", path)["state"]
        for task in instance.call("GET", f"{path}/taskInstances")["task_instances"]:
            states = seen.setdefault(task["task_id"], [])
            if task["state"] and task["state"] != (states or [None])[-1]:
                states.append(task["state"])
                where = (
                    " (waits in the triggerer, without a worker slot)" if task["state"] == "deferred" else ""
                )
                say(f"  {task['task_id']}: {task['state']}{where}")
        if state in ("success", "failed"):
            return seen
        if time.monotonic() > deadline:
            sys.exit(f"The run did not end; see {instance.log}")
        time.sleep(0.2)


def xcom(instance: Airflow, run_id: str, task_id: str, key: str) -> Any:
    """Return an XCom of a run."""
    path = f"/api/v2/dags/{DAG_ID}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
    return instance.call("GET", f"{path}?deserialize=true")["value"]


def seconds_between(first: str, second: str) -> float:
    """Return the seconds from one time to another."""
    return (datetime.fromisoformat(second) - datetime.fromisoformat(first)).total_seconds()


def main() -> None:
    """Run the demo."""
    home = fresh(ROOT / ".demo")
    say(f"Step 1 of 3: Vectorize on this machine; it applies writes after {APPLY_DELAY} s")
    with local_vectorize(home, "--apply-delay", APPLY_DELAY) as connection:
        with step(f"Index {INDEX!r} with {VECTORS} vectors"):
            client = seed(connection, VECTORS)
            before = all_ids(client)

        say("Step 2 of 3: Airflow")
        with airflow(home / "airflow", connection, DAG_ID) as instance:
            say(f"   {instance.url}")

            say(f"Step 3 of 3: the DAG {DAG_ID} deletes {DELETED} ids that an upstream task returns")
            conf = {"first": 0, "last": DELETED - 1, "index_name": INDEX}
            run_id = instance.call(
                "POST", f"/api/v2/dags/{DAG_ID}/dagRuns", {"logical_date": None, "conf": conf}
            )["dag_run_id"]
            states = watch(instance, run_id)
            if states.get("wait_until_gone", [""])[-1] != "success":
                sys.exit(f"The run failed: {states}. Its logs are below {home / 'airflow' / 'logs'}")
            receipt = xcom(instance, run_id, "delete", "receipt")
            evidence = xcom(instance, run_id, "wait_until_gone", "return_value")

        after = all_ids(client)
        gone = set(before) - set(after)
        say("The result")
        print(f"""
   ids before       {len(before)}: {before[0]} ... {before[-1]}
   ids after        {len(after)}: {after[0]} ... {after[-1]}
   deleted          {len(gone)}, in {receipt["batches"]} requests of at most 100 ids
   mutation id      {receipt["mutation_id"]}
   accepted at      {receipt["accepted_at"]} (the server's clock, whole seconds)
   applied at       {evidence["processed_up_to"]}, {
            seconds_between(receipt["accepted_at"], evidence["processed_up_to"]):.1f} s later
   evidence         {evidence["outcome"]}: watermark {evidence["watermark"]},
                    {evidence["witnesses_checked"]} witnesses read back, still visible: {
            evidence["still_visible"]
        }
   states           delete: {" > ".join(states["delete"])}
                    wait_until_gone: {" > ".join(states["wait_until_gone"])}
""")
        expected = {f"chunk-{i}" for i in range(DELETED)}
        if gone != expected or len(after) != VECTORS - DELETED or "deferred" not in states["wait_until_gone"]:
            sys.exit("This result is wrong. Please report it, with the directory .demo")
        say("Next")
        print(f"""
   the DAG          example_dags/example_delete_by_xcom.py
   its logs         {(home / "airflow" / "logs").relative_to(ROOT)}
   with a UI        make ui
   your own         README.md, from "Install" on
""")


if __name__ == "__main__":
    main()
