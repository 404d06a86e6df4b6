# SPDX-License-Identifier: Apache-2.0
"""Small servers on loopback that return scripted or malformed answers."""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.http.session import RetryLimits

ACCOUNT = "0123456789abcdef0123456789abcdef"
TOKEN = "S3cret-Token_that-nobody-may-see_0123456"
INDEXES = f"/client/v4/accounts/{ACCOUNT}/vectorize/v2/indexes"
MUTATION = "7f11d6e5-d126-4f76-936e-fbfec079e0be"
DATE = "Sat, 31 Jan 2026 23:59:59 GMT"

#: Retries without noticeable pauses.
AT_ONCE = RetryLimits(backoff_total=5, first_backoff=0.001, longest_backoff=0.002, throttle_total=5)


@dataclass
class Request:
    """A request that a server received."""

    method: str
    path: str
    headers: Message
    body: bytes

    @property
    def ids(self) -> list[str]:
        ids: list[str] = json.loads(self.body)["ids"]
        return ids


@dataclass
class Reply:
    """A server's answer; it gets a Date header unless ``headers`` has one."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


def ok(result: Any = None, **headers: str) -> Reply:
    envelope = {"result": result, "success": True, "errors": [], "messages": []}
    return Reply(200, json.dumps(envelope).encode(), {k.replace("_", "-"): v for k, v in headers.items()})


def refused(status: int, code: object, message: object = "no", **headers: str) -> Reply:
    envelope = {
        "result": None,
        "success": False,
        "errors": [{"code": code, "message": message}],
        "messages": [],
    }
    return Reply(status, json.dumps(envelope).encode(), {k.replace("_", "-"): v for k, v in headers.items()})


def accepted(mutation_id: str = MUTATION) -> Reply:
    return ok({"mutationId": mutation_id}, Date=DATE)


class ScriptedServer:
    """
    A server that answers with a function's result or with the next item of a list, whose last item repeats.

    :param answer: the function or the list; the str ``"reset"`` in the list closes the connection without
        an answer.
    """

    def __init__(self, answer: Callable[[Request], Reply] | list[Reply | str]) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                with outer._lock:
                    outer.connections += 1

            def handle_any(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                request = Request(self.command, self.path, self.headers, body)
                with outer._lock:
                    number = len(outer.requests)
                    outer.requests.append(request)
                reply = answer(request) if callable(answer) else answer[min(number, len(answer) - 1)]
                if isinstance(reply, str):
                    # Linger of 0 seconds: closing sends a reset.
                    self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    self.close_connection = True
                    self.connection.close()
                    return
                self.send_response_only(reply.status)
                headers = {"Date": DATE, "Content-Length": str(len(reply.body)), **reply.headers}
                for name, value in headers.items():
                    if value:
                        self.send_header(name, value)
                self.end_headers()
                self.wfile.write(reply.body)

            do_GET = do_POST = do_DELETE = do_PUT = do_CONNECT = handle_any

            def finish(self) -> None:
                with contextlib.suppress(OSError, ValueError):
                    super().finish()

            def log_message(self, *args: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            # Some tests close connections early on purpose.
            def handle_error(self, *args: Any) -> None:
                pass

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        self._thread.start()

    @property
    def port(self) -> int:
        return self._server.server_address[1]

    @property
    def base_url(self) -> str:
        return f"http://127.0.0.1:{self.port}/client/v4"

    @property
    def server(self) -> ThreadingHTTPServer:
        return self._server

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextlib.contextmanager
def raw_server(serve: Callable[[socket.socket, threading.Event], None]) -> Iterator[str]:
    """
    Read the request of each connection, call a function with the connection, and yield the base URL.

    :param serve: receives the connection and an event that is set when the test ends.
    """
    over = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)
    threads = []

    def one(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            connection.settimeout(5)
            received = b""
            while b"\r\n\r\n" not in received:
                received += connection.recv(65536)
            serve(connection, over)

    def accept() -> None:
        while not over.is_set():
            with contextlib.suppress(TimeoutError):
                thread = threading.Thread(target=one, args=[listener.accept()[0]], daemon=True)
                threads.append(thread)
                thread.start()

    acceptor = threading.Thread(target=accept, daemon=True)
    acceptor.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/client/v4"
    finally:
        over.set()
        acceptor.join()
        listener.close()
        for thread in threads:
            thread.join(5)


def make_client(base_url: str, **options: Any) -> VectorizeClient:
    options = {"api_token": TOKEN, "timeout": 10, "retry": None, **options}
    return VectorizeClient(ACCOUNT, base_url=base_url, **options)
