# SPDX-License-Identifier: Apache-2.0
"""Sends one request: paces it, sends it through a :class:`Transport`, retries it."""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from airflow_provider_cfvectorize.client.http.pacer import Pacer, StartGate
from airflow_provider_cfvectorize.client.http.refusals import (
    REFUSED_SECONDS,
    CredentialHistory,
    is_reading,
    refusal_passes,
)
from airflow_provider_cfvectorize.client.http.responses import (
    BUDGET_IS_SHARED,
    INDEX_DELETED_CODE,
    INDEX_NOT_FOUND_CODE,
    Answer,
    RawResponse,
    is_server_fault,
    masked,
    read_answer,
)
from airflow_provider_cfvectorize.client.inputs.text import show, write_json
from airflow_provider_cfvectorize.exceptions import (
    VectorizeError,
    VectorizeInterrupted,
    VectorizeNotFoundError,
    VectorizeResponseError,
    VectorizeThrottledError,
    VectorizeTransportError,
)

log = logging.getLogger(__name__)


#: The most characters of a transport's error, which may quote an invalid response.
_MOST_SHOWN = 600
#: The most doublings of the first pause; more would not fit into a float.
_MOST_DOUBLINGS = 60


@dataclass(frozen=True, slots=True)
class RetryLimits:
    """
    The limits of a call's retries.

    :param backoff_total: seconds of retries after temporary errors (no connection, timeout, 408, 5xx). If
        nothing responds at all, they count from the task's first request without a response.
    :param first_backoff: the bound of the first random pause, in seconds; it doubles for each retry.
    :param longest_backoff: the most seconds of one pause.
    :param throttle_total: the most seconds that throttles delay a call, in sum. The default is three of the
        five-minute blocks that follow a request beyond the account's limit.
    :param refusal_total: seconds within which a refusal of an accepted credential is retried.
    """

    backoff_total: float = 120.0
    first_backoff: float = 0.5
    longest_backoff: float = 30.0
    throttle_total: float = 900.0
    refusal_total: float = REFUSED_SECONDS


def may_retry(error: BaseException, *, repeatable: bool = True) -> bool:
    """
    Decide whether a retry can help and is harmless.

    :param repeatable: the request has one effect, whether it is executed once or twice.
    """
    if isinstance(error, VectorizeThrottledError):
        return True
    if isinstance(error, VectorizeResponseError) and error.is_passing:
        return True
    if not repeatable:
        return False
    if isinstance(error, VectorizeTransportError):
        return not error.is_final
    return is_server_fault(error)


def pause_before_retry(
    error: VectorizeError,
    policy: RetryLimits,
    *,
    attempts: int,
    spent: float,
    throttled: float,
    silent: float = 0.0,
    time_left: float = math.inf,
    repeatable: bool = True,
    draw: float = 1.0,
) -> float | None:
    """
    Decide when to retry a request; a pure function.

    :param attempts: attempts of this call so far, at least 1.
    :param spent: seconds since this call began, without waits for throttles.
    :param throttled: seconds that throttles have delayed this call.
    :param silent: seconds since the task's first request after which nothing has responded.
    :param time_left: seconds until the task's deadline.
    :param repeatable: the request has one effect, whether it is executed once or twice.
    :param draw: a random number from 0 to 1.
    :return: seconds to wait; None if the error is final.
    """
    if not may_retry(error, repeatable=repeatable):
        return None
    bound = policy.first_backoff * 2.0 ** min(attempts - 1, _MOST_DOUBLINGS)
    backoff = draw * min(bound, policy.longest_backoff)
    if isinstance(error, VectorizeThrottledError):
        # At least the backoff: a Retry-After of 0 must not cause an endless loop.
        pause = max(backoff, error.retry_after or 0.0)
        return pause if throttled + pause <= policy.throttle_total and pause <= time_left else None
    if isinstance(error, VectorizeResponseError) and error.is_passing:
        return backoff
    left = policy.backoff_total - max(spent, silent)
    return min(backoff, left) if left > 0 else None


def may_be_done(error: BaseException) -> bool:
    """Decide whether the service may have executed a request that ended in this error."""
    if isinstance(error, VectorizeThrottledError):
        return False
    if isinstance(error, VectorizeTransportError):
        return error.sent
    return is_server_fault(error)


