# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airflow_provider_cfvectorize.local import LocalVectorize
from local.local_client import Client, FakeClock, result

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(scope="session")
def clock() -> FakeClock:
    """Return the clock of the shared server; its time continues from test to test."""
    return FakeClock(1_790_000_000.25)


@pytest.fixture(scope="session")
def shared(clock: FakeClock) -> Iterator[LocalVectorize]:
    with LocalVectorize(clock=clock, apply_delay=2) as server:
        yield server


@pytest.fixture
def start() -> Iterator[Callable[..., LocalVectorize]]:
    """Start a server that stops at the end of the test."""
    servers: list[LocalVectorize] = []

    def starter(**options: Any) -> LocalVectorize:
        server = LocalVectorize(**options).start()
        servers.append(server)
        return server

    yield starter
    for server in servers:
        server.stop()


@pytest.fixture
def connect() -> Iterator[Callable[..., Client]]:
    """Connect to a server."""
    clients: list[Client] = []

    def connector(server: LocalVectorize, token: str | None = None) -> Client:
        client = Client(server.base_url, server.account_id, token or server.api_token)
        clients.append(client)
        return client

    yield connector
    for client in clients:
        client.session.close()


@pytest.fixture
def client(shared: LocalVectorize, connect: Callable[..., Client]) -> Iterator[Client]:
    """Connect to the shared server: a still clock, jobs 2 s after a write, and the index ``docs``."""
    connected = connect(shared)
    result(connected.create())
    yield connected
    for index in result(connected.send("GET")):
        connected.send("DELETE", f"/{index['name']}")
