# SPDX-License-Identifier: Apache-2.0
"""Injected faults: their effects, the requests that they hit, and their syntax."""

from __future__ import annotations

import json
import re
import socket
import threading
import time
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.local.faults.specs import (
    ENDPOINTS,
    KINDS,
    MAX_FAULTS,
    parse_fault,
)
from local.local_client import Client, FakeClock, mutation, refusal, result, vector

BEGIN = 1_790_000_000.25
PAGES = {
    "500": "500 Internal Server Error",
    "503": "503 Service ",
    "504": "504 Gateway Time-out",
    "challenge": "Just a moment...",
}


@pytest.fixture
def faulty(start, connect):
    """Start a server with the vectors a and b in the index ``docs``, then set faults."""

    def starter(*faults: str, seed: int = 0, **options: Any) -> tuple[LocalVectorize, Client]:
        server = start(**{"apply_delay": 0, **options})
        client = connect(server)
        result(client.create())
        result(client.upsert([vector("a"), vector("b")]))
        assert client.ids("a", "b") == ["a", "b"]
        server.set_faults(faults, seed)
        return server, client

    return starter


def hits(client: Client, count: int, path: str = "/docs/info") -> list[bool]:
    """Send ``count`` requests and return which of them fail."""
    return [client.send("GET", path).status_code != 200 for _ in range(count)]


def raw_request(client: Client, path: str) -> socket.socket:
    """Send a request over a bare socket."""
    parts = urlsplit(client.indexes + path)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=10)
    head = f"GET {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n"
    head += f"Authorization: {client.session.headers['Authorization']}\r\n\r\n"
    connection.sendall(head.encode())
    return connection


# --- each kind ----------------------------------------------------------------------------------------------


def test_without_faults_nothing_happens(client: Client, shared: LocalVectorize):
    assert shared.injected() == dict.fromkeys(KINDS, 0)
    assert result(client.session.get(client.root + "/_local/faults")) == {
        "faults": [],
        "seed": 0,
        "injected": dict.fromkeys(KINDS, 0),
    }


@pytest.mark.parametrize(("kind", "done"), [("reset-before", False), ("reset-after", True)])
def test_a_reset(faulty, kind, done):
    server, client = faulty(f"{kind}:delete_by_ids")
    # The error depends on whether the client was still sending.
    with pytest.raises(requests.ConnectionError, match=r"reset by peer|closed connection without response"):
        client.delete(["a"])
    assert client.ids("a", "b") == (["b"] if done else ["a", "b"])
    assert server.stats()["delete_by_ids"] == 1
    assert server.injected()[kind] == 1


@pytest.mark.parametrize("kind", ["reset-before", "reset-after"])
def test_a_reset_resets_the_connection(faulty, kind, caplog):
    server, client = faulty(kind)
    with raw_request(client, "/docs/info") as connection, pytest.raises(ConnectionResetError):
        connection.recv(1)
    server.stop()
    assert not caplog.records


def test_a_reset_during_the_body(faulty, caplog):
    _, client = faulty("reset-before:upsert")
    with pytest.raises(requests.ConnectionError):
        client.upsert([vector(f"v{i}") for i in range(5000)])
    assert client.info()["vectorCount"] == 2
    assert not caplog.records


@pytest.mark.parametrize(("given_value", "seconds"), [("", "1"), ("=0", "0"), ("=120", "120")])
def test_a_429(faulty, given_value, seconds):
    _, client = faulty(f"429{given_value}")
    refused = client.delete(["a"])
    assert refusal(refused)[:2] == (429, 10100)
    assert refused.headers["Retry-After"] == seconds
    # The fault does not use the account's budget.
    assert refused.headers["Ratelimit"].startswith('"default";r=1200;')


def test_a_40041(faulty):
    _, client = faulty("40041:delete_by_ids")
    assert refusal(client.delete(["a"])) == (400, 40041, "Too Many Requests")
    assert client.ids("a") == ["a"]


def test_a_refusal_of_valid_credentials(faulty):
    _, client = faulty("refuse:delete_by_ids")
    assert refusal(client.delete(["a"])) == (403, 10000, "Authentication error")
    assert client.ids("a") == ["a"]


