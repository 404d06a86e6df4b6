# SPDX-License-Identifier: Apache-2.0
"""Makes the event that a trigger sends, and reads it in the task that the event resumes."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, NoReturn

from airflow_provider_cfvectorize import exceptions
from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.exceptions import (
    VectorizeError,
    VectorizeResponseError,
    VectorizeWaitTimeout,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import BaseOperator, Context


def check_execution_timeout(
    error: VectorizeWaitTimeout, execution_timeout: timedelta | None, name: str, seconds: float
) -> None:
    """
    Check that a wait ended at its own limit and not at the task's ``execution_timeout``.

    :param name: the parameter that has the wait's limit.
    :param seconds: that limit.
    :raises VectorizeWaitTimeout: the task's ``execution_timeout`` is shorter.
    """
    if execution_timeout is None or execution_timeout.total_seconds() >= seconds:
        return
    raise VectorizeWaitTimeout(
        f"the task's execution_timeout of {execution_timeout.total_seconds():g} s ended the wait before its "
        f"{name} of {seconds:g} s: {error}. Make execution_timeout longer than {name}"
    ) from None


def is_of_an_earlier_try(context: Context, try_number: int | None) -> bool:
    """
    Return whether an event belongs to an earlier attempt: Airflow 3.0 resumes the next attempt with it.

    :param try_number: the attempt that deferred; None if it is unknown.
    """
    return try_number is not None and try_number < context["ti"].try_number


def start_over(task: BaseOperator, context: Context) -> Any:
    """Run a resumed task from its beginning."""
    task.log.info("Ignored the event of an earlier attempt; starting over.")
    execute = type(task).execute
    # Without Airflow's guard, which lets only its task runner call execute().
    return getattr(execute, "__wrapped__", execute)(task, context)


def applied_event(evidence: dict[str, Any]) -> dict[str, Any]:
    """Return the event of a successful wait."""
    return {"status": "applied", "evidence": evidence}


def timeout_event(error: VectorizeWaitTimeout) -> dict[str, Any]:
    """Return the event of a wait that reached its deadline."""
    return {"status": "timeout", "message": str(error), "unseen": error.is_unseen}


def error_event(error: VectorizeError) -> dict[str, Any]:
    """Return the event of a wait that a permanent error ended."""
    event: dict[str, Any] = {"status": "error", "error": type(error).__name__, "message": str(error)}
    if isinstance(error, VectorizeResponseError):
        event |= {"http_status": error.status, "code": error.code}
    return event


def read_event(event: Any) -> dict[str, Any]:
    """
    Return the evidence of an event.

    :raises VectorizeWaitTimeout: the deadline came first.
    :raises VectorizeError: the error that ended the wait, with its own type; or the event is unknown, which
        must never count as success.
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
                f"unknown event from the trigger: {show(event)}. Install one version of this provider on "
                "workers and triggerer"
            )


def _raise(name: str, message: str, event: dict[str, Any]) -> NoReturn:
    kind = getattr(exceptions, name, VectorizeError)
    if isinstance(kind, type) and issubclass(kind, VectorizeResponseError):
        raise kind(message, status=event.get("http_status"), code=event.get("code"))
    if isinstance(kind, type) and issubclass(kind, VectorizeError):
        raise kind(message)
    raise VectorizeError(message)
