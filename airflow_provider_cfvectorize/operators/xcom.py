# SPDX-License-Identifier: Apache-2.0
"""What a task returns stays small enough for an XCom."""

from __future__ import annotations

import json
from typing import Any, Final

from airflow_provider_cfvectorize.exceptions import VectorizeInputError

#: Bytes of JSON that a task returns at most. An XCom is a row of Airflow's database, which keeps it for every
#: run, and it is passed whole between worker, API server and every task that reads it. This is 10,000 ids of
#: 22 characters, or eight vectors of 1,536 values; what is larger belongs into a file.
MAX_XCOM_BYTES: Final = 256 * 1024

_LIMIT: Final = f"and an XCom of this operator has at most {MAX_XCOM_BYTES:,}"


def check_small(value: object, what: str, advice: str) -> None:
    """
    Refuse what is too large for an XCom.

    :param value: what the task is going to return.
    :param what: what that is, for the error.
    :param advice: what to do about it.
    :raises VectorizeInputError: it is larger.
    """
    size = _size(value)
    if size > MAX_XCOM_BYTES:
        raise VectorizeInputError(f"{what} has {size:,} bytes as JSON, {_LIMIT}: {advice}")


class SmallList:
    """
    A list that stays small enough for an XCom, and says so before it is complete.

    :param what: what is in it, for the error.
    :param advice: what to do when it grows too large.
    """

    def __init__(self, what: str, advice: str) -> None:
        self.items: list[Any] = []
        self._what = what
        self._advice = advice
        self._bytes = 0

    def append(self, item: object) -> None:
        """
        Add an item.

        :raises VectorizeInputError: the list is too large with it.
        """
        self._bytes += _size(item) + 2
        self.items.append(item)
        if self._bytes > MAX_XCOM_BYTES:
            raise VectorizeInputError(
                f"the first {len(self.items):,} {self._what} have {self._bytes:,} bytes as JSON, {_LIMIT}: "
                f"{self._advice}"
            )


def _size(value: object) -> int:
    # As Airflow writes it: with spaces, and with escapes for all that is not ASCII.
    return len(json.dumps(value))
