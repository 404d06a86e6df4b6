# SPDX-License-Identifier: Apache-2.0
"""
Measure how deletes keep within the account's request budget, in real time.

``vectorize-local`` allows 120 requests in fixed windows of 3 s, reports the rest of the budget in whole
seconds, and blocks all requests for a window after the limit is exceeded. One process or four send deletes,
alone or beside a foreign client that sends at half the limit and ignores the responses. The goal: no request
is refused, and the processes use the whole budget that is not reserved.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from typing import Any

from measuring import Goal, Report, arguments, environment, finish, median, say, server

ACCOUNT = "10ca10ca10ca10ca10ca10ca10ca10ca"
TOKEN = "the-benchmarks-own"  # noqa: S105
REQUESTS, SECONDS = 120, 3
LATENCY = 0.02
RESERVE = 0.2
BATCH = 100
LEAST_USED = 0.95


def serve() -> None:
    """Serve until the process ends."""
    from airflow_provider_cfvectorize.local import Behaviour, LocalVectorize

    # The command has no option for fixed windows.
    with LocalVectorize(
        account_id=ACCOUNT,
        api_token=TOKEN,
        latency=LATENCY,
        rate_limit=(REQUESTS, SECONDS),
        behaviour=Behaviour(rate_limit_window="fixed"),
    ) as running:
        print(f"listening on {running.base_url}", flush=True)
        threading.Event().wait()


def send(base_url: str, name: str, requests: int) -> None:
    """Delete ids as a task does, and print the times of begin and end."""
    from airflow_provider_cfvectorize.client.bulk.delete import delete_ids
    from airflow_provider_cfvectorize.client.client import VectorizeClient
    from airflow_provider_cfvectorize.client.inputs.ids import IdList

    client = VectorizeClient(ACCOUNT, api_token=TOKEN, base_url=base_url, rate_reserve=RESERVE)
    ids = [f"{name}-{number}" for number in range(requests * BATCH)]
    began = time.time()
    delete_ids(client, "docs", IdList(ids), witnesses=False)
    print(json.dumps({"began": began, "ended": time.time()}))
    client.close()


class Foreigner:
    """A client that sends requests at fixed times and ignores the responses."""

    def __init__(self, base_url: str) -> None:
        self._url = f"{base_url}/accounts/{ACCOUNT}/vectorize/v2/indexes/docs/info"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.sent = 0
        self.refused = 0

    def start(self) -> None:
        """Start sending."""
        self._thread.start()

    def stop(self) -> None:
        """Stop sending."""
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        import requests

        session = requests.Session()
        session.headers["Authorization"] = f"Bearer {TOKEN}"
        due = time.monotonic()
        while not self._over.wait(max(0.0, due - time.monotonic())):
            self.sent += 1
            self.refused += session.get(self._url, timeout=30).status_code == 429
            # Do not catch up on late requests: a burst would make it another kind of client.
            due = max(due + 2 * SECONDS / REQUESTS, time.monotonic())


def measure(processes: int, foreign: bool, requests: int) -> dict[str, Any]:
    """Run one case once, and return the server's counts."""
    import requests as bare

    with server(__file__, "--serve") as base_url:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        config = {"name": "docs", "config": {"dimensions": 32, "metric": "cosine"}}
        indexes = f"{base_url}/accounts/{ACCOUNT}/vectorize/v2/indexes"
        bare.post(indexes, json=config, headers=headers, timeout=30).raise_for_status()
        foreigner = Foreigner(base_url)
        if foreign:
            foreigner.start()
        clients = [
            subprocess.Popen(
                [sys.executable, __file__, "--send", base_url, f"p{number}", str(requests // processes)],
                env=environment(),
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for number in range(processes)
        ]
        outputs = [client.communicate() for client in clients]
        if foreign:
            foreigner.stop()
        for client, output in zip(clients, outputs, strict=True):
            if client.returncode:
                raise SystemExit(f"a client failed:\n{output[1][-3000:]}")
        times = [json.loads(output[0].splitlines()[-1]) for output in outputs]
        began, ended = min(one["began"] for one in times), max(one["ended"] for one in times)
        root = base_url.split("/client/")[0]
        windows: list[dict[str, Any]] = bare.get(
            f"{root}/_local/rate-limit", headers=headers, timeout=30
        ).json()["result"]
    # Leave out the first and the last window, in which the clients ran only for a part.
    whole = [one["accepted"] for one in windows if began <= one["begin"] and one["end"] <= ended]
    return {
        "seconds": ended - began,
        "accepted": whole,
        "foreign": foreigner.sent,
        "used": sum(whole) / ((1 - RESERVE) * REQUESTS * len(whole)) if whole else 0.0,
        "refused": sum(one["refused"] for one in windows),
    }


def add(report: Report, name: str, requests: int, samples: list[dict[str, Any]]) -> None:
    """Add the row and the goals of one case."""
    accepted = [count for one in samples for count in one["accepted"]]
    used = median(one["used"] for one in samples)
    refused = sum(one["refused"] for one in samples)
    report.rows.append(
        [
            name,
            requests,
            median(one["seconds"] for one in samples),
            len(accepted),
            used * (1 - RESERVE) * REQUESTS,
            min(accepted, default=0),
            max(accepted, default=0),
            median(one["foreign"] for one in samples),
            used,
            refused,
        ]
    )
    report.samples[name] = samples
    report.goals.append(Goal(f"{name}: requests refused (429)", refused, most=0))
    report.goals.append(Goal(f"{name}: share used of what is not reserved", used, least=LEAST_USED))


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--send", nargs=3, metavar=("BASE_URL", "NAME", "REQUESTS"), help=argparse.SUPPRESS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--runs", type=int, help="runs of each case (default: 5, briefly 1)")
    options = parser.parse_args()
    if options.serve:
        serve()
        return
    if options.send:
        send(options.send[0], options.send[1], int(options.send[2]))
        return
    report = Report(
        "budget",
        options.brief,
        [
            *("clients", "requests", "s", "whole windows", "accepted a window", "least", "most"),
            *("foreign", "of what is not reserved", "refused"),
        ],
    )
    cases = [(4, True)] if options.brief else [(1, False), (4, False), (1, True), (4, True)]
    runs: int = options.runs or (1 if options.brief else 5)
    # The foreign client uses half of the limit, so fewer requests fill as many windows.
    requests = {foreign: 160 if options.brief else 1000 if foreign else 1200 for foreign in (False, True)}
    found: dict[str, tuple[int, list[dict[str, Any]]]] = {}
    for number in range(runs):
        for processes, foreign in cases:
            name = (
                f"{processes} process{'es' if processes > 1 else ''}{', a foreign client' if foreign else ''}"
            )
            one = measure(processes, foreign, requests[foreign])
            say(f"  run {number + 1}, {name}: {one['accepted']} accepted, {one['refused']} refused")
            found.setdefault(name, (requests[foreign], []))[1].append(one)
    for name, (count, samples) in found.items():
        add(report, name, count, samples)
    report.notes += [
        f"{REQUESTS} requests in {SECONDS} s, fixed; {LATENCY * 1000:g} ms of latency; {RESERVE:g} reserved",
        f"medians of {runs} runs, with alternating cases; windows, least, most and refused: of all runs",
        "accepted: of all clients, in the whole windows between the first and the last",
    ]
    finish(report, options)


if __name__ == "__main__":
    main()
