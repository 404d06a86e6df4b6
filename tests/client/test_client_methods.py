# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.http.session import RetryLimits
from airflow_provider_cfvectorize.exceptions import (
    VectorizeFileError,
    VectorizeInputError,
    VectorizeNotFoundError,
    VectorizeTransportError,
    is_permanent,
)
from client.servers import ACCOUNT, INDEXES, MUTATION, TOKEN, Reply, Request, ScriptedServer, ok

Connect = Callable[..., VectorizeClient]


@pytest.fixture
def echo(serve: Callable[..., ScriptedServer]) -> ScriptedServer:
    """Start a server whose only answer fits every method."""
    return serve(lambda _: ok({"mutationId": MUTATION, "vectors": []}, Date="Sat, 31 Jan 2026 23:59:59 GMT"))


@pytest.fixture
def client(echo: ScriptedServer, connect: Connect) -> VectorizeClient:
    return connect(echo, user_agent="airflow-provider-cfvectorize/1 apache-airflow/3")


def sent(echo: ScriptedServer) -> Request:
    (request,) = echo.requests
    return request


@pytest.mark.parametrize(
    ("call", "method", "path", "body"),
    [
        (lambda c: c.get_index("docs"), "GET", "/docs", None),
        (lambda c: c.delete_index("docs"), "DELETE", "/docs", None),
        (lambda c: c.info("docs"), "GET", "/docs/info", None),
        (lambda c: c.delete_by_ids("docs", ("a", "é")), "POST", "/docs/delete_by_ids", {"ids": ["a", "é"]}),
        (lambda c: c.list_vectors("docs"), "GET", "/docs/list", None),
        (
            lambda c: c.create_index("docs", dimensions=32, metric="cosine", description=""),
            "POST",
            "",
            {"name": "docs", "config": {"dimensions": 32, "metric": "cosine"}, "description": ""},
        ),
        (
            lambda c: c.create_index("docs", preset="@cf/baai/bge-small-en-v1.5"),
            "POST",
            "",
            {"name": "docs", "config": {"preset": "@cf/baai/bge-small-en-v1.5"}},
        ),
    ],
)
def test_the_request_of_each_method(
    client: VectorizeClient, echo: ScriptedServer, call: Any, method: str, path: str, body: object
) -> None:
    call(client)
    request = sent(echo)
    assert (request.method, request.path) == (method, f"{INDEXES}{path}")
    assert request.headers["Authorization"] == f"Bearer {TOKEN}"
    assert request.headers["User-Agent"] == "airflow-provider-cfvectorize/1 apache-airflow/3"
    assert request.headers["Accept"] == "application/json"
    if body is None:
        assert request.body == b""
    else:
        assert json.loads(request.body) == body
        assert request.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    ("options", "query"),
    [
        ({}, {}),
        ({"count": 1}, {"count": ["1"]}),
        ({"count": 1000, "cursor": "a&b=c #é/"}, {"count": ["1000"], "cursor": ["a&b=c #é/"]}),
    ],
)
def test_the_request_of_list_vectors(
    client: VectorizeClient, echo: ScriptedServer, options: dict[str, Any], query: dict[str, list[str]]
) -> None:
    client.list_vectors("docs", **options)
    assert parse_qs(urlsplit(sent(echo).path).query) == query


@pytest.mark.parametrize(
    "call",
    [
        lambda c: c.list_vectors("docs", count=0),
        lambda c: c.list_vectors("docs", count=1001),
        lambda c: c.info("../docs"),
        lambda c: c.delete_index(""),
        lambda c: c.create_index("Docs", preset="m"),
        lambda c: c.create_index("docs"),
        lambda c: c.create_index("docs", dimensions=32),
        lambda c: c.create_index("docs", preset="m", metric="cosine"),
        lambda c: c.create_index("docs", preset=""),
        lambda c: c.create_index("docs", dimensions=31, metric="cosine"),
        lambda c: c.create_index("docs", dimensions=1537, metric="cosine"),
        lambda c: c.create_index("docs", dimensions=32, metric="cosinus"),
        lambda c: c.delete_by_ids("docs", "abc"),
        lambda c: c.get_by_ids("docs", b"abc"),
        lambda c: c.get_by_ids("docs", [1.0]),
        lambda c: c.delete_by_ids("docs", ["\ud800"]),
        lambda c: c.upsert("docs", [], unparsable_behavior="ignore"),
        lambda c: c.upsert("docs", "text"),
        lambda c: c.upsert("docs", {"id": "a", "values": []}),
        lambda c: c.request("GET /\r\nX: ", "indexes"),
        lambda c: c.request("", "indexes"),
        lambda c: c.request("POST", "indexes", body=b"", content_type="a\r\nX: 1"),
        lambda c: c.request("POST", "indexes", json={"vector": [float("inf")]}),
        lambda c: c.request("POST", "indexes", json=object()),
    ],
)
def test_invalid_arguments_are_never_sent(client: VectorizeClient, echo: ScriptedServer, call: Any) -> None:
    with pytest.raises(VectorizeInputError):
        call(client)
    assert echo.requests == []


