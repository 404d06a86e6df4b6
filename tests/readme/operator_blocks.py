# SPDX-License-Identifier: Apache-2.0
"""Rules for the blocks of docs/index.md, docs/operators/ and docs/reference/: most are whole DAG files."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
from airflow_provider_cfvectorize.operators import indexes, vectors
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor
from dags.running import Run, query, run_dag
from harness import DIMENSIONS, PROVEN, Vectorize
from readme.bench import Bench
from readme.markdown import ROOT, Block, read

FOLDER = "docs/operators"
VALUES = [0.5] * DIMENSIONS


def page_of(cls: type) -> str:
    """Return the path of an operator's or sensor's page: its name in words, without the common parts."""
    name = re.sub(r"^Vectorize|(Create|Delete)Vectorize|Operator$", r"\1", cls.__name__)
    return f"{FOLDER}/{re.sub('(?<!^)(?=[A-Z])', '-', name).lower()}.md"


PAGES: dict[str, type] = {
    page_of(cls): cls
    for cls in [
        *(getattr(module, name) for module in (vectors, indexes) for name in module.__all__),
        VectorizeMutationSensor,
    ]
}


def spans(path: str) -> set[str]:
    """Return the code spans of a page."""
    return set(re.findall(r"`([^`]+)`", read(path).text))


class Stage:
    """The stage of a block: indexes, files that params of its DAG name, and the bench."""

    def __init__(self, block: Block, bench: Bench) -> None:
        self.block = block
        self.bench = bench
        self.params: dict[str, Any] = {}

    def index(self, name: str = "docs") -> Vectorize:
        """Create an index."""
        return Vectorize(self.bench.server, name)

    def file(self, name: str, lines: list[Any] | None = None, *, param: str = "path") -> Path:
        """Set a param to a path; create a file of JSON lines there if there are lines."""
        path = self.bench.directory / name
        if lines is not None:
            path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        self.params[param] = str(path)
        return path

    def run(self) -> Run:
        """Run the block's DAG to its end."""
        dag = self.bench.load(self.block).dag
        run = run_dag(dag, run_conf=self.params)
        assert run.state == "success", run.states
        for task in dag.tasks:
            names_pushed_xcoms(self.block.path, task.task_id, task.task_type, run)
        return run


def names_pushed_xcoms(path: str, task_id: str, task_type: str, run: Run) -> None:
    """Check that a page names the XComs of its operator and their fields."""
    if path not in PAGES or task_type != PAGES[path].__name__:
        return
    named = spans(path) | set(re.findall(r'"(\w+)":', " ".join(spans(path))))
    rows = query(
        "SELECT key, map_index FROM xcom WHERE dag_id=? AND run_id=? AND task_id=?",
        (run.dag_id, run.run_id, task_id),
    )
    assert rows or task_type == "DeleteVectorizeIndexOperator"
    for key, map_index in rows:
        if key.startswith("_link_"):
            # Airflow 3 stores the link of a task there.
            continue
        value = run.pull(task_id, key, map_index)
        if key != "return_value":
            assert key in named
        if key == "receipt":
            assert set(value) <= named | spans(f"{FOLDER}/index.md") | {"witness_ids"}
        elif key != "evidence" and isinstance(value, dict):
            assert set(value) <= named


def is_a_receipt(block: Block, bench: Bench) -> None:
    shown = json.loads(block.text)
    assert list(Receipt.from_dict(shown).as_dict().items()) == list(shown.items())


def forgets(stage: Stage) -> None:
    vectorize = stage.index()
    vectorize.fill(["chunk-0", "chunk-1", "chunk-2"])
    stage.run()
    assert vectorize.ids() == {"chunk-2"}


def deletes_by_param(stage: Stage) -> None:
    vectorize = stage.index()
    vectorize.fill(["chunk-0", "chunk-1", "chunk-2"])
    run = stage.run()
    assert vectorize.ids() == {"chunk-2"}
    assert run.pull("delete", "evidence")["outcome"] in PROVEN


def deletes_by_file(stage: Stage) -> None:
    vectorize = stage.index()
    vectorize.fill(["a", "b", "c"])
    stage.file("ids.txt").write_text("a\nb\n")
    evidence = stage.run().pull("delete", "evidence")
    assert vectorize.ids() == {"c"}
    assert (evidence["ids_verified"], evidence["ids_visible"]) == (2, 0)
    assert {"ids_verified", "ids_visible", "ids_sha256"} <= spans(stage.block.path) & set(evidence)


