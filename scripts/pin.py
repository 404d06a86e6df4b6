# SPDX-License-Identifier: Apache-2.0
"""Write the constraints files: what a fresh installation with each supported Airflow gets today."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Pinned:
    """
    What a constraints file is made of.

    :param version: the tested patch release of Airflow.
    :param groups: the groups of packages in pyproject.toml.
    :param before: of what Airflow asks for, only what was there before this day: it bounds few of its
        dependencies, and newer ones break it.
    :param extras: of Airflow, in brackets.
    :param also: what other tested Pythons need beside it.
    """

    version: str
    groups: tuple[str, ...] = ("test",)
    before: str | None = None
    extras: str = ""
    also: tuple[str, ...] = ()


FILES = {
    "airflow-3.3": Pinned(
        "3.3.2",
        ("test", "lint", "build", "docs", "browser"),
        # Of libcst, on 3.13 only.
        also=("PyYAML-ft==8.0.0",),
    ),
    # With fastapi 0.165 and cadwyn 8, no DAG runs.
    "airflow-3.2": Pinned("3.2.2", before="2026-06-10"),
    # With FAB, as in Airflow's image: without, `airflow providers behaviours` shows no provider's.
    "airflow-3.1": Pinned("3.1.8", ("test", "fab"), extras="[fab]"),
    # As of 3.2. With FAB: without, the connection form has no fields of providers either.
    "airflow-3.0": Pinned("3.0.6", ("test", "fab"), before="2025-09-05", extras="[fab]"),
    "airflow-2.11": Pinned("2.11.2"),
    "scale-out-3.3": Pinned("3.3.2", ("scale",)),
}
#: What lies about on this machine is not what anybody gets, and has no dates.
ENV = {
    name: value for name, value in os.environ.items() if name not in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL")
} | {"PIP_CONFIG_FILE": os.devnull}
ROOT = Path(__file__).resolve().parent.parent
#: Not a dependency of ours: the package itself, and what every environment has.
LEFT_OUT = ("airflow-provider-cfvectorize", "airflow_provider_cfvectorize", "pip", "setuptools", "wheel")


def pin(name: str, pinned: Pinned) -> None:
    """Install everything without constraints and write down what came."""
    with tempfile.TemporaryDirectory() as directory:
        venv.create(directory, with_pip=True)
        pip = [f"{directory}/bin/python", "-m", "pip", "--disable-pip-version-check"]
        install = [*pip, "install", "--quiet"]
        # The first with --uploaded-prior-to.
        subprocess.run([*install, "--upgrade", "pip>=26"], check=True, env=ENV)
        airflow = f"apache-airflow{pinned.extras}=={pinned.version}"
        if pinned.before:
            subprocess.run([*install, f"--uploaded-prior-to={pinned.before}", airflow], check=True, env=ENV)
        words = [word for group in pinned.groups for word in ("--group", group)]
        subprocess.run(
            [*install, airflow, "-e", f"{ROOT}[local,openlineage]", *words], check=True, cwd=ROOT, env=ENV
        )
        frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    lines = [
        line
        for line in frozen.splitlines()
        # Names and versions only: no paths, and no addresses.
        if "==" in line and line[0] != "#" and "@" not in line and line.split("==")[0].lower() not in LEFT_OUT
    ]
    lines = sorted([*lines, *pinned.also], key=str.lower)
    header = f"# What is tested with Airflow {pinned.version}; made by scripts/pin.py.\n"
    path = ROOT / "constraints" / f"{name}.txt"
    path.write_text(header + "\n".join(lines) + "\n")
    print(f"{path.relative_to(ROOT)}: {len(lines)} packages")


if __name__ == "__main__":
    for name_ in sys.argv[1:] or FILES:
        pin(name_, FILES[name_])
