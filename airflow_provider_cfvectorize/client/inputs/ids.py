# SPDX-License-Identifier: Apache-2.0
"""
Reads lists of ids, also from the text of a list that Jinja rendered; checks ids and makes batches.

For ids in a file, see :mod:`airflow_provider_cfvectorize.client.inputs.ids_file`. Both are an
:class:`IdSource`.
"""

from __future__ import annotations

import hashlib
import math
import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from decimal import Decimal
from typing import Any, Final, Protocol
from uuid import UUID

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.inputs.rendered import read_rendered
from airflow_provider_cfvectorize.client.inputs.text import counted, show
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

#: The most bytes in the text of a list; a larger list belongs in a file (``ids_path``).
MAX_TEXT_BYTES: Final = 16 * 1024 * 1024
#: The most invalid ids that an error lists.
SHOWN_PROBLEMS: Final = 10
#: Bytes of the digest of a batch: 160 kB for a million ids.
DIGEST_BYTES: Final = 16
#: The most batches that are read for witnesses.
SAMPLED_BATCHES: Final = 3
#: From this number on, floats cannot represent every integer.
INEXACT: Final = 2**53

_ADVICE = (
    "Pass a list of strings, each of 1 to 64 bytes: an upstream task's .output, a template that gives a list "
    'such as ids="{{ params.ids }}", or ids_path for a file'
)


class IdSource(Protocol):
    """Checked ids in batches of at most 100; every iteration yields the same batches."""

    @property
    def count(self) -> int:
        """Return the number of ids."""

    @property
    def batches(self) -> int:
        """Return the number of batches."""

    def __iter__(self) -> Iterator[list[str]]:
        """Iterate over the batches, in order."""

    def samples(self) -> list[tuple[int, list[str]]]:
        """Return up to three batches, spread over all ids, each with its position, the last batch first."""

    @property
    def fingerprint(self) -> str:
        """Return a digest of the ids in their order."""


