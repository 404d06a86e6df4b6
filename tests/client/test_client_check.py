# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cfvectorize.client.mutations.check import (
    FRUITLESS_READS,
    Poll,
    created_on,
)
from airflow_provider_cfvectorize.client.mutations.decide import Decision, IndexState, Verdict, decide, settle
from airflow_provider_cfvectorize.client.mutations.evidence import (
    evidence_of_nothing,
    explain_timeout,
    make_evidence,
    summarize,
)
from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
from airflow_provider_cfvectorize.client.mutations.witnesses import WitnessVector, found_among

T0 = datetime(2026, 1, 31, 12, tzinfo=UTC)
STATE = IndexState("other", T0 + timedelta(seconds=60), T0 + timedelta(seconds=70), T0 - timedelta(days=1))


def receipt(name: str, witnesses: int = 5, second: int = 0, **more: Any) -> Receipt:
    ids = tuple(f"{name}-w{i}" for i in range(witnesses))
    return replace(
        Receipt(name, "docs", "a" * 32, T0 + timedelta(seconds=second), 100, 1, witness_ids=ids), **more
    )


def found(ids: Iterable[str]) -> dict[str, WitnessVector]:
    return found_among({"id": id_} for id_ in ids)


def drive(poll: Poll, exist: set[str] = frozenset()) -> list[list[str]]:  # type: ignore[assignment]
    reads = []
    while ids := poll.next_read():
        assert len(ids) <= 20
        assert len(set(ids)) == len(ids)
        reads.append(ids)
        poll.feed(found(id_ for id_ in ids if id_ in exist))
        assert len(reads) < 1000
    return reads


def everything(waits: Mapping[Any, Sequence[Receipt]]) -> set[str]:
    return {id_ for receipts in waits.values() for one in receipts for id_ in one.witness_ids}


def test_witnesses_of_many_waits_share_a_read() -> None:
    waits = {f"k{i}": [receipt(f"m{i}")] for i in range(40)}
    poll = Poll(waits, STATE)
    reads = drive(poll)
    assert [len(ids) for ids in reads] == [20] * 10
    assert {id_ for ids in reads for id_ in ids} == everything(waits)
    assert all(poll.is_over(key) for key in waits)
    assert {d.outcome for key in waits for d in poll.decisions(key)} == {"read_back"}


def test_equal_witnesses_are_read_once() -> None:
    poll = Poll({1: [receipt("m"), receipt("m")], 2: [receipt("m")]}, STATE)
    assert [sorted(ids) for ids in drive(poll)] == [[f"m-w{i}" for i in range(5)]]
    assert poll.is_over(1)
    assert poll.is_over(2)


def test_a_receipt_is_never_split_over_two_reads() -> None:
    poll = Poll({i: [receipt(f"m{i}", 20)] for i in range(3)}, STATE)
    assert sorted(len({id_.split("-")[0] for id_ in ids}) for ids in drive(poll)) == [1, 1, 1]


def test_unneeded_witnesses_are_not_read() -> None:
    own = replace(STATE, watermark="mine")
    waits = {
        "no witness": [receipt("a", 0)],
        "bare": [Receipt.of_bare_id("b")],
        "nothing": [Receipt(None)],
        "own, no witness": [receipt("mine", 0)],
        "one of two is pending for sure": [receipt("c"), receipt("d", 0)],
        "accepted after the watermark": [receipt("e", second=63)],
    }
    poll = Poll(waits, own)
    assert drive(poll) == []
    assert [key for key in waits if poll.is_over(key)] == ["nothing", "own, no witness"]


def test_pending_newest_receipt_spares_older_reads() -> None:
    receipts = [receipt(f"m{i}", 20, second=[3, 9, 1, 7][i]) for i in range(4)]
    poll = Poll({"k": receipts}, STATE)
    assert drive(poll, everything({"k": receipts})) == [list(receipts[1].witness_ids)]
    assert [d.verdict.value for d in poll.decisions("k")] == [
        "read_back",
        "pending",
        "read_back",
        "read_back",
    ]
    assert not poll.is_over("k")
    order = [ids[0].split("-")[0] for ids in drive(Poll({"k": receipts}, STATE))]
    assert order == ["m1", "m3", "m0", "m2"]


def test_a_poll_ends_after_too_many_fruitless_reads() -> None:
    waits = {i: [receipt(f"m{i}", 20)] for i in range(50)}
    poll = Poll(waits, STATE)
    assert len(drive(poll, everything(waits))) == FRUITLESS_READS
    assert not any(poll.is_over(key) for key in waits)


