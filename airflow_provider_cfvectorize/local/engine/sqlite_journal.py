# SPDX-License-Identifier: Apache-2.0
"""
The journal in the SQLite file given as ``--data``.

Every acknowledged mutation is committed before its response, so that it survives ``kill -9``. Commits are not
flushed to the disk one by one (``synchronous=NORMAL``). A crash of the whole machine may lose the last
commits but does not damage the file.
"""

from __future__ import annotations

import json
import sqlite3
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_cfvectorize.local.engine.journal import Journal, Restored
from airflow_provider_cfvectorize.local.engine.model import (
    Batch,
    IndexConfig,
    MetadataIndex,
    Mutation,
    Vector,
    Watermark,
)
from airflow_provider_cfvectorize.local.errors import DataFileError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

#: Marks the file as ours ("CFVL"), see https://www.sqlite.org/pragma.html#pragma_application_id
APPLICATION_ID: Final = 0x4346564C
#: The version of the tables; it increases with each change.
LAYOUT: Final = 2
#: Seconds to wait for another process, such as one that was just killed, to release the file.
_LOCK_TIMEOUT: Final = 1.0
#: Causes of SQLite's errors, and what to do about them, see https://www.sqlite.org/rescode.html
_CAUSES: Final = {
    sqlite3.SQLITE_FULL: "the disk is full: free some space",
    sqlite3.SQLITE_IOERR: "an I/O error: check that the disk works and has free space",
    sqlite3.SQLITE_READONLY: "it is read-only: allow writing to the file and its directory",
    sqlite3.SQLITE_CANTOPEN: "check the permissions of the file and its directory",
    sqlite3.SQLITE_BUSY: "it is locked: end the other process that uses it",
}

_TABLES: Final = (
    # A deleted index keeps its row, because the service responds differently to a deleted name.
    """CREATE TABLE indexes (
        key INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, deleted INTEGER NOT NULL DEFAULT 0,
        description TEXT NOT NULL, dimensions INTEGER NOT NULL, metric TEXT NOT NULL, preset TEXT,
        created_on REAL NOT NULL, watermark TEXT, watermark_at REAL)""",
    "CREATE UNIQUE INDEX indexes_name ON indexes (name)",
    # visible_at is NULL while a mutation is pending.
    """CREATE TABLE mutations (
        index_key INTEGER NOT NULL, sequence INTEGER NOT NULL, id TEXT NOT NULL, kind TEXT NOT NULL,
        accepted_at REAL NOT NULL, visible_at REAL, ids TEXT NOT NULL, property TEXT NOT NULL,
        index_type TEXT NOT NULL, PRIMARY KEY (index_key, sequence)) WITHOUT ROWID""",
    """CREATE TABLE mutation_vectors (
        index_key INTEGER NOT NULL, sequence INTEGER NOT NULL, position INTEGER NOT NULL, id TEXT NOT NULL,
        "values" BLOB NOT NULL, namespace TEXT, metadata TEXT,
        PRIMARY KEY (index_key, sequence, position)) WITHOUT ROWID""",
    """CREATE TABLE vectors (
        index_key INTEGER NOT NULL, id TEXT NOT NULL, "values" BLOB NOT NULL, namespace TEXT, metadata TEXT,
        sequence INTEGER NOT NULL, PRIMARY KEY (index_key, id))""",
    """CREATE TABLE metadata_indexes (
        index_key INTEGER NOT NULL, property TEXT NOT NULL, type TEXT NOT NULL, sequence INTEGER NOT NULL,
        PRIMARY KEY (index_key, property)) WITHOUT ROWID""",
)
#: How an insert and an upsert treat an existing vector. The upsert updates the row: a replaced row would have
#: a new rowid, and the rowids are the order in which ids are listed.
_ON_CONFLICT: Final = {
    "insert": "NOTHING",
    "upsert": 'UPDATE SET "values" = excluded."values", namespace = excluded.namespace, '
    "metadata = excluded.metadata, sequence = excluded.sequence",
}


def _explain(error: sqlite3.Error) -> str:
    # The low byte is the error code, the higher bytes are details. Errors that Python raises itself have no
    # code.
    cause = _CAUSES.get(getattr(error, "sqlite_errorcode", 0) & 0xFF)
    return str(error) if cause is None else f"{cause} (SQLite: {error})"


