# SPDX-License-Identifier: Apache-2.0
"""The get and query operators over real HTTP, without a scheduler."""

from __future__ import annotations

import json
import os
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath

from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeInputError,
    VectorizeInterrupted,
    VectorizeNotFoundError,
    VectorizeResponseError,
)
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.operators.vectors import GetVectorsByIdsOperator, QueryVectorsOperator
from client.servers import Reply, Request, ScriptedServer, ok, refused
from harness import DIMENSIONS, INDEX, Vectorize, make_context, wait_until

CONN = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"

Script = Callable[[Any], ScriptedServer]


def get(context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    operator = GetVectorsByIdsOperator(**{"task_id": "get", "index_name": INDEX, **kwargs})
    return operator.execute(context or make_context())


def query(**kwargs: Any) -> Any:
    operator = QueryVectorsOperator(**{"task_id": "query", "index_name": INDEX, **kwargs})
    return operator.execute(make_context())


def values_of(number: int) -> list[float]:
    """Return distinct values that 32-bit floats hold exactly."""
    return [number / 1024, 1 - number / 1024, *[0.25] * (DIMENSIONS - 2)]


def write(vectorize: Vectorize, vectors: list[dict[str, Any]]) -> None:
    vectorize.wait_for(vectorize.client.upsert(INDEX, vectors)["mutationId"])


@pytest.fixture
def filled(vectorize: Vectorize) -> Vectorize:
    """Create an index of the vectors v0 to v99 with metadata; even ids are in a namespace."""
    for name, kind in (("lang", "string"), ("year", "number")):
        vectorize.wait_for(vectorize.client.create_metadata_index(INDEX, name, kind)["mutationId"])
    write(vectorize, [vector_of(i) for i in range(100)])
    vectorize.server.reset_stats()
    return vectorize


def vector_of(number: int) -> dict[str, Any]:
    vector = {
        "id": f"v{number}",
        "values": values_of(number),
        "metadata": {"lang": "de" if number % 3 else "en", "year": 2000 + number, "text": "é\u2028"},
    }
    return vector if number % 2 else {**vector, "namespace": "even"}


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().decode().split("\n")[:-1]]


