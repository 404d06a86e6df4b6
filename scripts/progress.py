# SPDX-License-Identifier: Apache-2.0
"""Steps of something slow, printed with the time they have taken; standard library only."""

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
    A step that is running.

    :param doing: what it is doing now, for the next line; empty if there is nothing to add.
    """

    def __init__(self, doing: str = "") -> None:
        self.doing = doing


def say(text: str = "") -> None:
    """Print at once, with the time of day."""
    print(f"{time.strftime('%H:%M:%S')}  {text}" if text else "", flush=True)


@contextlib.contextmanager
def step(text: str, *, every: float = EVERY) -> Iterator[Step]:
    """
    Print a step when it begins, every few seconds, and when it ends.

    :param text: what it does.
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
