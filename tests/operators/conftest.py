# SPDX-License-Identifier: Apache-2.0
"""Shared fixtures of the operators' tests: the log, a client, a relay and a scripted server."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator

import pytest

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.local import LocalVectorize
from client.servers import ACCOUNT, TOKEN, Reply, Request, ScriptedServer
from operators.relay import Logged, Relay


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Logged:
    """Return a function that returns the log. Airflow 3 logs to standard output without a supervisor."""
    caplog.set_level(logging.INFO)
    return lambda: caplog.text + capfd.readouterr().out


@pytest.fixture
def client(server: LocalVectorize) -> VectorizeClient:
    """Return a client that is independent of the operators."""
    return VectorizeClient(
        server.account_id, api_token=server.api_token, base_url=server.base_url, retry=None
    )


@pytest.fixture
def relay(server: LocalVectorize, monkeypatch: pytest.MonkeyPatch) -> Iterator[Relay]:
    """Put a relay between the operators and the server."""
    relay = Relay(server)
    monkeypatch.setenv("AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT", relay.connection)
    yield relay
    relay.close()


@pytest.fixture
def script(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[Callable[[Request], Reply] | list[Reply | str]], ScriptedServer]]:
    """Start a server that returns prepared answers, as the default connection."""
    servers: list[ScriptedServer] = []

    def start(answer: Callable[[Request], Reply] | list[Reply | str]) -> ScriptedServer:
        server = ScriptedServer(answer)
        servers.append(server)
        connection = {
            "conn_type": "cloudflare_vectorize",
            "login": ACCOUNT,
            "password": TOKEN,
            "host": server.base_url,
        }
        monkeypatch.setenv("AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT", json.dumps(connection))
        return server

    yield start
    for server in servers:
        server.close()
