# SPDX-License-Identifier: Apache-2.0
"""A sensor of any number of writes waits for all of them, and its trigger's row has a bounded size."""

from __future__ import annotations

import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from airflow.models.trigger import Trigger
from airflow.providers.common.compat.sdk import TaskDeferred
from cryptography.fernet import Fernet

from airflow_provider_cfvectorize.client.mutations.check import Poll
from airflow_provider_cfvectorize.client.mutations.decide import IndexState
from airflow_provider_cfvectorize.client.mutations.receipts import Receipt, condense
from airflow_provider_cfvectorize.client.mutations.witnesses import WitnessVector
from airflow_provider_cfvectorize.exceptions import VectorizeIndexRecreatedError
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor
from harness import INDEX, MODES, Clock, Vectorize, make_context, outcome_of, run_task

T0 = datetime(2026, 1, 31, 12, tzinfo=UTC)
MANY = 10_000
ROW = 16 * 1024
#: MySQL's limit for a text column, where Airflow stores the event of a trigger.
EVENT = 64 * 1024


def receipts(step: float = 1, *, at: datetime = T0, count: int = MANY, **more: Any) -> list[Receipt]:
    """Return receipts ``step`` seconds apart, newest first."""
    return [
        Receipt(
            str(uuid.uuid4()),
            INDEX,
            "a" * 32,
            (at - timedelta(seconds=i * step)).replace(microsecond=0),
            100,
            1,
            **{"witness_ids": tuple(str(uuid.uuid4()) for _ in range(5)), **more},
        )
        for i in range(count)
    ]


VECTOR = replace(WitnessVector.of({"id": "\x01" * 64, "values": [0.5]}), before="0" * 64)
KINDS = {
    "a delete": receipts(),
    "no witness": receipts(witness_ids=()),
    "the largest ids": receipts(witness_ids=("\x01" * 64,) * 5),
    "a write": receipts(witness_ids=(), witness_vectors=(VECTOR,) * 5),
    "bare ids": [Receipt.of_bare_id(str(uuid.uuid4())) for _ in range(MANY)],
}


def encrypted(kwargs: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a trigger's arguments as Airflow stores them with a Fernet key."""
    from airflow.models import crypto

    fernet = Fernet(Fernet.generate_key())
    monkeypatch.setattr(crypto, "get_fernet", lambda: fernet)
    return Trigger("a.path", kwargs).encrypted_kwargs


@pytest.mark.parametrize("kind", KINDS)
def test_the_row_of_a_trigger_is_bounded(
    kind: str, vectorize: Vectorize, monkeypatch: pytest.MonkeyPatch
) -> None:
    pushed = [
        one.mutation_id if one.bare else {**one.as_dict(), "account_id": vectorize.server.account_id}
        for one in KINDS[kind]
    ]
    now = datetime.now(UTC).isoformat()
    if not KINDS[kind][0].bare:
        pushed[0] = {**pushed[0], "accepted_at": now}  # type: ignore[dict-item]
    sensor = VectorizeMutationSensor(task_id="t", index_name=INDEX, mutation_id=pushed, deferrable=True)
    with pytest.raises(TaskDeferred) as deferred:
        sensor.execute(make_context())  # type: ignore[arg-type]
    _, kwargs = deferred.value.trigger.serialize()
    assert len(encrypted(kwargs, monkeypatch)) <= ROW
    waits = [Receipt.from_argument(value) for value in kwargs["receipts"]]
    assert sum(wait.mutations for wait in waits) == MANY


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("proof", ["watermark", "read_back", "recreated"])
def test_the_newest_mutation_proves_all_earlier_mutations(
    mode: str, proof: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    with LocalVectorize(clock=clock, apply_delay=0.02) as server:
        monkeypatch.setenv("AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT", server.connection)
        vectorize = Vectorize(server)
        # The oldest was accepted 2,000 s after the creation of the index, or 4,000 s before.
        clock.ahead = 6000 if proof == "recreated" else 12_000
        vectorize.fill(["v"])
        newest = vectorize.delete(["v"])
        if proof != "watermark":
            vectorize.settle()
        else:
            vectorize.wait_for(newest["mutation_id"])
        accepted_at = datetime.fromisoformat(newest["accepted_at"])
        others = [{**one.as_dict(), "account_id": server.account_id} for one in receipts(at=accepted_at)[1:]]
        arguments = {"task_id": "t", "index_name": INDEX, "receipt": [*others, newest], "poke_interval": 0.05}
        how = {"deferrable": mode == "deferrable", "mode": "poke" if mode == "deferrable" else mode}
        server.reset_stats()
        state, result = outcome_of(
            lambda: run_task(lambda: VectorizeMutationSensor(**arguments, **how), make_context())
        )
        assert sum(server.stats().values()) < 20
    if proof == "recreated":
        assert isinstance(result, VectorizeIndexRecreatedError)
        return
    assert state == "success"
    assert (result["mutation_id"], result["mutation_count"]) == (newest["mutation_id"], MANY)
    assert result["outcome"] == "read_back"
    assert result["mutations"][-1]["outcome"] == proof
    assert len(str(result)) < EVENT


def polled(waits: list[Receipt], age: float, *, watermark: str = "other") -> Poll:
    now = T0 + timedelta(seconds=age)
    state = IndexState(watermark, now, now, T0 - timedelta(days=1))
    made = Poll({"k": condense(waits)}, state)
    while made.next_read():
        made.feed({})
    return made


def test_mutations_without_an_order_are_inferred_by_age() -> None:
    # The clock has whole seconds: these mutations have no known order.
    at_once = receipts(0)
    for age, over in ((299, False), (300, True)):
        made = polled(at_once, age)
        assert made.is_over("k") is over
    assert made.decisions("k")[-1].outcome == "inferred"
    stand_in = condense(at_once)[-1]
    assert stand_in.mutations > 9900
    # Its own watermark proves nothing about the other mutations that it replaces.
    assert stand_in.mutation_id is not None
    assert not polled(at_once, 299, watermark=stand_in.mutation_id).is_over("k")
    # Nor does a mutation accepted 2 s later.
    assert not polled([*receipts(0, at=T0 + timedelta(seconds=2), count=1), *at_once], 299).is_over("k")
    made = polled([*receipts(0, at=T0 + timedelta(seconds=3), count=1), *at_once], 10)
    assert made.is_over("k")
    assert made.decisions("k")[-1].outcome == "read_back"


def test_a_stand_in_needs_as_long_as_the_slowest_of_its_mutations() -> None:
    slow = replace(receipts(0, count=1)[0], batches=3000, accepted_at=T0 - timedelta(hours=1))
    waits = [*receipts(0, count=100, witness_ids=()), slow]
    assert not polled(waits, 479).is_over("k")
    assert polled(waits, 480).is_over("k")


def test_few_receipts_are_not_condensed() -> None:
    few = receipts(count=10)
    assert condense(few) is few
    assert [Receipt.from_argument(one.as_argument()).witness_ids for one in few] == [
        one.witness_ids for one in few
    ]
