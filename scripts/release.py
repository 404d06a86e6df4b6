# SPDX-License-Identifier: Apache-2.0
"""
Build a release from a clean checkout and check it. The script uploads nothing.

The package has the version. Its entry in CHANGELOG.md must be the newest, list changes, and have a date in
place of "unreleased". pyproject.toml must have the repository's address.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import sys
import tempfile
from datetime import date
from pathlib import Path

from check_wheel import DIST, PACKAGE, ROOT, build, build_and_try, expect, run
from project_links import repository

_HEADING = re.compile(r"^## (?P<version>\S+) \((?P<date>[^)]*)\)$", re.MULTILINE)


def git(*arguments: str) -> str:
    """Return the output of a git command."""
    return run("git", *arguments, cwd=ROOT).strip()


def version_of(package: Path) -> str:
    """Return the version of the package."""
    found = re.search(r'^__version__ = "(.+)"$', (package / "__init__.py").read_text(), re.MULTILINE)
    expect(found is not None, "the package has no __version__")
    return found[1] if found else ""


def problem_of_changelog(text: str, version: str, *, today: date) -> str | None:
    """
    Return why a changelog is not ready for a release; None if it is ready.

    :param text: the changelog.
    :param version: the version to release.
    :param today: the current date.
    """
    found = list(_HEADING.finditer(text))
    if not found or found[0]["version"] != version:
        newest = found[0]["version"] if found else "nothing"
        return f"the newest entry is for {newest}, but the package has version {version}"
    try:
        day = date.fromisoformat(found[0]["date"])
    except ValueError:
        return f"the entry of {version} has {found[0]['date']!r} in place of a date: ({today})"
    if day > today:
        return f"the entry of {version} has the date {day}, which is in the future"
    end = found[1].start() if len(found) > 1 else len(text)
    if not re.search(r"^- \S", text[found[0].end() : end], re.MULTILINE):
        return f"the entry of {version} lists no changes"
    return None


def problem_of_tags(here: list[str], everywhere: list[str], version: str) -> str | None:
    """
    Return why the tags do not allow a release; None if they do.

    :param here: the tags of the commit.
    :param everywhere: all tags.
    :param version: the version to release.
    """
    tag = f"v{version}"
    if others := [name for name in here if name.startswith("v") and name != tag]:
        return f"the commit has the tag {others[0]}, but the package has version {version}"
    if tag in everywhere and tag not in here:
        return f"the tag {tag} is on another commit: this version is already released"
    return None


def sum_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Check the checkout, build twice, and compare."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="build even if the date, the tag, the address or the checkout is not ready",
    )
    arguments = parser.parse_args()
    version = version_of(ROOT / PACKAGE)
    problem = problem_of_changelog((ROOT / "CHANGELOG.md").read_text(), version, today=date.today())
    problems = [f"CHANGELOG.md: {problem}"] if problem else []
    if changed := git("status", "--porcelain"):
        problems.append(f"uncommitted changes:\n{changed}")
    if problem := problem_of_tags(
        git("tag", "--points-at", "HEAD").splitlines(), git("tag").splitlines(), version
    ):
        problems.append(problem)
    if not repository(ROOT):
        problems.append(
            "pyproject.toml has no address of the repository: set `repository` under "
            "[tool.hatch.metadata.hooks.custom]"
        )
    for text in problems:
        print(f"{'Not ready yet' if arguments.rehearse else 'Not ready'}: {text}", flush=True)
    if problems and not arguments.rehearse:
        sys.exit(1)
    # Use the time of the commit, not of the build, so that every build has equal bytes.
    os.environ["SOURCE_DATE_EPOCH"] = git("log", "-1", "--format=%ct")
    files = build_and_try()
    with tempfile.TemporaryDirectory() as directory:
        for file, again in zip(files, build(Path(directory) / "again"), strict=True):
            expect(sum_of(file) == sum_of(again), f"{file.name} differs when it is built again")
    sums = "".join(f"{sum_of(file)}  {file.name}\n" for file in files)
    (DIST / "SHA256SUMS").write_text(sums)
    print(f"A second build has equal bytes\n{sums}", end="")
    if not problems:
        print(
            f"Next: git tag -s v{version} and push the tag; .github/workflows/release.yml uploads the files"
        )


if __name__ == "__main__":
    main()
