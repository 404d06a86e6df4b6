# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from airflow_provider_cfvectorize.client.mutations.decide import Decision, IndexState, Verdict, decide, settle
from airflow_provider_cfvectorize.client.mutations.receipts import (
    MAX_COUNT,
    Receipt,
    format_time,
    parse_time,
)
from airflow_provider_cfvectorize.client.mutations.witnesses import WitnessVector
from airflow_provider_cfvectorize.client.types import is_mutation_id
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

T0 = datetime(2026, 1, 31, 12, tzinfo=UTC)
MINE, OTHER = "mine-1", "other-2"
PENDING, READ_BACK, APPLIED = Verdict.PENDING, Verdict.READ_BACK, Verdict.APPLIED
CREATION, RECREATED = Verdict.CREATION, Verdict.RECREATED
LONG_BEFORE = -(10**6)

WITH = Receipt(MINE, "docs", "a" * 32, T0, 100, 1, ("w1", "w2"))
WITHOUT = replace(WITH, witness_ids=())
V1, V2 = (WitnessVector.of({"id": id_, "values": [0.5]}) for id_ in ("w1", "w2"))
WRITTEN = replace(WITHOUT, witness_vectors=(V1, V2))
BARE = Receipt.of_bare_id(MINE)
NOTHING = Receipt(None, "docs")


def seconds(number: float | None) -> datetime | None:
    return None if number is None else T0 + timedelta(seconds=number)


def state(
    watermark: str | None, stamp: float | None, now: float, created: float | None = LONG_BEFORE
) -> IndexState:
    """Return an index state; all times are seconds after T0."""
    at = seconds(now)
    assert at is not None
    return IndexState(watermark, seconds(stamp), at, seconds(created))


ALL, ONE, NONE = (dict.fromkeys(ids, V1) for ids in (("w1", "w2", "x"), ("w1",), ("x",)))
#: The vectors read after an upsert: both as written, one as written, both different, one different and one
#: absent, none.
EQUAL, EQUAL_1 = {"w1": V1, "w2": V2, "x": V1}, {"w1": V1, "w2": replace(V2, values="0" * 32)}
BEFORE = replace(V1, values="1" * 32)
REPLACED = replace(WITHOUT, witness_vectors=tuple(v.known_before(BEFORE) for v in (V1, V2)))
UNCHANGED, CHANGED_1 = ({"w1": BEFORE, "w2": w2} for w2 in (BEFORE, V2))
OTHERS, OTHER_1 = {id_: replace(V1, id=id_, metadata="0" * 32) for id_ in ("w1", "w2")}, {"w1": V2}

