# SPDX-License-Identifier: Apache-2.0
"""The clients that ``throughput.py`` compares. Each runs in its own process, which prints its times."""

from __future__ import annotations

import argparse
import itertools
import json
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

ACCOUNT = "0123456789abcdef0123456789abcdef"
TOKEN = "the-benchmarks-own"  # noqa: S105
THREADS = 4
BATCH = 100

Send = Callable[[list[str]], object]


def batches(ids: list[str]) -> list[list[str]]:
    """Cut ids into batches of one request each."""
    return [ids[start : start + BATCH] for start in range(0, len(ids), BATCH)]


def in_threads(send_batch: Callable[[list[str]], object]) -> Send:
    """Return a function that sends batches from threads."""
    pool = ThreadPoolExecutor(THREADS)
    return lambda ids: list(pool.map(send_batch, batches(ids)))


def ours(base_url: str) -> Send:
    """Return our client's delete of many ids."""
    from airflow_provider_cfvectorize.client.bulk.delete import delete_ids
    from airflow_provider_cfvectorize.client.client import VectorizeClient
    from airflow_provider_cfvectorize.client.inputs.ids import IdList

    client = VectorizeClient(ACCOUNT, api_token=TOKEN, base_url=base_url, max_connections=THREADS)
    return lambda ids: delete_ids(client, "docs", IdList(ids), concurrency=THREADS, witnesses=False)


def hook(base_url: str) -> Send:
    """Return the hook's delete, as a task calls it, with checked ids and witnesses."""
    os.environ["AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"] = json.dumps(
        {"conn_type": "cloudflare_vectorize", "login": ACCOUNT, "password": TOKEN, "host": base_url}
    )
    from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook

    one = CloudflareVectorizeHook()
    return lambda ids: one.delete_by_ids("docs", ids)


def bare_requests(base_url: str) -> Send:
    """Return a delete in ten lines of bare ``requests``, with a connection pool of the right size."""
    import requests

    session = requests.Session()
    session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=THREADS))
    session.headers["Authorization"] = f"Bearer {TOKEN}"
    url = f"{base_url}/accounts/{ACCOUNT}/vectorize/v2/indexes/docs/delete_by_ids"

    def send(batch: list[str]) -> str:
        answer = session.post(url, json={"ids": batch}, timeout=30).json()
        if not answer["success"]:
            raise RuntimeError(answer)
        return str(answer["result"]["mutationId"])

    return in_threads(send)


def _sdk_send(base_url: str) -> Callable[[list[str]], object]:
    import cloudflare

    client = cloudflare.Cloudflare(api_token=TOKEN, base_url=base_url)

    def send(batch: list[str]) -> str:
        answer: Any = client.vectorize.indexes.delete_by_ids("docs", account_id=ACCOUNT, ids=batch)
        return str(answer.mutation_id)

    return send


def sdk(base_url: str) -> Send:
    """Return the official SDK's delete, from threads."""
    return in_threads(_sdk_send(base_url))


def sdk_sequential(base_url: str) -> Send:
    """Return the official SDK's delete, with one request at a time, as in its examples."""
    send = _sdk_send(base_url)
    return lambda ids: [send(batch) for batch in batches(ids)]


def sockets(base_url: str) -> Send:
    """Return a delete that sends prepared bytes from four threads, to measure the server's upper bound."""
    import socket
    from urllib.parse import urlsplit

    address = urlsplit(base_url)
    local = threading.local()

    def send(batch: list[str]) -> None:
        if not hasattr(local, "socket"):
            local.socket = socket.create_connection((address.hostname or "", address.port or 80))
            local.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        body = json.dumps({"ids": batch}).encode()
        local.socket.sendall(
            f"POST {address.path}/accounts/{ACCOUNT}/vectorize/v2/indexes/docs/delete_by_ids HTTP/1.1\r\n"
            f"Host: {address.netloc}\r\nAuthorization: Bearer {TOKEN}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
            + body
        )
        received = b""
        while not received.endswith(b"}"):
            received += local.socket.recv(65536)

    return in_threads(send)


CLIENTS: dict[str, Callable[[str], Send]] = {
    "ours": ours,
    "hook": hook,
    "requests": bare_requests,
    "sdk": sdk,
    "sdk-sequential": sdk_sequential,
    "sockets": sockets,
}


def main() -> None:
    """Delete ids, and print the seconds, CPU seconds and requests."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("client", choices=CLIENTS)
    parser.add_argument("base_url")
    parser.add_argument("requests", type=int)
    options = parser.parse_args()
    send = CLIENTS[options.client](options.base_url)
    numbers = itertools.count()
    # Warm up: imports on first use, and connections.
    send([f"warm-{next(numbers)}" for _ in range(4 * THREADS * BATCH)])
    ids = [f"doc-{next(numbers):08d}#chunk" for _ in range(options.requests * BATCH)]
    wall, cpu = time.perf_counter(), time.process_time()
    send(ids)
    print(
        json.dumps(
            {
                "wall": time.perf_counter() - wall,
                "cpu": time.process_time() - cpu,
                "requests": options.requests,
            }
        )
    )


if __name__ == "__main__":
    main()