class IdList:
    """
    Ids in memory.

    :param ids: distinct ids.
    """

    def __init__(self, ids: list[str]) -> None:
        self._ids = ids

    @property
    def count(self) -> int:
        """Return the number of ids."""
        return len(self._ids)

    @property
    def batches(self) -> int:
        """Return the number of batches."""
        return -(-len(self._ids) // limits.MAX_DELETE_IDS)

    def __iter__(self) -> Iterator[list[str]]:
        for position in range(self.batches):
            yield self._batch(position)

    def samples(self) -> list[tuple[int, list[str]]]:
        """Return up to three batches, spread over all ids, each with its position, the last batch first."""
        positions = reversed(spread(self.batches, SAMPLED_BATCHES))
        return [(position, self._batch(position)) for position in positions]

    @property
    def fingerprint(self) -> str:
        """Return a digest of the ids in their order."""
        return hashlib.blake2b(b"".join(map(digest_of, self)), digest_size=DIGEST_BYTES).hexdigest()

    def _batch(self, position: int) -> list[str]:
        start = position * limits.MAX_DELETE_IDS
        return self._ids[start : start + limits.MAX_DELETE_IDS]


def in_reads(batches: Iterable[Sequence[str]]) -> Iterator[Sequence[str]]:
    """Cut batches to the size of a read, which is smaller than that of a delete."""
    for batch in batches:
        for start in range(0, len(batch), limits.MAX_GET_IDS):
            yield batch[start : start + limits.MAX_GET_IDS]


def digest_of(batch: Sequence[str]) -> bytes:
    """Return a short digest that identifies a batch."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    for id_ in batch:
        encoded = id_.encode()
        # The length keeps ["a", "bc"] and ["ab", "c"] apart.
        digest.update(len(encoded).to_bytes(1, "big") + encoded)
    return digest.digest()


def spread(total: int, wanted: int) -> list[int]:
    """Return up to ``wanted`` of ``total`` positions: the first, the last, and some between them."""
    if total <= wanted:
        return list(range(total))
    return [round(i * (total - 1) / (wanted - 1)) for i in range(wanted)]


def problem_with_text(value: str, most: float = math.inf) -> str | None:
    """Return why a text cannot be sent (invalid Unicode, too many bytes); None if it can."""
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return "has half of a surrogate pair, which is not valid Unicode"
    return f"has {size} bytes of UTF-8, expected at most {most}" if size > most else None


def problem_with_id(value: str) -> str | None:
    """Return what is wrong with an id; None if it is valid. White space is part of an id."""
    return problem_with_text(value, limits.MAX_ID_BYTES) if value else "is empty"


def text_of_key(value: Any) -> str | None:
    """
    Return the text of a key in the types of databases and data frames; None if it is not a key.

    :param value: a string, an integer (anything with ``__index__``, such as numpy's), a UUID, or a Decimal
        without a fraction that cannot have lost digits (:func:`may_be_rounded`). A boolean or a float is not
        a key: 1.0 and 1 would become the same id.
    """
    if isinstance(value, str):
        return value
    if isinstance(value, UUID):
        return str(value)
    if isinstance(value, Decimal):
        # Check the exponent first: Decimal("1E+999999") has a million digits.
        is_whole = value.is_finite() and value.adjusted() <= limits.MAX_ID_BYTES and value == int(value)
        return str(int(value)) if is_whole and not may_be_rounded(value) else None
    if isinstance(value, bool) or not hasattr(value, "__index__"):
        return None
    try:
        number = operator.index(value)
    except TypeError:
        return None
    # Python refuses to write integers of more than 4,300 digits.
    return str(number) if number.bit_length() < 8 * limits.MAX_ID_BYTES else None


def may_be_rounded(value: Decimal) -> bool:
    """
    Return whether a Decimal may have lost digits in an XCom.

    Airflow passes a Decimal through an XCom as an integer if its exponent is 0, and as a float if it is not:
    ``Decimal("9007199254740993.0")`` arrives as another number.
    """
    return value.is_finite() and value.as_tuple().exponent != 0 and abs(value) >= INEXACT


def read_id(value: object) -> str:
    """
    Return the id of a key.

    :param value: see :func:`text_of_key`.
    :raises ValueError: it is not a valid id; the text says why, such as "is empty".
    """
    text = text_of_key(value)
    if text is None and isinstance(value, int) and not isinstance(value, bool):
        raise ValueError("has too many digits")
    if text is None and isinstance(value, Decimal) and may_be_rounded(value):
        raise ValueError("may have been rounded by an XCom: cast the column to text in the query")
    if text is None:
        raise ValueError("is neither a string nor an integer, a UUID or a Decimal without a fraction")
    if problem := problem_with_id(text):
        raise ValueError(problem)
    return text


def read_ids(value: object, *, max_ids: int | None = None, origin: str | None = None) -> IdList:
    """
    Check ids and return them in their order, without duplicates.

    :param value: a list, a tuple, a lazy XCom sequence or any other sequence of keys (strings, integers,
        UUIDs, whole Decimals), or of rows of one column each, as a database returns them; an array or a
        Series of keys; or a string: the text of such a list, as Jinja renders it, or a single id.
    :param max_ids: the most ids to accept.
    :param origin: the source of the ids, for errors, such as ``the param "ids"``.
    :raises VectorizeInputError: the value is anything else; the error shows it and says how to pass ids.
    """
    if hasattr(value, "tolist") and not isinstance(value, str | memoryview):
        value = value.tolist()
    if isinstance(value, str):
        value = _read_text(value)
    if not isinstance(value, Sequence) or isinstance(value, bytes | bytearray | memoryview):
        hints: list[tuple[type | tuple[type, ...], str]] = [
            (type(None), "an upstream task that returned nothing, or was skipped, gives None"),
            ((set, frozenset, Set), "a set has no order: pass sorted(...) of it"),
            (Mapping, "a mapping: pass list(...) of its keys or values"),
            (bytes | bytearray, "decode bytes first"),  # type: ignore[list-item]
            (Iterator, "a generator can be read only once: pass list(...) of it"),
        ]
        hint = next((text for kind, text in hints if isinstance(value, kind)), "")
        raise VectorizeInputError(f"ids is {show(value)}{f' ({hint})' if hint else ''}. {_ADVICE}")
    checked: dict[str, None] = {}
    problems: list[str] = []
    bad = 0
    has_rows: bool | None = None
    source = f" They come from {origin}." if origin else ""
    for position, item in enumerate(value):
        is_row = isinstance(item, Sequence) and not isinstance(item, str | bytes | bytearray)
        if has_rows is None:
            has_rows = is_row
        elif has_rows is not is_row:
            raise VectorizeInputError(
                f"ids: rows and plain ids are mixed: ids[{position}] is {show(item)}, but those before it "
                f"are {'rows' if has_rows else 'ids'}.{source} {_ADVICE}"
            )
        if is_row and len(item) != 1:
            raise VectorizeInputError(
                f"ids[{position}] is a row of {counted(len(item), 'column')}, expected 1 column "
                f"(of {len(value)}, counted from ids[0]).{source} Query only the column of ids, or select "
                "it in each row: query.output.map(lambda row: row[0]). "
                "Flatten lists of ids, or map the task over them with .expand(ids=...)"
            )
        key = item[0] if is_row else item
        try:
            checked[read_id(key)] = None
        except ValueError as e:
            bad += 1
            if len(problems) < SHOWN_PROBLEMS:
                problems.append(f"ids[{position}]: {show(key)} {e}")
    if bad:
        more = f"; and {bad - len(problems)} more" if bad > len(problems) else ""
        # In a form, a line break after the last id adds an empty line.
        remedy = (
            f"They come from {origin}: correct them there, and leave no line empty" if origin else _ADVICE
        )
        raise VectorizeInputError(
            f"{'; '.join(problems)}{more} (of {len(value)}, counted from ids[0]). An id has 1 to "
            f"{limits.MAX_ID_BYTES} bytes of UTF-8. {remedy}"
        )
    check_max_ids(len(checked), max_ids)
    return IdList(list(checked))


def check_max_ids(count: int, max_ids: int | None) -> None:
    """
    Check the number of ids.

    :raises VectorizeInputError: there are more than ``max_ids``.
    """
    if max_ids is not None and count > max_ids:
        raise VectorizeInputError(
            f"there {'is' if count == 1 else 'are'} {counted(count, 'id')} and max_ids is {max_ids}: nothing "
            "was sent. Check what produced the ids, or raise max_ids"
        )


def _read_text(text: str) -> object:
    if text[:1] in ("[", "("):
        return _parse_list(text)
    refused = None
    if text.strip() in ("None", "null", ""):
        refused = "which Jinja renders for a missing value"
    elif "," in text:
        refused = "which has a comma, so it may be several ids"
    elif "\n" in text or "\r" in text:
        refused = "which has a line break, so it may be several ids"
    elif text != text.strip():
        refused = "which begins or ends with white space"
    if refused:
        raise VectorizeInputError(
            f"ids is the string {show(text)}, {refused}. {_ADVICE}. To pass a single id that "
            "looks like this, put it into a list"
        )
    return [text]


def _parse_list(text: str) -> object:
    # Characters first, because encoding the text takes as much memory again.
    if len(text) > MAX_TEXT_BYTES or len(text.encode(errors="surrogatepass")) > MAX_TEXT_BYTES:
        raise VectorizeInputError(
            f"ids: the text of the list is longer than {MAX_TEXT_BYTES // 2**20} MiB: write the ids into a "
            "file and pass ids_path"
        )
    try:
        parsed = read_rendered(text)
    except ValueError:
        parsed = None
    if not isinstance(parsed, list | tuple):
        raise VectorizeInputError(
            f"ids: the string {show(text)} begins like a list, but is neither valid JSON nor a Python "
            f"literal. {_ADVICE}"
        )
    return parsed


def sha256_of_sorted(batches: Iterable[Sequence[str]]) -> tuple[int, str]:
    """
    Return the number of distinct ids and their SHA-256.

    The digest covers the distinct ids in the order of their UTF-8 bytes, each followed by a line feed. For a
    file of ids, ``LC_ALL=C sort -u FILE | sha256sum`` prints the same digest.

    :param batches: the ids. A temporary database sorts them, so they need not fit into memory.
    """
    import sqlite3  # here, because every DAG processor imports this module and few tasks need it

    digest = hashlib.sha256()
    count = 0
    # An empty name makes a private database on disk that is deleted when the connection closes.
    connection = sqlite3.connect("")
    try:
        connection.execute("CREATE TABLE ids (id BLOB PRIMARY KEY) WITHOUT ROWID")
        for batch in batches:
            connection.executemany("INSERT OR IGNORE INTO ids VALUES (?)", [(id_.encode(),) for id_ in batch])
        for (id_,) in connection.execute("SELECT id FROM ids ORDER BY id"):
            digest.update(id_ + b"\n")
            count += 1
    finally:
        connection.close()
    return count, digest.hexdigest()
