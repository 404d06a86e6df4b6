# SPDX-License-Identifier: Apache-2.0
"""The one form that the service takes: ``multipart/form-data`` with the NDJSON in the field ``vectors``."""

from __future__ import annotations

from email.message import Message


def field(body: bytes, content_type: str, name: str) -> bytes | None:
    """
    Take one field out of a form.

    The body is in memory and bounded already, so that one ``split`` does it.

    :param body: The form.
    :param content_type: The request's content type, with the boundary.
    :param name: The field.
    :return: What is in it; None if the form is damaged or has no such field.
    """
    boundary = _parameter("content-type", content_type, "boundary")
    if not boundary or not boundary.isascii():
        return None
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary.encode("ascii"))
    # Before the first delimiter is the preamble; the last one is followed by two dashes.
    for part in parts[1:]:
        if part.startswith(b"--"):
            break
        head, found, content = part.partition(b"\r\n\r\n")
        if found and _name(head) == name:
            return content
    return None


def _name(head: bytes) -> str | None:
    for line in head.decode("utf-8", "replace").split("\r\n"):
        header, _, value = line.partition(":")
        if header.strip().lower() == "content-disposition":
            return _parameter("content-disposition", value.strip(), "name")
    return None


def _parameter(header: str, value: str, parameter: str) -> str | None:
    message = Message()
    try:
        message[header] = value
        found = message.get_param(parameter, header=header)
    except (ValueError, LookupError):
        return None
    return found if isinstance(found, str) else None
