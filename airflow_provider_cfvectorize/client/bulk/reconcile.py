# SPDX-License-Identifier: Apache-2.0
"""Compares the ids of an index with the desired ids, on disk, and refuses suspicious deletes."""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Self

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.bulk.list import iter_ids, repeat_listing
from airflow_provider_cfvectorize.client.inputs.ids import (
    DIGEST_BYTES,
    SAMPLED_BATCHES,
    IdSource,
    digest_of,
    problem_with_id,
    spread,
)
from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.client.workers import Stopped, stoppable_sleep
from airflow_provider_cfvectorize.exceptions import VectorizeError, VectorizeInputError, VectorizeInterrupted

if TYPE_CHECKING:
    import sqlite3

    from airflow_provider_cfvectorize.client.client import VectorizeClient

_log = logging.getLogger(__name__)

#: The most memory of the database of ids, in KiB; the rest is on disk.
CACHE_KIB: Final = 16 * 1024
#: The most ids outside the prefix in an error.
SHOWN_OUTSIDE: Final = 5
#: The most pairs of lookalikes in an error.
SHOWN_LOOKALIKES: Final = 5

_NOTHING_DELETED: Final = "nothing was deleted"
#: Characters that tools leave at the ends of an id: white space, byte order marks, NULs.
_EDGES: Final = re.compile(r"^[\s\ufeff\0]+|[\s\ufeff\0]+$")


def check_prefix(prefix: object) -> None:
    """
    Check the prefix that limits a reconciliation to some ids.

    :param prefix: the common first characters of these ids; None for all ids of the index.
    :raises VectorizeInputError: no id can begin with it, or it is empty or a rendered None.
    """
    if prefix is None:
        return
    if not isinstance(prefix, str) or prefix in ("", "None", "null"):
        why = " (which Jinja renders for a missing value)" if isinstance(prefix, str) else ""
        raise VectorizeInputError(
            f"id_prefix is {show(prefix)}{why}, expected the first characters of the ids that may be "
            "deleted; for the whole index, omit id_prefix"
        )
    problem = problem_with_id(prefix)
    if problem is not None:
        raise VectorizeInputError(f"id_prefix {show(prefix)} {problem}, so no id can begin with it")


@dataclass(frozen=True)
class Lookalikes:
    """
    Surplus ids that look like missing ids, which are probably damaged copies of them.

    ``count`` is the number of these surplus ids, ``pairs`` has the first few, each with its missing id.
    """

    count: int = 0
    pairs: Sequence[tuple[str, str]] = ()


def form_of(id_: str) -> str:
    """Return an id in the form that it shares with its damaged copies: NFC, with clean ends."""
    return unicodedata.normalize("NFC", _EDGES.sub("", id_))


def refusal(
    *,
    desired: int,
    listed: int,
    surplus: int,
    lookalikes: Lookalikes,
    allow_empty: bool,
    max_delete_fraction: float,
    allow_lookalikes: bool,
) -> str | None:
    """
    Decide whether to refuse a delete. Return the reason and the remedy, or None if it is allowed.

    :param desired: number of desired ids.
    :param listed: number of listed ids in scope.
    :param surplus: number of listed ids that are not desired.
    :param allow_empty: allow an empty desired set, without checking the fraction.
    :param max_delete_fraction: the largest share of the listed ids that may be surplus, 0 to 1.
    :param allow_lookalikes: treat lookalikes as different ids.
    """
    if desired == 0:
        if allow_empty:
            return None
        return (
            f"there are no desired ids, so every id in scope would be deleted: {_NOTHING_DELETED}. Check "
            "what produced the ids; to delete every id in scope, set allow_empty=True"
        )
    if lookalikes.count and not allow_lookalikes:
        pairs = [f"{show(surplus)} and the desired {show(missing)}" for surplus, missing in lookalikes.pairs]
        more = "; ..." if lookalikes.count > len(pairs) else ""
        return (
            f"{lookalikes.count} of {surplus} ids that would be deleted look like missing ones: "
            f"{'; '.join(pairs)}{more}: {_NOTHING_DELETED}. They differ only in white space, byte order "
            "marks, NULs or Unicode normalization, or the last line of the file is truncated. Correct the "
            "desired ids; if they are different ids, set allow_lookalikes=True"
        )
    # Not surplus > fraction * listed: 29 of 100 is more than 0.29 * 100 in floating point.
    if surplus == 0 or surplus / listed <= max_delete_fraction:
        return None
    return (
        f"{surplus} of {listed} ids ({100 * surplus / listed:.3g} %) would be deleted, which is more than "
        f"max_delete_fraction={max_delete_fraction:g} allows: {_NOTHING_DELETED}. Check them with "
        "dry_run=True, which writes them to a file; to delete them, raise max_delete_fraction"
    )


