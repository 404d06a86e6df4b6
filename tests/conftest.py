# SPDX-License-Identifier: Apache-2.0
"""An Airflow and a Vectorize for the tests, both of their own."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.version import Version

# Before anything imports Airflow, which reads these once. Each process of a parallel run gets its own home.
_HOME = tempfile.TemporaryDirectory(prefix="cfvectorize-tests-", ignore_cleanup_errors=True)
_DAGS = Path(__file__).parent.parent / "example_dags"
os.environ |= {
    "AIRFLOW_HOME": _HOME.name,
    "AIRFLOW__CORE__DAGS_FOLDER": str(_DAGS),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__CORE__UNIT_TEST_MODE": "False",
    # Tests make DAGs of one name one after another.
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
    parser.addoption("--browser", action="store_true", help="run the tests in a browser, and no others")
    parser.addoption("--pictures", help="where those put their pictures (default: build/pictures)")


def _is_about_this_airflow(item: pytest.Item) -> bool:
    this = Version(airflow_version)
    return all(
        Version(mark.kwargs.get("since", "0")) <= this < Version(mark.kwargs.get("before", "99"))
        and not airflow_version.startswith(mark.kwargs.get("but_not", "none"))
        for mark in item.iter_markers("airflow")
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect, and so not even skip, what is about another version of Airflow, or not asked for."""
    browser = config.getoption("--browser")

    def selected(item: pytest.Item) -> bool:
        return _is_about_this_airflow(item) and bool(item.get_closest_marker("browser")) == browser

    if deselected := [item for item in items if not selected(item)]:
        config.hook.pytest_deselected(items=deselected)
        items[:] = [item for item in items if selected(item)]
    # Or the last of them would run alone, with the other processes waiting for it.
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """Make Airflow's metadata database."""
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalVectorize]:
    """Run a Vectorize that applies at once, as the default connection."""
    with LocalVectorize(apply_delay=0.02) as server:
        monkeypatch.setenv("AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT", server.connection)
        yield server


@pytest.fixture
def vectorize(server: LocalVectorize) -> Vectorize:
    """Return the same, with an index ``docs`` and ways to fill and look at it."""
    return Vectorize(server)


@pytest.fixture
def impatient_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the refusal of a write by a token that may only read as final after half a second, not five."""
    monkeypatch.setattr(refusals, "UNPROVEN_SECONDS", 0.5)


@pytest.fixture
def object_storage() -> str:
    """Return the URL of a bucket in memory, which Airflow takes for any other object storage."""
    import fsspec

    try:
        from airflow.sdk.io import attach
    except ImportError:
        from airflow.io.store import attach

    attach("memory", fs=fsspec.filesystem("memory"))
    return "memory://bucket"
