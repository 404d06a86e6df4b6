# SPDX-License-Identifier: Apache-2.0
"""Run the tests on every supported Airflow, each in its own environment, and print the outcomes."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from environments import ROOT

#: The tests that involve Airflow and fit into the few minutes that CI has for a version. The tests of DAGs
#: run the operators. A full run also has the operators' own tests and those marked long.
BRIEF = (
    *(f"tests/{part}" for part in ("dags", "hooks", "sensors", "triggers")),
    *(f"tests/package/test_{name}.py" for name in ("assets", "form", "provider_info", "public_names")),
    *("-m", "not long"),
)


@dataclass(frozen=True)
class Entry:
    """
    An environment with a version of Python.

    :param airflow: the minor version of Airflow.
    :param python: the version of Python; None for the Python that runs this script.
    """

    airflow: str
    python: str | None = None

    @property
    def name(self) -> str:
        """The name on the command line."""
        return self.airflow + (f"-python{self.python}" if self.python else "")

    @property
    def directory(self) -> Path:
        """The directory of the environment, shared with the Makefile if it has the environment too."""
        return ROOT / (".venv" if self.name == NEWEST else f".venv-{self.name}")


NEWEST = "3.3"
ENTRIES = (Entry(NEWEST), Entry(NEWEST, "3.13"), Entry("3.2"), Entry("3.1"), Entry("3.0"), Entry("2.11"))


def find_python(version: str) -> str | None:
    """
    Return the path of a Python version; None if it is not installed.

    :param version: such as "3.13".
    """
    candidates = [os.environ.get(f"PYTHON{version.replace('.', '')}"), shutil.which(f"python{version}")]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    candidates += map(str, sorted(pyenv.glob(f"versions/{version}*/bin/python")))
    for candidate in filter(None, candidates):
        code = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
        try:
            done = subprocess.run([candidate, "-c", code], capture_output=True, text=True, check=False)
        except OSError:
            continue
        # A shim may exist without the version.
        if done.stdout.strip() == version:
            return candidate
    return None


def run(entry: Entry, arguments: list[str]) -> str:
    """
    Set up an environment and run the tests in it.

    :param entry: the environment.
    :param arguments: arguments of pytest.
    :return: the outcome, in one or two words.
    """
    python = find_python(entry.python) if entry.python else sys.executable
    if python is None:
        print(
            f"No Python {entry.python} with venv was found. Install it, or name its path: "
            f"PYTHON{str(entry.python).replace('.', '')}=/path/to/python",
            flush=True,
        )
        return "no Python"
    set_up = [python, "scripts/set_up.py", str(entry.directory), f"airflow-{entry.airflow}"]
    if subprocess.run(set_up, cwd=ROOT, check=False).returncode:
        return "not set up"
    command = [str(entry.directory / "bin" / "python"), "-m", "pytest", *arguments]
    return "passed" if subprocess.run(command, cwd=ROOT, check=False).returncode == 0 else "FAILED"


def main() -> None:
    """Run the tests in all environments, also after a failure."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [entry.name for entry in ENTRIES]
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"environments, of {', '.join(names)} (default: all)"
    )
    parser.add_argument("--brief", action="store_true", help="run only the tests that CI runs")
    parser.add_argument(
        "--without-missing-python", action="store_true", help="do not fail if a Python is not installed"
    )
    parser.add_argument("--pytest", default="", help="more arguments of pytest, in one string")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(names):
        parser.error(
            f"no such environment: {', '.join(sorted(unknown))}; expected some of {', '.join(names)}"
        )
    words = [*arguments.pytest.split(), *(BRIEF if arguments.brief else ())]
    outcomes = []
    for entry in ENTRIES:
        if arguments.names and entry.name not in arguments.names:
            continue
        print(f"--- {entry.name}", flush=True)
        begun = time.monotonic()
        outcomes.append((entry.name, run(entry, words), time.monotonic() - begun))
    print("\nAirflow            outcome       seconds, with the set-up")
    for name, outcome, seconds in outcomes:
        print(f"{name:<18} {outcome:<13} {seconds:.0f}")
    fine = {"passed", "no Python"} if arguments.without_missing_python else {"passed"}
    sys.exit(any(outcome not in fine for _, outcome, _ in outcomes))


if __name__ == "__main__":
    main()
