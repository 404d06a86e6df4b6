# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path

import pytest
import requests

from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.local.engine.sqlite_journal import APPLICATION_ID, LAYOUT
from airflow_provider_cfvectorize.local.errors import DataFileError
from local.local_client import Client, FakeClock, mutation, refusal, result, vector


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "vectors.db"


def test_indexes_and_vectors_survive_a_restart(path, connect, start):
    clock = FakeClock(1_790_000_000.5)
    server = start(data=path, clock=clock, apply_delay=2)
    client = connect(server)
    created = result(client.create(description="kept"))
    client.create("gone")
    client.send("DELETE", "/gone")
    client.create("other", config={"preset": "openai/text-embedding-ada-002"})
    mutation(client.upsert([vector("a", 0.1, metadata={"k": "é"}, namespace="ns"), vector("b"), vector("c")]))
    mutation(client.delete(["b"]))
    mutation(client.upload("insert", [vector("a", 9), vector("d")]))
    clock.advance(2)
    before = (client.info(), result(client.get(["a", "b", "c", "d"])), result(client.send("GET")))
    mutation(client.upsert([vector("c", 7)]))
    last = mutation(client.delete(["d", "never"]))
    server.stop()

    clock.advance(60)
    client = connect(start(data=path, clock=clock, apply_delay=2))
    assert (client.info(), result(client.get(["a", "b", "c", "d"])), result(client.send("GET"))) == before
    assert result(client.send("GET", "/docs")) == created
    assert refusal(client.send("GET", "/gone"))[:2] == (410, 3005)
    assert refusal(client.send("GET", "/absent"))[:2] == (404, 3000)

    clock.advance(2)
    assert client.info()["processedUpToMutation"] == last
    assert [v["values"][0] for v in result(client.get(["c", "d"]))] == [7]
    following = mutation(client.delete(["a"]))
    clock.advance(2)
    assert client.info()["processedUpToMutation"] == following
    assert client.info()["vectorCount"] == 1


def test_an_applied_but_invisible_batch_survives_a_restart(path, connect, start):
    clock = FakeClock(1_790_000_000)
    options = {"data": path, "clock": clock, "apply_delay": 2, "visibility_lag": 10}
    server = start(**options)
    client = connect(server)
    client.create()
    batches = []
    for name in "abc":
        batches.append(mutation(client.upsert([vector(name)])))
        clock.advance(2)
    assert client.info()["processedUpToMutation"] == batches[2]
    server.stop()

    client = connect(start(**options))
    counts = []
    for _ in range(7):
        info = client.info()
        assert info["processedUpToMutation"] == batches[2]
        counts.append(info["vectorCount"])
        clock.advance(2)
    assert counts == [0, 0, 0, 1, 2, 3, 3]


def test_applied_mutations_leave_the_log(path, connect, start):
    server = start(data=path, apply_delay=0)
    client = connect(server)
    client.create()
    mutation(client.upsert([vector("a")]))
    mutation(client.delete(["x"]))
    client.info()
    server.stop()

    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM mutations").fetchone() == (0,)
        assert db.execute("SELECT count(*) FROM mutation_vectors").fetchone() == (0,)
        assert db.execute("SELECT id FROM vectors").fetchall() == [("a",)]


def test_a_reused_name_starts_empty_after_a_restart(path, connect, start):
    server = start(data=path, apply_delay=0)
    client = connect(server)
    client.create()
    mutation(client.upsert([vector("a")]))
    assert client.ids("a") == ["a"]
    mutation(client.upsert([vector("b")]))
    client.send("DELETE", "/docs")
    client.create()
    server.stop()

    client = connect(start(data=path, apply_delay=0))
    assert client.info() == {"dimensions": 32, "vectorCount": 0}
    assert client.ids("a", "b") == []


def test_cursors_do_not_survive_a_restart(path, connect, start):
    server = start(data=path, apply_delay=0)
    client = connect(server)
    client.create()
    mutation(client.upsert([vector("a"), vector("b")]))
    cursor = client.page(count=1)["nextCursor"]
    server.stop()

    client = connect(start(data=path))
    assert refusal(client.send("GET", "/docs/list", params={"cursor": cursor}))[:2] == (400, 40000)