# --- get by id ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["list", "text", "file"])
@pytest.mark.parametrize("to_file", [False, True])
@pytest.mark.parametrize("numbers", [[], [7], list(range(21)), [*range(70, 130), 5, 200]])
def test_get_the_vectors_of_ids(
    filled: Vectorize, tmp_path: Path, how: str, to_file: bool, numbers: list[int]
) -> None:
    ids = [f"v{number}" for number in numbers]
    source = tmp_path / "ids.txt"
    source.write_text("\n".join(ids))
    path = tmp_path / "vectors.ndjson"
    kwargs = {"list": {"ids": ids}, "text": {"ids": str(ids)}, "file": {"ids_path": str(source)}}[how]
    context = make_context()
    result = get(context, path=str(path) if to_file else None, **kwargs)
    assert result == str(path) if to_file else isinstance(result, list)
    vectors = lines_of(path) if to_file else result
    assert vectors == [vector_of(number) for number in numbers if number < 100]
    missing = [f"v{number}" for number in numbers if number >= 100]
    assert context["ti"].pushed == {
        "report": {
            "asked": len(ids),
            "found": len(ids) - len(missing),
            "missing": len(missing),
            "missing_ids": missing,
        }
    }
    assert filled.server.stats()["get_by_ids"] == -(-len(ids) // 20)


def test_integers_and_duplicates_are_accepted(vectorize: Vectorize) -> None:
    vectorize.fill(["1", "2"])
    assert [vector["id"] for vector in get(ids=[2, "1", 2])] == ["2", "1"]


def test_a_report_names_100_missing_ids_and_counts_all(vectorize: Vectorize) -> None:
    vectorize.fill(["v7"])
    context = make_context()
    get(context, ids=[f"v{i}" for i in range(150)])
    report = context["ti"].pushed["report"]
    assert (report["asked"], report["found"], report["missing"]) == (150, 1, 149)
    assert report["missing_ids"] == [f"v{i}" for i in range(101) if i != 7]


@pytest.mark.parametrize("to_file", [False, True])
def test_values_can_be_left_out(filled: Vectorize, tmp_path: Path, to_file: bool) -> None:
    path = tmp_path / "vectors.JSONL"
    result = get(ids=["v1", "v2"], return_values=False, path=str(path) if to_file else None)
    expected = [vector_of(1), vector_of(2)]
    for vector in expected:
        del vector["values"]
    assert (lines_of(path) if to_file else result) == expected


def test_a_file_of_vectors_can_be_upserted(filled: Vectorize, tmp_path: Path) -> None:
    path = tmp_path / "vectors.ndjson"
    ids = [f"v{i}" for i in range(100)]
    before = filled.client.get_by_ids(INDEX, ids[:20])
    get(ids=ids, path=str(path))
    filled.delete(ids)
    filled.settle()
    assert filled.ids() == set()
    filled.wait_for(filled.client.upsert(INDEX, path.read_bytes())["mutationId"])
    assert filled.ids() == set(ids)
    assert filled.client.get_by_ids(INDEX, ids[:20]) == before


@pytest.mark.usefixtures("object_storage")
def test_vectors_are_written_to_object_storage(filled: Vectorize) -> None:
    place = ObjectStoragePath("memory://bucket/vectors.ndjson")
    assert get(ids=["v1"], path=place) == str(place)
    assert json.loads(place.read_text()) == vector_of(1)
    # The file also serves as a file of ids.
    assert [vector["id"] for vector in get(ids_path=str(place))] == ["v1"]


def test_vectors_too_large_for_an_xcom_are_an_error(vectorize: Vectorize, tmp_path: Path) -> None:
    third = [1 / 3] * DIMENSIONS
    write(vectorize, [{"id": f"v{i}", "values": third} for i in range(600)])
    ids = [*[f"v{i}" for i in range(600)], *[f"none{i}" for i in range(600)]]
    vectorize.server.reset_stats()
    context = make_context()
    with pytest.raises(VectorizeInputError) as error:
        get(context, ids=ids)
    for text in ("vectors have 262,", "at most 262,144", "pass path=", "return_values=False"):
        assert text in str(error.value)
    # The task stops as soon as the limit is passed.
    assert vectorize.server.stats()["get_by_ids"] <= 35
    assert context["ti"].pushed == {}
    assert len(get(ids=ids, return_values=False)) == 600
    path = tmp_path / "vectors.ndjson"
    get(ids=ids, path=str(path))
    assert len(lines_of(path)) == 600


def test_a_file_of_vectors_is_never_whole_in_memory(script: Script, tmp_path: Path) -> None:
    values = json.dumps([0.5] * 1536)

    def answer(request: Request) -> Reply:
        vectors = ",".join(f'{{"id": "{id_}", "values": {values}}}' for id_ in request.ids)
        return Reply(200, f'{{"success": true, "result": [{vectors}]}}'.encode())

    script(answer)
    path = tmp_path / "vectors.ndjson"
    ids = [f"v{i}" for i in range(200)]
    get(ids=ids[:20], path=str(path))
    tracemalloc.start()
    try:
        get(ids=ids, path=str(path), concurrency=2)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # All vectors need 10 MB; the vectors of a request, as text and numbers, need 2 MB.
    assert peak < 5_000_000
    with path.open() as file:
        assert [json.loads(line)["id"] for line in file] == ids


# --- get by id: refused inputs ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({}, "ids is None"),
        ({"ids": "None"}, "which Jinja renders for a missing value"),
        ({"ids": ["x" * 65]}, "65 bytes"),
        ({"ids": "a,b"}, "comma"),
        ({"ids": ["a"], "ids_path": "x"}, "both ids and ids_path"),
        ({"ids_path": "/does/not/exist"}, "cannot be read"),
        ({"ids_path": "None"}, "ids_path is 'None'"),
        ({"ids": ["a"], "path": "v.txt"}, "invalid path 'v.txt': expected a name that ends in"),
        ({"ids": ["a"], "path": ""}, "path is ''"),
        ({"ids": ["a"], "path": "None"}, "path is 'None'"),
        ({"ids": ["a"], "path": 5}, "path is 5"),
        ({"ids": ["a"], "path": "/does/not/exist/v.ndjson"}, "cannot be written"),
        ({"ids": ["a"], "path": "/proc/v.ndjson"}, "/proc"),
        ({"ids": ["a"], "path": "local:///proc/v.ndjson"}, "/proc"),
        ({"ids": ["a"], "path": "nosuchstore://bucket/v.ndjson"}, "cannot be written"),
        ({"ids": ["a"], "concurrency": 0}, "concurrency is 0"),
        ({"ids": ["a"], "return_values": "no"}, "return_values is 'no', expected True or False"),
        ({"ids": ["a"], "index_name": "a/b"}, "index name 'a/b'"),
        ({"ids": [], "index_name": "a/b"}, "index name 'a/b'"),
        ({"ids": ["a"], "account_id": "f" * 31}, "32 hexadecimal digits"),
        ({"ids": ["a"], "conn_id": "none"}, "none"),
    ],
)
def test_invalid_gets_are_refused(server: LocalVectorize, kwargs: dict[str, Any], text: str) -> None:
    # Airflow raises its own error for a missing connection.
    kind: type[Exception] = Exception if "conn_id" in kwargs else VectorizeInputError
    with pytest.raises(kind) as error:
        get(**kwargs)
    assert text in str(error.value)
    assert sum(server.stats().values()) == 0


