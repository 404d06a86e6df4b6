# SPDX-License-Identifier: Apache-2.0
"""Write the constraints files: the versions that a new installation of each supported Airflow gets today."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv

from environments import ENVIRONMENTS, ROOT, Environment, constraints_of

#: Without local package indexes, which differ between machines and have no upload dates.
ENV = {
    name: value for name, value in os.environ.items() if name not in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL")
} | {"PIP_CONFIG_FILE": os.devnull}
#: Not pinned: the package itself, and the tools that every environment has.
LEFT_OUT = ("airflow-provider-cfvectorize", "airflow_provider_cfvectorize", "pip", "setuptools", "wheel")


def pin(name: str, environment: Environment) -> None:
    """Install an environment without constraints and write the installed versions to its file."""
    with tempfile.TemporaryDirectory() as directory:
        venv.create(directory, with_pip=True)
        pip = [f"{directory}/bin/python", "-m", "pip", "--disable-pip-version-check"]
        install = [*pip, "install", "--quiet"]
        # pip 26 is the first with --uploaded-prior-to.
        subprocess.run([*install, "--upgrade", "pip>=26"], check=True, env=ENV)
        airflow = f"apache-airflow{environment.extras}=={environment.airflow}"
        if environment.before:
            subprocess.run(
                [*install, f"--uploaded-prior-to={environment.before}", airflow], check=True, env=ENV
            )
        words = [word for group in environment.groups for word in ("--group", group)]
        subprocess.run(
            [*install, airflow, "-e", f"{ROOT}[local,openlineage]", *words], check=True, cwd=ROOT, env=ENV
        )
        frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    lines = [
        line
        for line in frozen.splitlines()
        # Names and versions only, without paths and addresses.
        if "==" in line and line[0] != "#" and "@" not in line and line.split("==")[0].lower() not in LEFT_OUT
    ]
    lines = sorted([*lines, *environment.also], key=str.lower)
    header = f"# What is tested with Airflow {environment.airflow}; made by scripts/pin.py.\n"
    path = constraints_of(name)
    path.write_text(header + "\n".join(lines) + "\n")
    print(f"{path.relative_to(ROOT)}: {len(lines)} packages")


if __name__ == "__main__":
    for name_ in sys.argv[1:] or ENVIRONMENTS:
        pin(name_, ENVIRONMENTS[name_])
