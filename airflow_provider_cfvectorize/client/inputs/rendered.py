# SPDX-License-Identifier: Apache-2.0
"""Reads what Jinja made text of: a list or an object, in JSON or as Python's ``repr`` writes it."""

from __future__ import annotations

import ast
import json
import re
import warnings
from typing import Final

#: Characters of text that is evaluated as Python; evaluating takes 20 times as much memory. A list of strings
#: and integers of any length is read without that.
MAX_LITERAL_CHARS: Final = 1024 * 1024

#: White space around the items of a list; Python takes no other.
_SPACE = " \t\r\n"
#: An escape as ``repr`` writes it.
_ESCAPE = r"""\\(?:[\\'"nrt]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8})"""
#: A string or an integer as ``repr`` writes it, and the comma or closing bracket behind it.
_PYTHON_ITEM = re.compile(
    rf"""[{_SPACE}]*(?:('[^'\\\r\n]*(?:{_ESCAPE}[^'\\\r\n]*)*'|"[^"\\\r\n]*(?:{_ESCAPE}[^"\\\r\n]*)*")"""
    rf"""|(-?[0-9]{{1,100}}))[{_SPACE}]*([],)])"""
)


def read_rendered(text: str) -> object:
    """
    Return the list or object that a text stands for.

    :param text: begins with a bracket.
    :raises ValueError: it is neither JSON nor what ``repr`` writes. A list of strings and integers is refused
        if ``repr`` writes it otherwise: Python joins the strings on both sides of a missing comma.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        pass
    items = _scan_list(text)
    if items is not None:
        return items
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of escapes that Python does not know
        value = _literal(text) if len(text) <= MAX_LITERAL_CHARS else None
    is_plain = isinstance(value, list | tuple) and all(
        isinstance(item, str | int) and not isinstance(item, bool) for item in value
    )
    if is_plain or not isinstance(value, list | tuple | dict):
        raise ValueError("neither JSON nor what repr() writes")
    return value


def _scan_list(text: str) -> list[object] | None:
    # Not literal_eval on the whole: it takes 1 kB of memory for each item, so that 16 MiB of text could end a
    # worker.
    text = text.rstrip(_SPACE)
    closing = {"[": "]", "(": ")"}.get(text[:1])
    items: list[object] = []
    position = 1
    while match := _PYTHON_ITEM.match(text, position):
        string, integer, end = match.groups()
        item = string[1:-1] if string and "\\" not in string else _literal(string or integer)
        if item is None:
            return None
        items.append(item)
        position = match.end()
        if end != ",":
            break
    # "('a')" is a string in brackets, and no tuple.
    is_tuple = closing == "]" or len(items) != 1 or text[-2] == ","
    rest = text[position - 1 if items and end != "," else position :].strip(_SPACE)
    return items if rest == closing and is_tuple else None


def _literal(text: str) -> object:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return None
