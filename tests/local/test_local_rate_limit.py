# SPDX-License-Identifier: Apache-2.0
"""The account's budget: headers, windows, blocks, and counted requests."""

from __future__ import annotations

import itertools
import math
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cfvectorize.client.http.budget import read_budget
from airflow_provider_cfvectorize.local import Behaviour, LocalVectorize
from airflow_provider_cfvectorize.local.errors import ApiError
from airflow_provider_cfvectorize.local.http.rate_limit import REPORTED_WINDOWS, Limiter, RateLimit
from local.local_client import Client, FakeClock, envelope, refusal, result, vector

BEGIN = 1_790_000_000.25


@pytest.fixture
def limited(start, connect):
    """Start a server with a default limit of 4 requests in 10 seconds."""

    def starter(**options: Any) -> tuple[LocalVectorize, Client, FakeClock]:
        clock = FakeClock(BEGIN)
        server = start(**{"rate_limit": "4/10", "clock": clock, **options})
        return server, connect(server), clock

    return starter


def budget(response: requests.Response) -> tuple[int, int]:
    """Return the remaining requests and the seconds until the reset from the headers."""
    found = read_budget(response.headers)
    assert found is not None
    return found.remaining, found.reset


def window(begin: float, accepted: int, refused: int = 0, end: float | None = None) -> dict[str, float]:
    return {
        "begin": begin,
        "end": begin + 10 if end is None else end,
        "accepted": accepted,
        "refused": refused,
    }


# --- headers ------------------------------------------------------------------------------------------------


def test_without_a_limit_the_budget_stays_full(client: Client, shared: LocalVectorize):
    unknown = {"Authorization": "Bearer unknown"}
    for response in (
        *(client.send("GET"), client.get(["a"]), client.send("GET", "/absent")),
        *(client.send("GET", headers=unknown), client.session.get(client.indexes + "/a/absent")),
    ):
        assert response.headers["Ratelimit"] == '"default";r=1200;t=300'
        assert response.headers["Ratelimit-Policy"] == '"default";q=1200;w=300'
        assert "Retry-After" not in response.headers
        # Our clients recognize that the server does not count.
        assert read_budget(response.headers) is None
    assert shared.rate_limit_report() == []
    assert result(client.session.get(client.root + "/_local/rate-limit")) == []


def test_each_answer_has_the_remaining_budget(limited):
    _, client, clock = limited()

    first = client.send("GET")
    assert first.headers["Ratelimit"] == '"default";r=3;t=10'
    assert first.headers["Ratelimit-Policy"] == '"default";q=4;w=10'
    clock.advance(0.5)
    # Whole seconds, rounded up: the window is certainly over after them.
    assert budget(client.send("GET", "/absent")) == (2, 10)
    clock.advance(0.5)
    assert budget(client.send("GET", "/absent/info")) == (1, 9)
    clock.advance(8.75)
    last = client.send("GET")
    assert budget(last) == (0, 1)
    assert last.status_code == 200
    assert "Retry-After" not in last.headers
    clock.advance(0.25)
    assert budget(client.send("GET")) == (3, 10)


def test_the_headers_show_the_budget_at_the_request(limited):
    _, client, _ = limited(latency=0.05)
    with ThreadPoolExecutor(4) as pool:
        responses = list(
            pool.map(lambda _: requests.get(client.indexes, headers=client.session.headers), range(4))
        )
    # Each answer has its own number, although all four requests came before the first answer.
    assert sorted(budget(response)[0] for response in responses) == [0, 1, 2, 3]


# --- the block ----------------------------------------------------------------------------------------------


def test_a_request_over_the_limit_blocks_all_for_a_window(limited):
    server, client, clock = limited()
    client.create()
    clock.advance(6)
    for _ in range(3):
        assert client.send("GET").status_code == 200

    clock.advance(0.5)
    refused = client.delete(["a"])
    assert refusal(refused) == (
        429,
        10100,
        "More than 4 requests per 10 seconds reached. Please wait and consider throttling your request speed",
    )
    assert refused.headers["Retry-After"] == "10"
    assert budget(refused) == (0, 10)
    assert refused.headers["Ratelimit-Policy"] == '"default";q=4;w=10'
    # The original window would have ended here.
    clock.advance(3.5)
    later = client.send("GET", "/docs/info")
    assert refusal(later)[0] == 429
    assert later.headers["Retry-After"] == "7"
    # A refused request does not make the block longer.
    clock.advance(6.25)
    assert client.send("GET").headers["Retry-After"] == "1"
    clock.advance(0.25)
    assert budget(client.send("GET")) == (3, 10)

    assert server.rate_limit_report() == [
        window(BEGIN, 4, 3, end=BEGIN + 16.5),
        window(BEGIN + 16.5, 1),
    ]
    assert result(client.session.get(client.root + "/_local/rate-limit")) == server.rate_limit_report()


