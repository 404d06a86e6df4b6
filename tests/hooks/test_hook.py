# SPDX-License-Identifier: Apache-2.0
"""The hook: all kinds of connections, and the connection test."""

from __future__ import annotations

import itertools
import json
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeBatchError,
    VectorizeInputError,
)
from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook
from airflow_provider_cfvectorize.local import LocalVectorize
from client.servers import ACCOUNT, Reply, Request, ScriptedServer, accepted, ok
from harness import INDEX, Vectorize

CONN = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"


def connect(
    monkeypatch: pytest.MonkeyPatch, server: LocalVectorize, **change: Any
) -> CloudflareVectorizeHook:
    monkeypatch.setenv(CONN, json.dumps(json.loads(server.connection) | change))
    return CloudflareVectorizeHook()


def test_every_method_of_the_client(server: LocalVectorize) -> None:
    hook = CloudflareVectorizeHook()
    assert hook.list_indexes() == []
    created = hook.create_index("docs", dimensions=32, metric="cosine", description="d")
    assert hook.get_index("docs") == created == hook.list_indexes()[0]
    vectors: list[Any] = [{"id": str(i), "values": [1.0] * 32} for i in range(5)]
    assert hook.insert("docs", vectors[:3])["mutation_id"]
    last = hook.upsert("docs", vectors)["mutation_id"]
    while hook.info("docs").get("processedUpToMutation") != last:
        pass
    assert [vector["id"] for vector in hook.get_by_ids("docs", ["1", "9"])] == ["1"]
    assert hook.list_vectors("docs", count=2)["isTruncated"] is True
    for receipt in (
        hook.create_metadata_index("docs", "lang", "string"),
        hook.delete_metadata_index("docs", "lang"),
        hook.upsert("docs", vectors),
    ):
        assert Receipt.from_dict(receipt).account_id == server.account_id
        assert (receipt["index_name"], receipt["batches"]) == ("docs", 1)
    receipt = hook.delete_by_ids("docs", [1, "2"])
    assert (receipt["count"], receipt["index_name"]) == (2, "docs")
    assert hook.request("GET", "indexes/docs/info")["dimensions"] == 32
    assert hook.request("get", f"/accounts/{server.account_id}/vectorize/v2/indexes")[0]["name"] == "docs"
    hook.delete_index("docs")
    assert hook.list_indexes() == []


def test_any_number_of_ids_is_deleted(vectorize: Vectorize) -> None:
    ids = [f"v{i}" for i in range(250)]
    vectorize.fill([*ids, "other"])
    receipt = CloudflareVectorizeHook().delete_by_ids(INDEX, ids)
    assert (receipt["count"], receipt["batches"]) == (250, 3)
    vectorize.wait_for(receipt["mutation_id"])
    assert vectorize.ids() == {"other"}


def test_an_empty_account_id_is_refused(server: LocalVectorize) -> None:
    with pytest.raises(VectorizeInputError, match=r"account_id is empty\. Pass 32 hexadecimal digits"):
        CloudflareVectorizeHook(account_id="").list_indexes()
    assert sum(server.stats().values()) == 0
    assert CloudflareVectorizeHook(account_id=None).list_indexes() == []


@pytest.mark.parametrize("name", ["a/b", "..", "a" * 8000, ""])
def test_invalid_names_and_concurrency_are_refused(server: LocalVectorize, name: str) -> None:
    with pytest.raises(VectorizeInputError, match="index name"):
        CloudflareVectorizeHook().delete_by_ids(name, ["a"])
    with pytest.raises(VectorizeInputError, match="concurrency is 0"):
        CloudflareVectorizeHook().delete_by_ids("docs", ["a"], concurrency=0)
    with pytest.raises(VectorizeInputError, match="concurrency is 0"):
        CloudflareVectorizeHook().get_by_ids("docs", ["a"], concurrency=0)
    assert sum(server.stats().values()) == 0


