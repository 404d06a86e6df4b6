# SPDX-License-Identifier: Apache-2.0
"""The socket, the event loop and the connections; nothing here knows of Vectorize."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    #: The open connections by the address of the client, as ASGI's scope has it.
    Connections = dict[tuple[str, int], asyncio.Transport]

#: Seconds that requests still running get when the server stops.
_GRACE: Final = 1
#: Seconds for which an idle connection is kept; more than the interval of any poll of the provider.
_KEEP_ALIVE: Final = 75


def make_server(app: Any, connections: Connections, started: Callable[[], object]) -> Any:
    """
    Return a server of uvicorn for an application; its ``stop()``, called in its event loop, ends it.

    :param connections: Where the server keeps its open connections.
    :param started: Called once connections are accepted.
    """
    import uvicorn

    class Server(uvicorn.Server):
        # uvicorn checks every 100 ms whether it must exit, and then sleeps for 100 ms more. A test suite pays
        # that for each server that it stops.

        def __init__(self, config: uvicorn.Config) -> None:
            super().__init__(config)
            self._stopping = asyncio.Event()

        def stop(self) -> None:
            self._stopping.set()

        async def main_loop(self) -> None:
            await self.on_tick(0)
            started()
            await self._stopping.wait()

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            for listener in [*self.servers, *(sockets or ())]:
                listener.close()
            for connection in list(self.server_state.connections):
                # This closes an idle connection; a connection with an open request ends after its response.
                connection.shutdown()
            deadline = time.monotonic() + _GRACE
            open_requests = self.server_state.tasks
            while (self.server_state.connections or open_requests) and time.monotonic() < deadline:
                await asyncio.sleep(0.001)
            for request in list(open_requests):
                request.cancel()

    return Server(
        uvicorn.Config(
            app,
            http=_protocol(connections),
            log_config=None,
            # The command reports that the server starts and stops; a test does not need to know.
            log_level="warning",
            access_log=False,
            lifespan="off",
            ws="none",
            proxy_headers=False,
            server_header=False,
            date_header=False,
            timeout_keep_alive=_KEEP_ALIVE,
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
