# SPDX-License-Identifier: Apache-2.0
"""
Deletes the vectors of a filter or namespace, in rounds: search, delete, wait for the delete, repeat.

The service deletes by id only, a query returns at most 100 ids, and search is approximate. So a round queries
with different probe vectors until they show no new id, and a delete ends only when several queries in a row
find nothing. :class:`Deletion` outlives a round; :class:`Round` decides when a round is over.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.inputs.ids import IdList
from airflow_provider_cfvectorize.client.inputs.queries import check_filter
from airflow_provider_cfvectorize.client.inputs.text import counted, show
from airflow_provider_cfvectorize.client.inputs.vectors import problem_with_namespace
from airflow_provider_cfvectorize.client.workers import SECONDS_BETWEEN_LINES, Stopped, stoppable_call
from airflow_provider_cfvectorize.exceptions import (
    VectorizeBatchError,
    VectorizeInputError,
    VectorizeInterrupted,
    VectorizeResponseError,
    VectorizeStillVisibleError,
)

if TYPE_CHECKING:
    from airflow_provider_cfvectorize.client.client import VectorizeClient
    from airflow_provider_cfvectorize.client.inputs.ids import IdSource
    from airflow_provider_cfvectorize.client.mutations.receipts import Receipt

_log = logging.getLogger(__name__)

DEFAULT_PROBES: Final = 3
#: The most rounds in a row that find only ids whose delete is applied.
MAX_FRUITLESS_ROUNDS: Final = 2
#: The most ids that later rounds recognize: 4 KB of digests in the task's row while it is deferred.
KNOWN_IDS: Final = 200
#: The most ids in an error, in a log line and in the report of a dry run.
SHOWN_IDS: Final = 10
#: The caveat in each report of a delete by filter.
NOTE: Final = "Search is approximate, so this does not prove that none is left."
FILTER_NOTE: Final = (
    "The filter does not find vectors that were written before the metadata indexes of its properties."
)


def probe_vector(number: int, dimensions: int) -> list[float]:
    """Return a unit vector in a random direction that depends only on the number."""
    draw = random.Random(number)  # noqa: S311 - to spread queries, not for secrets
    values = [draw.gauss(0.0, 1.0) for _ in range(dimensions)]
    length = math.hypot(*values)
    return [value / length for value in values]


def check_limits(*, max_ids: object, probes: object) -> None:
    """
    Check the numbers of a delete by filter.

    :raises VectorizeInputError: one of them is not an integer, or is too small.
    """
    for name, value, least in (("max_ids", max_ids, 0), ("probes", probes, 1)):
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise VectorizeInputError(f"{name} is {show(value)}, expected an integer from {least}")


def check_selection(filter: object, namespace: object) -> None:
    """
    Check that a filter or a namespace is given, and that it does not select everything.

    :raises VectorizeInputError: neither is given, or one of them is empty or invalid.
    """
    if filter is None and namespace is None:
        raise VectorizeInputError(
            "neither filter nor namespace is given, so everything would be deleted: pass one of them or "
            "both. To empty an index, use ReconcileVectorsOperator with ids=[] and allow_empty=True"
        )
    if filter is not None:
        if isinstance(filter, Mapping) and not filter:
            raise VectorizeInputError(
                "filter is empty, so everything would be deleted: pass a condition such as "
                '{"doc_id": "a17"}. To delete a whole namespace, omit filter'
            )
        for name, condition in check_filter(filter).items():
            if _has_none(condition):
                raise VectorizeInputError(
                    f"filter: the condition of {show(name)} has the value None, expected strings, numbers or "
                    "booleans: check the template or upstream task that gives it"
                )
    if namespace is not None and (problem := problem_with_namespace(namespace)):
        raise VectorizeInputError(f"namespace {show(namespace)} {problem}")
    if namespace == "":
        raise VectorizeInputError("namespace is empty, expected 1 to 64 bytes: pass None for no namespace")


def _has_none(condition: object) -> bool:
    if isinstance(condition, Mapping):
        return any(map(_has_none, condition.values()))
    return condition is None or (isinstance(condition, list) and None in condition)


def check_indexed(filter: Mapping[str, Any], indexed: Iterable[str], index_name: str) -> None:
    """
    Check that the service can search by each property of a filter.

    :raises VectorizeInputError: a property has no metadata index, so the filter would find nothing.
    """
    known = set(indexed)
    missing = [show(name) for name in filter if name not in known]
    if missing:
        there = ", ".join(map(show, sorted(known))) or "none"
        raise VectorizeInputError(
            f"filter: index {index_name} has no metadata index of {', '.join(missing)} (it has: {there}), "
            "so the filter would find nothing; nothing was deleted. Create the metadata index and write the "
            "vectors again, or delete them by id (DeleteVectorsByIdsOperator)"
        )


@dataclass(slots=True)
class Deletion:
    """
    The progress of a delete by filter. Its size is bounded, because a deferral stores it.

    :param filter: the filter; None for none.
    :param namespace: the namespace; None for none.
    :param dimensions: number of values of a probe vector.
    :param rounds: number of rounds that deleted ids.
    :param queries: number of queries; also the number of the next probe vector.
    :param found: number of ids found. An id that a later round recognizes counts once.
    :param deleted: number of ids whose delete is acknowledged. An id that is deleted again counts again.
    :param fruitless: number of rounds in a row, up to the last one, that found no new id.
    :param known: digests of the ids found: all, or the 200 smallest.
    :param waits: number of waits by the outcome of their evidence.
    :param mutation_id: the last mutation of the last delete; None if there was none.
    """

    filter: dict[str, Any] | None
    namespace: str | None
    dimensions: int
    rounds: int = 0
    queries: int = 0
    found: int = 0
    deleted: int = 0
    fruitless: int = 0
    known: list[str] = field(default_factory=list)
    waits: dict[str, int] = field(default_factory=dict)
    mutation_id: str | None = None

    @property
    def note(self) -> str:
        """Return the caveats of the search."""
        return NOTE if self.filter is None else f"{NOTE} {FILTER_NOTE}"

    def as_dict(self) -> dict[str, Any]:
        """Return the progress as JSON, for ``Deletion(**...)``."""
        return asdict(self)

    def add_round(self, this: Round) -> None:
        """Add what a round has found."""
        self.found += this.new
        self.fruitless = self.fruitless + 1 if this.is_fruitless else 0
        self.known = sorted({*self.known, *this.ids.values()})[:KNOWN_IDS]

    def note_wait(self, evidence: Mapping[str, Any]) -> None:
        """Add the outcome of a round's wait."""
        self.waits[evidence["outcome"]] = self.waits.get(evidence["outcome"], 0) + 1

    def report(self, outcome: str | None, probes: int) -> dict[str, Any]:
        """
        Return the report of the delete.

        :param outcome: ``none_found`` at the end, ``dry_run`` for a dry run, None before the end.
        :param probes: number of queries in a row that end the delete if they find nothing.
        """
        return {
            "outcome": outcome,
            "probes": probes,
            "rounds": self.rounds,
            "queries": self.queries,
            "found": self.found,
            "deleted": self.deleted,
            "waits": dict(self.waits),
            "filter": self.filter,
            "namespace": self.namespace,
            "note": self.note,
        }

    def log_end(self, probes: int, log: Any) -> None:
        """
        Log the end of the delete, with a warning if it found nothing.

        :param probes: number of queries that found nothing.
        """
        queries = counted(probes, "query")
        if self.rounds:
            done = f"{counted(self.found, 'id')} found and {self.deleted} deleted"
            log.info("%s in %s; then %s found no id.", done, counted(self.rounds, "round"), queries)
            log.info("%s", self.note)
        else:
            text = "%s found no id, and nothing was deleted. Check filter and namespace. %s"
            log.warning(text, queries, self.note)


