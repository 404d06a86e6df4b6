# SPDX-License-Identifier: Apache-2.0
"""One request's life: sent, answered, understood, retried."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import tenacity

from airflow_provider_cfvectorize.client.answers import (
    INDEX_DELETED_CODE,
    INDEX_NOT_FOUND_CODE,
    Answer,
    is_server_fault,
    masked,
    read_answer,
)
from airflow_provider_cfvectorize.client.pacer import Pacer, StartGate
from airflow_provider_cfvectorize.client.text import write_json
from airflow_provider_cfvectorize.client.transport import RawResponse, Transport
from airflow_provider_cfvectorize.exceptions import (
    VectorizeError,
    VectorizeInterrupted,
    VectorizeNotFoundError,
    VectorizeThrottledError,
    VectorizeTransportError,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """
    How long a call goes on.

    :param backoff_total: seconds within which passing errors (no connection, timeout, 408, 5xx) are retried.
    :param first_backoff: the bound of the first random pause, in seconds; it doubles each time.
    :param longest_backoff: the most seconds of one pause.
    :param throttle_total: the most seconds, in sum, that a call waits because it was throttled; the default
        is three of the blocks of five minutes that follow on going over the account's limit.
    """

    backoff_total: float = 120.0
    first_backoff: float = 0.5
    longest_backoff: float = 30.0
    throttle_total: float = 900.0


def may_retry(error: BaseException, *, repeatable: bool = True) -> bool:
    """
    Decide whether sending the same request again can help and can do no harm.

    :param error: what the last attempt ended with.
    :param repeatable: the request has the same effect whether it is carried out once or twice.
    """
    if isinstance(error, VectorizeThrottledError):
        return True
    if not repeatable:
        return False
    if isinstance(error, VectorizeTransportError):
        return True
    return is_server_fault(error)


def may_be_done(error: BaseException) -> bool:
    """
    Decide whether a request that ended so may have been carried out, its answer lost on the way.

    :param error: what the attempt ended with.
    """
    if isinstance(error, VectorizeThrottledError):
        return False
    if isinstance(error, VectorizeTransportError):
        return error.sent
    return is_server_fault(error)


class VectorizeSession:
    """
    Sends requests until they are answered for good.

    :param transport: what carries a request.
    :param base_url: the API's address, without a slash at the end.
    :param user_agent: the ``User-Agent`` header.
    :param secrets: texts that no error and no log line may show.
    :param retry: how long to go on; None for a single attempt that never sleeps (for the triggerer).
    :param pacer: says when a request may start; not used for single attempts.
    :param gate: spaces the starts of requests beyond that; likewise.
    :param clock: seconds of a clock that is never set.
    :param sleep: waits for so many seconds; the default also wakes at :meth:`stop`.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        base_url: str,
        user_agent: str,
        secrets: Collection[str] = (),
        retry: RetryPolicy | None,
        pacer: Pacer | None = None,
        gate: StartGate | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._transport = transport
        self._base_url = base_url
        self._headers = {"User-Agent": user_agent, "Accept": "application/json"}
        self._secrets = tuple(s for s in secrets if s)
        self._retry = retry
        self._pacer = pacer if retry is not None else None
        self._gate = gate if retry is not None else None
        self._clock = clock
        self._stopped = threading.Event()
        self._given_sleep = sleep
        self._sleep: Callable[[float], Any] = sleep or self._stopped.wait
        #: Where the caller's time ends, in seconds of the clock; no wait for a throttle goes past it.
        self.deadline: float | None = None

    def stop(self) -> None:
        """Wake every thread that waits to send; no request starts after this."""
        self._stopped.set()
        if self._pacer is not None:
            self._pacer.stop()

    def close(self) -> None:
        """Close all connections."""
        self._transport.close()

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json_body: object = None,
        body: bytes | None = None,
        content_type: str | None = None,
        repeatable: bool = True,
        gone_is_done: bool = False,
    ) -> Answer:
        """
        Send one request, again where that helps, and return the answer.

        :param method: the HTTP method.
        :param path: the path below the base URL, with a slash first.
        :param params: the query string's parameters.
        :param json_body: a value to send as JSON.
        :param body: bytes to send as they are, instead.
        :param content_type: the type of ``body``.
        :param repeatable: whether carrying the request out twice has the effect of once; if not, it is only
            sent again after a throttle, which carries nothing out.
        :param gone_is_done: a retry that finds nothing there any more is a success of an earlier attempt
            whose answer was lost (deleting an index); where none was lost, it is an error as ever.
        :raises VectorizeError: as :func:`read_answer`, :class:`VectorizeTransportError`, and
            :class:`VectorizeInputError` for a value of which no JSON can be made.
        """
        headers = dict(self._headers)
        if json_body is not None:
            body = write_json(json_body)
            content_type = "application/json"
        if content_type:
            headers["Content-Type"] = content_type
        perhaps_done = False

        patience = (
            None
            if self._retry is None
            else _Patience(self._retry, repeatable, lambda: self.deadline, self._clock)
        )

        def attempt() -> Answer:
            nonlocal perhaps_done
            try:
                return self._once(method, path, params=params, headers=headers, body=body, patience=patience)
            except VectorizeNotFoundError as e:
                if gone_is_done and perhaps_done and e.code in (INDEX_NOT_FOUND_CODE, INDEX_DELETED_CODE):
                    return Answer(None, None, {})
                raise
            except VectorizeError as e:
                perhaps_done = perhaps_done or may_be_done(e)
                raise

        if patience is None:
            return attempt()
        # Nearly every request is answered at once, and all of tenacity's machinery is for the others.
        failed: list[VectorizeError] = []
        try:
            return attempt()
        except VectorizeError as e:
            if not patience.may_retry(e):
                raise
            failed.append(e)

        def again() -> Answer:
            if failed:
                raise failed.pop()
            return attempt()

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception(patience.may_retry),
            wait=patience.wait,
            stop=patience.stop,
            before_sleep=patience.before_sleep,
            sleep=self._sleep,
            reraise=True,
        )
        return retrying(again)

    def _once(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str],
        body: bytes | None,
        patience: _Patience | None,
    ) -> Answer:
        what = f"{method} {path}"
        pacer = self._pacer
        if pacer is not None and patience is not None:
            refused, blocked = pacer.start(
                deadline=math.inf if self.deadline is None else self.deadline,
                patience=patience.throttle_left,
                sleep=self._given_sleep,
            )
            patience.add_throttle(blocked)
            if refused:
                # A call that stop() wakes has not waited as long as the throttle asks, and gets here first.
                self._raise_if_stopped(what)
                raise VectorizeThrottledError(
                    f"{what}: not sent, since the account's request budget would let it start in "
                    f"{refused:.0f} s at the earliest, which is longer than the task has, or than a throttle "
                    "is waited for. The budget is shared by everything that the account's owner runs",
                    retry_after=refused,
                )
        started_at = self._clock()
        raw: RawResponse | None = None
        throttle: VectorizeThrottledError | None = None
        try:
            if self._gate is not None:
                self._gate.wait(self._sleep)
            self._raise_if_stopped(what)
            raw = self._transport.send(
                method, f"{self._base_url}{path}", params=params, headers=headers, body=body
            )
            return read_answer(raw, what=what, secrets=self._secrets)
        except VectorizeThrottledError as e:
            throttle = e
            raise
        except VectorizeTransportError as e:
            # What came may be in there, such as a status line that is none.
            raise VectorizeTransportError(f"{what}: {masked(str(e), self._secrets)}", sent=e.sent) from None
        finally:
            if pacer is not None:
                pacer.end(
                    started_at,
                    raw.headers if raw is not None else None,
                    throttled=throttle is not None,
                    retry_after=throttle.retry_after if throttle is not None else None,
                )

    def _raise_if_stopped(self, what: str) -> None:
        if self._stopped.is_set():
            raise VectorizeInterrupted(f"{what}: not sent, the task is being stopped")


