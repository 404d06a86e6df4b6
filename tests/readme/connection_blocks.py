# SPDX-License-Identifier: Apache-2.0
"""Rules for the fenced blocks of docs/connection.md and docs/troubleshooting.md."""

from __future__ import annotations

import importlib
import json
import os
from collections.abc import Callable, Mapping

from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook
from dags.running import run_dag
from harness import Vectorize
from readme.bench import Bench
from readme.markdown import Block, read

CONNECTIONS = "/run/secrets/connections.json"


def is_a_file_of_connections(block: Block, bench: Bench) -> None:
    """Read the file with the next block's backend, from another place: only root can write to the page's."""
    (settings,) = (one for one in read(block.path).blocks if one.key == f"{block.path}#secrets-backends/2")
    path = bench.directory / "connections.json"
    path.write_text(block.text)
    assert CONNECTIONS in settings.text
    printed = bench.bash(
        f"{settings.text.replace(CONNECTIONS, str(path))}"
        "printenv AIRFLOW__SECRETS__BACKEND AIRFLOW__SECRETS__BACKEND_KWARGS"
    )
    name, arguments = printed.splitlines()
    module, _, backend = name.rpartition(".")
    made = getattr(importlib.import_module(module), backend)(**json.loads(arguments))
    conn = made.get_connection("cloudflare_vectorize_default")
    bench.monkeypatch.setattr(CloudflareVectorizeHook, "get_connection", lambda *_: conn)
    client = CloudflareVectorizeHook().get_conn()
    assert (client.account_id, client.timeout) == ("0123456789abcdef0123456789abcdef", 20)


def sets_the_backend(block: Block, bench: Bench) -> None:
    (file,) = (one for one in read(block.path).blocks if one.key == f"{block.path}#secrets-backends/1")
    is_a_file_of_connections(file, bench)


def deletes_in_two_accounts(block: Block, bench: Bench) -> None:
    """The local server has only the staging account; the default connection names another account."""
    variable = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"
    vectorize = Vectorize(bench.server)
    vectorize.fill(["chunk-0", "chunk-1", "chunk-2"])
    assert f'"{bench.server.account_id}"' in block.text
    connection = json.loads(os.environ[variable])
    bench.monkeypatch.setenv("AIRFLOW_CONN_VECTORIZE_STAGING", json.dumps(connection))
    bench.monkeypatch.setenv(variable, json.dumps({**connection, "login": "f" * 32}))
    run = run_dag(bench.load(block).dag)
    assert run.state == "success", run.states
    vectorize.settle()
    assert vectorize.ids() == {"chunk-2"}


RULES: Mapping[str, Callable[[Block, Bench], None]] = {
    "docs/connection.md#secrets-backends/1": is_a_file_of_connections,
    "docs/connection.md#secrets-backends/2": sets_the_backend,
    "docs/connection.md#several-accounts/1": deletes_in_two_accounts,
}
