# SPDX-License-Identifier: Apache-2.0
"""Lineage that the extractor of Airflow's OpenLineage provider reads from a finished task."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.providers.openlineage.extractors import ExtractorManager
from airflow.utils.state import TaskInstanceState
from openlineage.client.serde import Serde

from airflow_provider_cfvectorize.lineage import file_names
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.operators.indexes import (
    CreateVectorizeIndexOperator,
    CreateVectorizeMetadataIndexOperator,
    DeleteVectorizeIndexOperator,
    DeleteVectorizeMetadataIndexOperator,
)
from airflow_provider_cfvectorize.operators.vectors import (
    DeleteVectorsByFilterOperator,
    DeleteVectorsByIdsOperator,
    GetVectorsByIdsOperator,
    InsertVectorsOperator,
    ListVectorsOperator,
    QueryVectorsOperator,
    ReconcileVectorsOperator,
    UpsertVectorsOperator,
)
from dags.running import make_dag
from harness import INDEX, Vectorize, make_context, outcome_of, run_task
from package.test_provider_info import run_python

VALUES = [0.5] * 32
SECRET = "tenant-7/a-name"


class Lineage:
    """Run a task and hold its lineage."""

    def __init__(self, cls: Any, **kwargs: Any) -> None:
        made: list[Any] = []

        def make() -> Any:
            with make_dag("lineage"):
                made.append(cls(task_id="task", **{"index_name": INDEX} | kwargs))
            return made[-1]

        self.state, self.result = outcome_of(lambda: run_task(make, make_context()))
        ended = TaskInstanceState.SUCCESS if self.state == "success" else TaskInstanceState.FAILED
        found = ExtractorManager().extract_metadata(
            dagrun=SimpleNamespace(run_id="run"),
            task=made[-1],
            task_instance_state=ended,
            task_instance=SimpleNamespace(task=made[-1]),
        )
        self.inputs = [(dataset.namespace, dataset.name) for dataset in found.inputs]
        self.outputs = [(dataset.namespace, dataset.name) for dataset in found.outputs]
        self.text = "".join(map(Serde.to_json, [*found.inputs, *found.outputs]))
        self.facets = [
            {
                name: facet.get("rowCount", facet.get("lifecycleStateChange"))
                for kind in ("facets", "outputFacets")
                for name, facet in json.loads(Serde.to_json(dataset))[kind].items()
            }
            for dataset in found.outputs
        ]


@pytest.fixture
def index(vectorize: Vectorize) -> tuple[str, str]:
    """Fill the index and return its namespace and name."""
    vectorize.fill(["a", "b", SECRET])
    return f"cloudflare-vectorize://{vectorize.server.account_id}", INDEX


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    def make(name: str, *lines: str) -> str:
        path = tmp_path / name
        if lines:
            path.write_text("".join(f"{line}\n" for line in lines))
        return str(path)

    return make


def test_lineage_of_a_delete(index: tuple[str, str], file: Callable[..., str]) -> None:
    path = file("ids.txt", "a", SECRET)
    for wait in ({}, {"wait_for_completion": True, "poll_interval": 0.01}):
        for deferrable in (False, True):
            lineage = Lineage(DeleteVectorsByIdsOperator, ids_path=path, deferrable=deferrable, **wait)
            assert (lineage.inputs, lineage.outputs) == ([("file", path)], [index])
            assert lineage.facets == [{}]
            assert SECRET not in lineage.text


def test_an_empty_delete_has_no_output(index: tuple[str, str], file: Callable[..., str]) -> None:
    lineage = Lineage(DeleteVectorsByIdsOperator, ids=[], wait_for_completion=True)
    assert (lineage.state, lineage.inputs, lineage.outputs) == ("success", [], [])


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_delete_by_filter(vectorize: Vectorize, index: tuple[str, str], deferrable: bool) -> None:
    vector = {"id": SECRET, "values": VALUES, "namespace": "n"}
    vectorize.wait_for(vectorize.client.upsert(INDEX, [vector])["mutationId"])
    given: dict[str, Any] = {"namespace": "n", "max_ids": 5, "poll_interval": 0.01, "deferrable": deferrable}
    for kwargs, outputs in (({"dry_run": True}, []), ({}, [index]), ({}, [])):
        lineage = Lineage(DeleteVectorsByFilterOperator, **given, **kwargs)
        assert (lineage.inputs, lineage.outputs) == ([index], outputs)
        assert SECRET not in lineage.text


def test_a_dry_run_has_the_index_as_input(index: tuple[str, str]) -> None:
    lineage = Lineage(DeleteVectorsByIdsOperator, ids=["a"], dry_run=True)
    assert (lineage.inputs, lineage.outputs) == ([index], [])
    lineage = Lineage(DeleteVectorsByIdsOperator, ids=["a"], dry_run=True, verify="none")
    assert (lineage.inputs, lineage.outputs) == ([], [])


@pytest.mark.parametrize("deferrable", [False, True])
def test_an_upsert_counts_rows(index: tuple[str, str], file: Callable[..., str], deferrable: bool) -> None:
    lines = [json.dumps({"id": id_, "values": VALUES}) for id_ in ("c", "d", SECRET)]
    path = file("vectors.ndjson", *lines)
    wait: dict[str, Any] = {"wait_for_completion": True, "poll_interval": 0.01, "deferrable": deferrable}
    lineage = Lineage(UpsertVectorsOperator, vectors_path=path, **wait)
    assert (lineage.inputs, lineage.outputs) == ([("file", path)], [index])
    assert lineage.facets == [{"outputStatistics": 3}]
    assert SECRET not in lineage.text
    # An insert's count would include vectors that the service skipped.
    lineage = Lineage(InsertVectorsOperator, vectors_path=path, **wait)
    assert (lineage.inputs, lineage.outputs, lineage.facets) == ([("file", path)], [index], [{}])


def test_lineage_of_reads(index: tuple[str, str], file: Callable[..., str]) -> None:
    ids = file("ids.txt", "a", SECRET)
    found = file("found.ndjson")
    lineage = Lineage(GetVectorsByIdsOperator, ids_path=ids, path=found)
    assert (lineage.inputs, lineage.outputs) == ([index, ("file", ids)], [("file", found)])
    lineage = Lineage(GetVectorsByIdsOperator, ids=[])
    assert (lineage.inputs, lineage.outputs) == ([], [])
    lineage = Lineage(QueryVectorsOperator, vector_id=SECRET)
    assert (lineage.inputs, lineage.outputs) == ([index], [])
    assert SECRET not in lineage.text
    lineage = Lineage(ListVectorsOperator, prefix=SECRET)
    assert (lineage.inputs, lineage.outputs) == ([index], [])
    lineage = Lineage(ListVectorsOperator, path=found)
    assert (lineage.inputs, lineage.outputs) == ([index], [("file", found)])
    # A file that was not written is not an output.
    lineage = Lineage(ListVectorsOperator, path=found, index_name="no-such-index")
    assert lineage.state == "failed"
    assert (lineage.inputs, lineage.outputs) == ([(index[0], "no-such-index")], [])


@pytest.mark.parametrize("deferrable", [False, True])
def test_lineage_of_a_reconcile(index: tuple[str, str], file: Callable[..., str], deferrable: bool) -> None:
    ids, surplus, missing = file("ids.txt", "a", "c"), file("surplus.txt"), file("missing.txt")
    given: dict[str, Any] = {
        "ids_path": ids,
        "surplus_path": surplus,
        "missing_path": missing,
        "deferrable": deferrable,
        "poll_interval": 0.01,
    }
    refused = Lineage(ReconcileVectorsOperator, **given)
    assert (refused.state, refused.inputs, refused.outputs) == ("failed", [index, ("file", ids)], [index])
    rehearsed = Lineage(ReconcileVectorsOperator, **given, dry_run=True)
    files = [("file", surplus), ("file", missing)]
    assert (rehearsed.inputs, rehearsed.outputs) == ([index, ("file", ids)], files)
    done = Lineage(ReconcileVectorsOperator, **given, max_delete_fraction=1)
    assert (done.inputs, done.outputs) == ([index, ("file", ids)], [index, *files])
    assert SECRET not in done.text
    # Nothing is left to delete.
    again = Lineage(ReconcileVectorsOperator, **given)
    assert (again.inputs, again.outputs) == ([index, ("file", ids)], files)


@pytest.mark.parametrize("deferrable", [False, True])
def test_lineage_of_an_index_and_its_metadata_indexes(server: LocalVectorize, deferrable: bool) -> None:
    index = (f"cloudflare-vectorize://{server.account_id}", "new")
    wait: dict[str, Any] = {"wait_for_completion": True, "poll_interval": 0.01, "deferrable": deferrable}
    create: dict[str, Any] = {"index_name": "new", "dimensions": 32, "metric": "cosine", **wait}
    for cls, given, change in (
        (CreateVectorizeIndexOperator, {**create, "metadata_indexes": {"a": "string"}}, "CREATE"),
        # The index exists.
        (CreateVectorizeIndexOperator, {**create, "if_exists": "skip"}, None),
        (
            CreateVectorizeIndexOperator,
            {**create, "if_exists": "skip", "metadata_indexes": {"a": "string"}},
            "ALTER",
        ),
        (
            CreateVectorizeMetadataIndexOperator,
            {"index_name": "new", "property_name": "b", "index_type": "number", **wait},
            "ALTER",
        ),
        (DeleteVectorizeMetadataIndexOperator, {"index_name": "new", "property_name": "b", **wait}, "ALTER"),
        (
            DeleteVectorizeMetadataIndexOperator,
            {"index_name": "new", "property_name": "b", "if_missing": "skip", **wait},
            None,
        ),
        (DeleteVectorizeIndexOperator, {"index_name": "new"}, "DROP"),
        (DeleteVectorizeIndexOperator, {"index_name": "new", "if_missing": "skip"}, None),
    ):
        lineage = Lineage(cls, **given)
        assert lineage.state == "success", lineage.result
        assert lineage.inputs == []
        assert lineage.outputs == ([index] if change else []), (cls, change)
        assert lineage.facets == ([{"lifecycleStateChange": change}] if change else [])


def test_a_failed_task_has_the_index_as_output(server: LocalVectorize, vectorize: Vectorize) -> None:
    for cls, given in (
        (DeleteVectorsByIdsOperator, {"ids": ["a"]}),
        (UpsertVectorsOperator, {"vectors": [{"id": "a", "values": VALUES}]}),
        (DeleteVectorizeIndexOperator, {}),
    ):
        lineage = Lineage(cls, index_name="no-such-index", **given)
        assert lineage.state == "failed"
        namespace = f"cloudflare-vectorize://{server.account_id}"
        assert (lineage.inputs, lineage.outputs) == ([], [(namespace, "no-such-index")])
        assert lineage.facets == [{}]
    # The task did not find its account, or the index name is invalid.
    for more in ({"conn_id": "no_such_connection"}, {"index_name": "../other"}):
        lineage = Lineage(DeleteVectorsByIdsOperator, ids=["a"], **more)
        assert (lineage.state, lineage.inputs, lineage.outputs) == ("failed", [], [])


def test_a_failed_wait_keeps_the_output(monkeypatch: pytest.MonkeyPatch) -> None:
    with LocalVectorize(apply_delay=600) as server:
        monkeypatch.setenv("AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT", server.connection)
        Vectorize(server)
        lineage = Lineage(
            UpsertVectorsOperator,
            vectors=[{"id": "a", "values": VALUES}],
            wait_for_completion=True,
            wait_timeout=0,
            deferrable=True,
        )
        assert lineage.state == "failed"
        assert lineage.outputs == [(f"cloudflare-vectorize://{server.account_id}", INDEX)]
        assert lineage.facets == [{"outputStatistics": 1}]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/data/ids.txt", ("file", "/data/ids.txt")),
        ("/data/../data/ids.txt", ("file", "/data/ids.txt")),
        ("file:///data/a%20b.txt", ("file", "/data/a b.txt")),
        ("file://localhost/data/ids.txt", ("file", "/data/ids.txt")),
        ("ids.txt", ("file", str(Path.cwd() / "ids.txt"))),
        ("s3://bucket/chunks/ids.txt", ("s3://bucket", "chunks/ids.txt")),
        ("S3A://conn_id@bucket/ids.txt", ("s3://bucket", "ids.txt")),
        ("gcs://conn_id@bucket/ids.txt", ("gs://bucket", "ids.txt")),
        ("abfs://user:hunter2@container/ids.txt", ("abfs://container", "ids.txt")),
        ("s3://bucket/what?#.txt", ("s3://bucket", "what?#.txt")),
        ("https://user:hunter2@host/ids.txt?signature=hunter2#a", ("https://host", "ids.txt")),
        (Path("/data/ids.txt"), ("file", "/data/ids.txt")),
        ("", None),
        ("None", None),
        (["a"], None),
    ],
)
def test_names_of_files(path: object, expected: tuple[str, str] | None) -> None:
    assert file_names(path) == expected


def test_tasks_work_without_the_openlineage_provider() -> None:
    code = """
import sys
# All but what says that it is installed, which Airflow reads in any case.
for name in ("openlineage", *("airflow.providers.openlineage." + n for n in ("conf", "extractors", "utils"))):
    sys.modules[name] = None
sys.path.insert(0, TESTS)
import os
from airflow_provider_cfvectorize.assets import vectorize_asset
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.operators.vectors import UpsertVectorsOperator
from harness import Vectorize, make_context, run_task
with LocalVectorize(apply_delay=0.02) as server:
    os.environ["AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"] = server.connection
    Vectorize(server)
    def make():
        return UpsertVectorsOperator(
            task_id="a", index_name="docs", vectors=[{"id": "a", "values": [0.5] * 32}],
            wait_for_completion=True, deferrable=True, poll_interval=0.1,
            outlets=[vectorize_asset(account_id=server.account_id, index_name="docs")],
        )
    assert run_task(make, make_context())
missed = ("openlineage.", "airflow.providers.common.compat.openl")
print("imported:", [name for name in sys.modules if name.startswith(missed)])
""".replace("TESTS", repr(str(Path(__file__).parent.parent)))
    assert "imported: []" in run_python(code)
