# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gzip
import logging
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.http import transport
from airflow_provider_cfvectorize.exceptions import (
    VectorizeError,
    VectorizeInputError,
    VectorizeResponseError,
    VectorizeTransportError,
)
from client.servers import ACCOUNT, TOKEN, Reply, Request, ScriptedServer, accepted, ok, raw_server, refused

Connect = Callable[..., VectorizeClient]
Serve = Callable[..., ScriptedServer]


def drip(head: bytes, piece: bytes) -> Callable[[socket.socket, threading.Event], None]:
    def send(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(head)
        while not over.wait(0.02):
            connection.sendall(piece)

    return send


OK_LINE = b"HTTP/1.1 200 OK\r\n"


@pytest.mark.parametrize(
    ("head", "piece"),
    [
        pytest.param(OK_LINE + b"Content-Length: 1000000\r\n\r\n", b" ", id="body"),
        pytest.param(OK_LINE + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", id="chunked"),
        pytest.param(OK_LINE + b"Connection: close\r\n\r\n", b" ", id="until the end"),
        pytest.param(OK_LINE + b"X-Long: ", b"x", id="inside a header"),
        pytest.param(b"HTTP/1.1 20", b"0", id="inside the status line"),
        pytest.param(b"", b"HTTP/1.1 100 Continue\r\n\r\n", id="interim answers"),
    ],
)
def test_an_endless_answer_times_out(connect: Connect, head: bytes, piece: bytes) -> None:
    with raw_server(drip(head, piece)) as base_url:
        client = connect(base_url, timeout=0.3)
        started = time.monotonic()
        with pytest.raises(VectorizeTransportError, match=r"more than 0\.3 s between two reads.* 0\.9 s"):
            client.list_indexes()
        # Three times the timeout, with room for a busy machine.
        assert time.monotonic() - started < 5


def test_a_silent_server_times_out(connect: Connect) -> None:
    def silent(connection: socket.socket, over: threading.Event) -> None:
        over.wait(10)

    with (
        raw_server(silent) as base_url,
        pytest.raises(VectorizeTransportError, match=r"between two reads"),
    ):
        connect(base_url, timeout=0.1).list_indexes()


def test_a_slow_answer_within_the_bounds_is_read(connect: Connect) -> None:
    body = b'{"success": true, "result": []}'

    def slow(connection: socket.socket, over: threading.Event) -> None:
        connection.sendall(OK_LINE + b"Content-Length: %d\r\n\r\n" % len(body))
        for byte in body:
            over.wait(0.001)
            connection.sendall(bytes([byte]))

    with raw_server(slow) as base_url:
        assert connect(base_url, timeout=5).list_indexes() == []


def test_a_large_answer_is_read_and_a_larger_one_refused(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert transport.MAX_RESPONSE_BYTES == 64 * 1024 * 1024
    monkeypatch.setattr(transport, "MAX_RESPONSE_BYTES", 100_000)
    envelope = b'{"success": true, "result": []'
    fits = envelope.ljust(99_999) + b"}"
    client = connect(serve([Reply(200, fits), Reply(200, fits[:-1] + b" }"), ok([])]))
    assert client.list_indexes() == []
    with pytest.raises(VectorizeTransportError, match=r"larger than 0 MiB.*check that the connection's host"):
        client.list_indexes()
    # The rest of the refused answer is not read as the next answer.
    assert client.list_indexes() == []


def test_the_size_limit_applies_to_the_unpacked_answer(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transport, "MAX_RESPONSE_BYTES", 100_000)
    packed = gzip.compress(b" " * 10_000_000)
    client = connect(serve([Reply(200, packed, {"Content-Encoding": "gzip"})]))
    with pytest.raises(VectorizeTransportError, match="larger than"):
        client.list_indexes()


def test_gzip_is_read(serve: Serve, connect: Connect) -> None:
    packed = gzip.compress(ok([{"name": "docs"}]).body)
    server = serve([Reply(200, packed, {"Content-Encoding": "gzip"})])
    assert connect(server).list_indexes() == [{"name": "docs"}]
    assert "gzip" in server.requests[0].headers["Accept-Encoding"]


def test_invalid_gzip_is_an_error(serve: Serve, connect: Connect) -> None:
    server = serve([Reply(200, b"not packed at all", {"Content-Encoding": "gzip"})])
    with pytest.raises(VectorizeTransportError, match="no response from"):
        connect(server).list_indexes()


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed(serve: Serve, connect: Connect, status: int) -> None:
    other = serve([ok([])])
    server = serve([Reply(status, b"moved", {"Location": f"{other.base_url}/x\x07"})])
    with pytest.raises(
        VectorizeResponseError, match=r"a redirect to 'http://127.*/x\\x07', which is not"
    ) as e:
        connect(server).list_indexes()
    assert e.value.status == status
    assert len(server.requests) == 1
    assert other.requests == []


def test_a_redirect_to_an_invalid_url_is_an_error(serve: Serve, connect: Connect) -> None:
    with pytest.raises(VectorizeResponseError, match=r"a redirect to 'http://\[', which is not"):
        connect(serve([Reply(302, b"moved", {"Location": "http://["})])).list_indexes()


def test_cookies_are_not_sent_back(serve: Serve, connect: Connect) -> None:
    server = serve([ok([], Set_Cookie="session=1; Path=/")])
    client = connect(server)
    client.list_indexes()
    client.list_indexes()
    assert [request.headers["Cookie"] for request in server.requests] == [None, None]


def test_netrc_is_not_read(
    serve: Serve, connect: Connect, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("default login somebody password else\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    server = serve([ok([])])
    connect(server).list_indexes()
    connect(server, api_email="a@example.com", api_key="key-1").list_indexes()
    token, key = (request.headers for request in server.requests)
    assert token.get_all("Authorization") == [f"Bearer {TOKEN}"]
    assert key["Authorization"] is None
    assert (key["X-Auth-Email"], key["X-Auth-Key"]) == ("a@example.com", "key-1")


def test_requests_to_loopback_use_no_proxy(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve([refused(500, 1)])
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
    server = serve([ok([])])
    assert connect(server).list_indexes() == []
    assert connect(f"http://localhost:{server.port}/client/v4").list_indexes() == []
    assert proxy.requests == []


@pytest.mark.parametrize("variable", ["http_proxy", "all_proxy", "ALL_PROXY"])
def test_requests_to_other_hosts_use_the_proxy(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    proxy = serve([ok([])])
    monkeypatch.setenv(variable, f"http://127.0.0.1:{proxy.port}")
    client = connect("http://vectorize.invalid/v4", allow_http_hosts=["Vectorize.invalid"])
    assert client.list_indexes() == []
    assert proxy.requests[0].path == f"http://vectorize.invalid/v4/accounts/{ACCOUNT}/vectorize/v2/indexes"


def test_which_variable_names_the_proxy(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy, other = serve([ok([])]), serve([refused(500, 1)])
    monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{other.port}")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{other.port}")
    # Lower case has precedence over upper case, and the scheme's variable over ALL_PROXY.
    monkeypatch.setenv("http_proxy", f"http://someone:else@127.0.0.1:{proxy.port}")
    client = connect("http://vectorize.invalid/v4", allow_http_hosts=["vectorize.invalid"])
    assert client.list_indexes() == []
    # The credentials are for the proxy, not for the API.
    assert proxy.requests[0].headers["Proxy-Authorization"] == "Basic c29tZW9uZTplbHNl"
    assert other.requests == []
    # Later changes of the environment have no effect.
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{other.port}")
    assert client.list_indexes() == []


def test_a_proxys_refusal_of_https_is_an_error(
    serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = serve([Reply(407, b"who are you?")])
    monkeypatch.setenv("https_proxy", f"http://someone:proxy-password@127.0.0.1:{proxy.port}")
    with pytest.raises(
        VectorizeTransportError, match=r"the proxy on the way to vectorize\.invalid failed"
    ) as e:
        connect("https://vectorize.invalid/v4").list_indexes()
    assert "proxy-password" not in str(e.value)
    assert [(r.method, r.path) for r in proxy.requests] == [("CONNECT", "vectorize.invalid:443")]
    assert TOKEN not in str(proxy.requests[0].headers)


@pytest.mark.parametrize(
    "proxy",
    [
        "http://a:proxy-password@[",
        "http://a:proxy-password@h:x",
        "http://a:proxy-password@h:99999",
        "socks9://a:proxy-password@h:1",
        "http://a:proxy-password@",
        "a:proxy-password@",
    ],
)
def test_the_password_of_a_malformed_proxy_is_not_shown(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("https_proxy", proxy)
    with pytest.raises(VectorizeInputError, match=r"proxy for vectorize\.invalid is not an address") as e:
        connect("https://vectorize.invalid/v4")
    assert "proxy-password" not in f"{e.value!r} {e.value.__context__!r}"


def test_no_proxy_excludes_hosts(serve: Serve, connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = serve([ok([])])
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.port}")
    monkeypatch.setenv("no_proxy", "vectorize.invalid")
    with pytest.raises(VectorizeTransportError):
        connect("http://vectorize.invalid/v4", allow_http_hosts=["vectorize.invalid"]).list_indexes()
    assert proxy.requests == []


def test_a_refused_connection_is_an_error(connect: Connect) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    refusal = rf"no response from 127\.0\.0\.1:{port}: .*refused"
    with pytest.raises(VectorizeTransportError, match=refusal) as e:
        connect(f"http://127.0.0.1:{port}").list_indexes()
    assert not e.value.sent


def test_a_reset_before_the_answer_is_an_error(serve: Serve, connect: Connect) -> None:
    reset = r"^GET .*/indexes: no response from 127\.0\.0\.1"
    with pytest.raises(VectorizeTransportError, match=reset) as e:
        connect(serve(["reset"])).list_indexes()
    assert e.value.sent


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(OK_LINE + b'Content-Length: 100\r\n\r\n{"success": true', id="truncated"),
        pytest.param(OK_LINE + b'Transfer-Encoding: chunked\r\n\r\n10\r\n{"success": true', id="chunk"),
        pytest.param(OK_LINE + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n", id="no chunk"),
        pytest.param(b"", id="nothing"),
        pytest.param(b"SSH-2.0-OpenSSH_9.6\r\n", id="not HTTP"),
        pytest.param(OK_LINE + b"X: y\r\n" * 200 + b"\r\n", id="too many headers"),
        pytest.param(OK_LINE + b"X: " + b"y" * 100_000 + b"\r\n\r\n", id="a long header"),
    ],
)
def test_an_incomplete_answer_is_an_error(connect: Connect, answer: bytes) -> None:
    with (
        raw_server(lambda connection, _: connection.sendall(answer)) as base_url,
        pytest.raises(VectorizeTransportError, match="no response from"),
    ):
        connect(base_url).list_indexes()


def test_connections_are_reused_after_any_answer(serve: Serve, connect: Connect) -> None:
    server = serve([ok([]), refused(400, 1004), Reply(504, b"<html>"), Reply(500, b""), ok([])])
    client = connect(server)
    for _ in range(5):
        try:
            client.list_indexes()
        except VectorizeError:
            continue
    assert server.connections == 1


def test_threads_share_a_pool_of_connections(serve: Serve, connect: Connect) -> None:
    together = threading.Barrier(4, timeout=10)

    def answer(request: Request) -> Reply:
        together.wait()
        return accepted()

    server = serve(answer)
    client = connect(server, max_connections=4)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda i: client.delete_by_ids("docs", [str(i)]), range(32)))
    assert sorted(int(request.ids[0]) for request in server.requests) == list(range(32))
    assert server.connections == 4


def failures(serve: Serve, connect: Connect) -> list[VectorizeError]:
    """Return an exception of each kind."""
    echo = f"I know you: {TOKEN} " * 9
    answers: list[Any] = [
        "reset",
        refused(400, 6003, echo),
        refused(403, 10000, echo),
        refused(429, 971, echo),
        refused(500, 1, echo),
        Reply(302, b"", {"Location": f"https://example.com/?{TOKEN}"}),
        Reply(504, f"<html>{echo * 40}</html>".encode()),
        Reply(200, f'{{"success": "{echo}"}}'.encode()),
        ok({"mutationId": TOKEN * 2}),
        ok(f"a {TOKEN}"),
    ]
    client = connect(serve(answers))
    found = []
    for _ in answers:
        with pytest.raises(VectorizeError) as e:
            client.delete_by_ids("docs", ["a"])
        found.append(e.value)
    with raw_server(lambda connection, _: connection.sendall(OK_LINE + b"X" * 99_999)) as base_url:
        with pytest.raises(VectorizeTransportError) as e:
            connect(base_url).info("docs")
        found.append(e.value)
    return found


def test_the_credential_is_in_no_error_log_or_repr(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = connect("http://127.0.0.1:9")
    for shown in (client, client.session, client.identity, client.session._transport._session.auth):  # type: ignore[attr-defined]
        assert TOKEN not in f"{shown!r} {shown}"
    for failure in failures(serve, connect):
        error: BaseException | None = failure
        while error is not None:
            assert TOKEN[:12] not in f"{error!r} {error} {vars(error)} {error.args}"
            assert not hasattr(error, "request")
            error = error.__cause__ or error.__context__
    assert "urllib3" in {record.name.split(".")[0] for record in caplog.records}
    assert TOKEN[:12] not in caplog.text


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 " + TOKEN.encode() + b"\r\n\r\n", id="status line"),
        pytest.param(b"x" * 190 + TOKEN.encode() * 20 + b"\r\n\r\n", id="long status line"),
        pytest.param(OK_LINE + TOKEN.encode() + b"\r\nX: 1\r\n\r\n", id="header"),
        pytest.param(OK_LINE + b"X: 1\r\nno header " + TOKEN.encode() + b"\r\n\r\n", id="second header"),
    ],
)
def test_a_credential_in_a_malformed_answer_head_is_masked(
    connect: Connect, caplog: pytest.LogCaptureFixture, answer: bytes
) -> None:
    caplog.set_level(logging.DEBUG)
    with (
        raw_server(lambda connection, _: connection.sendall(answer)) as base_url,
        pytest.raises(VectorizeError) as e,
    ):
        connect(base_url).list_indexes()
    error: BaseException | None = e.value
    while error is not None:
        assert TOKEN[:12] not in f"{error!r}"
        error = error.__cause__ or error.__context__
    assert TOKEN[:12] not in caplog.text


def test_clients_are_identical_if_url_and_credentials_are_equal(connect: Connect) -> None:
    base_url = "http://127.0.0.1:9"
    same = {connect(base_url).identity, connect(f"{base_url}/").identity}
    assert len(same) == 1
    others = {
        connect(base_url, api_token="another").identity,
        connect(base_url, api_email="a@example.com", api_key=TOKEN).identity,
        connect("http://127.0.0.1:10").identity,
    }
    assert len(others | same) == 4
