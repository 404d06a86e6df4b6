# SPDX-License-Identifier: Apache-2.0
"""Which errors are permanent for a poll, for a write after a read, and for a task retry."""

from __future__ import annotations

import pytest

from airflow_provider_cfvectorize import exceptions
from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeBatchAuthError,
    VectorizeError,
    VectorizeResponseError,
    VectorizeThrottledError,
    VectorizeTransportError,
    is_permanent,
)

#: By error: whether it is permanent for a poll, for a write after a read, and for a task retry.
PERMANENT = {
    "VectorizeAuthError": (True, True, True),
    "VectorizeBatchAuthError": (True, True, True),
    "VectorizeBatchNotFoundError": (True, True, True),
    "VectorizeFileError": (True, True, False),
    "VectorizeIndexRecreatedError": (True, True, True),
    "VectorizeInputError": (True, True, True),
    "VectorizeNotFoundError": (True, True, True),
}
ALL = {
    name: kind
    for name, kind in vars(exceptions).items()
    if isinstance(kind, type) and issubclass(kind, VectorizeError)
}


def answers(error: BaseException) -> tuple[bool, bool, bool]:
    return is_permanent(error, "poll"), is_permanent(error, "write"), is_permanent(error, "retry")


@pytest.mark.parametrize("name", ALL)
def test_permanence_of_each_error(name: str) -> None:
    assert answers(ALL[name]("why")) == PERMANENT.get(name, (False, False, False))


def test_an_unknown_error_is_never_permanent() -> None:
    assert answers(RuntimeError("why")) == (False, False, False)


def test_a_passing_refusal_does_not_end_a_wait() -> None:
    error = VectorizeAuthError("why", status=403)
    error.is_passing = True
    assert answers(error) == (False, True, True)


@pytest.mark.parametrize("kind", [VectorizeResponseError, VectorizeThrottledError])
def test_a_proxys_refusal_of_the_read_refuses_the_write(kind: type[VectorizeResponseError]) -> None:
    assert answers(kind("a challenge page", status=403)) == (False, True, False)
    assert answers(kind("why", status=503)) == (False, False, False)


def test_a_task_retry_may_reach_an_unreachable_host() -> None:
    assert answers(VectorizeTransportError("no trusted TLS connection", is_final=True)) == (True, True, False)


def test_a_task_retry_may_succeed_with_credentials_accepted_before() -> None:
    assert is_permanent(VectorizeBatchAuthError("why", status=403, acknowledged=0, failed=100), "retry")
    assert not is_permanent(VectorizeBatchAuthError("why", status=403, acknowledged=1400), "retry")
