# SPDX-License-Identifier: Apache-2.0
"""What a trigger tells the task that it ends: made and read here, so that both sides agree."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, Final, NoReturn

from airflow_provider_cfvectorize import exceptions
from airflow_provider_cfvectorize.client.text import show
from airflow_provider_cfvectorize.exceptions import (
    VectorizeError,
    VectorizeResponseError,
    VectorizeWaitTimeout,
)

#: Seconds after the trigger's own deadline at which Airflow ends a deferral whose trigger said nothing.
BACKSTOP_SECONDS: Final = 60


def deferral_timeout(seconds: float, execution_timeout: timedelta | None) -> timedelta:
    """
    Return when Airflow is to end a deferral by itself.

    :param seconds: how long the trigger waits.
    :param execution_timeout: the task's; Airflow 3 does not end a deferred task at it unless it is told here.
    """
    backstop = timedelta(seconds=seconds + BACKSTOP_SECONDS)
    return backstop if execution_timeout is None else min(backstop, execution_timeout)


def applied_event(evidence: dict[str, Any]) -> dict[str, Any]:
    """Return the event of a wait that ended well."""
    return {"status": "applied", "evidence": evidence}


def timeout_event(message: str, *, is_unseen: bool = False) -> dict[str, Any]:
    """Return the event of a wait that reached its deadline; see :class:`VectorizeWaitTimeout`."""
    return {"status": "timeout", "message": message, "unseen": is_unseen}


def error_event(error: VectorizeError) -> dict[str, Any]:
    """Return the event of a wait that an error ended for good."""
    event: dict[str, Any] = {"status": "error", "error": type(error).__name__, "message": str(error)}
    if isinstance(error, VectorizeResponseError):
        event |= {"http_status": error.status, "code": error.code}
    return event


def read_event(event: Any) -> dict[str, Any]:
    """
    Return the evidence of an event.

    :param event: what the trigger sent.
    :raises VectorizeWaitTimeout: the deadline came first.
    :raises VectorizeError: the error that ended the wait, of its own type; or this is no event of the
        trigger's (of another version, perhaps), which must never pass for success.
    """
    match event:
        case {"status": "applied", "evidence": dict() as evidence}:
            return evidence
        case {"status": "timeout", "message": str() as message}:
            raise VectorizeWaitTimeout(message, is_unseen=event.get("unseen") is True)
        case {"status": "error", "error": str() as name, "message": str() as message}:
            _raise(name, message, dict(event))
        case _:
            raise VectorizeError(
                f"the trigger sent {show(event)}, which no version of this provider that is installed here "
                "sends: are workers and triggerer of one version?"
            )


def _raise(name: str, message: str, event: dict[str, Any]) -> NoReturn:
    kind = getattr(exceptions, name, VectorizeError)
    if isinstance(kind, type) and issubclass(kind, VectorizeResponseError):
        raise kind(message, status=event.get("http_status"), code=event.get("code"))
    if isinstance(kind, type) and issubclass(kind, VectorizeError):
        raise kind(message)
    raise VectorizeError(message)
