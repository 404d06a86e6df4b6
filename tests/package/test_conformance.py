# SPDX-License-Identifier: Apache-2.0
"""
The conformance suite itself: that every case has a source, and that a real account is in good hands.

In place of the account there is a second local server, of which the suite knows an address, an account and a
token, as it would of the real one.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.local import Behaviour, LocalVectorize
from client.servers import ScriptedServer, ok, refused
from conformance import conftest as suite
from conformance.routes import ROUTES
from conformance.scenario import Lab
from conformance.service import NEAR, Bearer, Header, Pace, Service
from conformance.sources import LOCAL_SERVER, MARKS, ROOT, documented_switches
from readme.markdown import read

SUITE = ROOT / "tests" / "conformance"
ACCOUNT = "ab" * 16
TOKEN = "a-token-that-nobody-may-see-0123456789"
#: Switches that no probe asks for, since it would take thousands of requests.
NOT_ASKED = {"deleted_ids_fill_jobs"}


def cases() -> Iterator[Any]:
    for path in sorted(SUITE.glob("test_*.py")):
        module = importlib.import_module(f"conformance.{path.stem}")
        for name, value in vars(module).items():
            if name.startswith("test_") and value.__module__ == module.__name__:
                yield pytest.param(value, id=f"{path.stem}::{name}")


def marks(case: Any, name: str) -> list[tuple[Any, ...]]:
    return [mark.args for mark in getattr(case, "pytestmark", []) if mark.name == name]


# --- what each case says ------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", list(cases()))
def test_each_case_has_a_source_and_each_probe_a_question(case: Any) -> None:
    sources, questions = marks(case, "source"), marks(case, "unknown")
    if not case.__module__.startswith("conformance.test_probes"):
        assert sources
        assert not questions
        assert all(mark in MARKS and len(text) > 10 for mark, text in sources)
        return
    assert not sources
    ((question, switches, states),) = questions
    assert question
    assert set(switches) <= documented_switches().keys()
    assert states in " ".join(LOCAL_SERVER.read_text().split())
    assert switches or states


def test_each_switch_is_asked_for() -> None:
    asked = {name for case in cases() for _, names, _ in marks(case.values[0], "unknown") for name in names}
    assert asked == {field.name for field in fields(Behaviour)} - NOT_ASKED


def test_there_are_all_endpoints() -> None:
    assert len({route.name for route in ROUTES}) == 14


def test_the_variables_are_documented() -> None:
    rows = read("docs/conformance.md").rows("against-a-real-account")
    own = {suite.READ_ONLY_VARIABLE, suite.JSON_VARIABLE, suite.SLOW_VARIABLE}
    assert {row[0].strip("`") for row in rows} == {*account_variables(""), *own}


# --- where it goes ------------------------------------------------------------------------------------------


@pytest.fixture
def config(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a configuration that is no parallel run's, with an environment that names an account."""
    for name, value in account_variables("https://api.example.com/v4/").items():
        monkeypatch.setenv(name, value)

    class Config:
        option = pytestconfig.option

    return Config()


def account_variables(base_url: str) -> dict[str, str]:
    return {
        "CLOUDFLARE_ACCOUNT_ID": ACCOUNT,
        "CLOUDFLARE_API_TOKEN": TOKEN,
        "CLOUDFLARE_API_BASE_URL": base_url,
    }


