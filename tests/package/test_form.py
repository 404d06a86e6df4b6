# SPDX-License-Identifier: Apache-2.0
"""The connection's form in each Airflow."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

#: The form in every Airflow, built from Python (up to 3.1) or from metadata. It repeats the labels, so that
#: none changes by accident.
FORM = {
    "name": "Cloudflare Vectorize",
    "password": "password",
    # Label and example.
    "standard": {
        "login": ["Account ID", "32 hexadecimal digits"],
        "password": ["API token (or Global API Key)", None],
        "host": ["API base URL", "https://api.cloudflare.com/client/v4"],
        "port": "hidden",
        "schema": "hidden",
    },
    # Label, explanation and default.
    "extras": {
        "api_email": [
            "API e-mail",
            "Only with a Global API Key in the password: the e-mail address it belongs to. Leave empty for "
            "an API token.",
            None,
        ],
        "timeout": [
            "Timeout (seconds)",
            "Seconds to connect and for each read; a response may take three times as long.",
            "30.0",
        ],
        "rate_reserve": [
            "Rate reserve",
            "Share of the account's request budget that is left to other clients: 0 to below 1.",
            "0.2",
        ],
    },
}


def shown_form(home: Path, *missing: str) -> Any:
    """Return the form of this Airflow without some modules."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("shown_form.py"), *missing],
        capture_output=True,
        text=True,
        check=False,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW_")},
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        },
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_every_airflow_shows_the_same_form(tmp_path: Path) -> None:
    assert shown_form(tmp_path) == FORM


@pytest.mark.airflow(since="3.0", before="3.1")
def test_without_fab_airflow_3_0_shows_no_fields_of_providers(tmp_path: Path) -> None:
    assert shown_form(tmp_path, "wtforms") == {**FORM, "standard": {}, "extras": {}}


@pytest.mark.airflow(since="3.1")
def test_later_versions_of_airflow_need_no_fab(tmp_path: Path) -> None:
    assert shown_form(tmp_path, "wtforms", "flask_appbuilder", "flask_babel") == FORM
