# SPDX-License-Identifier: Apache-2.0
"""A whole Airflow without a connection, a local server with a clock that tests stop, and a browser."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from chromium import find

from airflow_provider_cfvectorize.local import LocalVectorize
from harness import Vectorize
from processes.standalone import ROOT, Standalone
from readme.markdown import read

if TYPE_CHECKING:
    from playwright.sync_api import Browser

    from browser.pages import Ui

TUTORIAL = "docs/getting-started.md"
#: The directory for the screenshots of failed tests.
PICTURES = ROOT / "build" / "pictures"
ARGUMENTS = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    # No page can send a request to another machine.
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]


class Clock:
    """The server's clock. While it is stopped, the server applies nothing."""

    def __init__(self) -> None:
        self._stopped_at: float | None = None

    def __call__(self) -> float:
        stopped_at = self._stopped_at
        return time.time() if stopped_at is None else stopped_at

    def stop(self) -> None:
        self._stopped_at = time.time()

    def resume(self) -> None:
        self._stopped_at = None


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def index(clock: Clock) -> Iterator[Vectorize]:
    with LocalVectorize(apply_delay=0.5, clock=clock) as server:
        yield Vectorize(server)


@pytest.fixture(scope="session")
def airflow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standalone]:
    """Run an Airflow with the tutorial's DAG, paused like every new DAG."""
    home, dags = tmp_path_factory.mktemp("airflow"), tmp_path_factory.mktemp("dags")
    (block,) = [block for block in read(TUTORIAL).blocks if block.key == f"{TUTORIAL}#write-the-dag/1"]
    (dags / "forget.py").write_text(block.text)
    with Standalone(
        home,
        dags / "forget.py",
        None,
        AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION="True",
        AIRFLOW__CORE__TEST_CONNECTION="Enabled",
    ) as instance:
        yield instance


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    executable = find(os.environ)
    assert executable, (
        "no browser: `make test-browser` installs one, and CHROMIUM=/path/to/chromium names one"
    )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def ui(airflow: Standalone, chromium: Browser, request: pytest.FixtureRequest) -> Iterator[Ui]:
    """Open Airflow's UI in a fresh browser profile."""
    from browser.pages import VIEWPORT, Ui

    pictures = request.config.getoption("--pictures")
    context = chromium.new_context(viewport=VIEWPORT, color_scheme="light", timezone_id="UTC", locale="en-GB")
    try:
        # The tests read values that a page copies.
        context.grant_permissions(["clipboard-read", "clipboard-write"], origin=airflow.url)
        yield Ui(context.new_page(), airflow.url, Path(pictures).resolve() if pictures else PICTURES)
    finally:
        context.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: Any, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Save a screenshot when a test fails, and report its path."""
    report = yield
    ui = getattr(item, "funcargs", {}).get("ui")
    if report.when == "call" and report.failed and ui is not None:
        picture = PICTURES / f"failed-{item.name}.png"
        ui.page.screenshot(path=picture)
        report.sections.append(("Browser", f"The page was {ui.page.url}\nIt is shown in {picture}"))
    return report
