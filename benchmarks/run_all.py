# SPDX-License-Identifier: Apache-2.0
"""Run all benchmarks in turn, also after a failure; exit with an error if one has failed."""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from measuring import HERE, environment

#: The quick ones first.
NAMES = ("local_server", "memory", "imports", "budget", "triggerer", "throughput")


def main() -> None:
    """Run the benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"benchmarks to run (default: {', '.join(NAMES)})")
    parser.add_argument("--brief", action="store_true", help="run them briefly, as in CI")
    parser.add_argument("--results", type=Path, help="directory for NAME.json (default: none is written)")
    options = parser.parse_args()
    failed = []
    for name in options.names or NAMES:
        words = [sys.executable, str(HERE / f"{name}.py")]
        words += ["--brief"] if options.brief else []
        words += ["--json", str(options.results / f"{name}.json")] if options.results else []
        if options.results:
            options.results.mkdir(parents=True, exist_ok=True)
        print(f"\n=== {name}", flush=True)
        started = time.monotonic()
        if subprocess.run(words, env=environment(), check=False).returncode:
            failed.append(name)
        print(f"=== {name}: {time.monotonic() - started:.0f} s", flush=True)
    if failed:
        sys.exit(f"failed, or missed a goal: {', '.join(failed)}")


if __name__ == "__main__":
    main()
