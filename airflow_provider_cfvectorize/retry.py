# SPDX-License-Identifier: Apache-2.0
"""
Decide which failed tasks Airflow retries: the ``retry_policy`` of Airflow 3.3 and newer.

Requests are retried in ``client/http/session.py``.

.. code-block:: python

    from airflow_provider_cfvectorize.retry import retry_policy

    with DAG("forget", default_args={"retries": 5, "retry_policy": retry_policy}): ...

Before Airflow 3.3 this argument does not exist, and ``retry_policy`` is None. You can still set it in the
``default_args`` of a DAG, a task group or a task: Airflow drops arguments that an operator does not know.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_cfvectorize.exceptions import VectorizeThrottledError, is_permanent

if TYPE_CHECKING:
    from airflow.sdk import Context

#: The longest delay that the service can cause. A header can contain thousands of years, which the scheduler
#: could not add to a date. A day is also Airflow's default limit for growing delays.
LONGEST_DELAY: Final = timedelta(days=1)


def delay_asked_for(error: BaseException) -> timedelta | None:
    """
    Return how long the service wants a retry to wait, at most :data:`LONGEST_DELAY`.

    :param error: the error that ended the task.
    :return: None if the error is not a throttle, or has no time, or has 0, which would retry without a pause.
    """
    if not isinstance(error, VectorizeThrottledError) or error.retry_after is None:
        return None
    if not error.retry_after > 0:
        return None
    return timedelta(seconds=min(error.retry_after, LONGEST_DELAY.total_seconds()))


try:
    # Not from common-compat, which has these only since a version newer than Airflow 3.3.
    from airflow.sdk import RetryDecision, RetryPolicy
except ImportError:
    retry_policy: RetryPolicy | None = None
else:

    class VectorizeRetryPolicy(RetryPolicy):
        """
        Fails a task at once if no retry can help, and retries a throttle when the service allows it.

        For all other errors, including those of other packages, the task's ``retries`` and ``retry_delay``
        decide. No policy can give a task more attempts than its ``retries``.
        """

        def evaluate(
            self,
            exception: BaseException,
            try_number: int,
            max_tries: int,
            context: Context | None = None,
        ) -> RetryDecision:
            """
            Decide whether and when Airflow retries a failed task.

            :param exception: the error that ended it.
            :param try_number: the number of the failed attempt, from 1.
            :param max_tries: the task's ``retries``.
            :param context: the task's context, unused.
            """
            name = type(exception).__name__
            if is_permanent(exception, "retry"):
                return RetryDecision.fail(f"{name}: a retry would fail with the same error")
            if isinstance(exception, VectorizeThrottledError):
                delay = delay_asked_for(exception)
                when = "the task's own delay" if delay is None else f"{delay.total_seconds():g} s"
                return RetryDecision.retry(delay, f"{name}: retried after {when}")
            return RetryDecision.default()

        def serialize(self) -> dict[str, Any]:
            """Return the name of the policy; it has no settings."""
            return {"__type": type(self).__name__}

        @classmethod
        def deserialize(cls, data: dict[str, Any]) -> VectorizeRetryPolicy:
            """
            Return the policy.

            :param data: the result of :meth:`serialize`.
            """
            return cls()

        def __repr__(self) -> str:
            # Without a memory address: a DAG must serialize equally each time that Airflow parses it.
            return f"{type(self).__name__}()"

    retry_policy = VectorizeRetryPolicy()