TABLE: list[tuple[str, Receipt, tuple[Any, Any, float], Any, bool, Verdict, str | None]] = [
    ("nothing was sent", NOTHING, (None, None, 0), None, False, APPLIED, "nothing_to_do"),
    ("no watermark yet", WITH, (None, None, 999), None, False, PENDING, None),
    ("no watermark yet, nothing visible", WITH, (None, None, 999), {}, True, PENDING, None),
    ("no watermark yet, no witness", WITHOUT, (None, None, 999), None, True, PENDING, None),
    # The watermark is its own
    ("own", WITHOUT, (MINE, 5, 5), None, False, APPLIED, "watermark"),
    ("own, bare id", BARE, (MINE, None, 5), None, False, APPLIED, "watermark"),
    ("own, unread", WITH, (MINE, 5, 5), None, False, READ_BACK, None),
    ("own, unread at the end", WITH, (MINE, 5, 5), None, True, READ_BACK, None),
    ("own, gone", WITH, (MINE, 5, 5), NONE, False, APPLIED, "watermark"),
    ("own, visible", WITH, (MINE, 5, 124), ALL, False, PENDING, None),
    ("own, visible for 120 s", WITH, (MINE, 5, 125), ALL, False, APPLIED, "watermark"),
    ("own, one visible", WITH, (MINE, 5, 124), ONE, False, PENDING, None),
    ("own, visible at the end", WITH, (MINE, 5, 6), ALL, True, APPLIED, "watermark"),
    ("own, visible, no stamp", WITH, (MINE, None, 119), ALL, False, PENDING, None),
    ("own, visible for 120 s, no stamp", WITH, (MINE, None, 120), ALL, False, APPLIED, "watermark"),
    ("own, an old stamp", WITHOUT, (MINE, -999, 5), None, False, APPLIED, "watermark"),
    # Another's, older
    ("older", WITH, (OTHER, -3, 5), None, False, PENDING, None),
    ("older, nothing visible", WITH, (OTHER, -3, 5), {}, True, PENDING, None),
    ("older, long ago", WITHOUT, (OTHER, -3, 99999), None, True, PENDING, None),
    # Another's, perhaps later
    ("2 s of tolerance", WITH, (OTHER, -2, 5), None, False, READ_BACK, None),
    ("no stamp", WITH, (OTHER, None, 5), None, False, READ_BACK, None),
    ("later", WITH, (OTHER, 3, 5), None, False, READ_BACK, None),
    ("later, gone", WITH, (OTHER, 3, 5), NONE, False, APPLIED, "read_back"),
    ("no stamp, gone", WITH, (OTHER, None, 5), {}, False, APPLIED, "read_back"),
    ("within the tolerance, gone", WITH, (OTHER, -2, 5), {}, False, APPLIED, "read_back"),
    ("later, visible", WITH, (OTHER, 3, 5), ALL, False, PENDING, None),
    ("later, one visible", WITH, (OTHER, 3, 5), ONE, False, PENDING, None),
    ("later, visible at the end", WITH, (OTHER, 3, 5), ALL, True, PENDING, None),
    ("no stamp, visible, long ago", WITH, (OTHER, None, 99999), ONE, True, PENDING, None),
    # Another's, with one witness gone or an idle index
    ("one visible, not old", WITH, (OTHER, 3, 299), ONE, False, PENDING, None),
    ("one visible, old", WITH, (OTHER, 299, 300), ONE, False, APPLIED, "read_back"),
    (
        "one visible, old, 3 batches",
        replace(WITH, batches=3),
        (OTHER, 299, 300),
        ONE,
        False,
        APPLIED,
        "inferred",
    ),
    ("one visible, old, stamp within the tolerance", WITH, (OTHER, -1, 300), ONE, True, PENDING, None),
    ("all visible, old, idle for 120 s", WITH, (OTHER, 180, 300), ALL, False, PENDING, None),
    ("all visible, idle for 300 s", WITH, (OTHER, 0, 300), ALL, False, APPLIED, "inferred"),
    ("all visible, idle for 299 s", WITH, (OTHER, 1, 300), ALL, True, PENDING, None),
    ("all visible, stamp within the tolerance", WITH, (OTHER, -1, 999), ALL, True, PENDING, None),
    # Without witnesses
    ("no witness", WITHOUT, (OTHER, 3, 299), None, False, PENDING, None),
    ("no witness, old", WITHOUT, (OTHER, 3, 300), None, False, APPLIED, "inferred"),
    ("no witness, old, same second", WITHOUT, (OTHER, 0, 300), None, False, APPLIED, "inferred"),
    ("no witness, old, tolerance", WITHOUT, (OTHER, -1, 300), None, True, PENDING, None),
    ("no witness, old, no stamp", WITHOUT, (OTHER, None, 99999), None, True, PENDING, None),
    ("999 batches", replace(WITHOUT, batches=999), (OTHER, 3, 300), None, False, APPLIED, "inferred"),
    ("1,000 batches", replace(WITHOUT, batches=1000), (OTHER, 3, 359), None, False, PENDING, None),
    (
        "1,000 batches, older",
        replace(WITHOUT, batches=1000),
        (OTHER, 3, 360),
        None,
        False,
        APPLIED,
        "inferred",
    ),
    ("200,000 vectors", replace(WITHOUT, count=200_000), (OTHER, 3, 359), None, False, PENDING, None),
    (
        "200,000 vectors, older",
        replace(WITHOUT, count=200_000),
        (OTHER, 3, 360),
        None,
        False,
        APPLIED,
        "inferred",
    ),
    ("2,500 batches", replace(WITHOUT, batches=2500), (OTHER, 3, 419), None, True, PENDING, None),
    (
        "2,500 batches, older",
        replace(WITHOUT, batches=2500),
        (OTHER, 3, 420),
        None,
        False,
        APPLIED,
        "inferred",
    ),
    # An insert or upsert
    ("written, own, unread", WRITTEN, (MINE, 5, 5), None, False, READ_BACK, None),
    ("written, own, equal", WRITTEN, (MINE, 5, 5), EQUAL, False, APPLIED, "watermark"),
    ("written, own, differs", WRITTEN, (MINE, 5, 5), OTHERS, False, APPLIED, "watermark"),
    ("written, own, absent", WRITTEN, (MINE, 5, 124), {}, False, PENDING, None),
    ("written, own, absent for 120 s", WRITTEN, (MINE, 5, 125), {}, False, APPLIED, "watermark"),
    ("replaced, own, unchanged", REPLACED, (MINE, 5, 6), UNCHANGED, False, PENDING, None),
    ("replaced, own, one unchanged", REPLACED, (MINE, 5, 6), CHANGED_1, False, PENDING, None),
    ("replaced, own, unchanged at the end", REPLACED, (MINE, 5, 6), UNCHANGED, True, APPLIED, "watermark"),
    ("replaced, later, unchanged", REPLACED, (OTHER, 3, 5), UNCHANGED, False, PENDING, None),
    ("replaced, later, unchanged at the end", REPLACED, (OTHER, 3, 5), UNCHANGED, True, PENDING, None),
    ("replaced, one unchanged at the end", REPLACED, (OTHER, 3, 5), CHANGED_1, True, PENDING, None),
    ("replaced, one unchanged, old", REPLACED, (OTHER, 3, 300), CHANGED_1, False, APPLIED, "read_back"),
    ("replaced, later, differs, end", REPLACED, (OTHER, 3, 5), OTHERS, True, APPLIED, "present_differs"),
    ("replaced, unchanged, old", REPLACED, (OTHER, 180, 300), UNCHANGED, True, PENDING, None),
    ("replaced, unchanged, idle for 300 s", REPLACED, (OTHER, 0, 300), UNCHANGED, False, APPLIED, "inferred"),
    ("written, no watermark yet", WRITTEN, (None, None, 999), EQUAL, True, PENDING, None),
    ("written, older", WRITTEN, (OTHER, -3, 5), EQUAL, True, PENDING, None),
    ("written, later", WRITTEN, (OTHER, 3, 5), None, False, READ_BACK, None),
    ("written, later, equal", WRITTEN, (OTHER, 3, 5), EQUAL, False, APPLIED, "read_back"),
    ("written, no stamp, equal", WRITTEN, (OTHER, None, 5), EQUAL, False, APPLIED, "read_back"),
    ("written, later, absent", WRITTEN, (OTHER, 3, 5), {}, False, PENDING, None),
    ("written, later, absent at the end", WRITTEN, (OTHER, 3, 5), {}, True, PENDING, None),
    ("written, later, differs", WRITTEN, (OTHER, 3, 5), OTHERS, False, PENDING, None),
    ("written, later, differs, end", WRITTEN, (OTHER, 3, 5), OTHERS, True, APPLIED, "present_differs"),
    ("written, older, differs at the end", WRITTEN, (OTHER, -3, 5), OTHERS, True, PENDING, None),
    ("written, one differs", WRITTEN, (OTHER, 3, 299), EQUAL_1, False, PENDING, None),
    ("written, one differs, end", WRITTEN, (OTHER, 3, 5), EQUAL_1, True, APPLIED, "present_differs"),
    ("written, one differs, old", WRITTEN, (OTHER, 3, 300), EQUAL_1, False, APPLIED, "read_back"),
    ("written, one differs, one absent, end", WRITTEN, (OTHER, 3, 5), OTHER_1, True, PENDING, None),
    ("written, differs, old", WRITTEN, (OTHER, 180, 300), OTHERS, False, PENDING, None),
    ("written, differs, idle 300 s", WRITTEN, (OTHER, 0, 300), OTHERS, False, APPLIED, "present_differs"),
    ("written, absent, idle for 300 s", WRITTEN, (OTHER, 0, 300), {}, False, APPLIED, "inferred"),
    # A bare id
    ("bare", BARE, (OTHER, 99, 99999), None, True, PENDING, None),
    ("bare, no watermark", BARE, (None, None, 99999), None, True, PENDING, None),
]