@pytest.mark.parametrize("kind", PAGES)
def test_an_html_page_instead_of_json(faulty, kind):
    server, client = faulty(f"{kind}:delete_by_ids")
    response = client.delete(["a"])
    assert response.status_code == (403 if kind == "challenge" else int(kind))
    assert response.headers["Content-Type"] == "text/html; charset=UTF-8"
    assert f"<title>{PAGES[kind]}" in response.text
    assert client.ids("a") == ["a"]
    assert server.injected()[kind] == 1


def test_truncated_json(faulty):
    _, client = faulty("truncated:delete_by_ids")
    response = client.delete(["a"])
    assert response.status_code == 200
    assert response.headers["Content-Type"] == "application/json"
    assert response.text.startswith('{"result":')
    with pytest.raises(json.JSONDecodeError):
        response.json()
    assert client.ids("a") == []


def test_latency(faulty):
    server, client = faulty("latency:info=0.2", "latency:info#2=0.1")
    begun = time.monotonic()
    client.info()
    assert time.monotonic() - begun >= 0.2
    begun = time.monotonic()
    client.info()
    assert time.monotonic() - begun >= 0.3
    assert server.injected()["latency"] == 3


@pytest.mark.parametrize("pace", ["", "=0.01"])
def test_an_endless_answer(faulty, pace):
    server, client = faulty(f"hang:info{pace}")
    connection = raw_request(client, "/docs/info")
    with connection:
        received = b""
        # With a pace, the server sends a byte at intervals; without a pace, nothing after the beginning.
        wanted = rb'.*\{"result":\r\n' + (rb"(1\r\n \r\n){5}" if pace else b"")
        while not re.match(wanted, received, re.DOTALL):
            received += connection.recv(1000)
        assert received.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"content-type: application/json\r\n" in received
        assert b"content-length" not in received
        if not pace:
            connection.settimeout(0.05)
            with pytest.raises(TimeoutError):
                connection.recv(1)
    # The server answers other requests meanwhile and afterwards.
    assert client.ids("a") == ["a"]
    assert server.injected()["hang"] == 1


@pytest.mark.parametrize("fault", ["hang", "hang=0.01", "latency=3600"])
def test_the_server_stops_despite_pending_answers(faulty, fault, caplog):
    server, client = faulty(fault)
    connections = [raw_request(client, "/docs/info") for _ in range(3)]
    while server.injected()[fault.partition("=")[0]] < 3:
        time.sleep(0.01)
    stopper = threading.Thread(target=server.stop)
    stopper.start()
    # The server does not wait for the latency of an hour or for endless answers.
    stopper.join(10)
    assert not stopper.is_alive()
    assert not caplog.records
    for connection in connections:
        connection.close()


def test_an_endless_answer_ends_when_its_client_disconnects(faulty, caplog):
    server, client = faulty("hang:info=0.01")
    connection = raw_request(client, "/docs/info")
    connection.recv(1000)
    connection.close()
    server.set_faults([])
    assert client.info()["vectorCount"] == 2
    server.stop()
    assert not caplog.records


# --- views --------------------------------------------------------------------------------------------------


def test_a_stuck_watermark(faulty):
    clock = FakeClock(BEGIN)
    server, client = faulty("stuck-watermark", clock=clock)
    before = client.info()
    clock.advance(5)
    own = mutation(client.delete(["a"]))
    assert client.ids("a") == []
    stuck = client.info()
    assert stuck["processedUpToMutation"] == before["processedUpToMutation"] != own
    assert stuck["processedUpToDatetime"] == before["processedUpToDatetime"]
    # The number of vectors is not the watermark.
    assert stuck["vectorCount"] == 1
    assert server.injected()["stuck-watermark"] == 2
    # A later index has no watermark.
    client.create("later")
    client.upsert([vector("a")], "later")
    assert client.ids("a", name="later") == ["a"]
    assert "processedUpToMutation" not in client.info("later")
    server.set_faults([])
    assert client.info()["processedUpToMutation"] == own


