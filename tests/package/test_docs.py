# SPDX-License-Identifier: Apache-2.0
"""The documentation builds without a warning, and its reference lists all public names."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from airflow_provider_cfvectorize import exceptions, local
from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.operators import indexes, vectors

ROOT = Path(__file__).resolve().parent.parent.parent
PACKAGE = "airflow_provider_cfvectorize"

# Only the environment of the newest Airflow has the packages of the docs.
pytestmark = [pytest.mark.airflow(since="3.3"), pytest.mark.long]

PUBLIC = [
    *(f"{PACKAGE}.operators.vectors.{name}" for name in vectors.__all__),
    *(f"{PACKAGE}.operators.indexes.{name}" for name in indexes.__all__),
    f"{PACKAGE}.sensors.mutation.VectorizeMutationSensor",
    f"{PACKAGE}.sensors.mutation.VectorizeMutationTimeout",
    f"{PACKAGE}.triggers.mutation.VectorizeMutationTrigger",
    f"{PACKAGE}.hooks.vectorize.CloudflareVectorizeHook",
    f"{PACKAGE}.hooks.vectorize.CloudflareVectorizeHook.delete_by_ids",
    f"{PACKAGE}.client.client.VectorizeClient",
    f"{PACKAGE}.client.client.VectorizeClient.delete_by_ids",
    f"{PACKAGE}.client.mutations.receipts.Receipt",
    f"{PACKAGE}.retry.VectorizeRetryPolicy",
    f"{PACKAGE}.assets.vectorize_asset",
    f"{PACKAGE}.links.VectorizeIndexLink",
    *(f"{PACKAGE}.local.{name}" for name in local.__all__),
    *(f"{PACKAGE}.exceptions.{name}" for name in vars(exceptions) if name.startswith("Vectorize")),
    *(f"{PACKAGE}.client.limits.{name}" for name in vars(limits) if name.isupper()),
]


def build(source: Path, target: Path) -> subprocess.CompletedProcess[str]:
    """Build the site like ``make docs``."""
    (command,) = re.findall(r"-m (sphinx -c docs .+) \. build/docs$", (ROOT / "Makefile").read_text(), re.M)
    return subprocess.run(
        [sys.executable, "-m", *command.split(), ".", str(target)],
        cwd=source,
        # Not the import path and the proxies of the tests.
        env={**os.environ, "PYTHONPATH": str(source), "https_proxy": "http://127.0.0.1:9"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("docs")
    done = build(ROOT, target)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return target


class Page(HTMLParser):
    """The links and the anchors of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.anchors: set[str] = set()
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if anchor := values.get("id"):
            self.anchors.add(anchor)
        if tag == "a" and (link := values.get("href")):
            self.links.append(link)


def pages(site: Path) -> Iterator[tuple[Path, Page]]:
    for path in sorted(site.rglob("*.html")):
        # Skip code pages: Sphinx creates both ends of their links.
        if "_modules" not in path.relative_to(site).parts:
            yield path, Page(path)


def test_everything_public_is_in_the_reference(site: Path) -> None:
    anchors = {anchor for path in site.glob("docs/reference/*.html") for anchor in Page(path).anchors}
    assert [name for name in PUBLIC if name not in anchors] == []


def test_the_reference_shows_the_parameters_of_a_constructor(site: Path) -> None:
    shown = (site / "docs/reference/operators.html").read_text()
    text = re.sub(r"<[^>]+>", "", shown)
    for parameter in ("ids_path", "vectors_callable", "top_k", "id_prefix", "metadata_indexes", "if_missing"):
        assert re.search(rf"\b{parameter}: ", text), parameter
    assert "**kwargs: Any" not in text


def test_links_have_targets(site: Path) -> None:
    found = dict(pages(site))
    lost = []
    for path, page in found.items():
        for link in page.links:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            anchors = found[target].anchors if target in found else {parts.fragment}
            if not target.exists() or (parts.fragment and unquote(parts.fragment) not in anchors):
                lost.append(f"{path.relative_to(site)}: {link}")
    assert lost == []


def test_pages_need_no_network(site: Path) -> None:
    for path in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|img|iframe|link)\b[^>]+>", path.read_text()):
            assert not re.search(r"(?:src|href)=\"(?:https?:)?//", tag), f"{path}: {tag}"
    for path in site.rglob("*.css"):
        assert not re.search(r"(?:url\([\"']?|@import +[\"'])(?:https?:)?//", path.read_text()), path


def test_the_root_page_redirects_to_the_home_page(site: Path) -> None:
    assert "url=docs/index.html" in (site / "index.html").read_text()
    assert {"../README.html", "operators/index.html", "reference/index.html"} <= {
        link.partition("#")[0] for link in Page(site / "docs/index.html").links
    }


def test_linked_files_have_a_page(site: Path) -> None:
    assert "def decide(" in re.sub(
        r"<[^>]+>", "", (site / f"_files/{PACKAGE}/client/mutations/decide.py.html").read_text()
    )
    assert "example_delete_mapped.py.html" in (site / "_files/example_dags.html").read_text()


def test_a_broken_link_fails_the_build(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "docs").mkdir(parents=True)
    for name in ("conf.py", "_ext", "_static", "_templates"):
        copy = shutil.copytree if (ROOT / "docs" / name).is_dir() else shutil.copy
        copy(ROOT / "docs" / name, source / "docs" / name)
    for name in (PACKAGE, "scripts", "pyproject.toml"):
        (source / name).symlink_to(ROOT / name)
    text = f"# A page\n\n[gone](gone.md)\n\n```{{eval-rst}}\n:class:`{PACKAGE}.hooks.Gone`\n```\n"
    (source / "docs" / "index.md").write_text(text)
    done = build(source, tmp_path / "target")
    assert done.returncode != 0
    assert "gone.md" in done.stderr
    assert "hooks.Gone" in done.stderr
