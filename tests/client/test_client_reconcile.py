# SPDX-License-Identifier: Apache-2.0
"""Comparing an index with the desired ids, and the limits that refuse a large delete."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_cfvectorize.client import workers
from airflow_provider_cfvectorize.client.bulk.reconcile import (
    SHOWN_LOOKALIKES,
    Comparison,
    Lookalikes,
    check_prefix,
    form_of,
    list_into,
    pause,
    refusal,
)
from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.inputs.ids import IdList
from airflow_provider_cfvectorize.exceptions import (
    VectorizeInputError,
    VectorizeInterrupted,
    VectorizeListingExpired,
    VectorizeNotFoundError,
)
from client.servers import Reply, Request, ScriptedServer, ok, refused
from harness import wait_until

Connect = Callable[..., VectorizeClient]
Serve = Callable[..., ScriptedServer]

#: Not in the order of their characters or bytes.
POOL = [f"{i * 37 % 350}" for i in range(350)] + [
    " ",
    "1\n",
    "aé",
    "é",
    "\U0001f600",
    "\ufffd",
    "a\x00",
    "a",
    "1" * 64,
]


def flat(batches: Any) -> list[str]:
    return [id_ for batch in batches for id_ in batch]


# --- comparing ----------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    st.randoms(use_true_random=False),
    st.sampled_from([0, 0.1, 0.7, 1]),
    st.lists(st.sampled_from([0, 0.1, 0.7, 1]), min_size=1, max_size=3),
    st.sampled_from(["", "1", "a", "é"]),
)
def test_surplus_ids_are_in_every_listing_and_missing_ids_not_in_the_last(
    chance: random.Random, share: float, shares: list[float], prefix: str
) -> None:
    desired = {id_ for id_ in POOL if id_.startswith(prefix) and chance.random() < share}
    listings = [[id_ for id_ in POOL * 2 if chance.random() < share] for share in shares]
    with Comparison(prefix or None) as comparison:
        comparison.add_desired(IdList(list(desired)))
        for listing in listings:
            comparison.add_listing(iter(listing))
        scopes = [{id_ for id_ in listing if id_.startswith(prefix)} for listing in listings]
        surplus = set.intersection(*scopes) - desired
        for stored, expected in (
            (comparison.surplus, surplus),
            (comparison.missing, desired - scopes[-1]),
        ):
            # As an IdSource it returns the batches of the sorted list.
            model = IdList(sorted(expected, key=str.encode))
            assert flat(stored) == flat(stored) == flat(model)
            assert list(stored) == list(model)
            assert (stored.count, stored.batches) == (model.count, model.batches)
            assert stored.samples() == model.samples()
            assert stored.fingerprint == model.fingerprint
            assert stored.first(3) == flat(model)[:3]
        assert (comparison.desired, comparison.listed) == (len(desired), len(scopes[-1]))
        forms = {form_of(id_) for id_ in desired - scopes[-1]}
        alike = [id_ for id_ in sorted(surplus, key=str.encode) if form_of(id_) in forms]
        assert comparison.lookalikes.count == len(alike)
        assert [id_ for id_, _ in comparison.lookalikes.pairs] == alike[:SHOWN_LOOKALIKES]


def test_an_incomplete_listing_is_discarded() -> None:
    def ends_early() -> Iterator[str]:
        yield from ("a", "gone")
        raise VectorizeListingExpired("expired", count=2)

    with Comparison() as comparison:
        comparison.add_desired(IdList(["a"]))
        with pytest.raises(VectorizeListingExpired):
            comparison.add_listing(ends_early())
        comparison.add_listing(["a", "b"])
        with pytest.raises(VectorizeListingExpired):
            comparison.add_listing(ends_early())
        assert flat(comparison.surplus) == ["b"]
        comparison.add_listing(["b"])
        assert (flat(comparison.surplus), flat(comparison.missing)) == (["b"], ["a"])


def test_desired_ids_outside_the_prefix_are_an_error() -> None:
    wanted = IdList([f"a{i}" for i in range(150)] + ["b\n" * 9, *"bcdefg"])
    with pytest.raises(VectorizeInputError) as e, Comparison("a") as comparison:
        comparison.add_desired(wanted)
    text = str(e.value)
    assert "7 of 157 desired ids do not begin with the id_prefix 'a': 'b\\nb" in text
    assert "at position 150, 'b' at position 151, " in text
    assert "'e' at position 154, ..." in text
    assert "'f'" not in text
    with pytest.raises(VectorizeInputError) as e, Comparison("x") as comparison:
        comparison.add_desired(IdList(["hunter2"]), of_file=True)
    assert "1 of 1 desired ids do not begin with the id_prefix 'x': at position 0 (counted from 0)" in str(
        e.value
    )


@pytest.mark.parametrize(
    ("prefix", "said"),
    [
        ("", "which Jinja renders for a missing value"),
        ("None", "which Jinja renders for a missing value"),
        (7, "id_prefix is 7, expected the first characters"),
        (["a"], "expected the first characters"),
        ("x" * 65, "has 65 bytes of UTF-8, expected at most 64, so no id can begin with it"),
        ("\ud800", "surrogate"),
    ],
)
def test_invalid_prefixes_are_refused(prefix: object, said: str) -> None:
    with pytest.raises(VectorizeInputError, match=said):
        check_prefix(prefix)


@pytest.mark.parametrize("prefix", [None, "a", " ", "é" * 32, "nothing"])
def test_valid_prefixes(prefix: object) -> None:
    check_prefix(prefix)


# --- when not to delete -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("desired", "listed", "surplus", "allow_empty", "fraction", "said"),
    [
        (80, 100, 20, False, 0.2, None),
        (79, 100, 21, False, 0.2, "21 of 100 ids (21 %) would be deleted"),
        # 0.29 * 100 is less than 29 in floating point.
        (71, 100, 29, False, 0.29, None),
        (93, 100, 7, False, 0.07, None),
        (1, 3, 1, False, 0.33, "(33.3 %) would be deleted, which is more than max_delete_fraction=0.33"),
        (1, 0, 0, False, 0, None),
        (1, 1, 0, False, 0, None),
        (1, 2, 1, False, 0, "raise max_delete_fraction"),
        (1, 2, 1, True, 0, "dry_run=True"),
        (1, 2, 1, False, 1, None),
        (1, 1, 1, False, 1, None),
        (0, 0, 0, False, 1, "no desired ids"),
        (0, 9, 9, False, 1, "allow_empty=True"),
        (0, 9, 9, True, 0, None),
    ],
)
def test_when_a_reconcile_is_refused(
    desired: int, listed: int, surplus: int, allow_empty: bool, fraction: float, said: str | None
) -> None:
    reason = refusal(
        desired=desired,
        listed=listed,
        surplus=surplus,
        lookalikes=Lookalikes(),
        allow_empty=allow_empty,
        max_delete_fraction=fraction,
        allow_lookalikes=False,
    )
    if said is None:
        assert reason is None
    else:
        assert reason is not None
        assert said in reason
        assert "nothing was deleted" in reason


# --- listing ------------------------------------------------------------------------------------------------


def page(*ids: str, cursor: str | None = None, total: object = 5) -> Reply:
    vectors = [{"id": id_} for id_ in ids]
    more = cursor is not None
    return ok({"totalCount": total, "isTruncated": more, "nextCursor": cursor, "vectors": vectors})


EXPIRED = refused(400, 1000, "cursor expired")


def test_an_expired_listing_starts_over(
    serve: Serve, connect: Connect, caplog: pytest.LogCaptureFixture
) -> None:
    # Ids that only the expired listing had do not count.
    server = serve([page("a", "gone", cursor="x"), EXPIRED, page("a", "b", cursor="y"), page("c", "b")])
    with Comparison() as comparison, caplog.at_level(logging.INFO):
        comparison.add_desired(IdList(["a"]))
        list_into(comparison, connect(server), "docs")
        assert flat(comparison.surplus) == ["b", "c"]
        assert comparison.listed == 3
    assert "Listing again, restart 1 of at most 3." in caplog.text


def test_the_fourth_expired_listing_ends_the_reconcile(serve: Serve, connect: Connect) -> None:
    server = serve(lambda request: EXPIRED if "cursor" in request.path else page("a", cursor="x"))
    with Comparison() as comparison, pytest.raises(VectorizeListingExpired):
        list_into(comparison, connect(server), "docs")
    assert len(server.requests) == 8


def test_other_errors_are_raised_unchanged(serve: Serve, connect: Connect) -> None:
    with Comparison() as comparison, pytest.raises(VectorizeNotFoundError):
        list_into(comparison, connect(serve([refused(404, 3000)])), "docs")


@pytest.mark.parametrize("total", [5, None, "5"])
def test_progress_is_logged(
    serve: Serve,
    connect: Connect,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    total: object,
) -> None:
    monkeypatch.setattr(workers, "SECONDS_BETWEEN_LINES", 0.0)
    server = serve([page("a", "b", cursor="x", total=total), page("c", total=total)])
    with Comparison() as comparison, caplog.at_level(logging.INFO):
        list_into(comparison, connect(server), "docs")
        assert comparison.listed == 3
    assert ("Listing docs: 2 of 5 ids" in caplog.text) is (total == 5)


def test_a_listing_stops_between_two_pages(serve: Serve, connect: Connect) -> None:
    server = serve([page("a", cursor="x"), page("b")])
    with (
        Comparison() as comparison,
        pytest.raises(VectorizeInterrupted, match="during the listing of index 'docs': nothing was deleted"),
    ):
        list_into(comparison, connect(server), "docs", stopped=lambda: len(server.requests) > 0)
    assert len(server.requests) == 1


def test_a_listing_stops_while_a_page_is_in_flight(serve: Serve, connect: Connect) -> None:
    over = threading.Event()

    def answer(request: Request) -> Reply:
        over.wait(30)
        return page("a")

    server = serve(answer)
    try:
        with Comparison() as comparison, pytest.raises(VectorizeInterrupted):
            list_into(comparison, connect(server), "docs", stopped=lambda: len(server.requests) > 0)
    finally:
        over.set()


def test_a_pause_ends_after_its_time_or_at_a_stop() -> None:
    pause(0, lambda: True)
    pause(0.01, lambda: False)
    asked: list[bool] = []

    def stopped() -> bool:
        asked.append(True)
        return len(asked) == 2

    with pytest.raises(VectorizeInterrupted, match="nothing was deleted"):
        pause(3600, stopped)


def test_a_stop_ends_a_pause_in_a_thread() -> None:
    stop, ended = threading.Event(), threading.Event()

    def run() -> None:
        with pytest.raises(VectorizeInterrupted):
            pause(3600, stop.is_set)
        ended.set()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    stop.set()
    wait_until(ended.is_set)


# --- the worker's disk --------------------------------------------------------------------------------------

FULL_DISK = """
import resource
from airflow_provider_cfvectorize.client.bulk import reconcile as reconciliation
from airflow_provider_cfvectorize.exceptions import VectorizeError
# Less memory and a shorter file than the ids take.
reconciliation.CACHE_KIB = 64
resource.setrlimit(resource.RLIMIT_FSIZE, (256 * 1024, 256 * 1024))
try:
    with reconciliation.Comparison() as comparison:
        comparison.add_listing(f"{i:060}" for i in range(20_000))
except VectorizeError as e:
    print(e)
"""


def test_the_error_of_a_full_disk_is_explained() -> None:
    done = subprocess.run([sys.executable, "-c", FULL_DISK], capture_output=True, text=True, check=True)
    assert "the temporary database of ids failed: " in done.stdout
    assert "SQLITE_TMPDIR or TMPDIR" in done.stdout
