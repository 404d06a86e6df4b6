# SPDX-License-Identifier: Apache-2.0
"""The progress that `make ui` and `make demo` print during setup."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import playground
import progress
import pytest
import ui

from harness import wait_until


def test_a_step_prints_its_activity_and_duration(capsys: pytest.CaptureFixture[str]) -> None:
    printed = ""

    def has_ticked() -> bool:
        nonlocal printed
        printed += capsys.readouterr().out
        return "0 s: the API server is starting" in printed

    with progress.step("Airflow", every=0.001) as running:
        running.doing = "the API server is starting"
        wait_until(has_ticked)
    printed += capsys.readouterr().out
    lines = [re.sub(r"^\d\d:\d\d:\d\d  ", "", line) for line in printed.splitlines()]
    assert lines[0] == "Airflow"
    assert re.fullmatch(r"   done in \d+ s", lines[-1])


def test_a_failed_step_does_not_print_done(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), progress.step("Airflow"):
        sys.exit("Airflow did not start")
    assert "done" not in capsys.readouterr().out


@pytest.mark.airflow(since="3.0")
def test_the_command_that_replaces_the_test_button(tmp_path: Path) -> None:
    instance = playground.Airflow(tmp_path / "home", '{"conn_type": "cloudflare_vectorize"}', 8080)
    path = tmp_path / "it's an env"
    ui.write_environment(path, instance)
    assert path.stat().st_mode & 0o77 == 0
    script = '. "$0"; printenv AIRFLOW_HOME AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT; command -v airflow'
    shown = subprocess.run(
        ["bash", "-c", script, path],
        env={"HOME": os.environ["HOME"], "PATH": os.defpath},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert shown == [
        str(tmp_path / "home"),
        '{"conn_type": "cloudflare_vectorize"}',
        str(Path(sys.executable).with_name("airflow")),
    ]
