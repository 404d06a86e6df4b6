# SPDX-License-Identifier: Apache-2.0
"""docs/connection.md shows every result of the connection test and no others."""

from __future__ import annotations

import json
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from airflow_provider_cfvectorize.exceptions import VectorizeBatchAuthError
from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook
from airflow_provider_cfvectorize.local import LocalVectorize
from client.servers import Reply, ScriptedServer, ok, refused
from harness import Vectorize
from readme.markdown import read
from readme.messages import messages, rows_for

CONN = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"
SHOWN = messages(read("docs/connection.md"))
TOKEN = "another-token-0123456789abcdef0123456789"


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch) -> Iterator[ExitStack]:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def says(server: LocalVectorize, monkeypatch: pytest.MonkeyPatch) -> Callable[..., tuple[bool, str]]:
    def says(**change: Any) -> tuple[bool, str]:
        monkeypatch.setenv(CONN, json.dumps({**json.loads(server.connection), **change}))
        return CloudflareVectorizeHook().test_connection()

    return says


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def host_that(stack: ExitStack, *answers: Reply | str) -> str:
    server = ScriptedServer(list(answers))
    stack.callback(server.close)
    return server.base_url


def with_tls(stack: ExitStack) -> str:
    """Start a TLS server without a certificate and return its URL."""
    server = ScriptedServer([ok([])])
    stack.callback(server.close)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.server.socket = context.wrap_socket(
        server.server.socket, server_side=True, do_handshake_on_connect=False
    )
    return server.base_url.replace("http:", "https:")


def silent(stack: ExitStack) -> str:
    listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    return f"http://127.0.0.1:{listener.getsockname()[1]}"


Change = Callable[[ExitStack, pytest.MonkeyPatch], dict[str, Any]]


def plain(**change: Any) -> Change:
    return lambda stack, monkeypatch: change


def through_a_closed_proxy(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{closed_port()}")
    return {"host": "https://vectorize.invalid/client/v4"}


def throttled(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    return {"host": host_that(stack, refused(429, 971))}


#: By the beginning of the result: the changes of a working connection that cause it.
CASES: dict[str, Change] = {
    "Account ... has": plain(),
    "No permission": lambda stack, _: {
        "host": host_that(stack, refused(403, 10000), ok({"status": "active"}))
    },
    "The API token is": lambda stack, _: {
        "host": host_that(stack, refused(403, 10000), ok({"status": "disabled"}))
    },
    "GET ...: HTTP ..., code ...": plain(password=TOKEN),
    "Wrong account": plain(login="f" * 32),
    "Unreachable: ...: no response": lambda *_: {"host": f"http://127.0.0.1:{closed_port()}"},
    "Unreachable: ...: no complete": lambda stack, _: {"host": silent(stack), "extra": {"timeout": 0.1}},
    "Unreachable: ...: no trusted TLS": lambda stack, _: {"host": with_tls(stack)},
    "Unreachable: ...: the proxy": through_a_closed_proxy,
    "GET ...: HTTP ... with a body": lambda stack, _: {"host": host_that(stack, Reply(200, b"<html>"))},
    "GET ...: ... the account's request budget": throttled,
    "connection ... is of type": plain(conn_type="http"),
    "connection ... has no password": plain(password=""),
    "connection ... has no login": plain(login=""),
    "connection ... has a ": plain(port=8787),
    "connection ...: the extra is not": plain(extra=[1]),
    "connection ...: the extra": plain(extra={"timeout": "soon"}),
    "connection ...: account id": plain(login="my-account"),
    "connection ...: the connection's host ... would send": plain(host="http://vectorize:8787/client/v4"),
    "connection ...: the connection's host ...; expected": plain(host="https://api.cloudflare.com/../v4"),
    "connection ...: the connection's host (not shown": plain(
        host="https://me:secret@api.cloudflare.com/client/v4"
    ),
    "connection ...: the API token has a space": plain(password="half a token"),
}


#: Airflow 3.0 and 3.1 treat such a connection as missing.
NOT_BEFORE_3_2 = {"connection ...: the extra is not"}


@pytest.mark.parametrize(
    "beginning",
    [
        pytest.param(case, marks=pytest.mark.airflow(but_not=("3.0", "3.1")))
        if case in NOT_BEFORE_3_2
        else case
        for case in CASES
    ],
)
def test_results_of_the_connection_test(
    says: Callable[..., tuple[bool, str]], stack: ExitStack, monkeypatch: pytest.MonkeyPatch, beginning: str
) -> None:
    works, said = says(**CASES[beginning](stack, monkeypatch))
    assert works is beginning.startswith("Account")
    found = rows_for(said, SHOWN)
    assert found, f"no row for: {said}"
    assert any(row.startswith(beginning) for row in found), (said, found)


def test_every_row_has_a_case() -> None:
    assert len(SHOWN) == len(CASES)
    for shown in SHOWN:
        assert any(shown.startswith(beginning) for beginning in CASES), shown


@pytest.mark.usefixtures("impatient_refusals")
def test_a_read_only_token(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalVectorize(read_only_token=TOKEN) as server:
        vectorize = Vectorize(server)
        vectorize.fill(["a"])
        monkeypatch.setenv(CONN, json.dumps({**json.loads(server.connection), "password": TOKEN}))
        hook = CloudflareVectorizeHook()
        assert hook.test_connection()[0]
        assert hook.info("docs")["vectorCount"] == 1
        assert [vector["id"] for vector in hook.get_by_ids("docs", ["a"])] == ["a"]
        assert hook.list_vectors("docs")["vectors"] == [{"id": "a"}]
        assert hook.query("docs", vector=[0.5] * 32)["count"] == 1
        with pytest.raises(VectorizeBatchAuthError):
            hook.delete_by_ids("docs", ["a"])


def test_a_running_task_keeps_its_token(server: LocalVectorize, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(CONN, server.connection)
    running = CloudflareVectorizeHook()
    assert running.list_indexes() == []
    monkeypatch.setenv(CONN, json.dumps({**json.loads(server.connection), "password": TOKEN}))
    assert running.list_indexes() == []
    assert not CloudflareVectorizeHook().test_connection()[0]
