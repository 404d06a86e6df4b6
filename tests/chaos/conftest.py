# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_cfvectorize.client import client as client_module
from airflow_provider_cfvectorize.client.http.pacer import StartGate
from airflow_provider_cfvectorize.local import LocalVectorize
from chaos.chaos import set_upsert_size
from harness import Vectorize

CONN = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"


@pytest.fixture(autouse=True)
def _fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the pace, which protects an address that other clients share."""
    monkeypatch.setattr(client_module, "PROCESS_GATE", StartGate(1000))
    set_upsert_size(monkeypatch)


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Vectorize]]:
    """Start a local server with an index, as the default connection."""
    servers: list[LocalVectorize] = []

    def start(*, timeout: float | None = None, **kwargs: Any) -> Vectorize:
        server = LocalVectorize(**{"apply_delay": 0.1, **kwargs}).start()
        servers.append(server)
        connection = server.connection
        if timeout is not None:
            connection = f'{connection[:-1]}, "extra": {{"timeout": {timeout}}}}}'
        monkeypatch.setenv(CONN, connection)
        return Vectorize(server)

    yield start
    for server in servers:
        server.stop()