def test_every_wait_is_read_eventually() -> None:
    waits = {i: [receipt(f"m{i}", 20)] for i in range(12)}
    read: set[str] = set()
    for _ in range(200):
        read |= {id_ for ids in drive(Poll(waits, STATE), everything(waits)) for id_ in ids}
    assert read == everything(waits)


def test_last_polls_are_always_read_and_come_first() -> None:
    waits = {i: [receipt(f"m{i}", 20)] for i in range(50)}
    last = [7, 11, 13, 17, 19, 23]
    poll = Poll(waits, STATE, last)
    reads = drive(poll, everything(waits))
    assert sorted(int(ids[0][1:].split("-")[0]) for ids in reads[:6]) == last
    assert len(reads) == 6
    for key in last:
        (decision,) = poll.decisions(key)
        assert decision.verdict is Verdict.PENDING
        assert len(decision.still_visible) == 20


def test_a_last_poll_reads_witnesses_for_the_error() -> None:
    older = [receipt(f"m{i}", 5, second=65 + i) for i in range(6)]
    poll = Poll({"k": [*older, Receipt.of_bare_id("b")]}, STATE, ["k"])
    (ids,) = drive(poll, everything({"k": older}))
    assert {id_.split("-")[0] for id_ in ids} == {"m0", "m1", "m2"}
    assert len(poll.decisions("k")[0].still_visible) == 5
    assert not poll.is_over("k")


def test_a_last_poll_accepts_its_own_watermark_despite_visible_witnesses() -> None:
    own = receipt("other")
    for last, over in (([], False), (["k"], True)):
        poll = Poll({"k": [own]}, STATE, last)
        drive(poll, set(own.witness_ids))
        assert poll.is_over("k") is over


def test_the_index_creation_is_read_only_if_a_wait_depends_on_it() -> None:
    asked = replace(STATE, created_on=None, observed_at=T0 + timedelta(seconds=400))
    old, young = receipt("old", 0), receipt("young", 0, second=59)
    for receipts, needs in (
        ([receipt("m")], False),
        ([old], True),
        # Not while another receipt is pending: that would cost a request per poll.
        ([old, replace(young, batches=9000)], False),
        # Within an index, a later applied mutation proves the earlier.
        ([receipt("earlier", 0, batches=9000), receipt("later", second=9)], True),
    ):
        poll = Poll({"k": receipts}, asked)
        drive(poll)
        assert poll.needs_creation() is needs
        assert poll.is_over("k") is (receipts == [receipt("m")])
        if needs:
            poll.feed_creation(T0 + timedelta(seconds=2))
            assert poll.is_over("k")
            assert poll.loss("k", "docs") is None
            assert not poll.needs_creation()
            poll.feed_creation(T0 + timedelta(seconds=5))
            assert not poll.is_over("k")
            error = str(poll.loss("k", "docs"))
            assert "index 'docs' was created again at 2026-01-31T12:00:05Z: mutation" in error
            assert "(accepted at 2026-01-31T12:00:00Z, ids or vectors: 100) was lost" in error


def test_an_index_without_a_creation_time_counts_as_old() -> None:
    assert created_on({}) == created_on({"created_on": 5}) < T0
    assert created_on({"created_on": "2026-01-31T12:00:00.000001Z"}) == T0 + timedelta(microseconds=1)


cases = st.lists(
    st.lists(
        st.builds(
            receipt,
            st.sampled_from([f"m{i}" for i in range(9)] + ["other"]),
            st.integers(0, 6),
            st.integers(0, 64),
        ),
        min_size=1,
        max_size=5,
    ),
    max_size=8,
)


@given(cases, st.sets(st.sampled_from([f"m{i}-w{j}" for i in range(9) for j in range(6)])), st.booleans())
def test_a_wait_is_over_exactly_when_each_receipt_is_applied(
    case: list[list[Receipt]], exist: set[str], last: bool
) -> None:
    waits = dict(enumerate(case))
    poll = Poll(waits, STATE, waits if last else ())
    reads = drive(poll, exist)
    complete = last or sum(not set(ids) - exist for ids in reads) < FRUITLESS_READS
    for key, receipts in waits.items():
        decisions = [decide(one, STATE, found(exist), at_deadline=last) for one in receipts]
        decisions = settle(receipts, decisions, STATE)
        over = all(decision.verdict is Verdict.APPLIED for decision in decisions)
        if over != poll.is_over(key):
            # The poll may miss an applied receipt only if it skipped reads.
            assert over
            assert not last
            assert len(reads) >= FRUITLESS_READS or not complete


