# SPDX-License-Identifier: Apache-2.0
"""A relay in front of a local server that can lose or replace answers."""

from __future__ import annotations

import http.client
import json
from collections.abc import Callable
from urllib.parse import urlsplit

from airflow_provider_cfvectorize.local import LocalVectorize
from client.servers import Reply, Request, ScriptedServer

#: Decides what the relay does with a request: None forwards it, an answer replaces the server's, and ``lost``
#: forwards the request and drops the answer.
Intercept = Callable[[str, Request], Reply | str | None]

#: Returns the log.
Logged = Callable[[], str]


class Relay:
    """
    A relay that forwards requests to a server.

    :param server: the server.
    :param intercept: called with the method and route of a request, such as
        ``POST docs/metadata_index/create``, and the request; set it at any time.
    """

    def __init__(self, server: LocalVectorize) -> None:
        self._target = urlsplit(server.root_url)
        self._server = server
        self.intercept: Intercept = lambda route, request: None
        self.routes: list[str] = []
        self._relay = ScriptedServer(self._answer)  # type: ignore[arg-type]

    @property
    def connection(self) -> str:
        """The JSON of a connection through the relay."""
        return json.dumps(json.loads(self._server.connection) | {"host": self.base_url})

    @property
    def base_url(self) -> str:
        return self._relay.base_url

    def close(self) -> None:
        self._relay.close()

    def _answer(self, request: Request) -> Reply | str:
        route = f"{request.method} {request.path.partition('/indexes')[2].lstrip('/')}".strip()
        self.routes.append(route)
        instead = self.intercept(route, request)
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


def once(route: str, instead: Reply | str) -> Intercept:
    """Return a function that intercepts only the first request for a route."""
    done: list[str] = []

    def intercept(asked: str, request: Request) -> Reply | str | None:
        if asked != route or done:
            return None
        done.append(asked)
        return instead

    return intercept
