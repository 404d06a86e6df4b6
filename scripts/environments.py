# SPDX-License-Identifier: Apache-2.0
"""The environments of the tests: one table for what sets them up, pins them and runs in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Environment:
    """
    What an environment is made of; the constraints file has its name.

    :param airflow: the tested patch release of Airflow.
    :param groups: the groups of packages in pyproject.toml.
    :param before: of what Airflow asks for, only what was there before this day: it bounds few of its
        dependencies, and newer ones break it.
    :param extras: of Airflow, in brackets.
    :param also: what other tested Pythons need beside it.
    """

    airflow: str
    groups: tuple[str, ...] = ("test",)
    before: str | None = None
    extras: str = ""
    also: tuple[str, ...] = ()


ENVIRONMENTS = {
    "airflow-3.3": Environment(
        "3.3.2",
        ("test", "postgresql", "lint", "build", "docs", "browser"),
        # Of libcst, on 3.13 only.
        also=("PyYAML-ft==8.0.0",),
    ),
    # With fastapi 0.165 and cadwyn 8, no DAG runs.
    "airflow-3.2": Environment("3.2.2", before="2026-06-10"),
    # With FAB, as in Airflow's image: without, `airflow providers behaviours` shows no provider's.
    "airflow-3.1": Environment("3.1.8", ("test", "fab"), extras="[fab]"),
    # As of 3.2. With FAB: without, the connection form has no fields of providers either.
    "airflow-3.0": Environment("3.0.6", ("test", "fab"), before="2025-09-05", extras="[fab]"),
    "airflow-2.11": Environment("2.11.2"),
    "scale-out-3.3": Environment("3.3.2", ("scale",)),
}


def constraints_of(name: str) -> Path:
    """Return the constraints file of an environment."""
    return ROOT / "constraints" / f"{name}.txt"
