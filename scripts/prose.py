# SPDX-License-Identifier: Apache-2.0
"""
Print, for each page of the documentation, its words, its long sentences and the mean length of a sentence.

    python scripts/prose.py [REVISION]

With a git revision, the script also prints that revision's numbers. It leaves out code, tables and headings.
"""

from __future__ import annotations

import argparse
import re
import subprocess

from environments import ROOT

#: A sentence with more words than this is long.
LONG = 30
#: Not prose: code blocks, comments and directives, tables, headings, targets of links, bare links.
NOT_PROSE = re.compile(r"```.*?```|<!--.*?-->|^\s*\|.*?$|^#.*?$|(?<=\])\([^)]*\)|<https?:[^>]*>", re.S | re.M)
#: The end of a paragraph, list item or sentence.
ENDS = re.compile(r"\n\s*\n|\n\s*(?:[-*]|\d+\.)\s+|(?<=[.!?])[\"')*]*\s+(?=[\"'(*`\[]*[A-Z0-9`])")


def sentences(page: str) -> list[int]:
    """
    Return the number of words in each sentence of a page.

    :param page: its Markdown.
    """
    prose = NOT_PROSE.sub("", page)
    return [words for part in ENDS.split(prose) if (words := len(re.findall(r"[\w`'-]*\w[\w`'-]*", part)))]


def numbers(page: str | None) -> tuple[str, str, str]:
    """
    Return the number of words, that of long sentences, and the mean length of a sentence, as text.

    :param page: its Markdown, or None for a page that did not exist.
    """
    lengths = sentences(page or "")
    if not lengths:
        return ("-", "-", "-")
    long = sum(length > LONG for length in lengths)
    return (f"{sum(lengths):,}", str(long), f"{sum(lengths) / len(lengths):.1f}")


def at(revision: str, path: str) -> str | None:
    """
    Return a page in a git revision, or None if it did not exist.

    :param revision: the git revision.
    :param path: the page's path, from the top of the repository.
    """
    shown = subprocess.run(
        ["git", "show", f"{revision}:{path}"],  # noqa: S607 - as in a shell
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return shown.stdout if shown.returncode == 0 else None


def main() -> None:
    """Read the command line and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("revision", nargs="?", help="also print the numbers of this git revision")
    revision = parser.parse_args().revision
    heads = ("words", f">{LONG}", "mean")
    if revision:
        heads = tuple(f"{head} {when}" for head in heads for when in ("then", "now"))
    print(f"{'page':<44}" + "".join(f"{head:>12}" for head in heads))
    before, after = [], []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        path = page.relative_to(ROOT).as_posix()
        row = now = numbers(page.read_text())
        after.append(page.read_text())
        if revision:
            old = at(revision, path)
            before.append(old or "")
            row = tuple(number for pair in zip(numbers(old), now, strict=True) for number in pair)
        print(f"{path:<44}" + "".join(f"{number:>12}" for number in row))
    row = now = numbers("\n\n".join(after))
    if revision:
        row = tuple(number for pair in zip(numbers("\n\n".join(before)), now, strict=True) for number in pair)
    print(f"{'all':<44}" + "".join(f"{number:>12}" for number in row))


if __name__ == "__main__":
    main()
