# SPDX-License-Identifier: Apache-2.0
"""How the fenced blocks of docs/operators.md are run: each as tasks of a DAG, with the page's own imports."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from airflow_provider_cfvectorize.local import LocalVectorize
from dags.running import Run, make_dag, run_dag
from harness import Vectorize
from readme.markdown import Block, read

PAGE = "docs/operators.md"
IMPORTS = f"{PAGE}#the-other-operators/1"
VALUES = [0.5] * 32


@dataclass
class Stage:
    """What a block runs on: an index (unless it makes one), files, and a DAG's params."""

    server: LocalVectorize
    directory: Path
    params: dict[str, Any] = field(default_factory=dict)
    vectorize: Vectorize | None = None

    def index(self) -> Vectorize:
        """Return the index ``docs``, which is made when it is first asked for."""
        self.vectorize = self.vectorize or Vectorize(self.server)
        return self.vectorize

    def file(self, name: str, lines: list[Any] | None = None, *, param: str = "path") -> Path:
        """Make a file, or only a path, that a param names."""
        path = self.directory / name
        if lines is not None:
            path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        self.params[param] = str(path)
        return path


def run_block(block: Block, stage: Stage) -> Run:
    """Run a block's tasks in a DAG."""
    names: dict[str, Any] = {}
    imports = next(b for b in read(PAGE).blocks if b.key == IMPORTS)
    exec(compile(imports.text, IMPORTS, "exec"), names)
    with make_dag(block.key.replace("#", "_").replace("/", "_"), params=stage.params) as dag:
        exec(compile(block.text, block.key, "exec"), names)
    run = run_dag(dag)
    assert run.state == "success", run.states
    return run


def imports_what_is_there(block: Block, stage: Stage) -> None:
    names: dict[str, Any] = {}
    exec(compile(block.text, block.key, "exec"), names)
    assert len([name for name in names if name.endswith("Operator")]) == 10


def creates_an_index(block: Block, stage: Stage) -> None:
    run = run_block(block, stage)
    assert run.pull("create", "index")["config"] == {"dimensions": 32, "metric": "cosine"}
    # Again: it is there, as it should be.
    again = run_block(block, stage)
    assert again.pull("create") == again.pull("create", "receipt")["mutation_id"] != run.pull("create")
    assert again.pull("create", "index") == run.pull("create", "index")


def fills_out_of_an_xcom(block: Block, stage: Stage) -> None:
    stage.index()
    run = run_block(block, stage)
    assert stage.index().ids() == {"a"}
    assert run.pull("fill", "report") == {"vectors": 1, "requests": 1, "discarded": 0}


def fills_out_of_a_file(block: Block, stage: Stage) -> None:
    stage.index()
    stage.file("vectors.ndjson", [{"id": f"v{i}", "values": VALUES} for i in range(3)])
    run = run_block(block, stage)
    assert stage.index().ids() == {"v0", "v1", "v2"}
    assert run.pull("fill", "evidence")["outcome"] == "watermark"


def fills_out_of_parquet(block: Block, stage: Stage) -> None:
    stage.index()
    path = stage.file("vectors.parquet")
    rows = [{"id": f"v{i}", "embedding": VALUES, "lang": "en", "more": i} for i in range(2500)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    run_block(block, stage)
    assert stage.index().ids() == {f"v{i}" for i in range(2500)}
    assert stage.index().client.get_by_ids("docs", ["v7"])[0]["metadata"] == {"lang": "en"}


def queries(block: Block, stage: Stage) -> None:
    vectorize = stage.index()
    vectorize.client.create_metadata_index("docs", "lang", "string")
    vectors = [
        {"id": f"v{i}", "values": [1.0, i, *[0.0] * 30], "metadata": {"lang": "en" if i else "de"}}
        for i in range(9)
    ]
    vectorize.wait_for(vectorize.client.upsert("docs", vectors)["mutationId"])
    stage.params["vector"] = [1.0, *[0.0] * 31]
    found = run_block(block, stage).pull("query")
    assert [match["id"] for match in found["matches"]] == ["v1", "v2", "v3"]
    assert found["matches"][0]["metadata"] == {"lang": "en"}


def lists_and_deletes(block: Block, stage: Stage) -> None:
    stage.index().fill(["tenant-7/a", "tenant-7/b", "tenant-70", "other"])
    path = stage.file("ids.txt")
    run = run_block(block, stage)
    assert run.pull("list") == str(path)
    assert run.pull("list", "report") == {"listed": 4, "matched": 2}
    assert stage.index().ids() == {"tenant-70", "other"}


def gets_into_a_file(block: Block, stage: Stage) -> None:
    stage.index().fill(["a", "b"])
    path = stage.file("vectors.ndjson")
    run = run_block(block, stage)
    assert [json.loads(line)["id"] for line in path.read_text().splitlines()] == ["a", "b"]
    report = run.pull("get", "report")
    assert (report["found"], report["missing_ids"]) == (2, ["no such id"])


def reconciles(block: Block, stage: Stage) -> None:
    stage.index().fill(["tenant-7/a", "tenant-7/b", "other"])
    stage.file("desired.ndjson", [{"id": "tenant-7/a"}, {"id": "tenant-7/c"}])
    missing = stage.file("missing.txt", param="missing")
    run = run_block(block, stage)
    assert stage.index().ids() == {"tenant-7/a", "other"}
    assert missing.read_text() == "tenant-7/c\n"
    assert run.pull("reconcile", "evidence")["outcome"] == "watermark"


RULES: Mapping[str, Callable[[Block, Stage], None]] = {
    IMPORTS: imports_what_is_there,
    f"{PAGE}#create-an-index/1": creates_an_index,
    f"{PAGE}#fill-an-index/1": fills_out_of_an_xcom,
    f"{PAGE}#fill-an-index/2": fills_out_of_a_file,
    f"{PAGE}#fill-an-index/3": fills_out_of_parquet,
    f"{PAGE}#query/1": queries,
    f"{PAGE}#read-and-list/1": lists_and_deletes,
    f"{PAGE}#read-and-list/2": gets_into_a_file,
    f"{PAGE}#reconcile/1": reconciles,
}