class _Patience:
    """The waits of one call: tenacity asks it how long to pause and when to give up."""

    def __init__(
        self,
        policy: RetryPolicy,
        repeatable: bool,
        deadline: Callable[[], float | None],
        clock: Callable[[], float],
    ) -> None:
        self._policy = policy
        self._repeatable = repeatable
        self._deadline = deadline
        self._clock = clock
        self._started = clock()
        self._throttled = 0.0

    @property
    def throttle_left(self) -> float:
        return max(0.0, self._policy.throttle_total - self._throttled)

    def add_throttle(self, seconds: float) -> None:
        self._throttled += seconds

    def may_retry(self, error: BaseException) -> bool:
        return isinstance(error, VectorizeError) and may_retry(error, repeatable=self._repeatable)

    def wait(self, state: tenacity.RetryCallState) -> float:
        error = self._error(state)
        backoff = tenacity.wait_random_exponential(
            multiplier=self._policy.first_backoff, max=self._policy.longest_backoff
        )
        # Never less than the backoff: a Retry-After of 0 must not make a loop without an end.
        return max(backoff(state), getattr(error, "retry_after", None) or 0.0)

    def stop(self, state: tenacity.RetryCallState) -> bool:
        pause = state.upcoming_sleep
        if isinstance(self._error(state), VectorizeThrottledError):
            deadline = self._deadline()
            return self._throttled + pause > self._policy.throttle_total or (
                deadline is not None and self._clock() + pause > deadline
            )
        spent = self._clock() - self._started - self._throttled
        return spent + pause > self._policy.backoff_total

    def before_sleep(self, state: tenacity.RetryCallState) -> None:
        error = self._error(state)
        pause = state.upcoming_sleep
        if isinstance(error, VectorizeThrottledError):
            self._throttled += pause
            until = datetime.fromtimestamp(time.time() + pause, UTC)
            log.warning("%s Waiting %.0f s, until %s.", error, pause, until.isoformat(timespec="seconds"))
        else:
            log.warning("%s Trying again in %.1f s.", error, pause)

    @staticmethod
    def _error(state: tenacity.RetryCallState) -> BaseException | None:
        return state.outcome.exception() if state.outcome is not None else None
