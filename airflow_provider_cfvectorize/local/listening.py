# SPDX-License-Identifier: Apache-2.0
"""The socket, the event loop and the connections; nothing here knows of Vectorize."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    #: The open connections by the address of the client, as ASGI's scope has it.
    Connections = dict[tuple[str, int], asyncio.Transport]

#: Seconds that requests still running get when the server stops.
_GRACE: Final = 1
#: Seconds for which an idle connection is kept; more than the interval of any poll of the provider.
_KEEP_ALIVE: Final = 75


def make_server(app: Any, connections: Connections) -> Any:
    """
    Return a server of uvicorn for an application.

    :param app: The ASGI application.
    :param connections: Where the server keeps its open connections.
    """
    import uvicorn

    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=_protocol(connections),
            log_config=None,
            # That it starts and stops is for the command to say, and no news to a test.
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_GRACE,
        )
    )


def _protocol(connections: Connections) -> Any:
    from uvicorn.protocols.http.auto import AutoHTTPProtocol

    base: Any = AutoHTTPProtocol

    class Protocol(base):  # type: ignore[misc]
        # ASGI has no way to the connection, which some faults are to break.

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            connections[self.client] = transport

        def connection_lost(self, exc: Exception | None) -> None:
            connections.pop(self.client, None)
            super().connection_lost(exc)

    return Protocol


def listen(host: str, port: int) -> socket.socket:
    """
    Return a socket that listens.

    :param host: Name or address to listen on.
    :param port: Port; 0 takes a free one.
    :raises OSError: It cannot be listened on.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # With the protocol named, asyncio knows it for TCP and turns off Nagle's algorithm, which would hold some
    # answers back for 40 ms.
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(2048)
    except BaseException:
        listener.close()
        raise
    return listener


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes uvloop's event loops, if it is installed."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
