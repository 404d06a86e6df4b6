# SPDX-License-Identifier: Apache-2.0
"""A whole Airflow 3 in processes of its own, for tests that end some of them."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import sys
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Self

from harness import wait_until

#: Seconds between two looks whether the run has ended.
_ASK_SECONDS = 3
ROOT = Path(__file__).resolve().parents[2]


def _playground() -> ModuleType:
    """Return what the demo starts Airflow with, which is no package."""
    spec = importlib.util.spec_from_file_location("playground", ROOT / "scripts" / "playground.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Standalone:
    """
    Scheduler, triggerer, DAG processor and API server, with one DAG; use it as a context manager.

    :param home: an existing directory for all it keeps.
    :param dag_file: the DAG, of the same name as the file.
    :param connection: the connection, as JSON.
    :param env: further environment variables.
    """

    def __init__(self, home: Path, dag_file: Path, connection: str, **env: str) -> None:
        self.home = home
        self._playground = _playground()
        dags = home / "dags"
        dags.mkdir()
        shutil.copy(dag_file, dags)
        self._dag_id = dag_file.stem
        self._airflow = self._playground.Airflow(home, connection, self._playground.free_port())
        self._airflow.env |= env | {"AIRFLOW__CORE__DAGS_FOLDER": str(dags)}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with self._stack as stack:
            command = [sys.executable, "-m", "airflow", "standalone"]
            child = stack.enter_context(
                self._playground.process(command, self._airflow.log, self._airflow.env)
            )
            self._airflow.wait_for_dag(self._dag_id, child)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    def trigger(self, dag_id: str) -> str:
        """Start a run and return its id."""
        run: Any = self._airflow.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None})
        return str(run["dag_run_id"])

    def state(self, run_id: str) -> str:
        """Return the state of a run; an empty text as long as Airflow is too busy to answer."""
        try:
            run = self._airflow.call("GET", f"/api/v2/dags/{self._dag_id}/dagRuns/{run_id}")
        except (TimeoutError, urllib.error.URLError):
            return ""
        return str(run["state"])

    def wait_for_end(self, run_id: str) -> None:
        """Wait until a run has ended."""
        wait_until(lambda: self.state(run_id) in ("success", "failed"), 300, interval=1)

    def wait_until(self, condition: Callable[[], bool], run_id: str, seconds: float = 300) -> None:
        """Wait for something, or for a run that ends without it."""

        asked = time.monotonic()

        def holds() -> bool:
            nonlocal asked
            if condition():
                return True
            if time.monotonic() - asked > _ASK_SECONDS:
                # Not each time: Airflow has other things to do.
                asked = time.monotonic()
                if (state := self.state(run_id)) in ("success", "failed"):
                    assert condition(), f"the run is {state}; see {self._airflow.log}"
            return condition()

        wait_until(holds, seconds, interval=0.02)
