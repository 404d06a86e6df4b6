# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import gc
import io
import json
import os
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cfvectorize.client.inputs import files
from airflow_provider_cfvectorize.client.inputs.files import has_scheme, open_local
from airflow_provider_cfvectorize.client.inputs.ids_file import IdsFile, write_ids
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

SECRET = b"hunter2"


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write(content: bytes, name: str = "ids.txt") -> str:
        path = tmp_path / name
        path.write_bytes(content)
        return str(path)

    return write


def remote(content: bytes, name: str = "s3://bucket/ids.txt", piece: int = 0, **options: Any) -> IdsFile:
    """A file in an object store that returns at most ``piece`` bytes at a time."""

    class Store(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(piece or size)

    return IdsFile(name, open_remote=lambda url, name: Store(content), **options)


def ids_of(file: IdsFile) -> list[str]:
    return [id_ for batch in file for id_ in batch]


def refusal(content: bytes, name: str = "s3://bucket/ids.txt") -> str:
    with pytest.raises(VectorizeInputError) as e:
        remote(content, name)
    text = str(e.value)
    assert SECRET.decode() not in text
    assert text.isprintable()
    assert len(text) < 2000
    return text


@pytest.mark.parametrize("piece", [0, 1, 2, 7])
@pytest.mark.parametrize(
    ("content", "ids"),
    [
        (b"", []),
        (b"a", ["a"]),
        (b"a\n", ["a"]),
        (b"a\nb", ["a", "b"]),
        (b"a\r\nb\r\n", ["a", "b"]),
        (b"a\n\n\r\nb\n\n", ["a", "b"]),
        (b"\xef\xbb\xbfa\nb\n", ["a", "b"]),
        (b"\xef\xbb\xbf", []),
        (b"a\n\xef\xbb\xbfb\n", ["a", "\ufeffb"]),
        (b" a \n\t\n", [" a ", "\t"]),
        ("a\u2028b\u2029c\x85d\x0be\x0cf\rg\n".encode(), ["a\u2028b\u2029c\x85d\x0be\x0cf\rg"]),
        ("é\n𝄞\n".encode(), ["é", "𝄞"]),
        (b"b\na\nb\n", ["b", "a"]),
        (b"None\nnull\n1e5\na,b\n[1]\n", ["None", "null", "1e5", "a,b", "[1]"]),
        (b"x" * 64, ["x" * 64]),
    ],
)
def test_ids_are_read_from_lines(content: bytes, ids: list[str], piece: int) -> None:
    file = remote(content, piece=piece)
    assert ids_of(file) == ids
    assert file.count == len(ids)


@pytest.mark.parametrize("name", ["v.ndjson", "v.jsonl", "v.NDJSON", "V.JsonL"])
def test_ids_are_read_from_ndjson(name: str) -> None:
    lines = [
        '{"id": "a", "values": [1, 2], "metadata": {"id": "no"}}',
        "",
        '{"values": [], "id": 17}',
        '{"id": "\\u2028"}\r',
        '  {"id": "é\u2028"}  ',
    ]
    file = remote("\n".join(lines).encode(), f"s3://bucket/{name}")
    assert ids_of(file) == ["a", "17", "\u2028", "é\u2028"]
    assert file.empty_lines == 1


def test_files_with_other_suffixes_hold_an_id_per_line() -> None:
    assert ids_of(remote(b'{"id": "a"}\n', "s3://bucket/v.json")) == ['{"id": "a"}']


@given(
    st.lists(
        st.text(
            st.characters(exclude_categories=["Cs"], exclude_characters="\n\r\ufeff"), min_size=1, max_size=16
        ),
        unique=True,
        max_size=20,
    ),
    st.sampled_from(["\n", "\r\n"]),
    st.integers(1, 9),
)
def test_any_ids_are_read_back_from_a_file(ids: list[str], end: str, piece: int) -> None:
    assert ids_of(remote(end.join([*ids, ""]).encode(), piece=piece)) == ids
    ndjson = end.join(json.dumps({"id": id_}, ensure_ascii=False) for id_ in ids)
    assert ids_of(remote(ndjson.encode(), "s3://b/v.ndjson", piece)) == ids


def test_positions_count_empty_lines() -> None:
    file = remote(b"\na\n\r\n\nb\n")
    assert file.empty_lines == 3
    ids_of(file)
    assert file.empty_lines == 3


@pytest.mark.parametrize(
    ("name", "line", "said"),
    [
        ("ids.txt", SECRET * 10, "line 3 (70 bytes) has 70 bytes of UTF-8, expected at most 64"),
        ("ids.txt", SECRET + b"\xff\xfe", "line 3 (9 bytes) is not UTF-8 at byte 7"),
        ("ids.txt", b"\xed\xa0\x80", "line 3 (3 bytes) is not UTF-8"),
        ("v.ndjson", SECRET, "line 3 (7 bytes) is not JSON"),
        ("v.ndjson", b"   ", "line 3 (3 bytes) is not JSON"),
        ("v.ndjson", b"[" * 9999, "is not JSON"),
        ("v.ndjson", b'["%s"]' % SECRET, "is not a JSON object with an id"),
        ("v.ndjson", b'{"ID": "%s"}' % SECRET, "is not a JSON object with an id"),
        ("v.ndjson", b'{"id": null}', "has None as its id"),
        ("v.ndjson", b'{"id": true}', "has a bool as its id"),
        ("v.ndjson", b'{"id": 1.5}', "has a float as its id"),
        ("v.ndjson", b'{"id": ["%s"]}' % SECRET, "has a list as its id"),
        ("v.ndjson", b'{"id": ""}', "has an id that is empty"),
        ("v.ndjson", b'{"id": "%s"}' % (SECRET * 10), "has an id that has 70 bytes"),
        ("v.ndjson", b'{"id": "\\ud800"}', "surrogate"),
        ("v.ndjson", b'{"id": %s}' % (b"1" * 65), "has an id that has 65 bytes of UTF-8"),
        ("v.ndjson", b'{"id": "a"} {"id": "b"}', "is not JSON"),
    ],
)
def test_a_bad_line_is_reported_without_its_content(name: str, line: bytes, said: str) -> None:
    fine = b'{"id": "a"}' if name.endswith("ndjson") else b"a"
    assert said in refusal(b"%s\n\n%s\n" % (fine, line), f"s3://bucket/{name}")


def test_the_first_ten_bad_lines_are_listed() -> None:
    text = refusal(b"\n".join(b"x" * 65 if i % 2 else b"fine" for i in range(100)))
    assert [int(part.split()[0]) for part in text.split("line ")[1:11]] == list(range(2, 21, 2))
    assert "line 22" not in text
    assert "Expected one id of 1 to 64 bytes a line, in UTF-8" in text


@pytest.mark.parametrize("name", ["ids.txt", "v.ndjson"])
def test_reading_stops_at_a_line_that_is_too_long(name: str) -> None:
    asked = 0

    class Endless(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            nonlocal asked
            asked += 1
            assert asked < 10
            return SECRET * 100_000

    with pytest.raises(
        VectorizeInputError, match=r"has a line of more than \d+ bytes, line 1: expected one id a line"
    ):
        IdsFile(f"s3://bucket/{name}", open_remote=lambda url, name: Endless())


def test_local_paths_and_file_urls(write: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(b"a\n")
    odd = write(b"b\n", "odd #1?x=é %41.txt")
    monkeypatch.chdir(tmp_path)
    for known in (path, "ids.txt", f"file://{path}", f"FILE://localhost{path}", f"{tmp_path}/./ids.txt"):
        assert ids_of(IdsFile(known)) == ["a"]
    (tmp_path / "link").symlink_to(path)
    assert ids_of(IdsFile(str(tmp_path / "link"))) == ["a"]
    assert ids_of(IdsFile(odd)) == ["b"]
    assert ids_of(IdsFile(f"file://{tmp_path}/odd%20%231%3Fx=%C3%A9%20%2541.txt")) == ["b"]
    assert ids_of(IdsFile(f"file://{tmp_path}/odd #1?x=é %2541.txt")) == ["b"]
    write(b'{"id": "c"}', "v.NDJSON")
    assert ids_of(IdsFile(f"file://{tmp_path}/v.NDJSON")) == ["c"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/proc/self/environ", "below /proc, /dev, /sys"),
        ("/proc", "below /proc"),
        ("/dev/zero", "below /proc"),
        ("/dev/../dev/null", "below /proc"),
        ("//proc/self/environ", "below /proc"),
        ("file:///proc/self/environ", "below /proc"),
        ("file:///%70roc/self/environ", "below /proc"),
        ("file://another/ids.txt", "names another machine"),
        ("file://localhost", "names another machine"),
        ("file://[/x", "names another machine"),
        ("a\0b", "is not a path"),
        ("file:///a%00b", "is not a path"),
        ("/tmp/\ud800", "is not a path"),
        ("/no/such/file", "cannot be read: No such file or directory"),
        ("", "is not a regular file"),
        ("/", "is not a regular file"),
        ("/x" * 9000, "cannot be read"),
        ("s3://bucket/ids.txt", "is not a local path"),
    ],
    ids=range(18),
)
def test_invalid_paths_are_refused(path: str, said: str) -> None:
    with pytest.raises(VectorizeInputError) as e:
        IdsFile(path)
    assert said in str(e.value)
    assert str(e.value).isprintable()


def test_only_regular_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "out").symlink_to("/proc/self/environ")
    (tmp_path / "proc").symlink_to("/proc")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name, said in (
        ("fifo", "not a regular file"),
        ("", "not a regular file"),
        ("out", "below /proc"),
        ("proc/self/environ", "below /proc"),
        ("loop", "cannot be read"),
        ("missing", "cannot be read"),
    ):
        with pytest.raises(VectorizeInputError, match=said):
            open_local(str(tmp_path / name), "ids_path")


@pytest.mark.parametrize(
    ("path", "scheme"),
    [
        ("s3://b/k", True),
        ("gs+x://b", True),
        ("FILE:///a", False),
        ("/a://b", False),
        ("a/b://c", False),
        ("C:\\x", False),
        ("s3:/b", False),
    ],
)
def test_has_scheme(path: str, scheme: bool) -> None:
    assert has_scheme(path) is scheme


def numbered(count: int) -> list[str]:
    return [f"id-{i}" for i in range(count)]


CHANGES = {
    "a line of the first batch": (lambda ids: ["other", *ids[1:]], 0),
    "a line of the second batch": (lambda ids: [*ids[:150], "other", *ids[151:]], 1),
    "a bad line": (lambda ids: [*ids[:150], "x" * 65, *ids[151:]], 1),
    "the last line": (lambda ids: [*ids[:-1], "other"], 2),
    "one line more": (lambda ids: [*ids, "other"], 2),
    "a batch more": (lambda ids: ids + [f"other-{i}" for i in range(150)], 2),
    "one line less": (lambda ids: ids[:-1], 2),
    "a batch less": (lambda ids: ids[:100], 1),
    "all gone": (lambda ids: [], 0),
    "the order": (lambda ids: ids[::-1], 0),
    "a line cut in two": (lambda ids: ["i", "d-0", *ids[1:]], 0),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_batch_is_not_returned(write: Any, change: str) -> None:
    edit, unchanged = CHANGES[change]
    ids = numbered(250)
    file = IdsFile(write("\n".join(ids).encode()))
    write("\n".join(edit(ids)).encode())  # type: ignore[no-untyped-call]
    sent: list[list[str]] = []
    with pytest.raises(
        VectorizeInputError, match="changed while the task was reading it: write each list of ids"
    ):
        sent.extend(file)
    assert sent == [ids[:100], ids[100:200]][:unchanged]


def test_a_file_that_grows_after_a_full_last_batch_is_an_error(write: Any) -> None:
    file = IdsFile(write("\n".join(numbered(100)).encode()))
    write("\n".join(numbered(101)).encode())
    batches = iter(file)
    assert next(batches) == numbered(100)
    with pytest.raises(VectorizeInputError, match="changed"):
        next(batches)


def test_duplicates_are_dropped_only_within_a_batch() -> None:
    ids = ["a", "a", *numbered(99), "a"]
    file = remote("\n".join(ids).encode())
    assert [len(batch) for batch in file] == [100, 1]
    assert file.count == 101


def test_a_file_has_at_most_max_ids() -> None:
    assert remote(b"a\nb", max_ids=2).count == 2
    with pytest.raises(VectorizeInputError, match="2 ids and max_ids is 1"):
        remote(b"a\nb", max_ids=1)


@pytest.mark.parametrize("batches", [0, 1, 2, 3, 4, 16, 17, 40, 333])
def test_samples_are_spread_over_the_batches(batches: int) -> None:
    file = remote("\n".join(numbered(batches * 100)).encode())
    samples = file.samples()
    positions = [position for position, _ in samples]
    assert len(positions) == len(set(positions)) == min(3, batches)
    assert all(batch == numbered(batches * 100)[position * 100 :][:100] for position, batch in samples)
    if batches:
        # The last batch comes first: see take_sample.
        assert positions[0] == batches - 1
        assert positions[-1] == 0


def test_a_big_file_is_never_whole_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHUNK_BYTES", 64 * 1024)
    path = tmp_path / "ids.txt"
    with path.open("w") as f:
        for i in range(40_000):
            f.write(f"{i:060}\n")
    gc.collect()
    tracemalloc.start()
    try:
        file = IdsFile(str(path))
        assert sum(len(batch) for batch in file) == file.count == 40_000
        # The file has 2.4 MB; a list of its ids would take more than 4 MB.
        assert tracemalloc.get_traced_memory()[1] < 1_500_000
    finally:
        tracemalloc.stop()


# --- writing ------------------------------------------------------------------------------------------------


def written(batches: list[list[str]], *, ndjson: bool) -> bytes:
    file = io.BytesIO()
    write_ids(file, batches, ndjson=ndjson)
    return file.getvalue()


@given(st.lists(st.text(st.characters(codec="utf-8"), min_size=1, max_size=16), unique=True), st.booleans())
def test_written_ids_are_read_back(ids: list[str], ndjson: bool) -> None:
    batches = [ids[i : i + 3] for i in range(0, len(ids), 3)]
    fits = not any("\n" in id_ or "\r" in id_ for id_ in ids)
    # As the first character of a file it would look like a byte order mark.
    fits = fits and not (ids and ids[0].startswith("\ufeff"))
    if ndjson or fits:
        content = written(batches, ndjson=ndjson)
        assert ids_of(remote(content, f"s3://b/ids.{'jsonl' if ndjson else 'txt'}")) == ids
    else:
        with pytest.raises(VectorizeInputError, match=r"\.ndjson"):
            written(batches, ndjson=ndjson)


@pytest.mark.parametrize("bad", ["a\nb", "\n", "a\r", "a\r\n", "a\rb", "\ufeffa"])
def test_ids_that_a_text_file_cannot_hold_are_not_written(bad: str) -> None:
    with pytest.raises(VectorizeInputError, match=r"cannot hold it.*\.ndjson"):
        written([[bad], ["b"]], ndjson=False)
    assert ids_of(remote(written([[bad], ["b"]], ndjson=True), "s3://b/ids.ndjson")) == [bad, "b"]


def test_unusual_ids_can_be_written() -> None:
    odd = ["a", "\ufeffb", "e\u2028f", " ", "é😀", "{}"]
    assert ids_of(remote(written([odd[:2], [], odd[2:]], ndjson=False))) == odd
    assert written([], ndjson=False) == written([], ndjson=True) == b""


def test_an_empty_id_cannot_be_written() -> None:
    with pytest.raises(VectorizeInputError, match=r"the id '' is empty, .*\.ndjson"):
        written([["a", ""]], ndjson=False)