def test_ids_are_listed_in_the_same_order_after_a_restart(path, connect, start):
    server = start(data=path, apply_delay=0)
    client = connect(server)
    client.create()
    for written in (["a", "b", "c", "d"], ["b", "e", "b"], ["c"]):
        mutation(client.upsert([vector(name) for name in written]))
    mutation(client.upload("insert", [vector("a"), vector("f")]))
    mutation(client.delete(["c"]))
    mutation(client.upsert([vector("c", 7)]))
    before = client.page()
    assert [entry["id"] for entry in before["vectors"]] == ["a", "b", "d", "e", "f", "c"]
    server.stop()

    assert connect(start(data=path, apply_delay=0)).page() == before


# --- invalid files ------------------------------------------------------------------------------------------


def refused(path) -> str:
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(DataFileError) as caught:
        LocalVectorize(data=path).start()
    if before is not None:
        assert path.read_bytes() == before
    return str(caught.value)


def test_another_kind_of_file_is_refused(path):
    path.write_text("Dear diary, this is certainly no database.\n" * 50)
    assert "is not a file of vectorize-local" in refused(path)


def test_another_kind_of_database_is_refused(path):
    with closing(sqlite3.connect(path)) as db:
        db.execute("CREATE TABLE invoices (id INTEGER)")
    assert refused(path) == f"{path} is a database of another application"


def test_a_file_of_a_newer_version_is_refused(path):
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA application_id={APPLICATION_ID}")
        db.execute(f"PRAGMA user_version={LAYOUT + 1}")
    assert refused(path) == (
        f"{path} was written by a newer vectorize-local (layout {LAYOUT + 1}; this version reads {LAYOUT})"
    )


def test_a_file_of_an_older_version_is_refused(path):
    LocalVectorize(data=path).start().stop()
    with closing(sqlite3.connect(path)) as db:
        db.execute(f"PRAGMA user_version={LAYOUT - 1}")
    assert refused(path) == (
        f"{path} was written by an older vectorize-local (layout {LAYOUT - 1}; this version reads {LAYOUT}) "
        "and cannot be converted: remove it or name another file"
    )


def test_a_damaged_file_is_refused(path):
    LocalVectorize(data=path).start().stop()
    with closing(sqlite3.connect(path)) as db:
        db.execute("DROP TABLE indexes")
    assert refused(path) == f"{path} is damaged: no such table: indexes"


def test_directories_and_missing_directories_are_refused(tmp_path):
    assert refused(tmp_path) == f"{tmp_path} is a directory"
    assert refused(tmp_path / "no" / "file") == f"directory {tmp_path / 'no'} does not exist"


def test_an_empty_file_is_accepted_as_new(path, start):
    path.touch()
    start(data=path)


def test_a_file_in_use_is_refused(path, start):
    server = start(data=path)
    with pytest.raises(DataFileError) as caught:
        LocalVectorize(data=path).start()
    assert str(caught.value) == f"{path} is in use by another vectorize-local"
    server.stop()
    start(data=path)


