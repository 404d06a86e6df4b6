# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.http.responses import Answer
from airflow_provider_cfvectorize.client.mutations.check import read_state
from airflow_provider_cfvectorize.client.mutations.evidence import report_evidence
from airflow_provider_cfvectorize.client.mutations.receipts import Receipt, parse_time
from airflow_provider_cfvectorize.client.mutations.wait import Wait
from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeInterrupted,
    VectorizeNotFoundError,
    VectorizeStillVisibleError,
    VectorizeWaitTimeout,
)
from client.servers import TOKEN, Reply, ScriptedServer, ok, refused

Connect = Callable[..., VectorizeClient]
Serve = Callable[..., ScriptedServer]
log = logging.getLogger("test")
ACCEPTED = "2026-01-31T12:00:00Z"
RECEIPT = Receipt("mine", "docs", "a" * 32, parse_time(ACCEPTED), 1, 1, ("w",))


def info(watermark: str | None, stamp: str = "2026-01-31T12:00:05Z", date: str = "12:00:06") -> Reply:
    result = {"vectorCount": 1, "dimensions": 32}
    if watermark is not None:
        result |= {"processedUpToMutation": watermark, "processedUpToDatetime": stamp}  # type: ignore[dict-item]
    return ok(result, Date=f"Sat, 31 Jan 2026 {date} GMT")


CREATED = ok({"name": "docs", "created_on": "2026-01-30T12:00:00Z"})
SEEN, GONE = ok([{"id": "w"}]), ok([])


