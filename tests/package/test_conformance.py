# SPDX-License-Identifier: Apache-2.0
"""
The conformance suite itself: every case has a source, and a real account is handled with care.

A second local server replaces the real account; the suite knows only its address, account and token.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import pytest

from airflow_provider_cfvectorize.local import Behaviour
from client.servers import ScriptedServer, ok, refused
from conformance import conftest as suite
from conformance import record
from conformance.account import Account, Bearer, Header
from conformance.routes import ROUTES
from conformance.scenario import Lab
from conformance.service import Pace, refusal, shown
from conformance.sources import LOCAL_SERVER, MARKS, ROOT, documented_switches
from package.accounts import ACCOUNT, TOKEN, account_variables, make_service
from readme.markdown import read

pytestmark = pytest.mark.long

SUITE = ROOT / "tests" / "conformance"
#: Switches without a probe: a probe would need thousands of requests.
NOT_ASKED = {"deleted_ids_fill_jobs"}


def cases() -> Iterator[Any]:
    for path in sorted(SUITE.glob("test_*.py")):
        module = importlib.import_module(f"conformance.{path.stem}")
        for name, value in vars(module).items():
            if name.startswith("test_") and value.__module__ == module.__name__:
                yield pytest.param(value, id=f"{path.stem}::{name}")


def marks(case: Any, name: str) -> list[tuple[Any, ...]]:
    return [mark.args for mark in getattr(case, "pytestmark", []) if mark.name == name]


# --- cases --------------------------------------------------------------------------------------------------


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


def test_each_switch_has_a_probe() -> None:
    asked = {name for case in cases() for _, names, _ in marks(case.values[0], "unknown") for name in names}
    assert asked == {field.name for field in fields(Behaviour)} - NOT_ASKED


def test_all_endpoints_are_covered() -> None:
    assert len({route.name for route in ROUTES}) == 14


def test_the_variables_are_documented() -> None:
    rows = read("docs/conformance.md").rows("against-a-real-account")
    own = {suite.READ_ONLY_VARIABLE, suite.JSON_VARIABLE, suite.SLOW_VARIABLE}
    assert {row[0].strip("`") for row in rows} == {*account_variables(""), *own}


# --- accounts -----------------------------------------------------------------------------------------------


@pytest.fixture
def config(pytestconfig: pytest.Config, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the configuration of a serial run and name an account in the environment."""
    for name, value in account_variables("https://api.example.com/v4/").items():
        monkeypatch.setenv(name, value)

    class Config:
        option = pytestconfig.option

    return Config()


def test_two_variables_select_a_real_account(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    found = suite.real_account(config)
    assert found == Account("https://api.example.com/v4", ACCOUNT, Bearer(TOKEN))
    assert ACCOUNT not in repr(found)
    assert TOKEN not in repr(found)
    monkeypatch.setenv(suite.READ_ONLY_VARIABLE, "reads")
    monkeypatch.delenv("CLOUDFLARE_API_BASE_URL")
    cloudflare = "https://api.cloudflare.com/client/v4"
    assert suite.real_account(config) == Account(cloudflare, ACCOUNT, Bearer(TOKEN), Bearer("reads"))
    for name in ("CLOUDFLARE_ACCOUNT_ID", "CLOUDFLARE_API_TOKEN"):
        with monkeypatch.context() as patch:
            patch.delenv(name)
            assert suite.real_account(config) is None


def test_a_parallel_run_uses_the_local_server(config: Any) -> None:
    config.workerinput = {}
    assert suite.real_account(config) is None


def test_the_token_is_not_sent_in_clear_text(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLOUDFLARE_API_BASE_URL", "http://api.example.com/v4")
    with pytest.raises(pytest.UsageError) as caught:
        suite.real_account(config)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("CLOUDFLARE_API_TOKEN", f"{TOKEN}\n", "a header cannot contain"),
        ("CLOUDFLARE_API_TOKEN", f"two {TOKEN}", "a header cannot contain"),
        ("CLOUDFLARE_API_TOKEN", f"{TOKEN}\u00e4", "a header cannot contain"),
        (suite.READ_ONLY_VARIABLE, f"{TOKEN}\r", "a header cannot contain"),
        ("CLOUDFLARE_ACCOUNT_ID", f"{ACCOUNT}\n", "expected 32 hexadecimal digits"),
        ("CLOUDFLARE_ACCOUNT_ID", f"../{ACCOUNT}", "expected 32 hexadecimal digits"),
    ],
)
def test_invalid_tokens_and_accounts_are_refused(
    config: Any, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, text: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(pytest.UsageError, match=f"{variable}.*{text}") as caught:
        suite.real_account(config)
    assert TOKEN not in str(caught.value)
    assert ACCOUNT not in str(caught.value)


# --- requests -----------------------------------------------------------------------------------------------


class Clock:
    """A clock that only moves during a sleep."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_no_window_exceeds_the_limit(clock: Clock) -> None:
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


def test_a_creation_is_not_retried(clock: Clock) -> None:
    server = ScriptedServer([refused(504, 1000), ok({}), refused(504, 1000), ok([])])
    try:
        lab = Lab(make_service(server.base_url, Pace(None, 60, clock, clock.sleep)))
        assert lab.create({"name": lab.name("x")}).status_code == 504
        # The index may exist, so the lab deletes it.
        assert lab.remove_all() == []
        assert lab.service.send("GET").ok
    finally:
        server.close()
    assert [request.method for request in server.requests] == ["POST", "DELETE", "GET", "GET"]


def test_the_token_is_in_no_repr() -> None:
    service = make_service("https://api.example.com")
    assert TOKEN not in repr(service) + repr(vars(service)) + repr(Bearer(TOKEN)) + repr(Header(TOKEN))
    assert ACCOUNT not in repr(service) + repr(vars(service))


def test_token_and_account_in_an_answer_are_masked(clock: Clock) -> None:
    echo = f"/accounts/{ACCOUNT}/x, Bearer {TOKEN}, Bearer reads-only"
    server = ScriptedServer(
        [
            refused(429, 7003, echo, Retry_After="1"),
            refused(404, 7003, echo, X_Echo=echo, Content_Type="application/json"),
        ]
    )
    try:
        service = make_service(server.base_url, Pace(None, 60, clock, clock.sleep), Bearer("reads-only"))
        response = service.send("GET")
    finally:
        server.close()
    throttled = record.of_response("x", service.asked(service.throttled[0]), service.throttled[0])
    assert throttled.asked == "GET /client/v4/accounts/***/vectorize/v2/indexes"
    seen = [response.url, repr(response.headers), shown(response), refusal(response).message, repr(throttled)]
    for secret in (ACCOUNT, TOKEN, "reads-only"):
        assert not any(secret in text for text in seen)
    assert refusal(response).message == "/accounts/***/x, Bearer ***, Bearer ***"


@pytest.mark.parametrize("error", [KeyboardInterrupt, pytest.fail.Exception])
def test_an_interrupted_request_leaves_no_headers_in_the_traceback(error: type[BaseException]) -> None:
    # Like Ctrl-C and a time limit: pytest would show the frames of the traceback with the headers.
    service = make_service("https://api.example.com")

    class Ends(Bearer):
        def __call__(self, request: Any) -> Any:
            headers = {"Authorization": TOKEN}
            raise error("ended", bool(headers))

    with pytest.raises(error, match="ended") as caught:
        service.send("GET", auth=Ends(TOKEN))
    assert [entry.name for entry in caught.traceback][1:] == ["send", "_send"]
    assert caught.value.__suppress_context__
