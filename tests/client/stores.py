# SPDX-License-Identifier: Apache-2.0
"""A place for progress, where there is no Airflow."""

from __future__ import annotations

import json
from typing import Any


class Store:
    """A store of JSON values, as Airflow's: what comes back is what JSON makes of it."""

    def __init__(self) -> None:
        self.values: dict[str, str] = {}
        self.sets = 0
        self.broken = False

    def get(self, key: str) -> Any:
        self._check()
        return json.loads(self.values[key]) if key in self.values else None

    def set(self, key: str, value: Any) -> None:
        self._check()
        self.sets += 1
        self.values[key] = json.dumps(value)
        # Airflow refuses what is not JSON, such as a tuple.
        assert json.loads(self.values[key]) == value

    def delete(self, key: str) -> None:
        self._check()
        self.values.pop(key, None)

    def _check(self) -> None:
        if self.broken:
            raise RuntimeError("no API server")
