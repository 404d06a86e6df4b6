# SPDX-License-Identifier: Apache-2.0
"""
One poll of an index for any number of waits: which requests it sends, and what they show.

:mod:`airflow_provider_cfvectorize.client.mutations.decide` decides whether a mutation is applied.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Final

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.http.responses import Answer
from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.client.mutations.decide import (
    EXPLAINED_WAITS,
    LONG_AGO,
    Decision,
    IndexState,
    Verdict,
    decide,
    is_later,
    settle,
)
from airflow_provider_cfvectorize.client.mutations.receipts import Receipt, format_time, parse_time
from airflow_provider_cfvectorize.client.mutations.witnesses import WitnessVector, found_among
from airflow_provider_cfvectorize.exceptions import VectorizeIndexRecreatedError

#: Read-back requests without a new result after which a poll leaves the rest to the next poll.
FRUITLESS_READS: Final = 3


class Poll:
    """
    One poll of an index for any number of waits: it chooses the witnesses to read and decides.

    It sends nothing itself: :func:`poll_index` sends the requests, for waits in a worker or the triggerer.

    A wait is over when all its receipts are applied *in this poll*. Nothing is remembered from earlier polls,
    so that a wait ends alike in whichever process it runs.

    It saves requests in three ways. One request reads the witnesses of several receipts. The newest receipts
    of a wait come first, because the wait is not over while they are pending. After :data:`FRUITLESS_READS`
    without a result, the rest waits for the next poll; a thousand waits behind a backlog would cost hundreds
    of requests a poll. The order of waits is random, so that no wait is left out for long.

    :param waits: the receipts of each wait, by any key.
    :param state: the result of ``info``.
    :param last: keys of the waits whose last poll this is; it always reads their witnesses.
    """

    def __init__(
        self, waits: Mapping[Any, Sequence[Receipt]], state: IndexState, last: Collection[Any] = ()
    ) -> None:
        self.state = state
        self._waits = waits
        self._last = last
        self._found: dict[Any, dict[int, Mapping[str, WitnessVector]]] = {key: {} for key in waits}
        self._decisions = {key: self._decide(key) for key in waits}
        self._unread = {key: unread for key in waits if (unread := self._to_read(key))}
        self._order = list(self._unread)
        random.shuffle(self._order)
        self._order.sort(key=lambda key: key not in last)
        self._reading: list[tuple[Any, int]] = []
        self._fruitless = 0

    def _decide(self, key: Any) -> list[Decision]:
        receipts, found = self._waits[key], self._found[key]
        decisions = [
            decide(receipt, self.state, found.get(i), at_deadline=key in self._last)
            for i, receipt in enumerate(receipts)
        ]
        return settle(receipts, decisions, self.state)

    def _to_read(self, key: Any) -> list[int]:
        decisions = self._decisions[key]
        wanted = [i for i, decision in enumerate(decisions) if decision.verdict is Verdict.READ_BACK]
        pending = [i for i, decision in enumerate(decisions) if decision.verdict is Verdict.PENDING]
        receipts = self._waits[key]
        # A receipt that a later one may settle does not stop reading the later one.
        lost = [i for i in pending if not any(is_later(receipts[k], receipts[i]) for k in wanted)]
        if lost and key not in self._last:
            return []
        # At the deadline, the error lists the witnesses that still exist.
        if key in self._last:
            pending += [i for i, decision in enumerate(decisions) if decision.verdict is Verdict.CREATION]
        wanted += [i for i in pending if receipts[i].to_read_back][:EXPLAINED_WAITS]
        return sorted(wanted, key=lambda i: receipts[i].accepted_at or LONG_AGO)

    def next_read(self) -> list[str]:
        """Return up to 20 ids to read back; none when the poll is over."""
        ids: dict[str, None] = {}
        self._reading = []
        for key in self._order:
            if self._fruitless >= FRUITLESS_READS and key not in self._last:
                continue
            unread = self._unread[key]
            while unread:
                more = dict.fromkeys((*ids, *self._waits[key][unread[-1]].to_read_back))
                if len(more) > limits.MAX_GET_IDS:
                    return list(ids)
                ids = more
                self._reading.append((key, unread.pop()))
        return list(ids)

    def feed(self, found: Mapping[str, WitnessVector]) -> None:
        """Accept the result of the last read."""
        for key, i in self._reading:
            self._found[key][i] = found
        for key in dict.fromkeys(key for key, _ in self._reading):
            self._decisions[key] = self._decide(key)
        pending = {(key, i) for key, i in self._reading if self._is_pending(key, i)}
        for key, _ in pending:
            if key not in self._last:
                self._unread[key].clear()
        if len(pending) == len(self._reading):
            self._fruitless += 1

    def _is_pending(self, key: Any, i: int) -> bool:
        return self._decisions[key][i].verdict is Verdict.PENDING

    def needs_creation(self) -> bool:
        """Return whether a wait depends on when the index was created; call it after all reads."""
        return self.state.created_on is None and any(map(self._needs_creation, self._waits))

    def _needs_creation(self, key: Any) -> bool:
        verdicts = {decision.verdict for decision in self._decisions[key]}
        is_open = key not in self._last and not verdicts.isdisjoint((Verdict.PENDING, Verdict.READ_BACK))
        return Verdict.CREATION in verdicts and not is_open

    def feed_creation(self, created_on: datetime) -> None:
        """
        Accept the time at which the index was created.

        :param created_on: the time, by the server's clock; see :func:`created_on`.
        """
        self.state = replace(self.state, created_on=created_on)
        for key in self._waits:
            self._decisions[key] = self._decide(key)

    def decisions(self, key: Any) -> list[Decision]:
        """Return the decision on each receipt of a wait, in order."""
        return self._decisions[key]

    def is_over(self, key: Any) -> bool:
        """Return whether all receipts of a wait are applied."""
        return all(decision.verdict is Verdict.APPLIED for decision in self._decisions[key])

    def loss(self, key: Any, index_name: str) -> VectorizeIndexRecreatedError | None:
        """Return the error that ends a wait whose index was created again; None if it was not."""
        decided = zip(self._waits[key], self._decisions[key], strict=True)
        lost = [receipt for receipt, decision in decided if decision.verdict is Verdict.RECREATED]
        if not lost:
            return None
        newest = max(lost, key=lambda receipt: receipt.accepted_at or LONG_AGO)
        others = sum(receipt.mutations for receipt in lost) - 1
        more = f" and {others} more mutations of this wait" if others else ""
        return VectorizeIndexRecreatedError(
            f"index {show(index_name)} was created again at {format_time(self.state.created_on)}: mutation "
            f"{newest.mutation_id} (accepted at {format_time(newest.accepted_at)}, {newest.amount}){more} "
            "was lost with the earlier index. Run the task that wrote it again if the new index needs it"
        )


def poll_index(
    waits: Mapping[Any, Sequence[Receipt]], index_name: str, last: Collection[Any] = ()
) -> Generator[Callable[[Any], Any], Any, Poll]:
    """
    Poll an index once: yield each request, accept its result, and return the :class:`Poll`.

    The parameters are those of :class:`Poll`. A request is a function of a client. A worker calls it, and the
    triggerer calls it in a thread.
    """
    state = read_state((yield lambda client: client.ask_info(index_name)))
    poll = Poll(waits, state, last)
    while ids := poll.next_read():
        poll.feed((yield lambda client, ids=ids: found_among(client.get_by_ids(index_name, ids))))  # type: ignore[misc]
    if poll.needs_creation():
        poll.feed_creation((yield lambda client: created_on(client.get_index(index_name))))
    return poll


def read_state(answer: Answer) -> IndexState:
    """Return the state that ``info`` shows, by the server's clock or else by this machine's."""
    info = answer.result if isinstance(answer.result, dict) else {}
    return IndexState.from_info(info, answer.date or datetime.now(UTC))


def created_on(index: Mapping[str, Any]) -> datetime:
    """Return when an index was created; an index without that time counts as old."""
    return parse_time(index.get("created_on")) or LONG_AGO
