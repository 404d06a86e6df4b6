# SPDX-License-Identifier: Apache-2.0
"""Metadata indexes whose creation or deletion is accepted but not yet listed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeInputError,
    VectorizeWaitTimeout,
)
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.operators.indexes import (
    CreateVectorizeMetadataIndexOperator,
    DeleteVectorizeMetadataIndexOperator,
)
from client.servers import Reply, Request, refused
from harness import DIMENSIONS, INDEX, Clock, Vectorize, make_context, run_task
from operators import indexing
from operators.relay import Logged, Relay

LIST = f"GET {INDEX}/metadata_index/list"
#: Seconds until a write is applied, on a clock that only tests put forward.
LATER = 100.0
WAITS: list[dict[str, Any]] = [
    {"wait_for_completion": True, "deferrable": False},
    {"wait_for_completion": True, "deferrable": True},
]
HOW = ["metadata index", "index"]


class Slow:
    """An index behind a relay whose writes are applied when a test puts the clock forward."""

    def __init__(self, server: LocalVectorize, clock: Clock) -> None:
        self.vectorize = Vectorize(server)
        self.client = self.vectorize.client
        self.relay = Relay(server)
        self._clock = clock

    def later(self) -> None:
        """Put the clock forward until accepted writes are applied and visible."""
        self._clock.ahead += LATER

    def give(self, name: str, index_type: Any) -> None:
        """Create a metadata index and apply it at once."""
        self.client.create_metadata_index(INDEX, name, index_type)
        self.later()

    def types(self) -> dict[str, str]:
        return indexing.types_of(self.client)

    def meanwhile(self, route: str, do: Callable[[], object], *, nth: int = 1) -> None:
        """Call a function before the answer to the n-th request for a route."""

        def intercept(asked: str, request: Request) -> None:
            if asked == route and self.relay.routes.count(route) == nth:
                do()

        self.relay.intercept = intercept

    def create(self, how: str, index_type: str, context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        """Create the metadata index of ``lang`` with one of two operators."""
        if how == "index":
            types = {"lang": index_type}
            return indexing.create(context, if_exists="skip", metadata_indexes=types, **kwargs)
        return run(CreateVectorizeMetadataIndexOperator, context, index_type=index_type, **kwargs)


def run(operator: Any, context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    arguments = {
        "task_id": "task",
        "index_name": INDEX,
        "property_name": "lang",
        "poll_interval": 0.02,
        "wait_timeout": 20,
        **kwargs,
    }
    return run_task(lambda: operator(**arguments), context or make_context())


def delete(context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    return run(DeleteVectorizeMetadataIndexOperator, context, **kwargs)


@pytest.fixture
def lag() -> float:
    """Return the seconds for which the list lags behind the watermark."""
    return 0.0


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, lag: float) -> Iterator[Slow]:
    clock = Clock()
    with LocalVectorize(apply_delay=LATER - 1, visibility_lag=lag, clock=clock) as server:
        slow = Slow(server, clock)
        monkeypatch.setenv(indexing.CONN, slow.relay.connection)
        yield slow
        slow.relay.close()


# --- a pending deletion -------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOW)
def test_a_metadata_index_with_a_pending_deletion_is_created_again(slow: Slow, how: str) -> None:
    slow.give("lang", "string")
    delete()
    mutation_id = slow.create(how, "string")
    vector: Any = {"id": "a", "values": [0.5] * DIMENSIONS, "metadata": {"lang": "en"}}
    slow.client.upsert(INDEX, [vector])
    slow.later()
    assert mutation_id
    assert slow.types() == {"lang": "string"}
    found = slow.client.query(INDEX, vector=[0.5] * DIMENSIONS, filter={"lang": "en"})
    assert found["count"] == 1


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_for_the_creation_after_a_pending_deletion(slow: Slow, how: str, wait: dict[str, Any]) -> None:
    slow.give("lang", "string")
    delete()
    slow.meanwhile(f"GET {INDEX}/info", slow.later)
    context = make_context()
    mutation_id = slow.create(how, "string", context, **wait)
    assert slow.types() == {"lang": "string"}
    evidence = context["ti"].pushed["evidence"]
    assert (evidence["mutation_id"], evidence["outcome"]) == (mutation_id, "watermark")


def test_an_existing_metadata_index_is_sent_again_despite_vectors(slow: Slow) -> None:
    slow.give("lang", "string")
    slow.client.upsert(INDEX, [{"id": "a", "values": [0.5] * DIMENSIONS}])
    slow.later()
    assert slow.create("index", "string")
    assert slow.client.info(INDEX)["vectorCount"] == 1


# --- a pending creation with another type -------------------------------------------------------------------


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("wait", WAITS)
def test_a_pending_creation_of_another_type_is_an_error(slow: Slow, how: str, wait: dict[str, Any]) -> None:
    slow.client.create_metadata_index(INDEX, "lang", "string")
    # The first request reads the number of vectors before the creation.
    slow.meanwhile(f"GET {INDEX}/info", slow.later, nth=2)
    context = make_context()
    with pytest.raises(VectorizeInputError, match="expected 'number', found 'string'") as error:
        slow.create(how, "number", context, **wait)
    assert "Another client created it first" in str(error.value)
    # The awaited mutation is applied, and its evidence is pushed.
    assert context["ti"].pushed["evidence"]["outcome"] == "watermark"
    assert slow.types() == {"lang": "string"}


@pytest.mark.parametrize("how", HOW)
def test_without_a_wait_the_type_is_not_confirmed(slow: Slow, logged: Logged, how: str) -> None:
    slow.client.create_metadata_index(INDEX, "lang", "string")
    assert slow.create(how, "number")
    assert "Type not confirmed" in logged()
    assert slow.relay.routes.count(LIST) == 1


@pytest.mark.parametrize("wait", WAITS)
def test_a_metadata_index_deleted_before_it_is_listed(slow: Slow, wait: dict[str, Any]) -> None:
    def delete_first() -> None:
        slow.later()
        slow.types()
        slow.client.delete_metadata_index(INDEX, "lang")
        slow.later()

    slow.meanwhile(LIST, delete_first, nth=2)
    applied = slow.relay.intercept

    def intercept(route: str, request: Request) -> Reply | str | None:
        if route == f"GET {INDEX}/info" and slow.relay.routes.count(route) == 2:
            slow.later()
        return applied(route, request)

    slow.relay.intercept = intercept
    with pytest.raises(
        VectorizeWaitTimeout, match=r"not listed: 'lang'.*another client has deleted them since"
    ):
        slow.create("metadata index", "string", **wait, wait_timeout=1)


@pytest.mark.parametrize("lag", [LATER / 2])
@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_for_a_list_that_lags(slow: Slow, lag: float, wait: dict[str, Any]) -> None:
    slow.meanwhile(f"GET {INDEX}/info", slow.later, nth=2)
    applied = slow.relay.intercept

    def intercept(route: str, request: Request) -> Reply | str | None:
        # The first list is before the creation; the second does not show it yet.
        if route == LIST and slow.relay.routes.count(LIST) == 3:
            slow.later()
        return applied(route, request)

    slow.relay.intercept = intercept
    slow.create("metadata index", "string", **wait)
    assert slow.types() == {"lang": "string"}
    assert slow.relay.routes.count(LIST) == 3


# --- a deletion without a known mutation --------------------------------------------------------------------


def lose_the_deletion(slow: Slow) -> None:
    """Lose the answer of the first deletion, and apply it before the third list."""
    lost: list[str] = []

    def intercept(route: str, request: Request) -> Reply | str | None:
        if route == LIST and slow.relay.routes.count(LIST) == 3:
            slow.later()
        if route.endswith("metadata_index/delete") and not lost:
            lost.append(route)
            return "lost"
        return None

    slow.relay.intercept = intercept


@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_for_a_deletion_whose_answer_is_lost(slow: Slow, wait: dict[str, Any]) -> None:
    slow.give("lang", "string")
    lose_the_deletion(slow)
    context = make_context()
    assert delete(context, if_missing="skip", **wait) is None
    assert slow.types() == {}
    assert slow.relay.routes.count(LIST) == 3
    assert context["ti"].pushed["evidence"]["outcome"] == "nothing_to_do"


def test_without_a_wait_metadata_indexes_are_not_listed(slow: Slow) -> None:
    slow.give("lang", "string")
    lose_the_deletion(slow)
    assert delete(if_missing="skip") is None
    assert LIST not in slow.relay.routes


@pytest.mark.parametrize("wait", WAITS)
def test_a_wait_for_another_clients_deletion_times_out(slow: Slow, wait: dict[str, Any]) -> None:
    slow.give("lang", "string")
    slow.client.delete_metadata_index(INDEX, "lang")
    context = make_context()
    with pytest.raises(
        VectorizeWaitTimeout,
        match=r"the wait of 0\.1 s has ended: .*still lists the metadata index of 'lang'",
    ):
        delete(context, if_missing="skip", wait_timeout=0.1, **wait)
    assert "evidence" not in context["ti"].pushed
    assert context["ti"].pushed["receipt"]["mutation_id"] is None


@pytest.mark.parametrize(
    "failure", [Reply(503, b"<html>"), refused(429, 971, Retry_After="0"), "lost", refused(400, 40000)]
)
def test_a_failed_poll_does_not_end_the_wait(slow: Slow, logged: Logged, failure: Reply | str) -> None:
    slow.relay.intercept = lambda route, request: (
        failure if route == LIST and slow.relay.routes.count(LIST) == 1 else None
    )
    assert delete(if_missing="skip", **WAITS[0]) is None
    assert slow.relay.routes.count(LIST) == 2
    assert "Still waiting: the last poll failed: " in logged()


def test_a_timeout_names_the_failed_poll(slow: Slow) -> None:
    slow.relay.intercept = lambda route, request: Reply(503, b"<html>") if route == LIST else None
    with pytest.raises(
        VectorizeWaitTimeout, match=r"the wait of 0\.05 s has ended: the last poll failed: .*HTTP 503"
    ):
        delete(if_missing="skip", wait_timeout=0.05, **WAITS[0])


def test_a_refusal_ends_the_wait(slow: Slow) -> None:
    slow.relay.intercept = lambda route, request: refused(403, 10000) if route == LIST else None
    with pytest.raises(VectorizeAuthError):
        delete(if_missing="skip", **WAITS[0])
    assert slow.relay.routes.count(LIST) == 1
