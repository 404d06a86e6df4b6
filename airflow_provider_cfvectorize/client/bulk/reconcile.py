# SPDX-License-Identifier: Apache-2.0
"""What an index holds beside what it should hold: listing, comparing on disk, and when not to delete."""

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
from airflow_provider_cfvectorize.client.workers import Stopped, rest
from airflow_provider_cfvectorize.exceptions import VectorizeError, VectorizeInputError, VectorizeInterrupted

if TYPE_CHECKING:
    import sqlite3

    from airflow_provider_cfvectorize.client.client import VectorizeClient

_log = logging.getLogger(__name__)

#: Memory that the database of ids takes at most, in KiB; what is more goes to disk.
CACHE_KIB: Final = 16 * 1024
#: How many ids outside of the prefix an error shows.
SHOWN_OUTSIDE: Final = 5
#: How many pairs of ids that look alike an error shows.
SHOWN_LOOKALIKES: Final = 5

_NOTHING_DELETED: Final = "nothing was deleted"
#: What tools leave at either end of an id: white space, a byte order mark, NULs.
_EDGES: Final = re.compile(r"^[\s\ufeff\0]+|[\s\ufeff\0]+$")


def check_prefix(prefix: object) -> None:
    """
    Check what limits a reconciliation to some ids.

    :param prefix: the beginning that their ids have in common; None for all ids of the index.
    :raises VectorizeInputError: no id can begin so, or all do.
    """
    if prefix is None:
        return
    if not isinstance(prefix, str) or prefix in ("", "None", "null"):
        why = " (which is what Jinja makes of nothing)" if isinstance(prefix, str) else ""
        raise VectorizeInputError(
            f"id_prefix is {show(prefix)}{why}, expected the first characters of the ids that may be "
            "deleted; for the whole index, leave id_prefix out"
        )
    problem = problem_with_id(prefix)
    if problem is not None:
        raise VectorizeInputError(f"id_prefix {show(prefix)} {problem}, so no id can begin with it")


@dataclass(frozen=True)
class Lookalikes:
    """
    Surplus ids that look like missing ones, so that a missing id is probably a damaged copy.

    ``count`` is the number of surplus ids, ``pairs`` has the first few, each with its missing id.
    """

    count: int = 0
    pairs: Sequence[tuple[str, str]] = ()


