# SPDX-License-Identifier: Apache-2.0
"""
Which Vectorize the suite runs against, what it creates there, and what is shown at the end.

Nothing here imports Airflow: with ``--confcutdir tests/conformance`` the suite runs without it.
"""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests

# So that a helper's assertion says what it compared.
pytest.register_assert_rewrite("conformance.scenario", "conformance.service")

from conformance import record, service, sources  # noqa: E402
from conformance.account import Account, Bearer  # noqa: E402
from conformance.record import Report  # noqa: E402
from conformance.scenario import Lab, Scenario  # noqa: E402
from conformance.service import Pace, Service  # noqa: E402

REPORT = pytest.StashKey[Report]()
CLOUDFLARE = "https://api.cloudflare.com/client/v4"
LOCAL_READ_ONLY_TOKEN = "reads-and-does-not-write"
LOOPBACK = ("127.0.0.1", "::1", "localhost")

#: Also the probes that take minutes, or a hundred megabytes.
SLOW_VARIABLE = "CONFORMANCE_SLOW"
#: Where to write what the probes were answered.
JSON_VARIABLE = "CONFORMANCE_PROBES_JSON"
ACCOUNT_VARIABLE = "CLOUDFLARE_ACCOUNT_ID"
TOKEN_VARIABLE = "CLOUDFLARE_API_TOKEN"
READ_ONLY_VARIABLE = "CLOUDFLARE_READ_ONLY_API_TOKEN"


def real_account(config: pytest.Config) -> Account | None:
    """Return the real account to run against, if there is one."""
    # The workers of a parallel run know nothing of each other's requests, and each would create indexes.
    if not _is_set(ACCOUNT_VARIABLE) or not _is_set(TOKEN_VARIABLE) or hasattr(config, "workerinput"):
        return None
    base_url = (os.environ.get("CLOUDFLARE_API_BASE_URL") or CLOUDFLARE).rstrip("/")
    parts = urlsplit(base_url)
    if parts.scheme != "https" and parts.hostname not in LOOPBACK:
        raise pytest.UsageError(f"CLOUDFLARE_API_BASE_URL would send the token in clear text to {base_url}")
    # What is wrong with these is told without them.
    if not re.fullmatch("[0-9a-fA-F]{32}", os.environ[ACCOUNT_VARIABLE]):
        raise pytest.UsageError(f"{ACCOUNT_VARIABLE} is no account id: expected 32 hexadecimal digits")
    read_only = _bearer(READ_ONLY_VARIABLE) if _is_set(READ_ONLY_VARIABLE) else None
    return Account(base_url, os.environ[ACCOUNT_VARIABLE], _bearer(TOKEN_VARIABLE), read_only)


def _is_set(variable: str) -> bool:
    return bool(os.environ.get(variable))


def _bearer(variable: str) -> Bearer:
    # Visible ASCII, as the service's tokens are.
    if not re.fullmatch("[!-~]+", os.environ[variable]):
        raise pytest.UsageError(
            f"{variable} has a space, a line break or another character that cannot stand in a header: copy "
            "it again"
        )
    return Bearer(os.environ[variable])


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    real = real_account(config)
    if real is None or real.read_only is not None:
        return
    deselected = [item for item in items if item.get_closest_marker("read_only_token")]
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if item not in deselected]


# --- the service ----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Report:
    real = real_account(pytestconfig)
    target = "vectorize-local" if real is None else real.base_url
    pytestconfig.stash[REPORT] = Report(target, real is not None, time.monotonic())
    return pytestconfig.stash[REPORT]


@pytest.fixture(scope="session")
def vectorize(pytestconfig: pytest.Config, report: Report) -> Iterator[Service]:
    """Return the service: a local one of its own, or the account that the environment names."""
    real = real_account(pytestconfig)
    connected, stop = _connect(real) if real else _start_local()
    try:
        answer = connected.send("GET")
        if not answer.ok:
            pytest.fail(f"the account cannot be used, nothing was created: {service.shown(answer)}", False)
        yield connected
    finally:
        report.requests, report.applied_after = connected.sent, connected.applied_after
        report.seconds = time.monotonic() - report.started
        for response in connected.throttled:
            asked = connected.asked(response)
            report.answers.append(record.of_response("Throttles that came unasked", asked, response))
        connected.session.close()
        stop()