def test_polls_until_applied(serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    server = serve(
        [
            info(None),
            CREATED,
            info(None),
            CREATED,
            info("older", "2026-01-31T11:00:00Z"),
            info("other"),
            SEEN,
            "reset",
            refused(429, 971, Retry_After="7"),
            refused(503, 1),
            info("other"),
            GONE,
        ]
    )
    wait = Wait(connect(server), "docs", [RECEIPT], log)
    pauses = []
    evidence = None
    while evidence is None:
        evidence = wait.poll()
        pauses.append(wait.pause)
    assert pauses == [0, 0, 0, 0, 0, 7, 0, 0]
    assert (evidence["outcome"], evidence["watermark"], evidence["witnesses_checked"]) == (
        "read_back",
        "other",
        1,
    )
    assert evidence["decided_at"] == "2026-01-31T12:00:06Z"
    logged = [record.getMessage() for record in caplog.records]
    # The second poll saw no change and logs nothing.
    assert [text.split(":")[0] for text in logged] == ["Not applied yet"] * 3 + [
        "Poll failed, polling again"
    ] * 3


@pytest.mark.parametrize(("asked", "pause"), [("7", 7), ("86400", 900)])
def test_the_pause_of_a_throttle_is_bounded(serve: Serve, connect: Connect, asked: str, pause: float) -> None:
    wait = Wait(connect(serve([refused(429, 971, Retry_After=asked)])), "docs", [RECEIPT], log)
    wait.poll()
    assert wait.pause == pause


def test_a_refused_wait_rereads_the_connection_once_a_minute(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(lambda request: refused(403, 10000))
    clock = [100.0]
    monkeypatch.setattr("airflow_provider_cfvectorize.client.mutations.wait.time.monotonic", lambda: clock[0])
    read: list[float] = []

    def renew() -> VectorizeClient:
        read.append(clock[0])
        return connect(server, api_token=f"token-{len(read)}") if len(read) < 3 else connect(server)

    wait = Wait(connect(server), "docs", [RECEIPT], log, renew=renew)
    for now in (100, 101, 160, 161):
        clock[0] = now
        with pytest.raises(VectorizeAuthError):
            wait.poll()
    assert read == [100, 160]
    # Two of the four polls were repeated with the new credentials.
    assert len(server.requests) == 6


@pytest.mark.parametrize(("account_id", "token"), [("a" * 32, TOKEN), ("b" * 32, "another-token")])
def test_a_connection_without_new_credentials_ends_the_wait(
    serve: Serve, connect: Connect, account_id: str, token: str
) -> None:
    server = serve([refused(403, 10000)])
    client = VectorizeClient("a" * 32, api_token=TOKEN, base_url=server.base_url, retry=None)
    fresh = VectorizeClient(account_id, api_token=token, base_url=server.base_url, retry=None)
    with pytest.raises(VectorizeAuthError):
        Wait(client, "docs", [RECEIPT], log, renew=lambda: fresh).poll()
    assert len(server.requests) == 1


@pytest.mark.parametrize("reply", [refused(403, 10000), refused(404, 3000), refused(410, 3005)])
def test_permanent_errors_end_a_poll(serve: Serve, connect: Connect, reply: Reply) -> None:
    with pytest.raises((VectorizeAuthError, VectorizeNotFoundError)):
        Wait(connect(serve([reply])), "docs", [RECEIPT], log).poll()


def test_the_error_at_the_deadline_names_visible_witnesses(serve: Serve, connect: Connect) -> None:
    server = serve([info("other"), SEEN, CREATED])
    wait = Wait(connect(server), "docs", [RECEIPT], log)
    with pytest.raises(VectorizeWaitTimeout, match=r"within 0 s: mutation mine, .*; still visible: 'w'"):
        wait.until(0, interval=1, stopped=lambda: False)
    assert len(server.requests) == 3


@pytest.mark.parametrize(
    ("replies", "text"),
    [
        (["reset"], r"The last poll failed: GET .*info: no response"),
        ([info("other"), SEEN, CREATED], "still visible: 'w'"),
    ],
)
def test_the_error_at_the_deadline_has_the_last_poll(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture, replies: list[Any], text: str
) -> None:
    caplog.set_level(logging.INFO)
    wait = Wait(connect(serve(replies)), "docs", [RECEIPT], log)
    with pytest.raises(VectorizeWaitTimeout, match=text):
        wait.until(0, interval=1, stopped=lambda: False)
    # The log does not say that the wait polls again, nor what the error repeats.
    assert not caplog.records


def test_a_wait_continues_until_the_mutation_is_applied(serve: Serve, connect: Connect) -> None:
    server = serve([info(None), CREATED, info("other"), SEEN, "reset", info("mine"), GONE])
    evidence = Wait(connect(server), "docs", [RECEIPT], log).until(60, interval=0.001, stopped=lambda: False)
    assert evidence["outcome"] == "watermark"
    assert len(server.requests) == 7


def test_a_wait_can_be_stopped(serve: Serve, connect: Connect) -> None:
    server = serve([info("older", "2026-01-31T11:00:00Z")])
    with pytest.raises(VectorizeInterrupted, match=r"interrupted: .* the write is accepted"):
        Wait(connect(server), "docs", [RECEIPT], log).until(60, interval=30, stopped=lambda: True)
    assert len(server.requests) == 1


def test_observed_at_is_the_servers_date_or_this_machines_time() -> None:
    at = datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert read_state(Answer({"processedUpToMutation": "m"}, at, {})).observed_at == at
    before = datetime.now(UTC)
    state = read_state(Answer("odd", None, {}))
    assert state.watermark is None
    assert before <= state.observed_at <= datetime.now(UTC)


def evidence(outcome: str, *visible: str, **more: Any) -> dict[str, Any]:
    return {
        "mutation_id": "4a495fae-8a41-4d0f-b1d2-6e5f4a3b2c1d",
        "index_name": "docs",
        "outcome": outcome,
        "accepted_at": ACCEPTED,
        "decided_at": "2026-01-31T12:00:15Z",
        "witnesses_checked": 5,
        "still_visible": list(visible),
        **more,
    }


def test_visible_witnesses_are_a_warning_or_an_error(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    report_evidence(evidence("watermark", "a\n"), log)
    first, record = caplog.records
    assert first.getMessage().endswith("; 4 of 5 witnesses are gone.")
    assert record.levelno == logging.WARNING
    assert r"but these ids can still be read: 'a\n'. Either the read lags" in record.getMessage()
    with pytest.raises(VectorizeStillVisibleError, match="can still be read"):
        report_evidence(evidence("watermark", "a"), log, require_absent=True)
    report_evidence(evidence("watermark"), log, require_absent=True)


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (
            evidence("watermark"),
            "Applied (watermark): mutation 4a495fae of index docs, 15 s after it was accepted; "
            "5 of 5 witnesses are gone.",
        ),
        (
            evidence("read_back", witnesses_checked=1),
            "Applied (read_back): mutation 4a495fae of index docs, 15 s after it was accepted; "
            "1 of 1 witness is gone.",
        ),
        (
            evidence("read_back", differing=[]),
            "Applied (read_back): mutation 4a495fae of index docs, 15 s after it was accepted; "
            "5 of 5 witnesses confirm it.",
        ),
        (
            evidence("watermark", witnesses_checked=0, accepted_at=None),
            "Applied (watermark): mutation 4a495fae of index docs; no witness was read.",
        ),
        (
            evidence("watermark", ids_verified=9, ids_visible=0),
            "Applied (watermark): mutation 4a495fae of index docs, 15 s after it was accepted; "
            "9 of 9 ids are gone.",
        ),
        (
            evidence("read_back", mutation_count=10_000),
            "Applied (read_back): 10000 mutations of index docs, 15 s after the last was accepted; "
            "5 witnesses were read.",
        ),
        (
            evidence("watermark", index_name="n" * 44),
            f"Applied (watermark): mutation 4a495fae of index {'n' * 44}; 5 of 5 witnesses are gone.",
        ),
        (
            evidence("present_differs", index_name="n" * 64, differing=[], mutation_count=1),
            f"Applied (present_differs): mutation 4a495fae of index {'n' * 33}...; "
            "5 of 5 witnesses confirm it.",
        ),
        (
            evidence("nothing_to_do", mutation_id=None, accepted_at=None, witnesses_checked=0),
            "Nothing to do: nothing was sent.",
        ),
    ],
)
def test_the_log_line_of_a_success_begins_with_the_outcome(
    caplog: pytest.LogCaptureFixture, known: dict[str, Any], said: str
) -> None:
    caplog.set_level(logging.INFO)
    report_evidence(known, log)
    (line,) = (record.getMessage() for record in caplog.records)
    assert line == said
    assert len(line) <= 120


def test_an_inferred_outcome_logs_that_it_is_weaker(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    report_evidence(evidence("inferred", witnesses_checked=0), log)
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith("Applied (inferred): mutation 4a495fae")
    assert "weaker than an observation" in second
