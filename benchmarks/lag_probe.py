# SPDX-License-Identifier: Apache-2.0
"""A trigger that records the lag of the triggerer's event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from airflow.triggers.base import BaseTrigger, TriggerEvent

PERIOD = 0.01
WRITE_EVERY = 0.5


class LagProbe(BaseTrigger):
    """
    Sleep 10 ms repeatedly, and write the lag of each sleep to a file.

    Each line has the time at the end of a sleep, in seconds since the epoch, and its lag in seconds.

    :param path: the file.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and its arguments."""
        return "lag_probe.LagProbe", {"path": self.path}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Measure until cancelled."""
        lines: list[str] = []
        written = time.monotonic()
        with Path(self.path).open("a") as file:
            while True:
                before = time.perf_counter()
                await asyncio.sleep(PERIOD)
                late = max(0.0, time.perf_counter() - before - PERIOD)
                lines.append(f"{time.time():.4f} {late:.6f}\n")
                if time.monotonic() - written > WRITE_EVERY:
                    file.writelines(lines)
                    file.flush()
                    lines.clear()
                    written = time.monotonic()
        yield TriggerEvent(None)


class Idle(BaseTrigger):
    """A trigger that only sleeps, to measure the cost of a wait in Airflow itself."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and its arguments (none)."""
        return "lag_probe.Idle", {}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Sleep until cancelled."""
        while True:
            await asyncio.sleep(3600)
        yield TriggerEvent(None)
