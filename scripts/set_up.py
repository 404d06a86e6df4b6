# SPDX-License-Identifier: Apache-2.0
"""Make a virtual environment with the package, its extras and the tools. The Makefile runs this."""

from __future__ import annotations

import argparse
import subprocess
import sys
import venv
from pathlib import Path

from environments import ENVIRONMENTS, ROOT, constraints_of
from progress import step

OLDEST = (3, 11)
#: The first pip with --group, which installs the dependency groups of pyproject.toml.
PIP = "pip>=25.1"


def main() -> None:
    """Make the environment or update it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("name", choices=ENVIRONMENTS, help="the test environment")
    arguments = parser.parse_args()
    if sys.version_info < OLDEST:
        sys.exit(
            f"Python {sys.version.split()[0]} is too old. Python 3.11 or newer is required; name it: make "
            f"PYTHON=python3.11"
        )
    directory = arguments.directory.absolute()
    python = directory / "bin" / "python"
    if not python.exists():
        with step(f"Virtual environment in {directory.name}"):
            venv.create(directory, with_pip=True, clear=True)
    pip = [str(python), "-m", "pip", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--upgrade", PIP], check=True)
    groups = [word for group in ENVIRONMENTS[arguments.name].groups for word in ("--group", group)]
    constraints = constraints_of(arguments.name)
    count = constraints.read_text().count("==")
    with step(f"Airflow and its packages in {directory.name}: up to {count} (1 to 2 minutes)"):
        command = [*pip, "install", "--quiet", "-c", str(constraints), "-e", ".[local,openlineage]", *groups]
        subprocess.run(command, check=True, cwd=ROOT)


if __name__ == "__main__":
    main()
