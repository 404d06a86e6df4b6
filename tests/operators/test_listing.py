# SPDX-License-Identifier: Apache-2.0
"""The list operator over real HTTP, without a scheduler."""

from __future__ import annotations

import json
import logging
import os
import threading
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from airflow.providers.common.compat.sdk import ObjectStoragePath
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from airflow_provider_cfvectorize.client import workers
from airflow_provider_cfvectorize.client.inputs.ids_file import IdsFile
from airflow_provider_cfvectorize.exceptions import (
    VectorizeInputError,
    VectorizeInterrupted,
    VectorizeListingExpired,
    VectorizeNotFoundError,
)
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByIdsOperator, ListVectorsOperator
from client.servers import Reply, Request, ScriptedServer, ok, refused
from harness import INDEX, Vectorize, make_context, wait_until

Script = Callable[[Any], ScriptedServer]

ODD_IDS = ["a,b", "it's", " padded ", "sep\u2028", "é漢😀", "\ufeffmark", "1e5", "None", "[x]", "\x0b\x85"]


def list_ids(context: dict[str, Any] | None = None, **kwargs: Any) -> Any:
    operator = ListVectorsOperator(**{"task_id": "list", "index_name": INDEX, **kwargs})
    return operator.execute(context or make_context())


def page(ids: list[str], cursor: str | None = None) -> Reply:
    return ok(
        {
            "count": len(ids),
            "totalCount": 999_999,
            "isTruncated": cursor is not None,
            "nextCursor": cursor,
            "vectors": [{"id": id_} for id_ in ids],
        }
    )


# --- listed ids ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [None, "txt", "ndjson", "JSONL"])
@pytest.mark.parametrize(("prefix", "matched"), [(None, 2210), ("v1", 1111), ("no", 0)])
def test_exactly_the_matching_ids_are_listed(
    vectorize: Vectorize, tmp_path: Path, suffix: str | None, prefix: str | None, matched: int
) -> None:
    ids = {*[f"v{i}" for i in range(2200)], *ODD_IDS}
    vectorize.fill(ids)
    vectorize.server.reset_stats()
    context = make_context()
    path = None if suffix is None else str(tmp_path / f"ids.{suffix}")
    result = list_ids(context, prefix=prefix, path=path)
    if suffix is None:
        found = result
    else:
        assert result == path
        lines = Path(result).read_bytes().decode().removesuffix("\n").split("\n") if matched else []
        found = lines if suffix == "txt" else [json.loads(line)["id"] for line in lines]
    assert set(found) == {id_ for id_ in ids if id_.startswith(prefix or "")}
    assert len(found) == matched
    assert context["ti"].pushed == {"report": {"listed": 2210, "matched": matched}}
    assert vectorize.server.stats()["list_vectors"] == 3


