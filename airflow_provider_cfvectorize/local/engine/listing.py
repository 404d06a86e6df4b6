# SPDX-License-Identifier: Apache-2.0
"""``list``: pages over a snapshot of the ids, by a cursor that expires."""

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

#: Snapshots of one index that are kept at a time. A snapshot of a million ids takes 8 MB, so somebody who
#: starts listings of a busy index and never ends them must not fill the memory: the oldest goes.
SNAPSHOTS_PER_INDEX: Final = 32

#: Snapshot's number, offset of the next page, end of its life.
_CURSOR = struct.Struct(">8sId")
_SEAL_BYTES: Final = 12


class Snapshot:
    """The ids of an index at one moment, shared by all listings that started before the next change."""

    def __init__(self, index: Index) -> None:
        self.number = secrets.token_bytes(8)
        self.index_key = index.key
        self.ids_version = index.ids_version
        self.ids = tuple(index.vectors)
        self.expires_at = 0.0


class Listings:
    """
    The snapshots that cursors point into.

    A cursor is sealed and says all it stands for, so that a page can be asked for again after its answer was
    lost. Snapshots are not written to the file: after a restart a cursor is as good as an expired one.
    """

    def __init__(self, behaviour: Behaviour) -> None:
        self._behaviour = behaviour
        self._key = secrets.token_bytes(32)
        self._snapshots: dict[bytes, Snapshot] = {}

    def page(self, index: Index, cursor: str | None, count: int, now: float) -> dict[str, Any]:
        """
        Return one page.

        :param cursor: The previous page's ``nextCursor``; None for the first page.
        :raises ApiError: The cursor is expired, damaged or another index's.
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
        # 64 letters and digits. A cursor that begins with "-" breaks wrangler's command line.
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
