# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import fsspec
import pytest

from client.servers import ACCOUNT, TOKEN, Reply, Request, ScriptedServer


@pytest.fixture
def script(
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[Callable[[Request], Reply] | list[Reply | str]], ScriptedServer]]:
    """Start a server that answers as told, as the default connection."""
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


@pytest.fixture
def memory_store() -> Iterator[None]:
    """Let Airflow keep what is at ``memory://`` in memory, as a store that is not the local file system."""
    try:
        from airflow.sdk.io.store import attach
    except ImportError:
        from airflow.io.store import attach
    files = fsspec.filesystem("memory")
    attach("memory", fs=files)
    yield
    files.rm("/", recursive=True)
