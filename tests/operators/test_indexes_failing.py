# SPDX-License-Identifier: Apache-2.0
"""Failures while creating an index, and deleting indexes."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeInputError,
    VectorizeInterrupted,
    VectorizeNotFoundError,
    VectorizeResponseError,
    VectorizeTransportError,
)
from airflow_provider_cfvectorize.local import LocalVectorize
from client.servers import Reply, Request, refused
from harness import DIMENSIONS, INDEX, Vectorize, make_context
from operators.indexing import CONN, TYPES, create, delete, make, wait_for_types
from operators.relay import Logged, Relay, once

# --- failures -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("metadata_indexes", [None, TYPES])
def test_another_client_creates_the_index_first(
    relay: Relay, client: VectorizeClient, metadata_indexes: dict[str, str] | None
) -> None:
    def create_first(route: str, request: Request) -> None:
        if route == "POST":
            client.create_index(INDEX, dimensions=DIMENSIONS, metric="cosine")

    relay.intercept = create_first
    create(if_exists="skip", metadata_indexes=metadata_indexes)
    assert relay.routes[:3] == [f"GET {INDEX}", "POST", f"GET {INDEX}"]
    wait_for_types(client, metadata_indexes or {})


@pytest.mark.parametrize(
    ("instead", "error"),
    [("lost", VectorizeTransportError), (Reply(504, b"<html>"), VectorizeResponseError)],
)
def test_a_create_without_an_answer_is_not_retried(
    relay: Relay,
    client: VectorizeClient,
    logged: Logged,
    instead: Reply | str,
    error: type[Exception],
) -> None:
    relay.intercept = once("POST", instead)
    with pytest.raises(error):
        create(metadata_indexes=TYPES)
    assert relay.routes == ["POST"]
    assert "may exist although the request failed" in logged()
    if instead == "lost":
        with pytest.raises(VectorizeResponseError, match="an earlier attempt"):
            create(metadata_indexes=TYPES)
    create(metadata_indexes=TYPES, if_exists="skip")
    wait_for_types(client, TYPES)


def test_a_failure_between_metadata_indexes(relay: Relay, client: VectorizeClient, logged: Logged) -> None:
    def refuse_the_second(route: str, request: Request) -> Reply | None:
        is_second = route.endswith("metadata_index/create") and b"year" in request.body
        return refused(400, 40000) if is_second else None

    relay.intercept = refuse_the_second
    context = make_context()
    with pytest.raises(VectorizeResponseError):
        create(context, metadata_indexes=TYPES, if_exists="skip")
    assert "exists with 1 of the 3 wanted metadata indexes" in logged()
    assert context["ti"].pushed["index"]["name"] == INDEX
    relay.intercept = lambda route, request: None
    create(metadata_indexes=TYPES, if_exists="skip")
    wait_for_types(client, TYPES)


def test_a_kill_ends_the_creation(relay: Relay, client: VectorizeClient) -> None:
    operator = make(metadata_indexes=TYPES)

    def kill(route: str, request: Request) -> None:
        if b"year" in request.body:
            operator.on_kill()

    relay.intercept = kill
    with pytest.raises(VectorizeInterrupted):
        operator.execute(make_context())
    wait_for_types(client, {"lang": "string", "year": "number"})


def test_a_missing_account_is_not_a_missing_index(relay: Relay) -> None:
    with pytest.raises(VectorizeNotFoundError, match="account id") as error:
        create(account_id="f" * 32, if_exists="skip")
    assert error.value.code == 7003
    with pytest.raises(VectorizeNotFoundError, match="account id") as error:
        delete(account_id="f" * 32, if_missing="skip")
    assert error.value.code == 7003
    assert relay.routes == [f"GET {INDEX}", f"DELETE {INDEX}"]


@pytest.mark.usefixtures("impatient_refusals")
def test_a_read_only_token_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    token = "read-only-token-0123456789abcdef01234567"
    with LocalVectorize(read_only_token=token) as server:
        vectorize = Vectorize(server)
        monkeypatch.setenv(CONN, server.connection_with(token))
        for call in (lambda: create(index_name="other", if_exists="skip"), delete):
            with pytest.raises(VectorizeAuthError, match="Vectorize: Edit"):
                call()
        assert [index["name"] for index in vectorize.client.list_indexes()] == [INDEX]


# --- delete -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("if_missing", ["fail", "skip"])
def test_delete_an_index(vectorize: Vectorize, if_missing: str) -> None:
    vectorize.fill(["a"])
    vectorize.client.create_index("other", dimensions=32, metric="cosine")
    assert delete(if_missing=if_missing) is None
    assert [index["name"] for index in vectorize.client.list_indexes()] == ["other"]


def test_deleting_a_missing_index(server: LocalVectorize, client: VectorizeClient, logged: Logged) -> None:
    with pytest.raises(VectorizeNotFoundError, match="set if_missing='skip'") as error:
        delete()
    assert error.value.code == 3000
    assert delete(if_missing="skip") is None
    assert "never existed" in logged()
    client.create_index(INDEX, dimensions=32, metric="cosine")
    client.delete_index(INDEX)
    with pytest.raises(VectorizeNotFoundError, match="An earlier attempt may have") as error:
        delete()
    assert error.value.code == 3005
    assert delete(if_missing="skip") is None
    assert "was deleted before" in logged()


def test_a_retry_after_a_lost_answer_finds_the_index_deleted(relay: Relay, vectorize: Vectorize) -> None:
    relay.intercept = once(f"DELETE {INDEX}", "lost")
    assert delete() is None
    assert relay.routes == [f"DELETE {INDEX}"] * 2
    assert vectorize.client.list_indexes() == []


def test_a_throttled_delete_does_not_excuse_a_missing_index(relay: Relay) -> None:
    relay.intercept = once(f"DELETE {INDEX}", refused(429, 10100, Retry_After="0"))
    with pytest.raises(VectorizeNotFoundError, match="set if_missing='skip'"):
        delete()
    assert relay.routes == [f"DELETE {INDEX}"] * 2


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"index_name": "None"}, "invalid index name None"),
        ({"index_name": ""}, "invalid index name None"),
        ({"index_name": "../docs"}, "index name '../docs'"),
        ({"if_missing": "ignore"}, "if_missing is 'ignore', expected 'fail' or 'skip'"),
        ({"account_id": "x"}, "32 hexadecimal digits"),
    ],
)
def test_invalid_deletes_are_refused(server: LocalVectorize, kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(VectorizeInputError) as error:
        delete(**{"if_missing": "skip", **kwargs})
    assert text in str(error.value)
    assert sum(server.stats().values()) == 0
