# SPDX-License-Identifier: Apache-2.0
"""Metadata indexes whose creation or deletion is accepted, and not listed yet."""

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
from operators.relay import Relay, Told

LIST = f"GET {INDEX}/metadata_index/list"
#: Seconds until a write is applied, on a clock that only the tests put forward.
LATER = 100.0
WAITS: list[dict[str, Any]] = [
    {"wait_for_completion": True, "deferrable": False},
    {"wait_for_completion": True, "deferrable": True},
]
HOW = ["metadata index", "index"]


class Slow:
    """An index whose writes are applied when a test says so, behind a relay."""

    def __init__(self, server: LocalVectorize, clock: Clock) -> None:
        self.vectorize = Vectorize(server)
        self.client = self.vectorize.client
        self.relay = Relay(server)
        self._clock = clock

    def later(self) -> None:
        """Let what is accepted be applied, and after that be seen."""
        self._clock.ahead += LATER

    def give(self, name: str, index_type: Any) -> None:
        """Create a metadata index, applied at once."""
        self.client.create_metadata_index(INDEX, name, index_type)
        self.later()

    def types(self) -> dict[str, str]:
        return indexing.types_of(self.client)

    def meanwhile(self, route: str, do: Callable[[], object], *, nth: int = 1) -> None:
        """Do something when a request for a route comes for the n-th time, before it is answered."""

        def meddle(asked: str, request: Request) -> None:
            if asked == route and self.relay.routes.count(route) == nth:
                do()

        self.relay.meddle = meddle

    def create(self, how: str, index_type: str, context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        """Create the metadata index of ``lang`` by one of the two operators that can."""
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
    """Return the seconds for which a watermark is ahead of what is listed."""
    return 0.0


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch, lag: float) -> Iterator[Slow]:
    clock = Clock()
    with LocalVectorize(apply_delay=LATER - 1, visibility_lag=lag, clock=clock) as server:
        slow = Slow(server, clock)
        monkeypatch.setenv(indexing.CONN, slow.relay.connection)
        yield slow
        slow.relay.close()


# --- a deletion on the way ----------------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOW)
def test_one_that_is_being_deleted_is_created_again(slow: Slow, how: str) -> None:
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
def test_that_is_waited_for(slow: Slow, how: str, wait: dict[str, Any]) -> None:
    slow.give("lang", "string")
    delete()
    slow.meanwhile(f"GET {INDEX}/info", slow.later)
    context = make_context()
    mutation_id = slow.create(how, "string", context, **wait)
    assert slow.types() == {"lang": "string"}
    evidence = context["ti"].pushed["evidence"]
    assert (evidence["mutation_id"], evidence["outcome"]) == (mutation_id, "watermark")


def test_vectors_do_not_keep_one_that_is_there_from_being_created(slow: Slow) -> None:
    slow.give("lang", "string")
    slow.client.upsert(INDEX, [{"id": "a", "values": [0.5] * DIMENSIONS}])
    slow.later()
    assert slow.create("index", "string")
    assert slow.client.info(INDEX)["vectorCount"] == 1


# --- another type on the way --------------------------------------------------------------------------------


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("wait", WAITS)
def test_one_of_another_type_that_is_being_created(slow: Slow, how: str, wait: dict[str, Any]) -> None:
    slow.client.create_metadata_index(INDEX, "lang", "string")
    # The first is for the number of vectors, before it is created.
    slow.meanwhile(f"GET {INDEX}/info", slow.later, nth=2)
    context = make_context()
    with pytest.raises(VectorizeInputError, match="expected 'number', found 'string'") as error:
        slow.create(how, "number", context, **wait)
    assert "Someone else created it first" in str(error.value)
    # What was waited for is applied, and that is kept.
    assert context["ti"].pushed["evidence"]["outcome"] == "watermark"
    assert slow.types() == {"lang": "string"}


@pytest.mark.parametrize("how", HOW)
def test_without_a_wait_the_type_is_not_confirmed(slow: Slow, told: Told, how: str) -> None:
    slow.client.create_metadata_index(INDEX, "lang", "string")
    assert slow.create(how, "number")
    assert "Type not confirmed" in told()
    assert slow.relay.routes.count(LIST) == 1


