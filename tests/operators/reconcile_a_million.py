# SPDX-License-Identifier: Apache-2.0
"""Run a reconciliation in a separate process and print its peak memory."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.operators.vectors import ReconcileVectorsOperator
from harness import make_context


def peak_kib() -> int:
    """Return the peak resident memory of this process."""
    # On Linux, ru_maxrss includes the parent's memory at the start of this process.
    try:
        status = Path("/proc/self/status").read_text()
    except FileNotFoundError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    return int(status.partition("VmHWM:")[2].split()[0])


if __name__ == "__main__":
    index_name, ids_path = sys.argv[1:]
    context, error = make_context(), None
    operator = ReconcileVectorsOperator(
        task_id="reconcile", index_name=index_name, ids_path=ids_path, poll_interval=0.1
    )
    try:
        operator.execute(context)
    except VectorizeInputError as e:
        error = str(e)
    print(json.dumps({"peak_kib": peak_kib(), "error": error, **context["ti"].pushed}))
