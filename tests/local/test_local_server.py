# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import parsedate_to_datetime

import pytest

from airflow_provider_cfvectorize.local import LocalVectorize
from harness import wait_until
from local.local_client import Client, mutation, refusal, result, vector

NAMES = {
    "list_indexes",
    "create_index",
    "get_index",
    "delete_index",
    "info",
    "insert",
    "upsert",
    "delete_by_ids",
    "get_by_ids",
    "list_vectors",
    "query",
    "create_metadata_index",
    "list_metadata_indexes",
    "delete_metadata_index",
    "verify_token",
}


def test_the_date_comes_from_the_clock(client: Client, clock):
    for response in (client.send("GET"), client.send("GET", "/absent"), client.session.get(client.root)):
        assert parsedate_to_datetime(response.headers["Date"]).timestamp() == int(clock.now)
        assert "Server" not in response.headers
    clock.advance(1)
    assert parsedate_to_datetime(client.send("GET").headers["Date"]).timestamp() == int(clock.now)


def test_the_connection(shared):
    assert json.loads(shared.connection) == {
        "conn_type": "cloudflare_vectorize",
        "login": shared.account_id,
        "password": shared.api_token,
        "host": shared.base_url,
    }
    assert shared.base_url == f"http://127.0.0.1:{shared.port}/client/v4"
    assert shared.running


def test_requests_are_counted(start, connect):
    server = start(apply_delay=0)
    client = connect(server)
    assert server.stats() == dict.fromkeys(NAMES, 0)

    client.create()
    client.upsert([vector("a")])
    client.upload("insert", [vector("b")])
    client.delete(["a"] * 101)
    client.delete(["a"])
    client.info()
    client.get(["a"])
    client.page()
    client.query([0.5] * 32)
    client.create_metadata_index("k", "string")
    client.send("GET", "/docs/metadata_index/list")
    client.delete_metadata_index("k")
    client.send("GET", "/docs")
    client.send("GET")
    client.send("DELETE", "/docs")
    client.send("GET", "/docs/unknown")
    client.session.get(client.base_url + "/user/tokens/verify")

    expected = {**dict.fromkeys(NAMES, 1), "delete_by_ids": 2}
    assert server.stats() == expected
    assert result(client.session.get(client.root + "/_local/stats")) == expected
    assert result(client.session.delete(client.root + "/_local/stats")) == dict.fromkeys(NAMES, 0)
    client.send("GET")
    server.reset_stats()
    assert server.stats() == dict.fromkeys(NAMES, 0)


def test_foreign_writes_on_demand(client: Client, clock, shared):
    client.create("other")
    url = client.root + "/_local/foreign"
    own = mutation(client.upsert([vector("a")]))

    everywhere = result(client.session.post(url))["mutationIds"]
    assert {name: len(ids) for name, ids in everywhere.items()} == {"docs": 1, "other": 1}
    here = result(client.session.post(url, json={"index_name": "docs", "count": 3}))["mutationIds"]
    assert {name: len(ids) for name, ids in here.items()} == {"docs": 3}
    by_query = result(client.session.post(url, params={"index_name": "docs"}))["mutationIds"]["docs"]
    by_query += result(client.session.post(url, params={"index_name": "docs", "count": "2"}))["mutationIds"][
        "docs"
    ]
    from_python = shared.foreign_write("docs", 2)["docs"]
    clock.advance(2)

    info = client.info()
    assert info["processedUpToMutation"] == from_python[-1]
    assert info["vectorCount"] == 1
    ids = [own, *everywhere["docs"], *here["docs"], *by_query, *from_python]
    assert len(set(ids)) == 10
    assert client.info("other")["processedUpToMutation"] == everywhere["other"][0]


def test_local_routes_refuse_invalid_requests(client: Client):
    url = client.root + "/_local/foreign"
    for body in ({"count": 0}, {"count": 10_001}, {"count": True}, {"count": "1"}, {"index_name": 7}):
        assert refusal(client.session.post(url, json=body))[:2] == (400, 40026)
    # A misspelt name must not select every index.
    assert refusal(client.session.post(url, json={"index": "docs"}))[:2] == (400, 40026)
    assert refusal(client.session.post(url, params={"count": "x"}))[:2] == (400, 40026)
    assert refusal(client.session.post(url, json={"index_name": "absent"}))[:2] == (404, 3000)
    assert refusal(client.session.post(url, data="["))[:2] == (400, 40026)
    assert refusal(client.session.get(url))[:2] == (405, 7001)
    assert refusal(client.session.post(url, headers={"Origin": "http://evil.example"}))[0] == 403
    assert refusal(client.session.get(client.root + "/_local/unknown"))[:2] == (404, 7003)


