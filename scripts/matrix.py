# SPDX-License-Identifier: Apache-2.0
"""Run the tests on every supported Airflow, each in an environment of its own, and say how each went."""

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

#: What meets Airflow, in the few minutes that CI has for a version. The DAGs run the operators.
#: The operators' own tests, and those marked long, are left to a run of the whole.
BRIEF = (
    *(f"tests/{part}" for part in ("dags", "hooks", "sensors", "triggers")),
    *(f"tests/package/test_{name}.py" for name in ("assets", "form", "provider_info", "public_names")),
    *("-m", "not long"),
)


@dataclass(frozen=True)
class Entry:
    """
    An environment on a Python.

    :param airflow: the minor version of Airflow.
    :param python: the version of Python; None for the one that runs this.
    """

    airflow: str
    python: str | None = None

    @property
    def name(self) -> str:
        """What it is called on the command line."""
        return self.airflow + (f"-python{self.python}" if self.python else "")

    @property
    def directory(self) -> Path:
        """Where it is; those that the Makefile has as well are where it has them."""
        return ROOT / (".venv" if self.name == NEWEST else f".venv-{self.name}")


NEWEST = "3.3"
ENTRIES = (Entry(NEWEST), Entry(NEWEST, "3.13"), Entry("3.2"), Entry("3.1"), Entry("3.0"), Entry("2.11"))


def find_python(version: str) -> str | None:
    """
    Return a Python of a version, None if there is none here.

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
        # A shim may be there, and say that no such version is chosen.
        if done.stdout.strip() == version:
            return candidate
    return None


def run(entry: Entry, arguments: list[str]) -> str:
    """
    Set up an environment and run the tests in it.

    :param entry: the environment.
    :param arguments: what to tell pytest.
    :return: how it went, in a word or two.
    """
    python = find_python(entry.python) if entry.python else sys.executable
    if python is None:
        print(
            f"There is no Python {entry.python} with venv here. Install one, or name one: "
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
    """Run them all, however the first ones go."""
    parser = argparse.ArgumentParser(description=__doc__)
    names = [entry.name for entry in ENTRIES]
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"some of {', '.join(names)}; all if none is given"
    )
    parser.add_argument("--brief", action="store_true", help="only those that CI runs between versions")
    parser.add_argument(
        "--without-missing-python", action="store_true", help="do not fail where a Python is not installed"
    )
    parser.add_argument("--pytest", default="", help="further arguments of pytest, in one string")
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
