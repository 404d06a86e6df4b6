# SPDX-License-Identifier: Apache-2.0
"""The server in a thread of its own: :class:`LocalVectorize`."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import json
import logging
import math
import re
import threading
import time
from typing import TYPE_CHECKING, Any, Final, Self, TypeVar

from airflow_provider_cfvectorize.local.behaviour import Behaviour
from airflow_provider_cfvectorize.local.engine.index import Timing
from airflow_provider_cfvectorize.local.engine.view import Recall
from airflow_provider_cfvectorize.local.errors import MissingExtraError
from airflow_provider_cfvectorize.local.faults.specs import check_seed, parse_faults
from airflow_provider_cfvectorize.local.http.access import TOKEN_PATTERN, Access, Hosts, is_loopback
from airflow_provider_cfvectorize.local.http.listening import listen, loop_factory, make_server
from airflow_provider_cfvectorize.local.http.rate_limit import RateLimit

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from airflow_provider_cfvectorize.local.engine.store import Store
    from airflow_provider_cfvectorize.local.http.app import App
    from airflow_provider_cfvectorize.local.http.listening import Connections

log = logging.getLogger(__name__)

T = TypeVar("T")

#: Fixed, so that a connection can be written down once. Neither is a secret: they open a server that only
#: this machine can reach, and no other server accepts them.
DEFAULT_ACCOUNT_ID: Final = "10ca10ca10ca10ca10ca10ca10ca10ca"
DEFAULT_API_TOKEN: Final = "vectorize-local-token-that-is-no-secret_"  # noqa: S105
DEFAULT_HOST: Final = "127.0.0.1"
#: Long enough that a read right after a write shows how asynchronous the service is (its median is
#: below 30 seconds), short enough not to make anybody wait while developing.
DEFAULT_APPLY_DELAY: Final = 2.0

#: Seconds to wait for the server's thread to do something; so long only if the server is just ending.
_CALL_TIMEOUT: Final = 30
#: Seconds between two looks of the other writer, unless it writes less often.
_FOREIGN_TICK: Final = 0.02
_ACCOUNT_ID: Final = re.compile(r"[0-9a-fA-F]{32}")


class LocalVectorize:
    """
    A Vectorize of your own, in a thread of this process.

    Use it as a context manager, or call :meth:`start` and :meth:`stop`::

        with LocalVectorize(apply_delay=0.2) as server:
            monkeypatch.setenv("AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT", server.connection)

    :param host: Name or address to listen on. One that others can reach needs an ``api_token`` of your own.
    :param port: Port to listen on; 0 takes a free one.
    :param data: File that keeps everything; None keeps it in memory.
    :param account_id: The one account there is, 32 hexadecimal digits.
    :param api_token: The token that opens it; None is ``DEFAULT_API_TOKEN``.
    :param apply_delay: Seconds until a job applies what is pending, and between jobs of a backlog.
    :param visibility_lag: Seconds by which vectors, ids and their number follow the watermark.
    :param latency: Seconds by which each answer is delayed.
    :param foreign_writes_per_second: Mutations that another writer makes on every index.
    :param rate_limit: Requests that the account has in so many seconds, as ``"1200/300"`` or two whole
        numbers; None for no limit.
    :param recall: The chance that a query finds a match, from 0 to 1. Further matches take the place of those
        that it misses.
    :param faults: Faults on purpose, ``KIND[:ENDPOINT][@PROBABILITY|#REQUEST_NUMBERS][=VALUE]`` each.
    :param fault_seed: What the chances of faults and of ``recall`` depend on; the same requests meet the same
        faults, and the same query misses the same vectors.
    :param allow_hosts: Further names that may stand in the ``Host`` header.
    :param read_only_token: A second token, one without the permission to write.
    :param api_email: With ``api_key``: the legacy credentials, accepted beside the token.
    :param api_key: See ``api_email``.
    :param behaviour: The switches for what is not known about the service.
    :param clock: Seconds since the epoch. Everything that depends on time goes by it, also when jobs are due.
    :raises ValueError: A parameter is not what it should be.
    """

    def __init__(
        self,
        *,
        host: str = DEFAULT_HOST,
        port: int = 0,
        data: str | Path | None = None,
        account_id: str = DEFAULT_ACCOUNT_ID,
        api_token: str | None = None,
        apply_delay: float = DEFAULT_APPLY_DELAY,
        visibility_lag: float = 0.0,
        latency: float = 0.0,
        foreign_writes_per_second: float = 0.0,
        rate_limit: str | tuple[int, int] | None = None,
        recall: float = 1.0,
        faults: Iterable[str] = (),
        fault_seed: int = 0,
        allow_hosts: Iterable[str] = (),
        read_only_token: str | None = None,
        api_email: str | None = None,
        api_key: str | None = None,
        behaviour: Behaviour | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        for name, value in (
            ("apply_delay", apply_delay),
            ("visibility_lag", visibility_lag),
            ("latency", latency),
            ("foreign_writes_per_second", foreign_writes_per_second),
        ):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a number of 0 or more, got {value!r}")
        if not 0 <= recall <= 1:
            raise ValueError(f"recall must be a number from 0 to 1, got {recall!r}")
        if not _ACCOUNT_ID.fullmatch(account_id):
            raise ValueError(f"account_id must be 32 hexadecimal digits, got {account_id!r}")
        if not 0 <= port <= 65535:
            raise ValueError(f"port must be from 0 to 65535, got {port!r}")
        if not is_loopback(host) and api_token in (None, DEFAULT_API_TOKEN):
            raise ValueError(f"others can reach host {host!r}: that needs an API token of your own")
        if (api_email is None) != (api_key is None):
            raise ValueError("api_email and api_key go together")
        for name, secret in (
            ("api_token", api_token),
            ("read_only_token", read_only_token),
            ("api_key", api_key),
        ):
            if secret is not None and not TOKEN_PATTERN.fullmatch(secret):
                raise ValueError(f"{name} must be made of letters, digits and ._~+/-, with = at the end only")
        self.host = host
        self.port = port
        self.account_id = account_id
        self.api_token = DEFAULT_API_TOKEN if api_token is None else api_token
        self._data = data
        self._timing = Timing(apply_delay=apply_delay, visibility_lag=visibility_lag)
        self._latency = latency
        self._foreign_rate = foreign_writes_per_second
        self._faults = tuple(fault.spec for fault in parse_faults(faults))
        self._fault_seed = check_seed(fault_seed)
        self._recall = Recall(recall, self._fault_seed)
        self._rate_limit = None if rate_limit is None else RateLimit.parse(rate_limit)
        self._hosts = Hosts(host, allow_hosts)
        self._access = Access(self.api_token, read_only_token, api_email, api_key)
        self._behaviour = behaviour or Behaviour()
        self._clock = clock
        self._store: Store | None = None
        self._app: App | None = None
        self._server: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.base_url!r})"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    # --- what there is to know -------------------------------------------------------------------------

    @property
    def root_url(self) -> str:
        """Where the server is, without a path; a server on all addresses is named by the loopback one."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.port}"

    @property
    def base_url(self) -> str:
        """What stands for ``https://api.cloudflare.com/client/v4``."""
        return f"{self.root_url}/client/v4"

    @property
    def connection(self) -> str:
        """The JSON, token included, for ``AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT``."""
        return self.connection_with(self.api_token)

    def connection_with(self, password: str) -> str:
        """Return the Airflow connection with another password."""
        return json.dumps(
            {
                "conn_type": "cloudflare_vectorize",
                "login": self.account_id,
                "password": password,
                "host": self.base_url,
            }
        )

    @property
    def running(self) -> bool:
        """Whether the server answers."""
        return self._thread is not None and self._thread.is_alive()

    def stats(self) -> dict[str, int]:
        """Return the number of requests by endpoint since the start, or since they were reset."""
        return self._on_loop(lambda: self._started()[1].control.stats())

    def reset_stats(self) -> None:
        """Count requests, and those that were hit by faults, from zero again."""
        self._on_loop(lambda: self._started()[1].control.reset_stats())

    def rate_limit_report(self) -> list[dict[str, float]]:
        """
        Return the last windows of the rate limit, the oldest first; none without one.

        Each has its ``begin`` and ``end``, seconds since the epoch (a block belongs to the window that it
        ended), and the numbers of requests that were ``accepted`` and ``refused``.
        """
        return self._on_loop(lambda: self._started()[1].control.rate_limit_report())

    def foreign_write(self, index_name: str | None = None, count: int = 1) -> dict[str, list[str]]:
        """
        Make mutations as another writer would; each deletes an id that never existed.

        :param index_name: The index; None for every index there is.
        :param count: Mutations an index.
        :return: The mutations' ids by the name of the index.
        """
        return self._on_loop(lambda: self._started()[0].foreign_writes(index_name, count))

    def set_faults(self, faults: Iterable[str], fault_seed: int = 0) -> None:
        """
        Have these faults and no others, now or, before the start, from then on.

        Each counts its requests from 1. Views and watermarks that are to stay behind do so from here on.

        :param faults: The faults, as the server takes them; none to have none.
        :param fault_seed: What their chances depend on.
        :raises ValueError: One of them is not a fault; nothing has changed then.
        """
        self._faults = tuple(fault.spec for fault in parse_faults(faults))
        self._fault_seed = check_seed(fault_seed)
        if self._app is not None:
            control = self._app.control
            self._on_loop(lambda: control.faults.set(self._faults, self._fault_seed))

    def injected(self) -> dict[str, int]:
        """Return how many requests were hit by faults, by kind, since the start or since they were reset."""
        return self._on_loop(lambda: self._started()[1].control.faults.injected())

    # --- running ---------------------------------------------------------------------------------------

    def start(self) -> Self:
        """
        Listen, and return once connections are accepted.

        :raises MissingExtraError: The extra ``local`` is not installed.
        :raises OSError: The address cannot be listened on.
        :raises DataFileError: The file cannot be used.
        """
        try:
            import uvicorn  # noqa: F401

            from airflow_provider_cfvectorize.local.faults.injection import Faults
            from airflow_provider_cfvectorize.local.http.app import App
        except ModuleNotFoundError as e:
            package = (e.name or "").partition(".")[0]
            if package not in ("starlette", "uvicorn"):
                raise
            raise MissingExtraError(package) from e
        if importlib.util.find_spec("numpy") is None:
            # Imported by the first query only; whoever lacks it should not learn that so late.
            raise MissingExtraError("numpy")
        if self._thread is not None:
            raise RuntimeError("this server is running already")
        listener = listen(self.host, self.port)
        try:
            store = self._open_store()
        except BaseException:
            listener.close()
            raise
        self.port = listener.getsockname()[1]
        self._store = store
        connections: Connections = {}
        injection = Faults(store, connections)
        injection.set(self._faults, self._fault_seed)
        self._app = App(
            store,
            self._clock,
            account_id=self.account_id,
            access=self._access,
            hosts=self._hosts,
            latency=self._latency,
            rate_limit=self._rate_limit,
            faults=injection,
            recall=self._recall,
            guard_local=not is_loopback(self.host),
        )
        self._server = make_server(self._app, connections, self._ready.set)
        self._ready.clear()
        self._thread = threading.Thread(
            target=self._run, args=(listener,), name="vectorize-local", daemon=True
        )
        self._thread.start()
        self._ready.wait()
        if not self._server.started:
            self.stop()
            raise RuntimeError("the server did not start; see its log")
        return self

    def stop(self) -> None:
        """Stop listening; requests still running get a second to end. Does nothing if it is not running."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with contextlib.suppress(RuntimeError):  # It has ended by itself.
            if self._loop is not None:
                self._loop.call_soon_threadsafe(self._started()[1].control.faults.close)
                self._loop.call_soon_threadsafe(self._server.stop)
        thread.join()

    def _open_store(self) -> Store:
        from airflow_provider_cfvectorize.local.engine.journal import Journal
        from airflow_provider_cfvectorize.local.engine.sqlite_journal import SqliteJournal
        from airflow_provider_cfvectorize.local.engine.store import Store

        journal = Journal() if self._data is None else SqliteJournal(self._data)
        try:
            return Store(journal, self._clock, self._timing, self._behaviour)
        except BaseException:
            journal.close()
            raise

    def _run(self, listener: socket.socket) -> None:
        try:
            with asyncio.Runner(loop_factory=loop_factory()) as runner:
                runner.run(self._serve(listener))
        except Exception:
            log.exception("vectorize-local ended")
        finally:
            listener.close()
            self._started()[0].close()
            self._ready.set()

    async def _serve(self, listener: socket.socket) -> None:
        self._loop = asyncio.get_running_loop()
        writer = asyncio.create_task(self._write_as_another()) if self._foreign_rate else None
        try:
            await self._server.serve(sockets=[listener])
        finally:
            if writer is not None:
                writer.cancel()

    async def _write_as_another(self) -> None:
        store, _ = self._started()
        period = max(_FOREIGN_TICK, min(1.0, 1 / self._foreign_rate))
        last, owed = time.monotonic(), 0.0
        while True:
            await asyncio.sleep(period)
            now = time.monotonic()
            # A machine that slept does not catch up on hours of writes.
            owed += min(now - last, 1.0) * self._foreign_rate
            last = now
            try:
                store.foreign_writes(None, int(owed))
            except Exception:
                log.exception("The other writer's mutations were lost")
            owed -= int(owed)

    def _started(self) -> tuple[Store, App]:
        if self._store is None or self._app is None:
            raise RuntimeError("this server has not been started")
        return self._store, self._app

    def _on_loop(self, call: Callable[[], T]) -> T:
        """Run something in the server's thread, which is the only one that touches the store."""
        if not self.running or self._loop is None:
            return call()

        async def in_loop() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(in_loop(), self._loop).result(timeout=_CALL_TIMEOUT)
