# SPDX-License-Identifier: Apache-2.0
"""The envelope of every response, credentials, and unknown paths."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime

import pytest

from conformance.account import Header
from conformance.routes import READS, WRITES, Route, name_of
from conformance.scenario import Lab, Scenario, turned
from conformance.service import DIMENSIONS, Service, codes, envelope, refusal, result
from conformance.sources import source

ENVELOPE = {"result", "success", "errors", "messages"}


@source("schema", "vectorize_api-response-common: result, success, errors, messages")
def test_the_envelope_of_a_success(vectorize: Service, docs_index: str) -> None:
    body = envelope(vectorize.send("GET", f"/{docs_index}/info"))
    assert body["success"] is True
    assert body["errors"] == []
    assert set(body) >= ENVELOPE


@source("observed", "mastra-ai/mastra#3444: the whole body of a duplicate create")
@source("schema", "vectorize_messages: a code of at least 1000 and a message")
def test_the_envelope_of_a_refusal(vectorize: Service, lab: Lab, docs_index: str) -> None:
    body = envelope(
        lab.create({"name": docs_index, "config": {"dimensions": DIMENSIONS, "metric": "cosine"}})
    )
    assert set(body) == ENVELOPE
    assert (body["result"], body["success"], body["messages"]) == (None, False, [])
    assert [sorted(error) for error in body["errors"]] == [["code", "message"]]


@source("observed", 'mastra-ai/mastra#3444: the refusal of a query has "result_info":null as well')
def test_the_envelope_of_a_refused_query(vectorize: Service, docs_index: str) -> None:
    body = envelope(vectorize.query(docs_index, turned(0)[:-1]))
    assert set(body) == {*ENVELOPE, "result_info"}
    assert body["result_info"] is None


@source(
    "inference", "RFC 9110, 6.6.1: a server with a clock sends Date; the only clock to compare stamps with"
)
def test_every_response_has_a_date(scenario: Scenario) -> None:
    assert parsedate_to_datetime(scenario.created.headers["Date"]).tzinfo is not None


@source("docs", "fundamentals/api/reference/limits: every answer says what is left, since 2025-09-03")
def test_every_response_has_the_rate_limit(scenario: Scenario) -> None:
    assert re.search(r'"[^"]*";\s*r=\d+;\s*t=\d+', scenario.created.headers["Ratelimit"])
    assert re.search(r'"[^"]*";\s*q=\d+;\s*w=\d+', scenario.created.headers["Ratelimit-Policy"])


# --- credentials --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("header", ["Bearer", "Bearer not a token", "Basic dXNlcjpwYXNz"])
@source("observed", "gateway of api.cloudflare.com: 400, code 6003 with 6111 in error_chain")
def test_malformed_credentials(vectorize: Service, header: str) -> None:
    response = vectorize.send("GET", auth=Header(header))
    found = refusal(response)
    assert (found.status, found.code, found.message) == (400, 6003, "Invalid request headers")
    chain = response.json()["errors"][0]["error_chain"]
    assert chain == [{"code": 6111, "message": "Invalid format for Authorization header"}]


@source("observed", "pollinations/pollinations#12606: 401 with code 10000, for Vectorize")
@source("observed", "cloudflare/pages-action#112, cloudflare/workers-sdk#4669: 403 with code 10000")
def test_an_unknown_token(vectorize: Service) -> None:
    found = refusal(vectorize.send("GET", auth=Header("Bearer 0123456789abcdefghijABCDEFGHIJ0123456789")))
    assert found.status in (401, 403)
    # On other routes, the gateway returns 9109, "Invalid access token".
    assert found.code in (10000, 9109)


@pytest.mark.read_only_token
@pytest.mark.parametrize("route", READS, ids=name_of)
@source("schema", "x-api-token-group of each operation: Vectorize Write, Vectorize Read")
def test_a_read_only_token_can_read(vectorize: Service, docs_index: str, route: Route) -> None:
    result(route.send(vectorize, docs_index, auth=vectorize.read_only))


@pytest.mark.read_only_token
@pytest.mark.parametrize("route", WRITES, ids=name_of)
@source("schema", "x-api-token-group of each operation: Vectorize Write")
@source("observed", "pollinations/pollinations#12606: code 10000 for a token without the permission")
def test_a_read_only_token_cannot_write(vectorize: Service, never: str, route: Route) -> None:
    # The index does not exist, so that nothing is lost if the token can write after all.
    found = refusal(route.send(vectorize, never, auth=vectorize.read_only))
    assert found.status in (401, 403)
    assert found.code == 10000


# --- addresses ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "below",
    ["/accounts/not-an-account/vectorize/v2/indexes", "/accounts/{account}/vectorize/v99/indexes"],
    ids=["bad account id", "unknown route"],
)
@source("observed", "gateway of api.cloudflare.com: 404 with code 7003")
@source("schema", "vectorize_messages: its example is code 7003, No route for the URI")
def test_unknown_paths(vectorize: Service, below: str) -> None:
    response = vectorize.send("GET", below=below)
    assert refusal(response).status == 404
    assert 7003 in codes(response)