@pytest.mark.parametrize(
    ("receipt", "seen", "visible", "last", "verdict", "outcome"),
    [pytest.param(*row[1:], id=row[0]) for row in TABLE],
)
def test_decide(
    receipt: Receipt, seen: Any, visible: Any, last: bool, verdict: Verdict, outcome: str | None
) -> None:
    decision = decide(receipt, state(*seen), visible, at_deadline=last)
    assert (decision.verdict, decision.outcome) == (verdict, outcome)
    assert decision.reason
    read = visible is not None and receipt.mutation_id is not None
    assert decision.witnesses_checked == (len(receipt.to_read_back) if read else 0)
    assert decision.still_visible == (tuple(w for w in receipt.witness_ids if w in visible) if read else ())
    own = seen[0] == MINE
    differing = (
        w.id
        for w in receipt.witness_vectors
        if read and (w.is_as_before(visible.get(w.id)) if own else not w.is_as_written(visible.get(w.id)))
    )
    assert decision.differing == tuple(differing)


NEEDS_CREATION: list[tuple[str, Receipt, tuple[Any, Any, float], Any, bool]] = [
    ("inferred without a witness", WITHOUT, (OTHER, 3, 300), None, False),
    ("inferred, all visible", WITH, (OTHER, 0, 300), ALL, False),
    ("read back in part", WITH, (OTHER, 299, 300), ONE, False),
    ("an upsert inferred", WRITTEN, (OTHER, 0, 300), {}, False),
    ("an upsert read back in part", WRITTEN, (OTHER, 3, 300), EQUAL_1, False),
    ("present, but different", WRITTEN, (OTHER, 0, 300), OTHERS, False),
    ("the deadline", WITH, (OTHER, 3, 5), ALL, True),
    ("the deadline without a witness", WITHOUT, (OTHER, -3, 5), None, True),
    ("no watermark, but witnesses", WITH, (None, None, 1), None, False),
    ("no watermark, but a replaced vector", REPLACED, (None, None, 1), None, False),
    ("no watermark for long", WITHOUT, (None, None, 300), None, False),
]