@pytest.mark.parametrize(
    ("path", "full"),
    [
        ("indexes", f"/client/v4/accounts/{ACCOUNT}/vectorize/v2/indexes"),
        ("/indexes/docs/query", f"{INDEXES}/docs/query"),
        ("accounts/abc/tokens/verify", "/client/v4/accounts/abc/tokens/verify"),
        ("/user/tokens/verify", "/client/v4/user/tokens/verify"),
        ("users/x", f"/client/v4/accounts/{ACCOUNT}/vectorize/v2/users/x"),
    ],
)
def test_paths_of_any_request(client: VectorizeClient, echo: ScriptedServer, path: str, full: str) -> None:
    assert client.request("get", path, params={"a": "1 &"}) == {"mutationId": MUTATION, "vectors": []}
    assert sent(echo).method == "GET"
    assert sent(echo).path == f"{full}?a=1+%26"


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "//evil.example.com/x",
        "indexes/",
        "indexes//docs",
        "../user",
        "indexes/../../user",
        "indexes/%2e%2e",
        "indexes?a=1",
        "indexes#a",
        "indexes/a b",
        "indexes\n",
        "indexés",
        "http://evil.example.com",
        "x" * 1001,
        None,
        5,
    ],
    ids=range(17),
)
def test_invalid_paths_are_refused(client: VectorizeClient, echo: ScriptedServer, path: Any) -> None:
    with pytest.raises(VectorizeInputError, match="expected segments of"):
        client.request("GET", path)
    assert echo.requests == []


@pytest.mark.parametrize("route", ["insert", "upsert"])
def test_vectors_are_sent_as_ndjson(client: VectorizeClient, echo: ScriptedServer, route: str) -> None:
    vectors = [{"id": "é\n\u2028", "values": [1, 0.5]}, {"id": "b", "values": [], "metadata": {"a": None}}]
    mutation = getattr(client, route)("docs", iter(vectors), unparsable_behavior="discard")
    assert mutation == {"mutationId": MUTATION, "accepted_at": "2026-01-31T23:59:59Z"}
    request = sent(echo)
    assert request.path == f"{INDEXES}/docs/{route}?unparsable-behavior=discard"
    assert request.headers["Content-Type"] == "application/x-ndjson"
    assert request.body.count(b"\n") == 2
    assert [json.loads(line) for line in request.body.decode().removesuffix("\n").split("\n")] == vectors


def test_ndjson_bytes_are_sent_unchanged(client: VectorizeClient, echo: ScriptedServer) -> None:
    client.upsert("docs", b'{"id":"a"}\nanything')
    assert sent(echo).body == b'{"id":"a"}\nanything'


