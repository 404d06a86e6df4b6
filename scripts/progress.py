# SPDX-License-Identifier: Apache-2.0
"""Print the steps of a slow script with their durations. Uses the standard library only."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator

#: Seconds between two lines of one step.
EVERY = 10.0


class Step:
    """
    A running step.

    :param doing: its current activity, for the next line; empty for none.
    """

    def __init__(self, doing: str = "") -> None:
        self.doing = doing


def say(text: str = "") -> None:
    """Print a line with the time of day, without buffering."""
    print(f"{time.strftime('%H:%M:%S')}  {text}" if text else "", flush=True)


@contextlib.contextmanager
def step(text: str, *, every: float = EVERY) -> Iterator[Step]:
    """
    Print a line when a step begins, every few seconds, and when it ends.

    :param text: the description of the step.
    :param every: seconds between two lines.
    """
    running, over, begun = Step(), threading.Event(), time.monotonic()
    say(text)

    def spent() -> str:
        return f"{time.monotonic() - begun:.0f} s"

    def tick() -> None:
        while not over.wait(every):
            say(f"   {spent()}: {running.doing or 'still running'}")

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield running
    finally:
        over.set()
        ticker.join()
        # An error prints its own line.
        if sys.exc_info()[0] is None:
            say(f"   done in {spent()}")