@pytest.mark.parametrize(
    ("receipt", "seen", "visible", "last"), [pytest.param(*row[1:], id=row[0]) for row in NEEDS_CREATION]
)
def test_cases_that_need_the_index_creation(receipt: Receipt, seen: Any, visible: Any, last: bool) -> None:
    for created, verdict in ((None, CREATION), (2.5, RECREATED)):
        decision = decide(receipt, state(*seen, created), visible, at_deadline=last)
        assert (decision.verdict, decision.outcome) == (verdict, None)
        assert decision.reason
    # A receipt's time has whole seconds: an index created within 2 s of it may have had the mutation.
    just_then = decide(receipt, state(*seen, 2), visible, at_deadline=last)
    assert just_then == decide(receipt, state(*seen), visible, at_deadline=last)


witnesses = st.lists(st.sampled_from(["w1", "w2", "w3"]), unique=True).map(tuple)
receipts = st.builds(
    Receipt,
    st.just(MINE),
    accepted_at=st.just(T0),
    batches=st.integers(0, 5000),
    witness_ids=witnesses,
) | st.builds(
    Receipt,
    st.just(MINE),
    accepted_at=st.just(T0),
    batches=st.integers(0, 5000),
    witness_vectors=st.sampled_from([(), (V1,), (V1, V2), REPLACED.witness_vectors]),
)
states = st.builds(
    state,
    st.sampled_from([None, MINE, OTHER]),
    st.none() | st.integers(-1000, 2000),
    st.integers(-10, 2000),
)
found = st.dictionaries(st.sampled_from(["w1", "w2", "w3", "x"]), st.sampled_from([V1, V2, BEFORE]))
seen_ids = st.none() | found


@given(receipts, states, st.booleans())
def test_pending_while_every_witness_is_visible_and_the_index_is_busy(
    receipt: Receipt, state: IndexState, last: bool
) -> None:
    decision = decide(receipt, state, dict.fromkeys(receipt.witness_ids, V1), at_deadline=last)
    idle = state.processed_up_to and state.observed_at - state.processed_up_to >= timedelta(seconds=300)
    if receipt.witness_ids and state.watermark != MINE and not idle:
        assert decision.verdict is PENDING