@pytest.mark.parametrize(("method", "ids"), [("delete_by_ids", 1800), ("get_by_ids", 340)])
def test_later_calls_use_the_full_concurrency(method: str, ids: int, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = itertools.count()
    all_at_once = threading.Barrier(16)

    def answer(request: Request) -> Reply:
        # The first request is sent alone.
        if request.path.endswith(f"/{method}") and 0 < next(numbers) <= all_at_once.parties:
            all_at_once.wait(20)
        return accepted() if request.path.endswith("/delete_by_ids") else ok([])

    server = ScriptedServer(answer)
    connection = {"conn_type": "cloudflare_vectorize", "login": ACCOUNT, "password": "secret"}
    monkeypatch.setenv(CONN, json.dumps({**connection, "host": server.base_url}))
    hook = CloudflareVectorizeHook()
    hook.list_indexes()
    getattr(hook, method)("docs", [str(i) for i in range(ids)], concurrency=16)
    server.close()
    assert not all_at_once.broken


def test_any_number_of_vectors_is_written(vectorize: Vectorize, tmp_path: Path) -> None:
    hook = CloudflareVectorizeHook()
    ids = [f"v{i}" for i in range(5001)]
    vectors: list[Any] = [{"id": id_, "values": [0.5] * 32} for id_ in ids]
    written = hook.upsert(INDEX, (vector for vector in vectors))
    assert (written["count"], written["batches"], written["discarded"]) == (5001, 2, 0)
    path = tmp_path / "more.ndjson"
    path.write_bytes(
        b"\n".join(json.dumps({**vector, "id": f"w{i}"}).encode() for i, vector in enumerate(vectors))
    )
    with path.open("rb") as file:
        last = hook.insert(INDEX, file)["mutation_id"]
    assert last is not None
    vectorize.wait_for(last)
    assert vectorize.ids() == {*ids, *(f"w{i}" for i in range(5001))}
    assert sorted(hook.iter_ids(INDEX, prefix="w500")) == ["w500", "w5000"]
    wanted = ["w7", *ids[:45], "absent", "w7", "v3"]
    assert [vector["id"] for vector in hook.get_by_ids(INDEX, wanted)] == ["w7", *ids[:45]]
    stats = vectorize.server.stats()
    assert (stats["upsert"], stats["insert"], stats["get_by_ids"]) == (2, 2, 3)


def test_the_last_of_duplicate_ids_is_written(vectorize: Vectorize) -> None:
    hook = CloudflareVectorizeHook()
    vectors: list[Any] = [{"id": "a", "values": [float(i)] * 32} for i in range(1, 5003)]
    last = hook.upsert(INDEX, vectors)["mutation_id"]
    assert last is not None
    vectorize.wait_for(last)
    (vector,) = hook.get_by_ids(INDEX, "a")
    assert vector["values"][0] == 5002.0


def test_an_invalid_vector_after_valid_vectors(vectorize: Vectorize) -> None:
    hook = CloudflareVectorizeHook()
    good = {"id": "a", "values": [0.5] * 32}
    with pytest.raises(
        VectorizeInputError, match=r"position 5000, .* has no id\. 5000 vectors in 1 request are"
    ):
        hook.upsert(INDEX, [good] * 5000 + [{"values": [0.5] * 32}])  # type: ignore[list-item]
    with pytest.raises(
        VectorizeBatchError, match=r"1 vector \(line 1\) failed.* code 40012: .*nvalid vector"
    ) as e:
        hook.upsert(INDEX, b'{"id":"a","values":[1]}')
    assert (e.value.acknowledged, e.value.failed) == (0, 1)
    written = hook.upsert(INDEX, b"nonsense", unparsable_behavior="discard")
    assert (written["mutation_id"], written["discarded"]) == (None, 1)


def test_empty_inputs_send_no_request(vectorize: Vectorize) -> None:
    hook = CloudflareVectorizeHook()
    assert hook.upsert(INDEX, [])["mutation_id"] is None
    assert hook.get_by_ids(INDEX, []) == []
    assert not {"upsert", "get_by_ids"} & {name for name, count in vectorize.server.stats().items() if count}


def test_a_connection_as_a_uri(server: LocalVectorize, monkeypatch: pytest.MonkeyPatch) -> None:
    host = server.base_url.replace(":", "%3A").replace("/", "%2F")
    monkeypatch.setenv(
        CONN,
        f"cloudflare-vectorize://{server.account_id}:{server.api_token}@{host}/?timeout=5&rate_reserve=0.5",
    )
    client = CloudflareVectorizeHook().get_conn()
    assert client.list_indexes() == []
    assert (client.timeout, client.rate_reserve) == (5.0, 0.5)


def test_a_connection_with_email_and_key(monkeypatch: pytest.MonkeyPatch) -> None:
    key = "global-key-0123456789abcdef0123456789"
    with LocalVectorize(api_email="me@example.com", api_key=key) as server:
        hook = connect(monkeypatch, server, password=key, extra={"api_email": "me@example.com"})
        assert hook.list_indexes() == []
        with pytest.raises(VectorizeAuthError):
            connect(monkeypatch, server, password=key, extra={"api_email": "you@example.com"}).list_indexes()


def test_account_id_overrides_the_login(server: LocalVectorize, monkeypatch: pytest.MonkeyPatch) -> None:
    connect(monkeypatch, server, login="f" * 32)
    assert CloudflareVectorizeHook(account_id=server.account_id.upper()).list_indexes() == []


def test_a_plain_host_must_be_allowed(server: LocalVectorize, monkeypatch: pytest.MonkeyPatch) -> None:
    hook = connect(monkeypatch, server, host="http://vectorize.internal:8787/client/v4")
    with pytest.raises(VectorizeInputError, match="allow_http_hosts"):
        hook.get_conn()
    monkeypatch.setenv("AIRFLOW__CFVECTORIZE__ALLOW_HTTP_HOSTS", "other, Vectorize.internal")
    assert hook.get_conn().base_url == "http://vectorize.internal:8787/client/v4"


@pytest.mark.parametrize("extra", ["[1]", "not json", '{"api_email": 5}'])
def test_an_invalid_extra_is_refused(server: LocalVectorize, extra: str) -> None:
    from airflow_provider_cfvectorize.hooks.vectorize import client_of

    class Given:
        conn_id, conn_type, port, schema = "c", "cloudflare_vectorize", None, None
        login, password, host = server.account_id, server.api_token, server.base_url

    Given.extra = extra  # type: ignore[attr-defined]
    with pytest.raises(VectorizeInputError, match=r"extra is not|api_email is 5"):
        client_of(Given())  # type: ignore[arg-type]


def test_unknown_extras_are_ignored_and_logged(
    server: LocalVectorize, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hook = connect(
        monkeypatch, server, extra={"base_url": "https://evil.example", "time_out": 5, "timeout": 5}
    )
    assert hook.get_conn().base_url == server.base_url
    said = (
        "Connection 'cloudflare_vectorize_default' has unknown extras, which are ignored: "
        "'base_url', 'time_out'. Correct or remove them. Known extras: api_email, timeout, rate_reserve"
    )
    (record,) = (record for record in caplog.records if "cfvectorize" in record.name)
    assert (record.levelname, record.getMessage()) == ("WARNING", said)
    assert hook.test_connection() == (
        True,
        f"Account {server.account_id} has 0 Vectorize indexes. {said}",
    )
    works, text = connect(monkeypatch, server, login="f" * 32, extra={"a": 1, "b": 2}).test_connection()
    assert not works
    assert "has unknown extras, which are ignored: 'a', 'b'." in text
    assert connect(monkeypatch, server, extra={"timeout": 5}).test_connection()[1].endswith("indexes")


# --- test_connection ----------------------------------------------------------------------------------------


def test_a_connection_that_works(vectorize: Vectorize) -> None:
    assert CloudflareVectorizeHook().test_connection() == (
        True,
        f"Account {vectorize.server.account_id} has 1 Vectorize index",
    )


def test_a_wrong_token(server: LocalVectorize, monkeypatch: pytest.MonkeyPatch) -> None:
    token = "wrong-token-0123456789abcdef0123456789ab"
    works, text = connect(monkeypatch, server, password=token).test_connection()
    assert not works
    assert "in this order" in text
    assert token not in text


def test_a_wrong_account(server: LocalVectorize, monkeypatch: pytest.MonkeyPatch) -> None:
    works, text = connect(monkeypatch, server, login="f" * 32).test_connection()
    assert not works
    assert "account" in text.lower()


def test_an_unreachable_host(server: LocalVectorize, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    hook = connect(monkeypatch, server, host=f"http://127.0.0.1:{port}", extra={"timeout": 1})
    works, text = hook.test_connection()
    assert not works
    assert text.startswith("Unreachable")


def test_an_incomplete_connection(server: LocalVectorize, monkeypatch: pytest.MonkeyPatch) -> None:
    works, text = connect(monkeypatch, server, password="").test_connection()
    assert not works
    assert "no password" in text
