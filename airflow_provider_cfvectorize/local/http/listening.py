# SPDX-License-Identifier: Apache-2.0
"""The network side, independent of Vectorize: the socket, the event loop, uvicorn and its connections."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable

    #: The open connections, by the client's address in the ASGI scope.
    Connections = dict[tuple[str, int], asyncio.Transport]

#: Seconds that open requests get when the server stops.
_GRACE: Final = 1
#: Seconds until an idle connection is closed; longer than the provider's poll intervals.
_KEEP_ALIVE: Final = 75


def make_server(app: Any, connections: Connections, started: Callable[[], object]) -> Any:
    """
    Return a uvicorn server for an application. Call its ``stop()`` in its event loop to end it.

    :param connections: The server stores its open connections here.
    :param started: Called once the server accepts connections.
    """
    import uvicorn

    class Server(uvicorn.Server):
        # uvicorn checks every 100 ms whether to exit, and then sleeps for another 100 ms. A test suite pays
        # for this with each server that it stops.

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
                # This closes an idle connection. A connection with an open request ends after its response.
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
            # The command prints that the server listens; tests do not need uvicorn's messages.
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
        # Some faults reset the connection, which ASGI gives no access to.

        def connection_made(self, transport: asyncio.Transport) -> None:
            super().connection_made(transport)
            connections[self.client] = transport

        def connection_lost(self, exc: Exception | None) -> None:
            connections.pop(self.client, None)
            super().connection_lost(exc)

    return Protocol


def listen(host: str, port: int) -> socket.socket:
    """
    Return a listening socket.

    :raises OSError: The address cannot be used.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )[0]
    # With the protocol given, asyncio recognises TCP and turns off Nagle's algorithm, which would delay some
    # responses by 40 ms.
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
    """Return the factory of uvloop's event loops; None if uvloop is not installed."""
    try:
        import uvloop
    except ImportError:
        return None
    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory
