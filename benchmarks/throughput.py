# SPDX-License-Identifier: Apache-2.0
"""
Measure the delete of 100,000 ids with our client and hook, bare ``requests`` and the official SDK.

Each client runs in its own process on one core, and the server on another core. The clients alternate; a
ratio compares runs in the same round.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import Any

from measuring import (
    HERE,
    Goal,
    Report,
    airflow_home,
    alternate,
    arguments,
    environment,
    finish,
    median,
    median_ratio,
    run_python,
    say,
    server,
    two_cores,
)

LATENCIES = (0.0, 0.02, 0.1)
REQUESTS = 1000
IDS_IN_A_REQUEST = 100
CLIENTS = ("ours", "hook", "requests", "sdk", "sdk-sequential")
NAMES = {
    "ours": "our client, 4 threads",
    "hook": "our hook's delete_by_ids, 4 threads",
    "requests": "bare requests, 4 threads",
    "sdk": "cloudflare SDK, 4 threads",
    "sdk-sequential": "cloudflare SDK, one by one",
    "sockets": "bare sockets, 4 threads (the server's bound)",
}
#: Lower bounds of the throughput, relative to bare requests, by latency.
LEAST = {0.0: 0.85, 0.02: 0.95, 0.1: 0.95}
MOST_CPU = 1.15


def requests_of(client: str, latency: float, brief: bool) -> int:
    """Return the number of requests of a run; fewer if the time is only the sum of latencies."""
    if brief:
        return 40 if client == "sdk-sequential" else 100
    if client == "sdk-sequential" and latency:
        return round(REQUESTS * 0.01 / latency)
    return REQUESTS


def measure(report: Report, latency: float, runs: int, home: Path) -> None:
    """Add the rows and goals of one latency."""
    client_core, server_core = two_cores()
    script = str(HERE / "throughput_clients.py")
    with server(str(HERE / "answering_server.py"), "--latency", str(latency), core=server_core) as base_url:

        def run(client: str) -> dict[str, float]:
            requests = requests_of(client, latency, report.brief)
            sample: dict[str, float] = run_python(
                script, client, base_url, str(requests), env=environment(home), core=client_core
            )
            return sample

        names = [*CLIENTS, "sockets"] if latency == 0 else list(CLIENTS)
        found = alternate(
            {name: partial(run, name) for name in names},
            runs,
            lambda name, sample: say(f"  {latency * 1000:g} ms, {name}: {sample['wall']:.2f} s"),
        )
    rates = {name: [one["requests"] / one["wall"] for one in found[name]] for name in names}
    cpus = {name: [one["cpu"] / one["requests"] for one in found[name]] for name in names}
    for name in names:
        report.rows.append(
            [
                f"{latency * 1000:g} ms",
                NAMES[name],
                int(found[name][0]["requests"]) * IDS_IN_A_REQUEST,
                median(one["wall"] for one in found[name]),
                median(rates[name]),
                median_ratio(rates[name], rates["requests"]),
                median(cpus[name]) * 1000,
                median_ratio(cpus[name], cpus["requests"]),
            ]
        )
    at = f"at {latency * 1000:g} ms"
    for name, who in (("ours", "our client"), ("hook", "our hook")):
        report.goals.append(
            Goal(
                f"{at}, {who}'s throughput, of bare requests'",
                median_ratio(rates[name], rates["requests"]),
                least=LEAST[latency],
            )
        )
        report.goals.append(
            Goal(
                f"{at}, {who}'s CPU time, of bare requests'",
                median_ratio(cpus[name], cpus["requests"]),
                most=MOST_CPU,
            )
        )
        for sdk in ("sdk", "sdk-sequential"):
            report.goals.append(
                Goal(
                    f"{at}, {who}'s throughput, of the {sdk}'s",
                    median_ratio(rates[name], rates[sdk]),
                    # The hook sends a few requests alone, for the witnesses and the last batch.
                    least=LEAST[latency] if name == "hook" else 1.0,
                )
            )
    report.samples[f"{latency * 1000:g} ms"] = found


def main() -> None:
    """Run the benchmark."""
    parser: argparse.ArgumentParser = arguments(__doc__)
    parser.add_argument("--runs", type=int, help="runs of each client (default: 5, briefly 1)")
    options = parser.parse_args()
    runs: int = options.runs or (1 if options.brief else 5)
    report = Report(
        "throughput",
        options.brief,
        ["latency", "client", "ids", "s", "requests/s", "of requests'", "CPU ms/request", "of requests'"],
    )
    with airflow_home() as home:
        for latency in LATENCIES:
            measure(report, latency, runs, home)
    report.notes += [
        f"medians of {runs} runs, 100 ids a request; ratios are medians of the ratios in each round",
        "one by one with a latency: fewer requests, because the rate does not depend on their number",
        "the hook also checks the ids and first reads witnesses: one more request if they exist",
    ]
    cores = two_cores()
    if cores[0] is None:
        report.notes.append("client and server could not each be bound to a core")
    samples: Any = report.samples["0 ms"]
    report.notes.append(
        "the server's own bound, by bare sockets: "
        f"{median(one['requests'] / one['wall'] for one in samples['sockets']):,.0f} requests/s"
    )
    finish(report, options)


if __name__ == "__main__":
    main()
