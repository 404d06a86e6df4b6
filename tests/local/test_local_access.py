# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
import requests

from airflow_provider_cfvectorize.local import Behaviour, LocalVectorize
from airflow_provider_cfvectorize.local.http.access import Hosts
from local.local_client import Client, envelope, mutation, refusal, result, vector

AUTHENTICATION = (403, 10000, "Authentication error")


def get(url: str, **headers: str | None) -> requests.Response:
    session = requests.Session()
    session.trust_env = False
    with session:
        return session.get(url, headers={k.replace("_", "-"): v for k, v in headers.items()}, timeout=30)


# --- credentials --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer two words", "Basic dTpw", "token", "Bearer ümlaut", 'Bearer "quoted"'],
)
def test_malformed_tokens_are_refused(client: Client, header):
    response = get(client.indexes, Authorization=header.encode("latin-1"))

    assert refusal(response) == (400, 6003, "Invalid request headers")
    assert response.json()["errors"][0]["error_chain"] == [
        {"code": 6111, "message": "Invalid format for Authorization header"}
    ]


def test_a_request_without_credentials_is_refused(client: Client):
    assert refusal(get(client.indexes)) == (
        400,
        9106,
        "Missing X-Auth-Key, X-Auth-Email or Authorization headers",
    )


def test_an_unknown_token_is_refused(client: Client, start):
    assert refusal(get(client.indexes, Authorization="Bearer unknown")) == (401, *AUTHENTICATION[1:])

    server = start(behaviour=Behaviour(wrong_token_status=403))
    url = f"{server.base_url}/accounts/{server.account_id}/vectorize/v2/indexes"
    assert refusal(get(url, Authorization="Bearer unknown")) == AUTHENTICATION


def test_the_scheme_is_case_insensitive(client: Client, shared):
    assert result(get(client.indexes, Authorization=f"bEARER {shared.api_token}"))


def test_a_custom_token(start, connect):
    server = start(api_token="my.own-token_1~2+3/4==")

    assert result(connect(server).send("GET")) == []


def test_a_read_only_token(start, connect):
    server = start(read_only_token="reader", apply_delay=0)
    reader, writer = connect(server, "reader"), connect(server)
    writer.create()
    last = mutation(writer.upsert([vector("a")]))

    assert reader.info()["processedUpToMutation"] == last
    assert reader.ids("a") == ["a"]
    assert reader.page()["totalCount"] == 1
    assert len(result(reader.send("GET"))) == 1
    assert result(reader.query([0.5] * 32))["count"] == 1
    assert reader.metadata_indexes() == []
    assert result(reader.send("GET", "/docs"))["name"] == "docs"
    for response in (
        reader.create("fresh"),
        reader.send("DELETE", "/docs"),
        reader.upsert([vector("b")]),
        reader.upload("insert", [vector("b")]),
        reader.delete(["a"]),
        reader.create_metadata_index("k", "string"),
        reader.delete_metadata_index("k"),
    ):
        assert refusal(response) == AUTHENTICATION


def test_email_and_key(client: Client, start):
    server = start(api_email="me@example.com", api_key="k3y")
    url = f"{server.base_url}/accounts/{server.account_id}/vectorize/v2/indexes"

    assert result(get(url, X_Auth_Email="Me@example.com", X_Auth_Key="k3y")) == []
    for email, key in (("me@example.com", "other"), ("you@example.com", "k3y")):
        assert refusal(get(url, X_Auth_Email=email, X_Auth_Key=key))[:2] == (401, 10000)
    for email, key, code, name in (
        ("nobody", "k3y", 6102, "X-Auth-Email"),
        (None, "k3y", 6102, "X-Auth-Email"),
        ("me@example.com", "a key", 6103, "X-Auth-Key"),
        ("me@example.com", None, 6103, "X-Auth-Key"),
    ):
        response = get(url, X_Auth_Email=email, X_Auth_Key=key)
        assert refusal(response)[:2] == (400, 6003)
        assert response.json()["errors"][0]["error_chain"] == [
            {"code": code, "message": f"Invalid format for {name} header"}
        ]
    # A server without an e-mail and key accepts no key.
    assert refusal(get(client.indexes, X_Auth_Email="me@example.com", X_Auth_Key="k3y"))[:2] == (401, 10000)


