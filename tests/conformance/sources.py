# SPDX-License-Identifier: Apache-2.0
"""Marks for the source of each statement about the service."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
LOCAL_SERVER = ROOT / "docs" / "local-server.md"

#: The kinds of sources. ``schema``: Cloudflare's published OpenAPI schema of Vectorize v2, or an SDK made
#: from it. ``docs``: Cloudflare's documentation. ``official code``: public code of Cloudflare's own.
#: ``observed``: a first-hand report in a public repository. ``inference``: a reading of the others.
MARKS = ("schema", "docs", "official code", "observed", "inference")


def source(mark: str, text: str) -> pytest.MarkDecorator:
    """
    Mark a case with a source of its statement. A case may have several sources.

    :param mark: One of :data:`MARKS`.
    :param text: The page, repository, issue or schema.
    """
    assert mark in MARKS, mark
    assert text.strip(), "a source needs a name"
    return pytest.mark.source(mark, text)


def unknown(question: str, *switches: str, states: str = "") -> pytest.MarkDecorator:
    """
    Mark a probe with its question, which no record answers or about which records disagree.

    :param question: The heading of its answers.
    :param switches: The switches of ``vectorize-local`` for this question.
    :param states: Without a switch, the words of docs/local-server.md about the server's behaviour.
    """
    assert switches or states, f"{question}: name a switch or the words about vectorize-local's behaviour"
    return pytest.mark.unknown(question, switches, states)


def documented_switches() -> dict[str, Any]:
    """Return the switches of ``vectorize-local`` and their defaults from docs/local-server.md."""
    found = re.findall(r"^\| `(\w+)` \| `([^`]+)` \|", LOCAL_SERVER.read_text(), re.MULTILINE)
    return {name: ast.literal_eval(default) for name, default in found}
