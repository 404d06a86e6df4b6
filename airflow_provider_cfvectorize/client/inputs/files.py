# SPDX-License-Identifier: Apache-2.0
"""
Opens local files that a DAG names, and reads lines of any file.

A ``path`` may be a ``file://`` URL; ``name`` is the parameter that has it, for errors.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO, Final

from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.exceptions import VectorizeFileError, VectorizeInputError

#: Bytes read at a time.
CHUNK_BYTES: Final = 1024 * 1024
#: The longest line of NDJSON: 20 times a vector of 1,536 values and 10 KiB of metadata.
MAX_NDJSON_LINE_BYTES: Final = 1024 * 1024

#: Directories whose files show the state of a running system, including its secrets.
_SYSTEM_DIRECTORIES: Final = ("/proc", "/dev", "/sys")
_SCHEME = "[A-Za-z][A-Za-z0-9+.-]*://"


def path_text(value: object) -> object:
    """Return the text of a path object, local or in object storage; return anything else unchanged."""
    # A path in object storage may be PathLike, and its __fspath__ lacks the scheme.
    if hasattr(value, "protocol"):
        return str(value)
    return os.fsdecode(value) if isinstance(value, os.PathLike) else value


def has_scheme(path: str) -> bool:
    """Return whether a path is a URL of a store other than the local file system."""
    return bool(re.match(_SCHEME, path)) and not path.lower().startswith("file://")


def is_ndjson(path: str) -> bool:
    """Return whether the name of a file says that it has one JSON object a line."""
    return path.lower().endswith((".ndjson", ".jsonl"))


def local_path(path: str, name: str) -> str:
    """
    Return the real path of a local file.

    :raises VectorizeInputError: the path is invalid, or below ``/proc``, ``/dev`` or ``/sys``.
    """
    shown = show(path, 200)
    local = path
    if path.lower().startswith("file://"):
        # Not urlsplit: it would cut the path at a "?" or "#" and read another file.
        machine, slash, rest = path[len("file://") :].partition("/")
        if machine.lower() not in ("", "localhost") or not slash:
            raise VectorizeInputError(f"{name} {shown} names another machine, expected file:///path")
        local = urllib.parse.unquote(f"/{rest}")
    try:
        real = os.path.realpath(local)
    except ValueError:  # a NUL, or half of a surrogate pair
        raise VectorizeInputError(
            f"{name} {shown} is not a path: it has a NUL or half of a surrogate pair"
        ) from None
    if any(real == directory or real.startswith(f"{directory}/") for directory in _SYSTEM_DIRECTORIES):
        raise VectorizeInputError(
            f"{name} {shown} is below {', '.join(_SYSTEM_DIRECTORIES)}, which hold no data files"
        )
    return real


def open_local(path: str, name: str) -> BinaryIO:
    """
    Open a local file for reading.

    :raises VectorizeFileError: it cannot be read.
    :raises VectorizeInputError: it is not a regular file, or is below ``/proc``, ``/dev`` or ``/sys``.
    """
    real = local_path(path, name)
    shown = show(path, 200)
    try:
        # Before opening, because to open a named pipe would wait for a writer forever.
        if not stat.S_ISREG(os.stat(real).st_mode):
            raise VectorizeInputError(f"{name} {shown} is not a regular file")
        return open(real, "rb")
    except OSError as e:
        raise VectorizeFileError(
            f"{name} {shown} cannot be read: {e.strerror}. The file must exist on the worker that runs "
            "this task. With several workers, put it into object storage"
        ) from None


def lines_of(file: BinaryIO, longest: int, too_long: Callable[[int], str]) -> Iterator[bytes]:
    """
    Yield the lines of a file, without line ends and byte order mark. Lines end only at LF or CRLF.

    :param longest: the most bytes of a line; a few more may pass.
    :param too_long: returns the error text for a longer line from its number, which begins at 1.
    :raises VectorizeInputError: a line is longer.
    """
    rest = b""
    first = True
    number = 0
    while chunk := file.read(CHUNK_BYTES):
        if first:
            first = False
            # A short first read must not split the mark.
            while len(chunk) < 3 and (more := file.read(CHUNK_BYTES)):
                chunk += more
            chunk = chunk.removeprefix(b"\xef\xbb\xbf")
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
        number += len(lines)
        if len(rest) > longest:
            raise VectorizeInputError(too_long(number + 1))
    if rest:
        yield rest.removesuffix(b"\r")


@contextmanager
def new_file(path: str, name: str) -> Iterator[BinaryIO]:
    """
    Yield a local file to write bytes to. When the block ends, it replaces the file at the path.

    If the block raises an error, the file at the path stays unchanged.

    :raises VectorizeFileError: it cannot be written.
    :raises VectorizeInputError: there is something other than a regular file at the path, or it is below
        ``/proc``, ``/dev`` or ``/sys``.
    """
    real = local_path(path, name)
    with _written(path, name):
        replaced = _replaced(real, path, name)
        # In the same directory, because a replacement is atomic only within one file system. With a name of
        # its own, because the final name may already have the maximum length.
        temporary = os.path.join(os.path.dirname(real), f".cfvectorize-{secrets.token_hex(8)}.part")
        # The new file must never be more readable than the one that it replaces.
        mode = 0o666 if replaced is None else 0o600
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    try:
        with open(handle, "wb") as file:
            with no_room_explained(path, name):
                yield file
                file.flush()
            if replaced is not None:
                with _written(path, name):
                    _give_access(file.fileno(), replaced)
        with _written(path, name):
            os.replace(temporary, real)
    except BaseException:
        # The first error matters, not a failure to remove the file.
        with suppress(OSError):
            os.unlink(temporary)
        raise


def _replaced(real: str, path: str, name: str) -> os.stat_result | None:
    """Return the status of the file that will be replaced; None if there is none."""
    try:
        status = os.stat(real)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise VectorizeInputError(f"{name} {show(path, 200)} is a directory: name a file in it")
    if not stat.S_ISREG(status.st_mode):
        raise VectorizeInputError(f"{name} {show(path, 200)} is not a regular file, so it was not replaced")
    return status


def _give_access(handle: int, replaced: os.stat_result) -> None:
    """Give a file the group and permissions of the file that it replaces, and its owner if possible."""
    for owner in (replaced.st_uid, -1):
        with suppress(OSError):
            os.fchown(handle, owner, replaced.st_gid)
            break
    ours = os.fstat(handle)
    mode = replaced.st_mode & 0o777
    if ours.st_gid != replaced.st_gid:
        # Another group must not get the permissions.
        mode &= ~stat.S_IRWXG
    if stat.S_IMODE(ours.st_mode) != mode:
        os.fchmod(handle, mode)


@contextmanager
def no_room_explained(path: str, name: str) -> Iterator[None]:
    """Name the file in the error of a full disk; leave other errors of the block unchanged."""
    with _written(path, name, errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        yield


@contextmanager
def _written(path: str, name: str, *explained: int) -> Iterator[None]:
    """Name the file in an error of writing it: in any error, or only in errors with these numbers."""
    try:
        yield
    except OSError as e:
        if explained and e.errno not in explained:
            raise
        raise VectorizeFileError(
            f"{name} {show(path, 200)} cannot be written: {e.strerror}. An existing file is unchanged"
        ) from None
