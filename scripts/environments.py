# SPDX-License-Identifier: Apache-2.0
"""The test environments: one table for the scripts that set them up, pin them and run tests in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Environment:
    """
    A test environment. Its constraints file has its name.

    :param airflow: the tested patch release of Airflow.
    :param groups: the dependency groups in pyproject.toml.
    :param before: Airflow's dependencies are installed as of this day, because Airflow bounds few of them and
        newer ones break it.
    :param extras: extras of Airflow, in brackets.
    :param also: packages that only other tested Pythons need.
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
        # A dependency of libcst on Python 3.13.
        also=("PyYAML-ft==8.0.0",),
    ),
    # With fastapi 0.165 and cadwyn 8, no DAG runs.
    "airflow-3.2": Environment("3.2.2", before="2026-06-10"),
    # With FAB, as in Airflow's image. Without it, `airflow providers behaviours` shows no providers.
    "airflow-3.1": Environment("3.1.8", ("test", "fab"), extras="[fab]"),
    # `before` as for 3.2, FAB as for 3.1. Without FAB, the connection form has no provider fields either.
    "airflow-3.0": Environment("3.0.6", ("test", "fab"), before="2025-09-05", extras="[fab]"),
    "airflow-2.11": Environment("2.11.2"),
    "scale-out-3.3": Environment("3.3.2", ("scale",)),
}


def constraints_of(name: str) -> Path:
    """Return the constraints file of an environment."""
    return ROOT / "constraints" / f"{name}.txt"
