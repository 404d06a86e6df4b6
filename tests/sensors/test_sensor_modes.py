# SPDX-License-Identifier: Apache-2.0
"""The sensor gives equal answers in poke, reschedule and deferrable mode."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeError,
    VectorizeIndexRecreatedError,
    VectorizeInputError,
    VectorizeNotFoundError,
    VectorizeStillVisibleError,
    VectorizeWaitTimeout,
)
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor, VectorizeMutationTimeout
from airflow_provider_cfvectorize.triggers.events import error_event, timeout_event
from harness import INDEX, MODES, PROVEN, Clock, Vectorize, make_context, outcome_of, run_task, wait_until

CONN = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"
IDS = [f"v{i}" for i in range(10)]


@pytest.fixture(params=MODES)
def mode(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def make_server(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> Iterator[Any]:
    servers = []

    def make(**kwargs: Any) -> Vectorize:
        server = LocalVectorize(clock=clock, **kwargs).start()
        servers.append(server)
        monkeypatch.setenv("AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT", server.connection)
        return Vectorize(server)

    yield make
    for server in servers:
        server.stop()


def sense(mode: str, context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    """Run a sensor to its end in a mode and return its result."""
    arguments = {
        "task_id": "wait",
        "index_name": INDEX,
        "poke_interval": 0.05,
        "timeout": 20,
        "deferrable": mode == "deferrable",
        "mode": "reschedule" if mode == "reschedule" else "poke",
        **kwargs,
    }
    return run_task(lambda: VectorizeMutationSensor(**arguments), context or make_context())


def test_its_own_watermark_ends_the_wait(mode: str, make_server: Any) -> None:
    vectorize = make_server(apply_delay=0.02)
    vectorize.fill(IDS)
    receipt = vectorize.delete(IDS)
    vectorize.wait_for(receipt["mutation_id"])
    evidence = sense(mode, receipt=receipt)
    assert evidence["outcome"] == "watermark"
    assert evidence["mutation_id"] == evidence["watermark"] == receipt["mutation_id"]
    assert evidence["accepted_at"] == receipt["accepted_at"]
    assert (evidence["witnesses_checked"], evidence["still_visible"]) == (5, [])
    assert (evidence["index_name"], evidence["account_id"]) == (INDEX, vectorize.server.account_id)
    assert vectorize.ids() == set()


def test_a_mutation_applied_during_the_wait(mode: str, make_server: Any) -> None:
    vectorize = make_server(apply_delay=0.3)
    vectorize.fill(IDS)
    evidence = sense(mode, receipt=vectorize.delete(IDS))
    assert evidence["outcome"] in PROVEN
    assert vectorize.ids() == set()


def test_a_mutation_overtaken_before_the_first_poll(mode: str, make_server: Any) -> None:
    vectorize = make_server(apply_delay=0.02)
    vectorize.fill(IDS)
    receipt = vectorize.delete(IDS)
    vectorize.settle()
    evidence = sense(mode, receipt=receipt)
    assert evidence["outcome"] == "read_back"
    assert evidence["watermark"] == vectorize.watermark() != receipt["mutation_id"]
    assert evidence["still_visible"] == []


def test_a_mutation_overtaken_after_the_first_poll(mode: str, make_server: Any) -> None:
    vectorize = make_server(apply_delay=0.6)
    vectorize.fill(IDS)
    receipt = vectorize.delete(IDS)
    # The service applies both in one job: our own watermark never appears.
    vectorize.server.foreign_write(INDEX)
    evidence = sense(mode, receipt=receipt)
    assert evidence["outcome"] == "read_back"
    assert vectorize.ids() == set()


def test_a_mutation_behind_a_backlog_is_awaited(mode: str, make_server: Any) -> None:
    vectorize = make_server(apply_delay=0.25)
    vectorize.fill(IDS)
    vectorize.server.foreign_write(INDEX, 2500)
    receipt = vectorize.delete(IDS)
    vectorize.server.foreign_write(INDEX)
    evidence = sense(mode, receipt=receipt)
    # Three jobs: twice, the watermark is later than the receipt, which is not yet applied.
    assert evidence["outcome"] == "read_back"
    assert vectorize.ids() == set()


def test_other_applied_mutations_do_not_end_the_wait(mode: str, make_server: Any, clock: Clock) -> None:
    vectorize = make_server(apply_delay=3600)
    mutation = vectorize.client.upsert(INDEX, [{"id": id_, "values": [0.5] * 32} for id_ in IDS])
    clock.ahead += 3600
    vectorize.wait_for(mutation["mutationId"])
    # The other mutations fill a job; ours is left to the next job, in an hour.
    others = vectorize.server.foreign_write(INDEX, 1000)[INDEX]
    receipt = vectorize.delete(IDS)
    clock.ahead += 3600
    state, error = outcome_of(lambda: sense(mode, receipt=receipt, timeout=0.7))
    assert vectorize.watermark() == others[-1]
    assert vectorize.ids() == set(IDS)
    assert (state, type(error)) == ("failed", VectorizeMutationTimeout)
    assert receipt["mutation_id"] in str(error)
    assert "5 of 5 witnesses can still be read" in str(error)
    assert "still visible: 'v0'" in str(error)


def test_without_witnesses_a_wait_times_out(mode: str, make_server: Any) -> None:
    vectorize = make_server(apply_delay=0.02)
    receipt = {**vectorize.delete(["never"]), "witness_ids": []}
    vectorize.settle()
    state, error = outcome_of(lambda: sense(mode, receipt=receipt, timeout=0.3))
    assert (state, type(error)) == ("failed", VectorizeMutationTimeout)
    assert "no witness to read back" in str(error)


def test_without_witnesses_a_mutation_is_inferred_by_age(mode: str, make_server: Any, clock: Clock) -> None:
    vectorize = make_server(apply_delay=0.02)
    receipt = {**vectorize.delete(["never"]), "witness_ids": []}
    vectorize.settle()
    clock.ahead = 320
    evidence = sense(mode, receipt=receipt)
    assert evidence["outcome"] == "inferred"


def test_an_overtaken_bare_id_is_inconclusive(mode: str, make_server: Any) -> None:
    vectorize = make_server(apply_delay=0.02)
    receipt = vectorize.delete(IDS)
    vectorize.settle()
    state, error = outcome_of(lambda: sense(mode, mutation_id=receipt["mutation_id"], timeout=0.3))
    assert (state, type(error)) == ("failed", VectorizeMutationTimeout)
    assert "inconclusive" in str(error)
    assert str(vectorize.watermark()) in str(error)
    assert "receipt" in str(error)


def test_the_watermark_proves_a_bare_id(mode: str, make_server: Any) -> None:
    vectorize = make_server(apply_delay=0.2)
    receipt = vectorize.delete(IDS)
    evidence = sense(mode, mutation_id=receipt["mutation_id"])
    assert (evidence["outcome"], evidence["witnesses_checked"]) == ("watermark", 0)


def test_a_deleted_index_fails_at_once(mode: str, make_server: Any) -> None:
    vectorize = make_server(apply_delay=3600)
    receipt = vectorize.delete(IDS)
    vectorize.client.delete_index(INDEX)
    state, error = outcome_of(lambda: sense(mode, receipt=receipt, timeout=3600, soft_fail=True))
    assert (state, type(error)) == ("failed", VectorizeNotFoundError)
    assert "deleted" in str(error)
    assert error.code == 3005


@pytest.mark.parametrize("is_filled", [True, False], ids=["filled", "empty"])
@pytest.mark.parametrize("witnesses", [IDS[:5], []], ids=["witnesses", "no witness"])
def test_a_mutation_lost_with_its_index_fails(
    mode: str, make_server: Any, clock: Clock, witnesses: list[str], is_filled: bool
) -> None:
    vectorize = make_server(apply_delay=0.02)
    receipt = {**vectorize.delete(IDS), "witness_ids": witnesses}
    vectorize.client.delete_index(INDEX)
    clock.ahead = 5
    vectorize.client.create_index(INDEX, dimensions=32, metric="cosine")
    if is_filled:
        vectorize.fill(IDS)
    clock.ahead = 320
    state, error = outcome_of(lambda: sense(mode, receipt=receipt, soft_fail=True))
    assert (state, type(error)) == ("failed", VectorizeIndexRecreatedError)
    assert receipt["mutation_id"] in str(error)
    assert f"{'ids' if witnesses else 'ids or vectors'}: 10" in str(error)


def test_a_recreated_index_at_the_deadline(mode: str, make_server: Any, clock: Clock) -> None:
    vectorize = make_server(apply_delay=3600)
    receipt = {**vectorize.delete(IDS), "witness_ids": []}
    vectorize.client.delete_index(INDEX)
    clock.ahead = 5
    vectorize.client.create_index(INDEX, dimensions=32, metric="cosine")
    vectorize.server.reset_stats()
    state, error = outcome_of(lambda: sense(mode, receipt=receipt, timeout=0.3))
    assert (state, type(error)) == ("failed", VectorizeIndexRecreatedError)
    assert vectorize.server.stats()["get_index"] == 1, "only the last poll reads it"
    state, error = outcome_of(lambda: sense(mode, mutation_id=receipt["mutation_id"], timeout=0))
    assert (state, type(error)) == ("failed", VectorizeMutationTimeout)
    assert "the index was created at" in str(error)


def test_ids_written_again_after_the_delete(
    mode: str,
    make_server: Any,
    clock: Clock,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    vectorize = make_server(apply_delay=0.02)
    vectorize.fill(IDS)
    receipt = vectorize.delete(IDS)
    vectorize.settle()
    vectorize.fill(IDS)
    clock.ahead = 320
    with caplog.at_level(logging.WARNING):
        evidence = sense(mode, receipt=receipt)
    assert evidence["outcome"] == "inferred"
    assert evidence["still_visible"] == IDS[:5]
    assert "another client has written them again since" in caplog.text + capfd.readouterr().out
    state, error = outcome_of(lambda: sense(mode, receipt=receipt, require_absent=True))
    assert (state, type(error)) == ("failed", VectorizeStillVisibleError)
    assert "'v0'" in str(error)


def test_some_ids_written_again_after_the_delete(mode: str, make_server: Any, clock: Clock) -> None:
    vectorize = make_server(apply_delay=0.02)
    vectorize.fill(IDS)
    receipt = vectorize.delete(IDS)
    vectorize.settle()
    vectorize.fill(IDS[:1])
    clock.ahead = 320
    evidence = sense(mode, receipt=receipt)
    assert (evidence["outcome"], evidence["still_visible"]) == ("read_back", IDS[:1])


def test_the_wait_includes_lagging_views(mode: str, make_server: Any) -> None:
    vectorize = make_server(apply_delay=0.02, visibility_lag=0.4)
    vectorize.client.upsert(INDEX, [{"id": id_, "values": [0.5] * 32} for id_ in IDS])
    wait_until(lambda: vectorize.ids() == set(IDS))
    evidence = sense(mode, receipt=vectorize.delete(IDS))
    assert evidence["outcome"] in PROVEN
    assert evidence["still_visible"] == []


def test_views_that_lag_past_the_deadline(mode: str, make_server: Any, clock: Clock) -> None:
    vectorize = make_server(apply_delay=0.02, visibility_lag=100)
    vectorize.fill(IDS)
    clock.ahead += 110
    assert vectorize.ids() == set(IDS)
    receipt = vectorize.delete(IDS)
    vectorize.wait_for(receipt["mutation_id"])
    evidence = sense(mode, receipt=receipt, timeout=0.4)
    assert (evidence["outcome"], evidence["still_visible"]) == ("watermark", IDS[:5])
    state, error = outcome_of(lambda: sense(mode, receipt=receipt, timeout=0, require_absent=True))
    assert (state, type(error)) == ("failed", VectorizeStillVisibleError)


def test_soft_fail_skips_a_timeout(mode: str, make_server: Any) -> None:
    vectorize = make_server(apply_delay=3600)
    receipt = vectorize.delete(IDS)
    state, _ = outcome_of(lambda: sense(mode, receipt=receipt, timeout=0.2, soft_fail=True))
    assert state == "skipped"
    state, error = outcome_of(lambda: sense(mode, receipt=receipt, timeout=0.2))
    assert (state, type(error)) == ("failed", VectorizeMutationTimeout)


def test_soft_fail_does_not_skip_a_wrong_token(
    mode: str, make_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectorize = make_server(apply_delay=3600)
    receipt = vectorize.delete(IDS)
    monkeypatch.setenv(
        "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT",
        vectorize.server.connection_with("wrong-token-0123456789abcdef0123456789"),
    )
    state, error = outcome_of(lambda: sense(mode, receipt=receipt, soft_fail=True))
    assert (state, type(error)) == ("failed", VectorizeAuthError)


@pytest.mark.parametrize("error", ["timeout", "failure"])
def test_a_retry_resumed_with_the_event_of_the_first_attempt(make_server: Any, error: str) -> None:
    # Airflow 3.0 does this.
    vectorize = make_server(apply_delay=0.02)
    receipt = vectorize.delete(IDS)
    vectorize.wait_for(receipt["mutation_id"])
    context = make_context()
    context["ti"].try_number = 2
    sensor = VectorizeMutationSensor(task_id="wait", index_name=INDEX, receipt=receipt)
    event = (
        timeout_event(VectorizeWaitTimeout("late"))
        if error == "timeout"
        else error_event(VectorizeError("broken"))
    )
    kwargs = {"account_id": vectorize.server.account_id, "try_number": 1, "event": event}
    evidence = sensor.resume_execution("execute_complete", kwargs, context)
    assert evidence["outcome"] == "watermark"
    with pytest.raises(VectorizeError, match=r"late|broken"):
        sensor.resume_execution("execute_complete", {**kwargs, "try_number": 2}, context)


def test_an_execution_timeout_ends_a_deferred_wait(make_server: Any) -> None:
    vectorize = make_server(apply_delay=3600)
    receipt = vectorize.delete(IDS)
    limits = {"execution_timeout": timedelta(seconds=0.2), "timeout": 5, "soft_fail": True}
    state, error = outcome_of(lambda: sense("deferrable", receipt=receipt, **limits))
    # Failed and retried, as in poke mode, where Airflow itself ends the task.
    assert (state, type(error)) == ("failed", VectorizeWaitTimeout)
    assert "execution_timeout of 0.2 s ended the wait before its timeout of 5 s: not observed" in str(error)
    assert receipt["mutation_id"] in str(error)


def test_never_fail_is_refused(mode: str) -> None:
    with pytest.raises(VectorizeInputError, match=r"never_fail is True, expected False.*soft_fail=True"):
        sense(mode, never_fail=True)
    with pytest.raises(VectorizeInputError, match="never_fail"):
        sense(mode, default_args={"never_fail": True})


def test_options_that_a_deferred_wait_ignores_are_logged(
    mode: str, make_server: Any, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    vectorize = make_server(apply_delay=0.02)
    receipt = vectorize.delete(IDS)
    ignored = {"exponential_backoff": True, "max_wait": 5, "silent_fail": True}
    sense(mode, receipt=receipt, **ignored)
    logged = caplog.text + capfd.readouterr().out
    line = "Ignored in a deferred wait: exponential_backoff, max_wait, silent_fail."
    assert (line in logged) is (mode == "deferrable")


def test_a_wait_for_several_receipts(mode: str, make_server: Any) -> None:
    vectorize = make_server(apply_delay=0.3)
    vectorize.fill(IDS)
    receipts = [vectorize.delete([id_]) for id_ in IDS]
    evidence = sense(mode, receipt=[*receipts, None, receipts[0]])
    assert evidence["mutation_count"] == 10
    assert {single["outcome"] for single in evidence["mutations"]} <= set(PROVEN)
    # At most one mutation can be the watermark.
    assert evidence["outcome"] == "read_back"
    assert evidence["witnesses_checked"] == 10
    assert vectorize.ids() == set()


def test_an_unreachable_server_does_not_end_the_wait(mode: str, make_server: Any) -> None:
    vectorize = make_server(apply_delay=0.02)
    vectorize.fill(IDS)
    receipt = vectorize.delete(IDS)
    port = vectorize.server.port
    vectorize.server.stop()
    state, error = outcome_of(lambda: sense(mode, receipt=receipt, timeout=0.3))
    assert (state, type(error)) == ("failed", VectorizeMutationTimeout)
    assert "The last poll failed" in str(error)
    assert str(port) in str(error)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"index_name": "a/b", "mutation_id": "m"}, "index name 'a/b'"),
        ({"mutation_id": 5}, "mutation_id is 5"),
        ({"mutation_id": "two words"}, "invalid mutation_id"),
        ({"mutation_id": b"bytes"}, "expected a task's output"),
        ({"mutation_id": "[broken"}, "neither valid JSON nor a Python literal"),
        ({"receipt": {"count": 1}}, "expected the dict that an operator pushes"),
        ({"receipt": {"mutation_id": "m", "accepted_at": "yesterday"}}, "accepted_at is 'yesterday'"),
    ],
)
def test_invalid_arguments_are_refused(
    mode: str, server: LocalVectorize, kwargs: dict[str, Any], text: str
) -> None:
    with pytest.raises(VectorizeInputError) as error:
        sense(mode, **kwargs)
    assert text in str(error.value)
    assert sum(server.stats().values()) == 0


@pytest.mark.parametrize("field", ["index_name", "account_id"])
def test_a_receipt_of_another_index_is_refused(mode: str, vectorize: Vectorize, field: str) -> None:
    receipt = {**vectorize.delete(IDS), field: "f" * 32}
    with pytest.raises(VectorizeInputError, match="f" * 32) as error:
        sense(mode, receipt=receipt)
    assert isinstance(error.value, VectorizeError)


def test_a_refusal_after_the_first_poll_is_retried(
    mode: str, make_server: Any, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Old enough for a poll before the sensor defers; the triggerer's first poll is refused.
    clock.ahead -= 30
    vectorize = make_server(apply_delay=3600, faults=["refuse:info#2"])
    receipt = vectorize.delete(IDS)
    clock.ahead += 30
    polls: list[str] = []
    original = VectorizeClient.ask_info

    def ask_info(client: VectorizeClient, index_name: str) -> Any:
        polls.append(index_name)
        clock.ahead += 3600 * (len(polls) == 3)
        return original(client, index_name)

    monkeypatch.setattr(VectorizeClient, "ask_info", ask_info)
    assert sense(mode, receipt=receipt)["outcome"] == "watermark"
    assert len(polls) == 3


def test_credentials_replaced_during_the_wait(
    mode: str, make_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vectorize = make_server(apply_delay=0.02)
    receipt = vectorize.delete(IDS)
    vectorize.wait_for(receipt["mutation_id"])
    right = vectorize.server.connection
    monkeypatch.setenv(CONN, json.dumps(json.loads(right) | {"password": "withdrawn-0123456789abcdef012345"}))
    original = VectorizeClient.ask_info

    def ask_info(client: VectorizeClient, index_name: str) -> Any:
        # Every wait has read the connection.
        monkeypatch.setenv(CONN, right)
        return original(client, index_name)

    monkeypatch.setattr(VectorizeClient, "ask_info", ask_info)
    assert sense(mode, receipt=receipt)["outcome"] == "watermark"