class SqliteJournal(Journal):
    """
    A journal in a SQLite file; see :class:`Journal` for its methods.

    A write that fails is rolled back and raises a ``DataFileError``. Earlier writes stay.

    :param path: The file. It is created if it does not exist.
    :raises DataFileError: The file cannot be used.
    """

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self._path = Path(path)
        if self._path.is_dir():
            raise DataFileError(f"{self._path} is a directory")
        if not self._path.parent.is_dir():
            raise DataFileError(f"directory {self._path.parent} does not exist")
        try:
            # The thread that opens the file is not the server's thread, which uses it.
            self._db = sqlite3.connect(
                self._path, timeout=_LOCK_TIMEOUT, isolation_level=None, check_same_thread=False
            )
        except sqlite3.Error as e:
            raise DataFileError(f"{self._path} cannot be opened: {_explain(e)}") from e
        try:
            self._prepare()
        except BaseException:
            self._db.close()
            raise

    def _prepare(self) -> None:
        try:
            # Files of other applications are recognised before anything is written to them.
            application_id = self._pragma("application_id")
            layout = self._pragma("user_version")
            tables = self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]
            if application_id != APPLICATION_ID and (application_id or layout or tables):
                raise DataFileError(f"{self._path} is a database of another application")
            if layout > LAYOUT:
                raise DataFileError(
                    f"{self._path} was written by a newer vectorize-local "
                    f"(layout {layout}; this version reads {LAYOUT})"
                )
            if layout < LAYOUT and (layout or tables):
                raise DataFileError(
                    f"{self._path} was written by an older vectorize-local (layout {layout}; this version "
                    f"reads {LAYOUT}) and cannot be converted: remove it or name another file"
                )
            # The lock is held until the file is closed, so that no other process can use the file.
            self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
            self._db.execute("PRAGMA journal_mode=WAL")
            self._db.execute("PRAGMA synchronous=NORMAL")
            with self._transaction():
                if not tables:
                    self._db.execute(f"PRAGMA application_id={APPLICATION_ID}")
                    self._db.execute(f"PRAGMA user_version={LAYOUT}")
                    for table in _TABLES:
                        self._db.execute(table)
        except sqlite3.OperationalError as e:
            if "locked" in str(e):
                raise DataFileError(f"{self._path} is in use by another vectorize-local") from e
            raise DataFileError(f"{self._path} cannot be used: {_explain(e)}") from e
        except sqlite3.DatabaseError as e:
            raise DataFileError(f"{self._path} is not a file of vectorize-local: {e}") from e

    def _pragma(self, name: str) -> int:
        value: int = self._db.execute(f"PRAGMA {name}").fetchone()[0]
        return value

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as e:
            raise DataFileError(f"{self._path} cannot be written: {_explain(e)}") from e

    # --- reading ---------------------------------------------------------------------------------------

    def load(self) -> tuple[Sequence[Restored], set[str]]:
        """
        Return the existing indexes, and the names of deleted indexes.

        :raises DataFileError: The file is damaged.
        """
        try:
            return self._load()
        except sqlite3.DatabaseError as e:
            raise DataFileError(f"{self._path} is damaged: {e}") from e

    def _load(self) -> tuple[Sequence[Restored], set[str]]:
        deleted = {row[0] for row in self._db.execute("SELECT name FROM indexes WHERE deleted")}
        found = []
        rows = self._db.execute(
            "SELECT key, watermark, watermark_at, name, description, dimensions, metric, preset, created_on "
            "FROM indexes WHERE NOT deleted ORDER BY key"
        ).fetchall()
        for key, watermark, watermark_at, *config in rows:
            vectors = {
                row[0]: Vector(*row)
                for row in self._db.execute(
                    'SELECT id, "values", namespace, metadata, sequence FROM vectors '
                    "WHERE index_key = ? ORDER BY rowid",
                    (key,),
                )
            }
            metadata_indexes = {
                row[0]: MetadataIndex(*row)
                for row in self._db.execute(
                    "SELECT property, type, sequence FROM metadata_indexes "
                    "WHERE index_key = ? ORDER BY sequence",
                    (key,),
                )
            }
            unseen, pending = self._load_log(key)
            found.append(
                Restored(
                    key=key,
                    config=IndexConfig(*config),
                    watermark=None if watermark is None else Watermark(watermark, watermark_at),
                    vectors=vectors,
                    metadata_indexes=metadata_indexes,
                    unseen=unseen,
                    pending=pending,
                )
            )
        return found, deleted

    def _load_log(self, key: int) -> tuple[list[Batch], list[Mutation]]:
        vectors: defaultdict[int, list[Vector]] = defaultdict(list)
        for row in self._db.execute(
            'SELECT id, "values", namespace, metadata, sequence FROM mutation_vectors '
            "WHERE index_key = ? ORDER BY sequence, position",
            (key,),
        ):
            vector = Vector(*row)
            vectors[vector.sequence].append(vector)
        unseen: list[Batch] = []
        pending: list[Mutation] = []
        for sequence, mutation_id, kind, accepted_at, visible_at, ids, *index in self._db.execute(
            "SELECT sequence, id, kind, accepted_at, visible_at, ids, property, index_type FROM mutations "
            "WHERE index_key = ? ORDER BY sequence",
            (key,),
        ):
            mutation = Mutation(
                sequence,
                mutation_id,
                kind,
                accepted_at,
                tuple(vectors[sequence]),
                tuple(json.loads(ids)),
                *index,
            )
            if visible_at is None:
                pending.append(mutation)
            elif unseen and unseen[-1].visible_at == visible_at:
                unseen[-1].mutations.append(mutation)
            else:
                unseen.append(Batch(visible_at, [mutation]))
        return unseen, pending

    # --- writing ---------------------------------------------------------------------------------------

    def create_index(self, config: IndexConfig) -> int:
        """Store a new index and return its key."""
        with self._transaction():
            self._db.execute("DELETE FROM indexes WHERE name = ?", (config.name,))
            cursor = self._db.execute(
                "INSERT INTO indexes (name, description, dimensions, metric, preset, created_on) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                astuple(config),
            )
        key: Any = cursor.lastrowid
        return int(key)

    def delete_index(self, key: int) -> None:
        """Delete an index with its contents, and store its name as deleted."""
        with self._transaction():
            for table in ("metadata_indexes", "vectors", "mutation_vectors", "mutations"):
                self._db.execute(f"DELETE FROM {table} WHERE index_key = ?", (key,))  # noqa: S608
            self._db.execute("UPDATE indexes SET deleted = 1 WHERE key = ?", (key,))

    def append(self, key: int, mutation: Mutation) -> None:
        """Store an accepted mutation."""
        with self._transaction():
            self._db.execute(
                "INSERT INTO mutations "
                "(index_key, sequence, id, kind, accepted_at, ids, property, index_type) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    key,
                    mutation.sequence,
                    mutation.id,
                    mutation.kind,
                    mutation.accepted_at,
                    json.dumps(mutation.ids),
                    mutation.property,
                    mutation.index_type,
                ),
            )
            if mutation.vectors:
                self._db.executemany(
                    "INSERT INTO mutation_vectors VALUES (?, ?, ?, ?, ?, ?, ?)",
                    (
                        (key, mutation.sequence, place, *vector[:4])
                        for place, vector in enumerate(mutation.vectors)
                    ),
                )

    def publish(self, key: int, last_sequence: int, watermark: Watermark, visible_at: float) -> None:
        """Store that a job has published all pending mutations up to a sequence number."""
        with self._transaction():
            self._db.execute(
                "UPDATE mutations SET visible_at = ? "
                "WHERE index_key = ? AND sequence <= ? AND visible_at IS NULL",
                (visible_at, key, last_sequence),
            )
            self._db.execute(
                "UPDATE indexes SET watermark = ?, watermark_at = ? WHERE key = ?", (*watermark, key)
            )

    def apply(self, key: int, mutations: Sequence[Mutation]) -> None:
        """Apply published mutations to the stored vectors and metadata indexes; drop them from the log."""
        with self._transaction():
            for mutation in mutations:
                if mutation.kind == "delete":
                    self._db.executemany(
                        "DELETE FROM vectors WHERE index_key = ? AND id = ?",
                        ((key, vector_id) for vector_id in mutation.ids),
                    )
                    continue
                if mutation.kind == "create_metadata_index":
                    self._db.execute(
                        "INSERT OR IGNORE INTO metadata_indexes VALUES (?, ?, ?, ?)",
                        (key, mutation.property, mutation.index_type, mutation.sequence),
                    )
                    continue
                if mutation.kind == "delete_metadata_index":
                    self._db.execute(
                        "DELETE FROM metadata_indexes WHERE index_key = ? AND property = ?",
                        (key, mutation.property),
                    )
                    continue
                self._db.execute(
                    "INSERT INTO vectors "  # noqa: S608
                    'SELECT index_key, id, "values", namespace, metadata, sequence FROM mutation_vectors '
                    "WHERE index_key = ? AND sequence = ? ORDER BY position "
                    f"ON CONFLICT (index_key, id) DO {_ON_CONFLICT[mutation.kind]}",
                    (key, mutation.sequence),
                )
            last = mutations[-1].sequence
            for table in ("mutation_vectors", "mutations"):
                self._db.execute(
                    f"DELETE FROM {table} WHERE index_key = ? AND sequence <= ?",  # noqa: S608
                    (key, last),
                )

    def close(self) -> None:
        """Close the file."""
        self._db.close()
