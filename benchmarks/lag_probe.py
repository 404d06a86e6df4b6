# SPDX-License-Identifier: Apache-2.0
"""A trigger that notes how late the triggerer's event loop runs what is due."""

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
    Sleep 10 ms again and again, and write to a file how much longer it took.

    One line a sleep: the time at its end, seconds since the epoch, and the lateness in seconds.

    :param path: the file.
    """

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and its arguments."""
        return "lag_probe.LagProbe", {"path": self.path}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Measure until it is cancelled."""
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
    """Sleep until it is cancelled: what a wait costs Airflow itself."""

    def serialize(self) -> tuple[str, dict[str, Any]]:
        """Return the class and its arguments, of which there are none."""
        return "lag_probe.Idle", {}

    async def run(self) -> AsyncIterator[TriggerEvent]:
        """Sleep."""
        while True:
            await asyncio.sleep(3600)
        yield TriggerEvent(None)
