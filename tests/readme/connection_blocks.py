# SPDX-License-Identifier: Apache-2.0
"""How the fenced blocks of docs/connection.md and docs/troubleshooting.md are run."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from readme.bench import Bench
from readme.markdown import Block

RULES: Mapping[str, Callable[[Block, Bench], None]] = {}