def deletes_a_document(stage: Stage) -> None:
    vectorize = stage.index()
    vectorize.client.create_metadata_index("docs", "doc_id", "string")
    vectors = [{"id": n, "values": VALUES, "metadata": {"doc_id": d}} for n, d in (("a", "a17"), ("b", "b"))]
    vectorize.wait_for(vectorize.client.upsert("docs", vectors)["mutationId"])
    report = stage.run().pull("delete", "report")
    assert vectorize.ids() == {"b"}
    # dag.test() completes its deferred wait.
    assert (report["outcome"], report["rounds"], report["deleted"]) == ("none_found", 1, 1)


def deletes_a_namespace(stage: Stage) -> None:
    vectorize = stage.index()
    vectors = [{"id": n, "values": VALUES, "namespace": n} for n in ("tenant-7", "tenant-8")]
    vectorize.wait_for(vectorize.client.upsert("docs", vectors)["mutationId"])
    stage.run()
    assert vectorize.ids() == {"tenant-8"}


def fills_from_an_xcom(stage: Stage) -> None:
    vectorize = stage.index()
    run = stage.run()
    assert vectorize.ids() == {"a"}
    assert run.pull("fill", "report") == {"vectors": 1, "requests": 1, "discarded": 0}


def fills_from_a_file(stage: Stage) -> None:
    vectorize = stage.index()
    stage.file("vectors.ndjson", [{"id": f"v{i}", "values": VALUES} for i in range(3)])
    run = stage.run()
    assert vectorize.ids() == {"v0", "v1", "v2"}
    assert run.pull("fill", "evidence")["outcome"] == "watermark"


