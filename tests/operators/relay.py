# SPDX-License-Identifier: Apache-2.0
"""A relay before a local server, on which answers are lost and replaced."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from urllib.parse import urlsplit

from airflow_provider_cfvectorize.local import LocalVectorize
from client.servers import Reply, Request, ScriptedServer

#: What a relay may do with a request: None to pass it on, an answer in place of the server's, or ``lost`` to
#: have it carried out and its answer lost.
Meddle = Callable[[str, Request], Reply | str | None]

#: What says what was logged.
Told = Callable[[], str]


class Relay:
    """
    Passes requests on to a server.

    :param server: where to.
    :param meddle: takes method and route of a request, such as ``POST docs/metadata_index/create``, and the
        request; set it at any time.
    """

    def __init__(self, server: LocalVectorize) -> None:
        self._target = urlsplit(server.root_url)
        self._server = server
        self.meddle: Meddle = lambda route, request: None
        self.routes: list[str] = []
        self._relay = ScriptedServer(self._answer)  # type: ignore[arg-type]

    @property
    def connection(self) -> str:
        """The connection's JSON, by way of the relay."""
        return json.dumps(json.loads(self._server.connection) | {"host": self.base_url})

    @property
    def base_url(self) -> str:
        return self._relay.base_url

    def close(self) -> None:
        self._relay.close()

    def _answer(self, request: Request) -> Reply | str:
        route = f"{request.method} {request.path.partition('/indexes')[2].lstrip('/')}".strip()
        self.routes.append(route)
        instead = self.meddle(route, request)
        if instead is not None and instead != "lost":
            return instead
        connection = http.client.HTTPConnection(self._target.hostname or "", self._target.port or 0)
        try:
            headers = {
                name: value
                for name, value in request.headers.items()
                if name.lower() in ("authorization", "content-type", "user-agent")
            }
            connection.request(request.method, request.path, request.body, headers)
            answer = connection.getresponse()
            kept = {name: answer.headers.get(name) or "" for name in ("Date", "Content-Type")}
            reply = Reply(answer.status, answer.read(), kept)
        finally:
            connection.close()
        return "reset" if instead == "lost" else reply


def once(route: str, instead: Reply | str) -> Meddle:
    """Return what meddles with the first request for a route only."""
    done: list[str] = []

    def meddle(asked: str, request: Request) -> Reply | str | None:
        if asked != route or done:
            return None
        done.append(asked)
        return instead

    return meddle