def form_of(id_: str) -> str:
    """Return what an id has in common with damaged copies of it: NFC, without what tools add at the ends."""
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
    Decide whether so much must not be deleted, and say why and how to go on; None if it may be.

    :param desired: number of ids that the index is to hold.
    :param listed: number of ids that it holds, of those in scope.
    :param surplus: number of those that are not desired.
    :param allow_empty: an empty desired set is meant, and the fraction says nothing then.
    :param max_delete_fraction: the most of the listed ids that may be surplus, 0 to 1.
    :param allow_lookalikes: ids that look alike are different ids.
    """
    if desired == 0:
        if allow_empty:
            return None
        return (
            f"there are no desired ids, so every id in scope would be deleted: {_NOTHING_DELETED}. Check "
            "what produced the ids; if nothing is to be left, set allow_empty=True"
        )
    if lookalikes.count and not allow_lookalikes:
        pairs = [f"{show(surplus)} and the desired {show(missing)}" for surplus, missing in lookalikes.pairs]
        more = "; ..." if lookalikes.count > len(pairs) else ""
        return (
            f"{lookalikes.count} of {surplus} ids that would be deleted look like missing ones: "
            f"{'; '.join(pairs)}{more}: {_NOTHING_DELETED}. They differ in white space, byte order marks, "
            "NULs or Unicode normalization only, or the last line of the file is cut short. Correct the "
            "desired ids; if they are different ids, set allow_lookalikes=True"
        )
    # Not surplus > fraction * listed: 29 of 100 is more than 0.29 * 100 in floating point.
    if surplus == 0 or surplus / listed <= max_delete_fraction:
        return None
    return (
        f"{surplus} of {listed} ids ({100 * surplus / listed:.3g} %) would be deleted, which is more than "
        f"max_delete_fraction={max_delete_fraction:g} allows: {_NOTHING_DELETED}. Look at them with "
        "dry_run=True, which writes them to a file; if they are to go, raise max_delete_fraction"
    )


class StoredIds:
    """
    Ids of a table, in the order of their UTF-8 bytes; an :class:`IdSource`.

    Only for the thread that made the connection, and until the table changes.

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
        # No statement stays open between two batches, and none has to skip those before.
        last = ""
        while batch := self._select("WHERE id > ? ORDER BY id LIMIT ?", last.encode(), limits.MAX_DELETE_IDS):
            last = batch[-1]
            yield batch

    def first(self, number: int) -> list[str]:
        """Return the first ids."""
        return self._select("ORDER BY id LIMIT ?", number)

    def samples(self) -> list[tuple[int, list[str]]]:
        """Return up to three batches, spread over the whole, the last one first, each with its position."""
        size = limits.MAX_DELETE_IDS
        positions = reversed(spread(self.batches, SAMPLED_BATCHES))
        return [(n, self._select("ORDER BY id LIMIT ?, ?", n * size, size)) for n in positions]

    @property
    def fingerprint(self) -> str:
        """Return what tells these ids, in this order, from others."""
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
    The ids that an index is to hold, and those that it holds, in a temporary database on disk.

    Neither has to fit into memory. Use it as a context manager, on one thread: :meth:`want` what is to be
    there, then :meth:`see` a listing, or two.

    :param id_prefix: only ids that begin so are compared; None for all.
    """

    def __init__(self, id_prefix: str | None = None) -> None:
        import sqlite3  # here, because few tasks need it

        self._prefix = id_prefix or ""
        self._seen = False
        self._last_line: bytes | None = None
        # The empty name is a private database on disk that vanishes with the connection.
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

    def want(self, ids: IdSource, *, of_file: bool = False) -> None:
        """
        Take up what the index is to hold.

        :param of_file: they are the lines of a file, whose last may be cut short. As it may be any file, an
            error shows none of them, but positions among the ids.
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
                f"can never be in scope, so {_NOTHING_DELETED}: pass the ids of one prefix, with that prefix"
            )

    def see(self, listing: Iterable[str]) -> None:
        """
        Take up what the index holds; what is surplus after several listings was so in each.

        May be called again with a listing from the start when one has ended in an error.
        """
        with _explained():
            self._db.execute("DELETE FROM listed")
        in_scope = (id_ for id_ in listing if id_.startswith(self._prefix))
        while some := list(itertools.islice(in_scope, limits.MAX_LIST_COUNT)):
            self._insert("listed", some)
        with _explained():
            if self._seen:
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
            self._look_for_lookalikes()
        self._seen = True

    def _look_for_lookalikes(self) -> None:
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
        """Return the number of distinct ids that the index is to hold."""
        return _count(self._db, "desired")

    @property
    def listed(self) -> int:
        """Return the number of ids in scope of the last listing."""
        return _count(self._db, "listed")

    @property
    def lookalikes(self) -> Lookalikes:
        """Return what of the surplus looks like missing ids."""
        with _explained():
            rows = self._db.execute("SELECT id, missing FROM lookalikes LIMIT ?", (SHOWN_LOOKALIKES,))
            pairs = [(id_.decode(), missing.decode()) for id_, missing in rows]
        return Lookalikes(_count(self._db, "lookalikes"), pairs)

    @property
    def surplus(self) -> StoredIds:
        """Return the ids that were listed, each time, and are not desired."""
        return StoredIds(self._db, "surplus")

    @property
    def missing(self) -> StoredIds:
        """Return the ids that are desired and were not listed the last time."""
        return StoredIds(self._db, "missing")

    def _insert(self, table: str, ids: Iterable[str]) -> None:
        with _explained():
            self._db.executemany(
                f"INSERT OR IGNORE INTO {table} VALUES (?)",  # noqa: S608
                [(id_.encode(),) for id_ in ids],
            )


def see_index(
    comparison: Comparison,
    client: VectorizeClient,
    index_name: str,
    *,
    stopped: Callable[[], bool] = lambda: False,
    log: Any = _log,
) -> None:
    """
    List an index into a comparison, from the start again if the listing expires.

    :param stopped: says whether to stop; asked on this thread, while a page is waited for as well.
    :raises VectorizeListingExpired: the listing expired for the fourth time.
    """
    try:
        repeat_listing(
            lambda: comparison.see(iter_ids(client, index_name, stopped=stopped, log=log)), log=log
        )
    except VectorizeInterrupted:
        client.session.stop()
        raise VectorizeInterrupted(
            f"interrupted during the listing of index {show(index_name)}: {_NOTHING_DELETED}"
        ) from None


def pause(seconds: float, stopped: Callable[[], bool]) -> None:
    """Wait between two listings."""
    try:
        rest(seconds, stopped)
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
            f"the temporary database of ids failed: {e}. It takes up to 250 bytes an id of the index, on the "
            "worker's disk, in the directory that SQLITE_TMPDIR or TMPDIR names, else in /var/tmp or /tmp"
        ) from e
