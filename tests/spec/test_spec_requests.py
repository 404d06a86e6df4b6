# SPDX-License-Identifier: Apache-2.0
"""Cloudflare's description of the API allows the requests that the client sends."""

from __future__ import annotations

import inspect
import json
from collections import defaultdict
from collections.abc import Iterator
from email.message import Message
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from airflow_provider_cfvectorize.client.client import VectorizeClient
from client.servers import ACCOUNT, TOKEN, Reply, Request, ScriptedServer, accepted, make_client, ok
from spec.arguments import ARGUMENTS, CALLS, Arguments
from spec.openapi import BASE_PATH, DOCUMENT, ENDPOINTS, INDEXES, JSON, Finding, endpoint_of, findings

ONE_INDEX = {"name": "docs", "config": {"dimensions": 32, "metric": "cosine"}}
RESULTS: dict[str, Any] = {
    "GET ": [ONE_INDEX],
    "POST ": ONE_INDEX,
    "GET /{index_name}": ONE_INDEX,
    "DELETE /{index_name}": None,
    "GET /{index_name}/info": {"dimensions": 32, "vectorCount": 0},
    "GET /{index_name}/list": {"count": 0, "totalCount": 0, "isTruncated": False, "vectors": []},
    "POST /{index_name}/get_by_ids": [],
    "POST /{index_name}/query": {"count": 0, "matches": []},
    "GET /{index_name}/metadata_index/list": {"metadataIndexes": []},
}


class Excuse(NamedTuple):
    """A finding whose cause is an error in the description."""

    finding: Finding
    reason: str
    #: A field that must also be in the request.
    along: str = ""


QUERY = "POST /{index_name}/query"
EXCUSES = [
    Excuse(
        Finding(QUERY, "body", "undeclared namespace"),
        "Cloudflare's own command-line tool, wrangler, sends it, and the documentation of namespaces has it",
    ),
    Excuse(
        Finding(QUERY, "body", "undeclared vectorId"),
        "Cloudflare's own command-line tool, wrangler, sends it in place of a vector",
    ),
    Excuse(
        Finding(QUERY, "body", "missing vector"),
        "a query has either vector or vectorId; the description knows only the former",
        along="vectorId",
    ),
]


def answer(request: Request) -> Reply:
    endpoint = str(endpoint_of(request.method, request.path))
    return ok(RESULTS[endpoint]) if endpoint in RESULTS else accepted()


@pytest.fixture(scope="module")
def server() -> Iterator[ScriptedServer]:
    server = ScriptedServer(answer)
    yield server
    server.close()


@pytest.fixture(scope="module")
def client(server: ScriptedServer) -> Iterator[VectorizeClient]:
    client = make_client(server.base_url)
    yield client
    client.close()


def sent_by(server: ScriptedServer, client: VectorizeClient, method: str, arguments: Arguments) -> Request:
    """Call a method and return the only request that the server receives."""
    server.requests.clear()
    getattr(client, method)(**arguments)
    (request,) = server.requests
    return request


def findings_of(request: Request) -> list[Finding]:
    return findings(request.method, request.path, request.headers, request.body)


def without_excused(found: list[Finding], request: Request) -> list[Finding]:
    def is_excused(finding: Finding) -> bool:
        return any(
            finding == excuse.finding and (not excuse.along or excuse.along in json.loads(request.body))
            for excuse in EXCUSES
        )

    return [finding for finding in found if not is_excused(finding)]


# --- the client ---------------------------------------------------------------------------------------------


def test_all_methods_that_send_one_request_are_covered() -> None:
    parameters = defaultdict(set)
    for method, arguments in CALLS:
        parameters[method] |= arguments.keys()
    assert len(ARGUMENTS) == len(ENDPOINTS) == 14
    assert ARGUMENTS.keys() == parameters.keys()
    for method, passed in parameters.items():
        assert inspect.signature(getattr(VectorizeClient, method)).parameters.keys() - {"self"} == passed


@pytest.mark.parametrize("method", ARGUMENTS)
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data())
def test_random_arguments_are_sent_as_described(
    server: ScriptedServer, client: VectorizeClient, method: str, data: st.DataObject
) -> None:
    arguments = data.draw(ARGUMENTS[method])
    request = sent_by(server, client, method, arguments)
    assert without_excused(findings_of(request), request) == []
    assert urlsplit(request.path).path.startswith(BASE_PATH + INDEXES.format(account_id=ACCOUNT))
    # The request contains the arguments.
    if "index_name" in arguments:
        assert f"/{arguments['index_name']}" in request.path
    for parameter, name in (
        ("cursor", "cursor"),
        ("count", "count"),
        ("unparsable_behavior", "unparsable-behavior"),
    ):
        if parameter in arguments:
            assert dict(parse_qsl(urlsplit(request.path).query, keep_blank_values=True))[name] == str(
                arguments[parameter]
            )
    for name in ("ids", "filter", "vector", "namespace", "description", "name"):
        if name in arguments:
            assert json.loads(request.body)[name] == arguments[name]
    if isinstance(vectors := arguments.get("vectors"), list):
        assert [json.loads(line) for line in request.body.splitlines()] == vectors


