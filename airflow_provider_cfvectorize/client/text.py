# SPDX-License-Identifier: Apache-2.0
"""How text from outside (ids, bodies, names) is shown in logs and errors."""

from __future__ import annotations


def show(value: object, limit: int = 80) -> str:
    """
    Return a value as printable ASCII in quotes, shortened, safe for a log line.

    Control characters, line breaks and whatever else could forge a log line arrive escaped.

    :param value: the value; only strings, bytes and numbers are shown, of the rest the type alone.
    :param limit: the most characters to show of it.
    """
    if isinstance(value, str | bytes):
        shown = ascii(value[:limit])
        return f"{shown}... ({len(value)} long)" if len(value) > limit else shown
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, int):
        return repr(value) if value.bit_length() <= 256 else "an integer of more than 77 digits"
    return f"a {type(value).__name__}"
