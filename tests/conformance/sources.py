# SPDX-License-Identifier: Apache-2.0
"""Where each statement about the service comes from."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LOCAL_SERVER = ROOT / "docs" / "local-server.md"

#: How a statement is known. ``schema``: Cloudflare's published OpenAPI schema of Vectorize v2, or an SDK made
#: from it. ``docs``: Cloudflare's documentation. ``official code``: public code of Cloudflare's own.
#: ``observed``: a first-hand report in a public repository. ``inference``: a reading of the others.
MARKS = ("schema", "docs", "official code", "observed", "inference")


def source(mark: str, text: str) -> pytest.MarkDecorator:
    """
    Mark a case with where its statement comes from; a case may have several.

    :param mark: One of :data:`MARKS`.
    :param text: The page, repository, issue or schema that says so.
    """
    assert mark in MARKS, mark
    assert text.strip(), "a source needs a name"
    return pytest.mark.source(mark, text)


def unknown(question: str, *switches: str, states: str = "") -> pytest.MarkDecorator:
    """
    Mark a probe with what it asks: something that nobody has on record, or that the records disagree on.

    :param question: The heading of its answers.
    :param switches: The switches of ``vectorize-local`` that are about it.
    :param states: Where there is no switch, the words of docs/local-server.md that say what it does.
    """
    assert switches or states, f"{question}: where is it said what vectorize-local does?"
    return pytest.mark.unknown(question, switches, states)


def documented_switches() -> dict[str, Any]:
    """Return the switches of ``vectorize-local`` and their defaults, as docs/local-server.md has them."""
    found = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", LOCAL_SERVER.read_text(), re.MULTILINE)
    return {name: ast.literal_eval(default) for name, default in found}
