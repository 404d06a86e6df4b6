# SPDX-License-Identifier: Apache-2.0
"""Polls of several indexes share a budget, a host and a credential."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.http import session
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.triggers import poll
from airflow_provider_cfvectorize.triggers.mutation import VectorizeMutationTrigger
from harness import Clock, Vectorize, first_event, remake

CONN = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"
WRONG = {"password": "wrong-token-0123456789abcdef0123456789"}


@pytest.fixture(autouse=True)
def every_mutation_is_old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(poll, "YOUNG", timedelta(0), raising=False)


@pytest.fixture
def polled(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the polled indexes, in order."""
    asked: list[str] = []
    original = VectorizeClient.ask_info

    def ask_info(client: VectorizeClient, index_name: str) -> Any:
        asked.append(index_name)
        return original(client, index_name)

    monkeypatch.setattr(VectorizeClient, "ask_info", ask_info)
    return asked


@pytest.fixture
def clock() -> Clock:
    return Clock()


def serve(monkeypatch: pytest.MonkeyPatch, clock: Clock, **options: Any) -> LocalVectorize:
    server = LocalVectorize(apply_delay=3600, clock=clock, **options)
    server.start()
    monkeypatch.setenv(CONN, server.connection)
    return server


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[LocalVectorize]:
    server = serve(monkeypatch, clock)
    yield server
    server.stop()


def wait(receipt: dict[str, Any], seconds: float = 30, **kwargs: Any) -> VectorizeMutationTrigger:
    arguments: dict[str, Any] = {
        "conn_id": "cloudflare_vectorize_default",
        "index_name": receipt["index_name"],
        "receipts": [receipt],
        "end_time": time.time() + seconds,
        "wait_seconds": seconds,
        "poll_interval": 0.1,
        **kwargs,
    }
    return VectorizeMutationTrigger(**arguments)


def test_many_indexes_are_polled_evenly_and_within_the_budget(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, polled: list[str]
) -> None:
    server = serve(monkeypatch, clock, rate_limit="120/2")
    receipts = [Vectorize(server, f"index-{i}").delete(["a"]) for i in range(20)]
    clock.ahead += 2
    before = len(server.rate_limit_report())

    async def run() -> list[Any]:
        return await asyncio.gather(*(first_event(wait(receipt, 4)) for receipt in receipts))

    events = asyncio.run(run())
    server.stop()
    report = server.rate_limit_report()[before:]
    assert {event["status"] for event in events} == {"timeout"}
    assert not any("last poll" in event["message"] for event in events), "each wait has had its last poll"
    assert [window["refused"] for window in report] == [0] * len(report)
    # Half of the unreserved requests, and 20 last polls at the deadline.
    assert max(window["accepted"] for window in report) <= 0.5 * 0.8 * 120 + 20 + 4
    counts = Counter(polled[:-20])
    assert max(counts.values()) - min(counts.values()) <= 2, "the oldest answer first"


def test_a_mutation_that_is_too_young_is_not_polled(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, polled: list[str]
) -> None:
    server = serve(monkeypatch, clock, rate_limit="120/2")
    old, young = (Vectorize(server, name).delete(["a"]) for name in ("old", "young"))

    async def run() -> None:
        first = asyncio.create_task(first_event(wait(old, 2)))
        while len(polled) < 2:
            await asyncio.sleep(0.01)
        monkeypatch.setattr(poll, "YOUNG", timedelta(seconds=20), raising=False)
        event = await first_event(wait(young, 1))
        assert polled.count("young") == 1, "the last poll, at the deadline"
        assert event["status"] == "timeout"
        await first

    asyncio.run(run())
    server.stop()


