# SPDX-License-Identifier: Apache-2.0
"""Build wheel and sdist, check their contents, and use the wheel in an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

from packaging.metadata import Metadata
from project_links import repository, urls

ROOT = Path(__file__).resolve().parent.parent
DIST = ROOT / "dist"
PACKAGE = "airflow_provider_cfvectorize"

#: Runs with only the wheel installed: imports every module and does the main job.
TRIAL = """
import importlib, os, pkgutil, tempfile
os.environ["AIRFLOW_HOME"] = tempfile.mkdtemp()
import airflow_provider_cfvectorize as package
assert "site-packages" in package.__file__, package.__file__
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    if not module.name.endswith("__main__"):
        importlib.import_module(module.name)
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook
with LocalVectorize(apply_delay=0) as server:
    os.environ["AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"] = server.connection
    hook = CloudflareVectorizeHook()
    hook.create_index("docs", dimensions=32, metric="cosine")
    hook.upsert("docs", [{"id": "a", "values": [1.0] * 32}])
    assert hook.delete_by_ids("docs", ["a"])["count"] == 1
print("the wheel works:", package.__version__)
"""


def run(*command: str | Path, **kwargs: object) -> str:
    """Run a command and return its output; end the script if the command fails."""
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, **kwargs
    )  # type: ignore[call-overload]
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-3000:]}\n{done.stderr[-5000:]}")
    return str(done.stdout)


def expect(condition: bool, text: str) -> None:
    """End the script unless a condition holds."""
    if not condition:
        sys.exit(f"The build is wrong: {text}")


def check_contents(wheel: Path, sdist: Path) -> None:
    """Check the contents of wheel and sdist."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata_name,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        raw = archive.read(metadata_name)
        metadata = Parser().parsestr(raw.decode())
        (entry_points,) = [name for name in names if name.endswith("entry_points.txt")]
        entries = archive.read(entry_points).decode()
    tops = {name.split("/")[0] for name in names}
    expect(tops == {PACKAGE, metadata_name.split("/")[0]}, f"the wheel has {sorted(tops)}")
    expect(f"{PACKAGE}/py.typed" in names, "py.typed is missing from the wheel")
    for name in ("LICENSE", "NOTICE"):
        expect(any(n.endswith(f"licenses/{name}") for n in names), f"{name} is missing from the wheel")
    expect("apache_airflow_provider" in entries and "vectorize-local" in entries, "entry points are missing")
    classifiers = metadata.get_all("Classifier") or []
    expect("Framework :: Apache Airflow :: Provider" in classifiers, "the provider's classifier is missing")
    try:
        # Checks names, versions, requirements and classifiers against their specifications.
        Metadata.from_email(raw, validate=True)
    except ExceptionGroup as e:
        expect(False, f"its metadata: {'; '.join(map(str, e.exceptions))}")
    expect(metadata["Description-Content-Type"].startswith("text/markdown"), "the README is not Markdown")
    expect(metadata["License-Expression"] == "Apache-2.0", "the licence is missing")
    expect(set(metadata.get_all("Provides-Extra") or []) == {"local", "openlineage"}, "extras differ")
    requirements = metadata.get_all("Requires-Dist") or []
    expect(
        not any("<" in r.split(";")[0] for r in requirements),
        f"an upper bound in {requirements}",
    )
    address = repository(ROOT)
    found = dict(entry.split(", ", 1) for entry in metadata.get_all("Project-URL") or [])
    expect(found == (urls(address, f"v{metadata['Version']}") if address else {}), f"the URLs are {found}")
    run(sys.executable, "-m", "twine", "--no-color", "check", "--strict", wheel, sdist)
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    for name in ("README.md", "CHANGELOG.md", "LICENSE", "NOTICE", "Makefile", "tests/conftest.py"):
        expect(name in inside, f"{name} is missing from the sdist")
    expect(any(name.startswith("example_dags/") for name in inside), "the sdist has no example DAGs")


def build(directory: Path) -> tuple[Path, Path]:
    """
    Build wheel and sdist.

    :param directory: the directory for both; its contents are removed first.
    """
    shutil.rmtree(directory, ignore_errors=True)
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", directory, ROOT)
    (wheel,), (sdist,) = directory.glob("*.whl"), directory.glob("*.tar.gz")
    return wheel, sdist


def build_and_try() -> tuple[Path, Path]:
    """Build wheel and sdist in ``dist``, check their contents, and use the wheel."""
    wheel, sdist = build(DIST)
    check_contents(wheel, sdist)
    print(f"built {wheel.name} and {sdist.name}; testing the wheel in a clean environment", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        venv.create(directory, with_pip=True)
        python = Path(directory) / "bin" / "python"
        constraints = ROOT / "constraints" / "airflow-3.3.txt"
        run(python, "-m", "pip", "install", "--quiet", "-c", constraints, f"{wheel}[local]")
        # Another working directory, so that no file of the checkout is found. The path begins with the
        # environment's own commands.
        env = os.environ | {
            "AIRFLOW_HOME": f"{directory}/airflow",
            "PATH": f"{python.parent}:{os.environ['PATH']}",
        }
        print(run(python, "-c", TRIAL, cwd=directory, env=env).strip().splitlines()[-1])
        shown = run(
            python,
            "-m",
            "airflow",
            "providers",
            "get",
            "airflow-provider-cfvectorize",
            cwd=directory,
            env=env,
        )
        expect("airflow-provider-cfvectorize" in shown, f"airflow providers get prints {shown}")
        run(python.parent / "vectorize-local", "--help", cwd=directory, env=env)
    print("Wheel and sdist have passed all checks", flush=True)
    return wheel, sdist


if __name__ == "__main__":
    build_and_try()
