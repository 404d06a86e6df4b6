# SPDX-License-Identifier: Apache-2.0
"""Extracts the NDJSON from the one form that the service accepts, ``multipart/form-data`` with a file."""

from __future__ import annotations

from email.message import Message


def uploaded(body: bytes, content_type: str) -> bytes | None:
    """
    Return the vectors in a form: its field ``vectors`` or, without that field, its only file.

    The size of the body is already limited, so it is split in memory.

    :return: The NDJSON; None if the form is damaged or has neither.
    """
    boundary = _parameter("content-type", content_type, "boundary")
    if not boundary or not boundary.isascii():
        return None
    parts = (b"\r\n" + body).split(b"\r\n--" + boundary.encode("ascii"))
    files = []
    # The preamble comes before the first delimiter. Two dashes follow the last delimiter.
    for part in parts[1:]:
        if part.startswith(b"--"):
            break
        head, found, content = part.partition(b"\r\n\r\n")
        disposition = _disposition(head)
        if not found or disposition is None:
            continue
        if _parameter("content-disposition", disposition, "name") == "vectors":
            return content
        if _parameter("content-disposition", disposition, "filename") is not None:
            files.append(content)
    return files[0] if len(files) == 1 else None


def _disposition(head: bytes) -> str | None:
    for line in head.decode("utf-8", "replace").split("\r\n"):
        header, _, value = line.partition(":")
        if header.strip().lower() == "content-disposition":
            return value.strip()
    return None


def _parameter(header: str, value: str, parameter: str) -> str | None:
    message = Message()
    try:
        message[header] = value
        found = message.get_param(parameter, header=header)
    except (ValueError, LookupError):
        return None
    return found if isinstance(found, str) else None