def test_a_temporarily_stuck_watermark(faulty):
    _, client = faulty("stuck-watermark#3-4")
    seen = []
    for _ in range(5):
        own = mutation(client.delete(["x"]))
        seen.append(client.info()["processedUpToMutation"])
    assert seen[1] == seen[2] == seen[3]
    assert len(set(seen)) == 3
    assert seen[4] == own


def test_a_lagging_view(faulty):
    clock = FakeClock(BEGIN)
    server, client = faulty("lagging-view=60", clock=clock)
    clock.advance(100)
    client.delete(["a"])
    client.upsert([vector("b", -1.0), vector("c")])
    last = mutation(client.delete(["never"]))
    clock.advance(59)

    # The watermark does not lag.
    info = client.info()
    assert info["processedUpToMutation"] == last
    assert info["vectorCount"] == 2
    assert client.ids("a", "b", "c") == ["a", "b"]
    assert result(client.get(["b"]))[0]["values"][0] == 0.5
    assert {match["id"] for match in result(client.query([0.5] * 32))["matches"]} == {"a", "b"}
    assert {found["id"] for found in client.page()["vectors"]} == {"a", "b"}
    first = client.page(count=1)
    assert first["totalCount"] == 2
    second = client.page(count=1, cursor=first["nextCursor"])
    assert {first["vectors"][0]["id"], second["vectors"][0]["id"]} == {"a", "b"}

    clock.advance(1)
    assert client.ids("a", "b", "c") == ["b", "c"]
    assert result(client.get(["b"]))[0]["values"][0] == -1.0
    assert client.info()["vectorCount"] == 2
    assert {found["id"] for found in client.page()["vectors"]} == {"b", "c"}
    assert server.injected()["lagging-view"] == 11


def test_views_that_lag_by_different_times(faulty):
    clock = FakeClock(BEGIN)
    _, client = faulty("lagging-view:info=60", "lagging-view:get_by_ids#2=20", clock=clock)
    clock.advance(100)
    client.delete(["a"])
    # Two copies; one lags.
    assert [client.ids("a") for _ in range(3)] == [[], ["a"], []]
    assert client.info()["vectorCount"] == 2
    assert client.page()["totalCount"] == 1
    clock.advance(60)
    assert client.info()["vectorCount"] == 1


def test_a_lagging_view_shows_each_past_state(faulty):
    """A lagging view shows the index as it was that many seconds ago."""
    clock = FakeClock(BEGIN)
    _, client = faulty("lagging-view=10", clock=clock)
    state = {"a": 0.5, "b": 0.5}
    states = {BEGIN: dict(state)}
    for step, (vector_id, value) in enumerate(
        [("a", None), ("a", 1.5), ("c", 2.5), ("b", None), ("a", 3.5), ("c", None), ("a", None)]
    ):
        clock.advance(3)
        if value is None:
            client.delete([vector_id])
            state.pop(vector_id)
        else:
            client.upsert([vector(vector_id, value)])
            state[vector_id] = value
        states[clock.now] = dict(state)
        past = max(at for at in states if at <= max(BEGIN, clock.now - 10))
        found = {one["id"]: one["values"][0] for one in result(client.get(["a", "b", "c"]))}
        assert found == states[past], step


# --- affected requests --------------------------------------------------------------------------------------


def test_all_endpoints_are_known(start, connect):
    server = start()
    assert set(server.stats()) == set(ENDPOINTS)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_fault_of_one_endpoint(faulty, endpoint):
    server, client = faulty(f"503:{endpoint}")
    client.create("other")
    client.send("GET")
    client.send("GET", "/docs")
    client.send("GET", "/docs/info")
    client.upsert([vector("a")])
    client.upload("insert", [vector("a")])
    client.delete(["x"])
    client.get(["a"])
    client.send("GET", "/docs/list")
    client.query([0.5] * 32)
    client.create_metadata_index("k", "string")
    client.send("GET", "/docs/metadata_index/list")
    client.delete_metadata_index("k")
    client.session.get(client.base_url + "/user/tokens/verify")
    client.send("DELETE", "/docs")
    # One fault per endpoint; the fixture's requests came before.
    assert server.injected() == {**dict.fromkeys(KINDS, 0), "503": 1}


