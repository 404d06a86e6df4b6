# SPDX-License-Identifier: Apache-2.0
"""What proves that a fill is applied, what does not, and what ends a fill early."""

from __future__ import annotations

import json
import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.exceptions import (
    VectorizeBatchError,
    VectorizeError,
    VectorizeInputError,
    VectorizeInterrupted,
    VectorizeWaitTimeout,
)
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.operators.vectors import InsertVectorsOperator, UpsertVectorsOperator
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor
from harness import DIMENSIONS, INDEX, Vectorize, make_context, run_task


class Still:
    """A clock that moves only when a test puts it forward."""

    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


class World:
    """A server with a still clock. A job applies 5,000 vectors instead of 200,000: one request is a job."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **kwargs: Any) -> None:
        monkeypatch.setattr(limits, "VECTORS_PER_JOB", 5000)
        self.clock = Still()
        self.server = LocalVectorize(clock=self.clock, **kwargs).start()
        monkeypatch.setenv("AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT", self.server.connection)
        self.vectorize = Vectorize(self.server)
        self.client = self.vectorize.client

    def forward(self, seconds: float) -> None:
        self.clock.now += seconds
        self.client.info(INDEX)

    def read(self, *ids: str) -> dict[str, float]:
        return {one["id"]: one["values"][0] for one in self.client.get_by_ids(INDEX, ids)}

    def fill(
        self, cls: Any = UpsertVectorsOperator, *, seconds: float = 0.0, **kwargs: Any
    ) -> dict[str, Any]:
        """Run the task and put the clock forward between its last request and its wait."""
        context = make_context()

        def make() -> Any:
            operator = cls(
                **{"task_id": "t", "index_name": INDEX, "poll_interval": 0.05, "wait_timeout": 0.5, **kwargs}
            )
            push_and_wait = operator.push_and_wait
            operator.push_and_wait = lambda c, r: (
                self.forward(seconds) if seconds else None,
                push_and_wait(c, r),
            )[1]
            return operator

        run_task(make, context)
        return dict(context["ti"].pushed)

    def sense(self, *receipts: dict[str, Any]) -> dict[str, Any]:
        result: dict[str, Any] = run_task(
            lambda: VectorizeMutationSensor(
                task_id="s", index_name=INDEX, receipt=list(receipts), poke_interval=0.05, timeout=0.5
            ),
            make_context(),
        )
        return result


@pytest.fixture
def make_world(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    worlds: list[World] = []

    def make(**kwargs: Any) -> World:
        worlds.append(World(monkeypatch, **kwargs))
        return worlds[-1]

    yield make
    for world in worlds:
        world.server.stop()


def vector(id_: str, value: float = 0.5, **more: Any) -> dict[str, Any]:
    return {"id": id_, "values": [value] * DIMENSIONS, **more}


def some(count: int, value: float = 0.5) -> list[dict[str, Any]]:
    return [vector(f"v{i}", value) for i in range(count)]


def test_a_replacing_upsert_behind_its_own_backlog_is_not_applied(make_world: Any) -> None:
    world = make_world(apply_delay=60)
    world.fill(vectors_callable=lambda: some(10_001, 0.25))
    world.forward(1000)
    assert world.read("v10000") == {"v10000": 0.25}
    with pytest.raises(VectorizeWaitTimeout):
        world.fill(vectors_callable=lambda: some(10_001, 0.75), wait_for_completion=True, seconds=61)


def test_a_replacing_upsert_is_not_inferred_at_an_early_deadline(make_world: Any) -> None:
    world = make_world(apply_delay=10)
    world.fill(vectors=[vector("a", 0.25)])
    world.forward(20)
    world.server.foreign_write(INDEX)
    world.forward(11)  # applied one second before the upsert is accepted
    with pytest.raises(VectorizeWaitTimeout):
        world.fill(vectors=[vector("a", 0.75)], wait_for_completion=True)


def test_repeated_vectors_at_the_end_are_not_witnesses(make_world: Any) -> None:
    world = make_world(apply_delay=60)
    vectors = [*some(5000), *(vector(f"new{i}") for i in range(100)), *some(20)]
    with pytest.raises(VectorizeWaitTimeout):
        world.fill(vectors_callable=lambda: vectors, wait_for_completion=True, seconds=61)
    assert not world.read("new1")


def test_a_duplicate_id_of_an_insert_is_not_a_witness(make_world: Any) -> None:
    # The first duplicate wins; the second never reads back as written.
    world = make_world(apply_delay=1)
    vectors = [*some(5000), vector("v0", 0.75), vector("new")]
    receipt = world.fill(InsertVectorsOperator, vectors_callable=lambda: vectors)["receipt"]
    assert [witness["id"] for witness in receipt["witness_vectors"]] == ["new"]


def test_nothing_is_inferred_behind_the_tasks_own_backlog(make_world: Any) -> None:
    world = make_world(apply_delay=60)
    pushed = world.fill(vectors_callable=lambda: some(40_000), verify="none")
    world.forward(320)
    with pytest.raises(VectorizeError):
        world.sense(pushed["receipt"])
    assert world.client.info(INDEX)["vectorCount"] < 40_000


def test_vectors_too_deep_for_the_server_are_not_counted(make_world: Any, tmp_path: Any) -> None:
    world = make_world(apply_delay=0)
    deep: Any = 1
    for _ in range(130):
        deep = [deep]
    path = tmp_path / "v.ndjson"
    path.write_text("\n".join(json.dumps(x) for x in [vector("a"), vector("b", metadata={"d": deep})]))
    pushed = world.fill(vectors_path=str(path), on_unparsable="discard")
    world.forward(1)
    assert world.vectorize.ids() == {"a"}
    assert pushed["report"] == {"vectors": 1, "requests": 1, "discarded": 1}


@pytest.mark.parametrize("second", ["upsert", "delete"])
def test_a_sensor_waits_for_two_writes_of_the_same_ids(make_world: Any, second: str) -> None:
    world = make_world(apply_delay=1)
    receipts = [world.fill(vectors=[vector("a", 0.25)])["receipt"]]
    world.clock.now += 3
    if second == "upsert":
        receipts.append(world.fill(vectors=[vector("a", 0.75)])["receipt"])
    else:
        receipts.append(world.vectorize.delete(["a"]))
    world.forward(5)
    assert world.vectorize.watermark() == receipts[1]["mutation_id"]
    assert world.sense(*receipts)["outcome"] in ("watermark", "read_back", "inferred")


def test_deep_metadata_ends_the_fill_without_losing_the_count(make_world: Any, tmp_path: Any) -> None:
    world = make_world(apply_delay=0)
    path = tmp_path / "v.ndjson"
    with path.open("w") as file:
        file.writelines(f"{json.dumps(one)}\n" for one in some(5000))
        values = json.dumps([0.5] * DIMENSIONS)
        file.write(f'{{"id": "deep", "values": {values}, "metadata": {{"d": {"[" * 600}1{"]" * 600}}}}}\n')
    with pytest.raises(VectorizeError, match="5000 vectors in 1 request are acknowledged"):
        world.fill(vectors_path=str(path))


def test_a_kill_ends_a_fill_between_vectors(vectorize: Vectorize) -> None:
    taken: list[int] = []
    operator: Any = None

    def generate() -> Iterator[dict[str, Any]]:
        for i in range(20_000):
            taken.append(i)
            if i == 10:
                operator.on_kill()
            yield vector(f"v{i}")

    operator = UpsertVectorsOperator(task_id="t", index_name=INDEX, vectors_callable=generate)
    with pytest.raises(VectorizeInterrupted):
        operator.execute(make_context())
    assert len(taken) < 100


def test_a_line_that_is_too_long_is_reported_by_number(make_world: Any, tmp_path: Any) -> None:
    world = make_world(apply_delay=0)
    path = tmp_path / "v.ndjson"
    path.write_text("".join(f"{json.dumps(one)}\n" for one in some(7000)) + "x" * 3_000_000 + "\n")
    with pytest.raises(VectorizeInputError, match="line 7001"):
        world.fill(vectors_path=str(path))


def test_an_error_inside_the_callable_keeps_its_traceback(vectorize: Vectorize) -> None:
    def helper() -> None:
        raise VectorizeInputError("from a hook call of mine")

    def generate() -> Iterator[dict[str, Any]]:
        yield vector("a")
        helper()

    operator = UpsertVectorsOperator(task_id="t", index_name=INDEX, vectors_callable=generate)
    with pytest.raises(VectorizeInputError) as e:
        operator.execute(make_context())
    assert "helper()" in "".join(traceback.format_exception(e.value))


def test_the_generator_is_closed_when_the_write_fails(vectorize: Vectorize) -> None:
    closed: list[int] = []

    def generate() -> Iterator[dict[str, Any]]:
        try:
            for i in range(20_000):
                if i == 5001:
                    vectorize.client.delete_index(INDEX)
                yield vector(f"v{i}")
        finally:
            closed.append(1)

    operator = UpsertVectorsOperator(task_id="t", index_name=INDEX, vectors_callable=generate)
    with pytest.raises(VectorizeBatchError) as e:
        operator.execute(make_context())
    assert closed, e


@pytest.mark.parametrize("kwargs", ["None", [1], "x", {1: 2}])
def test_vectors_kwargs_must_be_a_mapping(vectorize: Vectorize, kwargs: Any) -> None:
    operator = UpsertVectorsOperator(
        task_id="t", index_name=INDEX, vectors_callable=lambda: [vector("a")], vectors_kwargs=kwargs
    )
    with pytest.raises(
        VectorizeInputError, match=r"vectors_kwargs is .*(, expected a mapping| after rendering)"
    ):
        operator.execute(make_context())


def test_changes_before_an_unchanged_tail_are_witnesses(make_world: Any) -> None:
    world = make_world(apply_delay=0)
    vectors = some(40)
    world.fill(vectors=vectors)
    world.forward(1)
    pushed = world.fill(vectors=[*some(20, 0.75), *vectors[20:]])
    assert pushed["receipt"].get("witness_vectors")


def test_vectors_can_be_read_after_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalVectorize(apply_delay=0.1, visibility_lag=3) as server:
        monkeypatch.setenv("AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT", server.connection)
        vectorize = Vectorize(server)
        operator = UpsertVectorsOperator(
            task_id="t", index_name=INDEX, vectors=[vector("a")], wait_for_completion=True, poll_interval=0.05
        )
        operator.execute(make_context())
        assert vectorize.client.get_by_ids(INDEX, ["a"])
