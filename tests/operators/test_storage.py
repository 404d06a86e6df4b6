# SPDX-License-Identifier: Apache-2.0
"""Files that operators read and write, on disk and in object storage."""

from __future__ import annotations

import gc
import os
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.spec import AbstractBufferedFile, AbstractFileSystem

try:
    from airflow.sdk.io import attach
except ImportError:  # before 3.0
    from airflow.io.store import attach

try:
    from airflow.sdk import lineage
except ImportError:  # before 3.2
    from airflow.lineage import hook as lineage
try:
    # The module that calls it; since 3.0, the module that defines it.
    from airflow.io import path as asks_for_lineage

    if not hasattr(asks_for_lineage, "get_hook_lineage_collector"):
        asks_for_lineage = lineage
except ImportError:
    asks_for_lineage = lineage

from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.operators.files import open_file, path_of, place_of, write_file

CONTENT = b"one\r\ntwo\n" * 200_000


@pytest.fixture(params=["plain", "file URL", "object storage"])
def place(request: pytest.FixtureRequest, tmp_path: Path, object_storage: str) -> Callable[[str], str]:
    """Return a function that makes the path of a file."""
    bases = {
        "plain": str(tmp_path),
        "file URL": f"file://{tmp_path}",
        "object storage": f"{object_storage}/{tmp_path.name}",
    }
    return lambda name: f"{bases[request.param]}/{name}"


def read(path: str) -> bytes:
    with open_file(path, "path") as file:
        return file.read()


def write_whole(path: str) -> None:
    with write_file(path, "path") as file:
        for _ in range(40):
            file.write(b"x" * 2**20)


def write_half(path: str) -> None:
    with write_file(path, "path") as file:
        file.write(CONTENT)
        raise ZeroDivisionError


def test_a_written_file_is_read_back(place: Callable[[str], str]) -> None:
    path = place("new.txt")
    for content in (CONTENT, b"", b"again"):
        with write_file(path, "path") as file:
            file.write(content)
        assert read(path) == content


def test_a_failed_write_leaves_the_file_unchanged(place: Callable[[str], str], tmp_path: Path) -> None:
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
    "scheme",
    [
        "",
        "file://",
        pytest.param("local://", marks=pytest.mark.airflow(since="3.0"), id="local (Airflow 3)"),
    ],
)
def test_system_files_are_refused(scheme: str) -> None:
    for path in ("/proc/self/environ", "/dev/null", "/sys/x"):
        with pytest.raises(VectorizeInputError, match="which hold no data files"):
            read(f"{scheme}{path}")
        with (
            pytest.raises(VectorizeInputError, match="which hold no data files"),
            write_file(f"{scheme}{path}", "path"),
        ):
            pass


def test_invalid_paths_to_write_are_refused(tmp_path: Path) -> None:
    for path, text in (
        (str(tmp_path), "path .* is a directory: name a file in it"),
        (str(tmp_path / "no" / "file.txt"), "path .* cannot be written: No such file or directory"),
        ("nostore://bucket/file.txt", "path 'nostore://bucket/file.txt' cannot be written"),
        ("file://elsewhere/file.txt", "names another machine"),
    ):
        with pytest.raises(VectorizeInputError, match=text), write_file(path, "path"):
            pass


def test_a_new_file_has_the_mode_of_the_umask(tmp_path: Path) -> None:
    # A task of another user may need to read it.
    (tmp_path / "plain").touch()
    with write_file(str(tmp_path / "ours"), "path"):
        pass
    assert os.stat(tmp_path / "ours").st_mode == os.stat(tmp_path / "plain").st_mode


def test_paths_are_checked() -> None:
    assert path_of("a", "path") == path_of(Path("a"), "path") == "a"
    for value in (None, "", "None", 5, ["a"]):
        with pytest.raises(VectorizeInputError, match="expected a path such as"):
            path_of(value, "path")


def test_a_replaced_file_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    path.touch(mode=0o600)
    with write_file(str(path), "path") as file:
        (part,) = set(tmp_path.iterdir()) - {path}
        assert part.stat().st_mode & 0o077 == 0
        file.write(b"new")
    assert (path.stat().st_mode & 0o777, path.read_bytes()) == (0o600, b"new")


@pytest.mark.parametrize("may", [True, False], ids=["chown allowed", "chown refused"])
def test_a_replaced_file_keeps_its_owner_and_group(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, may: bool
) -> None:
    path = tmp_path / "shared"
    path.touch(mode=0o640)
    if os.getuid() == 0:
        os.chown(path, 4321, 4321)
    else:
        os.chown(path, -1, os.getgroups()[-1])
    before = path.stat()
    if not may:
        monkeypatch.setattr(os, "fchown", lambda *args: os.stat("/does/not/exist"))
    with write_file(str(path), "path"):
        pass
    after = path.stat()
    same = after.st_gid == before.st_gid
    assert same or not may
    assert after.st_mode & 0o777 == (0o640 if same else 0o600)


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (
        pytest.raises(VectorizeInputError, match="is not a regular file"),
        write_file(str(tmp_path / "pipe"), "path"),
    ):
        pass


