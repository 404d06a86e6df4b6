# SPDX-License-Identifier: Apache-2.0
"""Rules for the blocks of is-it-really-gone.md, erase-with-proof.md and ids-in-airflow.md in docs/."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from airflow_provider_cfvectorize.client.inputs.ids import sha256_of_sorted
from dags.running import change, query, run_dag
from harness import Vectorize
from readme.bench import Bench
from readme.markdown import Block, read

GONE = "docs/is-it-really-gone.md"
ERASE = "docs/erase-with-proof.md"
IDS = ["b", "a", "é", "\U0001f600", "\uffee", "b", "A", "a-1"]
DIGEST = sha256_of_sorted([IDS])


def computes_the_digest_of_the_evidence(block: Block, bench: Bench) -> None:
    assert (len(set(IDS)), bench.load(block).sha256_of(IDS)) == DIGEST


def fields_of_the_proof() -> set[str]:
    rows = read(ERASE).rows("what-to-hand-over")
    return {cell for row in rows for cell in re.findall(r"`(\w+)`", row[0])}


def keeps_the_proof(block: Block, bench: Bench) -> None:
    vectorize = Vectorize(bench.server)
    vectorize.fill([*IDS, "other"])
    ids, proofs = bench.directory / "ids.txt", bench.directory / "proofs"
    ids.write_text("".join(f"{id_}\n" for id_ in IDS))
    dag = bench.load(block).dag
    conf: dict[str, Any] = {"ids": str(ids), "proofs": str(proofs)}
    run = run_dag(dag, run_conf=conf)
    assert run.state == "success", run.states
    assert vectorize.ids() == {"other"}
    (path,) = proofs.iterdir()
    kept = json.loads(path.read_text())
    assert kept == {key: run.pull("delete", key) for key in ("receipt", "evidence")}
    assert path.stem == kept["evidence"]["mutation_id"]
    assert (kept["evidence"]["ids_verified"], kept["evidence"]["ids_sha256"]) == DIGEST
    # The page explains each field.
    assert fields_of_the_proof() == set(kept["receipt"]) | set(kept["evidence"])
    # Visible ids fail the task, and it saves the proof.
    keep = dag.get_task("keep_proof").python_callable
    visible = {**kept["evidence"], "mutation_id": "other", "ids_visible": 1}
    for evidence, why in (
        (visible, "ids that still exist: 1"),
        ({"outcome": "nothing_to_do"}, "the file of ids is empty"),
    ):
        with pytest.raises(ValueError, match=why):
            keep(kept["receipt"], evidence, conf)
    assert {file.stem for file in proofs.iterdir()} == {kept["evidence"]["mutation_id"], "other"}


def is_a_proof(block: Block, bench: Bench) -> None:
    shown = json.loads(block.text)
    receipt, evidence = shown["receipt"], shown["evidence"]
    # Of the DAG's own file: see above.
    assert set(receipt) | set(evidence) == fields_of_the_proof()
    assert sha256_of_sorted([receipt["witness_ids"]]) == (evidence["ids_verified"], evidence["ids_sha256"])
    assert receipt["accepted_at"] < evidence["processed_up_to"] < evidence["decided_at"]


def leaves_no_id(block: Block, bench: Bench) -> None:
    vectorize = Vectorize(bench.server)
    ids = [f"customer-7-{i}" for i in range(45)]
    vectorize.fill([*ids, "other"])
    dag = bench.load(block).dag
    run = run_dag(dag, run_conf={"folder": str(bench.directory)})
    assert run.state == "success", run.states
    assert vectorize.ids() == {"other"}
    assert not list(bench.directory.glob("*.txt"))
    tables = [name for (name,) in query("SELECT name FROM sqlite_master WHERE type='table'")]
    assert not [table for table in tables if "customer-7-1" in str(query(f'SELECT * FROM "{table}"'))]
    # A remaining vector fails the run.
    vectorize.fill(ids[:1])
    path = bench.directory / "left.txt"
    path.write_text("".join(f"{id_}\n" for id_ in ids))
    with pytest.raises(ValueError, match="1 of 45 vectors can still be read"):
        dag.get_task("check").python_callable(str(path))


def cleans_the_database(block: Block, bench: Bench) -> None:
    change("INSERT INTO log (dttm, event, extra) VALUES ('2020-01-01 00:00:00.000000', 'old', 'an id')")
    bench.bash(block.text)
    assert not query("SELECT event FROM log WHERE event='old'")
    assert not query("SELECT name FROM sqlite_master WHERE name LIKE '\\_airflow\\_deleted%' ESCAPE '\\'")


RULES: Mapping[str, Callable[[Block, Bench], None]] = {
    f"{GONE}#reading-every-id/1": computes_the_digest_of_the_evidence,
    f"{ERASE}#the-dag/1": keeps_the_proof,
    f"{ERASE}#what-to-hand-over/1": is_a_proof,
    "docs/ids-in-airflow.md#keep-ids-out-of-airflow/1": leaves_no_id,
    "docs/ids-in-airflow.md#retention/1": cleans_the_database,
}
