# SPDX-License-Identifier: Apache-2.0
"""Helpers that run a reconciliation and read its XComs and files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from airflow_provider_cfvectorize.client.inputs.ids_file import IdsFile
from airflow_provider_cfvectorize.operators.vectors import ReconcileVectorsOperator
from harness import INDEX, make_context, run_task

REPORT = {
    "listed",
    "desired",
    "surplus",
    "deleted",
    "missing",
    "missing_ids",
    "surplus_path",
    "missing_path",
    "dry_run",
    "refused",
    "id_prefix",
}


def make(**kwargs: Any) -> ReconcileVectorsOperator:
    arguments = {
        "task_id": "reconcile",
        "index_name": INDEX,
        "max_delete_fraction": 1,
        "poll_interval": 0.05,
        "wait_timeout": 20,
        **kwargs,
    }
    return ReconcileVectorsOperator(**arguments)


def reconcile(context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    return run_task(lambda: make(**kwargs), context or make_context())


def pushed(**kwargs: Any) -> dict[str, Any]:
    """Run a reconciliation and return its XComs, including the return value."""
    context = make_context()
    returned = reconcile(context, **kwargs)
    xcoms: dict[str, Any] = {**context["ti"].pushed, "return_value": returned}
    assert set(xcoms["report"]) == REPORT
    return xcoms


def report_of_failure(kind: type[Exception], match: str, **kwargs: Any) -> dict[str, Any]:
    context = make_context()
    with pytest.raises(kind, match=match):
        reconcile(context, **kwargs)
    report: dict[str, Any] = context["ti"].pushed["report"]
    assert set(report) == REPORT
    assert "receipt" not in context["ti"].pushed
    return report


def ids_in(path: str | Path) -> list[str]:
    return [id_ for batch in IdsFile(str(path)) for id_ in batch]
