# SPDX-License-Identifier: Apache-2.0
"""
Make pages work on a Git forge and in the built site.

On a forge, a relative link may lead to any file or directory. In the site, such a link leads to a page that
shows the file or lists the directory. The lists of links on the pages in ``toc_pages`` become the tables of
contents: a caption for each heading, and an entry for each item or row that begins with a link.
"""

from __future__ import annotations

import html
import posixpath
import re
from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.transforms import SphinxTransform

#: The directory of the pages that show files.
PREFIX = "_files"

_HEADING = re.compile(r"^#+ (.+)$")
_WORD = re.compile(r"(?<=[a-z])(?=[A-Z])")
#: A long name as code or as a title, and the places where it may break.
_NAME = re.compile(r'(?:(?<=<span class="pre">)|(?<=<h1>))[^<]{14,}(?=<)')
_BREAK = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[_./])(?=\w)")
_TABLE = re.compile(r'(?<=<table class="docutils) .*?</table>', re.DOTALL)
_HEAD, _CELL, _TAG = re.compile(r"<th.*?><p>(.*?)</p>"), re.compile(r"<td>(.*?)</td>"), re.compile(r"<.*?>")
#: A table with a longer cell is a list on a phone.
_LONG_CELL = 50
#: Columns that need no label there.
_PLAIN = ("meaning", "observation")
_IMAGE = re.compile(r'(<img [^>]*src="([^"]+)"[^>]*>)')
_ITEM = re.compile(r"^[-|] \[`?([^`\]]*)`?\]\(([^)#\s]+)\.md\)")


def add_toctrees(app: Sphinx, docname: str, content: list[str]) -> None:
    """Insert the toctrees of a page's lists of links into its text."""
    if docname not in app.config.toc_pages:
        return
    entries: dict[str, list[str]] = {}
    caption = ""
    for line in content[0].splitlines():
        if match := _HEADING.match(line):
            caption = match[1]
        elif match := _ITEM.match(line):
            # The sidebar is narrow: a long name breaks between its words.
            title = _WORD.sub("\u200b", match[1])
            entries.setdefault(caption, []).append(f"{title} <{match[2]}>")
    toctrees = ""
    for caption, entry in entries.items():
        lines = [":hidden:", f":caption: {caption}", "", *entry]
        toctrees += "\n".join(["", "```{toctree}", *lines, "```", ""])
    # After the title, so that the pages come before the page's own sections in the navigation.
    title, _, rest = content[0].partition("\n")
    content[0] = f"{title}\n{toctrees}{rest}"


class LinkFiles(SphinxTransform):
    """Point links to files outside the site at the pages that show the files."""

    # Run before MyST treats links to files as downloads.
    default_priority = 400

    def apply(self, **kwargs: Any) -> None:
        """Replace the nodes."""
        root = Path(self.env.srcdir)
        for node in [*self.document.findall(addnodes.download_reference), *self._unknown()]:
            target = node["reftarget"]
            base = "" if target.startswith("/") else posixpath.dirname(self.env.docname)
            path = posixpath.normpath(posixpath.join(base, target.lstrip("/")))
            if path.startswith("..") or not (root / path).exists():
                continue
            _files(self.env).setdefault(self.env.docname, set()).add(path)
            uri = self.app.builder.get_relative_uri(self.env.docname, f"{PREFIX}/{path}")
            text = node.astext()
            node.replace_self(nodes.reference("", text, internal=True, refuri=uri))

    def _unknown(self) -> Iterator[addnodes.pending_xref]:
        for node in self.document.findall(addnodes.pending_xref):
            if node.get("reftype") == "myst" and node.get("refdomain") is None:
                yield node


def _files(env: BuildEnvironment) -> dict[str, set[str]]:
    """Return the files that each page links to."""
    if not hasattr(env, "linked_files"):
        env.linked_files = {}
    files: dict[str, set[str]] = env.linked_files
    return files


def make_pages(app: Sphinx) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield a page for each linked file, and for each file in a linked directory."""
    root = Path(app.srcdir)
    waiting = {path for paths in _files(app.env).values() for path in paths}
    done: set[str] = set()
    while waiting:
        path = waiting.pop()
        done.add(path)
        if (root / path).is_dir():
            inside = sorted(
                f"{path}/{child.name}"
                for child in (root / path).iterdir()
                if not child.name.startswith((".", "__pycache__"))
            )
            waiting |= {*inside} - done
            body = _listing(app, path, inside)
        else:
            text = (root / path).read_text()
            language = {".py": "python", ".json": "json", ".md": "markdown"}.get(Path(path).suffix, "text")
            body = app.builder.highlighter.highlight_block(text, language)  # type: ignore[attr-defined]
        title = html.escape(path)
        yield f"{PREFIX}/{path}", {"title": title, "body": f"<h1>{title}</h1>\n{body}"}, "page.html"


def _listing(app: Sphinx, path: str, inside: list[str]) -> str:
    uris = [app.builder.get_relative_uri(f"{PREFIX}/{path}", f"{PREFIX}/{child}") for child in inside]
    items = [
        f'<li><a href="{html.escape(uri)}">{html.escape(posixpath.basename(child))}</a></li>'
        for uri, child in zip(uris, inside, strict=True)
    ]
    return f"<ul>{''.join(items)}</ul>"


def _label_cells(table: re.Match[str]) -> str:
    """Mark a table with long cells as stacked, and label the cells after the first of three or more."""
    if all(len(_TAG.sub("", cell)) <= _LONG_CELL for cell in _CELL.findall(table[0])):
        return table[0]
    first, *others = (_TAG.sub("", head) for head in _HEAD.findall(table[0]))
    labels = cycle([first, *others])

    def label(cell: re.Match[str]) -> str:
        name = next(labels)
        plain = name == first or name in _PLAIN or len(others) == 1
        return cell[0] if plain else cell[0].replace("<td>", f'<td data-label="{name.capitalize()}: ">', 1)

    return f" stacked{_CELL.sub(label, table[0])}"


def shape_body(app: Sphinx, pagename: str, template: str, context: dict[str, Any], doctree: Any) -> None:
    """Fit names and tables to a phone, and link each picture to its full size."""
    if body := context.get("body"):
        body = _NAME.sub(lambda name: _BREAK.sub("<wbr>", name[0]), body)
        body = _TABLE.sub(_label_cells, body)
        context["body"] = _IMAGE.sub(r'<a href="\2">\1</a>', body)
    for side in ("prev", "next"):
        if link := context.get(side):
            context[side] = {**link, "title": _WORD.sub("<wbr>", link["title"])}


def forget_page(app: Sphinx, env: BuildEnvironment, docname: str) -> None:
    """Drop the links of a page that was changed or deleted."""
    _files(env).pop(docname, None)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the transform and the events."""
    app.add_config_value("toc_pages", [], "env", [list])
    app.add_transform(LinkFiles)
    app.connect("source-read", add_toctrees)
    app.connect("html-collect-pages", make_pages)
    app.connect("html-page-context", shape_body)
    app.connect("env-purge-doc", forget_page)
    return {"parallel_read_safe": False, "parallel_write_safe": True}
