# SPDX-License-Identifier: Apache-2.0
"""The official SDK as a foreign client."""

from __future__ import annotations

import json
import time

import cloudflare
import pytest

from local.local_client import vector


def wait_for(indexes, account_id: str, mutation_id: str):
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        info = indexes.info("sdk", account_id=account_id)
        if info.processed_up_to_mutation == mutation_id:
            return info
        time.sleep(0.02)
    raise AssertionError("not applied in time")


# The SDK has renamed a parameter; older versions in use only have this name.
@pytest.mark.filterwarnings("ignore:Passing raw bytes:DeprecationWarning")
def test_the_sdk_can_use_every_endpoint(start):
    server = start(apply_delay=0.1)
    account = {"account_id": server.account_id}
    ndjson = {"Content-Type": "application/x-ndjson"}
    with cloudflare.Cloudflare(api_token=server.api_token, base_url=server.base_url, max_retries=0) as client:
        indexes = client.vectorize.indexes
        assert client.user.tokens.verify().status == "active"

        created = indexes.create(name="sdk", config={"dimensions": 32, "metric": "cosine"}, **account)
        assert created.name == "sdk"
        assert created.config.dimensions == 32
        assert created.created_on is not None
        assert [index.name for index in indexes.list(**account)] == ["sdk"]
        assert indexes.get("sdk", **account).config.metric == "cosine"
        info = indexes.info("sdk", **account)
        assert (info.vector_count, info.processed_up_to_mutation, info.processed_up_to_datetime) == (
            0,
            None,
            None,
        )

        body = "\n".join(json.dumps(vector(f"v{i}", metadata={"i": i})) for i in range(5)).encode()
        with pytest.raises(cloudflare.BadRequestError, match="unknown_content_type"):
            indexes.upsert("sdk", body=body, **account)
        with pytest.raises(cloudflare.BadRequestError, match=r"line Some\(0\) was not expected format"):
            indexes.upsert("sdk", body=body.decode(), extra_headers=ndjson, **account)
        upserted = indexes.upsert("sdk", body=body, extra_headers=ndjson, **account)
        info = wait_for(indexes, server.account_id, upserted.mutation_id)
        assert info.vector_count == 5
        assert info.processed_up_to_datetime is not None

        matches = indexes.query("sdk", vector=[0.5] * 32, top_k=2, **account)
        assert matches.count == 2
        assert [(match.id, match.metadata, match.values) for match in matches.matches] == [
            ("v0", None, None),
            ("v1", None, None),
        ]
        assert matches.matches[0].score == pytest.approx(1)
        with pytest.raises(cloudflare.BadRequestError, match="max top K is 50, but got 51"):
            indexes.query("sdk", vector=[0.5] * 32, top_k=51, return_values=True, **account)
        with pytest.raises(cloudflare.BadRequestError, match="expected 32 dimensions, and got 1 dim"):
            indexes.query("sdk", vector=[0.5], **account)
        metadata_index = indexes.metadata_index
        assert metadata_index.list("sdk", **account).metadata_indexes == []
        indexed = metadata_index.create("sdk", property_name="i", index_type="number", **account)
        wait_for(indexes, server.account_id, indexed.mutation_id)
        (shown,) = metadata_index.list("sdk", **account).metadata_indexes
        assert (shown.property_name, shown.index_type) == ("i", "Number")
        again = indexes.upsert("sdk", body=body, extra_headers=ndjson, **account)
        wait_for(indexes, server.account_id, again.mutation_id)
        filtered = indexes.query(
            "sdk",
            vector=[0.5] * 32,
            filter={"i": {"$gte": 1, "$lt": 3}},
            return_metadata="indexed",
            return_values=True,
            **account,
        )
        assert [(m.id, m.metadata, m.values) for m in filtered.matches] == [
            ("v1", {"i": 1}, [0.5] * 32),
            ("v2", {"i": 2}, [0.5] * 32),
        ]
        dropped = metadata_index.delete("sdk", property_name="i", **account)
        wait_for(indexes, server.account_id, dropped.mutation_id)
        assert metadata_index.list("sdk", **account).metadata_indexes == []
        with pytest.raises(cloudflare.BadRequestError, match="40005"):
            metadata_index.delete("sdk", property_name="i", **account)

        inserted = indexes.insert(
            "sdk", body=body, unparsable_behavior="discard", extra_headers=ndjson, **account
        )
        assert inserted.mutation_id
        found = indexes.get_by_ids("sdk", ids=["v1", "none"], **account)
        assert [(v["id"], v["metadata"]) for v in found] == [("v1", {"i": 1})]

        with pytest.raises(cloudflare.BadRequestError, match="max id count is 100, got 101"):
            indexes.delete_by_ids("sdk", ids=["x"] * 101, **account)
        deleted = indexes.delete_by_ids("sdk", ids=["v1", "v2"], **account)
        assert wait_for(indexes, server.account_id, deleted.mutation_id).vector_count == 3

        first = indexes.list_vectors("sdk", count=2, **account)
        assert (first.count, first.total_count, first.is_truncated) == (2, 3, True)
        assert first.cursor_expiration_timestamp is not None
        second = indexes.list_vectors("sdk", count=2, cursor=first.next_cursor, **account)
        assert [v.id for v in first.vectors + second.vectors] == ["v0", "v3", "v4"]
        assert second.next_cursor is None

        indexes.delete("sdk", **account)
        with pytest.raises(cloudflare.APIStatusError) as caught:
            indexes.get("sdk", **account)
        assert caught.value.status_code == 410
        with pytest.raises(cloudflare.NotFoundError):
            indexes.get("never", **account)
    with (
        cloudflare.Cloudflare(api_token="wrong", base_url=server.base_url, max_retries=0) as client,
        pytest.raises(cloudflare.AuthenticationError),
    ):
        client.vectorize.indexes.list(**account)
    # The server's statistics show that no endpoint is missing.
    assert all(server.stats().values()), server.stats()
