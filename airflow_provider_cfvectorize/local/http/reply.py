# SPDX-License-Identifier: Apache-2.0
"""Answers on their way out."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

_JSON: Final = (b"content-type", b"application/json")
_HTML: Final = (b"content-type", b"text/html; charset=UTF-8")

_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class Reply(NamedTuple):
    """
    An answer.

    :param headers: Headers beside those that all answers have.
    :param page: HTML that is sent in the envelope's place.
    """

    status: int
    envelope: dict[str, Any]
    headers: tuple[tuple[bytes, bytes], ...] = ()
    page: bytes | None = None

    def body(self) -> bytes:
        """Return what is sent."""
        return _encode(self.envelope).encode("ascii") if self.page is None else self.page


def success(result: Any) -> Reply:
    """Wrap a result."""
    return Reply(200, {"result": result, "success": True, "errors": [], "messages": []})


def start_message(reply: Reply, date: bytes, size: int | None) -> dict[str, Any]:
    """
    Return the message by which ASGI begins an answer.

    :param size: Bytes of the body; None for one without an announced end.
    """
    headers = [(b"date", date), _JSON if reply.page is None else _HTML, *reply.headers]
    if size is not None:
        headers.append((b"content-length", str(size).encode("ascii")))
    return {"type": "http.response.start", "status": reply.status, "headers": headers}
