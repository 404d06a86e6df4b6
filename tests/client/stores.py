# SPDX-License-Identifier: Apache-2.0
"""A store for saved progress without Airflow."""

from __future__ import annotations

import json
from typing import Any


class Store:
    """A store that writes and reads values as JSON, like Airflow's."""

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
        # Airflow refuses values that JSON changes, such as a tuple.
        assert json.loads(self.values[key]) == value

    def delete(self, key: str) -> None:
        self._check()
        self.values.pop(key, None)

    def _check(self) -> None:
        if self.broken:
            raise RuntimeError("no API server")
