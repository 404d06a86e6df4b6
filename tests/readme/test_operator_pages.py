# SPDX-License-Identifier: Apache-2.0
"""
The pages in docs/operators/ are correct and complete for each operator and the sensor.

tests/readme/operator_blocks.py runs their examples and checks the named XComs.
"""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_cfvectorize.exceptions import VectorizeAuthError, VectorizeInputError
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.operators.base import VectorizeOperator, VectorizeWriteOperator
from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByFilterOperator
from harness import Vectorize, make_context, outcome_of, run_task
from readme.markdown import ROOT, read
from readme.operator_blocks import FOLDER, PAGES, VALUES, spans

CONN = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"
INDEX_PAGE = f"{FOLDER}/index.md"


def parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Return a constructor's own parameters."""
    own = inspect.signature(cls.__init__).parameters
    return {name: p for name, p in own.items() if p.kind is p.KEYWORD_ONLY}


COMMON = parameters(VectorizeOperator)
WAITING = {name: p for name, p in parameters(VectorizeWriteOperator).items() if name not in COMMON}


def check_table(cls: type, rows: list[list[str]], own: dict[str, inspect.Parameter]) -> None:
    """Check the parameters of a table, their defaults and whether they are templated."""
    assert [row[0].strip("`") for row in rows] == list(own)
    for (_, default, text), (name, parameter) in zip(rows, own.items(), strict=True):
        assert ("templated" in text.lower()) == (name in cls.template_fields), name
        if parameter.default is parameter.empty:
            assert default == "required", name
        elif name == "deferrable":
            assert default == "Airflow's `[operators] default_deferrable`"
        else:
            assert ast.literal_eval(default.strip("`")) == parameter.default, name


def test_each_operator_has_a_page() -> None:
    pages = {str(path.relative_to(ROOT)) for path in Path(ROOT / FOLDER).glob("*.md")}
    assert pages == {*PAGES, INDEX_PAGE}
    linked = re.findall(r"^\| \[`(\w+)`\]\(([\w-]+\.md)\)", read(INDEX_PAGE).text, re.MULTILINE)
    assert [(f"{FOLDER}/{name}", title) for title, name in linked] == [
        (path, cls.__name__) for path, cls in by_place()
    ]


def by_place() -> list[tuple[str, type]]:
    """Return the pages in the order of the overview."""
    order = re.findall(r"\]\(([\w-]+\.md)\) \|", read(INDEX_PAGE).text)
    return sorted(PAGES.items(), key=lambda item: order.index(Path(item[0]).name))


def test_the_common_parameters() -> None:
    document = read(INDEX_PAGE)
    check_table(VectorizeWriteOperator, document.rows("common-parameters"), COMMON)
    rows = {row[0].strip("`"): row for row in document.rows("waiting")}
    assert set(rows) == set(WAITING)
    check_table(VectorizeWriteOperator, [rows[name] for name in WAITING], WAITING)


@pytest.mark.parametrize("path", PAGES)
def test_the_parameters(path: str) -> None:
    cls, document = PAGES[path], read(path)
    assert (ROOT / path).read_text().splitlines()[0] == f"# {cls.__name__}"
    shared = COMMON | (WAITING if issubclass(cls, VectorizeWriteOperator) else {})
    own = {
        name: parameter
        for name, parameter in parameters(cls).items()
        if name not in shared or parameter.default != shared[name].default
    }
    rows = {row[0].strip("`"): row for row in document.rows("parameters")}
    assert set(rows) == set(own)
    check_table(cls, [rows[name] for name in own], own)
    links = document.links()
    assert "index.md#common-parameters" in links
    assert ("index.md#waiting" in links) == issubclass(cls, VectorizeWriteOperator)


@pytest.mark.parametrize("path", PAGES)
def test_every_raised_error_is_on_the_page(path: str) -> None:
    raised = re.findall(r":raises (\w+):", inspect.getdoc(PAGES[path].execute) or "")
    assert raised
    assert set(raised) <= spans(path)


@pytest.mark.parametrize("path", PAGES)
def test_length_and_headings_of_a_page(path: str) -> None:
    text = (ROOT / path).read_text()
    assert 40 <= len(text.splitlines()) <= 110
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    assert headings == ["Examples", "Parameters", "Result", "Cases"]


# --- permission ---------------------------------------------------------------------------------------------


def receipt(vectorize: Vectorize) -> dict[str, Any]:
    return {"receipt": vectorize.delete(["gone"])}


def of_namespace(vectorize: Vectorize) -> dict[str, Any]:
    vector = {"id": "a", "values": VALUES, "namespace": "n"}
    vectorize.wait_for(vectorize.client.upsert("docs", [vector])["mutationId"])
    return {"namespace": "n", "max_ids": 1}


