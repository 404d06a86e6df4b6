# SPDX-License-Identifier: Apache-2.0
"""Listing all ids of an index: pages, expired cursors and restarts."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from airflow_provider_cfvectorize.client.bulk.list import iter_ids, repeat_listing
from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeInputError,
    VectorizeListingExpired,
    VectorizeNotFoundError,
    VectorizeResponseError,
    VectorizeThrottledError,
)
from airflow_provider_cfvectorize.local import LocalVectorize
from client.servers import Reply, ScriptedServer, ok, refused

Connect = Callable[..., VectorizeClient]
Serve = Callable[..., ScriptedServer]


def page(*ids: str, cursor: object = None, **change: Any) -> Reply:
    body = {"count": len(ids), "totalCount": 9, "isTruncated": cursor is not None, "nextCursor": cursor}
    return ok({**body, "vectors": [{"id": id_} for id_ in ids], **change})


def test_pages_are_joined_to_a_listing(serve: Serve, connect: Connect) -> None:
    server = serve([page("a1", "b1", cursor="x"), page(cursor="y"), page("a2", "é")])
    client = connect(server)
    assert list(iter_ids(client, "docs", page_size=2)) == ["a1", "b1", "a2", "é"]
    queries = [parse_qs(urlsplit(request.path).query) for request in server.requests]
    assert queries == [{"count": ["2"]}, {"count": ["2"], "cursor": ["x"]}, {"count": ["2"], "cursor": ["y"]}]


def test_the_client_filters_by_prefix(serve: Serve, connect: Connect) -> None:
    server = serve([page("a1", "b1", cursor="x"), page("a2", "A3", "")])
    assert list(iter_ids(connect(server), "docs", prefix="a")) == ["a1", "a2"]
    assert server.requests[0].path.endswith("/list?count=1000")


def test_pages_are_read_on_demand(serve: Serve, connect: Connect) -> None:
    server = serve([page("a", "b", cursor="x"), page("c")])
    listing = iter_ids(connect(server), "docs")
    assert server.requests == []
    assert list(itertools.islice(listing, 2)) == ["a", "b"]
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "options", [{"page_size": 0}, {"page_size": 1001}, {"page_size": "10"}, {"prefix": 5}, {"prefix": b"a"}]
)
def test_invalid_options_are_refused_at_once(connect: Connect, options: dict[str, Any]) -> None:
    with pytest.raises(VectorizeInputError, match=r"expected a string|from 1 to 1000"):
        iter_ids(connect("http://127.0.0.1:9/client/v4"), "docs", **options)


def test_an_invalid_index_name_is_refused_at_once(connect: Connect) -> None:
    with pytest.raises(VectorizeInputError, match="index name"):
        iter_ids(connect("http://127.0.0.1:9/client/v4"), "../docs")


@pytest.mark.parametrize(
    "refusal",
    [
        refused(400, 1000, "cursor expired"),
        refused(400, None),
        refused(410, 4711),
        refused(422, 40000),
        Reply(400, b"no JSON at all"),
    ],
)
def test_a_refused_cursor_counts_as_expired(serve: Serve, connect: Connect, refusal: Reply) -> None:
    server = serve([page("a1", "b1", cursor="x"), page("a2", cursor="y"), refusal])
    listing = iter_ids(connect(server), "docs", prefix="a")
    assert [next(listing), next(listing)] == ["a1", "a2"]
    with pytest.raises(VectorizeListingExpired, match=r"'docs' ended after 3 of 9 ids: .* HTTP 4") as e:
        next(listing)
    assert e.value.count == 3
    assert isinstance(e.value.__cause__, VectorizeResponseError)


@pytest.mark.parametrize(
    ("refusal", "kind"),
    [
        (refused(401, 10000), VectorizeAuthError),
        (refused(403, 10000), VectorizeAuthError),
        (refused(404, 3000), VectorizeNotFoundError),
        (refused(404, 4711), VectorizeNotFoundError),
        (refused(410, 3005), VectorizeNotFoundError),
        (refused(400, 3000), VectorizeNotFoundError),
        (refused(429, 971), VectorizeThrottledError),
        (refused(400, 40041), VectorizeThrottledError),
        (refused(408, 1000), VectorizeResponseError),
        (refused(500, 1000), VectorizeResponseError),
        (Reply(504, b"upstream request timeout"), VectorizeResponseError),
        (Reply(403, b"<html>Just a moment"), VectorizeResponseError),
    ],
)
def test_other_refusals_do_not_count_as_expired(
    serve: Serve, connect: Connect, refusal: Reply, kind: type[Exception]
) -> None:
    with pytest.raises(kind) as e:
        list(iter_ids(connect(serve([page("a", cursor="x"), refusal])), "docs"))
    assert not isinstance(e.value, VectorizeListingExpired)


def test_a_refused_first_page_does_not_count_as_expired(serve: Serve, connect: Connect) -> None:
    with pytest.raises(VectorizeResponseError):
        list(iter_ids(connect(serve([refused(400, 1000)])), "docs"))


@pytest.mark.parametrize(
    "open_end",
    [
        page("a", isTruncated=True),
        page("a", isTruncated=True, nextCursor=""),
        page("a", isTruncated=True, nextCursor=5),
        page("a", isTruncated=None),
        page("a", isTruncated="false"),
    ],
)
def test_a_page_must_say_whether_more_follow(serve: Serve, connect: Connect, open_end: Reply) -> None:
    with pytest.raises(VectorizeResponseError, match="has no valid isTruncated or nextCursor"):
        list(iter_ids(connect(serve([open_end])), "docs"))


def test_a_repeated_cursor_ends_the_listing(serve: Serve, connect: Connect) -> None:
    server = serve([page("a", cursor="x")])
    with pytest.raises(
        VectorizeResponseError, match="after 2 ids the service returned the same cursor again"
    ):
        list(iter_ids(connect(server), "docs"))
    assert len(server.requests) == 2


def expiring(times: int) -> Callable[[], Iterator[str]]:
    left = iter(range(times))

    def listing() -> Iterator[str]:
        yield "a"
        if next(left, None) is not None:
            raise VectorizeListingExpired("expired", count=1)
        yield "b"

    return listing


@pytest.mark.parametrize("times", [0, 1, 3])
def test_an_expired_listing_is_repeated(times: int, caplog: pytest.LogCaptureFixture) -> None:
    listing = expiring(times)
    seen: list[str] = []
    with caplog.at_level(logging.INFO):
        assert repeat_listing(lambda: seen.extend(listing())) is None
    assert seen == ["a"] * times + ["a", "b"]
    assert len(caplog.messages) == times


def test_the_fourth_expired_listing_is_an_error() -> None:
    calls: list[int] = []

    def work() -> None:
        calls.append(1)
        raise VectorizeListingExpired("expired", count=7)

    with pytest.raises(VectorizeListingExpired) as e:
        repeat_listing(work)
    assert (len(calls), e.value.count) == (4, 7)


def test_a_listing_from_the_local_server(index: tuple[VectorizeClient, str]) -> None:
    client, name = index
    ids = [f"v{i:04}" for i in range(2500)]
    last = client.upsert(name, [{"id": id_, "values": [1.0] * 32} for id_ in ids])["mutationId"]
    while client.info(name).get("processedUpToMutation") != last:
        time.sleep(0.01)
    assert sorted(iter_ids(client, name)) == ids
    assert sorted(iter_ids(client, name, prefix="v01", page_size=700)) == ids[100:200]


def test_a_cursor_that_the_local_server_refuses(vectorize: LocalVectorize) -> None:
    client = VectorizeClient(
        vectorize.account_id, api_token=vectorize.api_token, base_url=vectorize.base_url, retry=None
    )
    client.create_index("listed", dimensions=32, metric="cosine")
    last = client.upsert("listed", [{"id": id_, "values": [1.0] * 32} for id_ in "abc"])["mutationId"]
    while client.info("listed").get("processedUpToMutation") != last:
        time.sleep(0.01)
    listing = iter_ids(client, "listed", page_size=1)
    next(listing)
    client.delete_index("listed")
    client.create_index("listed", dimensions=32, metric="cosine")
    with pytest.raises(VectorizeListingExpired, match="after 1 of 3 ids"):
        next(listing)
    client.delete_index("listed")
    client.close()