def test_both_variables_make_it_a_real_account(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert suite.real_account(config) == ("https://api.example.com/v4", ACCOUNT, TOKEN)
    monkeypatch.delenv("CLOUDFLARE_API_BASE_URL")
    assert suite.real_account(config) == ("https://api.cloudflare.com/client/v4", ACCOUNT, TOKEN)
    for name in ("CLOUDFLARE_ACCOUNT_ID", "CLOUDFLARE_API_TOKEN"):
        with monkeypatch.context() as patch:
            patch.delenv(name)
            assert suite.real_account(config) is None


def test_a_parallel_run_stays_with_the_local_server(config: Any) -> None:
    config.workerinput = {}
    assert suite.real_account(config) is None


def test_the_token_is_not_sent_in_clear_text(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDFLARE_API_BASE_URL", "http://api.example.com/v4")
    with pytest.raises(pytest.UsageError) as caught:
        suite.real_account(config)
    assert TOKEN not in str(caught.value)


# --- how it asks --------------------------------------------------------------------------------------------


class Clock:
    """A clock that moves when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def make_service(base_url: str, pace: Pace) -> Service:
    return Service(base_url, ACCOUNT, Bearer(TOKEN), pace, NEAR, trust_env=False)


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_no_window_has_more_requests_than_the_limit(clock: Clock) -> None:
    pace = Pace(5, 60, clock, clock.sleep)
    starts = []
    for number in range(23):
        pace.wait()
        starts.append(clock.now)
        clock.now += number % 3
    assert all(later - earlier >= 60 for earlier, later in zip(starts, starts[5:], strict=False))


@pytest.mark.parametrize(
    ("throttle", "seconds"),
    [
        (refused(429, 10100, Retry_After="17"), 17),
        (refused(429, 10100), 300),
        (refused(400, 40041, "Too Many Requests"), 15),
    ],
    ids=["Retry-After", "no Retry-After", "40041"],
)
def test_throttles_are_waited_for(clock: Clock, throttle: Any, seconds: float) -> None:
    server = ScriptedServer([throttle, ok([])])
    try:
        service = make_service(server.base_url, Pace(None, 60, clock, clock.sleep))
        assert service.send("GET").status_code == 200
    finally:
        server.close()
    assert clock.slept == [seconds]
    assert [response.status_code for response in service.throttled] == [throttle.status]


def test_a_creation_is_not_sent_twice(clock: Clock) -> None:
    server = ScriptedServer([refused(504, 1000), ok({}), refused(504, 1000), ok([])])
    try:
        lab = Lab(make_service(server.base_url, Pace(None, 60, clock, clock.sleep)))
        assert lab.create({"name": lab.name("x")}).status_code == 504
        # Nobody knows whether there is one now, so it is deleted.
        assert lab.remove_all() == []
        assert lab.service.send("GET").ok
    finally:
        server.close()
    assert [request.method for request in server.requests] == ["POST", "DELETE", "GET", "GET"]


def test_the_token_is_in_no_repr() -> None:
    service = make_service("https://api.example.com", Pace(None))
    assert TOKEN not in repr(service) + repr(vars(service)) + repr(Bearer(TOKEN)) + repr(Header(TOKEN))


# --- a whole run --------------------------------------------------------------------------------------------


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Any]:
    """Return what runs the suite against a server as if it were a real account, without Airflow."""
    (tmp_path / "airflow.py").write_text("raise ImportError('the suite needs no Airflow')\n")
    servers = []

    def run(*options: str, server: LocalVectorize, **env: str) -> tuple[int, str]:
        servers.append(server.start())
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDFLARE_")}
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "tests/conformance", "--confcutdir", "tests/conformance"),
                *("-q", "-p", "no:cacheprovider", *options),
            ],
            cwd=ROOT,
            env={
                **kept,
                **account_variables(server.base_url),
                "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
                **env,
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        printed = done.stdout + done.stderr
        assert TOKEN not in printed
        return done.returncode, printed

    yield run
    for server in servers:
        server.stop()


def make_server(**options: Any) -> LocalVectorize:
    return LocalVectorize(**{"account_id": ACCOUNT, "api_token": TOKEN, "apply_delay": 0.1, **options})


def indexes(server: LocalVectorize) -> list[Any]:
    listed: list[Any] = (
        make_service(server.base_url, Pace(None)).send("GET", auth=Bearer(TOKEN)).json()["result"]
    )
    return listed


def test_a_real_account(account: Any, tmp_path: Path) -> None:
    # Answers that the suite would not take from its own server: of a real account it keeps them.
    unlike = Behaviour(empty_ids="accept", invalid_config_code=3999, dot_product_score="negative")
    server = make_server(behaviour=unlike)
    path = tmp_path / "probes.json"

    code, printed = account(server=server, CONFORMANCE_PROBES_JSON=str(path))

    assert code == 0, printed
    assert f"requests to {server.base_url} in" in printed
    assert indexes(server) == []
    # There is no token that may only read.
    assert " deselected" in printed
    assert "skipped" not in printed
    assert all(count for name, count in server.stats().items() if name != "verify_token")

    kept = json.loads(path.read_text())
    assert kept["real_account"] is True
    document = " ".join(read("docs/conformance.md").text.split())
    assert f"it waits {len(kept['applied_after'])} times" in document
    assert f"indexes, {len(kept['created'])} in the course" in document
    assert ACCOUNT not in path.read_text()
    codes = {answer["asked"]: answer["code"] for answer in kept["answers"]}
    assert codes["dimensions 31"] == 3999
    assert codes['delete_by_ids {"ids": []}'] is None
    for line in (
        "dimensions 31 +400 3999 vectorize.index.invalid_config",
        r'delete_by_ids {"ids": \[\]} +200 {"mutationId"',
        r'products 6, 2 and -4, in order +\[\["dot\+3", -6.0\]',
        "upsert of 101 MB +not asked",
        "HTTP 429 +not provoked",
    ):
        assert re.search(line, printed), line


def test_what_takes_long_is_asked_for_by_name(account: Any) -> None:
    server = make_server(behaviour=Behaviour(cursor_lifetime=1))
    code, printed = account("-k", "expired_cursor or too_many_bytes", server=server, CONFORMANCE_SLOW="1")
    assert code == 0, printed
    assert "400 40000 invalid or expired cursor" in printed
    assert "413 40000 request body too large" in printed


def test_indexes_are_removed_when_cases_fail(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_DELETE_IDS", 50)
    server = make_server()
    code, printed = account("-k", "test_ids", server=server)
    assert code == 1
    assert "test_a_delete_of_100_ids" in printed
    assert server.stats()["create_index"] == server.stats()["delete_index"] > 0
    assert indexes(server) == []


def test_an_account_that_cannot_be_used(account: Any) -> None:
    server = make_server(api_token="another-token")
    code, printed = account("-x", server=server)
    assert code == 1
    assert "the account cannot be used, nothing was created: 401" in printed
    assert server.stats()["create_index"] == 0
