# SPDX-License-Identifier: Apache-2.0
"""Results and errors from answers. ``test_client_retries.py`` tests retries."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.http.responses import (
    RawResponse,
    read_answer,
    read_date,
    read_retry_after,
)
from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeBatchAuthError,
    VectorizeError,
    VectorizeInputError,
    VectorizeNotFoundError,
    VectorizeResponseError,
    VectorizeThrottledError,
)
from client.servers import DATE, MUTATION, TOKEN, Reply, ScriptedServer, accepted, ok, refused

Connect = Callable[..., VectorizeClient]
Serve = Callable[..., ScriptedServer]


def read(reply: Reply, secrets: tuple[str, ...] = (TOKEN,)) -> object:
    raw = RawResponse(reply.status, reply.headers, reply.body)
    return read_answer(raw, what="GET /x", secrets=secrets).result


def failure(reply: Reply) -> VectorizeResponseError:
    with pytest.raises(VectorizeResponseError) as e:
        read(reply)
    return e.value


def envelope(status: int = 200, **fields: object) -> Reply:
    return Reply(status, json.dumps(fields).encode())


@pytest.mark.parametrize("result", [None, [], {}, "text", 1, {"a": [None]}])
def test_a_successful_answer_returns_its_result(result: object) -> None:
    assert read(ok(result)) == result


@pytest.mark.parametrize(
    "extra",
    [
        {"errors": [{"code": 40041, "message": "Too Many Requests"}]},
        {"errors": None},
        {"errors": "none", "messages": 1},
        {},
    ],
)
def test_success_ignores_other_fields_of_the_envelope(extra: dict[str, object]) -> None:
    assert read(envelope(success=True, result=1, **extra)) == 1


@pytest.mark.parametrize(
    ("reply", "kind", "code"),
    [
        (refused(401, 10000), VectorizeAuthError, 10000),
        (refused(403, 10000), VectorizeAuthError, 10000),
        (refused(403, 9109), VectorizeAuthError, 9109),
        (refused(400, 6003), VectorizeAuthError, 6003),
        (refused(401, None), VectorizeAuthError, None),
        (Reply(403, b"<html>no</html>"), VectorizeResponseError, None),
        (refused(404, 3000), VectorizeNotFoundError, 3000),
        (refused(400, 3000), VectorizeNotFoundError, 3000),
        (refused(410, 3005), VectorizeNotFoundError, 3005),
        (refused(404, 7003), VectorizeNotFoundError, 7003),
        (refused(404, 1), VectorizeNotFoundError, 1),
        (refused(429, 971), VectorizeThrottledError, 971),
        (Reply(429, b"slow down"), VectorizeThrottledError, None),
        (envelope(429, success=True, result=None), VectorizeThrottledError, None),
        (refused(400, 40041), VectorizeThrottledError, 40041),
        (refused(503, 40041), VectorizeThrottledError, 40041),
        (refused(200, 40041), VectorizeThrottledError, 40041),
        (refused(408, 1), VectorizeResponseError, 1),
        (refused(500, 10000 + 1), VectorizeResponseError, 10001),
        (refused(400, 40007), VectorizeResponseError, 40007),
        (refused(200, 1000), VectorizeResponseError, 1000),
        (envelope(500, success=True, result=1), VectorizeResponseError, None),
        # Odd shapes
        (refused(400, "40041"), VectorizeResponseError, None),
        (refused(400, 10**4000), VectorizeResponseError, None),
        (refused(400, -1), VectorizeResponseError, None),
        (refused(400, True), VectorizeResponseError, None),
        (refused(400, 1.5), VectorizeResponseError, None),
        (envelope(400, success=False), VectorizeResponseError, None),
        (envelope(400, success=False, errors=[]), VectorizeResponseError, None),
        (envelope(400, success=False, errors={}), VectorizeResponseError, None),
        (envelope(400, success=False, errors=["no", 1]), VectorizeResponseError, None),
        (envelope(400, success=False, errors=[{"code": 1, "message": {"a": 1}}]), VectorizeResponseError, 1),
        (envelope(200, success="true", result=1), VectorizeResponseError, None),
        (envelope(200, result=1), VectorizeResponseError, None),
    ],
)
def test_the_class_and_code_of_each_error(reply: Reply, kind: type, code: int | None) -> None:
    error = failure(reply)
    assert type(error) is kind
    assert (error.status, error.code) == (reply.status, code)
    assert f"HTTP {reply.status}" in str(error)
    copy = pickle.loads(pickle.dumps(error))
    assert (str(copy), copy.status, copy.code) == (str(error), error.status, error.code)


@pytest.mark.parametrize(
    ("reply", "advice"),
    [
        (refused(401, 10000), "Check, in this order: the API token .*'Vectorize: Edit'.*this account"),
        (Reply(403, b"<html>Just a moment"), "'<html>Just a moment'. This says nothing about the API token"),
        (refused(404, 3000), "Check index_name and the account id, or create the index first"),
        (refused(410, 3005), "create it again"),
        (refused(404, 7003), "Check the account id and the connection's host"),
        (refused(400, 40007), "Send fewer ids"),
        (refused(400, 3002), "already exists"),
        (refused(400, 1005), "Send NDJSON"),
        (refused(429, 971, Retry_After="17"), "retry after 17 s.*owner share the budget"),
        (refused(200, 1), r"success: false"),
    ],
)
def test_errors_include_advice(reply: Reply, advice: str) -> None:
    import re

    assert re.search(advice, str(failure(reply)))


@pytest.mark.parametrize(
    "body",
    [
        b"<html><h1>504 Gateway Time-out</h1>",
        b'{"success": true, "result"',
        b"[1, 2]",
        b'"success"',
        b"null",
        b"",
        b"\xff\xfe\x00",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"success": true, "result": ' + b"9" * 5000 + b"}",
    ],
    ids=range(10),
)
@pytest.mark.parametrize("status", [200, 504])
def test_a_body_without_the_api_envelope_is_an_error(body: bytes, status: int) -> None:
    error = failure(Reply(status, body))
    assert type(error) is VectorizeResponseError
    assert error.status == status
    assert "with a body that is not the API's JSON: " in str(error)
    assert str(error).isascii()
    assert len(str(error)) < 1100


def test_the_first_200_characters_of_a_body_are_shown() -> None:
    text = str(failure(Reply(504, b"<html>" + b"x" * 500)))
    assert f"'<html>{'x' * 194}'... (506 long)" in text


@given(st.binary(max_size=60), st.sampled_from([200, 204, 302, 400, 401, 404, 429, 500]))
def test_arbitrary_bytes_give_a_response_error_or_a_result(body: bytes, status: int) -> None:
    try:
        read(Reply(status, body))
    except VectorizeResponseError as e:
        text = str(e)
    else:
        text = ""
    assert text.isprintable()


def test_control_characters_are_escaped() -> None:
    text = str(failure(refused(400, 1, "a\r\n[2026] INFO forged\x1b[2J\u2028\x00")))
    assert r"'a\r\n[2026] INFO forged\x1b[2J\u2028\x00'" in text


@pytest.mark.parametrize("times", range(1, 40, 3))
@pytest.mark.parametrize("status", [302, 400, 403, 502])
def test_an_echoed_credential_is_replaced(times: int, status: int) -> None:
    echo = f"{TOKEN}," * times
    for reply in (
        refused(status, 1, echo),
        Reply(status, echo.encode()),
        Reply(status, b"x" * 3 + echo.encode(), {"Location": echo}),
    ):
        text = str(failure(reply))
        assert TOKEN[:8] not in text
        if status in (400, 502):
            assert "***," in text


@pytest.mark.parametrize(
    "reply",
    [
        ok({}),
        ok({"mutationId": None}),
        ok({"mutationId": ""}),
        ok({"mutationId": 7}),
        ok({"mutationId": "x" * 37}),
        ok({"mutationId": "a\nb"}),
        ok(None),
        ok([MUTATION]),
    ],
)
def test_an_acknowledged_write_without_a_mutation_id_is_an_error(
    serve: Serve, connect: Connect, reply: Reply
) -> None:
    server = serve([reply])
    with pytest.raises(VectorizeResponseError, match=r"without a mutationId.*Send it again|, expected an "):
        connect(server).delete_by_ids("docs", ["a"])


def test_accepted_at_comes_from_the_servers_clock(serve: Serve, connect: Connect) -> None:
    mutation = connect(serve([accepted()])).delete_by_ids("docs", ["a"])
    assert mutation == {"mutationId": MUTATION, "accepted_at": "2026-01-31T23:59:59Z"}


def test_accepted_at_without_a_date_comes_from_this_machines_clock(serve: Serve, connect: Connect) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    mutation = connect(serve([ok({"mutationId": MUTATION}, Date="")])).delete_by_ids("docs", ["a"])
    assert before <= datetime.fromisoformat(mutation["accepted_at"]) <= datetime.now(UTC)


@pytest.mark.parametrize("result", [{}, "x", None, 3, [1], [{}], [{"id": 5}], [None]])
def test_a_result_without_vectors_is_an_error(serve: Serve, connect: Connect, result: object) -> None:
    client = connect(serve([ok(result), ok({"vectors": result})]))
    with pytest.raises(VectorizeResponseError, match=", expected "):
        client.get_by_ids("docs", ["a"])
    with pytest.raises(VectorizeResponseError, match="is invalid, expected "):
        client.list_vectors("docs")


def test_a_result_of_another_type_is_an_error(serve: Serve, connect: Connect) -> None:
    client = connect(serve([ok("text")]))
    for call in (client.list_indexes, lambda: client.info("docs"), lambda: client.get_index("docs")):
        with pytest.raises(VectorizeResponseError, match="of type str, expected an "):
            call()


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("0", 0),
        ("17", 17),
        (" 300 ", 300),
        ("1.5", 1.5),
        ("Sun, 01 Feb 2026 00:00:59 GMT", 60),
        ("Sat, 31 Jan 2026 23:00:00 GMT", 0),
        ("Sun, 01 Feb 2026 01:00:59 +0100", 60),
        ("Sun, 01 Feb 2026 00:00:59 -0000", 60),
        ("-1", None),
        ("soon", None),
        ("", None),
        ("1e3", None),
        ("٣", None),
        ("9" * 30, None),
        ("Sun, 01 Feb 99999999999999999999 00:00:59 GMT", None),
    ],
)
def test_retry_after_is_parsed(value: str, seconds: float | None) -> None:
    assert read_retry_after({"Retry-After": value, "Date": DATE}) == seconds


def test_retry_after_is_absent() -> None:
    assert read_retry_after({}) is None


@given(st.text(max_size=60) | st.from_regex(r"[A-Z][a-z]{2}, \d+ Jan \d+ \d\d:\d\d:\d\d [+-]\d+"))
def test_arbitrary_header_text_raises_no_error(text: str) -> None:
    date = read_date({"Date": text})
    assert date is None or date.tzinfo is UTC
    seconds = read_retry_after({"Retry-After": text, "Date": DATE})
    assert seconds is None or seconds >= 0


def test_a_date_is_read_as_utc() -> None:
    assert read_date({"Date": DATE}) == datetime(2026, 1, 31, 23, 59, 59, tzinfo=UTC)
    assert read_date({}) is None


def test_errors_share_a_base_class_and_can_be_pickled() -> None:
    error = VectorizeBatchAuthError("x", status=403, code=10000, acknowledged=1, failed=2, not_sent=3)
    copy = pickle.loads(pickle.dumps(error))
    assert vars(copy) == vars(error)
    assert isinstance(copy, VectorizeAuthError)
    assert isinstance(copy, VectorizeError)
    assert issubclass(VectorizeInputError, ValueError)