@pytest.mark.parametrize(
    "bad",
    [
        {"id": "b", "values": [float("nan")]},
        {"id": "b", "values": [float("-inf")]},
        {"id": "b", "values": numpy.array([1, numpy.inf])},
        {"id": "\ud800", "values": [1.0]},
        {"id": "b", "metadata": {"a": {1, 2}}},
    ],
)
def test_the_error_of_a_vector_that_is_not_json_names_its_position(
    client: VectorizeClient, echo: ScriptedServer, bad: Any
) -> None:
    with pytest.raises(VectorizeInputError, match=r"vectors: at position 1, (the vector|a value cannot be)"):
        client.upsert("docs", [{"id": "a", "values": [1.0]}, bad])
    assert echo.requests == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"api_token": None}, "the API token is missing"),
        ({"api_token": ""}, "the API token is missing"),
        ({"api_token": "hunter2 "}, "the API token has a space"),
        ({"api_token": "hunter2\r\nX: 1"}, "the API token has a space, a line break"),
        ({"api_token": "hunter2é"}, "another character that cannot be sent"),
        ({"api_email": "a@example.com"}, "the Global API Key is missing"),
        ({"api_email": "a b", "api_key": "hunter2"}, "the api_email has a space"),
        ({"api_email": "a", "api_key": "hunter2\n"}, "the Global API Key has a space"),
        ({"user_agent": "a\nb"}, "user_agent"),
    ],
)
def test_text_invalid_in_a_header_is_refused(connect: Connect, options: dict[str, Any], said: str) -> None:
    with pytest.raises(VectorizeInputError, match=said) as e:
        connect("http://127.0.0.1:9", **options)
    assert "hunter2" not in str(e.value)


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """Create a self-signed certificate for 127.0.0.1; the file holds its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vectorize")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + made.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.fixture
def tls_url(certificate: Path, serve: Callable[..., ScriptedServer]) -> str:
    server = serve([ok([]), Reply(200, b"x"), ok([])])
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    server.server.socket = context.wrap_socket(
        server.server.socket, server_side=True, do_handshake_on_connect=False
    )
    return server.base_url.replace("http:", "https:")


def test_an_untrusted_certificate_is_refused_without_a_retry(
    connect: Connect, tls_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = connect(tls_url, retry=RetryLimits(), conn_id="vectors")
    with pytest.raises(
        VectorizeTransportError,
        match=r"\(connection 'vectors'\): no trusted TLS connection to 127\.0\.0\.1.*self.signed.*set "
        "REQUESTS_CA_BUNDLE to the file of that CA's certificate, on every worker",
    ) as e:
        client.list_indexes()
    assert (e.value.is_final, is_permanent(e.value, "poll")) == (True, True)
    assert "Retrying" not in caplog.text


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_ca_bundle_from_the_environment_is_trusted(
    connect: Connect, tls_url: str, certificate: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, str(certificate))
    assert connect(tls_url).list_indexes() == []


def test_ssl_cert_file_is_ignored(
    connect: Connect, tls_url: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    with pytest.raises(VectorizeTransportError, match="no trusted TLS connection"):
        connect(tls_url).list_indexes()


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_an_unreadable_ca_bundle_is_an_error(
    connect: Connect, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    (tmp_path / "none.pem").write_text("none")
    for name in ("absent.pem", "none.pem"):
        monkeypatch.setenv(variable, str(tmp_path / name))
        with pytest.raises(VectorizeFileError, match=f"no CA cert.*{name}.*the value of {variable}"):
            connect("https://127.0.0.1:9")
        # Plain HTTP does not need it.
        connect("http://127.0.0.1:9")


@pytest.mark.parametrize("token", [7, b"bytes", ["a"]])
def test_a_token_must_be_a_string(connect: Connect, token: Any) -> None:
    with pytest.raises(
        VectorizeInputError, match=r"the API token is of type (int|bytes|list), expected a string"
    ):
        connect("http://127.0.0.1:9", api_token=token)


def test_methods_against_the_local_server(index: tuple[VectorizeClient, str]) -> None:
    client, name = index
    assert name in [one["name"] for one in client.list_indexes()]
    assert client.get_index(name)["config"]["dimensions"] == 32
    assert client.info(name)["vectorCount"] == 0
    mutation = client.insert(name, [{"id": "é", "values": [1.0] * 32, "metadata": {"a": 1}}])
    while client.info(name).get("processedUpToMutation") != mutation["mutationId"]:
        time.sleep(0.01)
    (vector,) = client.get_by_ids(name, ["é", "x"])
    assert (vector["id"], vector["values"], vector["metadata"]) == ("é", [1.0] * 32, {"a": 1})
    assert client.list_vectors(name, count=5)["vectors"] == [{"id": "é"}]
    assert client.request("GET", f"indexes/{name}/info")["vectorCount"] == 1
    with pytest.raises(VectorizeNotFoundError, match="create the index first"):
        client.info("never-made")