def test_continuous_foreign_writes(start, connect):
    client = connect(start(foreign_writes_per_second=100, apply_delay=0))
    client.create()
    last = mutation(client.upsert([vector("a")]))

    deadline = time.monotonic() + 10
    seen: set[str] = set()
    while len(seen) < 5:
        assert time.monotonic() < deadline
        seen.add(client.info().get("processedUpToMutation", last))
    assert client.info()["vectorCount"] == 1


def test_latency_delays_answers_in_parallel(start, connect):
    server = start(latency=0.5)
    clients = [connect(server) for _ in range(10)]
    begun = time.monotonic()
    with ThreadPoolExecutor(10) as pool:
        assert list(pool.map(lambda client: client.send("GET").status_code, clients)) == [200] * 10
    assert 0.5 <= time.monotonic() - begun < 5

    slow = start(latency=3600)
    assert connect(slow).session.get(slow.root_url + "/_local/stats", timeout=60).status_code == 200


def test_writers_from_many_threads_lose_nothing(start, connect):
    server = start(apply_delay=0.05)
    connect(server).create()

    def write(thread: int) -> list[str]:
        client = connect(server)
        return [mutation(client.upsert([vector(f"{thread}-{i}")])) for i in range(25)]

    with ThreadPoolExecutor(4) as pool:
        ids = [found for batch in pool.map(write, range(4)) for found in batch]
    assert len(set(ids)) == 100
    client = connect(server)
    client.wait_for(mutation(client.delete(["never"])))
    assert client.info()["vectorCount"] == 100


def test_large_uploads_do_not_delay_other_requests(start, connect):
    server = start(apply_delay=0)
    client, other = connect(server), connect(server)
    client.create(config={"dimensions": 1536, "metric": "cosine"})
    line = json.dumps({"id": "a", "values": [0.123456789] * 1536})
    body = "\n".join([line] * 400)
    answered = threading.Event()

    def upload() -> None:
        mutation(client.upsert(body))
        answered.set()

    thread = threading.Thread(target=upload)
    thread.start()
    meanwhile = 0
    while not answered.is_set():
        other.send("GET")
        meanwhile += not answered.is_set()
    thread.join()
    assert meanwhile > 2


def test_an_index_deleted_during_an_upload(start, connect, monkeypatch):
    from airflow_provider_cfvectorize.local.http import bodies

    server = start(apply_delay=0)
    client, other = connect(server), connect(server)
    client.create()
    parse = bodies.parse_vectors

    def replace_the_index(*arguments):
        other.send("DELETE", "/docs")
        other.create()
        return parse(*arguments)

    monkeypatch.setattr(bodies, "parse_vectors", replace_the_index)
    response = client.upsert([vector(f"v{i}") for i in range(1000)])

    assert refusal(response)[:2] == (410, 3005)
    assert client.info()["vectorCount"] == 0


def test_an_internal_error_has_an_api_envelope(start, connect, monkeypatch, caplog):
    server = start()
    client = connect(server)
    client.create()
    monkeypatch.setattr(server._store, "index", None)

    response = client.send("GET", "/docs/info")

    assert (response.status_code, response.json()["errors"][0]["code"]) == (500, 1999)
    assert "TypeError" in caplog.text


def test_stopping_answers_open_requests_and_closes_idle_connections(start, connect):
    server = start(latency=0.3)
    idle, busy = connect(server), connect(server)
    idle.send("GET")
    answers = []
    asking = threading.Thread(target=lambda: answers.append(busy.send("GET")))
    asking.start()
    wait_until(lambda: sum(server.stats().values()) == 2)
    server.stop()
    asking.join(30)

    assert [result(answer) for answer in answers] == [[]]
    assert not server.running
    server.stop()


def test_a_server_can_be_restarted_on_its_port(connect):
    server = LocalVectorize()
    with server:
        port = server.port
        with pytest.raises(RuntimeError):
            server.start()
    with server:
        assert server.port == port
        assert result(connect(server).send("GET")) == []


def test_a_port_in_use_is_an_error(shared):
    with pytest.raises(OSError, match="in use"):
        LocalVectorize(port=shared.port).start()


def test_a_server_that_is_not_started_has_no_stats():
    with pytest.raises(RuntimeError):
        LocalVectorize().stats()


def test_importing_is_cheap():
    code = (
        "import sys, airflow_provider_cfvectorize.local as local\n"
        "heavy = {'starlette', 'uvicorn', 'numpy', 'requests', 'airflow', 'asyncio', 'sqlite3'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "local.LocalVectorize\n"
        "heavy = {'starlette', 'uvicorn', 'numpy', 'requests', 'airflow'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
        "with local.LocalVectorize(): pass\n"
        "heavy = {'requests', 'airflow', 'airflow_provider_cfvectorize.client.http.session'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)

    import airflow_provider_cfvectorize.local as local

    with pytest.raises(AttributeError):
        _ = local.nothing
