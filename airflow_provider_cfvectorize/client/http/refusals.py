# SPDX-License-Identifier: Apache-2.0
"""When a refusal (HTTP 401 or 403) passes: the service sometimes refuses a credential that is good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: Seconds for which a refusal may pass. Refusals by mistake last for seconds; this leaves room for minutes.
REFUSED_SECONDS: Final = 180.0
#: The same for a write with credentials that were accepted for reading only. Most such tokens lack the
#: permission to write, and a single refusal by mistake is over by then.
UNPROVEN_SECONDS: Final = 5.0
#: Seconds between two readings of a connection whose credentials are refused.
REREAD_SECONDS: Final = 60.0


def is_reading(method: str, path: str) -> bool:
    """Say whether a request needs no more than the permission to read."""
    return method == "GET" or path.endswith(("/get_by_ids", "/query"))


def refusal_passes(
    *, accepted: bool, proven: bool, refused_for: float, patience: float = REFUSED_SECONDS
) -> bool:
    """
    Decide whether a refusal is a passing fault.

    :param accepted: the service has accepted a request with the same credentials before.
    :param proven: one of those needed the same permission.
    :param refused_for: seconds since the first refusal after that.
    :param patience: seconds for which a refusal may pass.
    """
    return accepted and refused_for < (patience if proven else min(patience, UNPROVEN_SECONDS))


@dataclass(slots=True)
class CredentialHistory:
    """
    What the service has answered to some credentials; all threads and clients of a task share one.

    :param accepted: the service has accepted a request with them.
    :param accepted_to_write: one of those was a write.
    :param refused_since: when the first refusal after that came, in seconds of a clock that is never set;
        None if there was none.
    """

    accepted: bool = False
    accepted_to_write: bool = False
    refused_since: float | None = None

    def note_accepted(self, *, reading: bool) -> None:
        """
        Note that a request succeeded.

        :param reading: it needed no more than the permission to read.
        """
        self.accepted = True
        self.accepted_to_write = self.accepted_to_write or not reading
        self.refused_since = None

    def note_refused(self, now: float) -> float:
        """Note that a request was refused, and return the seconds since the first refusal."""
        if self.refused_since is None:
            self.refused_since = now
        return now - self.refused_since