@given(states, seen_ids, st.booleans())
def test_only_its_own_watermark_proves_a_bare_id(
    state: IndexState, visible: dict[str, WitnessVector] | None, last: bool
) -> None:
    decision = decide(BARE, state, visible, at_deadline=last)
    assert (decision.verdict is APPLIED) == (state.watermark == MINE)


@given(receipts, states, seen_ids)
def test_the_deadline_only_ends_a_wait_for_lagging_views(
    receipt: Receipt, state: IndexState, visible: dict[str, WitnessVector] | None
) -> None:
    before = decide(receipt, state, visible)
    last = decide(receipt, state, visible, at_deadline=True)
    if state.watermark != MINE:
        assert last == before or (last.outcome == "present_differs" and before.verdict is PENDING)
    elif visible is not None:
        assert (last.verdict, last.outcome) == (APPLIED, "watermark")


@given(receipts, states, found, st.booleans())
def test_witnesses_are_never_requested_twice(
    receipt: Receipt, state: IndexState, visible: dict[str, WitnessVector], last: bool
) -> None:
    assert decide(receipt, state, visible, at_deadline=last).verdict is not READ_BACK


@given(receipts, states, seen_ids, st.integers(0, 10_000), st.booleans())
def test_an_applied_mutation_stays_applied_as_time_passes(
    receipt: Receipt, now: IndexState, visible: dict[str, WitnessVector] | None, more: int, last: bool
) -> None:
    later = replace(now, observed_at=now.observed_at + timedelta(seconds=more))
    before = decide(receipt, now, visible, at_deadline=last)
    if before.verdict is APPLIED:
        assert decide(receipt, later, visible, at_deadline=last).verdict is APPLIED


@given(receipts, states, seen_ids, st.booleans())
def test_nothing_is_applied_before_the_first_watermark(
    receipt: Receipt, seen: IndexState, visible: dict[str, WitnessVector] | None, last: bool
) -> None:
    decision = decide(receipt, replace(seen, watermark=None), visible, at_deadline=last)
    assert decision.verdict is PENDING


@given(receipts | st.just(BARE), states, seen_ids, st.booleans())
def test_a_visible_effect_needs_no_index_creation(
    receipt: Receipt, seen: IndexState, visible: dict[str, WitnessVector] | None, last: bool
) -> None:
    known, unknown = (
        decide(receipt, replace(seen, created_on=created), visible, at_deadline=last)
        for created in (seen.created_on, None)
    )
    assert unknown == known or (
        unknown.verdict is CREATION
        and known.outcome != "watermark"
        and (known.outcome != "read_back" or known.still_visible or known.differing)
    )


dates = st.datetimes(timezones=st.timezones() | st.just(UTC))


@given(
    st.builds(
        Receipt,
        st.none() | st.from_regex(r"\A[A-Za-z0-9_-]{1,36}\Z"),
        st.none() | st.text(max_size=9),
        st.none() | st.text(max_size=9),
        dates.filter(lambda date: parse_time(date.isoformat()) is not None).map(
            lambda d: parse_time(d.isoformat())
        ),
        st.integers(0, MAX_COUNT),
        st.integers(0, MAX_COUNT),
        st.lists(st.text("ab\u2028é", min_size=1, max_size=9), max_size=20).map(tuple),
    ),
    states,
)
@example(Receipt(MINE, accepted_at=datetime.min.replace(tzinfo=UTC), batches=MAX_COUNT), state(OTHER, 0, 0))
@example(Receipt(MINE, accepted_at=datetime.max.replace(tzinfo=UTC), batches=MAX_COUNT), state(OTHER, 0, 0))
def test_a_receipt_from_xcom_can_be_decided(receipt: Receipt, state: IndexState) -> None:
    assert Receipt.from_dict(json.loads(json.dumps(receipt.as_dict()))) == receipt
    assert Receipt.from_argument(json.loads(json.dumps(BARE.as_argument()))) == BARE
    assert Receipt.from_dict(BARE.as_dict()) == BARE
    assert isinstance(decide(receipt, state), Decision)


GOOD = WITH.as_dict()