class Round:
    """
    The queries of one round; decides when the round is over.

    :param deletion: the progress of the delete.
    :param probes: number of queries in a row without a new id that end the round.
    :param max_ids: the most ids that the delete may find in all its rounds.
    """

    def __init__(self, deletion: Deletion, *, probes: int, max_ids: int) -> None:
        self._known = frozenset(deletion.known)
        # Ids with greater digests may have been found before.
        self._known_to = max(self._known) if len(self._known) == KNOWN_IDS else "g"
        self._probes = probes
        self._room = max_ids - deletion.found
        self._idle = 0
        self._again = 0
        self._has_new = False
        #: The ids found, in order, each with its digest.
        self.ids: dict[str, str] = {}

    @property
    def is_fruitless(self) -> bool:
        """Return whether ids were found that are known to be deleted, and none that is known to be new."""
        return self._again > 0 and not self._has_new

    @property
    def new(self) -> int:
        """Return the number of ids that are new, as far as this is known."""
        return 0 if self.is_fruitless else len(self.ids) - self._again

    @property
    def is_too_much(self) -> bool:
        """Return whether the delete has found more than ``max_ids`` ids."""
        return self.new > self._room

    @property
    def is_over(self) -> bool:
        """Return whether the round needs no more queries."""
        return self._idle >= self._probes or self.is_too_much

    def add(self, ids: Iterable[str]) -> None:
        """Add the ids that a query found."""
        before = len(self.ids)
        for id_ in ids:
            if id_ in self.ids:
                continue
            digest = self.ids[id_] = blake2b(id_.encode(), digest_size=8).hexdigest()
            if digest in self._known:
                self._again += 1
            elif digest < self._known_to:
                self._has_new = True
        self._idle = 0 if len(self.ids) > before else self._idle + 1


