# SPDX-License-Identifier: Apache-2.0
"""
Build what is released, from a clean checkout, with every check that a machine can make; nothing is uploaded.

The version stands in the package. Its entry in CHANGELOG.md must be the newest, say something,
and have a date in place of "unreleased". pyproject.toml must have the repository's address.
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
    """Return what git says."""
    return run("git", *arguments, cwd=ROOT).strip()


def version_of(package: Path) -> str:
    """Return the version that stands in the package."""
    found = re.search(r'^__version__ = "(.+)"$', (package / "__init__.py").read_text(), re.MULTILINE)
    expect(found is not None, "the package has no __version__")
    return found[1] if found else ""


def problem_of_changelog(text: str, version: str, *, today: date) -> str | None:
    """
    Say why a changelog is not ready for a release, None if it is.

    :param text: the changelog.
    :param version: the version to release.
    :param today: the day it is.
    """
    found = list(_HEADING.finditer(text))
    if not found or found[0]["version"] != version:
        newest = found[0]["version"] if found else "nothing"
        return f"the newest entry is of {newest}, the package says {version}"
    try:
        day = date.fromisoformat(found[0]["date"])
    except ValueError:
        return f"{version} has {found[0]['date']!r} where the day of the release belongs: ({today})"
    if day > today:
        return f"{version} is of {day}, which has not come yet"
    end = found[1].start() if len(found) > 1 else len(text)
    if not re.search(r"^- \S", text[found[0].end() : end], re.MULTILINE):
        return f"the entry of {version} does not say what changed"
    return None


def problem_of_tags(here: list[str], everywhere: list[str], version: str) -> str | None:
    """
    Return why the tags do not allow a release, None if they do.

    :param here: the tags of the commit.
    :param everywhere: all tags.
    :param version: the version to release.
    """
    tag = f"v{version}"
    if others := [name for name in here if name.startswith("v") and name != tag]:
        return f"the commit has the tag {others[0]}, the package says {version}"
    if tag in everywhere and tag not in here:
        return f"the tag {tag} is on another commit: this version is released already"
    return None


def sum_of(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main() -> None:
    """Check, build, check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="go on where only the day, the tag or the checkout are not ready",
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
    # The time of the commit in place of that of the build, so that anybody gets the same bytes.
    os.environ["SOURCE_DATE_EPOCH"] = git("log", "-1", "--format=%ct")
    files = build_and_try()
    with tempfile.TemporaryDirectory() as directory:
        for file, again in zip(files, build(Path(directory) / "again"), strict=True):
            expect(sum_of(file) == sum_of(again), f"{file.name} comes out otherwise when it is built again")
    sums = "".join(f"{sum_of(file)}  {file.name}\n" for file in files)
    (DIST / "SHA256SUMS").write_text(sums)
    print(f"the same bytes when built again\n{sums}", end="")
    if not problems:
        print(f"Next: git tag -s v{version}, and push it: .github/workflows/release.yml uploads it")


if __name__ == "__main__":
    main()
