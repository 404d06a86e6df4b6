# SPDX-License-Identifier: Apache-2.0
"""The progress of a write, saved for a retry."""

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

#: The key of the saved progress.
KEY: Final = "cfvectorize_progress"
#: Progress is saved after this many acknowledged batches or this many seconds, whichever comes first. If a
#: worker dies, a retry sends the batches since then again.
SAVE_BATCHES: Final = 5
SAVE_SECONDS: Final = 1.0
#: Changes when the progress of an older version becomes unreadable.
_VERSION: Final = 1


class Store(Protocol):
    """A store of JSON values by key, such as the task state store of Airflow 3.3."""

    def get(self, key: str, /) -> Any:
        """Return a value, None if there is none."""

    def set(self, key: str, value: Any, /) -> None:
        """Save a value."""

    def delete(self, key: str, /) -> None:
        """Delete a value."""


def fingerprint_of(*parts: object) -> str:
    """
    Return the fingerprint of a piece of work.

    :param parts: JSON values that identify the work.
    """
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Saved:
    """
    The saved progress of an earlier attempt.

    :param done: number of acknowledged batches, from the first one on; if there may be gaps, they are in the
        details.
    :param details: the writer's own data, as JSON.
    :param receipt: the receipt, if everything is acknowledged.
    """

    done: int = 0
    details: Mapping[str, Any] | None = None
    receipt: Receipt | None = None


class Checkpoint:
    """
    Saves the progress of one write; for the task's main thread.

    If the store fails, the write continues without saved progress.

    :param fingerprint: the fingerprint of this work. The store may have the progress of other work.
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
        self._starts_over = False
        self._more_details: Mapping[str, Any] = {}

    def add_details(self, details: Mapping[str, Any]) -> None:
        """Save more details from now on."""
        self._more_details = details

    def load(self) -> Saved:
        """Return the saved progress of this work; empty if there is none."""
        if self._starts_over:
            return Saved()
        try:
            value = self._store.get(KEY)
        except Exception as e:
            self._fail(e)
            return Saved()
        if value is None:
            return Saved()
        saved = _read(value, self._fingerprint)
        if saved is None:
            self._log.info(
                "Saved progress belongs to different work (other inputs, a new index of that name, or a "
                "cleared task); starting over."
            )
            return Saved()
        self._saved_done = saved.done
        return saved

    def start_over(self) -> Saved:
        """Discard the loaded progress, because it belongs to different work."""
        self._starts_over = True
        self._saved_done = 0
        return Saved()

    def note(self, done: int, details: Mapping[str, Any]) -> None:
        """
        Record the progress, and save it now and then.

        :param done: number of acknowledged batches, from the first one on.
        :param details: the writer's own data, as JSON, with the gaps.
        """
        self._latest = (done, details, None)
        if done - self._saved_done >= SAVE_BATCHES or self._clock() - self._saved_at >= SAVE_SECONDS:
            self.flush()

    def save_receipt(self, receipt: Receipt, details: Mapping[str, Any]) -> None:
        """
        Save the receipt of a write whose batches are all acknowledged.

        :param details: the writer's own data, as JSON.
        """
        self._latest = (receipt.batches, details, receipt)
        self.flush()

    def flush(self) -> None:
        """Save the latest progress, unless it is saved already."""
        # A signal handler's exception may have interrupted a save and its request to Airflow: another request
        # could hang.
        if self._latest is None or self._is_saving:
            return
        done, details, receipt = self._latest
        value = {
            "v": _VERSION,
            "fingerprint": self._fingerprint,
            "done": done,
            "details": {**details, **self._more_details},
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
                "Saving the task's progress failed, so a retry may send acknowledged batches again: %s.",
                ascii(f"{type(error).__name__}: {error}")[:300],
            )


def forget(store: Store, log: Any = _log) -> None:
    """Delete the saved progress of a lost write, so that a retry sends everything again."""
    try:
        store.delete(KEY)
    except Exception as e:
        log.warning("Deleting the task's saved progress failed: %s.", ascii(str(e))[:300])


def save_evidence(store: Store, evidence: Mapping[str, Any], log: Any = _log) -> None:
    """Save the evidence that a write is applied with its receipt, so that no retry waits again."""
    try:
        value = store.get(KEY)
        if _is_of(value, evidence["mutation_id"]):
            store.set(KEY, {**value, "evidence": evidence})
    except Exception as e:
        log.warning("Saving the task's evidence failed, so a retry waits again: %s.", ascii(str(e))[:300])


def saved_evidence(store: Store, mutation_id: str) -> dict[str, Any] | None:
    """Return the saved evidence that a write is applied; None if there is none."""
    try:
        value = store.get(KEY)
    except Exception:
        # The wait that follows collects its own evidence.
        return None
    evidence = value.get("evidence") if _is_of(value, mutation_id) else None
    return evidence if isinstance(evidence, dict) else None


def _is_of(value: object, mutation_id: str | None) -> TypeGuard[dict[str, Any]]:
    match value:
        case {"v": version, "receipt": {"mutation_id": str() as saved}}:
            return version == _VERSION and saved == mutation_id
    return False


def _read(value: object, fingerprint: str) -> Saved | None:
    match value:
        case {
            "v": version,
            "fingerprint": str() as of,
            "done": int() as done,
            "details": dict() as details,
            "receipt": receipt,
        } if version == _VERSION and of == fingerprint and done >= 0:
            try:
                return Saved(done, details, None if receipt is None else Receipt.from_dict(receipt))
            except VectorizeInputError:
                return None
    return None


class Acknowledged:
    """
    The numbers of the acknowledged batches, of which several are in flight.

    A batch may hang for minutes while thousands after it are acknowledged, so there are gaps, but never more
    than batches in flight.

    :param done: the batches with a number below this are acknowledged,
    :param missing: except for these.
    """

    def __init__(self, done: int = 0, missing: Iterable[int] = ()) -> None:
        #: No batch is acknowledged from this number on.
        self.done = done
        self._missing = set(missing)

    @property
    def missing(self) -> list[int]:
        """Return the numbers below ``done`` that are not acknowledged."""
        return sorted(self._missing)

    def __contains__(self, number: int) -> bool:
        return number < self.done and number not in self._missing

    def add(self, number: int) -> None:
        """Record a batch as acknowledged."""
        self._missing.update(range(self.done, number))
        self._missing.discard(number)
        self.done = max(self.done, number + 1)
