# SPDX-License-Identifier: Apache-2.0
"""Run a command while other processes keep the machine busy: `busy.py [-n PROCESSES] COMMAND...`."""

from __future__ import annotations

import argparse
import subprocess
import sys

#: Computes until its parent process has ended, in whatever way.
LOOP = """
import os
parent = os.getppid()
while os.getppid() == parent:
    sum(range(1_000_000))
"""


def run_beside(processes: int, command: list[str]) -> int:
    """
    Run a command beside busy processes, end these, and return the exit code of the command.

    :param processes: number of busy processes.
    :param command: the command and its arguments.
    """
    busy = [subprocess.Popen([sys.executable, "-c", LOOP]) for _ in range(processes)]
    try:
        return subprocess.run(command, check=False).returncode
    finally:
        for process in busy:
            process.kill()
        for process in busy:
            process.wait()


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("-n", dest="processes", type=int, default=4, help="busy processes (default: 4)")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="command to run beside them")
    arguments = parser.parse_args()
    if not arguments.command:
        parser.error("the command is missing")
    sys.exit(run_beside(arguments.processes, arguments.command))


if __name__ == "__main__":
    main()
