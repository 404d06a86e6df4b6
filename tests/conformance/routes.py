# SPDX-License-Identifier: Apache-2.0
"""The 14 endpoints, each with a well-formed request."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import requests

from conformance.scenario import turned, vector
from conformance.service import NDJSON, Service


class Route(NamedTuple):
    """
    An endpoint.

    :param name: Its name in this suite.
    :param method: The HTTP method.
    :param path: The path after the index name; None for ``.../indexes`` itself.
    :param writes: Whether the schema requires "Vectorize Write"; if not, "Vectorize Read" suffices.
    :param options: Body and headers of the request, as arguments of ``requests``.
    """

    name: str
    method: str
    path: str | None
    writes: bool
    options: dict[str, Any] = {}  # noqa: RUF012 - a default that nobody changes

    def send(self, service: Service, index: str, **more: Any) -> requests.Response:
        """Send the request to an index."""
        path = "" if self.path is None else f"/{index}{self.path}"
        return service.send(self.method, path, **self.options, **more)


_UPLOAD = {"data": json.dumps(vector("never-written")), "headers": {"Content-Type": NDJSON}}
_METADATA_INDEX = {"propertyName": "unheard_of", "indexType": "string"}

ROUTES = (
    Route("list indexes", "GET", None, False),
    # Always refused, so that it creates nothing.
    Route("create index", "POST", None, True, {"json": {"name": "conformance-no-config"}}),
    Route("get index", "GET", "", False),
    Route("delete index", "DELETE", "", True),
    Route("insert", "POST", "/insert", True, _UPLOAD),
    Route("upsert", "POST", "/upsert", True, _UPLOAD),
    Route("delete_by_ids", "POST", "/delete_by_ids", True, {"json": {"ids": ["never-written"]}}),
    Route("get_by_ids", "POST", "/get_by_ids", False, {"json": {"ids": ["never-written"]}}),
    Route("query", "POST", "/query", False, {"json": {"vector": turned(0)}}),
    Route("info", "GET", "/info", False),
    Route("list", "GET", "/list", False),
    Route("metadata_index/create", "POST", "/metadata_index/create", True, {"json": _METADATA_INDEX}),
    Route("metadata_index/list", "GET", "/metadata_index/list", False),
    Route(
        "metadata_index/delete",
        "POST",
        "/metadata_index/delete",
        True,
        {"json": {"propertyName": "unheard_of"}},
    ),
)
#: The endpoints of one index.
OF_AN_INDEX = ROUTES[2:]
READS = tuple(route for route in ROUTES if not route.writes)
WRITES = tuple(route for route in ROUTES if route.writes)


def name_of(route: Route) -> str:
    return route.name
