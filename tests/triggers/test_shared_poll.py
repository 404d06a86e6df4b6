# SPDX-License-Identifier: Apache-2.0
"""The poll that waits on an index share, in the event loop of this process."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_cfvectorize.client.mutations.evidence import WaitLog
from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.triggers import mutation, poll
from airflow_provider_cfvectorize.triggers.events import read_event
from airflow_provider_cfvectorize.triggers.mutation import VectorizeMutationTrigger
from harness import INDEX, Clock, Vectorize, first_event, remake

CONN = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"
IDS = [f"v{i}" for i in range(40)]


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[Vectorize]:
    """A server that applies nothing until a test puts its clock forward an hour."""
    with LocalVectorize(apply_delay=3600, clock=clock) as server:
        monkeypatch.setenv(CONN, server.connection)
        vectorize = Vectorize(server)
        vectorize.client.upsert(INDEX, [{"id": id_, "values": [0.5] * 32} for id_ in IDS])
        clock.ahead += 3600
        yield vectorize


def trigger(receipts: list[dict[str, Any]], **kwargs: Any) -> VectorizeMutationTrigger:
    arguments: dict[str, Any] = {
        "conn_id": "cloudflare_vectorize_default",
        "index_name": INDEX,
        "receipts": receipts,
        "end_time": time.time() + 30,
        "wait_seconds": 30,
        "poll_interval": 0.2,
        **kwargs,
    }
    made = remake(VectorizeMutationTrigger(**arguments))
    assert isinstance(made, VectorizeMutationTrigger)
    return made


async def until(condition: Any) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.01)


@pytest.mark.airflow(since="3.0")
@pytest.mark.parametrize("is_failing", [False, True])
def test_a_triggerer_delays_an_event(
    held: Vectorize, clock: Clock, monkeypatch: pytest.MonkeyPatch, is_failing: bool
) -> None:
    # Airflow 3 may fail a task that resumes before Airflow knows that its worker process has ended.
    clock.ahead += 3600
    receipt = held.delete(IDS[:1])
    index_name = "another" if is_failing else INDEX
    clock.ahead += 3600
    pauses = []

    async def sleep(seconds: float, sleep: Any = asyncio.sleep) -> None:
        pauses.append(seconds)
        await sleep(min(seconds, 0.01))

    monkeypatch.setattr(mutation.asyncio, "sleep", sleep)
    asyncio.run(first_event(trigger([receipt], index_name=index_name)))
    assert max(pauses, default=0) < 1, "dag.test() needs no pause"
    in_triggerer = trigger([receipt], index_name=index_name)
    in_triggerer.trigger_id = 1
    started = time.monotonic()
    asyncio.run(first_event(in_triggerer))
    assert pauses[-1] == pytest.approx(10, abs=time.monotonic() - started)


def test_many_waits_send_one_request_per_interval(held: Vectorize, clock: Clock) -> None:
    receipts = [held.delete([id_]) for id_ in IDS]
    stats = held.server.stats

    async def run() -> list[Any]:
        waits = [asyncio.create_task(first_event(trigger([receipt]))) for receipt in receipts]
        await until(lambda: poll._polls and len(next(iter(poll._polls.values()))._waits) == len(IDS))
        held.server.reset_stats()
        started = time.monotonic()
        await until(lambda: stats()["info"] >= 4)
        requests, elapsed = stats()["info"], time.monotonic() - started
        # One request per interval for all waits.
        assert requests <= elapsed / 0.2 + 1
        clock.ahead += 3600
        return await asyncio.gather(*waits)

    events = asyncio.run(run())
    assert {event["status"] for event in events} == {"applied"}
    # 20 witnesses per request, of any wait.
    assert stats()["get_by_ids"] < 20
    assert poll._polls == {}, "the last wait closes the poll"


def test_waits_do_not_share_a_poll_with_another_connection(
    held: Vectorize, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt = held.delete(IDS[:1])
    wrong = json.loads(held.server.connection) | {"password": "wrong-token-0123456789abcdef0123456789"}
    monkeypatch.setenv("AIRFLOW_CONN_OTHER", json.dumps(wrong))

    async def run() -> tuple[Any, Any]:
        ours = asyncio.create_task(first_event(trigger([receipt])))
        theirs = await first_event(trigger([receipt], conn_id="other"))
        assert len(poll._polls) == 1
        clock.ahead += 3600
        return await ours, theirs

    ours, theirs = asyncio.run(run())
    assert ours["status"] == "applied"
    assert (theirs["status"], theirs["error"], theirs["http_status"]) == ("error", "VectorizeAuthError", 401)


def test_a_poll_that_dies_is_restarted(held: Vectorize, clock: Clock) -> None:
    receipt = held.delete(IDS[:1])

    async def run() -> Any:
        wait = asyncio.create_task(first_event(trigger([receipt])))
        await until(lambda: poll._polls and held.server.stats()["info"] >= 1)
        (first,) = poll._polls.values()
        first._task.cancel()
        await until(lambda: poll._polls and next(iter(poll._polls.values())) is not first)
        clock.ahead += 3600
        return await wait

    assert asyncio.run(run())["status"] == "applied"


def test_a_cancelled_wait_does_not_affect_other_waits(held: Vectorize, clock: Clock) -> None:
    receipt = held.delete(IDS[:1])

    async def run() -> Any:
        first = asyncio.create_task(first_event(trigger([receipt])))
        second = asyncio.create_task(first_event(trigger([receipt])))
        await until(lambda: poll._polls and len(next(iter(poll._polls.values()))._waits) == 2)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        clock.ahead += 3600
        return await second

    assert asyncio.run(run())["status"] == "applied"
    assert poll._polls == {}


def test_a_poll_uses_the_shortest_interval_and_the_nearest_deadline(held: Vectorize) -> None:
    receipt = held.delete(IDS[:1])

    async def run() -> Any:
        slow = asyncio.create_task(first_event(trigger([receipt], poll_interval=3600)))
        await until(lambda: held.server.stats()["info"] >= 1)
        # It joins a poll task next request is due in an hour.
        quick = await first_event(trigger([receipt], end_time=time.time() + 0.3, wait_seconds=0.3))
        slow.cancel()
        await asyncio.gather(slow, return_exceptions=True)
        return quick

    event = asyncio.run(run())
    assert event["status"] == "timeout"
    assert "not observed as applied in index docs within 0.3 s" in event["message"]


def test_a_restart_of_the_server(held: Vectorize, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    receipt = held.delete(IDS[:1])
    failures: list[str] = []
    monkeypatch.setattr(WaitLog, "note_failure", lambda _, failure: failures.append(failure))
    held.server.stop()

    async def run() -> Any:
        wait = asyncio.create_task(first_event(trigger([receipt])))
        async with asyncio.timeout(30):
            while not failures:
                await asyncio.sleep(0.01)
        clock.ahead += 3600
        held.server.start()
        return await wait

    # The restarted server has lost its state and does not know the index.
    event = asyncio.run(run())
    assert (event["status"], event["error"]) == ("error", "VectorizeNotFoundError")


def test_a_silent_service_does_not_delay_the_deadline(
    held: Vectorize, monkeypatch: pytest.MonkeyPatch
) -> None:
    receipt = held.delete(IDS[:1])
    monkeypatch.setattr(poll, "LAST_POLL_SECONDS", 0.2)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(16)
        host = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setenv(
            CONN, json.dumps(json.loads(held.server.connection) | {"host": host, "extra": {"timeout": 5}})
        )
        event = asyncio.run(first_event(trigger([receipt], end_time=time.time() + 0.2, wait_seconds=0.2)))
    assert event["status"] == "timeout"
    assert "the last poll did not end" in event["message"]


def test_older_releases_of_common_compat_can_read_the_connection(
    held: Vectorize, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    import airflow.providers.common.compat.connection as compat

    original = compat.get_async_connection

    async def of_release_1_12(conn_id: str) -> Any:
        return await original(conn_id)

    monkeypatch.setattr(compat, "get_async_connection", of_release_1_12)
    receipt = held.delete(IDS[:1])
    clock.ahead += 3600
    assert asyncio.run(first_event(trigger([receipt])))["status"] == "applied"


def test_log_lines_of_the_poll_belong_to_no_task(held: Vectorize, clock: Clock) -> None:
    import contextvars

    task: contextvars.ContextVar[str] = contextvars.ContextVar("task", default="nobody")
    lines: list[tuple[str, str]] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append((record.name, task.get()))

    receipt = held.delete(IDS[:1])
    listener = Listener()
    logging.getLogger("airflow_provider_cfvectorize").addHandler(listener)
    logging.getLogger("airflow_provider_cfvectorize").setLevel(logging.DEBUG)

    async def run() -> Any:
        task.set("a task")
        wait = asyncio.create_task(first_event(trigger([receipt])))
        await until(lambda: held.server.stats()["info"] >= 1)
        clock.ahead += 3600
        return await wait

    try:
        asyncio.run(run())
    finally:
        logging.getLogger("airflow_provider_cfvectorize").removeHandler(listener)
        logging.getLogger("airflow_provider_cfvectorize").setLevel(logging.NOTSET)
    of_the_poll = {who for name, who in lines if name.endswith("triggers.poll")}
    assert of_the_poll == {"nobody"}


def test_no_secret_is_stored(held: Vectorize) -> None:
    receipt = held.delete(IDS[:1])
    _, kwargs = trigger([receipt]).serialize()
    assert held.server.api_token not in json.dumps(kwargs)


def test_an_empty_account_id_is_refused(held: Vectorize) -> None:
    held.server.reset_stats()
    event = asyncio.run(first_event(trigger([held.delete(IDS[:1])], account_id="")))
    with pytest.raises(VectorizeInputError, match="account_id is empty"):
        read_event(event)
    assert held.server.stats()["info"] == 0


@pytest.mark.parametrize(
    "event", [None, {}, {"status": "done"}, {"status": "applied"}, "applied", {"status": "error"}]
)
def test_an_event_of_another_version_is_an_error(event: Any) -> None:
    from airflow_provider_cfvectorize.exceptions import VectorizeError
    from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor

    sensor = VectorizeMutationSensor(task_id="wait", index_name=INDEX, mutation_id="m")
    with pytest.raises(VectorizeError, match="Install one version"):
        sensor.execute_complete({}, event)  # type: ignore[arg-type]