def fills_from_parquet(stage: Stage) -> None:
    vectorize = stage.index()
    path = stage.file("vectors.parquet")
    rows = [{"id": f"v{i}", "embedding": VALUES, "lang": "en", "more": i} for i in range(2500)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    stage.run()
    assert vectorize.ids() == {f"v{i}" for i in range(2500)}
    assert vectorize.client.get_by_ids("docs", ["v7"])[0]["metadata"] == {"lang": "en"}


def gets_a_few(stage: Stage) -> None:
    stage.index().fill(["a", "b"])
    run = stage.run()
    assert [vector["id"] for vector in run.pull("get")] == ["a", "b"]
    report = run.pull("get", "report")
    assert report == {"asked": 3, "found": 2, "missing": 1, "missing_ids": ["no such id"]}


def copies_vectors(stage: Stage) -> None:
    stage.index().fill(["a", "b", "c"])
    copy = stage.index("docs-copy")
    stage.file("ids.txt", param="ids_path").write_text("a\nb\n")
    path = stage.file("vectors.ndjson")
    assert stage.run().pull("get") == str(path)
    assert copy.ids() == {"a", "b"}


def fill_in_languages(vectorize: Vectorize) -> None:
    vectorize.wait_for(
        vectorize.client.upsert(
            "docs",
            [
                {"id": f"v{i}", "values": [1.0, i, *[0.0] * 30], "metadata": {"lang": "en" if i else "de"}}
                for i in range(9)
            ],
        )["mutationId"]
    )


def queries(stage: Stage) -> None:
    vectorize = stage.index()
    vectorize.client.create_metadata_index("docs", "lang", "string")
    fill_in_languages(vectorize)
    stage.params["vector"] = [1.0, *[0.0] * 31]
    found = stage.run().pull("query")
    assert [match["id"] for match in found["matches"]] == ["v1", "v2", "v3"]
    assert found["matches"][0]["metadata"] == {"lang": "en"}


def queries_by_id(stage: Stage) -> None:
    fill_in_languages(stage.index())
    assert stage.run().pull("ids_of") == ["v0"]


def lists_and_deletes(stage: Stage) -> None:
    vectorize = stage.index()
    vectorize.fill(["tenant-7/a", "tenant-7/b", "tenant-70", "other"])
    path = stage.file("ids.txt")
    run = stage.run()
    assert run.pull("list") == str(path)
    assert run.pull("list", "report") == {"listed": 4, "matched": 2}
    assert vectorize.ids() == {"tenant-70", "other"}


def lists_a_few(stage: Stage) -> None:
    stage.index().fill(["a", "b"])
    assert set(stage.run().pull("list")) == {"a", "b"}


def reconciles(stage: Stage) -> None:
    vectorize = stage.index()
    vectorize.fill(["tenant-7/a", "tenant-7/b", "other"])
    stage.file("desired.ndjson", [{"id": "tenant-7/a"}, {"id": "tenant-7/c"}])
    missing = stage.file("missing.txt", param="missing")
    run = stage.run()
    assert vectorize.ids() == {"tenant-7/a", "other"}
    assert missing.read_text() == "tenant-7/c\n"
    assert run.pull("reconcile", "evidence")["outcome"] in PROVEN


def creates_an_index(stage: Stage) -> None:
    run = stage.run()
    assert run.pull("create", "index")["config"] == {"dimensions": 32, "metric": "cosine"}
    assert run.pull("create", "receipt")["count"] == 2
    # Another run finds the index as wanted.
    again = stage.run()
    assert again.pull("create") == again.pull("create", "receipt")["mutation_id"] != run.pull("create")
    assert again.pull("create", "index") == run.pull("create", "index")


def creates_by_preset(stage: Stage) -> None:
    run = stage.run()
    assert run.pull("create", "index")["config"]["dimensions"] == 768
    assert run.pull("create") is None


def makes_an_index_for_a_run(stage: Stage) -> None:
    client = stage.index("other").client
    assert stage.run().pull("fill", "report")["vectors"] == 1
    assert [index["name"] for index in client.list_indexes()] == ["other"]


def finds_old_vectors(stage: Stage) -> None:
    vectorize = stage.index()
    fill_in_languages(vectorize)
    stage.file("ids.txt", param="ids")
    stage.file("vectors.ndjson", param="vectors")
    stage.run()
    found = vectorize.client.query("docs", vector_id="v0", top_k=20, filter={"lang": "en"})
    assert found["count"] == 8


def changes_the_type(stage: Stage) -> None:
    vectorize = stage.index()
    vectorize.wait_for(vectorize.client.create_metadata_index("docs", "year", "string")["mutationId"])
    stage.run()
    (index,) = vectorize.client.list_metadata_indexes("docs")
    assert (index["propertyName"], index["indexType"].lower()) == ("year", "number")


def waits_for_two(stage: Stage) -> None:
    vectorize = stage.index()
    vectorize.fill(["a", "b"])
    evidence = stage.run().pull("wait")
    assert evidence["mutation_count"] == 2
    assert vectorize.ids() == {"c"}


def waits_for_mapped(stage: Stage) -> None:
    vectorize = stage.index()
    vectorize.fill(["a", "b", "c", "d"])
    assert stage.run().pull("wait")["mutation_count"] == 2
    assert vectorize.ids() == {"d"}


def waits_for_own_task(stage: Stage) -> None:
    vectorize = stage.index()
    vectorize.fill(["a", "b", "c"])
    assert stage.run().pull("wait")["still_visible"] == []
    assert vectorize.ids() == {"c"}


_DAGS: Mapping[str, tuple[Callable[[Stage], None], ...]] = {
    "delete-vectors-by-ids": (deletes_by_param, deletes_by_file),
    "delete-vectors-by-filter": (deletes_a_document, deletes_a_namespace),
    "upsert-vectors": (fills_from_an_xcom, fills_from_a_file),
    "insert-vectors": (fills_from_parquet,),
    "get-vectors-by-ids": (gets_a_few, copies_vectors),
    "query-vectors": (queries, queries_by_id),
    "list-vectors": (lists_and_deletes, lists_a_few),
    "reconcile-vectors": (reconciles,),
    "create-index": (creates_an_index, creates_by_preset),
    "delete-index": (makes_an_index_for_a_run,),
    "create-metadata-index": (finds_old_vectors,),
    "delete-metadata-index": (changes_the_type,),
    "mutation-sensor": (waits_for_two, waits_for_mapped, waits_for_own_task),
}


def as_rule(check: Callable[[Stage], None]) -> Callable[[Block, Bench], None]:
    return lambda block, bench: check(Stage(block, bench))


def names_existing_parts(block: Block, bench: Bench) -> None:
    """Only Sphinx runs it, in tests/package/test_docs.py. The names in the directives can be imported."""
    assert block.language == "{eval-rst}"
    module = ""
    directives = re.findall(r"^\.\. (\w+):: ([\w.]+)$", block.text, re.MULTILINE)
    assert directives
    for directive, name in directives:
        if directive in ("currentmodule", "automodule"):
            module = importlib.import_module(name).__name__
        else:
            path, _, attribute = name.rpartition(".")
            assert hasattr(importlib.import_module(path or module), attribute), name


RULES: Mapping[str, Callable[[Block, Bench], None]] = {
    f"{FOLDER}/delete-vectors-by-ids.md#result/1": is_a_receipt,
    "docs/index.md#cloudflare-vectorize-in-apache-airflow/1": as_rule(forgets),
    **{
        f"{FOLDER}/{page}.md#examples/{number}": as_rule(check)
        for page, checks in _DAGS.items()
        for number, check in enumerate(checks, 1)
    },
    **{
        block.key: names_existing_parts
        for path in sorted(ROOT.glob("docs/reference/*.md"))
        for block in read(str(path.relative_to(ROOT))).blocks
    },
}
