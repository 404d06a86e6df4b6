# SPDX-License-Identifier: Apache-2.0
"""Plain and mapped path objects in every file parameter, and durations of mapped tasks."""

from __future__ import annotations

import json
import os
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_cfvectorize.operators.vectors import (
    DeleteVectorsByIdsOperator,
    GetVectorsByIdsOperator,
    ListVectorsOperator,
    ReconcileVectorsOperator,
    UpsertVectorsOperator,
)
from dags.running import make_dag, run_dag
from harness import DIMENSIONS, INDEX, Vectorize

pytestmark = pytest.mark.usefixtures("airflow_db")


class AnyPath(os.PathLike[str]):
    """A path object whose str() is not its path, like `os.DirEntry`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


def test_path_objects(vectorize: Vectorize, object_storage: str, tmp_path: Path) -> None:
    bucket = ObjectStoragePath(object_storage)
    for name in ("a", "b", "c"):
        (bucket / f"{name}.ndjson").write_text(json.dumps({"id": name, "values": [0.5] * DIMENSIONS}))
    (tmp_path / "c.txt").write_text("c")
    kwargs: dict[str, Any] = {"index_name": INDEX}
    waits = {**kwargs, "wait_for_completion": True, "wait_timeout": timedelta(minutes=1)}
    with make_dag("paths", params={"id": "b"}) as dag:
        fill = UpsertVectorsOperator.partial(task_id="fill", poll_interval=timedelta(seconds=0.05), **waits)
        filled = fill.expand(vectors_path=[bucket / "a.ndjson", bucket / "{{ params.id }}.ndjson"])
        often = UpsertVectorsOperator.partial(
            task_id="often", vectors_path=bucket / "c.ndjson", durable=False, **waits
        ).expand(poll_interval=[timedelta(seconds=0.05)])
        listed = ListVectorsOperator(task_id="list", path=AnyPath(tmp_path / "{{ params.id }}.txt"), **kwargs)
        got = GetVectorsByIdsOperator(
            task_id="get", ids_path=tmp_path / "b.txt", path=bucket / "got.ndjson", **kwargs
        )
        reconcile = ReconcileVectorsOperator(
            task_id="reconcile",
            ids_path=tmp_path / "c.txt",
            surplus_path=tmp_path / "surplus.txt",
            missing_path=bucket / "missing.txt",
            dry_run=True,
            **kwargs,
        )
        delete = DeleteVectorsByIdsOperator.partial(task_id="delete", **waits).expand(
            ids_path=[AnyPath(tmp_path / "surplus.txt")]
        )
        [filled, often] >> listed >> got >> reconcile >> delete
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert (run.pull("list"), run.pull("get")) == (f"{tmp_path}/b.txt", str(bucket / "got.ndjson"))
    assert run.pull("reconcile", "report")["surplus_path"] == f"{tmp_path}/surplus.txt"
    assert vectorize.ids() == {"c"}
