# SPDX-License-Identifier: Apache-2.0
"""A whole Airflow 3 in separate processes, for tests that kill some of them."""

from __future__ import annotations

import contextlib
import shutil
import time
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import playground

from harness import wait_until

#: Seconds between two checks of a run's state.
_ASK_SECONDS = 3
ROOT = Path(__file__).resolve().parents[2]


class Standalone:
    """
    Scheduler, triggerer, DAG processor and API server; use it as a context manager.

    :param home: an existing directory for its data.
    :param dags: a folder of DAGs, or the file of a DAG with the file's name.
    :param connection: the connection as JSON, or None.
    :param dag_id: the DAG to wait for, in a folder.
    :param env: further environment variables.
    """

    def __init__(
        self, home: Path, dags: Path, connection: str | None, *, dag_id: str | None = None, **env: str
    ) -> None:
        self.home = home
        self._dag_id = dag_id or dags.stem
        self._connection = connection
        folder = dags
        if dags.is_file():
            folder = home / "dags"
            folder.mkdir()
            shutil.copy(dags, folder)
        self._env = env | {"AIRFLOW__CORE__DAGS_FOLDER": str(folder)}
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        self._airflow = self._stack.enter_context(
            playground.airflow(self.home, self._connection, self._dag_id, **self._env)
        )
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stack.close()

    @property
    def url(self) -> str:
        """The URL of its UI."""
        return str(self._airflow.url)

    def trigger(self, dag_id: str) -> str:
        """Start a run and return its id."""
        run: Any = self._airflow.call("POST", f"/api/v2/dags/{dag_id}/dagRuns", {"logical_date": None})
        return str(run["dag_run_id"])

    def state(self, run_id: str) -> str:
        """Return the state of a run, or an empty string while Airflow is too busy to answer."""
        try:
            run = self._airflow.call("GET", f"/api/v2/dags/{self._dag_id}/dagRuns/{run_id}")
        except (TimeoutError, urllib.error.URLError):
            return ""
        return str(run["state"])

    def wait_for_end(self, run_id: str) -> None:
        """Wait until a run has ended."""
        wait_until(lambda: self.state(run_id) in ("success", "failed"), 300, interval=1)

    def wait_until(self, condition: Callable[[], bool], run_id: str, seconds: float = 300) -> None:
        """Wait for a condition; fail if the run ends before it holds."""

        asked = time.monotonic()

        def holds() -> bool:
            nonlocal asked
            if condition():
                return True
            if time.monotonic() - asked > _ASK_SECONDS:
                # Not each time: the check puts load on Airflow.
                asked = time.monotonic()
                if (state := self.state(run_id)) in ("success", "failed"):
                    assert condition(), f"the run is {state}; see {self._airflow.log}"
            return condition()

        wait_until(holds, seconds, interval=0.02)