def test_another_account_is_not_found(client: Client):
    for account in ("0" * 32, "nonsense"):
        url = f"{client.base_url}/accounts/{account}/vectorize/v2/indexes/docs/info"
        status, code, text = refusal(client.session.get(url))
        assert (status, code) == (404, 7003)
        assert text.startswith("Could not route to /client/v4/accounts/")
        assert refusal(get(url, Authorization="Bearer unknown"))[:2] == (401, 10000)


@pytest.mark.parametrize("path", ["/user/tokens/verify", "/accounts/{account}/tokens/verify"])
def test_verifying_a_token(client: Client, shared, path):
    url = client.base_url + path.format(account=shared.account_id)

    body = envelope(client.session.get(url))
    assert body["result"]["status"] == "active"
    assert len(body["result"]["id"]) == 32
    (message,) = body["messages"]
    assert (message["code"], message["message"]) == (10000, "This API Token is valid and active")
    assert refusal(get(url, Authorization="Bearer unknown")) == (401, 1000, "Invalid API Token")
    assert refusal(get(url, Authorization="Bearer"))[:2] == (400, 6003)
    assert refusal(get(url))[:2] == (400, 9106)
    assert refusal(client.session.post(url))[:2] == (405, 7001)


# --- names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:80", "", "0.0.0.0:80", "localhost.evil.example"]
)
def test_other_host_headers_are_refused(client: Client, host):
    for url in (client.indexes, client.root + "/_local/stats"):
        status, code, text = refusal(client.session.get(url, headers={"Host": host}))
        assert (status, code) == (421, 1999)
        assert "--allow-host" in text


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.1.2.3:99", "[::1]:80"])
def test_host_headers_of_loopback_are_accepted(client: Client, host):
    assert result(client.session.get(client.indexes, headers={"Host": host}))


@pytest.mark.parametrize(
    ("host", "allowed", "header", "served"),
    [
        ("127.0.0.1", ["vectorize"], "vectorize:8787", True),
        ("127.0.0.1", ["Vectorize"], "vectorizE", True),
        ("127.0.0.1", [], "192.168.1.1", False),
        ("0.0.0.0", [], "192.168.1.1:8787", True),
        ("0.0.0.0", [], "localhost", True),
        ("0.0.0.0", [], "vectorize:8787", False),
        ("0.0.0.0", ["vectorize"], "vectorize:8787", True),
        ("::", [], "[fe80::1]:8787", True),
        ("my-box", [], "my-box:8787", True),
        ("my-box", [], "other", False),
        ("my-box", [], None, False),
        ("my-box", [], "[::1", False),
        ("my-box", [], "[::1]x", False),
        ("my-box", [], "my-box:http", False),
    ],
)
def test_served_hosts(host, allowed, header, served):
    hosts = Hosts(host, allowed)

    assert hosts.serves(header) is served
    assert hosts.serves(header) is served


@pytest.mark.parametrize(
    "options",
    [
        {"host": "0.0.0.0"},
        {"host": "0.0.0.0", "api_token": LocalVectorize().api_token},
        {"host": "my-box"},
        {"account_id": "short"},
        {"account_id": "g" * 32},
        {"port": 70_000},
        {"apply_delay": -1},
        {"apply_delay": float("nan")},
        {"visibility_lag": float("inf")},
        {"latency": -0.1},
        {"foreign_writes_per_second": -1},
        {"api_email": "me@example.com"},
        {"api_token": "two words"},
        {"api_token": ""},
        {"read_only_token": "ü"},
    ],
)
def test_invalid_parameters_are_refused(options):
    with pytest.raises(ValueError, match=r"\w"):
        LocalVectorize(**options)


def test_beyond_loopback_the_local_routes_require_the_token(start, connect):
    server = start(host="0.0.0.0", api_token="secret")

    assert server.base_url == f"http://127.0.0.1:{server.port}/client/v4"
    assert result(connect(server).send("GET")) == []
    assert refusal(get(server.root_url + "/_local/stats"))[:2] == (400, 9106)
    assert result(get(server.root_url + "/_local/stats", Authorization="Bearer secret"))


def test_no_secret_in_the_repr():
    server = LocalVectorize(api_token="very-secret", read_only_token="secret-too")

    assert "secret" not in repr(server)