@pytest.mark.parametrize(
    "spelling",
    [
        "{}",
        "file://{}",
        "{}/../same.ndjson",
        pytest.param("local://{}", marks=pytest.mark.airflow(since="3.0"), id="local (Airflow 3)"),
    ],
)
def test_path_and_ids_path_must_differ(server: LocalVectorize, tmp_path: Path, spelling: str) -> None:
    path = tmp_path / "same.ndjson"
    path.write_text('{"id": "a"}\n')
    (tmp_path / "sub").mkdir()
    other = spelling.format(tmp_path / "sub" if ".." in spelling else path)
    with pytest.raises(VectorizeInputError, match="path and ids_path are both"):
        get(ids_path=str(path), path=other)
    assert path.read_text() == '{"id": "a"}\n'
    assert sum(server.stats().values()) == 0


def test_a_failed_read_leaves_the_file_unchanged(vectorize: Vectorize, tmp_path: Path) -> None:
    path = tmp_path / "vectors.ndjson"
    path.write_text("before")
    with pytest.raises(VectorizeNotFoundError, match="Check index_name"):
        get(ids=["a"], index_name="other", path=str(path))
    assert os.listdir(tmp_path) == ["vectors.ndjson"]
    assert path.read_text() == "before"


def test_a_refused_token_is_an_error(vectorize: Vectorize, monkeypatch: pytest.MonkeyPatch) -> None:
    token = "wrong-token-0123456789abcdef0123456789ab"
    monkeypatch.setenv(CONN, vectorize.server.connection_with(token))
    for read in (lambda: get(ids=["a"]), lambda: query(vector=values_of(0))):
        with pytest.raises(VectorizeAuthError) as error:
            read()
        assert token not in str(error.value)


# --- stopping -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["get", "query"])
def test_a_kill_ends_a_read_in_flight(script: Script, tmp_path: Path, kind: str) -> None:
    over = threading.Event()

    def answer(_: Request) -> Reply:
        over.wait(60)
        return ok([])

    server = script(answer)
    path = tmp_path / "vectors.ndjson"
    operator: Any
    if kind == "get":
        ids = [str(i) for i in range(999)]
        operator = GetVectorsByIdsOperator(task_id="get", index_name=INDEX, ids=ids, path=str(path))
    else:
        operator = QueryVectorsOperator(task_id="query", index_name=INDEX, vector_id="a")

    def kill_at_work() -> None:
        wait_until(lambda: bool(server.requests))
        operator.on_kill()

    killer = threading.Thread(target=kill_at_work)
    killer.start()
    try:
        with pytest.raises(VectorizeInterrupted, match="interrupted"):
            operator.execute(make_context())
    finally:
        killer.join()
        over.set()
    assert os.listdir(tmp_path) == []
    assert len(server.requests) <= 4