#: The arguments of each operator, for an index with a vector ``a``.
ARGUMENTS: dict[str, dict[str, Any] | Callable[[Vectorize], dict[str, Any]]] = {
    "DeleteVectorsByFilterOperator": of_namespace,
    "DeleteVectorsByIdsOperator": {"ids": ["a"]},
    "UpsertVectorsOperator": {"vectors": [{"id": "a", "values": VALUES}]},
    "InsertVectorsOperator": {"vectors": [{"id": "a", "values": VALUES}]},
    "GetVectorsByIdsOperator": {"ids": ["a"]},
    "QueryVectorsOperator": {"vector_id": "a"},
    "ListVectorsOperator": {},
    "ReconcileVectorsOperator": {"ids": ["b"], "max_delete_fraction": 1},
    "CreateVectorizeIndexOperator": {"dimensions": 32, "metric": "cosine"},
    "DeleteVectorizeIndexOperator": {},
    "CreateVectorizeMetadataIndexOperator": {"property_name": "lang", "index_type": "string"},
    "DeleteVectorizeMetadataIndexOperator": {"property_name": "lang"},
    "VectorizeMutationSensor": receipt,
}


@pytest.mark.usefixtures("impatient_refusals")
@pytest.mark.parametrize("path", PAGES)
def test_the_documented_permission_is_required(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    cls = PAGES[path]
    (said,) = re.findall(r"^The API token needs the permission Vectorize: (Edit|Read)", read(path).text, re.M)
    with LocalVectorize(apply_delay=0.02, read_only_token="read-only") as server:
        vectorize = Vectorize(server)
        vectorize.fill(["a"])
        monkeypatch.setenv(CONN, server.connection_with("read-only"))
        arguments = ARGUMENTS[cls.__name__]
        kwargs = arguments(vectorize) if callable(arguments) else arguments

        def run(**more: Any) -> tuple[str, Any]:
            make = lambda: cls(task_id="task", index_name="docs", **{**kwargs, **more})  # noqa: E731
            return outcome_of(lambda: run_task(make, make_context()))

        state, result = run()
        assert isinstance(result, VectorizeAuthError) == (said == "Edit"), result
        assert state == ("failed" if said == "Edit" else "success"), result
        if ", or Vectorize: Read with `dry_run=True`." in read(path).text:
            assert run(dry_run=True)[0] == "success"
        assert vectorize.ids() == {"a"}


# --- nothing to do ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "kwargs", "returned", "pushed"),
    [
        ("delete-vectors-by-ids", {"ids": []}, None, {"receipt": {"count": 0}}),
        (
            "delete-vectors-by-filter",
            {"namespace": "n", "max_ids": 0},
            None,
            {"receipt": {"count": 0}, "report": {"outcome": "none_found", "found": 0, "rounds": 0}},
        ),
        (
            "upsert-vectors",
            {"vectors": []},
            None,
            {"report": {"vectors": 0, "requests": 0, "discarded": 0}},
        ),
        ("insert-vectors", {"vectors": []}, None, {"report": {"vectors": 0}}),
        ("get-vectors-by-ids", {"ids": []}, [], {"report": {"asked": 0, "found": 0}}),
        ("list-vectors", {}, [], {"report": {"listed": 0, "matched": 0}}),
        ("query-vectors", {"vector": VALUES}, {"count": 0, "matches": []}, {}),
        ("reconcile-vectors", {"ids": ["a"]}, None, {"report": {"surplus": 0, "missing": 1}}),
        (
            "create-index",
            {"dimensions": 32, "metric": "cosine", "if_exists": "skip"},
            None,
            {"receipt": {"count": 0}},
        ),
        (
            "delete-metadata-index",
            {"property_name": "lang", "if_missing": "skip"},
            None,
            {"receipt": {"count": 0}},
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_nothing_to_do(
    path: str, kwargs: dict[str, Any], returned: Any, pushed: dict[str, Any], vectorize: Vectorize
) -> None:
    cls = PAGES[f"{FOLDER}/{path}.md"]
    waiting = {"wait_for_completion": True} if issubclass(cls, VectorizeWriteOperator) else {}
    if cls is DeleteVectorsByFilterOperator:
        # This operator always waits.
        waiting = {"deferrable": True}
    context = make_context()
    result = run_task(lambda: cls(task_id="task", index_name="docs", **kwargs, **waiting), context)
    assert result == returned
    found = context["ti"].pushed
    for key, values in pushed.items():
        assert {name: found[key][name] for name in values} == values
    if waiting:
        assert found["evidence"]["outcome"] == "nothing_to_do"


@pytest.mark.parametrize(
    ("path", "parameter"),
    [
        ("delete-vectors-by-ids", "ids"),
        ("upsert-vectors", "vectors"),
        ("insert-vectors", "vectors"),
        ("get-vectors-by-ids", "ids"),
        ("query-vectors", "vector"),
        ("reconcile-vectors", "ids"),
    ],
)
def test_none_is_refused(path: str, parameter: str, vectorize: Vectorize) -> None:
    cls = PAGES[f"{FOLDER}/{path}.md"]
    state, error = outcome_of(
        lambda: run_task(lambda: cls(task_id="task", index_name="docs", **{parameter: None}), make_context())
    )
    assert state == "failed"
    assert isinstance(error, VectorizeInputError)
