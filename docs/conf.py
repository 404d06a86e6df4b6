# SPDX-License-Identifier: Apache-2.0
"""
Configure the site that ``make docs`` builds: pages in Markdown, and a reference from docstrings.

The source directory is the project's root. README.md and the other pages there are part of the site, and
their links to docs/ work on a Git forge and on the site.
"""

from __future__ import annotations

import inspect
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs" / "_ext"), str(ROOT / "scripts")]
# An import of Airflow writes its configuration, which must not be in the user's home.
_HOME = tempfile.TemporaryDirectory(prefix="cfvectorize-docs-", ignore_cleanup_errors=True)
os.environ.setdefault("AIRFLOW_HOME", _HOME.name)

from project_links import repository  # noqa: E402
from sphinx.util.inspect import stringify_signature  # noqa: E402

from airflow_provider_cfvectorize import __version__  # noqa: E402

project = "airflow-provider-cfvectorize"
author = "The airflow-provider-cfvectorize authors"
version = release = __version__
language = "en"

root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md"]
exclude_patterns = [".*", "build", "dist", "tests", "benchmarks", "scripts", "example_dags"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton", "forge_links"]
toc_pages = ["docs/index"]
# A forge gives an anchor to each heading.
myst_heading_anchors = 4

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
python_maximum_signature_line_length = 88
# All other references must resolve.
nitpick_ignore_regex = [
    # Names of other projects: the build needs no network.
    (r"py:.*", r"(airflow|collections|datetime|typing|urllib)\..*"),
    # Names that are imported only for the type checker, which autodoc shows as written.
    (
        r"py:class",
        r"Context|Path|timedelta|Callable\[\[\]|str \| tuple\[int|RetryDecision|Vectors|Asset|Dataset|"
        r"OperatorLineage|Change|Checkpoint|FilePath|Flow",
    ),
    # A type variable, and types of results that no user creates.
    (r"py:class", r".*\.(Result|Answer|CredentialHistory|Flow|IdList|RawResponse|WitnessVector)"),
]

html_theme = "furo"
html_title = f"{project} {version}"
# Furo's own styles come from a package that configures logging at its import.
pygments_style = "default"
pygments_dark_style = "github-dark"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_theme_options: dict[str, Any] = {"top_of_page_buttons": []}
if address := repository(ROOT):
    html_theme_options = {
        "top_of_page_buttons": ["view", "edit"],
        "source_repository": address,
        "source_branch": "main",
        "source_directory": "",
    }
# Copy only what a reader types: no prompts, and no button on the output of a program.
copybutton_selector = "div:not(.highlight-text, .highlight-output) > div.highlight pre"
html_copy_source = False
html_show_copyright = False
html_show_sphinx = False
html_show_sourcelink = False
toc_object_entries = False
html_additional_pages = {"index": "redirect.html"}
templates_path = ["_templates"]


def own_signature(
    app: Any, what: str, name: str, obj: Any, options: Any, signature: str | None, returns: str | None
) -> tuple[str, str | None] | None:
    """Return the signature of an operator's own constructor, which Airflow's metaclass hides."""
    if what != "class" or not (signature or "").startswith("(*args"):
        return None
    own = inspect.signature(obj.__init__)
    parameters = [p for p in own.parameters.values() if p.name not in ("self", "kwargs")]
    shown = own.replace(parameters=parameters, return_annotation=inspect.Signature.empty)
    return stringify_signature(shown, show_annotation=True), returns


def setup(app: Any) -> None:
    """Register the events of this project."""
    app.connect("autodoc-process-signature", own_signature)