@pytest.mark.parametrize(
    ("numbers", "hit"),
    [("1", {1}), ("2-3", {2, 3}), ("1,4-5", {1, 4, 5}), ("4-", {4, 5, 6}), ("2,2,1-2", {1, 2}), ("9", set())],
)
def test_faults_by_request_number(faulty, numbers, hit):
    server, client = faulty(f"500:info#{numbers}")
    client.send("GET")
    assert hits(client, 6) == [number in hit for number in range(1, 7)]
    assert server.injected()["500"] == len(hit)
    # New faults restart the count.
    server.set_faults([f"500:info#{numbers}"])
    assert hits(client, 6) == [number in hit for number in range(1, 7)]


def test_a_fault_without_an_endpoint_counts_all_endpoints(faulty):
    _, client = faulty("500#2,4")
    paths = ["/docs/info", "", "/docs", "/docs/list", "/docs/info"]
    assert [client.send("GET", path).status_code for path in paths] == [200, 500, 200, 500, 200]


def test_refused_requests_are_not_counted(faulty, connect):
    server, client = faulty("500#1")
    assert refusal(connect(server, "stranger").send("GET"))[:2] == (401, 10000)
    assert refusal(client.send("GET", "/docs/absent"))[:2] == (404, 7003)
    assert hits(client, 2) == [True, False]


def test_random_faults_depend_only_on_seed_and_request_number(faulty):
    server, client = faulty("500:info@0.5", "500:get_index@0.5", seed=7)
    first = hits(client, 40)
    assert 5 < sum(first) < 35
    server.set_faults(["500:info@0.5", "500:get_index@0.5"], 7)
    mixed = [hits(client, 1) + hits(client, 1, "/docs") for _ in range(40)]
    assert [a for a, _ in mixed] == first
    assert [b for _, b in mixed] != first
    server.set_faults(["500:info@0.5"], fault_seed=8)
    assert hits(client, 40) != first


@pytest.mark.parametrize(("probability", "hit"), [("0", False), ("1", True), ("0.0", False), ("1.0", True)])
def test_probabilities_of_0_and_1(faulty, probability, hit):
    _, client = faulty(f"500@{probability}")
    assert hits(client, 5) == [hit] * 5


def test_several_faults_at_once(faulty):
    server, client = faulty("latency:info=0.05", "503:info#2-", "429:info#1,3", "stuck-watermark")
    begun = time.monotonic()
    assert [client.send("GET", "/docs/info").status_code for _ in range(4)] == [429, 503, 503, 503]
    assert time.monotonic() - begun >= 0.2
    # The first matching fault applies to an answer; an answer with an error shows no watermark.
    expected = {"latency": 4, "429": 1, "503": 3}
    assert server.injected() == {**dict.fromkeys(KINDS, 0), **expected}


def test_a_rate_limit_has_precedence(faulty):
    server, client = faulty("503#1-", rate_limit="4/1000")
    # Two requests and a read created the index.
    response = client.send("GET")
    assert response.status_code == 503
    assert response.headers["Ratelimit"].startswith('"default";r=0;')
    assert refusal(client.send("GET"))[0] == 429
    assert server.injected()["503"] == 1


# --- changes ------------------------------------------------------------------------------------------------