class StoredIds:
    """
    The ids of a table, in the order of their UTF-8 bytes; an :class:`IdSource`.

    Use it only on the connection's thread, and only until the table changes.

    :param table: a table with one column ``id``, its primary key.
    """

    def __init__(self, connection: sqlite3.Connection, table: str) -> None:
        self._connection = connection
        self._table = table
        self._count = _count(connection, table)

    @property
    def count(self) -> int:
        """Return the number of ids."""
        return self._count

    @property
    def batches(self) -> int:
        """Return the number of batches."""
        return -(-self._count // limits.MAX_DELETE_IDS)

    def __iter__(self) -> Iterator[list[str]]:
        # One statement a batch: none stays open between batches or skips earlier rows.
        last = ""
        while batch := self._select("WHERE id > ? ORDER BY id LIMIT ?", last.encode(), limits.MAX_DELETE_IDS):
            last = batch[-1]
            yield batch

    def first(self, number: int) -> list[str]:
        """Return the first ids."""
        return self._select("ORDER BY id LIMIT ?", number)

    def samples(self) -> list[tuple[int, list[str]]]:
        """Return up to three batches spread over all of them, the last one first, each with its position."""
        size = limits.MAX_DELETE_IDS
        positions = reversed(spread(self.batches, SAMPLED_BATCHES))
        return [(n, self._select("ORDER BY id LIMIT ?, ?", n * size, size)) for n in positions]

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint of these ids in this order."""
        digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
        for batch in self:
            digest.update(digest_of(batch))
        return digest.hexdigest()

    def _select(self, clauses: str, *values: object) -> list[str]:
        with _explained():
            rows = self._connection.execute(f"SELECT id FROM {self._table} {clauses}", values)  # noqa: S608
            return [id_.decode() for (id_,) in rows]


class Comparison:
    """
    The desired and the listed ids of an index, in a temporary database on disk.

    They need not fit into memory. Use it as a context manager, on one thread: :meth:`add_desired`, then
    :meth:`add_listing` once or twice.

    :param id_prefix: compare only ids that begin with this; None for all.
    """

    def __init__(self, id_prefix: str | None = None) -> None:
        import sqlite3  # here, because few tasks need it

        self._prefix = id_prefix or ""
        self._has_listing = False
        self._last_line: bytes | None = None
        # The empty name means a private database on disk, which ends with the connection.
        self._db = sqlite3.connect("")
        self._db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        for table in ("desired", "listed", "surplus", "missing"):
            self._db.execute(f"CREATE TABLE {table} (id BLOB PRIMARY KEY) WITHOUT ROWID")
        self._db.execute("CREATE TABLE forms (form BLOB PRIMARY KEY, id BLOB) WITHOUT ROWID")
        self._db.execute("CREATE TABLE lookalikes (id BLOB PRIMARY KEY, missing BLOB) WITHOUT ROWID")
        self._db.create_function("form_of", 1, lambda id_: form_of(id_.decode()).encode(), deterministic=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *args: object) -> None:
        self._db.close()

    def add_desired(self, ids: IdSource, *, of_file: bool = False) -> None:
        """
        Add the desired ids.

        :param of_file: the ids are lines of a file, and the last line may be truncated. An error shows only
            their positions, because the file may be any file.
        """
        outside = 0
        examples: list[str] = []
        position = 0
        for batch in ids:
            for id_ in batch if self._prefix else ():
                if not id_.startswith(self._prefix):
                    outside += 1
                    if len(examples) < SHOWN_OUTSIDE:
                        examples.append(f"{'' if of_file else show(id_) + ' '}at position {position}")
                position += 1
            self._insert("desired", batch)
            if of_file:
                self._last_line = batch[-1].encode()
        if outside:
            raise VectorizeInputError(
                f"{outside} of {ids.count} desired ids do not begin with the id_prefix {show(self._prefix)}: "
                f"{', '.join(examples)}{', ...' if outside > len(examples) else ''} (counted from 0). They "
                f"can never be in scope, so {_NOTHING_DELETED}: pass only ids with this prefix"
            )

    def add_listing(self, listing: Iterable[str]) -> None:
        """
        Add a listing of the index. After several listings, the surplus is what was surplus in each.

        If a listing ends in an error, call this again with a new listing.
        """
        with _explained():
            self._db.execute("DELETE FROM listed")
        in_scope = (id_ for id_ in listing if id_.startswith(self._prefix))
        while some := list(itertools.islice(in_scope, limits.MAX_LIST_COUNT)):
            self._insert("listed", some)
        with _explained():
            if self._has_listing:
                self._db.execute(
                    "DELETE FROM surplus WHERE NOT EXISTS (SELECT 1 FROM listed WHERE listed.id = surplus.id)"
                )
            else:
                self._db.execute(
                    "INSERT INTO surplus SELECT id FROM listed "
                    "WHERE NOT EXISTS (SELECT 1 FROM desired WHERE desired.id = listed.id)"
                )
            self._db.execute("DELETE FROM missing")
            self._db.execute(
                "INSERT INTO missing SELECT id FROM desired "
                "WHERE NOT EXISTS (SELECT 1 FROM listed WHERE listed.id = desired.id)"
            )
            self._find_lookalikes()
        self._has_listing = True

    def _find_lookalikes(self) -> None:
        self._db.execute("DELETE FROM forms")
        self._db.execute("DELETE FROM lookalikes")
        if self.surplus.count == 0:
            return
        self._db.execute("INSERT OR IGNORE INTO forms SELECT form_of(id), id FROM missing")
        self._db.execute(
            "INSERT INTO lookalikes SELECT surplus.id, forms.id FROM surplus "
            "CROSS JOIN forms ON forms.form = form_of(surplus.id)"
        )
        if self._last_line is not None:
            self._db.execute(
                "INSERT OR IGNORE INTO lookalikes SELECT surplus.id, missing.id FROM surplus, missing "
                "WHERE missing.id = ?1 AND surplus.id > ?1 AND surplus.id < ?2",
                (self._last_line, self._last_line + b"\xff"),  # a byte that is in no UTF-8
            )

    @property
    def desired(self) -> int:
        """Return the number of distinct desired ids."""
        return _count(self._db, "desired")

    @property
    def listed(self) -> int:
        """Return the number of ids in scope in the last listing."""
        return _count(self._db, "listed")

    @property
    def lookalikes(self) -> Lookalikes:
        """Return the surplus ids that look like missing ids."""
        with _explained():
            rows = self._db.execute("SELECT id, missing FROM lookalikes LIMIT ?", (SHOWN_LOOKALIKES,))
            pairs = [(id_.decode(), missing.decode()) for id_, missing in rows]
        return Lookalikes(_count(self._db, "lookalikes"), pairs)

    @property
    def surplus(self) -> StoredIds:
        """Return the ids of every listing that are not desired."""
        return StoredIds(self._db, "surplus")

    @property
    def missing(self) -> StoredIds:
        """Return the desired ids that are not in the last listing."""
        return StoredIds(self._db, "missing")

    def _insert(self, table: str, ids: Iterable[str]) -> None:
        with _explained():
            self._db.executemany(
                f"INSERT OR IGNORE INTO {table} VALUES (?)",  # noqa: S608
                [(id_.encode(),) for id_ in ids],
            )


def list_into(
    comparison: Comparison,
    client: VectorizeClient,
    index_name: str,
    *,
    stopped: Callable[[], bool] = lambda: False,
    log: Any = _log,
) -> None:
    """
    List an index into a comparison, and restart if the listing expires.

    :param stopped: returns whether to stop; called on this thread, also during a request.
    :raises VectorizeListingExpired: the listing expired for the fourth time.
    """
    try:
        repeat_listing(
            lambda: comparison.add_listing(iter_ids(client, index_name, stopped=stopped, log=log)), log=log
        )
    except VectorizeInterrupted:
        client.session.stop()
        raise VectorizeInterrupted(
            f"interrupted during the listing of index {show(index_name)}: {_NOTHING_DELETED}"
        ) from None


def pause(seconds: float, stopped: Callable[[], bool]) -> None:
    """Wait between two listings."""
    try:
        stoppable_sleep(seconds, stopped)
    except Stopped:
        raise VectorizeInterrupted(f"interrupted between two listings: {_NOTHING_DELETED}") from None


def _count(connection: sqlite3.Connection, table: str) -> int:
    with _explained():
        ((count,),) = connection.execute(f"SELECT COUNT(*) FROM {table}")  # noqa: S608
    return int(count)


@contextmanager
def _explained() -> Iterator[None]:
    import sqlite3

    try:
        yield
    except sqlite3.OperationalError as e:
        raise VectorizeError(
            f"the temporary database of ids failed: {e}. It needs up to 250 bytes of the worker's "
            "disk for each id, in the directory of SQLITE_TMPDIR or TMPDIR, or in /var/tmp or /tmp"
        ) from e