def test_progress_is_logged(
    vectorize: Vectorize,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vectorize.fill(f"v{i}" for i in range(1500))
    monkeypatch.setattr(workers, "SECONDS_BETWEEN_LINES", 0.0)
    with caplog.at_level(logging.INFO):
        list_ids(prefix="no")
    # Airflow 3 logs to standard output without a supervisor.
    assert f"Listing {INDEX}: 1000 of 1500 ids in 1 of 2 batches" in caplog.text + capfd.readouterr().out


def test_an_empty_index_has_an_empty_list(vectorize: Vectorize, tmp_path: Path) -> None:
    assert list_ids() == []
    path = tmp_path / "ids.txt"
    list_ids(path=str(path))
    assert path.read_bytes() == b""


@pytest.mark.parametrize("suffix", ["txt", "ndjson"])
def test_a_delete_reads_the_listed_file(vectorize: Vectorize, tmp_path: Path, suffix: str) -> None:
    vectorize.fill([*ODD_IDS, *[f"old-{i}" for i in range(250)]])
    path = list_ids(prefix="old-", path=str(tmp_path / f"ids.{suffix}"))
    delete = DeleteVectorsByIdsOperator(task_id="delete", index_name=INDEX, ids_path=path)
    vectorize.wait_for(delete.execute(make_context()))
    assert vectorize.ids() == set(ODD_IDS)


@pytest.mark.usefixtures("object_storage")
def test_ids_are_written_to_object_storage(vectorize: Vectorize) -> None:
    vectorize.fill(["a", "b"])
    place = ObjectStoragePath("memory://bucket/ids.txt")
    assert list_ids(path=place) == str(place)
    assert sorted(place.read_text().split()) == ["a", "b"]


_ODD = st.sampled_from(["\ufeff", "\r", "\n", " ", "\t", "\x00", "\x0b", "\x85", "\u2028", '"', "\\", "a"])
_ID = (
    st.text(st.one_of(_ODD, st.characters(exclude_categories=["Cs"])), min_size=1, max_size=20)
    .map(lambda text: text.encode()[:64].decode(errors="ignore"))
    .filter(bool)
)


@settings(
    deadline=None,
    derandomize=True,
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(ids=st.lists(_ID, unique=True, max_size=8), ndjson=st.booleans())
@example(ids=["a\r"], ndjson=False)
@example(ids=["\ufeffa", "b"], ndjson=False)
@example(ids=["b", "\ufeffa"], ndjson=False)
@example(ids=["\ufeffa", " b ", "\r", "\n"], ndjson=True)
def test_a_file_of_ids_holds_the_listed_ids(
    script: Script, tmp_path: Path, ids: list[str], ndjson: bool
) -> None:
    server = script([page(ids)])
    path = tmp_path / ("ids.ndjson" if ndjson else "ids")
    cannot = any("\n" in id_ or "\r" in id_ for id_ in ids) or (ids[:1] and ids[0].startswith("\ufeff"))
    if cannot and not ndjson:
        with pytest.raises(VectorizeInputError, match=r"give the file a name that ends in \.ndjson"):
            list_ids(path=str(path))
    else:
        read = IdsFile(list_ids(path=str(path)))
        assert [id_ for batch in read for id_ in batch] == ids
        assert (read.count, read.empty_lines) == (len(ids), 0)
    server.close()


@pytest.mark.parametrize(
    ("ids", "text"),
    [
        (["b", "a\nb"], r"the id 'a\nb' has a line break"),
        (["a\rb"], r"the id 'a\rb' has a line break"),
        (["a\r"], r"the id 'a\r' has a line break"),
        (["\ufeffa"], r"the id '\ufeffa' is the first in the file and begins"),
    ],
)
def test_an_id_that_a_text_file_cannot_hold_is_an_error(
    script: Script, tmp_path: Path, ids: list[str], text: str
) -> None:
    script([page(ids)])
    path = tmp_path / "ids.txt"
    path.write_text("before")
    with pytest.raises(VectorizeInputError) as error:
        list_ids(path=str(path))
    assert text in str(error.value)
    assert ".ndjson" in str(error.value)
    assert os.listdir(tmp_path) == ["ids.txt"]
    assert path.read_text() == "before"


# --- limits -------------------------------------------------------------------------------------------------


def test_more_than_max_ids_are_an_error(vectorize: Vectorize, tmp_path: Path) -> None:
    vectorize.fill([f"v{i:04}" for i in range(2500)])
    vectorize.server.reset_stats()
    with pytest.raises(VectorizeInputError) as error:
        list_ids(prefix="v", max_ids=999)
    for text in (
        "index 'docs' has more than 999 ids that begin with 'v'",
        "1000 of the first 1000 listed ids match",
        "Pass path to write them to a file, or raise max_ids",
    ):
        assert text in str(error.value)
    assert vectorize.server.stats()["list_vectors"] == 1
    assert len(list_ids(max_ids=2500)) == 2500
    assert list_ids(prefix="none", max_ids=0) == []
    list_ids(max_ids=1, path=str(tmp_path / "ids"))
    assert len((tmp_path / "ids").read_text().split()) == 2500


def test_ids_too_large_for_an_xcom_are_an_error(vectorize: Vectorize) -> None:
    vectorize.fill([f"{i:064}" for i in range(4000)])
    context = make_context()
    with pytest.raises(VectorizeInputError) as error:
        list_ids(context)
    # Each id: 64 characters, two quotation marks, a comma and a space.
    assert "the first 3,856 ids have 262,208 bytes as JSON" in str(error.value)
    assert "at most 262,144 for an XCom: pass path" in str(error.value)
    assert context["ti"].pushed == {}


def test_a_file_of_ids_is_never_whole_in_memory(script: Script, tmp_path: Path) -> None:
    def answer(request: Request) -> Reply:
        number = int(parse_qs(urlsplit(request.path).query).get("cursor", ["0"])[0])
        return page(
            [f"{number * 1000 + i:064}" for i in range(1000)], str(number + 1) if number < 99 else None
        )

    script(answer)
    path = tmp_path / "ids"
    # The first run imports modules, which also need memory.
    list_ids(path=str(path))
    tracemalloc.start()
    try:
        list_ids(path=str(path))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # All ids together need more than 10 MB.
    assert peak < 5_000_000
    with path.open() as file:
        assert [int(line) for line in file] == list(range(100_000))


# --- refused inputs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"prefix": ""}, "prefix is '' after rendering, which counts as nothing"),
        ({"prefix": "None"}, "To run without prefix, do not pass it"),
        ({"prefix": 7}, "prefix is 7, expected a string"),
        ({"max_ids": -1}, "max_ids is -1"),
        ({"max_ids": "5"}, "max_ids is '5'"),
        ({"path": ""}, "path is ''"),
        ({"path": "None"}, "path is 'None'"),
        ({"path": ["a"]}, "path is a list"),
        ({"path": "/does/not/exist/ids"}, "cannot be written"),
        ({"path": "/"}, "is a directory"),
        ({"path": "/sys/ids"}, "/proc, /dev, /sys"),
        ({"path": "nosuchstore://bucket/ids"}, "cannot be written"),
        ({"index_name": "a/b"}, "index name 'a/b'"),
        ({"account_id": "f" * 31}, "32 hexadecimal digits"),
    ],
)
def test_invalid_arguments_are_refused(server: LocalVectorize, kwargs: dict[str, Any], text: str) -> None:
    with pytest.raises(VectorizeInputError) as error:
        list_ids(**kwargs)
    assert text in str(error.value)
    assert sum(server.stats().values()) == 0