def test_faults_can_be_changed_over_http(faulty):
    server, client = faulty("500:info")
    url = client.root + "/_local/faults"
    assert hits(client, 2) == [True, True]
    injected = {**dict.fromkeys(KINDS, 0), "500": 2}
    assert result(client.session.get(url)) == {"faults": ["500:info"], "seed": 0, "injected": injected}

    given = {"faults": ["503:info@0.5=", "429"], "seed": 3}
    assert "accepts no value" in refusal(client.session.post(url, json=given))[2]
    assert hits(client, 1) == [True]
    given["faults"][0] = "503:info@0.5"
    changed = result(client.session.post(url, json=given))
    assert (changed["faults"], changed["seed"]) == (given["faults"], 3)
    assert hits(client, 8) == [True] * 8

    cleared = result(client.session.delete(url))
    assert (cleared["faults"], cleared["seed"]) == ([], 0)
    assert hits(client, 2) == [False, False]
    # The counts stay until they are reset.
    assert sum(server.injected().values()) == sum(cleared["injected"].values()) == 11
    result(client.session.delete(client.root + "/_local/stats"))
    assert server.injected() == dict.fromkeys(KINDS, 0)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"faults": "429"}, "faults must be a list, such as ['429:info@0.1=5'], got '429'"),
        ({"faults": {"429": 1}}, "faults must be a list"),
        ({"faults": 429}, "faults must be a list"),
        ({"faults": None}, "faults must be a list"),
        ({"faults": [429]}, "fault 429: invalid form. Expected KIND"),
        ({"faults": ["429"] * (MAX_FAULTS + 1)}, "at most 100 faults are allowed, got 101"),
        ({"faults": [], "seed": "1"}, "fault_seed must be an integer, got '1'"),
        ({"faults": [], "seed": True}, "fault_seed must be an integer, got True"),
        ({"fault": []}, "fault: unknown; expected faults, seed"),
    ],
)
def test_invalid_changes_are_refused(client: Client, shared, body, message):
    status, _, text = refusal(client.session.post(client.root + "/_local/faults", json=body))
    assert status == 400
    assert message in text
    assert result(client.session.get(client.root + "/_local/faults"))["faults"] == []


def test_requests_from_web_pages_cannot_change_faults(client: Client):
    url = client.root + "/_local/faults"
    for method in ("GET", "POST", "DELETE"):
        assert client.session.request(method, url, headers={"Origin": "http://evil"}).status_code == 403
    assert refusal(client.session.put(url))[:2] == (405, 7001)


def test_faults_before_the_start(connect):
    server = LocalVectorize(faults=["500"])
    server.set_faults(["503:list_indexes"], 5)
    with server:
        client = connect(server)
        assert client.send("GET").status_code == 503
        assert client.create().status_code == 200
        server.set_faults(["504"])
        assert client.send("GET").status_code == 504
        server.set_faults([])
        assert client.send("GET").status_code == 200


# --- syntax -------------------------------------------------------------------------------------------------


def test_all_parts_of_a_fault():
    fault = parse_fault("429:info#1,4-6,10-=5")
    assert (fault.name, fault.endpoints, fault.value) == ("429", ("info",), 5)
    assert fault.numbers == ((1, 1), (4, 6), (10, None))
    assert fault.probability is None
    by_chance = parse_fault("lagging-view@0.25=1.5")
    assert (by_chance.probability, by_chance.numbers, by_chance.value) == (0.25, None, 1.5)
    assert by_chance.endpoints == ("info", "get_by_ids", "list_vectors", "query")
    assert parse_fault("500").endpoints == ENDPOINTS


