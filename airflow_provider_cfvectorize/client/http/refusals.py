# SPDX-License-Identifier: Apache-2.0
"""Retries of refusals (HTTP 401 or 403): the service sometimes refuses a valid credential."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Seconds for which a refusal is retried. Mistaken refusals last for seconds; this leaves room for minutes.
REFUSED_SECONDS: Final = 180.0
#: Seconds for which a refused write is retried if the service accepted the credentials only for reading. Most
#: such tokens lack the permission to write, and a single mistaken refusal is over by then.
UNPROVEN_SECONDS: Final = 5.0
#: Seconds between two reads of a connection whose credentials are refused.
REREAD_SECONDS: Final = 60.0


def is_reading(method: str, path: str) -> bool:
    """Return whether a request needs only the permission to read."""
    return method == "GET" or path.endswith(("/get_by_ids", "/query"))


def refusal_passes(
    *, accepted: bool, proven: bool, refused_for: float, patience: float = REFUSED_SECONDS
) -> bool:
    """
    Decide whether a refusal is temporary.

    :param accepted: the service has accepted a request with these credentials before.
    :param proven: the service has accepted a request that needs the same permission.
    :param refused_for: seconds since the first refusal after that.
    :param patience: seconds for which a refusal is retried.
    """
    return accepted and refused_for < (patience if proven else min(patience, UNPROVEN_SECONDS))


@dataclass(slots=True)
class CredentialHistory:
    """
    The service's responses to some credentials. All threads and clients of a task share it.

    :param accepted: the service has accepted a request with them.
    :param accepted_to_write: the service has accepted a write with them.
    :param refused_since: the first refusal after that, in seconds of a monotonic clock; None if there was
        none.
    """

    accepted: bool = False
    accepted_to_write: bool = False
    refused_since: float | None = None

    def note_accepted(self, *, reading: bool) -> None:
        """
        Record an accepted request.

        :param reading: it needed only the permission to read.
        """
        self.accepted = True
        self.accepted_to_write = self.accepted_to_write or not reading
        self.refused_since = None

    def note_refused(self, now: float) -> float:
        """Record a refused request, and return the seconds since the first refusal."""
        if self.refused_since is None:
            self.refused_since = now
        return now - self.refused_since
