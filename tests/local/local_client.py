# SPDX-License-Identifier: Apache-2.0
"""Shared tools of the local server's tests: a client that only uses HTTP, and a clock."""

from __future__ import annotations

import json
import time
from typing import Any

import requests

DIMENSIONS = 32


class FakeClock:
    """A wall clock that only tests move."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Client:
    """A client that only uses a server's HTTP API."""

    def __init__(self, base_url: str, account_id: str, token: str | None) -> None:
        self.root = base_url.removesuffix("/client/v4")
        self.base_url = base_url
        self.indexes = f"{base_url}/accounts/{account_id}/vectorize/v2/indexes"
        self.session = requests.Session()
        self.session.trust_env = False
        if token is not None:
            self.session.headers["Authorization"] = f"Bearer {token}"

    def send(self, method: str, path: str = "", **options: Any) -> requests.Response:
        return self.session.request(method, self.indexes + path, timeout=30, **options)

    def create(self, name: str = "docs", **more: Any) -> requests.Response:
        body = {"name": name, "config": {"dimensions": DIMENSIONS, "metric": "cosine"}, **more}
        return self.send("POST", json=body)

    def upload(self, operation: str, vectors: Any, name: str = "docs", **options: Any) -> requests.Response:
        body = vectors if isinstance(vectors, str | bytes) else "\n".join(map(json.dumps, vectors))
        options.setdefault("headers", {"Content-Type": "application/x-ndjson"})
        return self.send("POST", f"/{name}/{operation}", data=body, **options)

    def upsert(self, vectors: Any, name: str = "docs", **options: Any) -> requests.Response:
        return self.upload("upsert", vectors, name, **options)

    def delete(self, ids: Any, name: str = "docs") -> requests.Response:
        return self.send("POST", f"/{name}/delete_by_ids", json={"ids": ids})

    def get(self, ids: Any, name: str = "docs") -> requests.Response:
        return self.send("POST", f"/{name}/get_by_ids", json={"ids": ids})

    def ids(self, *ids: str, name: str = "docs") -> list[str]:
        return [vector["id"] for vector in result(self.get(list(ids), name))]

    def query(self, vector: Any = None, name: str = "docs", **more: Any) -> requests.Response:
        body = more if vector is None else {"vector": vector, **more}
        return self.send("POST", f"/{name}/query", json=body)

    def create_metadata_index(
        self, property_name: Any, index_type: Any, name: str = "docs"
    ) -> requests.Response:
        body = {"propertyName": property_name, "indexType": index_type}
        return self.send("POST", f"/{name}/metadata_index/create", json=body)

    def delete_metadata_index(self, property_name: Any, name: str = "docs") -> requests.Response:
        return self.send("POST", f"/{name}/metadata_index/delete", json={"propertyName": property_name})

    def metadata_indexes(self, name: str = "docs") -> list[tuple[str, str]]:
        found = result(self.send("GET", f"/{name}/metadata_index/list"))
        assert list(found) == ["metadataIndexes"]
        return [(index["propertyName"], index["indexType"]) for index in found["metadataIndexes"]]

    def info(self, name: str = "docs") -> dict[str, Any]:
        return result(self.send("GET", f"/{name}/info"))

    def page(self, name: str = "docs", **query: Any) -> dict[str, Any]:
        return result(self.send("GET", f"/{name}/list", params=query))

    def wait_for(self, mutation_id: str, name: str = "docs", seconds: float = 10) -> dict[str, Any]:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            info = self.info(name)
            if info.get("processedUpToMutation") == mutation_id:
                return info
            time.sleep(0.01)
        raise AssertionError(f"{mutation_id} was not applied within {seconds} s")


def vector(vector_id: str, value: float = 0.5, **more: Any) -> dict[str, Any]:
    return {"id": vector_id, "values": [value] * DIMENSIONS, **more}


def result(response: requests.Response) -> Any:
    body = envelope(response)
    assert body["success"], body
    assert response.status_code == 200
    return body["result"]


def mutation(response: requests.Response) -> str:
    found = result(response)
    assert list(found) == ["mutationId"]
    return found["mutationId"]


def envelope(response: requests.Response) -> dict[str, Any]:
    """Check the parts that every answer has and return the body."""
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Date"].endswith(" GMT")
    body: dict[str, Any] = response.json()
    assert list(body)[:4] == ["result", "success", "errors", "messages"]
    assert isinstance(body["messages"], list)
    if body["success"]:
        assert response.status_code == 200
        assert body["errors"] == []
    else:
        assert 400 <= response.status_code < 500
        assert body["result"] is None
        (error,) = body["errors"]
        assert error["code"] >= 1000
        assert error["message"]
    return body


def refusal(response: requests.Response) -> tuple[int, int, str]:
    body = envelope(response)
    assert not body["success"]
    return response.status_code, body["errors"][0]["code"], body["errors"][0]["message"]
