# SPDX-License-Identifier: Apache-2.0
"""Listings of ids: pages over a snapshot, with cursors that expire."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import secrets
import struct
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_cfvectorize.local.engine.model import nanoseconds
from airflow_provider_cfvectorize.local.errors import refusal

if TYPE_CHECKING:
    from airflow_provider_cfvectorize.local.behaviour import Behaviour
    from airflow_provider_cfvectorize.local.engine.index import Index

#: The most snapshots of one index. A snapshot of a million ids takes 8 MB, so listings that never end would
#: fill the memory. A new snapshot replaces the oldest.
SNAPSHOTS_PER_INDEX: Final = 32

#: The content of a cursor: number of the snapshot, offset of the next page, time of expiry.
_CURSOR = struct.Struct(">8sId")
_SEAL_BYTES: Final = 12


class Snapshot:
    """The ids of an index at one moment. All listings that start before the next change share it."""

    def __init__(self, index: Index) -> None:
        self.number = secrets.token_bytes(8)
        self.index_key = index.key
        self.ids_version = index.ids_version
        self.ids = tuple(index.vectors)
        self.expires_at = 0.0


class Listings:
    """
    The listings of all indexes, with their snapshots.

    A cursor is sealed and holds the whole position, so that a client can request a page again after the
    response was lost. The data file has no snapshots, so cursors are invalid after a restart.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._key = secrets.token_bytes(32)
        self._snapshots: dict[bytes, Snapshot] = {}

    def page(self, index: Index, cursor: str | None, count: int, now: float) -> dict[str, Any]:
        """
        Return one page.

        :param cursor: The previous page's ``nextCursor``; None for the first page.
        :raises ApiError: The cursor is expired or damaged, or belongs to another index.
        """
        offset = 0
        expires_at = now + self._behaviour.cursor_lifetime
        if cursor is not None:
            snapshot, offset, expiry = self._open(cursor, index, now)
            if not self._behaviour.cursor_lifetime_restarts:
                expires_at = expiry
        elif len(index.vectors) <= count:
            return self._result(list(index.vectors), len(index.vectors))
        else:
            snapshot = self._snapshot(index, now)
        end = offset + count
        total = len(snapshot.ids)
        result = self._result(snapshot.ids[offset:end], total)
        if end < total:
            snapshot.expires_at = max(snapshot.expires_at, expires_at)
            result["isTruncated"] = True
            result["nextCursor"] = self._seal(_CURSOR.pack(snapshot.number, end, expires_at))
            result["cursorExpirationTimestamp"] = nanoseconds(expires_at)
        return result

    def forget(self, index_key: int) -> None:
        """Drop the snapshots of a deleted index."""
        self._snapshots = {n: s for n, s in self._snapshots.items() if s.index_key != index_key}

    @staticmethod
    def _result(ids: list[str] | tuple[str, ...], total: int) -> dict[str, Any]:
        return {
            "count": len(ids),
            "totalCount": total,
            "isTruncated": False,
            "vectors": [{"id": vector_id} for vector_id in ids],
            "nextCursor": None,
            "cursorExpirationTimestamp": None,
        }

    def _snapshot(self, index: Index, now: float) -> Snapshot:
        self._snapshots = {n: s for n, s in self._snapshots.items() if s.expires_at > now}
        own = [s for s in self._snapshots.values() if s.index_key == index.key]
        if own and own[-1].ids_version == index.ids_version:
            return own[-1]
        for old in itertools.islice(own, max(0, len(own) + 1 - SNAPSHOTS_PER_INDEX)):
            del self._snapshots[old.number]
        snapshot = Snapshot(index)
        self._snapshots[snapshot.number] = snapshot
        return snapshot

    def _seal(self, content: bytes) -> str:
        # Hexadecimal, because a cursor that begins with "-" would break wrangler's command line.
        seal = hashlib.blake2b(content, key=self._key, digest_size=_SEAL_BYTES).digest()
        return (content + seal).hex()

    def _open(self, cursor: str, index: Index, now: float) -> tuple[Snapshot, int, float]:
        try:
            content = bytes.fromhex(cursor)[: _CURSOR.size]
        except ValueError:
            raise refusal("invalid_cursor") from None
        if not hmac.compare_digest(cursor, self._seal(content)):
            raise refusal("invalid_cursor")
        number, offset, expires_at = _CURSOR.unpack(content)
        snapshot = self._snapshots.get(number)
        if snapshot is None or snapshot.index_key != index.key or expires_at <= now:
            raise refusal("invalid_cursor")
        return snapshot, offset, expires_at
