# SPDX-License-Identifier: Apache-2.0
"""Rules for the fenced blocks of docs/getting-started.md, docs/deleting-at-scale.md and docs/design.md."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from airflow_provider_cfvectorize.client.mutations.decide import IndexState, decide
from airflow_provider_cfvectorize.client.mutations.evidence import (
    describe_deferral,
    describe_evidence,
    make_evidence,
)
from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.local.__main__ import CONNECTION_VARIABLE, build_parser
from dags.running import run_dag
from harness import PROVEN, Vectorize
from readme.bench import Bench
from readme.markdown import ROOT, Block, read

START = "docs/getting-started.md"
SCALE = "docs/deleting-at-scale.md"
PACKAGE = ROOT / "airflow_provider_cfvectorize"


def block_of(key: str) -> Block:
    """Return a block by its key."""
    return next(block for block in read(key.partition("#")[0]).blocks if block.key == key)


def names_the_servers_options(block: Block, bench: Bench) -> None:
    """Check only the options; another rule runs the README's block of this command."""
    command, *options = shlex.split(block.text)
    assert command == "vectorize-local"
    assert build_parser().parse_args(options).apply_delay == 10


def is_what_the_server_prints(block: Block, bench: Bench) -> None:
    with LocalVectorize(port=0) as server:
        lines = f"listening on {server.base_url}\n{CONNECTION_VARIABLE}='{server.connection}'"
        assert block.text.rstrip() == lines.replace(str(server.port), "8787")


def fills_the_index(block: Block, bench: Bench) -> None:
    bench.load(block)
    assert bench.server.stats()["upsert"] == 1


def is_the_first_dag(block: Block, bench: Bench) -> None:
    vectorize = Vectorize(bench.server)
    vectorize.fill([f"chunk-{i}" for i in range(4)])
    run = run_dag(bench.load(block).dag)
    assert run.state == "success", run.states
    assert vectorize.ids() == {"chunk-1", "chunk-2", "chunk-3"}
    assert run.pull("wait_until_gone")["outcome"] in PROVEN


def tests_the_first_dag(block: Block, bench: Bench) -> None:
    vectorize = Vectorize(bench.server)
    vectorize.fill([f"chunk-{i}" for i in range(4)])
    folder = bench.directory / "dags"
    folder.mkdir()
    (folder / "forget.py").write_text(
        f'{block_of(f"{START}#write-the-dag/1").text}\ndag.get_task("wait_until_gone").poke_interval = 0.1\n'
    )
    bench.bash(block.text, AIRFLOW__CORE__DAGS_FOLDER=str(folder))
    assert vectorize.ids() == {"chunk-0", "chunk-3"}


def is_the_log_of_the_wait(block: Block, bench: Bench) -> None:
    """Not run: it would take more than 10 s. The package logs its lines."""
    at, before, mutation = datetime.now(UTC), datetime.now(UTC) - timedelta(minutes=1), str(uuid4())
    receipt = Receipt(mutation, "docs", "0" * 32, at, 2, 1, tuple("ab"))
    states = [IndexState(str(uuid4()), before, at), IndexState(mutation, at, at)]
    pending, applied = (decide(receipt, state, {}) for state in states)
    evidence = make_evidence(receipt, applied, states[1], account_id="0" * 32, index_name="docs")
    lines = [
        describe_deferral([receipt], "docs", interval=10, seconds=900),
        f"Not applied yet: {pending.reason}",
        describe_evidence(evidence),
    ]

    def shape(text: str) -> str:
        text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}|\d{4}-[\d:T.-]+Z", "x", text)
        return re.sub(r"mutation \w{8} |\b\d+ s after", "x", text)

    shown = " ".join(block.text.split()).split("INFO - ")[1:]
    assert [shape(line.strip()) for line in shown] == [shape(line) for line in lines]


def deletes_by_files(block: Block, bench: Bench) -> None:
    vectorize = Vectorize(bench.server)
    vectorize.fill([f"chunk-{i}" for i in range(30)])
    folder = bench.directory / "chunks"
    folder.mkdir()
    for number in range(3):
        lines = "".join(f"chunk-{i}\n" for i in range(number * 8, number * 8 + 8))
        (folder / f"{number}.txt").write_text(lines)
    run = run_dag(bench.load(block).dag, run_conf={"folder": str(folder)})
    assert run.state == "success", run.states
    assert vectorize.ids() == {f"chunk-{i}" for i in range(24, 30)}
    assert run.pull("wait_until_all_are_gone")["outcome"] in PROVEN


def names_existing_parts(block: Block, bench: Bench) -> None:
    """Check that each file and function in the drawing exists."""
    files = re.findall(r"[\w/]+\.py", block.text)
    assert files
    for name in files:
        assert (PACKAGE / name).exists(), name
    sources = "".join((PACKAGE / name).read_text() for name in files)
    for name in re.findall(r"(\w+)\(\)", block.text):
        assert re.search(rf"\b(def|class) {name}\b", sources), name


RULES: Mapping[str, Callable[[Block, Bench], None]] = {
    f"{START}#start-a-local-vectorize/1": names_the_servers_options,
    f"{START}#start-a-local-vectorize/2": is_what_the_server_prints,
    f"{START}#create-an-index/1": fills_the_index,
    f"{START}#write-the-dag/1": is_the_first_dag,
    f"{START}#trigger-the-dag/1": tests_the_first_dag,
    f"{START}#trigger-the-dag/2": is_the_log_of_the_wait,
    f"{SCALE}#chunks-in-files-one-wait/1": deletes_by_files,
    "docs/design.md#the-layers/1": names_existing_parts,
    "docs/design.md#one-delete/1": names_existing_parts,
    "docs/design.md#one-wait/1": names_existing_parts,
}
