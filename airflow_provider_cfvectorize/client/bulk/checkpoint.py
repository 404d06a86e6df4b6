# SPDX-License-Identifier: Apache-2.0
"""How far a write came, kept where a later try finds it."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeGuard

from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

_log = logging.getLogger(__name__)

#: The key under which it is kept.
KEY: Final = "cfvectorize_progress"
#: Kept after so many acknowledged batches, or after so many seconds, whichever comes first: what is lost with
#: a worker is sent again.
SAVE_BATCHES: Final = 5
SAVE_SECONDS: Final = 1.0
#: Changes when an older version's progress cannot be read any more.
_VERSION: Final = 1


class Store(Protocol):
    """Where it is kept, such as the task state store of Airflow 3.3: JSON values by key."""

    def get(self, key: str, /) -> Any:
        """Return a value, None if there is none."""

    def set(self, key: str, value: Any, /) -> None:
        """Keep a value."""

    def delete(self, key: str, /) -> None:
        """Forget a value."""


def fingerprint_of(*parts: object) -> str:
    """
    Return what tells one piece of work from another.

    :param parts: what must be equal for it to be the same work; values of JSON.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Kept:
    """
    What an earlier try left.

    :param done: number of batches, from the first one on, that are acknowledged; where there may be gaps, the
        details say which are not.
    :param details: what the writer wants to know again, as JSON.
    :param receipt: the receipt, if everything is acknowledged.
    """

    done: int = 0
    details: Mapping[str, Any] | None = None
    receipt: Receipt | None = None


class Checkpoint:
    """
    Keeps how far one write came; for the task's main thread.

    A store that fails costs the progress, never the write.

    :param fingerprint: what tells this work from another, which the store may hold the progress of.
    """

    def __init__(
        self,
        store: Store,
        fingerprint: str,
        log: Any = _log,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._fingerprint = fingerprint
        self._log = log
        self._clock = clock
        self._saved_at = clock()
        self._saved_done = 0
        self._latest: tuple[int, Mapping[str, Any], Receipt | None] | None = None
        self._is_saving = False
        self._has_failed = False
        self._is_afresh = False
        self._also: Mapping[str, Any] = {}

    def keep_also(self, details: Mapping[str, Any]) -> None:
        """Add something to the details that are kept from now on."""
        self._also = details

    def load(self) -> Kept:
        """Return what an earlier try left of the same work; nothing, if there is none."""
        if self._is_afresh:
            return Kept()
        try:
            value = self._store.get(KEY)
        except Exception as e:
            self._fail(e)
            return Kept()
        if value is None:
            return Kept()
        kept = _read(value, self._fingerprint)
        if kept is None:
            self._log.info(
                "Saved progress belongs to different work (other inputs, a new index of that name, or a "
                "cleared task); starting over."
            )
            return Kept()
        self._saved_done = kept.done
        return kept

    def start_afresh(self) -> Kept:
        """Take what was loaded for other work after all."""
        self._is_afresh = True
        self._saved_done = 0
        return Kept()

    def note(self, done: int, details: Mapping[str, Any]) -> None:
        """
        Take note of how far the write came; kept now and then.

        :param done: number of batches that are acknowledged, from the first one on.
        :param details: what to know again, as JSON; of gaps, which those are.
        """
        self._latest = (done, details, None)
        if done - self._saved_done >= SAVE_BATCHES or self._clock() - self._saved_at >= SAVE_SECONDS:
            self.flush()

    def keep_receipt(self, receipt: Receipt, details: Mapping[str, Any]) -> None:
        """
        Keep the receipt of what is acknowledged now as a whole.

        :param details: what to know again, as JSON.
        """
        self._latest = (receipt.batches, details, receipt)
        self.flush()

    def flush(self) -> None:
        """Keep what was noted last, if it is not kept yet."""
        # An exception out of a signal handler may have ended a save half way, and with it the conversation
        # with Airflow: another one could hang.
        if self._latest is None or self._is_saving:
            return
        done, details, receipt = self._latest
        value = {
            "v": _VERSION,
            "fingerprint": self._fingerprint,
            "done": done,
            "details": {**details, **self._also},
            "receipt": None if receipt is None else receipt.as_dict(),
        }
        self._is_saving = True
        try:
            self._store.set(KEY, value)
        except Exception as e:
            self._fail(e)
        self._is_saving = False
        self._latest = None
        self._saved_done = done
        self._saved_at = self._clock()

    def _fail(self, error: Exception) -> None:
        if not self._has_failed:
            self._has_failed = True
            self._log.warning(
                "Airflow does not keep how far this task comes, so a retry may send more again than it has "
                "to: %s",
                ascii(f"{type(error).__name__}: {error}")[:300],
            )


def forget(store: Store, log: Any = _log) -> None:
    """Delete the progress of a write that was lost, so that the next try sends everything again."""
    try:
        store.delete(KEY)
    except Exception as e:
        log.warning("Airflow does not delete this task's saved progress: %s", ascii(str(e))[:300])


def keep_evidence(store: Store, evidence: Mapping[str, Any], log: Any = _log) -> None:
    """Keep the evidence that a write is applied beside its receipt: no later try waits for it again."""
    try:
        value = store.get(KEY)
        if _is_of(value, evidence["mutation_id"]):
            store.set(KEY, {**value, "evidence": evidence})
    except Exception as e:
        log.warning("Airflow does not keep this task's evidence: %s", ascii(str(e))[:300])


def kept_evidence(store: Store, mutation_id: str) -> dict[str, Any] | None:
    """Return the evidence of an earlier try that a write is applied; None if there is none."""
    try:
        value = store.get(KEY)
    except Exception:
        # The wait that follows finds out by itself.
        return None
    evidence = value.get("evidence") if _is_of(value, mutation_id) else None
    return evidence if isinstance(evidence, dict) else None


def _is_of(value: object, mutation_id: str | None) -> TypeGuard[dict[str, Any]]:
    match value:
        case {"v": version, "receipt": {"mutation_id": str() as kept}}:
            return version == _VERSION and kept == mutation_id
    return False


def _read(value: object, fingerprint: str) -> Kept | None:
    match value:
        case {
            "v": version,
            "fingerprint": str() as of,
            "done": int() as done,
            "details": dict() as details,
            "receipt": receipt,
        } if version == _VERSION and of == fingerprint and done >= 0:
            try:
                return Kept(done, details, None if receipt is None else Receipt.from_dict(receipt))
            except VectorizeInputError:
                return None
    return None


class Acknowledged:
    """
    Which batches are acknowledged, of those that are sent several at a time.

    There are gaps, since one may hang for minutes while thousands after it are acknowledged; but never more
    of them than there are batches in flight at once.

    :param done: so many, from the first one on, were acknowledged before,
    :param missing: except for these.
    """

    def __init__(self, done: int = 0, missing: Iterable[int] = ()) -> None:
        #: Of this number and of those after it, none is acknowledged.
        self.done = done
        self._missing = set(missing)

    @property
    def missing(self) -> list[int]:
        """The numbers before that which are not acknowledged."""
        return sorted(self._missing)

    def __contains__(self, number: int) -> bool:
        return number < self.done and number not in self._missing

    def add(self, number: int) -> None:
        """Note a batch as acknowledged."""
        self._missing.update(range(self.done, number))
        self._missing.discard(number)
        self.done = max(self.done, number + 1)
