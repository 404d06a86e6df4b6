# SPDX-License-Identifier: Apache-2.0
"""
Links to the repository: the project's URLs, absolute links for the README on a package index, and badges.

All are made from one setting: ``repository`` under ``[tool.hatch.metadata.hooks.custom]`` in pyproject.toml.
Each build runs this file, so it imports the standard library only.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ADDRESS = re.compile(r"https://[\w.-]+(/[\w.-]+){2,}")
_FENCED = re.compile(r"^(```.*?^```)$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


def repository(root: Path) -> str:
    """Return the repository's address, or an empty string if it is not set."""
    with (root / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)
    return str(project["tool"]["hatch"]["metadata"]["hooks"]["custom"]["repository"])


def check_address(address: str) -> None:
    """
    Check the form of the repository's address.

    :param address: the setting.
    :raises ValueError: it is not the address of a repository.
    """
    if not ADDRESS.fullmatch(address) or address.endswith(".git"):
        raise ValueError(
            f"repository = {address!r} in pyproject.toml is not the address of a repository. Expected "
            "https://HOST/OWNER/NAME, without a slash or .git at its end"
        )


def urls(address: str, tag: str) -> dict[str, str]:
    """
    Return the project's URLs. Airflow's list of providers links to the one called Documentation.

    :param address: the repository's address.
    :param tag: the tag of the release.
    """
    return {
        "Homepage": address,
        "Documentation": f"{address}/blob/{tag}/docs/index.md",
        "Changelog": f"{address}/blob/{tag}/CHANGELOG.md",
        "Source": address,
        "Issues": f"{address}/issues",
    }


def absolute(root: Path, text: str, address: str, tag: str) -> str:
    """
    Return the README with absolute links, and with badges.

    :param root: the project's directory.
    :param text: the README.
    :param address: the repository's address.
    :param tag: the tag of the release.
    """

    def replace(found: re.Match[str]) -> str:
        path, anchor, fragment = found["target"].partition("#")
        if "://" in path:
            return found[0]
        path = path or "README.md"
        kind = "raw" if found["image"] else "tree" if (root / path).is_dir() else "blob"
        return f"{found['image']}[{found['text']}]({address}/{kind}/{tag}/{path}{anchor}{fragment})"

    title, _, rest = text.partition("\n")
    # A fenced block has no links.
    parts = _FENCED.split(rest)
    linked = "".join(part if part.startswith("```") else _LINK.sub(replace, part) for part in parts)
    return f"{title}\n\n{badges(address)}\n{linked}"


def badges(address: str) -> str:
    """
    Return the badges in Markdown, for the workflows of the tests and of the documentation.

    :param address: the repository's address.
    """
    workflows = {"Tests": "tests.yml", "Documentation": "docs.yml"}
    return "\n".join(
        f"[![{name}]({address}/actions/workflows/{file}/badge.svg)]({address}/actions/workflows/{file})"
        for name, file in workflows.items()
    )