def test_the_fields_of_a_receipt() -> None:
    assert GOOD == {
        "mutation_id": MINE,
        "index_name": "docs",
        "account_id": "a" * 32,
        "accepted_at": "2026-01-31T12:00:00Z",
        "count": 100,
        "batches": 1,
        "witness_ids": ["w1", "w2"],
    }
    assert WRITTEN.as_dict() == {
        **GOOD,
        "witness_ids": [],
        "witness_vectors": [V1.as_dict(), V2.as_dict()],
    }
    assert Receipt.from_dict(WRITTEN.as_dict()) == WRITTEN
    assert Receipt.from_dict({**GOOD, "later": "field"}) == WITH
    assert Receipt.from_dict({"mutation_id": None}) == Receipt(None)
    assert Receipt.from_dict({"mutation_id": MINE, "accepted_at": "2026-01-31 13:00+01:00"}).accepted_at == T0
    assert Receipt.from_dict({**GOOD, "witness_ids": None}).witness_ids == ()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mutation_id": ""}, "invalid mutation_id ''"),
        ({"mutation_id": 5}, "invalid mutation_id 5"),
        ({"mutation_id": "x" * 37}, "(37 long)|invalid mutation_id"),
        ({"mutation_id": "a\nb"}, "invalid mutation_id"),
        ({"mutation_id": "a b"}, "invalid mutation_id"),
        ({"accepted_at": None}, "accepted_at is None, expected a time such as 2026-01-31T23:59:59Z"),
        ({"accepted_at": "yesterday"}, "accepted_at is 'yesterday'"),
        ({"accepted_at": 1769860800}, "accepted_at is 1769860800"),
        ({"accepted_at": "0001-01-01T00:00:00+05:00"}, "accepted_at is"),
        ({"count": -1}, "count is -1"),
        ({"count": "1"}, "count is '1'"),
        ({"count": True}, "count is True"),
        ({"count": 1.0}, "count is 1.0"),
        ({"count": None}, "count is None"),
        ({"batches": 10**12 + 1}, "batches is 1000000000001, expected an integer from 0 to"),
        ({"batches": 10**5000}, "batches is an integer of more than"),
        ({"witness_ids": "w1"}, "witness_ids is 'w1', expected a list"),
        ({"witness_ids": {"w1": 1}}, "witness_ids is a dict"),
        ({"witness_ids": [1]}, "witness_ids is a list"),
        ({"witness_ids": [""]}, "ids of 1 to 64 bytes"),
        ({"witness_ids": ["x" * 65]}, "ids of 1 to 64 bytes"),
        ({"witness_ids": ["\ud800"]}, "ids of 1 to 64 bytes"),
        ({"witness_ids": [str(i) for i in range(21)]}, "at most 20"),
        ({"index_name": 5}, "index_name is 5, expected a string"),
        ({"account_id": ["a"]}, "account_id is a list, expected a string"),
        ({"witness_vectors": [V1.as_dict()]}, "vectors, and none together with witness_ids"),
        ({"witness_ids": [], "witness_vectors": "x"}, "witness_vectors is 'x', expected a list"),
        ({"witness_ids": [], "witness_vectors": [V1.as_dict()] * 21}, "at most 20"),
        ({"witness_ids": [], "witness_vectors": [{"id": "a"}]}, "witness_vectors has a dict, expected"),
    ],
    ids=range(29),
)
def test_invalid_receipts_are_refused(changes: dict[str, object], said: str) -> None:
    with pytest.raises(VectorizeInputError) as e:
        Receipt.from_dict({**GOOD, **changes})
    assert any(part in str(e.value) for part in said.split("|"))


@pytest.mark.parametrize("value", [None, "x", [], {}, {"count": 1}, 5])
def test_a_receipt_must_be_a_dict(value: object) -> None:
    with pytest.raises(VectorizeInputError, match=r"expected the dict that an operator pushes.*'receipt'"):
        Receipt.from_dict(value)