# --- queries ------------------------------------------------------------------------------------------------


def ids_of(result: Any) -> list[str]:
    assert result["count"] == len(result["matches"])
    return [match["id"] for match in result["matches"]]


@pytest.mark.parametrize("form", [list, tuple, str, json.dumps])
def test_a_query_returns_the_nearest_vectors(filled: Vectorize, form: Callable[[Any], Any]) -> None:
    result = query(vector=form(values_of(0)), top_k=3)
    assert ids_of(result) == ["v0", "v1", "v2"]
    assert set(result["matches"][0]) <= {"id", "score", "namespace"}
    assert [match["score"] for match in result["matches"]] == sorted(
        (match["score"] for match in result["matches"]), reverse=True
    )


def test_numbers_may_be_integers(filled: Vectorize) -> None:
    assert ids_of(query(vector=[0, 1, *[0] * 30], top_k=1)) == ["v0"]


def test_query_by_the_id_of_a_vector(filled: Vectorize) -> None:
    assert ids_of(query(vector_id="v50", top_k="1")) == ["v50"]
    # Either may be a template that renders to None.
    assert ids_of(query(vector_id="v50", vector="None", top_k=1)) == ["v50"]
    assert ids_of(query(vector_id="None", vector=values_of(50), top_k=1)) == ["v50"]


@pytest.mark.parametrize(
    "condition",
    [
        {"year": {"$gte": 2010, "$lt": 2013}, "lang": "de"},
        '{"year": {"$gte": 2010, "$lt": 2013}, "lang": "de"}',
        "{'year': {'$gte': 2010, '$lt': 2013}, 'lang': 'de'}",
    ],
)
def test_query_with_a_filter(filled: Vectorize, condition: Any) -> None:
    assert ids_of(query(vector=values_of(0), filter=condition, top_k=100)) == ["v10", "v11"]


def test_an_empty_filter_means_no_filter(filled: Vectorize) -> None:
    assert query(vector=values_of(0), filter={}) == query(vector=values_of(0))


def test_query_with_a_namespace_values_and_metadata(filled: Vectorize) -> None:
    result = query(vector=values_of(1), namespace="even", top_k=1, return_values=True, return_metadata="all")
    (match,) = result["matches"]
    assert {key: match[key] for key in vector_of(0)} in (vector_of(0), vector_of(2))
    result = query(vector=values_of(1), top_k=1, return_metadata="indexed")
    assert result["matches"][0]["metadata"] == {"lang": "de", "year": 2001}


def test_query_with_the_largest_top_k(filled: Vectorize) -> None:
    assert len(query(vector=values_of(0), top_k=100)["matches"]) == 100
    assert len(query(vector=values_of(0), top_k=50, return_values=True)["matches"]) == 50


def test_query_without_a_match(vectorize: Vectorize) -> None:
    assert query(vector=values_of(0)) == {"count": 0, "matches": []}


