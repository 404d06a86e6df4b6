# SPDX-License-Identifier: Apache-2.0
"""The table of docs/cases.md, the rules of docs/decision.md, and the statements of docs/ids.md."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSensorTimeout, AirflowSkipException, task

from airflow_provider_cfvectorize.client.mutations.decide import Decision, IndexState, Verdict, decide
from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
from airflow_provider_cfvectorize.client.mutations.witnesses import WitnessVector
from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeIndexRecreatedError,
    VectorizeNotFoundError,
)
from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByIdsOperator
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor
from dags.running import make_dag, run_dag
from harness import DIMENSIONS, INDEX, MODES, Vectorize, make_context, outcome_of, run_task, wait_until
from readme.markdown import read

CONN = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"
IDS = [f"v{i}" for i in range(10)]


class Clock:
    """The server's clock, which a test can put forward."""

    ahead = 0.0

    def __call__(self) -> float:
        return datetime.now(UTC).timestamp() + self.ahead


class Bench:
    """A bench that creates servers, runs tasks and records their errors."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, directory: Path) -> None:
        self.monkeypatch = monkeypatch
        self.directory = directory
        self.clock = Clock()
        self.errors: set[str] = set()
        self.servers: list[LocalVectorize] = []

    def vectorize(self, **kwargs: Any) -> Vectorize:
        server = LocalVectorize(clock=self.clock, **{"apply_delay": 0.02, **kwargs}).start()
        self.servers.append(server)
        self.monkeypatch.setenv(CONN, server.connection)
        return Vectorize(server)

    def delete(self, context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        arguments = {
            "task_id": "delete",
            "index_name": INDEX,
            "poll_interval": 0.05,
            "wait_timeout": 20,
            **kwargs,
        }
        return self._run(lambda: DeleteVectorsByIdsOperator(**arguments), context)

    def sense(self, context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
        arguments = {"task_id": "wait", "index_name": INDEX, "poke_interval": 0.05, "timeout": 20, **kwargs}
        return self._run(lambda: VectorizeMutationSensor(**arguments), context)

    def _run(self, make: Callable[[], Any], context: dict[str, Any] | None) -> Any:
        state, result = outcome_of(lambda: run_task(make, context or make_context()))
        if state == "failed":
            self.errors.add(type(result).__name__)
        return result


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, impatient_refusals: None) -> Iterator[Bench]:
    bench = Bench(monkeypatch, tmp_path)
    yield bench
    for server in bench.servers:
        server.stop()


# --- cases of a delete --------------------------------------------------------------------------------------


def many_ids(bench: Bench) -> None:
    vectorize = bench.vectorize()
    ids = [f"v{i}" for i in range(250)]
    vectorize.fill([*ids, "other"])
    context = make_context()
    mutation_id = bench.delete(context, ids=ids)
    assert vectorize.server.stats()["delete_by_ids"] == 3
    # The returned mutation is the last: when it is the watermark, everything is gone.
    vectorize.wait_for(mutation_id)
    assert vectorize.ids() == {"other"}


def too_many_ids(bench: Bench) -> None:
    vectorize = bench.vectorize()
    bench.delete(ids=IDS, max_ids=9)
    assert vectorize.server.stats()["delete_by_ids"] == 0


def bad_ids(bench: Bench) -> None:
    vectorize = bench.vectorize()
    for bad in ("", "a" * 65, "é" * 33, 1.5, None, True, b"a"):
        error = bench.delete(ids=["fine", bad])
        assert str(error).startswith("ids[1]: ")
    error = bench.delete(ids=[""] * 12)
    assert str(error).count("]: '' is empty") == 10
    assert "and 2 more" in str(error)
    stats = vectorize.server.stats()
    assert (stats["delete_by_ids"], stats["get_by_ids"]) == (0, 0)


def empty_list(bench: Bench) -> None:
    vectorize = bench.vectorize()
    before = sum(vectorize.server.stats().values())
    context = make_context()
    assert bench.delete(context, ids=[]) is None
    receipt = context["ti"].pushed["receipt"]
    assert (receipt["mutation_id"], receipt["count"]) == (None, 0)
    assert bench.sense(make_context({"delete": [receipt]}))["outcome"] == "nothing_to_do"
    assert sum(vectorize.server.stats().values()) == before


def no_ids(bench: Bench) -> None:
    bench.vectorize()
    assert "skipped" in str(bench.delete(ids=None))


def no_mutation_id(bench: Bench) -> None:
    vectorize = bench.vectorize()
    assert bench.sense(mutation_id=None)["outcome"] == "nothing_to_do"
    receipt = vectorize.delete(IDS)
    evidence = bench.sense(make_context({"delete": [receipt]}), mutation_id=None)
    assert evidence["mutation_id"] == receipt["mutation_id"]


def sensor_timeout(bench: Bench) -> None:
    receipt = bench.vectorize(apply_delay=3600).delete(IDS)
    for mode in MODES:
        how = {"deferrable": mode == "deferrable", "mode": "poke" if mode == "deferrable" else mode}
        error = bench.sense(receipt=receipt, timeout=0.1, **how)
        # Airflow does not retry a task that ends with this error.
        assert isinstance(error, AirflowSensorTimeout)
        skipped = bench.sense(receipt=receipt, timeout=0.1, soft_fail=True, **how)
        assert isinstance(skipped, AirflowSkipException)


def operator_timeout(bench: Bench) -> None:
    vectorize = bench.vectorize(apply_delay=3600)
    for deferrable in (False, True):
        how = {"wait_for_completion": True, "wait_timeout": 0.1, "deferrable": deferrable}
        error = bench.delete(ids=IDS, **how)
        assert not isinstance(error, AirflowSensorTimeout)
    # The second attempt of the task sent everything again.
    assert vectorize.server.stats()["delete_by_ids"] == 2


def overtaken(bench: Bench) -> None:
    vectorize = bench.vectorize()
    vectorize.fill(IDS)
    receipt = vectorize.delete(IDS)
    vectorize.settle()
    assert bench.sense(receipt=receipt)["outcome"] == "read_back"
    error = bench.sense(mutation_id=receipt["mutation_id"], timeout=0.1)
    assert "inconclusive" in str(error)


def inserted_again(bench: Bench) -> None:
    for again, outcome in ((IDS[:1], "read_back"), (IDS, "inferred")):
        bench.clock.ahead = 0
        vectorize = bench.vectorize()
        vectorize.fill(IDS)
        receipt = vectorize.delete(IDS)
        vectorize.settle()
        vectorize.fill(again)
        bench.sense(receipt=receipt, timeout=0.1)
        # Rules 10 to 12 below test the exact times.
        bench.clock.ahead = 305
        evidence = bench.sense(receipt=receipt)
        assert (evidence["outcome"], evidence["still_visible"]) == (outcome, again[:5])
        error = bench.sense(receipt=receipt, require_absent=True)
        assert again[0] in str(error)


def wrong_token(bench: Bench) -> None:
    vectorize = bench.vectorize(read_only_token="reader")
    receipt = vectorize.delete(IDS)
    bench.monkeypatch.setenv(CONN, vectorize.server.connection_with("reader"))
    assert isinstance(bench.delete(ids=IDS), VectorizeAuthError)
    bench.monkeypatch.setenv(CONN, vectorize.server.connection_with("unknown"))
    assert isinstance(bench.delete(ids=IDS), VectorizeAuthError)
    bench.sense(receipt=receipt)
    with pytest.raises(VectorizeAuthError):
        CloudflareVectorizeHook().info(INDEX)


def refused_once(bench: Bench) -> None:
    vectorize = bench.vectorize()
    vectorize.server.set_faults(["refuse:delete_by_ids#2"])
    assert bench.delete(ids=[f"v{i}" for i in range(300)])


def no_index(bench: Bench) -> None:
    vectorize = bench.vectorize()
    receipt = vectorize.delete(IDS)
    assert isinstance(bench.delete(ids=IDS, index_name="unknown"), VectorizeNotFoundError)
    vectorize.client.delete_index(INDEX)
    assert isinstance(bench.delete(ids=IDS), VectorizeNotFoundError)
    bench.sense(receipt=receipt)
    bench.clock.ahead = 5
    vectorize.client.create_index(INDEX, dimensions=DIMENSIONS, metric="cosine")
    assert isinstance(bench.sense(receipt=receipt, timeout=0), VectorizeIndexRecreatedError)
    vectorize.client.delete_index(INDEX)
    with pytest.raises(VectorizeNotFoundError):
        CloudflareVectorizeHook().info(INDEX)


def retry(bench: Bench) -> None:
    vectorize = bench.vectorize()
    vectorize.fill(IDS)
    vectorize.wait_for(bench.delete(ids=IDS))
    vectorize.fill(IDS[:1])
    vectorize.wait_for(bench.delete(ids=IDS))
    assert vectorize.server.stats()["delete_by_ids"] == 2
    assert vectorize.ids() == set()


def kill(bench: Bench) -> None:
    vectorize = bench.vectorize(latency=0.05)
    ids = [f"v{i}" for i in range(10_000)]
    operator = DeleteVectorsByIdsOperator(task_id="delete", index_name=INDEX, ids=ids)

    def kill_at_work() -> None:
        wait_until(lambda: vectorize.server.stats()["delete_by_ids"] >= 3)
        operator.on_kill()

    killer = threading.Thread(target=kill_at_work)
    killer.start()
    error = bench._run(lambda: operator, None)
    killer.join()
    assert re.search(r"[1-9]\d* of 10000 ids are acknowledged", str(error))
    assert vectorize.server.stats()["delete_by_ids"] < 50


CASES: dict[str, Callable[[Bench], None]] = {
    "more than 100 ids": many_ids,
    "more ids than `max_ids`": too_many_ids,
    "an invalid id": bad_ids,
    "an empty list": empty_list,
    "None as `ids`": no_ids,
    "None as a sensor's `mutation_id`": no_mutation_id,
    "the sensor's `timeout` passes": sensor_timeout,
    "a waiting operator's `wait_timeout` passes": operator_timeout,
    "another writer's mutation overtakes yours": overtaken,
    "another client inserts the ids again during the wait": inserted_again,
    "a wrong token, or one without the permission": wrong_token,
    "a refusal of a token that was accepted before": refused_once,
    "an index that does not exist or was deleted": no_index,
    "a retry of the delete": retry,
    "Airflow stops the task": kill,
}
ROWS = {row[0]: row[1] for row in read("docs/cases.md").rows("cases-of-a-delete")}


@pytest.mark.parametrize("case", ROWS)
def test_a_case(case: str, bench: Bench) -> None:
    assert case in CASES, "a new row needs a test"
    CASES[case](bench)
    # The row names exactly the raised errors.
    assert bench.errors == set(re.findall(r"`(Vectorize\w+)`", ROWS[case]))


def test_every_case_has_a_row() -> None:
    assert set(CASES) == set(ROWS)


# --- is it applied? -----------------------------------------------------------------------------------------

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
WITNESSES = ("a", "b")
VECTORS = tuple(WitnessVector.of({"id": id_, "values": [0.5]}) for id_ in WITNESSES)
OTHERS = tuple(replace(vector, values="0" * 32) for vector in VECTORS)


def decided(
    *,
    watermark: str | None = "other",
    stamp_age: float = 1,
    age: float = 5,
    index_age: float | None = 9000,
    witnesses: tuple[str, ...] = (),
    visible: tuple[str, ...] | None = None,
    read: tuple[WitnessVector, ...] | None = None,
    last: bool = False,
    **receipt: Any,
) -> Decision:
    """Decide on a mutation accepted ``age`` seconds ago, with a watermark of ``stamp_age`` seconds ago."""
    fields: dict[str, Any] = {
        "mutation_id": "mine",
        "accepted_at": NOW - timedelta(seconds=age),
        "witness_ids": witnesses,
        **receipt,
    }
    created_on = None if index_age is None else NOW - timedelta(seconds=index_age)
    state = IndexState(watermark, NOW - timedelta(seconds=stamp_age) if watermark else None, NOW, created_on)
    if visible is not None:
        read = tuple(WitnessVector.of({"id": id_}) for id_ in visible)
    if read is not None and not witnesses:
        fields["witness_vectors"] = VECTORS
    found = None if read is None else {vector.id: vector for vector in read}
    return decide(Receipt(**fields), state, found, at_deadline=last)


#: For each rule, decisions that it covers, including its boundaries.
RULES: dict[str, list[Decision]] = {
    "1": [decided(mutation_id=None)],
    "2": [decided(watermark="mine"), decided(watermark="mine", bare=True)],
    "3": [decided(watermark="mine", witnesses=WITNESSES, visible=())],
    "4": [decided(watermark="mine", witnesses=WITNESSES, visible=("a",), stamp_age=119, age=130)],
    "5": [
        decided(watermark="mine", witnesses=WITNESSES, visible=("a",), stamp_age=120, age=130),
        decided(watermark="mine", witnesses=WITNESSES, visible=("a",), last=True),
    ],
    "6": [decided(bare=True), decided(bare=True, age=9000)],
    "7": [decided(watermark=None), decided(watermark=None, witnesses=WITNESSES, visible=())],
    "8": [decided(stamp_age=8, witnesses=WITNESSES, visible=())],
    "9": [
        decided(witnesses=WITNESSES, visible=()),
        decided(witnesses=WITNESSES, visible=(), stamp_age=7),
    ],
    "10": [decided(witnesses=WITNESSES, visible=("a",), age=300, stamp_age=0)],
    "11": [decided(witnesses=WITNESSES, visible=WITNESSES, age=300, stamp_age=300)],
    "12": [
        decided(witnesses=WITNESSES, visible=("a",), age=299, stamp_age=120),
        decided(witnesses=WITNESSES, visible=WITNESSES, age=400, stamp_age=299),
        decided(witnesses=WITNESSES, visible=WITNESSES, age=300, stamp_age=301),
        decided(witnesses=WITNESSES, visible=WITNESSES, age=400, stamp_age=300, batches=2000),
    ],
    "13": [decided(age=300), decided(age=420, batches=2000)],
    "14": [decided(age=299), decided(age=419, batches=2000), decided(age=300, stamp_age=301)],
    "15": [
        decided(watermark="mine", read=VECTORS),
        decided(watermark="mine", read=OTHERS),
    ],
    "16": [decided(watermark="mine", read=VECTORS[:1], stamp_age=119, age=130)],
    "17": [
        decided(watermark="mine", read=(), stamp_age=120, age=130),
        decided(watermark="mine", read=VECTORS[:1], last=True),
    ],
    "18": [decided(read=VECTORS), decided(read=VECTORS, stamp_age=7)],
    "19": [decided(read=(VECTORS[0], OTHERS[1]), age=300), decided(read=VECTORS[:1], age=300, stamp_age=0)],
    "20": [
        decided(read=OTHERS, last=True),
        decided(read=(VECTORS[0], OTHERS[1]), last=True),
        decided(read=OTHERS, age=300, stamp_age=300),
    ],
    "21": [decided(read=(), age=300, stamp_age=300), decided(read=OTHERS[:1], age=300, stamp_age=300)],
    "22": [
        decided(read=OTHERS),
        decided(read=OTHERS, age=400, stamp_age=299),
        decided(read=(VECTORS[0], OTHERS[1]), age=299),
        decided(read=OTHERS[:1], last=True),
        decided(read=(), age=300, stamp_age=301, last=True),
    ],
    "24": [
        decided(witnesses=WITNESSES, visible=("a",), age=300, stamp_age=0, index_age=None),
        decided(witnesses=WITNESSES, visible=WITNESSES, age=300, stamp_age=300, index_age=None),
        decided(age=300, index_age=None),
        decided(read=VECTORS[:1], age=300, stamp_age=0, index_age=None),
        decided(read=OTHERS, last=True, index_age=None),
        decided(read=(), age=300, stamp_age=300, index_age=None),
        decided(last=True, index_age=None),
        decided(watermark=None, witnesses=WITNESSES, index_age=None),
        decided(watermark=None, age=300, index_age=None),
    ],
    "25": [decided(age=300, index_age=297), decided(last=True, age=5, index_age=2)],
}
RULE_ROWS = [
    row
    for heading in (
        "the-rules",
        "upserts-and-inserts",
        "several-writes-at-once",
        "a-recreated-index",
    )
    for row in read("docs/decision.md").rows(heading)
]


@pytest.mark.parametrize("row", RULE_ROWS, ids=lambda row: row[0])
def test_rule(row: list[str]) -> None:
    number, _, verdict, outcome = row
    if number == "23":
        # This rule combines decisions: tests/client/test_client_decide.py has its cases.
        assert (verdict, outcome) == ("applied", "that of the later mutation")
        return
    for decision in RULES[number]:
        assert decision.verdict is Verdict(verdict)
        assert decision.outcome == (re.findall(r"`(\w+)`", outcome) or [None])[0]
        if decision.verdict is Verdict.APPLIED:
            assert bool(decision.still_visible) == ("still_visible" in outcome)
            assert bool(decision.differing) == ("differing" in outcome)


def test_every_rule_is_stated() -> None:
    assert [row[0] for row in RULE_ROWS] == sorted([*RULES, "23"], key=int)


def test_rules_that_need_witnesses_read_them() -> None:
    for watermark in ("mine", "other"):
        assert decided(watermark=watermark, witnesses=WITNESSES).verdict is Verdict.READ_BACK


def test_every_outcome_is_explained() -> None:
    documented = {row[0].strip("`") for row in read("docs/decision.md").rows("what-each-outcome-proves")}
    assert documented == {d.outcome for decisions in RULES.values() for d in decisions if d.outcome}


# --- ids ----------------------------------------------------------------------------------------------------


@contextmanager
def deleting(vectorize: Vectorize, gone: set[str]) -> Iterator[None]:
    vectorize.fill(["0x1f", "31", "1e5", "other"])
    yield
    vectorize.settle()
    assert vectorize.ids() == {"0x1f", "31", "1e5", "other"} - gone


@pytest.mark.usefixtures("airflow_db")
@pytest.mark.parametrize(
    ("ids", "gone"),
    [
        ("0x1f", {"0x1f"}),
        (["0x1f", "1e5"], {"0x1f", "1e5"}),
        ("{{ params.ids }}", {"0x1f", "1e5"}),
        ("{{ params.id }}", None),
        (["{{ params.id }}"], {"0x1f"}),
    ],
)
def test_ids_with_native_rendering(vectorize: Vectorize, ids: Any, gone: set[str] | None) -> None:
    with make_dag(
        "native", params={"id": "0x1f", "ids": ["0x1f", "1e5"]}, render_template_as_native_obj=True
    ) as dag:
        DeleteVectorsByIdsOperator(task_id="delete", index_name=INDEX, ids=ids)
    with deleting(vectorize, gone or set()):
        assert run_dag(dag).state == ("failed" if gone is None else "success")


@pytest.mark.usefixtures("airflow_db")
def test_a_skipped_task_passes_none(vectorize: Vectorize) -> None:
    with make_dag("skipped") as dag:

        @task
        def find() -> list[str]:
            raise AirflowSkipException

        DeleteVectorsByIdsOperator(task_id="skipped_too", index_name=INDEX, ids=find())
        DeleteVectorsByIdsOperator(
            task_id="fails", index_name=INDEX, ids=dag.get_task("find").output, trigger_rule="all_done"
        )
    assert run_dag(dag).states == {"find": "skipped", "skipped_too": "skipped", "fails": "failed"}


def test_one_id_as_a_string(bench: Bench) -> None:
    vectorize = bench.vectorize()
    vectorize.fill(["a,b", "c"])
    for text in ("a,b", "a\nb", " a", "a "):
        assert "put it into a list" in str(bench.delete(ids=text))
    bench.delete(ids=["a,b"], wait_for_completion=True)
    assert vectorize.ids() == {"c"}
    for refused in ({"c"}, {"c": 1}, (id_ for id_ in "c")):
        assert "pass " in str(bench.delete(ids=refused))