def begin(
    client: VectorizeClient, index_name: str, filter: Mapping[str, Any] | None, namespace: str | None
) -> Deletion:
    """
    Check the filter and the namespace, and read from the index what the queries need.

    :raises VectorizeInputError: neither is given, one is invalid, or a property of the filter has no metadata
        index.
    """
    check_selection(filter, namespace)
    if filter is not None:
        indexes = client.list_metadata_indexes(index_name)
        check_indexed(filter, (one["propertyName"] for one in indexes), index_name)
    dimensions = (client.get_index(index_name).get("config") or {}).get("dimensions")
    if not isinstance(dimensions, int):
        raise VectorizeResponseError(f"the service did not return the dimensions of index {index_name}")
    return Deletion(None if filter is None else dict(check_filter(filter)), namespace, dimensions)


def search(
    client: VectorizeClient,
    index_name: str,
    deletion: Deletion,
    *,
    probes: int = DEFAULT_PROBES,
    max_ids: int,
    stopped: Callable[[], bool] = lambda: False,
    log: Any = _log,
) -> list[str]:
    """
    Query until no new id is found, and return the ids.

    :param deletion: the progress of the delete; this adds the ids found.
    :param probes: number of queries in a row without a new id that end the search.
    :param max_ids: the most ids that the delete may find in all its rounds.
    :raises VectorizeInputError: more were found.
    :raises VectorizeStillVisibleError: two rounds in a row found only ids whose delete is applied.
    :raises VectorizeInterrupted: the task must stop.
    """
    this = Round(deletion, probes=probes, max_ids=max_ids)
    before, logged_at = deletion.queries, time.monotonic()
    while not this.is_over:
        query = partial(
            client.query,
            index_name,
            vector=probe_vector(deletion.queries, deletion.dimensions),
            top_k=limits.MAX_TOP_K,
            filter=deletion.filter,
            namespace=deletion.namespace,
        )
        try:
            result = stoppable_call(query, stopped)
        except Stopped:
            client.session.stop()
            raise VectorizeInterrupted(f"interrupted during the search: {_so_far(deletion)}") from None
        deletion.queries += 1
        this.add(match["id"] for match in result["matches"])
        if time.monotonic() - logged_at >= SECONDS_BETWEEN_LINES:
            logged_at = time.monotonic()
            queries = counted(deletion.queries - before, "query")
            log.info(
                "Searching index %s: %s found with %s.", index_name, counted(len(this.ids), "id"), queries
            )
    if this.is_too_much:
        raise VectorizeInputError(
            f"index {index_name}: {counted(deletion.found + this.new, 'id', 'were')} found so far, which is "
            f"more than max_ids ({max_ids}): {_so_far(deletion)}. Check filter and namespace, or raise "
            "max_ids"
        )
    deletion.add_round(this)
    queries = counted(deletion.queries - before, "query")
    if this.ids:
        log.info("Round %d: found %s with %s.", deletion.rounds + 1, counted(len(this.ids), "id"), queries)
    if deletion.fruitless >= MAX_FRUITLESS_ROUNDS:
        raise VectorizeStillVisibleError(
            f"index {index_name}: {MAX_FRUITLESS_ROUNDS} rounds in a row found nothing but ids whose delete "
            f"is applied ({_some(this.ids)}); {_so_far(deletion)}. Either another client writes them again, "
            "or the search lags behind the deletes: stop that client, or retry later"
        )
    return list(this.ids)


