# SPDX-License-Identifier: Apache-2.0
"""The upsert and insert operators over real HTTP, without a scheduler."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeBatchError,
    VectorizeDiffersError,
    VectorizeFileError,
    VectorizeInputError,
    VectorizeInterrupted,
    VectorizeNotFoundError,
    VectorizeWaitTimeout,
)
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.operators.vectors import InsertVectorsOperator, UpsertVectorsOperator
from harness import DIMENSIONS, INDEX, Vectorize, make_context, run_task

OPERATORS = {"upsert": UpsertVectorsOperator, "insert": InsertVectorsOperator}
both = pytest.mark.parametrize("route", ["upsert", "insert"])


def vector(id_: str, value: float = 0.5, **more: Any) -> dict[str, Any]:
    return {"id": id_, "values": [value] * DIMENSIONS, **more}


def make(route: str = "upsert", **kwargs: Any) -> Any:
    arguments = {"task_id": route, "index_name": INDEX, "poll_interval": 0.05, "wait_timeout": 20, **kwargs}
    return OPERATORS[route](**arguments)


def write(route: str, context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    return run_task(lambda: make(route, **kwargs), context or make_context())


def read(vectorize: Vectorize, *ids: str) -> dict[str, Any]:
    return {one["id"]: one for one in vectorize.client.get_by_ids(INDEX, ids)}


def count_requests(server: LocalVectorize) -> int:
    return sum(server.stats().values())


# --- written vectors ----------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("how", ["list", "json", "python", "path", "callable", "generator", "bytes"])
def test_exactly_the_vectors_are_written(vectorize: Vectorize, tmp_path: Path, route: str, how: str) -> None:
    vectors = [vector(f"v{i}", i / 300, metadata={"n": i}, namespace="a") for i in range(300)]
    lines = "".join(f"{json.dumps(one)}\n" for one in vectors)
    path = tmp_path / "vectors.ndjson"
    path.write_text(lines)

    def generate(first: int = 0) -> Iterator[dict[str, Any]]:
        yield from vectors[first:]

    kwargs: dict[str, Any] = {
        "list": {"vectors": vectors},
        "json": {"vectors": json.dumps(vectors)},
        "python": {"vectors": str(vectors)},
        "path": {"vectors_path": str(path)},
        "callable": {"vectors_callable": lambda: vectors},
        "generator": {"vectors_callable": generate, "vectors_kwargs": {"first": 0}},
        "bytes": {"vectors_callable": lambda: lines.encode()},
    }[how]
    context = make_context()
    mutation_id = write(route, context, **kwargs)
    vectorize.wait_for(mutation_id)
    assert vectorize.ids() == {one["id"] for one in vectors}
    found = read(vectorize, "v7")["v7"]
    assert found["values"] == pytest.approx(vectors[7]["values"], rel=1e-6)
    assert (found["metadata"], found["namespace"]) == ({"n": 7}, "a")
    pushed = context["ti"].pushed
    assert pushed["receipt"]["mutation_id"] == mutation_id
    assert (pushed["receipt"]["count"], pushed["receipt"]["batches"]) == (300, 1)
    assert pushed["receipt"]["witness_ids"] == []
    assert len(pushed["receipt"]["witness_vectors"]) == 5
    assert pushed["report"] == {"vectors": 300, "requests": 1, "discarded": 0}


def test_the_last_duplicate_is_upserted_and_the_first_inserted(vectorize: Vectorize) -> None:
    filling = [vector(f"f{i}") for i in range(5000)]
    vectors = [vector("a", 0.25), *filling, vector("a", 0.75), vector("b", 0.25), vector("b", 0.75)]
    for route, expected in (("upsert", 0.75), ("insert", 0.25)):
        vectorize.client.delete_by_ids(INDEX, ["a", "b"])
        write(route, vectors=vectors, wait_for_completion=True)
        found = read(vectorize, "a", "b")
        assert {id_: one["values"][0] for id_, one in found.items()} == {"a": expected, "b": expected}


def test_an_upsert_replaces_vectors_and_an_insert_keeps_them(vectorize: Vectorize) -> None:
    write("upsert", vectors=[vector("a", 0.25, metadata={"x": 1})], wait_for_completion=True)
    write("insert", vectors=[vector("a", 0.5), vector("b", 0.5)], wait_for_completion=True)
    found = read(vectorize, "a", "b")
    assert (found["a"]["values"][0], found["a"]["metadata"], found["b"]["values"][0]) == (0.25, {"x": 1}, 0.5)
    write("upsert", vectors=[vector("a", 0.75)], wait_for_completion=True)
    found = read(vectorize, "a")
    assert found["a"]["values"][0] == 0.75
    assert not found["a"].get("metadata")


@both
@pytest.mark.parametrize("how", ["list", "path", "callable"])
def test_nothing_to_write(vectorize: Vectorize, tmp_path: Path, route: str, how: str) -> None:
    path = tmp_path / "empty.ndjson"
    path.write_text("\n\n")
    kwargs: dict[str, Any] = {
        "list": {"vectors": []},
        "path": {"vectors_path": str(path)},
        "callable": {"vectors_callable": lambda: iter(())},
    }[how]
    before = count_requests(vectorize.server)
    context = make_context()
    assert write(route, context, wait_for_completion=True, **kwargs) is None
    assert count_requests(vectorize.server) == before
    pushed = context["ti"].pushed
    assert (pushed["receipt"]["mutation_id"], pushed["receipt"]["count"]) == (None, 0)
    assert pushed["evidence"]["outcome"] == "nothing_to_do"


def test_a_fill_sends_one_request_per_5000_vectors_and_two_reads(vectorize: Vectorize) -> None:
    before = vectorize.server.stats()
    write("upsert", vectors=[vector(f"v{i}") for i in range(10_001)])
    after = vectorize.server.stats()
    assert {key: after[key] - before.get(key, 0) for key in after if after[key] != before.get(key, 0)} == {
        "info": 1,
        "upsert": 3,
        "get_by_ids": 1,
    }
    before = vectorize.server.stats()
    context = make_context()
    write("upsert", context, vectors=[vector("x")], verify="none")
    assert vectorize.server.stats().get("get_by_ids") == before["get_by_ids"]
    assert "witness_vectors" not in context["ti"].pushed["receipt"]


def test_invalid_lines_can_be_discarded(
    vectorize: Vectorize, tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "vectors.jsonl"
    lines = [json.dumps(vector("a")), "{", json.dumps({"id": "b"}), "[]", json.dumps(vector("c"))]
    path.write_text("\r\n".join(lines))
    context = make_context()
    with caplog.at_level(logging.WARNING):
        write("upsert", context, vectors_path=str(path), on_unparsable="discard", wait_for_completion=True)
    assert vectorize.ids() == {"a", "c"}
    assert context["ti"].pushed["report"] == {"vectors": 2, "requests": 1, "discarded": 3}
    assert "Skipped 3 unparsable items" in caplog.text + capfd.readouterr().out


def test_unknown_keys_are_logged(
    vectorize: Vectorize, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.WARNING):
        write("upsert", vectors=[vector("a"), vector("b", text="hello"), vector("c", text="hello")])
    text = caplog.text + capfd.readouterr().out
    assert "vectors: at position 1, the vector has the unknown key 'text'" in text
    assert "hello" not in text


# --- refused inputs -----------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({}, "none of vectors, vectors_path, vectors_callable given"),
        ({"vectors": [], "vectors_path": "x"}, "vectors and vectors_path given: pass one of"),
        (
            {"vectors": None, "vectors_callable": None},
            "An upstream task that returned nothing",
        ),
        ({"vectors": "None"}, "vectors is None, expected a list of vectors"),
        ({"vectors": ""}, "vectors is None, expected a list of vectors"),
        ({"vectors": "[1"}, "begins like a list or an object, but is neither"),
        ({"vectors": "/data/x.ndjson"}, "Pass a file as vectors_path"),
        ({"vectors": {"id": "a"}}, "vectors is a dict, expected a list of vectors"),
        ({"vectors": b"{}"}, "expected a list of vectors"),
        ({"vectors": (x for x in "ab")}, "a generator as vectors_callable"),
        ({"vectors_callable": [1]}, "vectors_callable is a list, expected a function"),
        ({"vectors": [], "vectors_kwargs": {"a": 1}}, "vectors_kwargs is given without vectors_callable"),
        (
            {"vectors_path": "/nowhere/vectors.ndjson"},
            "vectors_path '/nowhere/vectors.ndjson' cannot be read",
        ),
        ({"vectors_path": "/proc/self/environ"}, "vectors_path '/proc/self/environ' is below /proc"),
        ({"vectors_path": "nostore://bucket/x.ndjson"}, "cannot be read"),
        ({"vectors": [], "on_unparsable": "ignore"}, "on_unparsable is 'ignore', expected 'error' or"),
        ({"vectors": [], "verify": "all"}, "verify is 'all', expected 'sample' or 'none'"),
        ({"vectors": [], "require_equal": True}, "set wait_for_completion=True"),
        ({"vectors": [], "poll_interval": -1}, "poll_interval is -1"),
        ({"vectors": [], "wait_timeout": "9"}, "wait_timeout is '9'"),
        ({"vectors": [], "index_name": "a/b"}, "a/b"),
        ({"vectors": ["a"]}, "vectors: at position 0, the vector is 'a', expected an object"),
        ({"vectors": [[1]]}, "at position 0, the vector is a list, expected an object with id and values"),
        ({"vectors": [{"id": "a"}]}, "at position 0, the vector has no values"),
        ({"vectors_callable": lambda: None}, "vectors_callable is None, expected vectors"),
        ({"vectors_callable": lambda: "x"}, "vectors_callable is 'x', expected vectors"),
        (
            {"vectors_callable": lambda: [{"values": [1]}]},
            "vectors_callable: at position 0, the vector has no id",
        ),
    ],
    ids=range(27),
)
def test_invalid_arguments_are_refused(
    vectorize: Vectorize, route: str, kwargs: dict[str, Any], text: str
) -> None:
    before = count_requests(vectorize.server)
    with pytest.raises(VectorizeInputError) as e:
        write(route, **kwargs)
    assert text in str(e.value)
    assert count_requests(vectorize.server) == before


@both
@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("{", "(1 bytes) is not JSON in UTF-8"),
        (json.dumps(vector("b", 1e39)), "which is not a finite 32-bit number"),
        (json.dumps({"id": "b", "values": [0.5] * 31}), "has 31 values, expected 32"),
        (json.dumps(vector("b" * 65)), "has an id that has 65 bytes"),
        (json.dumps(vector("b", namespace="n" * 65)), "has a namespace that has 65 bytes"),
        (json.dumps(vector("b", metadata={"a.b": 1})), "has the key 'a.b' in its metadata"),
        (json.dumps(vector("b", metadata={"a": "x" * 10240})), "bytes of metadata as compact JSON"),
        (json.dumps(vector("b", metadata=[1])), "has a list as its metadata"),
        (json.dumps({"id": 7.5, "values": [1]}), "has 7.5 as its id, expected a string or an integer"),
    ],
    ids=range(9),
)
def test_a_bad_line_is_reported_by_number_before_a_request(
    vectorize: Vectorize, tmp_path: Path, route: str, line: str, text: str
) -> None:
    path = tmp_path / "vectors.ndjson"
    path.write_text(f"{json.dumps(vector('a'))}\n\n{line}\n")
    with pytest.raises(VectorizeInputError) as e:
        write(route, vectors_path=str(path))
    assert f"vectors_path {str(path)!r}: line 3" in str(e.value)
    assert text in str(e.value)
    assert "0 vectors in 0 requests are acknowledged" in str(e.value)
    assert vectorize.server.stats().get(route, 0) == 0


def test_the_dimensions_are_checked_before_a_request(vectorize: Vectorize) -> None:
    with pytest.raises(VectorizeInputError, match=r"position 0, the vector has 2 values, expected 32"):
        write("upsert", vectors=[{"id": "a", "values": [1, 2]}])
    assert vectorize.server.stats().get("upsert", 0) == 0


def test_the_error_of_a_bad_line_counts_acknowledged_vectors(vectorize: Vectorize, tmp_path: Path) -> None:
    path = tmp_path / "vectors.ndjson"
    with path.open("w") as file:
        file.writelines(f"{json.dumps(vector(f'v{i}'))}\n" for i in range(10_000))
        file.write("{\n")
    with pytest.raises(VectorizeInputError) as e:
        write("upsert", vectors_path=str(path))
    # The request before the bad line was complete and was sent.
    assert "line 10001 (1 bytes) is not JSON" in str(e.value)
    assert "10000 vectors in 2 requests are acknowledged (the last mutation is " in str(e.value)
    assert "Writing all vectors again is harmless" in str(e.value)
    vectorize.settle()
    assert len(vectorize.ids()) == 10_000


def test_an_error_of_the_callable_counts_acknowledged_vectors(vectorize: Vectorize) -> None:
    def generate() -> Iterator[dict[str, Any]]:
        yield from (vector(f"v{i}") for i in range(5001))
        raise OSError("the model went away")

    with pytest.raises(OSError, match="the model went away") as e:
        write("upsert", vectors_callable=generate)
    assert "5000 vectors in 1 request are acknowledged" in e.value.__notes__[0]


def test_a_file_error_of_the_callable_may_be_retried(vectorize: Vectorize) -> None:
    def generate() -> Iterator[dict[str, Any]]:
        yield vector("a")
        raise VectorizeFileError("the second part is not there")

    with pytest.raises(VectorizeFileError, match=r"not there\. 0 vectors in 0 requests are acknowledged"):
        write("upsert", vectors_callable=generate)


# --- errors of the service ----------------------------------------------------------------------------------


def test_a_missing_index_is_an_error(server: LocalVectorize) -> None:
    with pytest.raises(VectorizeNotFoundError, match="no-such-index"):
        write("upsert", index_name="no-such-index", vectors=[vector("a")])


def test_a_refused_token_is_an_error(vectorize: Vectorize, monkeypatch: pytest.MonkeyPatch) -> None:
    conn = json.loads(vectorize.server.connection)
    conn["password"] = "z" * 40
    monkeypatch.setenv("AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT", json.dumps(conn))
    with pytest.raises(VectorizeAuthError) as e:
        write("upsert", vectors=[vector("a")])
    assert "z" * 40 not in str(e.value)


def test_the_error_of_a_request_names_its_vectors(vectorize: Vectorize) -> None:
    def generate() -> Iterator[dict[str, Any]]:
        yield from (vector(f"v{i}") for i in range(5001))
        vectorize.client.delete_index(INDEX)
        yield vector("last")

    with pytest.raises(VectorizeBatchError, match=r"5000 vectors in 1 request are acknowledged") as e:
        write("upsert", vectors_callable=generate)
    assert "2 vectors (positions 5000 to 5001) failed" in str(e.value)
    assert (e.value.acknowledged, e.value.failed, e.value.not_sent) == (5000, 2, 0)


def test_a_kill_stops_between_requests(vectorize: Vectorize) -> None:
    operator: Any = None

    def generate() -> Iterator[dict[str, Any]]:
        for i in range(20_000):
            if i == 7000:
                operator.on_kill()
            yield vector(f"v{i}")

    operator = make(vectors_callable=generate)
    with pytest.raises(VectorizeInterrupted, match=r"5000 vectors in 1 request are acknowledged"):
        operator.execute(make_context())
    assert vectorize.server.stats()["upsert"] == 1


# --- waiting ------------------------------------------------------------------------------------------------


@both
@pytest.mark.parametrize("deferrable", [False, True])
def test_a_wait_ends_when_the_write_is_applied(vectorize: Vectorize, route: str, deferrable: bool) -> None:
    context = make_context()
    mutation_id = write(
        route, context, vectors=[vector("a")], wait_for_completion=True, deferrable=deferrable
    )
    evidence = context["ti"].pushed["evidence"]
    assert (evidence["mutation_id"], evidence["outcome"]) == (mutation_id, "watermark")
    assert (evidence["differing"], evidence["still_visible"]) == ([], [])
    assert vectorize.ids() == {"a"}


@pytest.fixture
def make_overtaken(vectorize: Vectorize) -> Callable[..., dict[str, Any]]:
    """Return a function that waits for a write whose watermark is already replaced."""

    def overtake(route: str, deferrable: bool, after: Callable[[], None], **kwargs: Any) -> dict[str, Any]:
        context = make_context()
        made: list[Any] = []

        def make_one() -> Any:
            made.append(make(route, deferrable=deferrable, wait_for_completion=True, **kwargs))
            push_and_wait = made[-1].push_and_wait

            def after_sending(context: Any, receipt: Any) -> Any:
                vectorize.settle()
                after()
                return push_and_wait(context, receipt)

            made[-1].push_and_wait = after_sending
            return made[-1]

        run_task(make_one, context)
        return dict(context["ti"].pushed)

    return overtake


modes = pytest.mark.parametrize("deferrable", [False, True])


@both
@modes
def test_witnesses_prove_an_overtaken_write(
    vectorize: Vectorize, make_overtaken: Any, route: str, deferrable: bool
) -> None:
    values = [0.1 + i / 1000 for i in range(DIMENSIONS)]
    vectors = [{"id": f"v{i}", "values": values, "metadata": {"n": i, "b": None}} for i in range(30)]
    pushed = make_overtaken(route, deferrable, lambda: None, vectors=vectors)
    evidence = pushed["evidence"]
    assert (evidence["outcome"], evidence["witnesses_checked"], evidence["differing"]) == ("read_back", 5, [])
    assert evidence["watermark"] != pushed["receipt"]["mutation_id"]


@modes
def test_different_witnesses_end_the_wait_with_a_warning(
    vectorize: Vectorize,
    make_overtaken: Any,
    deferrable: bool,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    values = iter((0.8, 0.9))

    def change() -> None:
        value = next(values)
        vectorize.client.upsert(INDEX, [vector("v0", value), vector("v1", value)])
        vectorize.settle()

    with caplog.at_level(logging.WARNING):
        pushed = make_overtaken(
            "upsert", deferrable, change, vectors=[vector("v0"), vector("v1")], wait_timeout=0.5
        )
    evidence = pushed["evidence"]
    assert (evidence["outcome"], evidence["differing"]) == ("present_differs", ["v0", "v1"])
    assert "do not read back as they were written: 'v0', 'v1'" in caplog.text + capfd.readouterr().out
    with pytest.raises(VectorizeDiffersError, match="counts as applied \\(present_differs\\)"):
        make_overtaken(
            "upsert",
            deferrable,
            change,
            vectors=[vector("v0", 0.7), vector("v1", 0.7)],
            wait_timeout=0.5,
            require_equal=True,
        )


@modes
def test_absent_witnesses_do_not_end_the_wait(
    vectorize: Vectorize, make_overtaken: Any, deferrable: bool
) -> None:
    def remove() -> None:
        vectorize.client.delete_by_ids(INDEX, ["v0"])
        vectorize.settle()

    with pytest.raises(VectorizeWaitTimeout, match=r"absent or different: 'v0'"):
        make_overtaken("upsert", deferrable, remove, vectors=[vector("v0")], wait_timeout=0.3)


def test_unchanged_vectors_are_not_witnesses(vectorize: Vectorize) -> None:
    vectors = [vector(f"v{i}", metadata={"n": i}) for i in range(10)]
    write("upsert", vectors=vectors, wait_for_completion=True)
    vectors[3] = vector("v3", 0.25)
    vectors[5]["metadata"] = {"n": 55}
    vectors[7]["namespace"] = "other"
    context = make_context()
    write("upsert", context, vectors=vectors, wait_for_completion=True)
    receipt = context["ti"].pushed["receipt"]
    assert {witness["id"] for witness in receipt["witness_vectors"]} == {"v3", "v5", "v7"}
    write("insert", context, vectors=[*vectors, vector("new")], wait_for_completion=True)
    receipt = context["ti"].pushed["receipt"]
    assert {witness["id"] for witness in receipt["witness_vectors"]} == {"new"}


def test_the_receipt_has_a_bounded_size(vectorize: Vectorize) -> None:
    context = make_context()
    write(
        "upsert", context, vectors=[vector("é" * 32 + str(i), metadata={"a": "x" * 9000}) for i in range(0)]
    )
    big = [vector(f"{i:064}", metadata={"a": "x" * 9000}) for i in range(50)]
    write("upsert", context, vectors=big)
    assert len(json.dumps(context["ti"].pushed["receipt"])) < 2000


def test_a_failed_read_of_witnesses_does_not_fail_the_write(
    vectorize: Vectorize,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    from airflow_provider_cfvectorize.client.client import VectorizeClient
    from airflow_provider_cfvectorize.exceptions import VectorizeTransportError

    def fail(*_: Any) -> None:
        raise VectorizeTransportError("no answer")

    monkeypatch.setattr(VectorizeClient, "get_by_ids", fail)
    context = make_context()
    with caplog.at_level(logging.INFO):
        assert write("upsert", context, vectors=[vector("a")])
    assert "No witnesses, so the evidence will be weaker" in caplog.text + capfd.readouterr().out
    assert "witness_vectors" not in context["ti"].pushed["receipt"]


def test_a_deferral_holds_no_vectors(vectorize: Vectorize) -> None:
    operator = make(
        vectors=[vector("secret-id", 0.123)], wait_for_completion=True, deferrable=True, verify="none"
    )
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(make_context())
    _, kwargs = deferred.value.trigger.serialize()
    assert "0.123" not in json.dumps(kwargs)
    assert "secret-id" not in json.dumps(kwargs)


# --- memory -------------------------------------------------------------------------------------------------

BIG, BAD_LINE = 50_000, 34_567


def run_script(*arguments: str) -> dict[str, Any]:
    script = Path(__file__).parent / "upsert_a_file.py"
    done = subprocess.run(
        [sys.executable, str(script), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.long
def test_a_big_file_is_never_whole_in_memory(server: LocalVectorize, tmp_path: Path) -> None:
    vectorize = Vectorize(server, "big-index-768", dimensions=768)
    path = tmp_path / "vectors.ndjson"
    values = ", ".join(f"{i / 768 - 0.5:.6f}" for i in range(768))
    with path.open("w") as file:
        for i in range(BIG):
            file.write(f'{{"id": "v{i}", "values": [{i / BIG:.6f}, {values[10:]}]}}\n')
    empty = tmp_path / "empty.ndjson"
    empty.write_text("")
    idle = run_script("big-index-768", str(empty))
    full = run_script("big-index-768", str(path))
    assert (idle["report"]["vectors"], full["report"]["vectors"]) == (0, BIG)
    assert full["peak_mb"] - idle["peak_mb"] <= 150, (idle, full)
    assert vectorize.client.info("big-index-768")["dimensions"] == 768

    lines = path.read_bytes().split(b"\n")
    lines[BAD_LINE - 1] = lines[BAD_LINE - 1][:-1]
    path.write_bytes(b"\n".join(lines))
    bad = run_script("big-index-768", str(path))
    assert f"line {BAD_LINE} (" in bad["error"]
    assert "is not JSON in UTF-8" in bad["error"]
    said = re.search(r"(\d+) vectors in (\d+) requests are acknowledged", bad["error"])
    assert said is not None
    assert int(said[2]) == server.stats()["upsert"] - full["report"]["requests"]
    # Complete requests of 32 MB each; the next request would include the bad line.
    assert BAD_LINE - 32e6 / len(lines[0]) <= int(said[1]) < BAD_LINE
