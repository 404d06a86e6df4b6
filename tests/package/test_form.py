# SPDX-License-Identifier: Apache-2.0
"""The connection's form, as each Airflow shows it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

#: The same for every Airflow, whether it makes the form from Python (up to 3.1) or from metadata. Written out
#: once more, so that no label changes by the way.
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
    # Label, explanation and what stands in the field at first.
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
            "Share of the account's request budget that is left to others: 0 to below 1.",
            "0.2",
        ],
    },
}


def shown_form(home: Path, *missing: str) -> Any:
    """Return what this Airflow shows, without some modules."""
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
def test_later_ones_need_no_fab(tmp_path: Path) -> None:
    assert shown_form(tmp_path, "wtforms", "flask_appbuilder", "flask_babel") == FORM