class Transport(Protocol):
    """Sends one request and returns the whole response; safe to call from several threads."""

    def send(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> RawResponse:
        """Send a request; raises :class:`VectorizeTransportError` without a complete response."""

    def close(self) -> None:
        """Close all idle connections at once, and those in use when their request ends."""


class VectorizeSession:
    """
    Sends requests, with retries.

    :param base_url: the API's address, without a slash at the end.
    :param secrets: texts that no error and no log line may show.
    :param retry: the limits of retries; None for a single attempt that never sleeps (for the triggerer).
    :param pacer: decides when a request may start; not used for single attempts.
    :param gate: spaces the starts of requests further; not used for single attempts.
    :param history: the service's responses to the credentials; a new history if not given.
    :param sleep: waits for a number of seconds; :meth:`stop` ends the default's wait.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        base_url: str,
        user_agent: str,
        secrets: Collection[str] = (),
        retry: RetryLimits | None,
        pacer: Pacer | None = None,
        gate: StartGate | None = None,
        history: CredentialHistory | None = None,
        conn_id: str | None = None,
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
        #: The service's responses to the credentials; clients with equal credentials may share it.
        self.history = history or CredentialHistory()
        self._connection = "" if conn_id is None else f" (connection {show(conn_id)})"
        self._clock = clock
        # All threads share these, so a response to one thread ends the silence for all.
        self._answered_at = -math.inf
        self._silent_since: float | None = None
        self._stopped = threading.Event()
        self._given_sleep = sleep
        self._sleep: Callable[[float], Any] = sleep or self._stopped.wait
        #: The caller's deadline, in seconds of the clock; no wait for a throttle goes past it.
        self.deadline: float | None = None

    def stop(self) -> None:
        """Wake every thread that waits to send; no request starts after this."""
        self._stopped.set()
        if self._pacer is not None:
            self._pacer.stop()

    def time_for(self, requests: int, *, concurrency: int) -> float | None:
        """Return the seconds that this many more requests will take within the budget; None if unknown."""
        return self._pacer.time_for(requests, concurrency=concurrency) if self._pacer is not None else None

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
        missing_ok_on_retry: bool = False,
    ) -> Answer:
        """
        Send one request, retry it if that helps, and return the response.

        :param json_body: a value to send as JSON.
        :param body: bytes to send instead of ``json_body``.
        :param repeatable: the request has one effect, whether it is executed once or twice. If not, it is
            retried only after a throttle, which executes nothing.
        :param missing_ok_on_retry: a retry that finds nothing is a success if the response to an earlier
            attempt was lost, since that attempt deleted the index. If no response was lost, it is an error.
        :raises VectorizeError: the errors of :func:`read_answer`, :class:`VectorizeTransportError`, and
            :class:`VectorizeInputError` for a value that is not valid in JSON.
        """
        headers = dict(self._headers)
        if json_body is not None:
            body = write_json(json_body)
            content_type = "application/json"
        if content_type:
            headers["Content-Type"] = content_type
        what = f"{method} {path}{self._connection}"
        call = _Call(what, method, path, params, headers, body, started=self._clock())
        perhaps_done = False
        while True:
            try:
                return self._once(call)
            except VectorizeNotFoundError as e:
                if (
                    missing_ok_on_retry
                    and perhaps_done
                    and e.code in (INDEX_NOT_FOUND_CODE, INDEX_DELETED_CODE)
                ):
                    return Answer(None, None, {})
                raise
            except VectorizeError as e:
                perhaps_done = perhaps_done or may_be_done(e)
                pause = self._pause_after(call, e, repeatable)
                if pause is None:
                    raise self._given_up(e) from None
            self._sleep(pause)

    def _pause_after(self, call: _Call, error: VectorizeError, repeatable: bool) -> float | None:
        if self._retry is None:
            return None
        call.attempts += 1
        now = self._clock()
        pause = pause_before_retry(
            error,
            self._retry,
            attempts=call.attempts,
            spent=now - call.started - call.throttled,
            throttled=call.throttled,
            silent=self._silent_for(now),
            time_left=math.inf if self.deadline is None else self.deadline - now,
            repeatable=repeatable,
            draw=random.random(),  # noqa: S311
        )
        if pause is None:
            return None
        if isinstance(error, VectorizeThrottledError):
            call.throttled += pause
            until = datetime.fromtimestamp(time.time() + pause, UTC)
            log.warning("%s. Retrying in %.0f s, at %s.", error, pause, until.isoformat(timespec="seconds"))
        else:
            log.info("%s. Retrying in %.1f s.", error, pause)
        return pause

    def _silent_for(self, now: float) -> float:
        return 0.0 if self._silent_since is None else now - self._silent_since

    def _given_up(self, error: VectorizeError) -> VectorizeError:
        if self._retry is None or not isinstance(error, VectorizeTransportError) or error.is_final:
            return error
        silent = self._silent_for(self._clock())
        if silent < self._retry.backoff_total:
            return error
        return VectorizeTransportError(
            f"{error}. Nothing has responded for {silent:.0f} s. Check the connection's host and, on this "
            "worker, the network, firewall, proxies and CA bundle",
            sent=error.sent,
            is_final=True,
        )

    def _once(self, call: _Call) -> Answer:
        pacer = self._pacer
        if pacer is not None and self._retry is not None:
            refused, blocked = pacer.start(
                deadline=math.inf if self.deadline is None else self.deadline,
                patience=max(0.0, self._retry.throttle_total - call.throttled),
                sleep=self._given_sleep,
            )
            call.throttled += blocked
            if refused:
                # stop() ends a retry's wait early, and the pacer then refuses the rest of it.
                self._raise_if_stopped(call.what)
                raise VectorizeThrottledError(
                    f"{call.what}: not sent, because the account's request budget allows it in "
                    f"{refused:.0f} s at the earliest. That is after the task's deadline, or longer than the "
                    f"provider waits for a throttle. {BUDGET_IS_SHARED}",
                    retry_after=refused,
                )
        started_at = self._clock()
        raw: RawResponse | None = None
        throttle: VectorizeThrottledError | None = None
        try:
            if self._gate is not None:
                self._gate.wait(self._sleep)
            self._raise_if_stopped(call.what)
            raw = self._send(call)
            answer = read_answer(raw, what=call.what, secrets=self._secrets)
        except VectorizeThrottledError as e:
            throttle = e
            raise
        except VectorizeResponseError as e:
            raise (self._judged(e, call.is_reading) if e.is_refusal else e) from None
        finally:
            if pacer is not None:
                pacer.end(
                    started_at,
                    raw.headers if raw is not None else None,
                    throttled=throttle is not None,
                    retry_after=throttle.retry_after if throttle is not None else None,
                )
        self.history.note_accepted(reading=call.is_reading)
        return answer

    def _send(self, call: _Call) -> RawResponse:
        started_at = self._clock()
        try:
            raw = self._transport.send(
                call.method,
                f"{self._base_url}{call.path}",
                params=call.params,
                headers=call.headers,
                body=call.body,
            )
        except VectorizeTransportError as e:
            if self._silent_since is None:
                self._silent_since = max(started_at, self._answered_at)
            # The error may quote the response, such as an invalid status line.
            text = f"{call.what}: {masked(str(e), self._secrets)[:_MOST_SHOWN]}"
            failure = VectorizeTransportError(text, sent=e.sent, is_final=e.is_final)
        else:
            self._answered_at = self._clock()
            self._silent_since = None
            return raw
        # Not in the except block: the unmasked error would become the context of this one.
        raise failure

    def _judged(self, refusal: VectorizeResponseError, reading: bool) -> VectorizeResponseError:
        """Return a refusal, marked as temporary or final, whose text has the history of the credentials."""
        accepted = self.history.accepted
        proven = accepted and (reading or self.history.accepted_to_write)
        refused_for = self.history.note_refused(self._clock())
        patience = REFUSED_SECONDS if self._retry is None else self._retry.refusal_total
        is_passing = refusal_passes(
            accepted=accepted, proven=proven, refused_for=refused_for, patience=patience
        )
        if not accepted:
            return refusal
        before = "before" if proven else "before, for reading"
        text = f"{refusal}. The service has accepted these credentials {before}"
        if not is_passing:
            text += f", and has refused them now for {refused_for:.0f} s"
        judged = type(refusal)(text, status=refusal.status, code=refusal.code)
        judged.is_passing = is_passing
        return judged

    def _raise_if_stopped(self, what: str) -> None:
        if self._stopped.is_set():
            raise VectorizeInterrupted(f"interrupted: {what} was not sent")


@dataclass(slots=True)
class _Call:
    """
    A request and the attempts to send it.

    :param what: the request and its connection, for errors.
    :param started: the start of the first attempt.
    :param attempts: number of attempts.
    :param throttled: seconds that throttles have delayed it.
    """

    what: str
    method: str
    path: str
    params: Mapping[str, str] | None
    headers: Mapping[str, str]
    body: bytes | None
    started: float
    attempts: int = 0
    throttled: float = 0.0

    @property
    def is_reading(self) -> bool:
        """Return whether the request needs only the permission to read."""
        return is_reading(self.method, self.path)
