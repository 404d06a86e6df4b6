# SPDX-License-Identifier: Apache-2.0
"""The bench that runs the blocks of the documents."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from airflow_provider_cfvectorize.local import LocalVectorize
from readme.markdown import Block


@dataclass
class Bench:
    """The tools of a rule: a local server as the default connection, and an empty directory."""

    server: LocalVectorize
    directory: Path
    monkeypatch: pytest.MonkeyPatch

    def bash(self, script: str, **env: str) -> str:
        """Run a script as a reader would paste it and return its output."""
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=self.directory,
            env=self.env(**env),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def env(self, **env: str) -> dict[str, str]:
        # Use the commands of the environment that runs the tests.
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        return {**os.environ, "PATH": path, "PYTHONWARNINGS": "ignore", "PYTHONUNBUFFERED": "1", **env}

    def load(self, block: Block) -> ModuleType:
        """Import a block from a file, like Airflow."""
        path = self.directory / f"{re.sub('[^a-z]+', '_', block.key.lower())}{block.number}.py"
        path.write_text(block.text)
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        for task in getattr(getattr(module, "dag", None), "tasks", ()):
            # The default is 10 s; this server applies writes after 20 ms.
            for name in {"poll_interval", "poke_interval"} & vars(task).keys():
                setattr(task, name, 0.1)
        return module
