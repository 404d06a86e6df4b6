# SPDX-License-Identifier: Apache-2.0
"""Use the stores of LangChain and LangMem. tests/local/test_other_clients.py runs this script."""

from __future__ import annotations

import hashlib
import os
import time

from langchain_cloudflare.vectorstores import CloudflareVectorize
from langmem_cloudflare_vectorize import CloudflareVectorizeBaseStore


class Embedding:
    """An embedding that returns equal numbers for equal text."""

    def embed_query(self, text: str) -> list[float]:
        return [byte / 255 for byte in hashlib.sha256(text.encode()).digest()]

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]


server = {"account_id": os.environ["CLOUDFLARE_ACCOUNT_ID"], "base_url": os.environ["CLOUDFLARE_BASE_URL"]}
token = os.environ["CLOUDFLARE_API_TOKEN"]
store = CloudflareVectorize(
    embedding=Embedding(), api_token=token, index_name="langchain", default_wait_seconds=0.05, **server
)
store.create_index(dimensions=32, wait=True)
store.create_metadata_index(property_name="doc", index_type="string", wait=True)
store.add_texts(["one", "two"], ids=["a", "b"], metadatas=[{"doc": "x"}, {"doc": "y"}], wait=True)
found = store.similarity_search_with_score("one", k=2)
assert [document.id for document, _ in found] == ["a", "b"], found
assert [document.id for document in store.similarity_search("one", k=2, md_filter={"doc": "y"})] == ["b"]
assert store.delete(["a"], wait=True)
assert store.get_by_ids(["a"]) == []
assert store.get_index_info()["vectorCount"] == 1

memory = CloudflareVectorizeBaseStore(
    index_name="langchain",
    api_token=token,
    embedding_function=Embedding(),
    cf_vectorize=store,
    dimensions=32,
    **server,
)
# Its own store ignores base_url and uses Cloudflare's address.
memory.vectorstore = store
memory.put(("people",), "kim", {"content": "likes tea"})
deadline = time.monotonic() + 30
while memory.get(("people",), "kim") is None and time.monotonic() < deadline:
    time.sleep(0.05)
assert memory.get(("people",), "kim").value == {"content": "likes tea"}
memory.delete(("people",), "kim")
