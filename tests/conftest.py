# SPDX-License-Identifier: Apache-2.0
"""A private Airflow home and a local Vectorize server for the tests."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.version import Version

# Airflow reads these once, at import. Each process of a parallel run gets its own home.
_HOME = tempfile.TemporaryDirectory(prefix="cfvectorize-tests-", ignore_cleanup_errors=True)
_DAGS = Path(__file__).parent.parent / "example_dags"
os.environ |= {
    "AIRFLOW_HOME": _HOME.name,
    "AIRFLOW__CORE__DAGS_FOLDER": str(_DAGS),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    # Several tests create a DAG with an identical name.
    "AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": "0",
    "AIRFLOW__CORE__FERNET_KEY": "",
    "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{_HOME.name}/airflow.db",
    "AIRFLOW__USAGE_DATA_COLLECTION__ENABLED": "False",
    "AIRFLOW__SCHEDULER__ENABLE_TRACEMALLOC": "False",
}
for name in [
    name for name in os.environ if name.lower().endswith("_proxy") or name.startswith("AIRFLOW_CONN_")
]:
    del os.environ[name]

from airflow import __version__ as airflow_version  # noqa: E402

from airflow_provider_cfvectorize.client.http import refusals  # noqa: E402
from airflow_provider_cfvectorize.local import LocalVectorize  # noqa: E402
from harness import Vectorize  # noqa: E402


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--browser", action="store_true", help="run only the tests in a browser")
    parser.addoption("--pictures", help="directory of the browser pictures (default: build/pictures)")


def _is_about_this_airflow(item: pytest.Item) -> bool:
    this = Version(airflow_version)
    return all(
        Version(mark.kwargs.get("since", "0")) <= this < Version(mark.kwargs.get("before", "99"))
        and not airflow_version.startswith(mark.kwargs.get("but_not", "none"))
        for mark in item.iter_markers("airflow")
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests for another version of Airflow and those that no option selects."""
    browser = config.getoption("--browser")

    def selected(item: pytest.Item) -> bool:
        return _is_about_this_airflow(item) and bool(item.get_closest_marker("browser")) == browser

    if deselected := [item for item in items if not selected(item)]:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if selected(item)]
    # A long test at the end would run alone, while the other processes are idle.
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """Create Airflow's metadata database."""
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalVectorize]:
    """Run a local server that applies writes at once, as the default connection."""
    with LocalVectorize(apply_delay=0.02) as server:
        monkeypatch.setenv("AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT", server.connection)
        yield server


@pytest.fixture
def vectorize(server: LocalVectorize) -> Vectorize:
    """Create the index ``docs`` on the server, with methods to fill and read it."""
    return Vectorize(server)


@pytest.fixture
def impatient_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry a read-only token's refused write for half a second instead of five."""
    monkeypatch.setattr(refusals, "UNPROVEN_SECONDS", 0.5)


@pytest.fixture
def object_storage() -> str:
    """Return the URL of a bucket in memory that Airflow uses like any object storage."""
    import fsspec

    try:
        from airflow.sdk.io import attach
    except ImportError:
        from airflow.io.store import attach

    attach("memory", fs=fsspec.filesystem("memory"))
    return "memory://bucket"
