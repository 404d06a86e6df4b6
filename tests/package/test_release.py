# SPDX-License-Identifier: Apache-2.0
"""Maintenance: checks before a commit and a release, workflows, and issue forms."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import matrix
import pytest
import release
import yaml

pytestmark = pytest.mark.long

ROOT = Path(__file__).resolve().parents[2]
TODAY = date(2026, 12, 1)
CHANGELOG = """# Changelog

## 0.2.0 (2026-12-01)

### Added

- Something.

## 0.1.0 (2026-11-01)

- The first.
"""


def test_a_valid_changelog() -> None:
    assert release.problem_of_changelog(CHANGELOG, "0.2.0", today=TODAY) is None


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("0.2.0", "0.3.0", "the newest entry is for 0.3.0, but the package has version 0.2.0"),
        ("(2026-12-01)", "(unreleased)", "the entry of 0.2.0 has 'unreleased' in place of a date"),
        (
            "(2026-12-01)",
            "(2026-12-02)",
            "the entry of 0.2.0 has the date 2026-12-02, which is in the future",
        ),
        ("- Something.", "", "the entry of 0.2.0 lists no changes"),
        ("## ", "# ", "the newest entry is for nothing"),
    ],
)
def test_invalid_changelogs_are_refused(old: str, new: str, problem: str) -> None:
    said = release.problem_of_changelog(CHANGELOG.replace(old, new), "0.2.0", today=TODAY)
    assert said.startswith(problem)


def test_the_changelog_has_the_version_of_the_package() -> None:
    version = release.version_of(ROOT / "airflow_provider_cfvectorize")
    said = release.problem_of_changelog((ROOT / "CHANGELOG.md").read_text(), version, today=TODAY)
    assert said is None or "'unreleased'" in said


@pytest.mark.parametrize(
    ("here", "everywhere", "problem"),
    [
        ([], ["v0.1.0"], None),
        # Like in the workflow that the tag starts.
        (["v0.2.0", "best"], ["v0.1.0", "v0.2.0", "best"], None),
        ([], ["v0.2.0"], "the tag v0.2.0 is on another commit"),
        (["v0.3.0"], ["v0.3.0"], "the commit has the tag v0.3.0, but the package has version 0.2.0"),
    ],
)
def test_the_tags_of_a_release(here: list[str], everywhere: list[str], problem: str | None) -> None:
    said = release.problem_of_tags(here, everywhere, "0.2.0")
    assert said is None if problem is None else said.startswith(problem)


def test_every_target_is_explained() -> None:
    makefile = (ROOT / "Makefile").read_text()
    phony = re.search(r"^\.PHONY: (.+)$", makefile, re.MULTILINE)
    assert phony
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[0] for line in shown.splitlines()} == set(phony[1].split())
    assert all(len(line.split()) > 3 for line in shown.splitlines())


def strings(node: Any) -> Iterator[str]:
    """Yield every string in a YAML file."""
    if isinstance(node, str):
        yield node
    elif isinstance(node, dict | list):
        for child in node.values() if isinstance(node, dict) else node:
            yield from strings(child)


@pytest.mark.parametrize(
    "path",
    [*sorted(ROOT.glob(".github/workflows/*.yml")), ROOT / ".readthedocs.yaml"],
    ids=lambda path: str(path.name),
)
def test_workflows_call_targets_that_exist(path: Path) -> None:
    """`make lint` also runs actionlint on them."""
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    workflow = yaml.safe_load(path.read_text())
    called = {match[1] for text in strings(workflow) for match in re.finditer(r"\bmake ([a-z0-9-]+)", text)}
    for job in workflow.get("jobs", {}).values():
        called |= set(job.get("strategy", {}).get("matrix", {}).get("target", []))
    assert called
    assert called <= targets


def test_the_nightly_workflow_has_the_whole_matrix() -> None:
    nightly = yaml.safe_load((ROOT / ".github/workflows/nightly.yml").read_text())
    environments = nightly["jobs"]["matrix"]["strategy"]["matrix"]["environment"]
    assert environments == [entry.name for entry in matrix.ENTRIES]


def test_dependabot_updates_the_actions() -> None:
    (update,) = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
    assert update["package-ecosystem"] == "github-actions"


@pytest.mark.airflow(since="3.3")  # the environment with the tools
def test_checks_before_a_commit() -> None:
    config = ROOT / ".pre-commit-config.yaml"
    command = [sys.executable, "-m", "pre_commit", "validate-config", str(config)]
    subprocess.run(command, check=True, capture_output=True)
    (repo,) = yaml.safe_load(config.read_text())["repos"]
    # The hooks download nothing and use the versions of the constraints.
    assert repo["repo"] == "local"
    assert {hook["language"] for hook in repo["hooks"]} == {"system", "fail"}
    for hook in repo["hooks"]:
        if hook["language"] == "system":
            command_name = hook["entry"].split()[0].removeprefix(".venv/bin/")
            assert Path(sys.executable).with_name(command_name).exists(), hook["entry"]


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob(".github/ISSUE_TEMPLATE/*.yml")), ids=lambda path: str(path.stem)
)
def test_issue_forms(path: Path) -> None:
    form: dict[str, Any] = yaml.safe_load(path.read_text())
    if path.stem == "config":
        assert form.keys() == {"blank_issues_enabled"}
        return
    assert {"name", "description", "labels", "body"} == form.keys()
    fields = [part for part in form["body"] if part["type"] != "markdown"]
    assert all(part["attributes"]["label"] for part in fields)
    assert len({part["id"] for part in fields}) == len(fields)
    for name in re.findall(r"[\w/]+\.md", path.read_text()):
        assert (ROOT / name).exists(), name
