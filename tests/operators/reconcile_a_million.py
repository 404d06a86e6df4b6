# SPDX-License-Identifier: Apache-2.0
"""One reconciliation in a process of its own, which tells how much memory it took at most."""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.operators.vectors import ReconcileVectorsOperator
from harness import make_context


def peak_kib() -> int:
    """Return the most memory that this process has had resident."""
    # Not ru_maxrss where there is another: on Linux it counts what the parent had when it started us.
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
