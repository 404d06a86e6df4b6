# SPDX-License-Identifier: Apache-2.0
"""Answers on their way out."""

from __future__ import annotations

import json
from typing import Any, Final, NamedTuple

CONTENT_TYPE_JSON: Final = (b"content-type", b"application/json")

_encode = json.JSONEncoder(allow_nan=False, separators=(",", ":")).encode


class Reply(NamedTuple):
    """
    An answer.

    :param status: HTTP status.
    :param envelope: What is sent as JSON.
    :param headers: Headers beside those that all answers have.
    """

    status: int
    envelope: dict[str, Any]
    headers: tuple[tuple[bytes, bytes], ...] = ()

    def body(self) -> bytes:
        """Return the JSON."""
        return _encode(self.envelope).encode("ascii")


def success(result: Any) -> Reply:
    """
    Wrap a result.

    :param result: The result.
    """
    return Reply(200, {"result": result, "success": True, "errors": [], "messages": []})


def start_message(
    status: int, date: bytes, headers: tuple[tuple[bytes, bytes], ...], size: int | None
) -> dict[str, Any]:
    """
    Return the message by which ASGI begins an answer.

    :param status: HTTP status.
    :param date: The ``Date`` header.
    :param headers: Further headers.
    :param size: Bytes of the body; None for one without an announced end.
    """
    length = () if size is None else ((b"content-length", str(size).encode("ascii")),)
    return {
        "type": "http.response.start",
        "status": status,
        "headers": [(b"date", date), *headers, *length],
    }
