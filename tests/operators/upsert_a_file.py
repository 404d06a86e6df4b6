# SPDX-License-Identifier: Apache-2.0
"""Upsert a file in a separate process and print its report and peak memory."""

from __future__ import annotations

import json
import resource
import sys
from typing import Any

from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.operators.vectors import UpsertVectorsOperator


class TaskInstance:
    """A task instance that stores pushed XComs."""

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


def main(index_name: str, path: str) -> None:
    ti = TaskInstance()
    operator = UpsertVectorsOperator(task_id="upsert", index_name=index_name, vectors_path=path)
    error = ""
    try:
        operator.execute({"ti": ti})  # type: ignore[typeddict-item]
    except VectorizeInputError as e:
        error = str(e)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"peak_mb": peak, "report": ti.pushed.get("report"), "error": error}))


if __name__ == "__main__":
    main(*sys.argv[1:])
