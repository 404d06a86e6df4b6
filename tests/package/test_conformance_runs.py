# SPDX-License-Identifier: Apache-2.0
"""
Whole runs of the conformance suite in separate processes, like runs against a real account.

A second local server replaces the real account; the suite knows only its address, account and token.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.local import Behaviour, LocalVectorize
from conformance.sources import ROOT
from operators.relay import Relay
from package.accounts import ACCOUNT, TOKEN, account_variables, make_service
from readme.markdown import read

pytestmark = pytest.mark.long


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Any]:
    """Return a function that runs the suite, without Airflow, against a server as a real account."""
    (tmp_path / "airflow.py").write_text("raise ImportError('the suite needs no Airflow')\n")
    servers = []

    def run(
        *options: str, server: LocalVectorize | None = None, base_url: str = "", **env: str
    ) -> tuple[int, str]:
        if server is not None:
            servers.append(server.start())
            base_url = base_url or server.base_url
        kept = {name: value for name, value in os.environ.items() if not name.startswith("CLOUDFLARE_")}
        done = subprocess.run(
            [
                *(sys.executable, "-m", "pytest", "tests/conformance", "--confcutdir", "tests/conformance"),
                *("-q", "-p", "no:cacheprovider", *options),
            ],
            cwd=ROOT,
            env={
                **kept,
                **account_variables(base_url),
                "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}",
                **env,
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        printed = done.stdout + done.stderr
        assert TOKEN not in printed
        assert ACCOUNT not in printed
        return done.returncode, printed

    yield run
    for server in servers:
        server.stop()


def make_server(**options: Any) -> LocalVectorize:
    return LocalVectorize(**{"account_id": ACCOUNT, "api_token": TOKEN, "apply_delay": 0.1, **options})


def indexes(server: LocalVectorize) -> list[Any]:
    listed: list[Any] = make_service(server.base_url).send("GET").json()["result"]
    return listed


def test_a_run_against_a_real_account(account: Any, tmp_path: Path) -> None:
    # The suite would fail these answers of its own server; it accepts and records them from a real account.
    unlike = Behaviour(empty_ids="accept", invalid_config_code=3999, dot_product_score="negative")
    server = make_server(behaviour=unlike)
    path = tmp_path / "probes.json"

    code, printed = account(server=server, CONFORMANCE_PROBES_JSON=str(path))

    assert code == 0, printed
    assert f"requests to {server.base_url} in" in printed
    assert indexes(server) == []
    # This account has no read-only token.
    assert " deselected" in printed
    assert "skipped" not in printed
    assert all(count for name, count in server.stats().items() if name != "verify_token")

    kept = json.loads(path.read_text())
    assert kept["real_account"] is True
    document = " ".join(read("docs/conformance.md").text.split())
    assert f"the suite waits {len(kept['applied_after'])} times" in document
    assert f"{len(kept['created'])} indexes during the run" in document
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


def test_indexes_are_removed_when_cases_fail(account: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_DELETE_IDS", 50)
    server = make_server()
    code, printed = account("-k", "test_ids", server=server)
    assert code == 1
    assert "test_a_delete_of_100_ids" in printed
    assert server.stats()["create_index"] == server.stats()["delete_index"] > 0
    assert indexes(server) == []


def test_an_unusable_account_ends_the_run(account: Any) -> None:
    server = make_server(api_token="another-token")
    code, printed = account("-x", server=server)
    assert code == 1
    assert "the account cannot be used, nothing was created: 401" in printed
    assert server.stats()["create_index"] == 0


# --- output of failed runs ----------------------------------------------------------------------------------

#: The options for the most verbose output of pytest.
VERBOSE = ("--showlocals", "--tb=long", "--full-trace", "--log-level=DEBUG", "-rA", "-vv", "--maxfail=3")


def test_a_failing_service_leaves_no_secret_in_the_output(account: Any) -> None:
    with make_server() as server:
        relay = Relay(server)
        relay.intercept = lambda route, request: "reset" if len(relay.routes) > 60 else None
        code, printed = account("-p", "no:randomly", *VERBOSE, base_url=relay.base_url)
        relay.close()
    assert code == 1
    assert re.search(r"NoAnswer: [A-Z]+ /client/v4/accounts/\*\*\*/vectorize/v2/indexes", printed)
    assert "NOT REMOVED, remove them yourself: conformance-" in printed


def test_a_token_with_a_line_break_is_refused(account: Any) -> None:
    server = make_server()
    code, printed = account(*VERBOSE, server=server, CLOUDFLARE_API_TOKEN=f"{TOKEN}\n")
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "CLOUDFLARE_API_TOKEN has a space, a line break or another character" in printed
    assert not any(server.stats().values())