def _so_far(deletion: Deletion) -> str:
    if not deletion.rounds:
        return "nothing was deleted"
    deleted = counted(deletion.deleted, "id", "were")
    return f"{deleted} deleted in {counted(deletion.rounds, 'round')} before, none in this round"


def _some(ids: Iterable[str]) -> str:
    ids = list(ids)
    more = f" and {len(ids) - SHOWN_IDS} more" if len(ids) > SHOWN_IDS else ""
    return ", ".join(map(show, ids[:SHOWN_IDS])) + more


def run_round(
    client: VectorizeClient,
    index_name: str,
    deletion: Deletion,
    delete: Callable[[IdSource], Receipt],
    *,
    probes: int = DEFAULT_PROBES,
    max_ids: int,
    stopped: Callable[[], bool] = lambda: False,
    log: Any = _log,
) -> Receipt | None:
    """
    Search, delete the ids found, and return the receipt to wait for; None if none was found.

    The other parameters and errors are those of :func:`search`.

    :param delete: deletes ids.
    :raises VectorizeBatchError: the service did not accept all ids.
    """
    ids = search(client, index_name, deletion, probes=probes, max_ids=max_ids, stopped=stopped, log=log)
    if not ids:
        return None
    try:
        receipt = delete(IdList(ids))
    except VectorizeBatchError as e:
        deletion.deleted += e.acknowledged
        raise
    log.info("%s", receipt.acceptance("id"))
    deletion.rounds += 1
    deletion.deleted += receipt.count
    deletion.mutation_id = receipt.mutation_id
    return receipt


def rehearse(
    client: VectorizeClient,
    index_name: str,
    deletion: Deletion,
    read_sample: Callable[[IdSource], Any],
    *,
    probes: int = DEFAULT_PROBES,
    max_ids: int,
    stopped: Callable[[], bool] = lambda: False,
    log: Any = _log,
) -> dict[str, Any]:
    """
    Search like the first round, read a few of the ids, and delete nothing.

    The other parameters and errors are those of :func:`search`.

    :param read_sample: reads a few of the ids, and returns a
        :class:`~airflow_provider_cfvectorize.client.bulk.delete.Sample`.
    :return: ``ids``, the first 10; ``sampled``, the number of ids read; ``existing``, the number of them that
        exist.
    """
    ids = search(client, index_name, deletion, probes=probes, max_ids=max_ids, stopped=stopped, log=log)
    sampled = existing = 0
    if ids:
        sample = read_sample(IdList(ids))
        sampled, existing = sample.asked, sample.exist
    shown = f", for example {_some(ids)}" if ids else ""
    log.info("Dry run: %s would be deleted%s. A search may miss some.", counted(len(ids), "id"), shown)
    return {"ids": ids[:SHOWN_IDS], "sampled": sampled, "existing": existing}
