# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re

import pytest

from airflow_provider_cfvectorize.local import Behaviour
from local.local_client import Client, mutation, refusal, result, vector

LAST = {"nextCursor": None, "cursorExpirationTimestamp": None}


def ids(page) -> list[str]:
    return [entry["id"] for entry in page["vectors"]]


def fill(client: Client, clock, names: str, delay: float = 2) -> None:
    mutation(client.upsert([vector(name) for name in names]))
    clock.advance(delay)


def test_a_listing_of_one_page(client: Client, clock):
    fill(client, clock, "abc")

    assert client.page() == {
        "count": 3,
        "totalCount": 3,
        "isTruncated": False,
        "vectors": [{"id": "a"}, {"id": "b"}, {"id": "c"}],
        **LAST,
    }


def test_a_listing_of_an_empty_index(client: Client):
    assert client.page() == {"count": 0, "totalCount": 0, "isTruncated": False, "vectors": [], **LAST}


def test_a_listing_of_several_pages(client: Client, clock):
    fill(client, clock, "abcdefg")

    first = client.page(count=3)
    assert (first["count"], first["totalCount"], first["isTruncated"]) == (3, 7, True)
    assert re.fullmatch("[0-9a-zA-Z]{64}", first["nextCursor"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}\+00:00", first["cursorExpirationTimestamp"])
    second = client.page(count=3, cursor=first["nextCursor"])
    third = client.page(count=3, cursor=second["nextCursor"])

    assert ids(first) + ids(second) + ids(third) == list("abcdefg")
    assert LAST.items() <= third.items()
    assert (third["count"], third["totalCount"], third["isTruncated"]) == (1, 7, False)
    # A client can request a page again after a lost answer.
    assert ids(client.page(count=3, cursor=first["nextCursor"])) == ids(second)


def test_a_listing_shows_the_index_at_its_start(client: Client, clock):
    fill(client, clock, "abcd")
    first = client.page(count=2)
    mutation(client.delete(["c"]))
    fill(client, clock, "xyz")

    second = client.page(count=2, cursor=first["nextCursor"])
    assert ids(second) == ["c", "d"]
    assert second["totalCount"] == 4
    assert sorted(ids(client.page(count=10))) == list("abdxyz")


def test_listings_of_an_unchanged_index_share_a_snapshot(client: Client, clock, shared):
    fill(client, clock, "abcd")
    pages = [client.page(count=2) for _ in range(5)]
    mutation(client.delete(["never"]))
    mutation(client.upsert([vector("a", 9)]))
    clock.advance(2)
    pages.append(client.page(count=2))

    snapshots = shared._store.listings._snapshots
    key = shared._store.index("docs").key
    assert sum(s.index_key == key for s in snapshots.values()) == 1
    for page in pages:
        assert ids(client.page(cursor=page["nextCursor"])) == ["c", "d"]


def test_snapshots_are_bounded(client: Client, clock, shared, monkeypatch):
    monkeypatch.setattr("airflow_provider_cfvectorize.local.engine.listing.SNAPSHOTS_PER_INDEX", 3)
    fill(client, clock, "abcd")
    cursors = []
    for name in "123456":
        cursors.append(client.page(count=2)["nextCursor"])
        fill(client, clock, name)

    assert [client.send("GET", "/docs/list", params={"cursor": c}).status_code for c in cursors] == [
        *[400] * 3,
        *[200] * 3,
    ]


def test_a_cursor_expires(client: Client, clock):
    fill(client, clock, "abcdefg")
    first = client.page(count=2)
    clock.advance(899)
    second = client.page(count=2, cursor=first["nextCursor"])
    clock.advance(1)
    assert refusal(client.send("GET", "/docs/list", params={"cursor": first["nextCursor"]})) == (
        400,
        40000,
        "invalid or expired cursor",
    )
    # The next page's cursor has its own lifetime.
    assert ids(client.page(count=2, cursor=second["nextCursor"])) == ["e", "f"]


def test_the_lifetime_is_a_switch(start, connect, clock):
    behaviour = Behaviour(cursor_lifetime=5, cursor_lifetime_restarts=False, unpublished_code=41000)
    client = connect(start(clock=clock, apply_delay=0, behaviour=behaviour))
    client.create()
    fill(client, clock, "abcdef", 0)
    first = client.page(count=2)
    clock.advance(4)
    second = client.page(count=2, cursor=first["nextCursor"])
    assert second["cursorExpirationTimestamp"] == first["cursorExpirationTimestamp"]
    clock.advance(1)

    response = client.send("GET", "/docs/list", params={"cursor": second["nextCursor"]})
    assert refusal(response)[:2] == (400, 41000)


def test_a_cursor_is_valid_for_one_index(client: Client, clock):
    client.create("other")
    fill(client, clock, "abc")
    cursor = client.page(count=1)["nextCursor"]

    assert refusal(client.send("GET", "/other/list", params={"cursor": cursor}))[2].startswith("invalid")
    client.send("DELETE", "/docs")
    client.create()
    assert refusal(client.send("GET", "/docs/list", params={"cursor": cursor}))[2].startswith("invalid")


@pytest.mark.parametrize("cursor", ["x", "A" * 64, "ä" * 64, "A" * 63, "=", "A" * 5000, "\x00"])
def test_damaged_cursors_are_refused(client: Client, cursor):
    assert refusal(client.send("GET", "/docs/list", params={"cursor": cursor}))[:2] == (400, 40000)


def test_a_cursor_cannot_be_altered(client: Client, clock):
    fill(client, clock, "abc")
    cursor = client.page(count=1)["nextCursor"]
    for place in (0, 25, 40, 63):
        altered = cursor[:place] + ("a" if cursor[place] != "a" else "b") + cursor[place + 1 :]
        assert refusal(client.send("GET", "/docs/list", params={"cursor": altered}))[0] == 400
    for altered in (cursor[:-1], cursor + "a", cursor + " ", f"-{cursor}", cursor[:40]):
        assert refusal(client.send("GET", "/docs/list", params={"cursor": altered}))[0] == 400


def test_the_count_of_a_page(client: Client, clock):
    mutation(client.upsert([vector(f"v{i:04}") for i in range(1100)]))
    clock.advance(2)

    assert client.page()["count"] == 100
    assert client.page(count=1)["count"] == 1
    assert client.page(count=1000)["count"] == 1000
    for bad in ("0", "1001", "-1", "ten", "", "1.5", "٣", "9" * 30):
        response = client.send("GET", "/docs/list", params={"count": bad})
        assert refusal(response) == (400, 40000, "count must be a number from 1 to 1000")


def test_an_empty_cursor_starts_a_listing(client: Client, clock):
    fill(client, clock, "abc")

    assert result(client.send("GET", "/docs/list?cursor="))["count"] == 3
