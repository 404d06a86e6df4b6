# SPDX-License-Identifier: Apache-2.0
"""Parses a text into a list or an object: JSON, or Python as ``repr`` writes it."""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Final

#: The most characters of text to evaluate as Python, which takes 20 times as much memory. A list of strings
#: and integers is read without this, at any length.
MAX_LITERAL_CHARS: Final = 1024 * 1024

#: White space around the items of a list; Python allows no other.
_SPACE = " \t\r\n"
#: An escape as ``repr`` writes it.
_ESCAPE = r"""\\(?:[\\'"nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"""
#: A string or an integer as ``repr`` writes it.
_ITEM = (
    rf"""('[^'\\\r\n]*(?:{_ESCAPE}[^'\\\r\n]*)*'|"[^"\\\r\n]*(?:{_ESCAPE}[^"\\\r\n]*)*"|-?[0-9]{{1,100}})"""
)
#: An item, and the comma or closing bracket after it. Not compiled at import: a DAG processor reads no text.
_PYTHON_ITEM = rf"[{_SPACE}]*{_ITEM}[{_SPACE}]*([],)])"
#: A row of one item, as ``repr`` writes a tuple or a list, and the comma or closing bracket after it.
_PYTHON_ROW = rf"[{_SPACE}]*(?:\({_ITEM},\)|\[{_ITEM}\])[{_SPACE}]*([],)])"


def read_rendered(text: str) -> object:
    """
    Return the list or object in a text.

    :param text: begins with a bracket.
    :raises ValueError: it is neither JSON nor what ``repr`` writes. A list of strings and integers must be
        exactly what ``repr`` writes: Python would join the strings on both sides of a missing comma.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    items = _scan_list(text)
    if items is not None:
        return items
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about escapes that Python does not know
        value = _literal(text) if len(text) <= MAX_LITERAL_CHARS else None
    is_plain = isinstance(value, list | tuple) and all(map(_is_plain, value))
    if is_plain or not isinstance(value, list | tuple | dict):
        raise ValueError("neither JSON nor what repr() writes")
    return value


def _scan_list(text: str) -> list[object] | None:
    # Not literal_eval on the whole text: at 1 kB of memory an item, 16 MiB of text could kill a worker.
    text = text.rstrip(_SPACE)
    closing = {"[": "]", "(": ")"}.get(text[:1])
    items: list[object] = []
    position = 1
    has_rows = text[1:].lstrip(_SPACE)[:1] in ("(", "[")
    pattern = re.compile(_PYTHON_ROW if has_rows else _PYTHON_ITEM)
    while match := pattern.match(text, position):
        *either, end = match.groups()
        written = next(filter(None, either))
        item = written[1:-1] if written[0] in "'\"" and "\\" not in written else _literal(written)
        if item is None:
            return None
        items.append((item,) if has_rows else item)
        position = match.end()
        if end != ",":
            break
    # "('a')" is a string in brackets, not a tuple.
    is_tuple = closing == "]" or len(items) != 1 or text[-2] == ","
    rest = text[position - 1 if items and end != "," else position :].strip(_SPACE)
    return items if rest == closing and is_tuple else None


def _is_plain(item: object) -> bool:
    if isinstance(item, list | tuple) and len(item) == 1:
        (item,) = item
    return isinstance(item, str | int) and not isinstance(item, bool)


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
