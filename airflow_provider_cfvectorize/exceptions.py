# SPDX-License-Identifier: Apache-2.0
"""
Every error a user can meet, one hierarchy.

None derives from ``AirflowException``: Airflow turns those, and no others, into *skipped* when a deferred
sensor has ``soft_fail``, so a wrong token would be skipped in deferrable mode and fail in poke mode. The one
error that Airflow must know lives beside the sensor and derives from :class:`VectorizeError` too:
:class:`~airflow_provider_cfvectorize.sensors.mutation.VectorizeMutationTimeout`.
"""

from __future__ import annotations

from typing import Any, Literal


class VectorizeError(Exception):
    """The base of every error of this provider."""


class VectorizeInputError(VectorizeError, ValueError):
    """Something was passed or configured that cannot work; says what arrived and what is expected."""


class VectorizeFileError(VectorizeInputError):
    """A file cannot be opened or written, or changed while it was read: unlike other input, this may pass."""


class VectorizeResponseError(VectorizeError):
    """
    The service answered, and the answer is a refusal or makes no sense.

    :param message: what happened and what to do.
    :param status: the HTTP status.
    :param code: the first error code of the envelope, or None where there was no envelope or no code.
    """

    #: It is a refusal that may pass: the service has accepted the same credentials a short time before.
    is_passing: bool = False

    def __init__(self, message: str, *, status: int | None = None, code: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code

    @property
    def is_refusal(self) -> bool:
        """Whether the caller is refused: by the API, or by something on the way to it."""
        return self.status in (401, 403) or isinstance(self, VectorizeAuthError)


class VectorizeAuthError(VectorizeResponseError):
    """The service does not accept the credentials, or they lack the permission (HTTP 401 or 403)."""


class VectorizeNotFoundError(VectorizeResponseError):
    """There is no such index, it was deleted, or there is no such account."""


class VectorizeThrottledError(VectorizeResponseError):
    """
    The account's request budget is used up (HTTP 429, or code 40041 under any status).

    :param retry_after: seconds after which the service wants to be asked again, None if it did not say.
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
    No complete answer: host not reached, connection broken, or an answer too slow or too large.

    :param message: what happened.
    :param sent: whether the request may have been sent, and so carried out; no if there was no connection.
    :param is_final: sending it again does not help: the certificate does not verify, or nothing has answered
        for as long as a task is patient.
    """

    def __init__(self, message: str, *, sent: bool = True, is_final: bool = False) -> None:
        super().__init__(message)
        self.sent = sent
        self.is_final = is_final


class VectorizeBatchError(VectorizeError):
    """
    A write of many ids or vectors ended early.

    Sending the same again is harmless: deleting ids that are gone, inserting vectors that are there and
    replacing vectors by themselves change nothing.

    :param message: how many were acknowledged, which failed and why, and how many were never sent.
    :param acknowledged: number of ids or vectors in requests the service accepted.
    :param failed: number in requests that failed; where an answer was lost they may be carried out all the
        same.
    :param not_sent: number that were never sent; None where it is unknown, for what is read as it is sent.
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
    """A write ended early because the credentials were refused; so that both kinds of handlers see it."""


class VectorizeBatchNotFoundError(VectorizeBatchError, VectorizeNotFoundError):
    """A write ended early because the index is not there; so that both kinds of handlers see it."""


class VectorizeBatchThrottledError(VectorizeBatchError, VectorizeThrottledError):
    """A write ended early because the account stayed blocked; so that both kinds of handlers see it."""


class VectorizeListingExpired(VectorizeError):  # noqa: N818 - the listing expired, nothing erred
    """
    The snapshot of a listing expired before every page was read.

    What is idempotent can list again from the start; see
    :func:`~airflow_provider_cfvectorize.client.bulk.list.repeat_listing`.

    :param message: how far the listing came.
    :param count: number of ids that the service had listed by then.
    """

    def __init__(self, message: str, *, count: int = 0) -> None:
        super().__init__(message)
        self.count = count


class VectorizeInterrupted(VectorizeError):  # noqa: N818 - it is no error of anyone's
    """The task was told to stop; says what had been acknowledged by then."""


class VectorizeWaitTimeout(VectorizeError):  # noqa: N818 - a timeout, as in TimeoutError's own family
    """
    A waiting operator gave up: the mutation was not seen to be applied in time.

    :param message: what was seen.
    :param is_unseen: there was no sign of it, and its witnesses read back as they were before it.
    """

    def __init__(self, message: str, *, is_unseen: bool = False) -> None:
        super().__init__(message)
        self.is_unseen = is_unseen


class VectorizeIndexRecreatedError(VectorizeError):
    """The index was deleted and created again after it accepted the mutation, which is lost with it."""


class VectorizeStillVisibleError(VectorizeError):
    """The mutation is applied and yet some of its vectors can be read, and the caller wants them absent."""


class VectorizeDiffersError(VectorizeError):
    """The mutation counts as applied, and yet vectors of it do not read back as the caller wants them."""


def is_permanent(error: BaseException, next_step: Literal["poll", "write", "retry"]) -> bool:
    """
    Decide whether what comes next ends with the same error: the one function that decides this.

    Only the error itself counts and not what it was raised from. Each next step knows something of its own:

    - A poll of a wait follows seconds later, with the same credentials. A refusal may pass until then.
    - A write follows the question that was asked before it. Every refusal refuses the write, too.
    - A retry of the task follows minutes later, perhaps on another worker. A file may be there, a host may
      answer; a refusal that is still there when the task ends does not pass, unless a part was accepted.

    :param error: what the request, the wait or the task ended with.
    :param next_step: what comes next.
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
            # What a recreated index has lost never comes; whether to write it again, a person decides.
            return True
        case VectorizeAuthError():
            return True
        case VectorizeResponseError():
            return next_step == "write" and error.is_refusal
    return False