def test_the_longest_file_name_is_accepted(tmp_path: Path) -> None:
    with write_file(str(tmp_path / ("n" * 255)), "path"):
        pass
    assert [len(path.name) for path in tmp_path.iterdir()] == [255]


@pytest.mark.parametrize("where", ["local", "object storage"])
def test_a_full_disk_is_an_error(tmp_path: Path, object_storage: str, where: str) -> None:
    path = str(tmp_path / "ids.txt") if where == "local" else f"{object_storage}/{tmp_path.name}/ids.txt"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(VectorizeInputError, match=r"path .*ids.txt' cannot be written: File too large"):
            write_whole(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert list(tmp_path.iterdir()) == []


class Upload(AbstractBufferedFile):
    """A file that is sent in parts and exists once it is closed, like files of s3fs, gcsfs and adlfs."""

    def _initiate_upload(self) -> None:
        self.parts: list[bytes] = []

    def _upload_chunk(self, final: bool = False) -> bool:
        if len(self.parts) == 2 and self.fs.error is not None:
            raise self.fs.error
        self.parts.append(self.buffer.getvalue())
        if final:
            self.fs.kept[self.path] = b"".join(self.parts)
        return True


class Store(AbstractFileSystem):
    protocol = "parts"
    cachable = False

    def __init__(self, error: BaseException | None = None) -> None:
        super().__init__()
        self.error = error
        self.kept = {"bucket/ids.txt": b"old"}

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Upload:
        return Upload(self, self._strip_protocol(path), mode, **kwargs)


@pytest.mark.parametrize("error", [None, OSError("connection lost"), KeyboardInterrupt()], ids=repr)
def test_an_upload_is_complete_or_discarded(error: BaseException | None) -> None:
    # Airflow caches the first store of a scheme.
    scheme = f"parts-{type(error).__name__.lower()}"
    kind = type("Store", (Store,), {"protocol": scheme})
    fsspec.register_implementation(scheme, kind, clobber=True)
    store = kind(error)
    attach(scheme, fs=store)
    if error is None:
        write_whole(f"{scheme}://bucket/ids.txt")
        assert len(store.kept["bucket/ids.txt"]) == 40 * 2**20
        return
    with pytest.raises((VectorizeInputError, KeyboardInterrupt)):
        write_whole(f"{scheme}://bucket/ids.txt")
    gc.collect()
    assert store.kept["bucket/ids.txt"] == b"old"


class Ending(MemoryFileSystem):
    """A store whose files exist as soon as they are opened and cannot be marked as closed."""

    protocol = "ending"
    cachable = False

    def _open(self, path: str, mode: str = "rb", **kwargs: Any) -> Any:
        file = super()._open(path, mode, **kwargs)
        with pytest.raises(AttributeError):
            file.closed = True

        def write(data: bytes) -> int:
            raise KeyboardInterrupt("ended")

        file.write = write
        return file


def test_an_interrupted_upload_raises_the_original_error() -> None:
    fsspec.register_implementation("ending", Ending, clobber=True)
    attach("ending", fs=Ending())
    with pytest.raises(KeyboardInterrupt, match="ended"):
        write_whole("ending://bucket/ids.txt")


def test_a_written_file_is_in_the_lineage(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, object_storage: str
) -> None:
    collector = lineage.HookLineageCollector()
    monkeypatch.setattr(asks_for_lineage, "get_hook_lineage_collector", lambda: collector)
    with write_file(f"{object_storage}/{tmp_path.name}/ids.txt", "path") as file:
        file.write(b"a")
    found = collector._outputs.values()
    assert [tmp_path.name in str(output) for output, _ in found] == [True]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("/tmp/x", "file:///tmp/x"),
        ("/tmp/x", "FILE:///tmp/../tmp/x"),
        pytest.param("/tmp/x", "local:///tmp/x", marks=pytest.mark.airflow(since="3.0")),
        pytest.param("/tmp/x", "LOCAL:///tmp/../tmp/x", marks=pytest.mark.airflow(since="3.0")),
        ("memory://bucket/x", "MEMORY://bucket/x"),
        ("nostore://bucket/x", "NoStore://bucket/x"),
    ],
)
def test_two_spellings_of_a_place_are_equal(object_storage: str, one: str, other: str) -> None:
    assert place_of(one, "path") == place_of(other, "path")


def test_different_places_are_not_equal(object_storage: str) -> None:
    attach("memory", "other", fs=fsspec.filesystem("memory"))
    paths = ["/tmp/x", "/tmp/X", "memory://bucket/x", "memory://bucket/X", "memory://other@bucket/x"]
    paths += ["nostore://b/x", "nostore://B/x"]
    assert len({place_of(path, "path") for path in paths}) == len(paths)
    with pytest.raises(VectorizeInputError, match="which hold no data files"):
        place_of("/proc/self/environ", "path")


def test_the_scheme_is_case_insensitive(object_storage: str, tmp_path: Path) -> None:
    with write_file(f"MEMORY://bucket/{tmp_path.name}", "path") as file:
        file.write(b"a")
    assert read(f"{object_storage}/{tmp_path.name}") == b"a"
