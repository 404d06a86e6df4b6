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

#: The longest delay that is taken from the service. A header can ask for thousands of years, which the
#: scheduler could not add to a date; a day is the most that Airflow itself lets a delay grow to by default.
LONGEST_DELAY: Final = timedelta(days=1)


def delay_asked_for(error: BaseException) -> timedelta | None:
    """
    Return how long the service wants a retry to wait, at most :data:`LONGEST_DELAY`.

    :param error: what the task ended with.
    :return: None if the error is no throttle, or it does not say or says 0, which would make a loop without a
        pause.
    """
    if not isinstance(error, VectorizeThrottledError) or error.retry_after is None:
        return None
    if not error.retry_after > 0:
        return None
    return timedelta(seconds=min(error.retry_after, LONGEST_DELAY.total_seconds()))


try:
    # Not by way of common-compat, which knows these only from a version on that is newer than Airflow 3.3.
    from airflow.sdk import RetryDecision, RetryPolicy
except ImportError:
    retry_policy: RetryPolicy | None = None
else:

    class VectorizeRetryPolicy(RetryPolicy):
        """
        Fails at once what no retry can cure, and retries a throttle when the service wants to be asked again.

        Everything else, and all errors that are not this provider's, are left to the task's ``retries`` and
        ``retry_delay``. No policy can give a task more tries than its ``retries``.
        """

        def evaluate(
            self,
            exception: BaseException,
            try_number: int,
            max_tries: int,
            context: Context | None = None,
        ) -> RetryDecision:
            """
            Decide what becomes of a task that has failed.

            :param exception: what it ended with.
            :param try_number: the try that has failed, from 1.
            :param max_tries: the task's ``retries``.
            :param context: the task's context, which is not needed.
            """
            name = type(exception).__name__
            if is_permanent(exception, "retry"):
                return RetryDecision.fail(f"{name}: a retry would end with the same")
            if isinstance(exception, VectorizeThrottledError):
                delay = delay_asked_for(exception)
                when = "the task's own delay" if delay is None else f"{delay.total_seconds():g} s"
                return RetryDecision.retry(delay, f"{name}: retried after {when}")
            return RetryDecision.default()

        def serialize(self) -> dict[str, Any]:
            """Return what tells this policy from others; it has no settings."""
            return {"__type": type(self).__name__}

        @classmethod
        def deserialize(cls, data: dict[str, Any]) -> VectorizeRetryPolicy:
            """
            Return the policy.

            :param data: what :meth:`serialize` returned.
            """
            return cls()

        def __repr__(self) -> str:
            # Without an address in memory: what Airflow stores of a DAG is the same each time it is read.
            return f"{type(self).__name__}()"

    retry_policy = VectorizeRetryPolicy()
