# SPDX-License-Identifier: Apache-2.0
"""Messages in the documents: text with ``...`` for variable parts."""

from __future__ import annotations

import re
from collections.abc import Iterable

from readme.markdown import Document


def messages(document: Document) -> list[str]:
    """Return the code in the first cells of all tables, except bare names."""
    found = []
    for heading in dict.fromkeys(at for at, line in document.prose if line.startswith("|")):
        for row in document.rows(heading):
            if (match := re.fullmatch(r"`([^`]+)`", row[0])) and not re.fullmatch(r"\w+", match[1]):
                found.append(match[1])
    return found


def fits(shown: str, said: str) -> bool:
    """Return whether a message begins with a document's text."""
    pattern = ".*".join(re.escape(part) for part in shown.split("..."))
    return re.match(pattern, said, re.DOTALL) is not None


def rows_for(said: str, shown: Iterable[str]) -> list[str]:
    """Return the table rows that match this message."""
    return [one for one in shown if fits(one, said)]
