# SPDX-License-Identifier: Apache-2.0
"""Valid and invalid requests, made from Cloudflare's description of the API, sent to ``vectorize-local``."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.core.failures import AcceptedNegativeData, Failure
from schemathesis.openapi.checks import IgnoredAuth

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.local import LocalVectorize
from harness import wait_until
from spec.corrections import (
    DIMENSIONS,
    FOR_BAD,
    FOR_GOOD,
    INDEX,
    PROPERTY,
    VECTOR_ID,
    Correction,
    corrected,
)
from spec.openapi import ENDPOINTS, NDJSON, Endpoint

#: Every run sends identical requests without a deadline, independent of the machine's speed.
DRIVE = settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[
        HealthCheck.too_slow,
        HealthCheck.filter_too_much,
        HealthCheck.function_scoped_fixture,
    ],
)


class Excuse(NamedTuple):
    """A failing check although the server is right."""

    failure: type[Failure]
    applies: Callable[[schemathesis.Case, Failure], bool]
    reason: str


EXCUSES = [
    Excuse(
        IgnoredAuth,
        lambda case, failure: failure.message.startswith("Expected 401 or 403, got `400 Bad Request`"),
        "without any credentials the service's gateway answers 400 with code 9106 (on record), where the "
        "check expects 401 or 403; what it answers to strangers has a test of its own below",
    ),
    Excuse(
        AcceptedNegativeData,
        lambda case, failure: case.query.get("unparsable-behavior") == "discard",
        "lines that are no vectors are what this parameter is for",
    ),
]


def is_a_fault(context: Any, failure: Failure, case: schemathesis.Case, response: Any) -> bool:
    return not any(
        isinstance(failure, excuse.failure) and excuse.applies(case, failure) for excuse in EXCUSES
    )


def schema_from(corrections: list[Correction], *, good: bool) -> Any:
    """
    Return the corrected description for schemathesis.

    :param corrections: the corrections.
    :param good: whether the server must accept every allowed request; if not, it must refuse all others.
    """
    # Answers, such as mutation ids, must not influence the next request.
    fixed = {"extra-data-sources": {"responses": False}}
    every, random = ("positive", "positive") if good else ("all", "negative")
    config = {
        "generation": {"deterministic": True, "with-security-parameters": False},
        "phases": {
            "examples": {**fixed, "enabled": good},
            "coverage": {**fixed, "generation": {"mode": every}},
            "fuzzing": {**fixed, "generation": {"mode": random}, "error-feedback": {"enabled": False}},
        },
        # schemathesis makes an invalid request from a valid one and sends both. With FOR_BAD, an invalid
        # request may break rules that a schema cannot express.
        "checks": {"positive_data_acceptance": {"enabled": good}},
    }
    schema = schemathesis.openapi.from_dict(
        corrected(corrections), config=schemathesis.Config.from_dict(config)
    )
    schema.hook("filter_failure")(is_a_fault)
    return schema


GOOD = schema_from(FOR_GOOD, good=True)
BAD = schema_from(FOR_BAD, good=False)


@schemathesis.serializer(NDJSON)
def to_ndjson(context: Any, value: Any) -> bytes:
    """Write an array, which the corrections make of the body, as lines; write any other value as a line."""
    return b"\n".join(json.dumps(line).encode() for line in (value if isinstance(value, list) else [value]))


class World:
    """A server with an index, a vector and a metadata index, restored after every request."""

    def __init__(self, server: LocalVectorize) -> None:
        self.server = server
        self.session = requests.Session()
        self.session.trust_env = False
        self.headers = {"Authorization": f"Bearer {server.api_token}"}
        self.client = VectorizeClient(
            server.account_id, api_token=server.api_token, base_url=server.base_url, retry=None
        )
        self.make()

    def make(self) -> None:
        self.client.create_index(INDEX, dimensions=DIMENSIONS, metric="cosine")
        self.client.create_metadata_index(INDEX, PROPERTY, "string")
        vector = {
            "id": VECTOR_ID,
            "values": [0.5] * DIMENSIONS,
            "namespace": "n",
            "metadata": {PROPERTY: "x"},
        }
        mutation = self.client.upsert(INDEX, [vector])
        wait_until(lambda: self.client.info(INDEX).get("processedUpToMutation") == mutation["mutationId"])

    def send(self, case: schemathesis.Case) -> None:
        """Send a request, check the answer, and undo its effect."""
        response = case.call_and_validate(
            base_url=self.server.base_url,
            session=self.session,
            headers=self.headers,
            additional_checks=[has_an_envelope],
        )
        if response.status_code != 200:
            return
        match case.method.upper(), case.path.rpartition("/v2/indexes")[2]:
            case "POST", "":
                self.client.delete_index(case.body["name"])
            case "DELETE", _:
                self.make()
            case "POST", "/{index_name}/metadata_index/create":
                self.client.delete_metadata_index(INDEX, case.body["propertyName"])
                self.client.create_metadata_index(INDEX, PROPERTY, "string")
            case "POST", "/{index_name}/metadata_index/delete":
                self.client.create_metadata_index(INDEX, PROPERTY, "string")

    def close(self) -> None:
        self.session.close()
        self.client.close()


# The parameter gives each endpoint's test its own id; without it, pytest 9.2 gives all of them the function's
# name.
@pytest.fixture(params=["in-memory"])
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    with LocalVectorize(apply_delay=0) as server:
        world = World(server)
        yield world
        world.close()


def has_an_envelope(context: Any, response: Any, case: Any) -> None:
    """Check the rules for every answer, including 405, which the description omits."""
    check_envelope(response.status_code, response.headers["content-type"][0], response.content)


def check_envelope(status: int, content_type: str, body: bytes) -> None:
    assert content_type == "application/json"
    assert status == 200 or 400 <= status < 500, status
    envelope = json.loads(body, parse_constant=pytest.fail)
    assert envelope.keys() - {"result_info"} == {"success", "errors", "messages", "result"}
    assert envelope["success"] is (status == 200)
    assert isinstance(envelope["errors"], list)
    assert isinstance(envelope["messages"], list)
    assert bool(envelope["errors"]) is not envelope["success"]
    assert envelope["success"] or envelope["result"] is None
    for entry in envelope["errors"] + envelope["messages"]:
        assert type(entry["code"]) is int
        assert entry["code"] >= 1000
        assert isinstance(entry["message"], str)
        assert entry["message"]


@GOOD.parametrize()
@DRIVE
def test_described_requests_are_accepted(case: schemathesis.Case, world: World) -> None:
    world.send(case)


@BAD.parametrize()
@DRIVE
def test_undescribed_requests_are_refused(case: schemathesis.Case, world: World) -> None:
    world.send(case)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=str)
def test_requests_with_wrong_credentials_are_refused(world: World, endpoint: Endpoint) -> None:
    path = endpoint.path.format(account_id=world.server.account_id, index_name=INDEX)
    for credentials, status, code in (
        ({}, 400, 9106),
        ({"Authorization": "Bearer "}, 400, 6003),
        ({"Authorization": f"Bearer {'x' * 40}"}, 401, 10000),
    ):
        answer = world.session.request(
            endpoint.method, world.server.base_url + path, headers=credentials, timeout=30
        )
        check_envelope(answer.status_code, answer.headers["Content-Type"], answer.content)
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (status, code)


# --- the checks themselves ----------------------------------------------------------------------------------

DONE = {"success": True, "errors": [], "messages": [], "result": {}}
REFUSED = {"success": False, "errors": [{"code": 1000, "message": "no"}], "messages": [], "result": None}


def test_good_envelopes() -> None:
    check_envelope(200, "application/json", json.dumps(DONE).encode())
    check_envelope(400, "application/json", json.dumps(REFUSED).encode())


@pytest.mark.parametrize(
    ("status", "envelope"),
    [
        (500, REFUSED),
        (302, DONE),
        (200, REFUSED),
        (400, DONE),
        (200, {**DONE, "more": 1}),
        (200, {**DONE, "errors": None}),
        (200, {**DONE, "messages": None}),
        (200, {name: DONE[name] for name in DONE if name != "result"}),
        (400, {**REFUSED, "errors": []}),
        (400, {**REFUSED, "result": {}}),
        (400, {**REFUSED, "errors": [{"code": 999, "message": "no"}]}),
        (400, {**REFUSED, "errors": [{"code": "1000", "message": "no"}]}),
        (400, {**REFUSED, "errors": [{"code": 1000, "message": ""}]}),
    ],
)
def test_bad_envelopes(status: int, envelope: dict[str, Any]) -> None:
    with pytest.raises(AssertionError):
        check_envelope(status, "application/json", json.dumps(envelope).encode())


def test_every_endpoint_gets_requests() -> None:
    for schema in (GOOD, BAD):
        labels = {result.ok().label for result in schema.get_all_operations()}
        assert labels == {f"{method} {path}" for method, path in ENDPOINTS}


def test_an_outdated_correction_is_found() -> None:
    gone = FOR_GOOD[0]._replace(published="something else")
    with pytest.raises(AssertionError, match=re.escape(gone.at)):
        corrected([gone])
    assert all(correction.reason for correction in FOR_GOOD + FOR_BAD)
    assert len({correction.at for correction in FOR_BAD}) == len(FOR_BAD)
