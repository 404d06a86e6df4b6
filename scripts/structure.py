# SPDX-License-Identifier: Apache-2.0
"""
Print the files and lines of each folder and the levels of imports; fail on a circle or a wrong direction.

    python scripts/structure.py

Every import counts, including those inside functions. Levels are counted twice: at run time, and with the
imports for type checkers (under TYPE_CHECKING).
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from environments import ROOT

PACKAGE = "airflow_provider_cfvectorize"
#: The modules of this package that each folder or module may import. Dependencies point one way.
DIRECTIONS: Mapping[str, frozenset[str]] = {
    name: frozenset(allowed.split())
    for name, allowed in {
        "exceptions": "",
        "connection": "",
        "get_provider_info": "connection",
        "client": "client exceptions",
        "local": "local client.limits",
        "hooks": "hooks client connection exceptions",
        "retry": "exceptions",
        "assets": "client exceptions",
        "lineage": "assets client exceptions",
        "links": "client exceptions",
        "airflow_rendering": "client exceptions",
        "templating": "client exceptions",
        "triggers": "triggers hooks client connection exceptions",
        "sensors": "sensors triggers hooks client connection exceptions links airflow_rendering templating",
        "operators": "operators triggers hooks client connection exceptions links lineage airflow_rendering "
        "templating",
    }.items()
}


def modules() -> dict[str, Path]:
    """Return the files of the package by module name, without the name of the package."""
    found = {}
    for path in sorted((ROOT / PACKAGE).rglob("*.py")):
        parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


class _WithoutTypes(ast.NodeTransformer):
    """Removes the code under ``if TYPE_CHECKING:``."""

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        return node.orelse if ast.unparse(node.test).endswith("TYPE_CHECKING") else node


def imports(*, types: bool = True) -> dict[str, set[str]]:
    """
    Return the imports within the package, by module.

    :param types: whether to include imports under TYPE_CHECKING.
    """
    known = modules()

    def of(path: Path) -> set[str]:
        tree: ast.AST = ast.parse(path.read_text())
        names = set()
        for node in ast.walk(tree if types else _WithoutTypes().visit(tree)):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        own = {name.removeprefix(f"{PACKAGE}.") for name in names if name.startswith(f"{PACKAGE}.")}
        # In `from package import module`, only the module counts.
        packages = {name for name in own if any(other.startswith(f"{name}.") for other in own & known.keys())}
        return own & known.keys() - packages

    return {name: of(path) - {name} for name, path in known.items() if name}


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return the groups of modules that import each other in a circle."""

    def reached(start: str) -> set[str]:
        found, left = set(), [start]
        while left:
            for name in graph[left.pop()] - found:
                found.add(name)
                left.append(name)
        return found

    all_reached = {name: reached(name) for name in graph}
    groups = {
        tuple(sorted(other for other in all_reached[name] if name in all_reached[other]))
        for name in graph
        if name in all_reached[name]
    }
    return [list(group) for group in sorted(groups)]


def against_direction(graph: Mapping[str, set[str]]) -> list[str]:
    """Return the imports that :data:`DIRECTIONS` does not allow."""

    def allowed(name: str, imported: str) -> bool:
        return any(
            imported == part or imported.startswith(f"{part}.") for part in DIRECTIONS[name.partition(".")[0]]
        )

    return sorted(f"{name} -> {other}" for name in graph for other in graph[name] if not allowed(name, other))


def levels(graph: Mapping[str, set[str]], folder: str) -> int:
    """Return the length of the longest chain of imports within a folder without circles."""

    @cache
    def level(name: str) -> int:
        return 1 + max((level(other) for other in graph[name] if other.startswith(f"{folder}.")), default=0)

    return max(level(name) for name in graph if name.startswith(f"{folder}."))


def main() -> None:
    """Print the numbers; exit with 1 for a circle or an import in a wrong direction."""
    folders: dict[str, list[int]] = {}
    for path in modules().values():
        folder = str(path.parent.relative_to(ROOT))
        folders.setdefault(folder, []).append(len(path.read_text().splitlines()))
    print(f"{'folder':<50}{'files':>6}{'lines':>8}")
    for folder, lines in folders.items():
        print(f"{folder:<50}{len(lines):>6}{sum(lines):>8,}")
    everything = [count for lines in folders.values() for count in lines]
    print(f"{'all':<50}{len(everything):>6}{sum(everything):>8,}")
    graph = imports()
    found = circles(graph)
    wrong = against_direction(graph)
    if not found:
        at_run_time = imports(types=False)
        for folder in ("client", "local"):
            print(
                f"levels of imports in {folder}: {levels(at_run_time, folder)} at run time, "
                f"{levels(graph, folder)} with imports for types"
            )
    print(*(f"circle: {', '.join(group)}" for group in found), sep="\n", end="\n" if found else "")
    print(*(f"against the direction: {line}" for line in wrong), sep="\n", end="\n" if wrong else "")
    sys.exit(bool(found or wrong))


if __name__ == "__main__":
    main()
