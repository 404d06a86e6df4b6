# SPDX-License-Identifier: Apache-2.0
"""Responses: the envelope, the body and the headers."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

_JSON: Final = (b"content-type", b"application/json")
_HTML: Final = (b"content-type", b"text/html; charset=UTF-8")

_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class Reply(NamedTuple):
    """
    A response.

    :param headers: Headers beside those of every response.
    :param page: HTML to send in place of the envelope.
    """

    status: int
    envelope: dict[str, Any]
    headers: tuple[tuple[bytes, bytes], ...] = ()
    page: bytes | None = None

    def body(self) -> bytes:
        """Return the body in bytes."""
        return _encode(self.envelope).encode("ascii") if self.page is None else self.page


def success(result: Any) -> Reply:
    """Return the response of a successful request."""
    return Reply(200, {"result": result, "success": True, "errors": [], "messages": []})


def start_message(reply: Reply, date: bytes, size: int | None) -> dict[str, Any]:
    """
    Return the ASGI message that starts a response.

    :param size: Length of the body in bytes; None if the length is not announced.
    """
    headers = [(b"date", date), _JSON if reply.page is None else _HTML, *reply.headers]
    if size is not None:
        headers.append((b"content-length", str(size).encode("ascii")))
    return {"type": "http.response.start", "status": reply.status, "headers": headers}