def _connect(account: Account) -> tuple[Service, Callable[[], None]]:
    near = urlsplit(account.base_url).hostname in LOOPBACK
    # Its lines have the account's id, and pytest shows what was logged when a case fails.
    logging.getLogger("urllib3.connectionpool").disabled = True
    pace = Pace(int(service.ACCOUNT_REQUESTS * service.SHARE))
    patience = service.NEAR if near else service.REAL
    return Service(account, pace, patience, trust_env=not near), lambda: None


def _start_local() -> tuple[Service, Callable[[], None]]:
    from airflow_provider_cfvectorize.local import LocalVectorize

    server = LocalVectorize(
        apply_delay=service.LOCAL_APPLY_DELAY, read_only_token=LOCAL_READ_ONLY_TOKEN
    ).start()
    account = Account(
        server.base_url, server.account_id, Bearer(server.api_token), Bearer(LOCAL_READ_ONLY_TOKEN)
    )
    return Service(account, Pace(None), service.NEAR, trust_env=False), server.stop


# --- what is in it --------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def lab(vectorize: Service, report: Report) -> Iterator[Lab]:
    """Return the place where indexes are made; all of them are removed at the end, whatever happened."""
    made = Lab(vectorize)
    try:
        yield made
    finally:
        report.left, report.created = made.remove_all(), made.created
    assert not report.left, "indexes could not be removed"


@pytest.fixture(scope="session")
def scenario(lab: Lab) -> Scenario:
    """Return the one index with vectors that all cases read, after everything that happened to it."""
    return Scenario.run(lab)


@pytest.fixture(scope="session")
def docs_index(scenario: Scenario) -> str:
    """Return the name of that index."""
    return scenario.name


@pytest.fixture(scope="session")
def scratch(lab: Lab) -> str:
    """Return an index for writes that are to be refused and the probes': nobody relies on its content."""
    return lab.index("scratch", metric="dot-product")


@pytest.fixture(scope="session")
def gone(lab: Lab) -> str:
    """Return the name of an index that was deleted."""
    name = lab.index("gone")
    lab.remove(name)
    return name


@pytest.fixture(scope="session")
def never(lab: Lab) -> str:
    """Return a name that no index ever had."""
    return lab.name("never")


# --- the probes -----------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def slow() -> bool:
    """Return whether to run what takes minutes."""
    return bool(os.environ.get(SLOW_VARIABLE))


@pytest.fixture(scope="session")
def switch() -> Callable[[str], Any]:
    """Return a switch's default, as the documentation of vectorize-local has it."""
    return sources.documented_switches().__getitem__


@pytest.fixture
def probe(request: pytest.FixtureRequest, report: Report) -> Callable[..., None]:
    """
    Return what keeps an answer: ``probe(asked, response or value, expected)``.

    Of a real account it keeps the answer and no more. Of vectorize-local it also checks that the answer is
    the expected one: a status, or a status and a code, or the value, or a function that says whether it is.
    """
    question = request.node.get_closest_marker("unknown").args[0]

    def keep(asked: str, found: Any, expected: Any, *, value: Any = None) -> None:
        if isinstance(found, requests.Response):
            answer = record.of_response(question, asked, found, value)
            seen: Any = (answer.status, answer.code) if isinstance(expected, tuple) else answer.status
        else:
            answer = record.of_value(question, asked, found)
            seen = found
        report.answers.append(answer)
        if report.real:
            return
        if callable(expected):
            assert expected(seen), f"{asked}: {answer.answered}"
        else:
            assert seen == expected, f"{asked}: {answer.answered}"

    return keep


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    report = config.stash.get(REPORT, None)
    if report is None:
        return
    terminalreporter.section("conformance: what the service answered")
    for line in report.table():
        terminalreporter.write_line(line)
    path = os.environ.get(JSON_VARIABLE)
    if path:
        report.write(Path(path))
        terminalreporter.write_line(f"\nwritten to {path}")
