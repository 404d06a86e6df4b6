# SPDX-License-Identifier: Apache-2.0
"""Files that operators read and write, local ones and in object storage."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.operators.storage import open_file, path_of, write_file

CONTENT = b"one\r\ntwo\n" * 200_000


@pytest.fixture(params=["plain", "file URL", "object storage"])
def place(request: pytest.FixtureRequest, tmp_path: Path, object_storage: str) -> Callable[[str], str]:
    """Return what makes the path of a file."""
    bases = {
        "plain": str(tmp_path),
        "file URL": f"file://{tmp_path}",
        "object storage": f"{object_storage}/{tmp_path.name}",
    }
    return lambda name: f"{bases[request.param]}/{name}"


def read(path: str) -> bytes:
    with open_file(path, "path") as file:
        return file.read()


def write_half(path: str) -> None:
    with write_file(path, "path") as file:
        file.write(CONTENT)
        raise ZeroDivisionError


def test_what_was_written_is_read(place: Callable[[str], str]) -> None:
    path = place("new.txt")
    for content in (CONTENT, b"", b"again"):
        with write_file(path, "path") as file:
            file.write(content)
        assert read(path) == content


def test_what_ends_early_leaves_all_as_it_was(place: Callable[[str], str], tmp_path: Path) -> None:
    path = place("kept.txt")
    with write_file(path, "path") as file:
        file.write(b"old")
    for name in ("kept.txt", "none.txt"):
        with pytest.raises(ZeroDivisionError):
            write_half(place(name))
    assert read(path) == b"old"
    with pytest.raises(VectorizeInputError, match=r"path .* cannot be read"):
        read(place("none.txt"))
    assert {file.name for file in tmp_path.iterdir()} <= {"kept.txt"}


@pytest.mark.parametrize(
    "scheme", ["", "file://", pytest.param("local://", marks=pytest.mark.airflow3, id="local, of Airflow 3")]
)
def test_windows_into_the_system_are_closed(scheme: str) -> None:
    for path in ("/proc/self/environ", "/dev/null", "/sys/x"):
        with pytest.raises(VectorizeInputError, match="which hold no files of data"):
            read(f"{scheme}{path}")
        with (
            pytest.raises(VectorizeInputError, match="which hold no files of data"),
            write_file(f"{scheme}{path}", "path"),
        ):
            pass


def test_what_cannot_be_written(tmp_path: Path) -> None:
    for path, text in (
        (str(tmp_path), "path .* is a directory: name a file in it"),
        (str(tmp_path / "no" / "file.txt"), "path .* cannot be written: No such file or directory"),
        ("nostore://bucket/file.txt", "path 'nostore://bucket/file.txt' cannot be written"),
        ("file://elsewhere/file.txt", "names another machine"),
    ):
        with pytest.raises(VectorizeInputError, match=text), write_file(path, "path"):
            pass


def test_a_new_file_is_as_readable_as_others(tmp_path: Path) -> None:
    # As the umask says, since another user's task may have to read it.
    (tmp_path / "plain").touch()
    with write_file(str(tmp_path / "ours"), "path"):
        pass
    assert os.stat(tmp_path / "ours").st_mode == os.stat(tmp_path / "plain").st_mode


def test_paths() -> None:
    assert path_of("a", "path") == path_of(Path("a"), "path") == "a"
    for value in (None, "", "None", 5, ["a"]):
        with pytest.raises(VectorizeInputError, match="expected a path such as"):
            path_of(value, "path")
