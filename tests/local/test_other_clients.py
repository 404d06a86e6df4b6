# SPDX-License-Identifier: Apache-2.0
"""Unchanged foreign clients use the local server; scripts/other_clients.py installs them."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from other_clients import DIRECTORY

from airflow_provider_cfvectorize.local import LocalVectorize
from harness import wait_until
from local.local_client import vector

# One version of Airflow is enough: the clients do not use Airflow.
pytestmark = [pytest.mark.long, pytest.mark.airflow(since="3.3")]

BINARIES = DIRECTORY / "bin"
ROUNDS = Path(__file__).parent / "other_clients"


@pytest.fixture
def server() -> Iterator[LocalVectorize]:
    assert BINARIES.exists(), "run `make test-all`, which installs the clients, or scripts/other_clients.py"
    with LocalVectorize(apply_delay=0.05) as server:
        yield server


def run(server: LocalVectorize, directory: Path, *command: str | Path) -> str:
    """Run a client that finds the server in its environment, and return its output."""
    env = {
        "PATH": f"{BINARIES}{os.pathsep}{os.environ['PATH']}",
        "HOME": str(directory),
        "CLOUDFLARE_ACCOUNT_ID": server.account_id,
        "CLOUDFLARE_API_TOKEN": server.api_token,
        # For the SDKs and LangChain's scripts; then for wrangler.
        "CLOUDFLARE_BASE_URL": server.base_url,
        "CLOUDFLARE_API_BASE_URL": server.base_url,
        "WRANGLER_SEND_METRICS": "false",
        "NO_COLOR": "1",
    }
    done = subprocess.run(
        list(map(str, command)), cwd=directory, env=env, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_langchain_and_langmem(server: LocalVectorize, tmp_path: Path) -> None:
    run(server, tmp_path, BINARIES / "python", ROUNDS / "langchain_round.py")


def test_the_sdk_for_typescript(server: LocalVectorize, tmp_path: Path) -> None:
    script = tmp_path / "round.mjs"
    script.write_text((ROUNDS / "sdk_round.mjs").read_text())
    # Node.js finds packages next to the script.
    (tmp_path / "node_modules").symlink_to(DIRECTORY / "node_modules")
    run(server, tmp_path, BINARIES / "node", script)


def test_wrangler(server: LocalVectorize, tmp_path: Path) -> None:
    def wrangler(*words: str) -> str:
        program = DIRECTORY / "node_modules" / "wrangler" / "bin" / "wrangler.js"
        return run(server, tmp_path, BINARIES / "node", program, "vectorize", *words)

    def count() -> int:
        return int(json.loads(wrangler("info", "docs", "--json"))["vectorCount"])

    wrangler("create", "docs", "--dimensions=32", "--metric=cosine")
    wrangler("create-metadata-index", "docs", "--propertyName=lang", "--type=string")
    lines = [json.dumps(vector(f"v{i}", metadata={"lang": "en"})) for i in range(3)]
    (tmp_path / "v.ndjson").write_text("\n".join(lines))
    assert "Successfully enqueued 3 vectors" in wrangler("upsert", "docs", "--file=v.ndjson")
    wait_until(lambda: count() == 3)
    assert "Showing 3 of 3 total vectors" in wrangler("list-vectors", "docs")
    assert '"id": "v0"' in wrangler("query", "docs", "--vector-id=v0", '--filter={"lang": "en"}')
    assert '"id": "v1"' in wrangler("get-vectors", "docs", "--ids", "v1")
    assert "Successfully enqueued 2 vectors" in wrangler("delete-vectors", "docs", "--ids", "v0", "v1")
    wait_until(lambda: count() == 1)
    assert "Deleted index docs" in wrangler("delete", "docs", "-y")
