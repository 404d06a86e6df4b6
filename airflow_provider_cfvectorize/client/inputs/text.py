# SPDX-License-Identifier: Apache-2.0
"""Safe text for logs and errors (``show``), plurals (``counted``), and compact JSON (``write_json``)."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Final
from uuid import UUID

from airflow_provider_cfvectorize.exceptions import VectorizeInputError

# Shared: json.dumps would make a new one each time.
_ENCODER = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def show(value: object, limit: int = 80) -> str:
    """
    Return a value as printable ASCII in quotes, shortened, safe for a log line.

    Control characters, line breaks and anything else that could forge a log line are escaped.

    :param value: strings, bytes, numbers and UUIDs are shown; for all others, only the type.
    :param limit: the most characters to show.
    """
    if isinstance(value, str | bytes):
        shown = ascii(value[:limit])
        return f"{shown}... ({len(value)} long)" if len(value) > limit else shown
    if value is None or isinstance(value, bool | float):
        return repr(value)
    if isinstance(value, Decimal | UUID):
        return repr(value)[:limit]
    if isinstance(value, int):
        return repr(value) if value.bit_length() <= 256 else "an integer of more than 77 digits"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"


def write_json(value: object) -> bytes:
    """
    Return a value as compact JSON.

    :raises VectorizeInputError: the value cannot be JSON. NaN and Infinity cannot, and the service's error
        would not say where they are.
    """
    try:
        return _ENCODER.encode(value).encode()
    except (ValueError, TypeError, RecursionError) as e:
        problem = ascii(str(e))[:200]
    raise VectorizeInputError(
        f"a value cannot be written as JSON: {problem}. Expected finite numbers and valid Unicode"
    )


_SINGULAR: Final = {"are": "is", "were": "was", "have": "has"}


def counted(number: int, noun: str, verb: str = "") -> str:
    """
    Return a number with a noun and a verb that agree with it: 1 request is, 2 requests are.

    :param noun: the singular.
    :param verb: ``are``, ``were``, ``have``, or empty for no verb.
    """
    if number != 1 and noun.endswith("ry"):
        noun = noun.removesuffix("y") + "ie"
    ending = "" if number == 1 else "es" if noun.endswith(("ch", "s", "x")) else "s"
    words = [str(number), noun + ending, _SINGULAR[verb] if verb and number == 1 else verb]
    return " ".join(filter(None, words))