def test_a_prefix_that_renders_to_none_is_refused(server: LocalVectorize) -> None:
    # Native rendering or an upstream task without a result gives None.
    operator = ListVectorsOperator(task_id="list", index_name=INDEX, prefix="{{ params.tenant }}")
    operator.prefix = None
    with pytest.raises(VectorizeInputError, match="prefix is None after rendering"):
        operator.execute(make_context())
    assert sum(server.stats().values()) == 0


def test_a_missing_index_is_an_error(vectorize: Vectorize, tmp_path: Path) -> None:
    with pytest.raises(VectorizeNotFoundError, match="Check index_name"):
        list_ids(index_name="other", path=str(tmp_path / "ids"))
    assert os.listdir(tmp_path) == []


# --- interrupted listings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("to_file", [False, True])
def test_an_expired_listing_starts_over(script: Script, tmp_path: Path, to_file: bool) -> None:
    expired = refused(400, 1000, "cursor expired")
    server = script(
        [page(["a", "b"], "x"), expired, page(["c"], "y"), expired, page(["d", "e"], "z"), page(["f"])]
    )
    context = make_context()
    path = tmp_path / "ids"
    result = list_ids(context, path=str(path) if to_file else None)
    assert (path.read_text().split() if to_file else result) == ["d", "e", "f"]
    assert context["ti"].pushed == {"report": {"listed": 3, "matched": 3}}
    assert len(server.requests) == 6


def test_the_fourth_expired_listing_is_an_error(script: Script, tmp_path: Path) -> None:
    expired = refused(400, 1000, "cursor expired")
    server = script([page(["a"], "x"), expired] * 5)
    path = tmp_path / "ids"
    path.write_text("before")
    with pytest.raises(VectorizeListingExpired, match="ended after 1 of 999999 ids"):
        list_ids(path=str(path))
    assert len(server.requests) == 8
    assert os.listdir(tmp_path) == ["ids"]
    assert path.read_text() == "before"


@pytest.mark.parametrize("prefix", [None, "none"])
@pytest.mark.parametrize("answered", [False, True])
def test_a_kill_ends_a_listing(script: Script, tmp_path: Path, prefix: str | None, answered: bool) -> None:
    over = threading.Event()
    numbers = iter(range(10**9))

    def answer(_: Request) -> Reply:
        number = next(numbers)
        if number == 1 and not answered:
            over.wait(60)
        return page([f"v{number}"], f"c{number}" if number < 300 else None)

    server = script(answer)
    operator = ListVectorsOperator(
        task_id="list", index_name=INDEX, prefix=prefix, path=str(tmp_path / "ids")
    )

    def kill_at_work() -> None:
        wait_until(lambda: len(server.requests) >= 2)
        operator.on_kill()

    killer = threading.Thread(target=kill_at_work)
    killer.start()
    try:
        with pytest.raises(VectorizeInterrupted, match=r"interrupted: \d+ ids? of index 'docs'"):
            operator.execute(make_context())
    finally:
        killer.join()
        over.set()
    assert os.listdir(tmp_path) == []
