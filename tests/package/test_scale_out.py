# SPDX-License-Identifier: Apache-2.0
"""
The parts of ``make scale-out`` that need neither Redis nor PostgreSQL.

The whole is run by ``.ci/run``, in an environment of its own.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import scale_airflow
import scale_out
import scale_services

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.connection import DEFAULT_RATE_RESERVE
from readme.markdown import ROOT, read

pytestmark = pytest.mark.long

SCRIPTS = ROOT / "scripts"


def program(directory: Path, *names: str) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for name in names:
        path = directory / name
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)


def test_the_help() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "scale_out.py"), "--help"], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    for word in ("--ids", "--chunks", "--rate-limit", "50,000"):
        assert word in done.stdout


def test_what_is_missing_is_named_before_anything_starts(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "scale_out.py")],
        capture_output=True,
        text=True,
        timeout=60,
        # Only PostgreSQL may be found, where Debian has it.
        env={**os.environ, "PATH": str(tmp_path)},
    )
    assert done.returncode == 2
    assert "redis-server" in done.stderr.partition(":")[0]
    assert "apt-get install redis-server postgresql" in done.stderr
    assert done.stdout == ""


def test_the_newest_postgresql_is_taken_and_whole(tmp_path: Path) -> None:
    program(tmp_path / "bin", "redis-server")
    program(tmp_path / "9" / "bin", "initdb", "postgres")
    program(tmp_path / "15" / "bin", "initdb", "postgres")
    found = scale_services.Programs.find(str(tmp_path / "bin"), f"{tmp_path}/*/bin")
    assert found.redis == str(tmp_path / "bin" / "redis-server")
    assert found.initdb == str(tmp_path / "15" / "bin" / "initdb")
    assert found.postgres == str(tmp_path / "15" / "bin" / "postgres")
    with pytest.raises(scale_services.NotInstalledError, match="initdb, postgres: not found"):
        scale_services.Programs.find(str(tmp_path / "bin"), f"{tmp_path}/none/*")


def test_the_plan() -> None:
    doomed, kept = scale_out.plan(50_000)
    assert len(doomed) == len(set(doomed)) == 50_000
    assert len(kept) == 10_000
    assert not kept & set(doomed)
    chunks = scale_out.cut(doomed, 7)
    assert [id_ for chunk in chunks for id_ in chunk] == doomed
    assert {len(chunk) for chunk in chunks} == {7142, 7143}
    looked_at = scale_out.sample(chunks[0])
    assert len(set(looked_at)) == scale_out.SAMPLE
    assert looked_at == sorted(looked_at, key=chunks[0].index)


def test_chunks_too_small_to_be_sampled_are_refused() -> None:
    with pytest.raises(SystemExit):
        scale_out.parse(["--ids", "100", "--chunks", "6"])


def test_a_place_for_the_data_is_gone_afterwards(tmp_path: Path) -> None:
    with scale_services.household(tmp_path) as house:
        secret = house.write("password", "hidden")
        assert secret.stat().st_mode & 0o777 == 0o600
        if house.user is not None:
            assert secret.stat().st_uid == house.user.pw_uid != 0
            assert house.options["user"] == house.user.pw_uid
        directory = house.directory
    assert not directory.exists()
    assert list(tmp_path.iterdir()) == []


def test_the_document_tells_the_settings() -> None:
    settings = scale_airflow.settings("database", "broker")
    rows = [row for row in read("docs/scale-out.md").rows("what-it-shows") if row[0].startswith("`[")]
    assert len(rows) == 7
    for option, value, _ in rows:
        section, name = option.strip("`").removeprefix("[").split("] ")
        assert settings[f"AIRFLOW__{section}__{name}".upper()] == value.strip("`"), option


def test_the_document_tells_the_numbers() -> None:
    text = " ".join(read("docs/scale-out.md").text.split())
    options, out = scale_out.parse([]), scale_out
    doomed, kept = out.plan(options.ids)
    requests, seconds = options.rate_limit.split("/")
    usable = int(limits.ACCOUNT_REQUESTS * (1 - DEFAULT_RATE_RESERVE))
    a_minute = usable * limits.MAX_DELETE_IDS * 60 / limits.ACCOUNT_WINDOW_SECONDS
    for phrase in (
        f"with {len(doomed) + len(kept):,} vectors",
        f"latency of {out.LATENCY * 1000:g} ms",
        f"applied after {out.APPLY_DELAY:g} s",
        f"budget of {requests} requests in {seconds} s",
        f"{options.chunks} objects of {options.ids // options.chunks:,} ids",
        f"exactly the {len(kept):,} that were to stay",
        f"the {options.ids // options.chunks // limits.MAX_DELETE_IDS} requests it sends",
        f"leaves them, {int(requests) * (1 - DEFAULT_RATE_RESERVE):.0f} of {requests}",
        f"{limits.ACCOUNT_REQUESTS:,} requests in five minutes, of which tasks use {usable}",
        f"about {round(a_minute, -3):,.0f} ids a minute",
    ):
        assert phrase in text, phrase


# --- what the script finds ----------------------------------------------------------------------------------


def good() -> dict[str, Any]:
    """Return what the checks are given after a run in which all was well: two chunks, one lost its worker."""
    times = {"start_date": "2026-01-01T00:00:00Z", "end_date": "2026-01-01T00:00:08Z"}
    delete = {"task_id": "delete", "state": "success", "try_number": 1, **times}
    tasks = [{**delete, "map_index": 0}, {**delete, "map_index": 1, "try_number": 2}]
    return {
        "story": scale_out.Story("success", tasks, 12.0, 500, {1: 7}),
        "left": {"k"},
        "kept": {"k"},
        "doomed": ["a", "b"],
        "windows": [{"begin": 0.0, "end": 3.0, "accepted": 9, "refused": 0}],
    }


def test_a_good_run() -> None:
    given = good()
    assert scale_out.failures(**given) == []
    shown = scale_out.table(given["story"], 1, given["windows"], {"the run": 60.0}, "90/15")
    assert "2 deletes" in shown
    assert "chunk 1 (2 tries)" in shown
    assert "0 refused" in shown


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"left": {"k", "b"}}, "1 vectors are there that should be gone, such as b"),
        ({"left": set()}, "1 vectors are gone that should have stayed, such as k"),
        ({"left": {"k", "z"}}, "1 vectors are there that nobody made, such as z"),
        ({"windows": [{"accepted": 9, "refused": 2}]}, "overdrawn: 2 requests were refused"),
        ({"windows": []}, "no windows"),
        ({"state": "failed"}, "the DAG run is 'failed'"),
        ({"killed_at": None, "lost": {}}, "no moment was found"),
        ({"lost": {0: 5, 1: 7}}, r"chunks \[0\] lost their worker and had no second try"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_wrong_is_found(change: dict[str, Any], text: str) -> None:
    given = good()
    for name, value in change.items():
        if name in given:
            given[name] = value
        else:
            setattr(given["story"], name, value)
    (found,) = scale_out.failures(**given)
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(found)


# --- the end ------------------------------------------------------------------------------------------------

#: Starts a process that leaves its parent and its session, as tasks do, and then waits.
RUNAWAY = """
import subprocess, sys, time
sys.path.insert(0, {scripts!r})
from scale_services import everything_ends
with everything_ends():
    subprocess.run(["sh", "-c", "setsid sleep 600 & echo $!"], check=True)
    print("ready", flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_no_process_is_left(sign: signal.Signals) -> None:
    script = subprocess.Popen(
        [sys.executable, "-u", "-c", RUNAWAY.format(scripts=str(SCRIPTS))], stdout=subprocess.PIPE, text=True
    )
    assert script.stdout is not None
    pid = int(script.stdout.readline())
    assert script.stdout.readline() == "ready\n"
    os.kill(pid, 0)
    script.send_signal(sign)
    script.wait(60)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert script.returncode == 1