@pytest.mark.parametrize(
    ("limit", "lift", "said"),
    [
        ("max_page_count=1", "max_page_count=100000", "the disk is full: free some space"),
        ("query_only=ON", "query_only=OFF", "it is read-only: allow writing"),
    ],
)
def test_a_full_file_loses_no_acknowledged_write(path, connect, start, caplog, limit, lift, said):
    server = start(data=path, apply_delay=0)
    client = connect(server)
    client.create()
    acknowledged = [mutation(client.upsert([vector("v0")]))]
    db = server._store._journal._db
    # SQLite raises a lower limit to the existing number of pages.
    db.execute(f"PRAGMA {limit}")
    while (response := client.upsert([vector(f"v{len(acknowledged)}")])).status_code == 200:
        acknowledged.append(mutation(response))
    (error,) = response.json()["errors"]
    assert (response.status_code, error["code"]) == (500, 1999)
    assert error["message"].startswith(f"vectorize-local: {path} cannot be written: {said}")
    assert f"failed: {path} cannot be written: {said}" in caplog.text
    assert "Traceback" not in caplog.text
    server.stop()

    # The file holds exactly the acknowledged writes.
    server = start(data=path, apply_delay=0)
    client = connect(server)
    assert client.info()["vectorCount"] == len(acknowledged)
    server._store._journal._db.execute(f"PRAGMA {limit}")
    while client.upsert([vector(f"v{len(acknowledged)}")]).status_code == 200:
        acknowledged.append("")
    server._store._journal._db.execute(f"PRAGMA {lift}")
    acknowledged.append(mutation(client.upsert([vector(f"v{len(acknowledged)}")])))
    info = client.info()
    assert (info["processedUpToMutation"], info["vectorCount"]) == (acknowledged[-1], len(acknowledged))


def test_a_file_without_permission_is_refused():
    # Not even root can create a file there.
    assert refused(Path("/proc/vectors.db")).startswith(
        "/proc/vectors.db cannot be opened: check the permissions of the file and its directory"
    )


# --- kill -9 ------------------------------------------------------------------------------------------------


def run(path: Path, apply_delay: float = 0.05) -> tuple[subprocess.Popen[str], str, str, str]:
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "airflow_provider_cfvectorize.local"),
            *("--port", "0", "--data", str(path), "--apply-delay", str(apply_delay)),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    base_url = process.stdout.readline().split()[-1]
    connection = json.loads(process.stdout.readline().split("=", 1)[1].strip().strip("'"))
    return process, base_url, connection["login"], connection["password"]


def test_kill_9_loses_no_acknowledged_mutation(path):
    # True: upsert acknowledged; False: delete acknowledged; None: in flight.
    there: dict[str, bool | None] = {}
    process, *where = run(path)
    enough = threading.Event()

    def write(thread: int) -> None:
        client = Client(*where)
        with client.session:
            for number in range(100_000):
                name = f"{thread}-{number}"
                try:
                    there[name] = None
                    mutation(client.upsert([vector(name)]))
                    there[name] = True
                    if number % 3 == 0:
                        there[name] = None
                        mutation(client.delete([name]))
                        there[name] = False
                except (requests.RequestException, ValueError):
                    return
                if number == 100:
                    enough.set()

    try:
        result(Client(*where).create())
        writers = [threading.Thread(target=write, args=(thread,)) for thread in range(4)]
        for writer in writers:
            writer.start()
        assert enough.wait(20)
        process.send_signal(signal.SIGKILL)
        process.wait(10)
        for writer in writers:
            writer.join(10)
            assert not writer.is_alive()
    finally:
        process.kill()
        process.wait()

    process, *where = run(path)
    try:
        client = Client(*where)
        client.wait_for(mutation(client.delete(["never"])))
        found, page = set(), client.page(count=1000)
        while True:
            found.update(entry["id"] for entry in page["vectors"])
            if not page["isTruncated"]:
                break
            page = client.page(count=1000, cursor=page["nextCursor"])
        client.session.close()
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert sum(state is None for state in there.values()) <= 4
    assert {name for name, state in there.items() if state} - found == set()
    assert {name for name, state in there.items() if state is False} & found == set()
    assert found <= set(there)


def test_kill_9_keeps_pending_mutations(path, connect, start):
    process, *where = run(path, apply_delay=3600)
    client = Client(*where)
    result(client.create())
    ids = [mutation(client.upsert([vector(f"v{i}", i)])) for i in range(200)]
    process.kill()
    process.wait(10)

    clock = FakeClock(2_000_000_000)
    client = connect(start(data=path, clock=clock, apply_delay=1))
    assert client.info() == {"dimensions": 32, "vectorCount": 0}
    clock.advance(1)
    assert client.info()["processedUpToMutation"] == ids[199]
    assert client.info()["vectorCount"] == 200
    assert result(client.get(["v199"]))[0]["values"][0] == 199
