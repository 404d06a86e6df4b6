# SPDX-License-Identifier: Apache-2.0
"""Messages as the documents show them: text in which ``...`` stands for what differs."""

from __future__ import annotations

import re
from collections.abc import Iterable

from readme.markdown import Document


def messages(document: Document) -> list[str]:
    """Return what stands as code in the first cells of all tables, but a bare name there."""
    found = []
    for heading in dict.fromkeys(at for at, line in document.prose if line.startswith("|")):
        for row in document.rows(heading):
            if (match := re.fullmatch(r"`([^`]+)`", row[0])) and not re.fullmatch(r"\w+", match[1]):
                found.append(match[1])
    return found


def fits(shown: str, said: str) -> bool:
    """Say whether a message is what a document shows; what follows the shown text does not matter."""
    pattern = ".*".join(re.escape(part) for part in shown.split("..."))
    return re.match(pattern, said, re.DOTALL) is not None


def rows_for(said: str, shown: Iterable[str]) -> list[str]:
    """Return the rows that a reader with this message finds."""
    return [one for one in shown if fits(one, said)]
