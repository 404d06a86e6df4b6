# SPDX-License-Identifier: Apache-2.0
"""Parse a Markdown file into fenced blocks, tables, links and anchors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent

_HEADING = re.compile(r"(#{1,6}) (.+)")
_FENCE = re.compile(r"```(\S*)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def documents() -> list[str]:
    """Return the paths of all documents, relative to the project's root."""
    return sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])


@dataclass(frozen=True)
class Block:
    """The n-th fenced block under a heading."""

    path: str
    heading: str
    number: int
    language: str
    text: str

    @property
    def key(self) -> str:
        return f"{self.path}#{self.heading}/{self.number}"


@dataclass
class Document:
    """A parsed Markdown file."""

    path: str
    blocks: list[Block] = field(default_factory=list)
    anchors: set[str] = field(default_factory=set)
    prose: list[tuple[str, str]] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "\n".join(line for _, line in self.prose)

    def links(self) -> list[str]:
        return _LINK.findall(re.sub(r"`[^`]*`", "", self.text))

    def rows(self, heading: str) -> list[list[str]]:
        """Return the cells of the table under a heading, without its header."""
        lines = [line for at, line in self.prose if at == heading and line.startswith("|")]
        return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def read(path: str) -> Document:
    """Parse a Markdown file."""
    document = Document(path)
    heading = ""
    counts: Counter[str] = Counter()
    lines = iter((ROOT / path).read_text().splitlines())
    for line in lines:
        if match := _HEADING.fullmatch(line):
            heading = _slug(match[2])
            assert heading not in document.anchors, f"{path}: two headings have the anchor {heading}"
            document.anchors.add(heading)
        elif match := _FENCE.fullmatch(line):
            counts[heading] += 1
            text = "\n".join(_until_fence(lines, path)) + "\n"
            document.blocks.append(Block(path, heading, counts[heading], match[1], text))
        else:
            assert "```" not in line, f"{path}: a fence that does not stand alone: {line}"
            document.prose.append((heading, line))
    return document


def _until_fence(lines: Iterator[str], path: str) -> Iterator[str]:
    for line in lines:
        if line == "```":
            return
        yield line
    raise AssertionError(f"{path}: a fence that is not closed")


def _slug(heading: str) -> str:
    # Like GitHub: keep letters, digits, hyphens and underscores; spaces become hyphens.
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
