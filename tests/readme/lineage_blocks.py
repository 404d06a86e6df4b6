# SPDX-License-Identifier: Apache-2.0
"""Rules for the fenced blocks of docs/lineage.md."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping

from dags.running import run_dag
from harness import Vectorize
from readme.bench import Bench
from readme.markdown import ROOT, Block

PAGE = "docs/lineage.md"


def writes_and_reads(block: Block, bench: Bench) -> None:
    vectorize = Vectorize(bench.server)
    path = bench.directory / "vectors.ndjson"
    path.write_text(json.dumps({"id": "a", "values": [0.5] * 32}) + "\n")
    page = bench.load(block)
    (outlet,) = page.write.get_task("upsert").outlets
    # The page uses the local server's account, so that readers can run it.
    assert outlet.uri == f"cloudflare-vectorize://{vectorize.server.account_id}/docs"
    assert run_dag(page.write, run_conf={"path": str(path)}).state == "success"
    run = run_dag(page.after)
    assert run.pull("list") == ["a"]


def reports_to_openlineage(block: Block, bench: Bench) -> None:
    bench.monkeypatch.setenv("AIRFLOW__CORE__DAGS_FOLDER", str(ROOT / "example_dags"))
    bench.bash(block.text)
    events = [json.loads(line) for line in (bench.directory / "lineage.ndjson").read_text().splitlines()]
    outputs = {
        event["job"]["name"]: [(one["namespace"], one["name"]) for one in event["outputs"]]
        for event in events
        if event["eventType"] == "COMPLETE"
    }
    index = (f"cloudflare-vectorize://{bench.server.account_id}", "articles")
    for task_id in ("create", "upsert"):
        assert outputs[f"vectorize_write_articles.{task_id}"] == [index]


RULES: Mapping[str, Callable[[Block, Bench], None]] = {
    f"{PAGE}#assets/1": writes_and_reads,
    f"{PAGE}#openlineage/1": reports_to_openlineage,
}
