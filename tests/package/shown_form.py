# SPDX-License-Identifier: Apache-2.0
"""
Print the connection's form in this Airflow's UI as JSON. It needs a separate process, because Airflow caches
the form.

Airflow 2 shows it on a page of the webserver; in Airflow 3 the API server sends it to the browser.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from airflow import __version__ as airflow_version

CONN_TYPE = "cloudflare_vectorize"
STANDARD = ("description", "host", "login", "password", "port", "schema")
PREFIX = f"extra__{CONN_TYPE}__"


class Page(HTMLParser):
    """The connection page of Airflow 2."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.inputs: dict[str, dict[str, str | None]] = {}
        self.texts: dict[str, str] = {}
        self.types: dict[str, str] = {}
        self._key: tuple[dict[str, str], str] | None = None
        self._label = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        self._key = None
        if tag == "input":
            self.inputs[given.get("id") or ""] = given
        elif tag == "label":
            self._label = given.get("for") or ""
            self._key = self.texts, self._label
        elif tag == "span" and given.get("class") == "help-block":
            self._key = self.texts, f"{self._label} help"
        elif tag == "script" and given.get("type") == "text/json":
            self._key = self.texts, given.get("id") or ""
        elif tag == "option":
            self._key = self.types, given.get("value") or ""

    def handle_data(self, data: str) -> None:
        if self._key and data.strip():
            texts, key = self._key
            texts[key] = texts.get(key, "") + " ".join(data.split())


def standard(behaviour: dict[str, Any]) -> dict[str, Any]:
    """Return the standard fields that have a label or an example or are hidden."""
    return {
        name: "hidden"
        if name in behaviour["hidden_fields"]
        else [behaviour["relabeling"].get(name), behaviour["placeholders"].get(name)]
        for name in STANDARD
        if name in {*behaviour["hidden_fields"], *behaviour["relabeling"], *behaviour["placeholders"]}
    }


def of_airflow_2() -> dict[str, Any]:
    """Return the form on the webserver's page."""
    home = Path(os.environ["AIRFLOW_HOME"])
    (home / "webserver_config.py").write_text("AUTH_ROLE_PUBLIC = 'Admin'\n")
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], check=True, capture_output=True)
    from airflow.www.app import create_app

    page = Page(create_app(testing=True).test_client().get("/connection/add").get_data(as_text=True))
    behaviour = json.loads(unescape(page.texts["field_behaviours"]))[CONN_TYPE]
    return {
        "name": page.types[CONN_TYPE],
        "password": page.inputs["password"]["type"],
        "standard": standard(behaviour),
        "extras": {
            key.removeprefix(PREFIX): [
                page.texts[key],
                page.texts.get(f"{key} help"),
                field.get("value") or None,
            ]
            for key, field in page.inputs.items()
            if key.startswith(PREFIX)
        },
    }


def of_airflow_3() -> dict[str, Any] | None:
    """Return the form that the API server sends."""
    from airflow.api_fastapi.core_api.services.ui.connections import HookMetaService

    (meta,) = [h for h in HookMetaService.hook_meta_data() if h.connection_type == CONN_TYPE]
    shown = json.loads(meta.model_dump_json())
    fields = {
        "schema" if k == "url_schema" else k: v for k, v in (shown["standard_fields"] or {}).items() if v
    }
    return {
        "name": shown["hook_name"],
        # The page's own field: no provider can change it.
        "password": "password",
        "standard": {
            name: "hidden" if field["hidden"] else [field["title"], field["placeholder"]]
            for name, field in fields.items()
        },
        "extras": {
            name: [field["schema"]["title"], field["description"], field["value"] and str(field["value"])]
            for name, field in (shown["extra_fields"] or {}).items()
        },
    }


if __name__ == "__main__":
    for name in sys.argv[1:]:
        sys.modules[name] = None  # type: ignore[assignment]
    form = of_airflow_2() if airflow_version.startswith("2.") else of_airflow_3()
    print(json.dumps(form))
