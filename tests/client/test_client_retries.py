# SPDX-License-Identifier: Apache-2.0
"""When a request is retried, on a clock that only moves during a sleep."""

from __future__ import annotations

import contextlib
import logging
import re
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any

import pytest

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.http.pacer import Pacer
from airflow_provider_cfvectorize.client.http.refusals import refusal_passes
from airflow_provider_cfvectorize.client.http.responses import RawResponse
from airflow_provider_cfvectorize.client.http.session import RetryLimits, VectorizeSession
from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeError,
    VectorizeInterrupted,
    VectorizeNotFoundError,
    VectorizeResponseError,
    VectorizeThrottledError,
    VectorizeTransportError,
)
from client.servers import AT_ONCE, Reply, ScriptedServer, accepted, ok, refused

Connect = Callable[..., VectorizeClient]
Serve = Callable[..., ScriptedServer]
LOST = "lost"
BUSY = refused(503, 1)


class Service:
    """A transport with its own clock that returns prepared answers and repeats the last."""

    def __init__(self, *answers: Reply | str | VectorizeTransportError, seconds: float = 0.0) -> None:
        self.answers = list(answers)
        self.seconds = seconds
        self.now = 1000.0
        self.sleeps: list[float] = []
        self.sent = 0

    def send(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> RawResponse:
        answer = self.answers[min(self.sent, len(self.answers) - 1)]
        self.sent += 1
        self.now += self.seconds
        if isinstance(answer, VectorizeTransportError):
            raise answer
        if isinstance(answer, str):
            raise VectorizeTransportError(answer)
        return RawResponse(answer.status, answer.headers, answer.body)

    def close(self) -> None:
        pass

    def sleep(self, seconds: float) -> None:
        self.sleeps.append(seconds)
        self.now += seconds

    def session(
        self,
        retry: RetryLimits | None = RetryLimits(),  # noqa: B008
        **options: Any,
    ) -> VectorizeSession:
        clock = lambda: self.now  # noqa: E731
        return VectorizeSession(
            self,
            base_url="http://x",
            user_agent="test",
            retry=retry,
            clock=clock,
            sleep=self.sleep,
            **options,
        )

    def ask(self, **options: Any) -> Any:
        return self.session().request("POST", "/x", **options).result


@pytest.mark.parametrize(
    "passing", [LOST, refused(408, 1), refused(500, 1), BUSY, Reply(504, b"<html>"), Reply(502)]
)
def test_transient_failures_are_retried(passing: Reply | str) -> None:
    service = Service(passing, passing, ok("there"))
    assert service.ask() == "there"
    assert service.sent == 3


@pytest.mark.parametrize(
    "final",
    [
        refused(400, 40007),
        refused(401, 10000),
        refused(403, 10000),
        refused(404, 3000),
        refused(200, 1000),
        Reply(200, b"<html>"),
        Reply(302, b"", {"Location": "/"}),
    ],
)
def test_permanent_failures_are_not_retried(final: Reply) -> None:
    service = Service(final, ok())
    with pytest.raises(VectorizeResponseError):
        service.ask()
    assert service.sent == 1
    assert service.sleeps == []


@pytest.mark.parametrize("seconds", [0, 7, 90])
def test_total_backoff_is_bounded(seconds: float) -> None:
    service = Service(BUSY, seconds=seconds)
    with pytest.raises(VectorizeResponseError, match="HTTP 503"):
        service.ask()
    assert max(service.sleeps) <= 30
    assert sum(service.sleeps) + seconds * (service.sent - 1) <= 120.001
    assert service.sent >= 2


def test_backoff_grows_and_is_random() -> None:
    bounds = [0.5 * 2**i for i in range(6)]
    firsts = set()
    for _ in range(30):
        service = Service(*[LOST] * 6, ok())
        service.ask()
        assert all(0 <= pause <= bound for pause, bound in zip(service.sleeps, bounds, strict=True))
        firsts.add(service.sleeps[0])
    assert len(firsts) > 25


def test_a_throttle_waits_for_retry_after(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(refused(429, 971, Retry_After="299"), refused(400, 40041, Retry_After="300"), ok(1))
    assert service.ask() == 1
    assert service.sleeps == [299, 300]
    assert [r.levelno for r in caplog.records] == [logging.WARNING] * 2
    assert "Retrying in 299 s, at 20" in caplog.text


def test_a_throttle_waits_until_a_date() -> None:
    reply = refused(
        429, 971, Date="Sun, 01 Feb 2026 00:00:00 GMT", Retry_After="Sun, 01 Feb 2026 00:02:00 GMT"
    )
    service = Service(reply, ok())
    service.ask()
    assert service.sleeps == [120]


def test_throttle_waits_add_up_to_at_most_900_seconds() -> None:
    service = Service(refused(429, 971, Retry_After="300"))
    with pytest.raises(VectorizeThrottledError, match="retry after 300 s") as e:
        service.ask()
    assert service.sleeps == [300, 300, 300]
    assert e.value.retry_after == 300
    assert e.value.status == 429


def test_a_throttle_over_900_seconds_is_not_waited_for() -> None:
    service = Service(refused(429, 971, Retry_After="901"), ok())
    with pytest.raises(VectorizeThrottledError) as e:
        service.ask()
    assert (service.sleeps, service.sent, e.value.retry_after) == ([], 1, 901)


@pytest.mark.parametrize(
    "headers", [{}, {"Retry_After": "0"}, {"Retry_After": "Sat, 31 Jan 2026 00:00:00 GMT"}]
)
def test_a_throttle_without_a_useful_retry_after_ends(headers: dict[str, str]) -> None:
    service = Service(refused(429, 40041, **headers))
    with pytest.raises(VectorizeThrottledError):
        service.ask()
    assert 10 < service.sent < 500
    assert sum(service.sleeps) <= 900


def test_a_throttle_past_the_deadline_is_not_waited_for() -> None:
    service = Service(refused(429, 971, Retry_After="60"))
    session = service.session()
    session.deadline = service.now + 150
    with pytest.raises(VectorizeThrottledError):
        session.request("POST", "/x")
    assert service.sleeps == [60, 60]


def test_throttle_waits_do_not_count_as_backoff() -> None:
    service = Service(
        refused(429, 971, Retry_After="300"), LOST, refused(429, 971, Retry_After="300"), LOST, ok(1)
    )
    assert service.ask() == 1
    assert service.sent == 5


def test_a_session_without_retries_never_sleeps() -> None:
    for answer in (LOST, BUSY, refused(429, 971, Retry_After="1")):
        service = Service(answer, ok())
        session = VectorizeSession(
            service,
            base_url="",
            user_agent="",
            retry=None,
            sleep=service.sleep,
        )
        with pytest.raises(VectorizeError):
            session.request("GET", "/x")
        assert (service.sleeps, service.sent) == ([], 1)


def test_create_index_is_not_retried_after_a_lost_answer(serve: Serve, connect: Connect) -> None:
    server = serve(["reset", ok({})])
    with pytest.raises(VectorizeTransportError):
        connect(server, retry=AT_ONCE).create_index("docs", preset="m")
    assert len(server.requests) == 1


@pytest.mark.parametrize("answer", [BUSY, Reply(504, b"<html>")])
def test_create_index_is_not_retried_after_a_server_fault(
    serve: Serve, connect: Connect, answer: Reply
) -> None:
    server = serve([answer, ok({})])
    with pytest.raises(VectorizeResponseError):
        connect(server, retry=AT_ONCE).create_index("docs", preset="m")
    assert len(server.requests) == 1


def test_create_index_is_retried_after_a_throttle(serve: Serve, connect: Connect) -> None:
    server = serve([refused(429, 971), ok({"name": "docs"})])
    assert connect(server, retry=AT_ONCE).create_index("docs", preset="m") == {"name": "docs"}


@pytest.mark.parametrize("gone", [refused(404, 3000), refused(400, 3000), refused(410, 3005)])
@pytest.mark.parametrize("lost", ["reset", Reply(504, b"<html>")])
def test_delete_index_succeeds_if_a_retry_finds_the_index_missing(
    serve: Serve, connect: Connect, lost: Reply | str, gone: Reply
) -> None:
    server = serve([lost, gone])
    connect(server, retry=AT_ONCE).delete_index("docs")
    assert [request.method for request in server.requests] == ["DELETE", "DELETE"]


def test_delete_index_fails_if_the_first_attempt_finds_no_index(serve: Serve, connect: Connect) -> None:
    with pytest.raises(VectorizeNotFoundError):
        connect(serve([refused(404, 3000)]), retry=AT_ONCE).delete_index("docs")


@pytest.mark.parametrize("refusal", [refused(429, 971), refused(400, 40041), refused(503, 40041)])
def test_delete_index_fails_if_a_throttle_precedes_a_404(
    serve: Serve, connect: Connect, refusal: Reply
) -> None:
    with pytest.raises(VectorizeNotFoundError):
        connect(serve([refusal, refused(404, 3000)]), retry=AT_ONCE).delete_index("docs")


def test_delete_index_fails_if_no_earlier_attempt_was_sent() -> None:
    unreached = VectorizeTransportError("no connection", sent=False)
    service = Service(unreached, refused(404, 3000))
    with pytest.raises(VectorizeNotFoundError):
        service.ask(missing_ok_on_retry=True)
    # It succeeds if any earlier attempt may have taken effect.
    assert (
        Service(LOST, unreached, refused(429, 971), refused(404, 3000)).ask(missing_ok_on_retry=True) is None
    )


def test_delete_index_fails_if_a_retry_finds_no_account(serve: Serve, connect: Connect) -> None:
    with pytest.raises(VectorizeNotFoundError, match="account id"):
        connect(serve(["reset", refused(404, 7003)]), retry=AT_ONCE).delete_index("docs")


def test_writes_and_reads_are_retried(serve: Serve, connect: Connect) -> None:
    lost: list[Reply | str] = ["reset", BUSY]
    client = connect(serve([*lost, accepted(), *lost, accepted(), *lost, ok([])]), retry=AT_ONCE)
    client.delete_by_ids("docs", ["a"])
    client.upsert("docs", [])
    assert client.get_by_ids("docs", ["a"]) == []


def test_a_request_that_is_not_repeatable_is_not_retried(serve: Serve, connect: Connect) -> None:
    server = serve(["reset", ok(1)])
    client = connect(server, retry=AT_ONCE)
    with pytest.raises(VectorizeTransportError):
        client.request("POST", "indexes/docs/x", repeatable=False)
    assert client.request("POST", "indexes/docs/x") == 1


def test_the_last_error_of_several_attempts_is_raised(serve: Serve, connect: Connect) -> None:
    with pytest.raises(VectorizeAuthError):
        connect(serve(["reset", BUSY, refused(403, 10000)]), retry=AT_ONCE).list_indexes()


def test_a_stop_wakes_sleepers(serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    server = serve([refused(429, 971, Retry_After="500")])
    client = connect(server, retry=RetryLimits())
    ended: list[BaseException] = []

    def ask() -> None:
        with pytest.raises(VectorizeInterrupted, match=r"interrupted: .* was not sent") as e:
            client.list_indexes()
        ended.append(e.value)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    while "Retrying in 500 s" not in caplog.text:
        threads[0].join(0.005)
    client.session.stop()
    for thread in threads:
        thread.join(20)
    assert len(ended) == 3
    # The other threads wait for the first answer.
    assert len(server.requests) == 1


def test_a_thread_woken_by_a_stop_sends_nothing(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(serve([refused(429, 971, Retry_After="500")]), retry=RetryLimits())
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.list_indexes)
        while "Retrying in 500 s" not in caplog.text:
            wait([call], 0.005)
        # The stop wakes the threads that wait for the pacer last; this thread has retried by then.
        monkeypatch.setattr(Pacer, "stop", lambda pacer: wait([call], 20))
        client.session.stop()
        with pytest.raises(VectorizeInterrupted, match=r"interrupted: .* was not sent"):
            call.result()


def test_nothing_is_sent_after_a_stop(serve: Serve, connect: Connect) -> None:
    server = serve([ok([])])
    for retry in (None, RetryLimits()):
        client = connect(server, retry=retry)
        client.session.stop()
        with pytest.raises(VectorizeInterrupted):
            client.list_indexes()
    assert server.requests == []


# --- refusals -----------------------------------------------------------------------------------------------

PAGE = Reply(403, b"<html>Just a moment...</html>")


@pytest.mark.parametrize("refusal", [refused(403, 10000), refused(401, 9109), refused(400, 6003), PAGE])
def test_a_refusal_before_any_success_is_final(refusal: Reply) -> None:
    service = Service(BUSY, refusal, ok())
    with pytest.raises(VectorizeResponseError) as e:
        service.ask()
    assert (service.sent, e.value.is_passing) == (2, False)
    assert "has accepted" not in str(e.value)


@pytest.mark.parametrize("repeatable", [True, False])
@pytest.mark.parametrize("refusal", [refused(403, 10000), refused(401, 9109), refused(400, 6003), PAGE])
def test_a_refusal_after_a_success_is_retried(
    refusal: Reply, repeatable: bool, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(ok(), refusal, refusal, ok("there"))
    session = service.session()
    caplog.set_level(logging.INFO)
    session.request("POST", "/x")
    assert session.request("POST", "/x", repeatable=repeatable).result == "there"
    assert service.sent == 4
    assert [record.levelno for record in caplog.records] == [logging.INFO] * 2
    assert "The service has accepted these credentials before. Retrying" in caplog.text


def test_a_lasting_refusal_is_final_after_three_minutes() -> None:
    service = Service(ok(), refused(403, 10000))
    session = service.session()
    session.request("POST", "/x")
    with pytest.raises(VectorizeAuthError, match=r"credentials before, and has refused them now for") as e:
        session.request("POST", "/x")
    assert 180 <= sum(service.sleeps) < 215
    assert (e.value.status, e.value.code, e.value.is_passing) == (403, 10000, False)
    # Later refusals are final at once.
    sent = service.sent
    with pytest.raises(VectorizeAuthError):
        session.request("POST", "/x")
    assert service.sent == sent + 1


def test_a_success_resets_the_time_of_refusals() -> None:
    service = Service(ok(), *[refused(403, 10000), ok()] * 20, seconds=60)
    session = service.session()
    for _ in range(20):
        session.request("POST", "/x")


@pytest.mark.parametrize(
    ("accepted", "proven", "refused_for", "passes"),
    [
        (False, False, 0, False),
        (True, True, 0, True),
        (True, True, 179, True),
        (True, True, 180, False),
        (True, False, 4, True),
        (True, False, 5, False),
    ],
)
def test_which_refusals_are_retried(accepted: bool, proven: bool, refused_for: float, passes: bool) -> None:
    assert refusal_passes(accepted=accepted, proven=proven, refused_for=refused_for) is passes


def test_a_refused_write_of_a_reading_token_is_final_after_seconds() -> None:
    service = Service(ok(), refused(403, 10000))
    session = service.session()
    session.request("POST", "/get_by_ids")
    with pytest.raises(VectorizeAuthError, match=r"before, for reading, and has refused them now for"):
        session.request("POST", "/delete_by_ids")
    assert 5 <= sum(service.sleeps) < 21


# --- unreachable hosts --------------------------------------------------------------------------------------


def test_backoff_for_an_unreachable_host_is_spent_once_per_task(caplog: pytest.LogCaptureFixture) -> None:
    service = Service(VectorizeTransportError("no response from api.example", sent=False))
    session = service.session(conn_id="vectors")
    with pytest.raises(VectorizeTransportError) as e:
        session.request("GET", "/x")
    assert e.value.is_final
    assert re.fullmatch(
        r"GET /x \(connection 'vectors'\): no response from api\.example\. "
        r"Nothing has responded for 1\d\d s\. Check the connection's host and, on this "
        r"worker, the network, firewall, proxies and CA bundle",
        str(e.value),
    )
    assert 119 < sum(service.sleeps) < 121
    # The error follows, so no warning prepares for it.
    assert {record.levelno for record in caplog.records} <= {logging.INFO}
    # The next request of the task fails at once.
    sent, sleeps = service.sent, len(service.sleeps)
    with pytest.raises(VectorizeTransportError, match="Nothing has responded for"):
        session.request("GET", "/y")
    assert (service.sent, len(service.sleeps)) == (sent + 1, sleeps)


@pytest.mark.parametrize("answer", [ok(), BUSY, refused(404, 3000)])
def test_any_answer_resets_the_backoff_for_an_unreachable_host(answer: Reply) -> None:
    service = Service(*[LOST] * 5, answer, ok(), *[LOST] * 5, ok("there"), seconds=15)
    session = service.session()
    with contextlib.suppress(VectorizeNotFoundError):
        session.request("GET", "/x")
    while session.request("GET", "/y").result != "there":
        pass
    assert service.sent == 13


def test_a_final_error_is_not_retried() -> None:
    service = Service(VectorizeTransportError("no trusted TLS connection", sent=False, is_final=True), ok())
    with pytest.raises(VectorizeTransportError, match=r"GET /x \(connection 'vectors'\): no trusted TLS"):
        service.session(conn_id="vectors").request("GET", "/x")
    assert service.sent == 1
