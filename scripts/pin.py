# SPDX-License-Identifier: Apache-2.0
"""Write the constraints files: what a fresh installation with each supported Airflow gets today."""

from __future__ import annotations

import subprocess
import tempfile
import venv
from pathlib import Path

TOOLS = ("test", "lint", "build", "docs", "browser")
#: Of each file, the tested patch release of Airflow and the groups of packages.
FILES = {
    "airflow-3.3": ("3.3.2", TOOLS),
    "airflow-2.11": ("2.11.2", TOOLS),
    "scale-out-3.3": ("3.3.2", ("scale",)),
}
ROOT = Path(__file__).resolve().parent.parent
#: Not a dependency of ours: the package itself, and what every environment has.
LEFT_OUT = ("airflow-provider-cfvectorize", "airflow_provider_cfvectorize", "pip", "setuptools", "wheel")


def pin(name: str, version: str, groups: tuple[str, ...]) -> None:
    """Install everything without constraints and write down what came."""
    with tempfile.TemporaryDirectory() as directory:
        venv.create(directory, with_pip=True)
        pip = [f"{directory}/bin/python", "-m", "pip", "--disable-pip-version-check"]
        subprocess.run([*pip, "install", "--quiet", "--upgrade", "pip>=25.1"], check=True)
        words = [word for group in groups for word in ("--group", group)]
        subprocess.run(
            [
                *pip,
                "install",
                "--quiet",
                f"apache-airflow=={version}",
                "-e",
                f"{ROOT}[local,openlineage]",
                *words,
            ],
            check=True,
            cwd=ROOT,
        )
        frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
    lines = [
        line
        for line in frozen.splitlines()
        # Names and versions only: no paths, and no addresses.
        if "==" in line and line[0] != "#" and "@" not in line and line.split("==")[0].lower() not in LEFT_OUT
    ]
    header = f"# What is tested with Airflow {version}; made by scripts/pin.py.\n"
    path = ROOT / "constraints" / f"{name}.txt"
    path.write_text(header + "\n".join(lines) + "\n")
    print(f"{path.relative_to(ROOT)}: {len(lines)} packages")


if __name__ == "__main__":
    for name_, (version_, groups_) in FILES.items():
        pin(name_, version_, groups_)
