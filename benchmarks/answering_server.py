# SPDX-License-Identifier: Apache-2.0
"""
A minimal server: it accepts every delete, returns a vector for every id, and stores and checks nothing.

A benchmark of a client's speed needs a faster server than ``vectorize-local``, which would be the bottleneck.
This server parses only enough of a request to find its end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import uuid
from email.utils import formatdate

HEADERS = (
    "HTTP/1.1 200 OK\r\nDate: {date}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n"
    "Connection: keep-alive\r\nX-Frame-Options: DENY\r\nX-Content-Type-Options: nosniff\r\n"
    "Server: cloudflare\r\nCf-Ray: 8f0123456789abcd-FRA\r\n\r\n"
)
MUTATION = b'{"success":true,"errors":[],"messages":[],"result":{"mutationId":"%s"}}'
VECTORS = b'{"success":true,"errors":[],"messages":[],"result":%s}'


class Answers(asyncio.Protocol):
    """A connection that responds to each request after the latency."""

    def __init__(self, latency: float) -> None:
        self._latency = latency
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Store the transport."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Respond to each complete request."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = self._buffer[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            body = self._buffer[end + 4 : end + 4 + length]
            self._buffer = self._buffer[end + 4 + length :]
            reads = b"get_by_ids" in head.split(b"\r\n", 1)[0]
            body = VECTORS % _vectors(body) if reads else MUTATION % str(uuid.uuid4()).encode()
            answer = HEADERS.format(date=formatdate(usegmt=True), length=len(body)).encode() + body
            if self._latency:
                asyncio.get_running_loop().call_later(self._latency, self._transport.write, answer)
            else:
                self._transport.write(answer)


def _vectors(asked: bytes) -> bytes:
    """Return a vector for every requested id."""
    return json.dumps([{"id": id_, "values": [0.5] * 32} for id_ in json.loads(asked)["ids"]]).encode()


async def serve(latency: float) -> None:
    """Serve until the process ends."""
    loop = asyncio.get_running_loop()
    listener = await loop.create_server(lambda: Answers(latency), "127.0.0.1", 0)
    port = listener.sockets[0].getsockname()[1]
    print(f"listening on http://127.0.0.1:{port}/client/v4", flush=True)
    await listener.serve_forever()


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.0, help="seconds before each response")
    asyncio.run(serve(parser.parse_args().latency))


if __name__ == "__main__":
    main()
