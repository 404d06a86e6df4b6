# SPDX-License-Identifier: Apache-2.0
"""Reconciling an index of a million vectors needs little memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests

from harness import DIMENSIONS, PROVEN, wait_until

COUNT = 1_000_000
#: MB (2**20 bytes) above a run with almost nothing to do; a set of the ids would need 100.
MOST_MEMORY = 64
#: The shortest possible values: only the ids matter.
VALUES = "[1" + ",0" * (DIMENSIONS - 1) + "]"


def id_of(number: int) -> str:
    # Random order is the hardest to sort.
    return f"{number * 0x9E3779B97F4A7C15 % 2**64:016x}-{number}"


class Index:
    """An index of a server in another process, accessed without a client's pacing."""

    def __init__(self, name: str, base_url: str, session: requests.Session) -> None:
        self.name = name
        self._url = f"{base_url}/{name}"
        self._session = session
        config = {"dimensions": DIMENSIONS, "metric": "cosine"}
        self._result(session.post(base_url, json={"name": name, "config": config}))

    def fill(self, ids: list[str]) -> None:
        mutation = ""
        for start in range(0, len(ids), 5000):
            lines = [f'{{"id":"{id_}","values":{VALUES}}}\n' for id_ in ids[start : start + 5000]]
            headers = {"Content-Type": "application/x-ndjson"}
            body = "".join(lines).encode()
            answer = self._session.post(f"{self._url}/upsert", data=body, headers=headers)
            mutation = self._result(answer)["mutationId"]
        info = f"{self._url}/info"
        wait_until(
            lambda: self._result(self._session.get(info)).get("processedUpToMutation") == mutation,
            interval=0.05,
        )

    def ids(self) -> Iterator[str]:
        params = {"count": "1000"}
        while True:
            page = self._result(self._session.get(f"{self._url}/list", params=params))
            yield from (vector["id"] for vector in page["vectors"])
            if not page["isTruncated"]:
                return
            params["cursor"] = page["nextCursor"]

    @staticmethod
    def _result(answer: requests.Response) -> Any:
        assert answer.ok, answer.text
        return answer.json()["result"]


@pytest.fixture
def connection() -> Iterator[tuple[str, dict[str, Any]]]:
    """Run a server in another process, to exclude its memory; yield its URL and connection."""
    command = [sys.executable, "-m", "airflow_provider_cfvectorize.local", "--port=0", "--apply-delay=0.05"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1]
        connection = json.loads(server.stdout.readline().partition("=")[2].strip().strip("'"))
        yield f"{url}/accounts/{connection['login']}/vectorize/v2/indexes", connection
        server.terminate()


def reconcile(index: Index, ids: Iterable[str], folder: Path, connection: dict[str, Any]) -> dict[str, Any]:
    """Run the task in a separate process and return its result."""
    path = folder / f"{index.name}.txt"
    path.write_text("".join(f"{id_}\n" for id_ in ids))
    tests = Path(__file__).parents[1]
    environment = {
        "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT": json.dumps(connection),
        "PYTHONPATH": os.pathsep.join([str(tests), *filter(None, [os.environ.get("PYTHONPATH")])]),
    }
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(tests / "operators" / "reconcile_a_million.py"), index.name, str(path)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | environment,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    printed: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    print(f"{index.name}: {time.monotonic() - started:.1f} s, peak {printed['peak_kib'] / 1024:.0f} MB")
    return printed


# It takes 90 seconds on two cores: 40 for two listings of 1,000 pages at 50 requests a second, and 15 to fill
# the index. It tests nothing of Airflow: one version is enough.
@pytest.mark.airflow(since="3.0")
@pytest.mark.long
def test_a_million(connection: tuple[str, dict[str, Any]], tmp_path: Path) -> None:
    base_url, airflow_connection = connection
    session = requests.Session()
    session.trust_env = False
    session.headers["Authorization"] = f"Bearer {airflow_connection['password']}"
    idle, million = Index("idle", base_url, session), Index("million", base_url, session)
    idle.fill([id_of(number) for number in range(10)])
    million.fill([id_of(number) for number in range(COUNT)])

    next_to_nothing = reconcile(idle, map(id_of, range(9)), tmp_path, airflow_connection)
    assert next_to_nothing["report"]["deleted"] == 1
    most = next_to_nothing["peak_kib"] + MOST_MEMORY * 1024

    refused = reconcile(million, map(id_of, range(COUNT * 7 // 10)), tmp_path, airflow_connection)
    assert "300000 of 1000000 ids (30 %) would be deleted" in refused["error"]
    assert "nothing was deleted. Check them with dry_run=True" in refused["error"]
    assert "raise max_delete_fraction" in refused["error"]
    assert refused["peak_kib"] <= most

    kept = [id_of(number) for number in range(COUNT) if number % 100 != 37]
    reconciled = reconcile(million, kept, tmp_path, airflow_connection)
    assert reconciled["error"] is None
    assert reconciled["report"]["listed"] == COUNT  # nothing was deleted before
    assert reconciled["report"]["deleted"] == COUNT // 100
    assert reconciled["evidence"]["outcome"] in PROVEN
    assert reconciled["peak_kib"] <= most
    assert set(million.ids()) == set(kept)