def test_every_described_parameter_is_sent(server: ScriptedServer, client: VectorizeClient) -> None:
    sent: dict[str, set[str]] = defaultdict(set)
    for method, arguments in CALLS:
        request = sent_by(server, client, method, arguments)
        assert without_excused(findings_of(request), request) == []
        endpoint = str(endpoint_of(request.method, request.path))
        sent[endpoint] |= {name for name, _ in parse_qsl(urlsplit(request.path).query)}
        if request.headers.get("Content-Type") == JSON:
            sent[endpoint] |= json.loads(request.body).keys()
    excused = {QUERY: {"namespace", "vectorId"}}
    for endpoint in ENDPOINTS:
        described = {p["name"] for p in endpoint.operation["parameters"] if p["in"] == "query"}
        described |= described_fields(endpoint.operation)
        assert sent[str(endpoint)] == described | excused.get(str(endpoint), set()), endpoint


def described_fields(operation: dict[str, Any]) -> set[str]:
    content = operation.get("requestBody", {"content": {}})["content"]
    if JSON not in content:
        return set()
    reference = content[JSON]["schema"]["$ref"]
    return set(DOCUMENT["components"]["schemas"][reference.rpartition("/")[2]]["properties"])


def test_the_other_credentials_are_described(server: ScriptedServer) -> None:
    client = make_client(server.base_url, api_token=None, api_email="a@example.com", api_key=TOKEN)
    assert findings_of(sent_by(server, client, "list_indexes", {})) == []


def test_every_excuse_is_needed(server: ScriptedServer, client: VectorizeClient) -> None:
    asked = {"index_name": "docs", "vector_id": "a", "namespace": "n"}
    request = sent_by(server, client, "query", asked)
    assert sorted(findings_of(request)) == sorted(excuse.finding for excuse in EXCUSES)
    assert without_excused(findings_of(request), request) == []


# --- the check itself ---------------------------------------------------------------------------------------

PATH = BASE_PATH + INDEXES.format(account_id=ACCOUNT)
TOKEN_SENT = {"Authorization": "Bearer x"}
JSON_SENT = {**TOKEN_SENT, "Content-Type": "application/json"}
NDJSON_SENT = {**TOKEN_SENT, "Content-Type": "application/x-ndjson"}


@pytest.mark.parametrize(
    ("method", "target", "headers", "body", "problems"),
    [
        ("PUT", PATH, TOKEN_SENT, "", [f"PUT {PATH} is no endpoint of v2"]),
        (
            "GET",
            PATH.replace("/v2", ""),
            TOKEN_SENT,
            "",
            [f"GET {PATH.replace('/v2', '')} is no endpoint of v2"],
        ),
        ("GET", f"{PATH}/docs/info", {}, "", ["credentials []"]),
        ("GET", f"{PATH}/docs/info", {"X-Auth-Key": "x"}, "", ["credentials ['api_key']"]),
        ("GET", f"{PATH}/docs/info?a=1", TOKEN_SENT, "", ["undeclared a"]),
        ("GET", f"{PATH}/docs/info", TOKEN_SENT, "{}", ["2 bytes of None, and none are described"]),
        ("GET", f"{PATH}/Docs/info", TOKEN_SENT, "", ["does not match"]),
        ("GET", f"{PATH}/docs/list?count=0", TOKEN_SENT, "", ["0 is less than the minimum of 1"]),
        ("GET", f"{PATH}/docs/list?count=x", TOKEN_SENT, "", ["'x' is not of type 'integer'"]),
        ("GET", f"{PATH}/docs/list?count=1&count=2", TOKEN_SENT, "", ["more than once"] * 2),
        ("POST", f"{PATH}/docs/get_by_ids", TOKEN_SENT, '{"ids": []}', ["Content-Type None"]),
        ("POST", f"{PATH}/docs/get_by_ids", JSON_SENT, '{"ids": ["a"], "b": 1}', ["undeclared b"]),
        ("POST", f"{PATH}/docs/get_by_ids", JSON_SENT, '{"ids": [1]}', ["1 is not of type 'string'"]),
        (
            "POST",
            PATH,
            JSON_SENT,
            '{"name": "docs", "config": {"dimensions": 32, "metric": "cosine", "preset": "x"}}',
            ["is not valid under any of the given schemas"],
        ),
        (
            "POST",
            f"{PATH}/docs/upsert?unparsable-behavior=x",
            NDJSON_SENT,
            '{"id":"a","values":[1]}',
            ["'x' is not"],
        ),
        ("POST", f"{PATH}/docs/upsert", NDJSON_SENT, '{"id":"a"}\n', ["missing values"]),
        (
            "POST",
            f"{PATH}/docs/upsert",
            NDJSON_SENT,
            '{"id":"a","values":["1"],"b":1}',
            ["undeclared b", "'1' is not"],
        ),
    ],
)
def test_undescribed_parts_are_found(
    method: str, target: str, headers: dict[str, str], body: str, problems: list[str]
) -> None:
    message = Message()
    for name, value in headers.items():
        message[name] = value
    found = sorted(finding.problem for finding in findings(method, target, message, body.encode()))
    assert len(found) == len(problems)
    for finding, problem in zip(
        found, sorted(problems, key=lambda p: not p.startswith("undeclared")), strict=True
    ):
        assert problem in finding


def test_duplicate_keys_and_invalid_json_are_found() -> None:
    for body in (b'{"ids": [], "ids": []}', b'{"ids": NaN}', b"\xff"):
        with pytest.raises(ValueError, match=r"twice|NaN|decode"):
            findings("POST", f"{PATH}/docs/get_by_ids", JSON_SENT, body)