BAD = [
    ("", "unknown kind ''; the kinds are latency, reset-before"),
    ("nonsense", "unknown kind 'nonsense'"),
    ("404", "unknown kind '404'"),
    (" 500", "unknown kind ' 500'"),
    ("429:", "429 does not apply to endpoint '', only to list_indexes,"),
    ("429:infos", "429 does not apply to endpoint 'infos'"),
    ("stuck-watermark:query", "stuck-watermark does not apply to endpoint 'query', only to info"),
    ("lagging-view:upsert=1", "only to info, get_by_ids, list_vectors, query"),
    ("40041:verify_token", "40041 does not apply to endpoint 'verify_token'"),
    ("500@", "the probability must be a number from 0 to 1, such as 0.1, got ''"),
    ("500@1.1", "got '1.1'"),
    ("500@-1", "got '-1'"),
    ("500@nan", "got 'nan'"),
    ("500@1e-1", "got '1e-1'"),
    ("500@.5", "got '.5'"),
    ("500#", "request numbers must be like 3 or 1,4-6 or 10-, counted from 1, got ''"),
    ("500#0", "got '0'"),
    ("500#1,", "got ''"),
    ("500#-3", "got '-3'"),
    ("500#1;2", "got '1;2'"),
    ("500#4-3", "the range '4-3' of request numbers ends before it begins"),
    ("500@0.1#3", "invalid form"),
    ("500#3@0.1", "invalid form"),
    ("500#3:info", "got '3:info'"),
    ("500=1", "500 accepts no value, got '1'"),
    ("latency", "latency requires a value, the seconds of delay, such as latency=2"),
    (
        "latency=",
        "the value of latency, the seconds of delay, must be a number from 0 to 86400, such as latency=2, "
        "got ''",
    ),
    ("latency=-1", "got '-1'"),
    ("latency=inf", "got 'inf'"),
    ("latency=86401", "got '86401'"),
    ("429=0.5", "the value of 429, the seconds of Retry-After, must be an integer from 0 to 86400"),
    ("429=5@0.1", "got '5@0.1'"),
    ("hang=0", "the value of hang, the seconds between two bytes, must be a number from 0.01 to 86400"),
    ("lagging-view", "lagging-view requires a value, the seconds behind the watermark"),
    ("429\u2028=\u0661", r"fault '429\u2028=\u0661': unknown kind"),
]


@pytest.mark.parametrize(("spec", "message"), BAD)
def test_invalid_faults_are_refused(spec, message):
    with pytest.raises(ValueError, match=r"^fault ") as caught:
        LocalVectorize(faults=[spec])
    text = str(caught.value)
    assert text.startswith(f"fault {spec!a}: ")
    assert message in text
    assert text.endswith(
        "Expected KIND[:ENDPOINT][@PROBABILITY|#REQUEST_NUMBERS][=VALUE], such as 429:info@0.1=5"
    )


pieces = st.sampled_from(
    [*KINDS, *ENDPOINTS, *"::@@##==,,--..", "0", "1", "0.5", "10", "86400", "1e9", "nan", " ", "\n", "\u0663"]
)
specs = st.text(max_size=30) | st.lists(pieces, max_size=8).map("".join)


@given(spec=specs)
def test_arbitrary_text_is_a_fault_or_a_clear_error(spec):
    error = ""
    try:
        fault = parse_fault(spec)
    except ValueError as e:
        error = str(e)
    else:
        kind = KINDS[fault.name]
        assert set(fault.endpoints) <= set(kind.endpoints)
        assert fault.probability is None or fault.numbers is None
        assert fault.probability is None or 0 <= fault.probability <= 1
        assert all(last is None or 1 <= first <= last for first, last in fault.numbers or ())
        assert fault.value is None or kind.value.least <= fault.value <= 86400
        assert (fault.value is None) <= (kind.value is None or not kind.value.required)
    assert not error or (error.startswith("fault ") and error.isascii() and len(error) < 800)


@given(
    name=st.sampled_from(sorted(KINDS)),
    endpoint=st.none() | st.integers(0, 20),
    chance=st.none() | st.floats(0, 1).map(lambda p: round(p, 6)),
    numbers=st.none() | st.lists(st.tuples(st.integers(1, 99), st.none() | st.integers(0, 99)), min_size=1),
    value=st.none() | st.integers(1, 86400),
)
def test_well_formed_faults_are_accepted(name, endpoint, chance, numbers, value):
    kind = KINDS[name]
    spec = name
    if endpoint is not None:
        spec += f":{kind.endpoints[endpoint % len(kind.endpoints)]}"
    if chance is not None:
        spec += f"@{chance:.6f}"
    elif numbers is not None:
        spec += "#" + ",".join(f"{a}-" if b is None else f"{a}-{a + b}" for a, b in numbers)
    if kind.value is not None and (value is not None or kind.value.required):
        spec += f"={value or 1}"
    fault = parse_fault(spec)
    assert fault.spec == spec
    assert len(fault.endpoints) == (len(kind.endpoints) if endpoint is None else 1)
    assert fault.probability == chance
    if chance is None and numbers is not None:
        assert fault.numbers == tuple((a, None if b is None else a + b) for a, b in numbers)
