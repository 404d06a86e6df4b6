# SPDX-License-Identifier: Apache-2.0
"""
Fixtures of the conformance suite: the service under test, the indexes in it, and the report at the end.

The suite does not import Airflow. With ``--confcutdir tests/conformance`` it runs without Airflow.
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

# Show the compared values when an assertion in a helper fails.
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

#: Set it to run the probes that take minutes or 100 MB.
SLOW_VARIABLE = "CONFORMANCE_SLOW"
#: The file for the responses to the probes.
JSON_VARIABLE = "CONFORMANCE_PROBES_JSON"
ACCOUNT_VARIABLE = "CLOUDFLARE_ACCOUNT_ID"
TOKEN_VARIABLE = "CLOUDFLARE_API_TOKEN"
READ_ONLY_VARIABLE = "CLOUDFLARE_READ_ONLY_API_TOKEN"


def real_account(config: pytest.Config) -> Account | None:
    """Return the real account to run against; None if the environment names none."""
    # Workers of a parallel run do not know of each other's requests, and each would create indexes.
    if not _is_set(ACCOUNT_VARIABLE) or not _is_set(TOKEN_VARIABLE) or hasattr(config, "workerinput"):
        return None
    base_url = (os.environ.get("CLOUDFLARE_API_BASE_URL") or CLOUDFLARE).rstrip("/")
    parts = urlsplit(base_url)
    if parts.scheme != "https" and parts.hostname not in LOOPBACK:
        raise pytest.UsageError(f"CLOUDFLARE_API_BASE_URL would send the token in clear text to {base_url}")
    # The errors do not repeat the values.
    if not re.fullmatch("[0-9a-fA-F]{32}", os.environ[ACCOUNT_VARIABLE]):
        raise pytest.UsageError(f"{ACCOUNT_VARIABLE} is not an account id: expected 32 hexadecimal digits")
    read_only = _bearer(READ_ONLY_VARIABLE) if _is_set(READ_ONLY_VARIABLE) else None
    return Account(base_url, os.environ[ACCOUNT_VARIABLE], _bearer(TOKEN_VARIABLE), read_only)


def _is_set(variable: str) -> bool:
    return bool(os.environ.get(variable))


def _bearer(variable: str) -> Bearer:
    # Visible ASCII, like the service's tokens.
    if not re.fullmatch("[!-~]+", os.environ[variable]):
        raise pytest.UsageError(
            f"{variable} has a space, a line break or another character that a header cannot contain: copy "
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


# --- the service --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def report(pytestconfig: pytest.Config) -> Report:
    real = real_account(pytestconfig)
    target = "vectorize-local" if real is None else real.base_url
    pytestconfig.stash[REPORT] = Report(target, real is not None, time.monotonic())
    return pytestconfig.stash[REPORT]


@pytest.fixture(scope="session")
def vectorize(pytestconfig: pytest.Config, report: Report) -> Iterator[Service]:
    """Return the service under test: the account in the environment, or else a new local server."""
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
            report.answers.append(record.of_response("Throttled requests", asked, response))
        connected.session.close()
        stop()


def _connect(account: Account) -> tuple[Service, Callable[[], None]]:
    near = urlsplit(account.base_url).hostname in LOOPBACK
    # Its log lines contain the account's id, and pytest shows them when a case fails.
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


# --- the indexes --------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def lab(vectorize: Service, report: Report) -> Iterator[Lab]:
    """Return the lab, which creates indexes and removes all of them at the end, also after a failure."""
    made = Lab(vectorize)
    try:
        yield made
    finally:
        report.left, report.created = made.remove_all(), made.created
    assert not report.left, "indexes could not be removed"


@pytest.fixture(scope="session")
def scenario(lab: Lab) -> Scenario:
    """Return the scenario: the index with vectors that all cases read, after all writes to it."""
    return Scenario.run(lab)


@pytest.fixture(scope="session")
def docs_index(scenario: Scenario) -> str:
    """Return the name of the scenario's index."""
    return scenario.name


@pytest.fixture(scope="session")
def scratch(lab: Lab) -> str:
    """Return an index for refused writes and for probes. No case relies on its content."""
    return lab.index("scratch", metric="dot-product")


@pytest.fixture(scope="session")
def gone(lab: Lab) -> str:
    """Return the name of a deleted index."""
    name = lab.index("gone")
    lab.remove(name)
    return name


@pytest.fixture(scope="session")
def never(lab: Lab) -> str:
    """Return a name that no index ever had."""
    return lab.name("never")


# --- the probes ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def slow() -> bool:
    """Return whether to run slow probes."""
    return bool(os.environ.get(SLOW_VARIABLE))


@pytest.fixture(scope="session")
def switch() -> Callable[[str], Any]:
    """Return a function that returns a switch's default from the documentation of vectorize-local."""
    return sources.documented_switches().__getitem__


@pytest.fixture
def probe(request: pytest.FixtureRequest, report: Report) -> Callable[..., None]:
    """
    Return a function that records an answer: ``probe(asked, response or value, expected)``.

    For a real account it only records the answer. For vectorize-local it also compares the answer with the
    expected one: a status, a status and a code, a value, or a function that returns whether the answer is as
    expected.
    """
    question = request.node.get_closest_marker("unknown").args[0]

    def record_answer(asked: str, found: Any, expected: Any, *, value: Any = None) -> None:
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

    return record_answer


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
