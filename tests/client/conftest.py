# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import settings

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.local import LocalVectorize
from client.servers import Reply, Request, ScriptedServer, make_client

# Examples repeat in each run and have no deadline, for busy machines.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")

_numbers = itertools.count()

PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the proxies and certificates of the machine that runs the tests."""
    for name in (*PROXY_VARIABLES, "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def serve() -> Iterator[Callable[..., ScriptedServer]]:
    """Start a server that returns prepared answers."""
    servers: list[ScriptedServer] = []

    def start(answer: Callable[[Request], Reply] | list[Reply | str]) -> ScriptedServer:
        servers.append(ScriptedServer(answer))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def connect() -> Iterator[Callable[..., VectorizeClient]]:
    """Create a client for a server or a base URL."""
    clients: list[VectorizeClient] = []

    def make(server: ScriptedServer | str, **options: Any) -> VectorizeClient:
        base_url = server if isinstance(server, str) else server.base_url
        clients.append(make_client(base_url, **options))
        return clients[-1]

    yield make
    for client in clients:
        client.close()


@pytest.fixture(scope="session")
def vectorize() -> Iterator[LocalVectorize]:
    with LocalVectorize(apply_delay=0.05) as server:
        yield server


@pytest.fixture
def index(vectorize: LocalVectorize) -> Iterator[tuple[VectorizeClient, str]]:
    """Create an index of 32 dimensions on a server that applies writes after 50 ms."""
    client = VectorizeClient(vectorize.account_id, api_token=vectorize.api_token, base_url=vectorize.base_url)
    name = f"docs-{next(_numbers)}"
    client.create_index(name, dimensions=32, metric="cosine")
    yield client, name
    client.delete_index(name)
    client.close()