def test_matches_too_large_for_an_xcom_are_an_error(script: Script) -> None:
    match = {"id": "a", "score": 1.0, "values": [1 / 3] * 1536}
    script([ok({"count": 50, "matches": [match] * 50})])
    with pytest.raises(VectorizeInputError) as error:
        query(vector_id="a", top_k=50, return_values=True)
    for text in ("(50 matches) has 1,", "at most 262,144", "top_k", "return_values=False", "return_metadata"):
        assert text in str(error.value)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({}, "got neither"),
        ({"vector": "None"}, "got neither"),
        ({"vector": "", "vector_id": "null"}, "got neither"),
        ({"vector": [1], "vector_id": "a"}, "got both"),
        ({"vector": []}, "vector is empty"),
        ({"vector": "v1"}, "vector is 'v1', expected a list of numbers"),
        ({"vector": 5}, "vector is 5, expected a list of numbers"),
        ({"vector": "[1, 2"}, "vector: the string '[1, 2' begins like a list"),
        ({"vector": "[" + "1," * 2**20}, "expected at most 1,048,576"),
        ({"vector": "[1, NaN]"}, "nan at position 1"),
        ({"vector": [1, "2"]}, "'2' at position 1"),
        ({"vector": [[1, 2]]}, "a list at position 0"),
        ({"vector": {"a": 1}}, "vector is a dict"),
        ({"vector_id": "x" * 65}, "65 bytes"),
        ({"vector_id": 3.5}, "vector_id 3.5 is neither a string nor an integer"),
        ({"top_k": 0}, "top_k is 0, expected an integer from 1 to 100 (to 50 with values or all metadata)"),
        ({"top_k": "101"}, "top_k is 101"),
        ({"top_k": "five"}, "top_k is 'five'"),
        ({"top_k": "1.0"}, "top_k is '1.0'"),
        ({"top_k": True}, "top_k is True"),
        ({"top_k": "51", "return_values": True}, "top_k is 51 with return_values=True"),
        ({"top_k": 51, "return_metadata": "all"}, "with return_metadata='all': with values or all metadata"),
        ({"filter": "{}"}, "filter is empty after rendering"),
        ({"filter": "lang"}, "filter is 'lang', expected a mapping"),
        ({"filter": "{lang: en}"}, "begins like a list or an object"),
        ({"filter": "[1]"}, "filter is a list"),
        ({"filter": {"a": {"$like": "b"}}}, "'$like', expected one of"),
        ({"filter": "None"}, "filter is 'None' after rendering"),
        ({"namespace": "None"}, "To run without namespace, do not pass it"),
        ({"namespace": " "}, "namespace is ' ' after rendering, which counts as"),
        ({"namespace": 7}, "namespace 7 is not a string"),
        ({"namespace": "é" * 33}, "66 bytes"),
        ({"return_values": "yes"}, "return_values is 'yes'"),
        ({"return_metadata": True}, "pass 'all'"),
        ({"return_metadata": "some"}, "'some', expected one of none, indexed, all"),
        ({"return_metadata": None}, "return_metadata is None, expected one of"),
        ({"index_name": "a/b"}, "index name 'a/b'"),
        ({"account_id": "f" * 31}, "32 hexadecimal digits"),
    ],
)
def test_invalid_queries_are_refused(server: LocalVectorize, kwargs: dict[str, Any], text: str) -> None:
    if kwargs and not {"vector", "vector_id"} & set(kwargs):
        kwargs = {"vector_id": "a", **kwargs}
    with pytest.raises(VectorizeInputError) as error:
        query(**kwargs)
    assert text in str(error.value)
    assert sum(server.stats().values()) == 0


@pytest.mark.parametrize("name", ["filter", "namespace"])
def test_arguments_that_render_to_none_are_refused(server: LocalVectorize, name: str) -> None:
    # Native rendering or an upstream task without a result gives None.
    template: dict[str, Any] = {name: "{{ params.tenant }}"}
    operator = QueryVectorsOperator(task_id="query", index_name=INDEX, vector_id="a", **template)
    setattr(operator, name, None)
    with pytest.raises(VectorizeInputError, match=f"{name} is None after rendering"):
        operator.execute(make_context())
    assert sum(server.stats().values()) == 0


def test_refusals_by_the_service_are_errors(filled: Vectorize, script: Script) -> None:
    with pytest.raises(VectorizeResponseError):
        query(vector=[1, 2, 3])
    with pytest.raises(VectorizeNotFoundError, match="Check index_name"):
        query(vector_id="a", index_name="other")
    script([refused(400, 40025, "too many")])
    with pytest.raises(VectorizeResponseError, match="too many"):
        query(vector_id="a")