@given(cases, st.sets(st.sampled_from([f"m{i}-w{j}" for i in range(9) for j in range(6)])), st.randoms())
def test_the_order_of_receipts_and_waits_does_not_matter(
    case: list[list[Receipt]], exist: set[str], random: Any
) -> None:
    # So few receipts that no read is skipped.
    case = [receipts[:3] for receipts in case[:2]]
    keys = random.sample(range(len(case)), len(case))
    one = Poll(dict(enumerate(case)), STATE)
    two = Poll({key: random.sample(case[key], len(case[key])) for key in keys}, STATE)
    drive(one, exist)
    drive(two, exist)
    for key in keys:
        assert one.is_over(key) == two.is_over(key)


def pending(reason: str, *visible: str) -> Decision:
    return Decision(Verdict.PENDING, None, reason, visible, 5)


def test_the_timeout_error_names_watermark_and_visible_ids() -> None:
    text = explain_timeout([(receipt("m"), pending(f"{STATE}", "a", "b\n"))], STATE, 900, "docs")
    assert text == (
        "not observed as applied in index docs within 900 s: mutation m, accepted at 2026-01-31T12:00:00Z: "
        "the watermark is 'other' of 2026-01-31T12:01:00Z; still visible: 'a', 'b\\n'"
    )


def test_the_timeout_error_of_a_bare_id_is_inconclusive() -> None:
    bare = Receipt.of_bare_id("m")
    text = explain_timeout([(bare, decide(bare, STATE))], STATE, 1.5, "docs")
    assert (
        "within 1.5 s: mutation m: inconclusive, it may have been overtaken by 'other' of 2026-01-31" in text
    )
    assert "which may include it. Pass the receipt instead" in text
    assert "delete.output['receipt']" in text
    none_yet = IndexState(None, None, T0)
    assert "mutation m: the index has applied no mutation yet" in explain_timeout(
        [(bare, None)], none_yet, 1, "docs"
    )
    text = explain_timeout([(bare, None)], None, 1, "docs")
    assert text == "not observed as applied in index docs within 1 s: mutation m"


def test_the_timeout_error_names_three_mutations_and_counts_the_rest() -> None:
    applied = Decision(Verdict.APPLIED, "watermark")
    waits = [(receipt("done"), applied), *((receipt(f"m{i}"), pending("why")) for i in range(5))]
    text = explain_timeout(waits, STATE, 60, "docs", "HTTP 503")
    assert "done" not in text
    assert [f"m{i}," in text for i in range(5)] == [True, True, True, False, False]
    assert text.endswith("; and 2 more. The last poll failed: HTTP 503")


def evidence(name: str, outcome: str, second: int = 0, *visible: str) -> dict[str, Any]:
    decision = Decision(Verdict.APPLIED, outcome, "", visible, 5)
    return make_evidence(
        receipt(name, second=second), decision, STATE, account_id="a" * 32, index_name="docs"
    )


def test_fields_of_the_evidence() -> None:
    assert evidence("m", "read_back", 0, "x") == {
        "mutation_id": "m",
        "index_name": "docs",
        "account_id": "a" * 32,
        "outcome": "read_back",
        "watermark": "other",
        "processed_up_to": "2026-01-31T12:01:00Z",
        "accepted_at": "2026-01-31T12:00:00Z",
        "decided_at": "2026-01-31T12:01:10Z",
        "witnesses_checked": 5,
        "still_visible": ["x"],
    }


def test_evidence_when_nothing_was_sent() -> None:
    found = evidence_of_nothing(Receipt(None, "docs", "a" * 32))
    assert found["outcome"] == "nothing_to_do"
    assert found["mutation_id"] is None
    assert found["decided_at"]
    assert (found["watermark"], found["accepted_at"], found["still_visible"]) == (None, None, [])


def test_summarized_evidence_is_as_weak_as_the_weakest() -> None:
    single = evidence("m", "watermark")
    assert summarize([single]) == single
    several = [
        evidence("a", "watermark", 1, "x"),
        evidence("b", "inferred", 3),
        evidence("c", "read_back", 2, "y", "z"),
    ]
    found = summarize(several)
    assert (found["mutation_id"], found["outcome"], found["accepted_at"]) == (
        "b",
        "inferred",
        "2026-01-31T12:00:03Z",
    )
    assert (found["witnesses_checked"], found["still_visible"]) == (15, ["x", "y", "z"])
    assert (found["mutation_count"], found["mutations"]) == (3, several)


@pytest.mark.parametrize("count", [100, 101, 500])
def test_summarized_evidence_has_a_bounded_size(count: int) -> None:
    found = summarize(evidence(f"m{i}", "watermark", i % 60, f"w{i}") for i in range(count))
    assert found["mutation_count"] == count
    assert len(found["mutations"]) == 100
    assert len(found["still_visible"]) == 20
