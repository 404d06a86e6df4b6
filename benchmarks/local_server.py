# SPDX-License-Identifier: Apache-2.0
"""
Measure how many small requests ``vectorize-local`` handles in a second, on one core and in memory.

The server runs in a process bound to one core. Another process sends requests over open connections with bare
sockets, because an HTTP library would take longer than the server. The kinds of requests alternate, and the
table has the medians. On a busy machine the server gets less than a core; the column "a CPU second" shows the
rate of a whole core.

The script also measures how long `LocalVectorize.stop()` takes with idle connections: the median of several
servers.

    python benchmarks/local_server.py [--brief] [--json PATH]
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from airflow_provider_cfvectorize.local import LocalVectorize

CONNECTIONS = 8
TARGET = 3000
#: The most milliseconds that LocalVectorize may take to stop.
STOP_TARGET = 20
IDS = 1000


class Server(NamedTuple):
    """A running server."""

    process: subprocess.Popen[str]
    host: str
    port: int
    path: str
    token: str

    def cpu_seconds(self) -> float:
        """Return the CPU time of the server so far."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def request(self, method: str, path: str, body: Any = None) -> bytes:
        """Return the bytes of a request."""
        content = b"" if body is None else json.dumps(body).encode()
        head = (
            f"{method} {self.path}{path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\n"
            f"Authorization: Bearer {self.token}\r\n"
        )
        if body is not None:
            head += f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        return f"{head}\r\n".encode() + content


@contextmanager
def started(core: int, *options: str) -> Iterator[Server]:
    """Run a server on one core."""
    process = subprocess.Popen(
        [sys.executable, "-m", "airflow_provider_cfvectorize.local", "--port", "0", *options],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        os.sched_setaffinity(process.pid, {core})
        assert process.stdout is not None
        address, variable = (process.stdout.readline().strip() for _ in range(2))
        # The server's thread has started before the process was bound.
        for thread in os.listdir(f"/proc/{process.pid}/task"):
            os.sched_setaffinity(int(thread), {core})
        url = urlsplit(address.removeprefix("listening on "))
        connection = json.loads(variable.partition("=")[2].strip("'"))
        path = f"{url.path}/accounts/{connection['login']}/vectorize/v2/indexes"
        yield Server(process, str(url.hostname), url.port or 0, path, connection["password"])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def read_answer(connection: socket.socket) -> bytes:
    """Read a whole response and return it."""
    received = connection.recv(65536)
    while (end := received.find(b"\r\n\r\n")) < 0:
        received += connection.recv(65536)
    at = received.index(b"content-length: ") + 16
    size = end + 4 + int(received[at : received.index(b"\r", at)])
    while len(received) < size:
        received += connection.recv(65536)
    return received


def ask(server: Server, request: bytes, seconds: float) -> tuple[int, float, float]:
    """Repeat a request for some seconds; return the requests, the seconds and the server's CPU seconds."""
    connections = [socket.create_connection((server.host, server.port), 10) for _ in range(CONNECTIONS)]
    try:
        for connection in connections:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        count, cpu, begun = 0, server.cpu_seconds(), time.perf_counter()
        while (elapsed := time.perf_counter() - begun) < seconds:
            for connection in connections:
                connection.sendall(request)
            for connection in connections:
                answer = read_answer(connection)
                assert answer.startswith(b"HTTP/1.1 200 "), answer
            count += len(connections)
        return count, elapsed, server.cpu_seconds() - cpu
    finally:
        for connection in connections:
            connection.close()


def fill(server: Server) -> None:
    """Create an index and fill it."""
    config = {"name": "docs", "config": {"dimensions": 32, "metric": "cosine"}}
    lines = "\n".join(json.dumps({"id": f"v{i}", "values": [0.5] * 32}) for i in range(IDS)).encode()
    upsert = server.request("POST", "/docs/upsert").removesuffix(b"\r\n")
    upsert += f"Content-Type: application/x-ndjson\r\nContent-Length: {len(lines)}\r\n\r\n".encode() + lines
    with socket.create_connection((server.host, server.port), 10) as connection:
        for request in (server.request("POST", "", config), upsert):
            connection.sendall(request)
            assert read_answer(connection).startswith(b"HTTP/1.1 200 ")


def measure(turns: int, seconds: float) -> list[dict[str, Any]]:
    """Return a row for each kind of request."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, set(cores[:-1]) or {cores[0]})
    with started(cores[-1], "--apply-delay", "0.1") as server:
        fill(server)
        requests = {
            "get_by_ids, 1 id": server.request("POST", "/docs/get_by_ids", {"ids": ["v1"]}),
            "delete_by_ids, 1 id": server.request("POST", "/docs/delete_by_ids", {"ids": ["absent"]}),
            "info": server.request("GET", "/docs/info"),
        }
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in requests}
        for turn in range(turns + 1):
            for name, request in requests.items():
                count, elapsed, cpu = ask(server, request, seconds)
                # The first turn warms up.
                if turn:
                    found[name].append((count / elapsed, count / max(cpu, 0.01)))
    return [
        {
            "request": name,
            "per_second": round(statistics.median(wall for wall, _ in rates)),
            "per_cpu_second": round(statistics.median(cpu for _, cpu in rates)),
        }
        for name, rates in found.items()
    ]


def measure_stop(turns: int) -> float:
    """Return the milliseconds that a server with idle connections takes to stop."""
    took = []
    for _ in range(turns):
        with LocalVectorize() as server:
            connections = [
                socket.create_connection((server.host, server.port), 10) for _ in range(CONNECTIONS)
            ]
            for connection in connections:
                connection.sendall(f"GET / HTTP/1.1\r\nHost: {server.host}:{server.port}\r\n\r\n".encode())
                read_answer(connection)
            begun = time.perf_counter()
            server.stop()
            took.append(time.perf_counter() - begun)
            for connection in connections:
                connection.close()
    return statistics.median(took) * 1000


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n\n")[0])
    parser.add_argument("--brief", action="store_true", help="run for a few seconds, to check that it works")
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the numbers to a file")
    options = parser.parse_args()
    stop = measure_stop(3 if options.brief else 20)
    rows = measure(*((1, 0.3) if options.brief else (7, 1.0)))
    print(f"{'request':<22}{'a second':>12}{'a CPU second':>16}")
    for row in rows:
        print(f"{row['request']:<22}{row['per_second']:>12,}{row['per_cpu_second']:>16,}")
    slowest = min(row["per_cpu_second"] for row in rows)
    print(f"at least {TARGET:,} on one core: {'yes' if slowest >= TARGET else 'NO'}")
    print(f"a stop takes {stop:.1f} ms, at most {STOP_TARGET}: {'yes' if stop <= STOP_TARGET else 'NO'}")
    if options.json:
        report = {
            "benchmark": "local_server",
            "python": platform.python_version(),
            "target_per_second": TARGET,
            "brief": options.brief,
            "rows": rows,
            "stop_ms": round(stop, 1),
        }
        options.json.write_text(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
