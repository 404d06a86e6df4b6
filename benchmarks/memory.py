# SPDX-License-Identifier: Apache-2.0
"""
Measure the memory of a delete of a million ids from a file, and compare it with a thousand ids.

The operator runs in a new process, against ``vectorize-local`` in another. The measure is the peak of the
process's resident set.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import time
from functools import partial
from pathlib import Path

from measuring import (
    Goal,
    Report,
    airflow_home,
    alternate,
    arguments,
    environment,
    finish,
    median,
    run_python,
    say,
    server,
)

from airflow_provider_cfvectorize.local.server import DEFAULT_ACCOUNT_ID

TOKEN = "the-benchmarks-own"  # noqa: S105
MAX_MORE_MIB = 30.0


def delete(path: str, count: int) -> None:
    """Delete the ids in a file as a task does, and print the memory peak of this process."""
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByIdsOperator

    class Instance:
        map_index = -1

        def xcom_push(self, key: str, value: object) -> None:
            if key == "receipt" and (not isinstance(value, dict) or value["count"] != count):
                raise SystemExit(f"expected {count} ids to be deleted, got {value}")

    operator = DeleteVectorsByIdsOperator(task_id="delete", index_name="docs", ids_path=path)
    context: Context = {"ti": Instance(), "task_instance": Instance()}  # type: ignore[typeddict-item]
    started = time.perf_counter()
    operator.execute(context)
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    print(json.dumps({"mib": peak, "s": seconds}))


def main() -> None:
    """Run the benchmark."""
    parser: argparse.ArgumentParser = arguments(__doc__)
    parser.add_argument("--runs", type=int, help="runs of each number (default: 5, briefly 1)")
    parser.add_argument("--delete", nargs=2, metavar=("PATH", "COUNT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.delete:
        delete(options.delete[0], int(options.delete[1]))
        return
    runs: int = options.runs or (1 if options.brief else 5)
    few, many = 1_000, 20_000 if options.brief else 1_000_000
    report = Report("memory", options.brief, ["ids", "file, MiB", "peak, MiB", "s", "ids/s"])
    local = ["-m", "airflow_provider_cfvectorize.local", "--port", "0", "--apply-delay", "0.2"]
    with airflow_home() as home, server(*local, "--api-token", TOKEN) as base_url:
        connection = {
            "conn_type": "cloudflare_vectorize",
            "login": DEFAULT_ACCOUNT_ID,
            "password": TOKEN,
            "host": base_url,
        }
        env = environment(home, AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT=json.dumps(connection))
        create = "from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook as Hook;"
        create += "Hook().create_index('docs', dimensions=32, metric='cosine'); print('null')"
        run_python("-c", create, env=env)

        def run(count: int) -> dict[str, float]:
            found: dict[str, float] = run_python(
                __file__, "--delete", str(paths[count]), str(count), env=env, timeout=3600
            )
            return found

        paths: dict[int, Path] = {}
        for count in (few, many):
            paths[count] = home / f"{count}.txt"
            with paths[count].open("w") as file:
                file.writelines(f"tenant-0042/doc-{number:012d}#chunk-0\n" for number in range(count))
        found = alternate(
            {f"{count:,}": partial(run, count) for count in (few, many)},
            runs,
            lambda name, one: say(f"  {name} ids: {one['mib']:.1f} MiB, {one['s']:.1f} s"),
        )
        for count in (few, many):
            samples = found[f"{count:,}"]
            seconds = median(one["s"] for one in samples)
            report.rows.append(
                [
                    count,
                    os.path.getsize(paths[count]) / 2**20,
                    median(one["mib"] for one in samples),
                    seconds,
                    count / seconds,
                ]
            )
    report.samples = found
    report.goals.append(
        Goal(
            f"peak of {many:,} ids above that of {few:,}, MiB",
            median(one["mib"] for one in found[f"{many:,}"])
            - median(one["mib"] for one in found[f"{few:,}"]),
            most=MAX_MORE_MIB,
        )
    )
    report.notes.append(f"medians of {runs} runs; most of the peak is Airflow's own modules")
    finish(report, options)


if __name__ == "__main__":
    main()