def test_a_host_that_hangs_delays_only_its_own_waits(
    server: LocalVectorize, monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    receipt = Vectorize(server).delete(["a"])
    monkeypatch.setattr(poll, "LAST_POLL_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        host = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for i in range(8):
            # Each account has its own pace.
            hanging = {"host": host, "login": f"{i:032x}", "extra": {"timeout": 5}}
            monkeypatch.setenv(
                f"AIRFLOW_CONN_SILENT_{i}", json.dumps(json.loads(server.connection) | hanging)
            )

        async def run() -> tuple[Any, list[Any]]:
            theirs = [
                asyncio.create_task(first_event(wait(receipt, 3, conn_id=f"silent_{i}"))) for i in range(8)
            ]
            await asyncio.sleep(0.5)
            clock.ahead += 3600
            ours = await first_event(wait(receipt, 2))
            return ours, await asyncio.gather(*theirs)

        ours, theirs = asyncio.run(run())
    assert ours["status"] == "applied"
    assert all("the last poll did not end" in event["message"] for event in theirs)


def test_a_long_throttle_allows_the_last_poll(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    server = serve(monkeypatch, clock, faults=["429:info#1=86400"])
    receipt = Vectorize(server).delete(["a"])
    clock.ahead += 3600
    event = asyncio.run(first_event(wait(receipt, 1)))
    polled = server.stats()["info"]
    server.stop()
    assert (event["status"], event.get("evidence", {}).get("outcome")) == ("applied", "watermark")
    assert polled == 2


def test_a_wait_continues_with_new_credentials(
    server: LocalVectorize, monkeypatch: pytest.MonkeyPatch, clock: Clock, polled: list[str]
) -> None:
    receipt = Vectorize(server).delete(["a"])
    clock.ahead += 3600
    right = server.connection
    monkeypatch.setenv(CONN, json.dumps(json.loads(right) | WRONG))

    async def run() -> Any:
        task = asyncio.create_task(first_event(wait(receipt)))
        while not poll._polls:
            await asyncio.sleep(0)
        # The trigger has read the connection; the server has not refused it yet.
        monkeypatch.setenv(CONN, right)
        return await task

    assert asyncio.run(run())["status"] == "applied"
    assert len(polled) == 2
    assert poll._polls == {}


def test_refused_credentials_that_do_not_change_end_the_wait(
    server: LocalVectorize, monkeypatch: pytest.MonkeyPatch, polled: list[str]
) -> None:
    receipt = Vectorize(server).delete(["a"])
    monkeypatch.setenv(CONN, json.dumps(json.loads(server.connection) | WRONG))
    event = asyncio.run(first_event(wait(receipt)))
    assert (event["status"], event["error"], event["http_status"]) == ("error", "VectorizeAuthError", 401)
    assert len(polled) == 1


def test_a_refusal_between_answers_does_not_end_the_wait(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, polled: list[str]
) -> None:
    # The second poll, which is the first of the second index, and the third.
    server = serve(monkeypatch, clock, faults=["refuse:info#2,3"])
    receipts = [Vectorize(server, name).delete(["a"]) for name in ("one", "other")]

    async def run() -> list[Any]:
        waits = [asyncio.create_task(first_event(wait(receipts[0], poll_interval=0.3)))]
        while not polled:
            await asyncio.sleep(0.01)
        waits.append(asyncio.create_task(first_event(wait(receipts[1]))))
        while len(polled) < 5:
            await asyncio.sleep(0.01)
        clock.ahead += 3600
        return await asyncio.gather(*waits)

    events = asyncio.run(run())
    server.stop()
    assert [event["status"] for event in events] == ["applied", "applied"]


@pytest.mark.parametrize("was_accepted", [False, True])
def test_a_refused_first_poll_is_retried_if_the_task_has_used_the_credentials(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, polled: list[str], was_accepted: bool
) -> None:
    server = serve(monkeypatch, clock, faults=["refuse:info#1"])
    receipt = Vectorize(server).delete(["a"])
    clock.ahead += 3600
    event = asyncio.run(first_event(remake(wait(receipt, was_accepted=was_accepted))))
    server.stop()
    assert event["status"] == ("applied" if was_accepted else "error")
    assert len(polled) == (2 if was_accepted else 1)


def test_a_lasting_refusal_ends_the_wait(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, polled: list[str]
) -> None:
    monkeypatch.setattr(session, "REFUSED_SECONDS", 0.3)
    server = serve(monkeypatch, clock, faults=["refuse:info#2-"])
    event = asyncio.run(first_event(wait(Vectorize(server).delete(["a"]))))
    server.stop()
    assert (event["status"], event["error"], event["http_status"]) == ("error", "VectorizeAuthError", 403)
    assert "has accepted these credentials before, and has refused them now for" in event["message"]
    assert len(polled) >= 3