def test_mutation_ids() -> None:
    assert is_mutation_id("7f11d6e5-d126-4f76-936e-fbfec079e0be")
    for value in (None, "", "a.b", "a\n", "é", b"a", 5, "x" * 37):
        assert not is_mutation_id(value)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2026-01-31T12:00:00Z", T0),
        ("2026-01-31T12:00:00.000Z", T0),
        ("2026-01-31T12:00:00.000000000+00:00", T0),
        ("2026-01-31T12:00:00", T0),
        ("2026-01-31T14:30:00+02:30", T0),
        ("2026-01-31T12:00:00.25Z", T0 + timedelta(seconds=0.25)),
        ("", None),
        ("now", None),
        (None, None),
        (5, None),
        ("9999-12-31T23:59:59-01:00", None),
    ],
)
def test_times_are_parsed(text: object, time: datetime | None) -> None:
    assert parse_time(text) == time


@given(st.text(max_size=30))
def test_arbitrary_text_parses_as_a_time_or_none(text: str) -> None:
    time = parse_time(text)
    assert time is None or parse_time(format_time(time)) == time


@pytest.mark.parametrize(
    ("info", "watermark", "stamp"),
    [
        ({"dimensions": 32, "vectorCount": 0}, None, None),
        ({"processedUpToMutation": None, "processedUpToDatetime": None}, None, None),
        ({"processedUpToMutation": MINE}, MINE, None),
        ({"processedUpToMutation": MINE, "processedUpToDatetime": "2026-01-31T12:00:00.000Z"}, MINE, T0),
        ({"processedUpToMutation": 5, "processedUpToDatetime": 1700000000000}, None, None),
    ],
)
def test_the_state_in_an_answer(info: dict[str, Any], watermark: str | None, stamp: datetime | None) -> None:
    assert IndexState.from_info(info, T0) == IndexState(watermark, stamp, T0)


def test_an_index_state_as_text() -> None:
    assert str(state(None, None, 0)) == "the index has applied no mutation yet"
    assert str(state("a\nb", 0, 9)) == r"the watermark is 'a\nb' of 2026-01-31T12:00:00Z"
    assert str(state(OTHER, None, 9)) == "the watermark is 'other-2' of an unknown time"


def wait_of(*waits: tuple[float, Decision], **more: Any) -> list[Decision]:
    receipts = [replace(WITH, accepted_at=seconds(second), **more) for second, _ in waits]
    return settle(receipts, [decision for _, decision in waits], state(OTHER, 9, 9))


STILL = Decision(PENDING, reason="still there", still_visible=("w1",), witnesses_checked=2)
PROOF = Decision(APPLIED, "watermark", "it is")


def test_a_later_mutation_proves_an_earlier_one() -> None:
    earlier, later = wait_of((0, STILL), (3, PROOF))
    assert (earlier.verdict, earlier.outcome, earlier.still_visible) == (APPLIED, "watermark", ("w1",))
    assert later is PROOF
    earlier, _ = wait_of((0, STILL), (3, replace(PROOF, outcome="read_back")))
    assert earlier.outcome == "read_back"
    # An upsert that makes ids visible again does not contradict an earlier delete.
    receipts = [WITH, replace(WRITTEN, accepted_at=seconds(3))]
    earlier, _ = settle(receipts, [STILL, PROOF], state(OTHER, 9, 9))
    assert (earlier.verdict, earlier.still_visible) == (APPLIED, ())


@pytest.mark.parametrize(("created", "verdict"), [(None, CREATION), (2, APPLIED), (2.5, RECREATED)])
def test_a_later_mutation_proves_an_earlier_one_of_the_same_index(created: Any, verdict: Verdict) -> None:
    receipts = [WITH, replace(WITH, accepted_at=seconds(3))]
    earlier, later = settle(receipts, [STILL, PROOF], state(OTHER, 9, 9, created))
    assert (earlier.verdict, later) == (verdict, PROOF)


@pytest.mark.parametrize(
    "waits",
    [
        # Clocks have whole seconds and differ between machines.
        [(0, STILL), (2, PROOF)],
        [(3, STILL), (0, PROOF)],
        [(0, STILL), (9, replace(PROOF, outcome="inferred"))],
        [(0, STILL), (9, replace(PROOF, outcome="present_differs"))],
        [(0, STILL), (9, STILL)],
        [(0, Decision(READ_BACK)), (9, PROOF)],
    ],
    ids=range(6),
)
def test_mutations_that_prove_nothing_about_others(waits: Any) -> None:
    assert wait_of(*waits) == [decision for _, decision in waits]