@pytest.mark.parametrize("wait", WAITS)
def test_one_that_is_deleted_before_it_is_seen(slow: Slow, wait: dict[str, Any]) -> None:
    def delete_first() -> None:
        slow.later()
        slow.types()
        slow.client.delete_metadata_index(INDEX, "lang")
        slow.later()

    slow.meanwhile(LIST, delete_first, nth=2)
    applied = slow.relay.meddle

    def meddle(route: str, request: Request) -> Reply | str | None:
        if route == f"GET {INDEX}/info" and slow.relay.routes.count(route) == 2:
            slow.later()
        return applied(route, request)

    slow.relay.meddle = meddle
    with pytest.raises(VectorizeWaitTimeout, match=r"not listed: 'lang'.*someone has deleted them since"):
        slow.create("metadata index", "string", **wait, wait_timeout=1)


@pytest.mark.parametrize("lag", [LATER / 2])
@pytest.mark.parametrize("wait", WAITS)
def test_a_list_that_lags_behind_the_watermark(slow: Slow, lag: float, wait: dict[str, Any]) -> None:
    slow.meanwhile(f"GET {INDEX}/info", slow.later, nth=2)
    applied = slow.relay.meddle

    def meddle(route: str, request: Request) -> Reply | str | None:
        # The first is before it is created, the second does not show it yet.
        if route == LIST and slow.relay.routes.count(LIST) == 3:
            slow.later()
        return applied(route, request)

    slow.relay.meddle = meddle
    slow.create("metadata index", "string", **wait)
    assert slow.types() == {"lang": "string"}
    assert slow.relay.routes.count(LIST) == 3


# --- a deletion of which no mutation is known ---------------------------------------------------------------


def lose_the_deletion(slow: Slow) -> None:
    """Have the first deletion carried out and its answer lost, and later show that on the third look."""
    lost: list[str] = []

    def meddle(route: str, request: Request) -> Reply | str | None:
        if route == LIST and slow.relay.routes.count(LIST) == 3:
            slow.later()
        if route.endswith("metadata_index/delete") and not lost:
            lost.append(route)
            return "lost"
        return None

    slow.relay.meddle = meddle


@pytest.mark.parametrize("wait", WAITS)
def test_a_deletion_whose_answer_is_lost_is_waited_for(slow: Slow, wait: dict[str, Any]) -> None:
    slow.give("lang", "string")
    lose_the_deletion(slow)
    context = make_context()
    assert delete(context, if_missing="skip", **wait) is None
    assert slow.types() == {}
    assert slow.relay.routes.count(LIST) == 3
    assert context["ti"].pushed["evidence"]["outcome"] == "nothing_to_do"


def test_without_a_wait_it_is_not_looked_for(slow: Slow) -> None:
    slow.give("lang", "string")
    lose_the_deletion(slow)
    assert delete(if_missing="skip") is None
    assert LIST not in slow.relay.routes


@pytest.mark.parametrize("wait", WAITS)
def test_a_deletion_of_somebody_else_is_waited_for_in_vain(slow: Slow, wait: dict[str, Any]) -> None:
    slow.give("lang", "string")
    slow.client.delete_metadata_index(INDEX, "lang")
    context = make_context()
    with pytest.raises(
        VectorizeWaitTimeout, match=r"after 0\.1 s: .*still lists the metadata index of 'lang'"
    ):
        delete(context, if_missing="skip", wait_timeout=0.1, **wait)
    assert "evidence" not in context["ti"].pushed
    assert context["ti"].pushed["receipt"]["mutation_id"] is None


@pytest.mark.parametrize(
    "failure", [Reply(503, b"<html>"), refused(429, 971, Retry_After="0"), "lost", refused(400, 40000)]
)
def test_a_look_that_fails_does_not_end_the_wait(slow: Slow, told: Told, failure: Reply | str) -> None:
    slow.relay.meddle = lambda route, request: (
        failure if route == LIST and slow.relay.routes.count(LIST) == 1 else None
    )
    assert delete(if_missing="skip", **WAITS[0]) is None
    assert slow.relay.routes.count(LIST) == 2
    assert "this poll failed, which does not end the wait" in told()


def test_a_look_that_fails_to_the_end_is_told(slow: Slow) -> None:
    slow.relay.meddle = lambda route, request: Reply(503, b"<html>") if route == LIST else None
    with pytest.raises(VectorizeWaitTimeout, match=r"after 0\.05 s: this poll failed.*HTTP 503"):
        delete(if_missing="skip", wait_timeout=0.05, **WAITS[0])


def test_a_refusal_for_good_ends_the_wait(slow: Slow) -> None:
    slow.relay.meddle = lambda route, request: refused(403, 10000) if route == LIST else None
    with pytest.raises(VectorizeAuthError):
        delete(if_missing="skip", **WAITS[0])
    assert slow.relay.routes.count(LIST) == 1