def test_a_refused_request_has_no_effect(limited):
    server, client, clock = limited(apply_delay=0)
    client.create()
    client.upsert([vector("a")])
    for _ in range(2):
        client.send("GET")
    assert client.delete(["a"]).status_code == 429
    clock.advance(10)
    assert client.ids("a") == ["a"]
    # It still counts as a request.
    assert server.stats()["delete_by_ids"] == 1


# --- counted requests ---------------------------------------------------------------------------------------


def test_requests_with_any_credential_of_the_account_count(start, connect):
    server = start(
        rate_limit="7/10",
        clock=FakeClock(BEGIN),
        read_only_token="reader",
        api_email="a@example.com",
        api_key="key",
    )
    client, reader = connect(server), connect(server, "reader")
    legacy = {"X-Auth-Email": "a@example.com", "X-Auth-Key": "key", "Authorization": None}
    responses = [
        client.send("GET"),
        reader.send("GET"),
        client.session.get(client.indexes, headers=legacy),
        # Without the permission, an unknown route, another account, an unknown method.
        reader.create(),
        client.session.get(client.base_url + "/zones"),
        client.session.get(client.indexes.replace(server.account_id, "0" * 32)),
        client.send("PATCH"),
    ]
    assert [response.status_code for response in responses] == [200, 200, 200, 403, 404, 404, 405]
    assert [budget(response)[0] for response in responses] == [6, 5, 4, 3, 2, 1, 0]
    everything = [
        client.session.get(client.base_url + "/user/tokens/verify"),
        client.session.get(client.base_url + "/zones"),
        reader.send("GET"),
        client.session.get(client.indexes, headers=legacy),
    ]
    assert [response.status_code for response in everything] == [429] * 4


def test_requests_of_strangers_do_not_count(limited, connect):
    server, client, _ = limited()
    stranger = connect(server, "stranger")
    for _ in range(9):
        assert stranger.send("GET").headers["Ratelimit"] == '"default";r=4;t=10'
    assert client.send("GET").status_code == 200
    for _ in range(4):
        client.send("GET")
    # Strangers get HTTP 401 with and without a block.
    assert refusal(stranger.send("GET"))[:2] == (401, 10000)


def test_local_routes_do_not_count(limited):
    server, client, _ = limited()
    for _ in range(9):
        response = client.session.get(client.root + "/_local/stats")
        assert "Ratelimit" not in response.headers
        assert envelope(response)["success"]
    client.session.post(client.root + "/_local/foreign")
    assert server.rate_limit_report() == []
    assert budget(client.send("GET")) == (3, 10)


# --- other windows ------------------------------------------------------------------------------------------


def test_windows_aligned_to_the_clock(limited):
    server, client, clock = limited(behaviour=Behaviour(rate_limit_window="fixed"))
    aligned = BEGIN - 0.25
    assert aligned % 10 == 0
    clock.advance(7)
    assert budget(client.send("GET")) == (3, 3)
    clock.advance(3)
    for left in (3, 2, 1, 0):
        assert budget(client.send("GET")) == (left, 10)
    # Until BEGIN + 24, in the middle of a window.
    clock.advance(4)
    assert client.send("GET").headers["Retry-After"] == "10"
    clock.advance(10)
    assert budget(client.send("GET")) == (3, 6)
    clock.advance(6)
    assert budget(client.send("GET")) == (3, 10)

    assert server.rate_limit_report() == [
        window(aligned, 1),
        window(aligned + 10, 4, 1, end=BEGIN + 24),
        window(BEGIN + 24, 1, end=aligned + 30),
        window(aligned + 30, 1),
    ]


