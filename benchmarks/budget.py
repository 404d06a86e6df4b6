# SPDX-License-Identifier: Apache-2.0
"""
A budget of 120 requests in 3 s that several processes share, alone and with somebody else in it.

The server's windows are fixed, its headers have whole seconds, and one request too many blocks everybody for
a window. Counted are the whole windows between the first and the last, by the server.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from typing import Any

import requests
from measuring import Goal, Report, arguments, finish, median, say

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.local.behaviour import Behaviour

REQUESTS, SECONDS = 120, 3
RESERVE = 0.2
LATENCY = 0.01
#: Somebody else's share of the limit.
FOREIGN = 0.5

#: What each process does: its part of the ids.
DELETE = """
import sys
from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.deletion import delete_ids
from airflow_provider_cfvectorize.client.ids import IdList
base_url, account, token, first, last = sys.argv[1:]
client = VectorizeClient(account, api_token=token, base_url=base_url)
delete_ids(client, "docs", IdList([f"v{i}" for i in range(int(first), int(last))]), witnesses=False)
"""


def run(processes: int, batches: int, *, foreign: bool) -> dict[str, Any]:
    """Delete so many batches, and return what the server counted."""
    behaviour = Behaviour(rate_limit_window="fixed")
    with LocalVectorize(rate_limit=(REQUESTS, SECONDS), latency=LATENCY, behaviour=behaviour) as server:
        client = VectorizeClient(server.account_id, api_token=server.api_token, base_url=server.base_url)
        client.create_index("docs", dimensions=32, metric="cosine")
        stop = threading.Event()
        refused = [0]

        def ask() -> None:
            session = requests.Session()
            session.headers["Authorization"] = f"Bearer {server.api_token}"
            url = f"{server.base_url}/accounts/{server.account_id}/vectorize/v2/indexes/docs/info"
            due = time.monotonic()
            while not stop.wait(max(0.0, due - time.monotonic())):
                refused[0] += session.get(url, timeout=30).status_code == 429
                due += SECONDS / (REQUESTS * FOREIGN)

        somebody_else = threading.Thread(target=ask)
        if foreign:
            somebody_else.start()
        part = batches * 100 // processes
        children = [
            subprocess.Popen(
                [
                    *(sys.executable, "-c", DELETE),
                    *(server.base_url, server.account_id, server.api_token),
                    *(str(i * part), str((i + 1) * part)),
                ]
            )
            for i in range(processes)
        ]
        failed = sum(child.wait() != 0 for child in children)
        stop.set()
        if foreign:
            somebody_else.join()
        windows = server.rate_limit_report()
    whole = [window["accepted"] for window in windows[1:-1]] or [0]
    return {
        "failed": failed,
        "refused": sum(window["refused"] for window in windows),
        "foreign refused": refused[0],
        "windows": len(whole),
        "accepted": sum(whole) / len(whole),
    }


def main() -> None:
    """Measure, print, write."""
    options = arguments(__doc__).parse_args()
    runs, batches = (1, 300) if options.brief else (5, 1200)
    report = Report(
        "budget",
        options.brief,
        ["processes", "somebody else", "windows", "accepted a window", "of what is not reserved", "429"],
    )
    usable = (1 - RESERVE) * REQUESTS
    cases = [(processes, foreign) for foreign in (False, True) for processes in (1, 4)]
    found: dict[tuple[int, bool], list[dict[str, Any]]] = {case: [] for case in cases}
    for number in range(runs):
        for processes, foreign in cases:
            one = run(processes, batches, foreign=foreign)
            found[processes, foreign].append(one)
            say(f"run {number + 1}: {processes} processes, somebody else {foreign}: {one}")
    for (processes, foreign), samples in found.items():
        refused = sum(one["refused"] for one in samples)
        share = median(one["accepted"] for one in samples) / usable
        who = f"{processes} process{'es' if processes > 1 else ''}"
        report.rows.append(
            [
                processes,
                "half the limit" if foreign else "nobody",
                sum(one["windows"] for one in samples),
                share * usable,
                share,
                refused,
            ]
        )
        beside = " beside somebody else" if foreign else ""
        report.goals.append(Goal(f"{who}{beside}: requests refused, anybody's", float(refused), most=0))
        report.goals.append(
            Goal(f"{who}{beside}: that failed", float(sum(one["failed"] for one in samples)), most=0)
        )
        if not foreign:
            report.goals.append(Goal(f"{who}: accepted, of what is not reserved", share, least=0.95))
        report.samples[f"{who}{beside}"] = samples
    report.notes.append(
        f"{REQUESTS} requests in {SECONDS} s, {RESERVE:.0%} reserved, {LATENCY * 1000:g} ms of latency; "
        f"{runs} runs of {batches} requests in all; of somebody else's, all count as accepted too"
    )
    finish(report, options)


if __name__ == "__main__":
    main()
