# SPDX-License-Identifier: Apache-2.0
"""Reads and writes files of ids without holding all ids in memory; reads once to check and once to send."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO, Final

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.inputs.files import (
    MAX_NDJSON_LINE_BYTES,
    has_scheme,
    is_ndjson,
    lines_of,
    open_local,
)
from airflow_provider_cfvectorize.client.inputs.ids import (
    DIGEST_BYTES,
    SAMPLED_BATCHES,
    SHOWN_PROBLEMS,
    check_max_ids,
    digest_of,
    problem_with_id,
    read_id,
    spread,
)
from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.exceptions import VectorizeFileError, VectorizeInputError

#: The longest line that is read: enough for an id, and for errors to state the length of a longer line.
MAX_LINE_BYTES: Final = 64 * 1024
#: Batches that remain candidates for samples while the number of batches is unknown.
_KEPT_SAMPLES: Final = 16


class IdsFile:
    """
    The ids of a file.

    A line is an id or, if the name ends in ``.ndjson`` or ``.jsonl``, a JSON object with an ``id``, as in a
    file of vectors. The encoding is strict UTF-8, and a byte order mark is dropped. Lines end only at LF or
    CRLF. Empty lines are skipped and counted. Duplicates are dropped only within a batch.

    The constructor reads the file once and checks every line. Each iteration reads it again, compares every
    batch with the checked one, and yields only equal batches.

    :param path: a local path, a ``file://`` URL, or a URL for ``open_remote``.
    :param open_remote: opens any other file for reading bytes; gets the path, and the parameter's name for
        errors.
    :param max_ids: the most ids to accept.
    :raises VectorizeFileError: the file cannot be read, or changed during reading.
    :raises VectorizeInputError: a line is not a valid id; the error has its number.
    """

    def __init__(
        self,
        path: str,
        *,
        open_remote: Callable[[str, str], BinaryIO] | None = None,
        max_ids: int | None = None,
    ) -> None:
        self.path = path
        self._open_remote = open_remote
        self._ndjson = is_ndjson(path)
        self._digests = bytearray()
        self._samples: list[tuple[int, list[str]]] = []
        self._count = 0
        self.empty_lines = 0
        self._check()
        check_max_ids(self._count, max_ids)

    @property
    def count(self) -> int:
        """Return the number of ids."""
        return self._count

    @property
    def batches(self) -> int:
        """Return the number of batches."""
        return len(self._digests) // DIGEST_BYTES

    def samples(self) -> list[tuple[int, list[str]]]:
        """Return up to three batches, spread over all ids, each with its position, the last batch first."""
        return [self._samples[i] for i in reversed(spread(len(self._samples), SAMPLED_BATCHES))]

    @property
    def fingerprint(self) -> str:
        """Return a digest of the ids in their order."""
        return hashlib.blake2b(self._digests, digest_size=DIGEST_BYTES).hexdigest()

    def __iter__(self) -> Iterator[list[str]]:
        position = -1
        for position, batch in enumerate(_batched(self._ids())):
            start = position * DIGEST_BYTES
            if digest_of(batch) != self._digests[start : start + DIGEST_BYTES]:
                raise self._changed()
            yield batch
        if position + 1 != self.batches:
            raise self._changed()

    def _check(self) -> None:
        step = 1
        last: list[tuple[int, list[str]]] = []
        for position, batch in enumerate(_batched(self._ids())):
            last = [(position, batch)]
            self._digests += digest_of(batch)
            self._count += len(batch)
            if position % step == 0:
                if len(self._samples) == _KEPT_SAMPLES:
                    # Keep every second sample, and from now on every second batch.
                    self._samples = self._samples[::2]
                    step *= 2
                if position % step == 0:
                    self._samples.append((position, batch))
        if last and self._samples[-1] != last[0]:
            self._samples += last

    def _changed(self) -> VectorizeFileError:
        return VectorizeFileError(
            f"ids_path {show(self.path, 200)} changed while the task was reading it: write each list of ids "
            "to a new file, and start the task when the file is complete"
        )

    def _ids(self) -> Iterator[str]:
        problems: list[str] = []
        self.empty_lines = 0
        for number, line in enumerate(self._lines(), 1):
            if not line:
                self.empty_lines += 1
                continue
            id_, problem = self._read_line(line)
            if id_ is not None and problem is None:
                yield id_
                continue
            problems.append(f"line {number} ({len(line)} bytes) {problem}")
            if len(problems) == SHOWN_PROBLEMS:
                break
        if problems:
            kind = ", as the id of a JSON object" if self._ndjson else ""
            raise VectorizeInputError(
                f"ids_path {show(self.path, 200)}: {'; '.join(problems)} (counted from line 1). Expected one "
                f"id of 1 to 64 bytes a line{kind}, in UTF-8: correct the file, or what writes it"
            )

    def _read_line(self, line: bytes) -> tuple[str | None, str | None]:
        try:
            text = line.decode()
        except UnicodeDecodeError as e:
            return None, f"is not UTF-8 at byte {e.start}"
        if not self._ndjson:
            return text, problem_with_id(text)
        try:
            parsed = json.loads(text)
        except (ValueError, RecursionError):
            return None, "is not JSON"
        if not isinstance(parsed, dict) or "id" not in parsed:
            return None, "is not a JSON object with an id"
        id_ = parsed["id"]
        if isinstance(id_, bool) or not isinstance(id_, str | int):
            return None, f"has {show(id_) if id_ is None else f'a {type(id_).__name__}'} as its id"
        try:
            return read_id(id_), None
        except ValueError as e:
            return None, f"has an id that {e}"

    def _lines(self) -> Iterator[bytes]:
        longest = MAX_NDJSON_LINE_BYTES if self._ndjson else MAX_LINE_BYTES
        with self._open() as file:
            yield from lines_of(
                file,
                longest,
                lambda line: (
                    f"ids_path {show(self.path, 200)} has a line of more than {longest} bytes, line {line}: "
                    "expected one id a line, lines ended by LF or CRLF"
                ),
            )

    def _open(self) -> BinaryIO:
        if not has_scheme(self.path):
            return open_local(self.path, "ids_path")
        if self._open_remote is None:
            raise VectorizeInputError(
                f"ids_path {show(self.path, 200)} is not a local path: this call reads only local files"
            )
        return self._open_remote(self.path, "ids_path")


def line_of_id(id_: str, *, ndjson: bool, is_first: bool) -> bytes:
    """
    Return a line from which :class:`IdsFile` reads the id.

    :param ndjson: write a JSON object instead of a plain id.
    :param is_first: it is the first line of the file.
    :raises VectorizeInputError: :class:`IdsFile`, or another reader of lines, would read another id.
    """
    if ndjson:
        return json.dumps({"id": id_}, ensure_ascii=False).encode() + b"\n"
    problem = None
    if not id_:
        problem = "is empty"
    elif "\n" in id_ or "\r" in id_:
        problem = "has a line break"
    elif is_first and id_.startswith("\ufeff"):
        problem = "is the first in the file and begins with a byte order mark"
    if problem:
        raise VectorizeInputError(
            f"the id {show(id_)} {problem}, so a file of one id a line cannot hold it: give the file a name "
            "that ends in .ndjson, for one JSON object a line"
        )
    return id_.encode() + b"\n"


def write_ids(file: BinaryIO, batches: Iterable[Sequence[str]], *, ndjson: bool) -> None:
    """
    Write ids so that :class:`IdsFile` reads the same ids.

    :param ndjson: write one JSON object a line, which can hold any id, instead of plain ids.
    :raises VectorizeInputError: a plain line cannot hold an id.
    """
    is_first = True
    for batch in batches:
        for id_ in batch:
            file.write(line_of_id(id_, ndjson=ndjson, is_first=is_first))
            is_first = False


def _batched(ids: Iterator[str]) -> Iterator[list[str]]:
    batch: dict[str, None] = {}
    for id_ in ids:
        batch[id_] = None
        if len(batch) == limits.MAX_DELETE_IDS:
            yield list(batch)
            batch = {}
    if batch:
        yield list(batch)