def test_a_sliding_window(limited):
    server, client, clock = limited(behaviour=Behaviour(rate_limit_window="sliding"))
    for left in (3, 2):
        assert budget(client.send("GET")) == (left, 10)
    clock.advance(6)
    # After 4 s the first two requests no longer count.
    assert budget(client.send("GET")) == (1, 4)
    clock.advance(4)
    assert budget(client.send("GET")) == (2, 6)
    for left in (1, 0):
        assert budget(client.send("GET"))[0] == left
    assert client.send("GET").headers["Retry-After"] == "10"
    clock.advance(9.75)
    assert client.send("GET").headers["Retry-After"] == "1"
    clock.advance(0.25)
    assert budget(client.send("GET")) == (3, 10)

    assert server.rate_limit_report() == [
        window(BEGIN, 3),
        window(BEGIN + 10, 3, 2),
        window(BEGIN + 20, 1),
    ]


def test_the_code_is_a_switch(limited):
    _, client, _ = limited(rate_limit="1/10", behaviour=Behaviour(rate_limited_code=10500))
    client.send("GET")
    assert refusal(client.send("GET"))[:2] == (429, 10500)


steps = st.lists(st.tuples(st.floats(0, 8, allow_nan=False), st.integers(1, 4)), max_size=60)


@given(limit=st.integers(1, 5), seconds=st.integers(1, 7), steps=steps)
@pytest.mark.parametrize("kind", ["first_request", "fixed", "sliding"])
def test_no_window_has_more_than_the_limit(kind, limit, seconds, steps):
    limiter = Limiter(RateLimit(limit, seconds), Behaviour(rate_limit_window=kind))
    now, accepted, blocked_until = BEGIN, [], 0.0
    for pause, count in steps:
        now += pause
        for _ in range(count):
            before = dict(limiter.headers(now))[b"ratelimit"].decode()
            left, until = (int(part[2:]) for part in before.split(";")[1:])
            assert 1 <= until <= seconds
            try:
                limiter.count(now)
            except ApiError as e:
                retry_after = int(dict(e.headers)[b"retry-after"])
                assert left == 0
                if now >= blocked_until:
                    blocked_until = now + seconds
                assert retry_after == math.ceil(blocked_until - now)
            else:
                # A request is accepted exactly if the budget is not empty.
                assert left > 0
                assert now >= blocked_until
                accepted.append(now)
    report = limiter.report()
    assert sum(entry["accepted"] for entry in report) == len(accepted)
    assert all(a["end"] <= b["begin"] for a, b in itertools.pairwise(report))
    if kind == "sliding":
        for last in accepted:
            assert sum(last - seconds < at <= last for at in accepted) <= limit
    else:
        assert all(entry["accepted"] <= limit for entry in report)


def test_the_report_is_bounded():
    limiter = Limiter(RateLimit(1, 1), Behaviour())
    for second in range(REPORTED_WINDOWS + 50):
        limiter.count(BEGIN + second)
    report = limiter.report()
    assert len(report) == REPORTED_WINDOWS
    assert report[-1]["begin"] == BEGIN + REPORTED_WINDOWS + 49


# --- syntax -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["1200/300", (1200, 300), [1200, 300]])
def test_valid_limits(given):
    assert RateLimit.parse(given) == (1200, 300)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "rate_limit must be two integers REQUESTS/SECONDS, such as 1200/300, got ''"),
        ("1200", "REQUESTS/SECONDS, such as 1200/300, got '1200'"),
        ("1200/5m", "got '1200/5m'"),
        ("1200 / 300", "got '1200 / 300'"),
        ("1200/300/1", "got '1200/300/1'"),
        ("12.5/300", "got '12.5/300'"),
        ("-1/300", "got '-1/300'"),
        ("\u0661/\u0662", r"got '\u0661/\u0662'"),
        ((1200,), "got (1200,)"),
        ((1200, 0.5), "got (1200, 0.5)"),
        ((True, 300), "got (True, 300)"),
        (1200, "got 1200"),
        ("0/300", "rate_limit must have 1 to 1,000,000 requests, got '0/300'"),
        ("1000001/300", "1 to 1,000,000 requests"),
        ("1/0", "rate_limit must have 1 to 86,400 seconds, got '1/0'"),
        ((1, 86401), "1 to 86,400 seconds, got (1, 86401)"),
    ],
)
def test_invalid_limits_are_refused(given, message):
    with pytest.raises(ValueError, match="rate_limit must") as caught:
        LocalVectorize(rate_limit=given)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 200


@given(st.text(max_size=20) | st.from_regex(r"[0-9]*/[0-9]*", fullmatch=True))
def test_arbitrary_text_is_a_limit_or_a_clear_error(text):
    error = ""
    try:
        assert min(RateLimit.parse(text)) >= 1
    except ValueError as e:
        error = str(e)
    assert not error or (error.startswith("rate_limit must ") and error.isascii())
