# SPDX-License-Identifier: Apache-2.0
"""The README and the project's links on a package index, with an example address."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from email.parser import Parser
from pathlib import Path
from urllib.parse import urlsplit

import project_links
import pytest

from airflow_provider_cfvectorize import __version__
from readme.markdown import ROOT, read

pytestmark = pytest.mark.long

ADDRESS = "https://forge.example/owner/name"
#: The files that a build reads.
READ = ("pyproject.toml", "README.md", "LICENSE", "NOTICE", "scripts", "airflow_provider_cfvectorize")

# Only the environment of the newest Airflow has the release tools.
with_tools = pytest.mark.airflow(since="3.3")


def build(root: Path, directory: Path) -> Message:
    """Build a wheel, check it like before an upload, and return its metadata."""
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(directory)]
    subprocess.run(command, cwd=root, check=True, capture_output=True, text=True)
    (wheel,) = directory.glob("*.whl")
    check = [sys.executable, "-m", "twine", "--no-color", "check", "--strict", str(wheel)]
    done = subprocess.run(check, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [name for name in archive.namelist() if name.endswith("/METADATA")]
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of the project with an address."""
    root = tmp_path / "checkout"
    root.mkdir()
    for name in READ:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / name)
    # Links may have targets that the build does not read.
    for name in ("docs", "example_dags"):
        (root / name).symlink_to(ROOT / name)
    path = root / "pyproject.toml"
    text, count = re.subn('^repository = ""$', f'repository = "{ADDRESS}"', path.read_text(), flags=re.M)
    assert count == 1
    path.write_text(text)
    return root


@with_tools
def test_the_rendered_readme_has_no_relative_link(checkout: Path, tmp_path: Path) -> None:
    from readme_renderer import markdown

    metadata = build(checkout, tmp_path / "dist")
    rendered = markdown.render(metadata.get_payload())
    assert rendered is not None
    # Skip the links of headings to themselves.
    targets = re.findall(r'(?:href|src)="(?!#user-content-)([^"]+)"', rendered)
    assert [target for target in targets if urlsplit(target).scheme != "https"] == []
    # The links of the README and two badges.
    assert len(targets) == len(read("README.md").links()) + 4
    assert f"{ADDRESS}/blob/v{__version__}/docs/decision.md" in targets
    assert f"{ADDRESS}/tree/v{__version__}/example_dags" in targets
    assert f"{ADDRESS}/actions/workflows/tests.yml/badge.svg" in targets
    assert dict(entry.split(", ", 1) for entry in metadata.get_all("Project-URL") or []) == (
        project_links.urls(ADDRESS, f"v{__version__}")
    )


@with_tools
def test_no_address_is_invented(tmp_path: Path) -> None:
    if project_links.repository(ROOT):
        return
    metadata = build(ROOT, tmp_path)
    assert metadata.get_all("Project-URL") is None
    assert metadata.get_payload() == (ROOT / "README.md").read_text()


def test_code_blocks_do_not_change() -> None:
    text = "# Title\n![a](docs/images/a.png) and\n[b\nc](#ids)\n\n```python\nx[0](1)\n```\n[d](https://d.example/)\n"
    assert project_links.absolute(ROOT, text, ADDRESS, "v1") == (
        f"# Title\n\n{project_links.badges(ADDRESS)}\n"
        f"![a]({ADDRESS}/raw/v1/docs/images/a.png) and\n[b\nc]({ADDRESS}/blob/v1/README.md#ids)\n\n"
        "```python\nx[0](1)\n```\n[d](https://d.example/)\n"
    )


@pytest.mark.parametrize(
    "address", ["http://a.example/b/c", "https://a.example/b", f"{ADDRESS}/", f"{ADDRESS}.git", "owner/name"]
)
def test_invalid_addresses_are_refused(address: str) -> None:
    with pytest.raises(ValueError, match=f"repository = {re.escape(repr(address))}"):
        project_links.check_address(address)
