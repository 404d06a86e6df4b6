# SPDX-License-Identifier: Apache-2.0
"""
The errors that this provider raises, in one hierarchy.

None derives from ``AirflowException``. Airflow turns only those into *skipped* when a deferred sensor has
``soft_fail``, so a wrong token would skip the task in deferrable mode and fail it in poke mode. Airflow must
recognize one error: :class:`~airflow_provider_cfvectorize.sensors.mutation.VectorizeMutationTimeout`.
"""

from __future__ import annotations

from typing import Any, Literal


class VectorizeError(Exception):
    """The base of every error of this provider."""


class VectorizeInputError(VectorizeError, ValueError):
    """An argument or a setting is invalid; the text has the value and what is expected."""


class VectorizeFileError(VectorizeInputError):
    """A file cannot be opened or written, or changed while it was read. A retry may help."""


class VectorizeResponseError(VectorizeError):
    """
    The service refused a request, or its response is invalid.

    :param message: what happened and what to do.
    :param status: the HTTP status.
    :param code: the first error code of the envelope; None if there is no envelope or no code.
    """

    #: A refusal that may pass: the service accepted these credentials a short time before.
    is_passing: bool = False

    def __init__(self, message: str, *, status: int | None = None, code: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    @property
    def is_refusal(self) -> bool:
        """Whether the API, or a proxy before it, refuses the caller."""
        return self.status in (401, 403) or isinstance(self, VectorizeAuthError)


class VectorizeAuthError(VectorizeResponseError):
    """The service does not accept the credentials, or they lack the permission (HTTP 401 or 403)."""


class VectorizeNotFoundError(VectorizeResponseError):
    """The index or the account does not exist, or the index was deleted."""


class VectorizeThrottledError(VectorizeResponseError):
    """
    The account's request budget is used up (HTTP 429, or code 40041 under any status).

    :param retry_after: seconds after which the service allows a retry; None if it does not say.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(message, status=status, code=code)
        self.retry_after = retry_after


class VectorizeTransportError(VectorizeError):
    """
    No complete response: no connection, a broken one, or a response that is too slow or too large.

    :param message: what happened.
    :param sent: whether the service may have carried out the request; False if there was no connection.
    :param is_final: a retry does not help: the certificate does not verify, or the host did not respond for
        as long as a task waits.
    """

    def __init__(self, message: str, *, sent: bool = True, is_final: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.is_final = is_final


class VectorizeBatchError(VectorizeError):
    """
    A write of many ids or vectors ended early.

    Repeating it is harmless: deleting ids that are gone, inserting vectors that exist, and replacing vectors
    by themselves change nothing.

    :param message: how many were acknowledged, which failed and why, and how many were never sent.
    :param acknowledged: number of ids or vectors in requests the service accepted.
    :param failed: number in requests that failed; if only the response was lost, they may take effect.
    :param not_sent: number that were never sent; None if unknown, for input that is read while it is sent.
    """

    def __init__(
        self,
        message: str,
        *,
        acknowledged: int = 0,
        failed: int = 0,
        not_sent: int | None = 0,
        **details: Any,
    ) -> None:
        super().__init__(message, **details)
        self.acknowledged = acknowledged
        self.failed = failed
        self.not_sent = not_sent


class VectorizeBatchAuthError(VectorizeBatchError, VectorizeAuthError):
    """A write ended early because the credentials were refused. Handlers of both base classes catch it."""


class VectorizeBatchNotFoundError(VectorizeBatchError, VectorizeNotFoundError):
    """A write ended early because the index does not exist. Handlers of both base classes catch it."""


class VectorizeBatchThrottledError(VectorizeBatchError, VectorizeThrottledError):
    """A write ended early because the account stayed blocked. Handlers of both base classes catch it."""


class VectorizeListingExpired(VectorizeError):  # noqa: N818 - an expiry, not an error
    """
    The snapshot of a listing expired before every page was read.

    An idempotent caller can list again from the start; see
    :func:`~airflow_provider_cfvectorize.client.bulk.list.repeat_listing`.

    :param message: the progress of the listing.
    :param count: number of ids listed before it expired.
    """

    def __init__(self, message: str, *, count: int = 0) -> None:
        super().__init__(message)
        self.count = count


class VectorizeInterrupted(VectorizeError):  # noqa: N818 - a stop, not an error
    """The task was interrupted; the text says what the service had acknowledged."""


class VectorizeWaitTimeout(VectorizeError):  # noqa: N818 - a timeout
    """
    The wait of an operator reached its deadline, and the mutation was not observed as applied.

    :param message: the last observations.
    :param is_unseen: the witnesses show that the mutation is not applied, or lost.
    """

    def __init__(self, message: str, *, is_unseen: bool = False) -> None:
        super().__init__(message)
        self.is_unseen = is_unseen


class VectorizeIndexRecreatedError(VectorizeError):
    """The index was deleted and created again after it accepted the mutation, so the mutation is lost."""


class VectorizeStillVisibleError(VectorizeError):
    """The mutation is applied, but some of its vectors can be read, and the caller wants them absent."""


class VectorizeDiffersError(VectorizeError):
    """The mutation counts as applied, but vectors of it do not read back as the caller wants them."""


def is_permanent(error: BaseException, next_step: Literal["poll", "write", "retry"]) -> bool:
    """
    Return whether the next step would end with the same error. No other function decides this.

    Only the error itself counts, not its cause. The next steps differ:

    - A poll of a wait follows seconds later, with the same credentials. A refusal may pass until then.
    - A write follows a read. A refusal of the read also refuses the write.
    - A retry of the task follows minutes later, perhaps on another worker. A file may exist then, or a host
      respond. A refusal that ends a task does not pass, unless the service accepted a part of the write.

    :param error: the error of the request, the wait or the task.
    """
    is_retry = next_step == "retry"
    match error:
        case VectorizeFileError():
            return not is_retry
        case VectorizeTransportError():
            return error.is_final and not is_retry
        case VectorizeBatchAuthError() if is_retry:
            return not error.acknowledged
        case VectorizeAuthError() if next_step == "poll":
            return not error.is_passing
        case VectorizeNotFoundError() | VectorizeInputError() | VectorizeIndexRecreatedError():
            # A recreated index never applies what it lost. A person must decide whether to write it again.
            return True
        case VectorizeAuthError():
            return True
        case VectorizeResponseError():
            return next_step == "write" and error.is_refusal
    return False
