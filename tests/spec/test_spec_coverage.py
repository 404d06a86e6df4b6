# SPDX-License-Identifier: Apache-2.0
"""
The official SDK and the client reach every endpoint that Cloudflare describes.

Other tests check the answers: ``tests/local/test_local_sdk.py``, ``tests/client``. These tests read the
reached endpoints from the server's statistics.
"""

from __future__ import annotations

import json
from collections.abc import Callable

import cloudflare
import pytest
import requests

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.local import LocalVectorize
from spec.arguments import CALLS
from spec.openapi import DOCUMENT, ENDPOINTS, INDEXES, NDJSON, Endpoint

VECTOR = {"id": "a", "values": [0.5] * 32}


def with_the_official_sdk(server: LocalVectorize) -> None:
    account = {"account_id": server.account_id}
    upload = {"body": json.dumps(VECTOR).encode(), "extra_headers": {"Content-Type": NDJSON}, **account}
    with cloudflare.Cloudflare(api_token=server.api_token, base_url=server.base_url, max_retries=0) as client:
        indexes = client.vectorize.indexes
        indexes.create(name="docs", config={"dimensions": 32, "metric": "cosine"}, **account)
        assert [index.name for index in indexes.list(**account)] == ["docs"]
        indexes.get("docs", **account)
        indexes.info("docs", **account)
        indexes.metadata_index.create("docs", property_name="k", index_type="string", **account)
        indexes.metadata_index.list("docs", **account)
        indexes.metadata_index.delete("docs", property_name="k", **account)
        indexes.insert("docs", **upload)
        indexes.upsert("docs", **upload)
        indexes.query("docs", vector=VECTOR["values"], **account)
        indexes.get_by_ids("docs", ids=["a"], **account)
        indexes.list_vectors("docs", **account)
        indexes.delete_by_ids("docs", ids=["a"], **account)
        indexes.delete("docs", **account)


def with_our_client(server: LocalVectorize) -> None:
    client = VectorizeClient(
        server.account_id, api_token=server.api_token, base_url=server.base_url, retry=None
    )
    for method, arguments in CALLS:
        # Only the server can create a valid cursor.
        getattr(client, method)(**{name: value for name, value in arguments.items() if name != "cursor"})
    client.close()


def names_in_stats(server: LocalVectorize) -> dict[Endpoint, str]:
    """Send a request to each endpoint and return its name in the server's statistics."""
    names = {}
    for endpoint in ENDPOINTS:
        server.reset_stats()
        path = endpoint.path.format(account_id=server.account_id, index_name="none")
        requests.request(
            endpoint.method,
            server.base_url + path,
            headers={"Authorization": f"Bearer {server.api_token}"},
            timeout=30,
        )
        (names[endpoint],) = [name for name, count in server.stats().items() if count]
    server.reset_stats()
    return names


# The SDK has renamed a parameter; older versions in use only have this name.
@pytest.mark.filterwarnings("ignore:Passing raw bytes:DeprecationWarning")
@pytest.mark.parametrize("drive", [with_the_official_sdk, with_our_client])
def test_every_endpoint_is_reached(drive: Callable[[LocalVectorize], None]) -> None:
    with LocalVectorize(apply_delay=0) as server:
        names = names_in_stats(server)
        drive(server)
        reached = {endpoint for endpoint in ENDPOINTS if server.stats()[names[endpoint]]}
    assert set(ENDPOINTS) - reached == set()
    # Each endpoint has its own name in the statistics.
    assert len(set(names.values())) == len(ENDPOINTS) == 14


def test_all_other_paths_are_deprecated() -> None:
    """The tests omit only the paths that the description marks as deprecated."""
    for path, methods in DOCUMENT["paths"].items():
        for operation in methods.values():
            assert operation.get("deprecated", False) is not path.startswith(INDEXES)
    assert DOCUMENT["info"]["license"]["name"] == "BSD-3-Clause"
    assert DOCUMENT["x-provenance"].keys() == {
        "base_commit",
        "base_date",
        "overlay_commit",
        "overlay_date",
    }
