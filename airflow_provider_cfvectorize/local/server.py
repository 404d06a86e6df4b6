# SPDX-License-Identifier: Apache-2.0
""":class:`LocalVectorize`, the server that runs in a thread."""

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

#: Fixed, so that you can write a connection once and keep it. Neither is a secret: only this machine can
#: reach a server with the default token.
DEFAULT_ACCOUNT_ID: Final = "10ca10ca10ca10ca10ca10ca10ca10ca"
DEFAULT_API_TOKEN: Final = "vectorize-local-token-that-is-no-secret_"  # noqa: S105
DEFAULT_HOST: Final = "127.0.0.1"
#: Long enough that a read right after a write does not see it, as on the service (whose median delay is below
#: 30 seconds). Short enough for development.
DEFAULT_APPLY_DELAY: Final = 2.0

#: Seconds to wait for a call in the server's thread. Only a server that is stopping takes this long.
_CALL_TIMEOUT: Final = 30
#: Seconds between two rounds of foreign writes, unless their rate is lower.
_FOREIGN_TICK: Final = 0.02
_ACCOUNT_ID: Final = re.compile(r"[0-9a-fA-F]{32}")


class LocalVectorize:
    """
    A local Vectorize server in a thread of this process.

    Use it as a context manager, or call :meth:`start` and :meth:`stop`::

        with LocalVectorize(apply_delay=0.2) as server:
            monkeypatch.setenv("AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT", server.connection)

    :param host: Name or address to listen on. A host that other machines can reach requires ``api_token``.
    :param port: Port to listen on; 0 picks a free one.
    :param data: File to store everything in; None stores it in memory.
    :param account_id: The server's only account, 32 hexadecimal digits.
    :param api_token: The token that clients must send; None means ``DEFAULT_API_TOKEN``.
    :param apply_delay: Seconds until a job applies pending mutations, and between the jobs of a backlog.
    :param visibility_lag: Seconds by which reads of vectors, ids and counts lag behind the watermark.
    :param latency: Seconds to delay each response.
    :param foreign_writes_per_second: Mutations a second that another writer makes on every index.
    :param rate_limit: The account's request limit, as ``"1200/300"`` (requests/seconds) or two integers;
        None for no limit.
    :param recall: The chance that a query finds a match, from 0 to 1. The next-best vectors replace missed
        matches.
    :param faults: Faults to inject, each as ``KIND[:ENDPOINT][@PROBABILITY|#REQUEST_NUMBERS][=VALUE]``.
    :param fault_seed: Seed of the random choices of ``faults`` and ``recall``. With an equal seed, equal
        requests meet equal faults, and equal queries miss equal vectors.
    :param allow_hosts: Additional names to accept in the ``Host`` header.
    :param read_only_token: A second token, without the permission to write.
    :param api_email: With ``api_key``: legacy credentials to accept beside the token.
    :param api_key: See ``api_email``.
    :param behaviour: The switches for unknown behaviours of the service.
    :param clock: Returns seconds since the epoch. All times come from it, including those of jobs.
    :raises ValueError: A parameter is invalid.
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
                raise ValueError(f"{name} must be 0 or more, got {value!r}")
        if not 0 <= recall <= 1:
            raise ValueError(f"recall must be a number from 0 to 1, got {recall!r}")
        if not _ACCOUNT_ID.fullmatch(account_id):
            raise ValueError(f"account_id must be 32 hexadecimal digits, got {account_id!r}")
        if not 0 <= port <= 65535:
            raise ValueError(f"port must be from 0 to 65535, got {port!r}")
        if not is_loopback(host) and api_token in (None, DEFAULT_API_TOKEN):
            raise ValueError(f"other machines can reach host {host!r}: set an API token of your own")
        if (api_email is None) != (api_key is None):
            raise ValueError("api_email and api_key must be given together")
        for name, secret in (
            ("api_token", api_token),
            ("read_only_token", read_only_token),
            ("api_key", api_key),
        ):
            if secret is not None and not TOKEN_PATTERN.fullmatch(secret):
                raise ValueError(f"{name} must consist of letters, digits and ._~+/-, with = only at the end")
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

    # --- addresses and statistics ----------------------------------------------------------------------

    @property
    def root_url(self) -> str:
        """The server's URL without a path; for a server on all addresses, the URL of the loopback address."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{self.port}"

    @property
    def base_url(self) -> str:
        """The base URL, in place of ``https://api.cloudflare.com/client/v4``."""
        return f"{self.root_url}/client/v4"

    @property
    def connection(self) -> str:
        """The value of ``AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT``: JSON that includes the token."""
        return self.connection_with(self.api_token)

    def connection_with(self, password: str) -> str:
        """Return the Airflow connection as JSON, with another password."""
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
        """Whether the server is running."""
        return self._thread is not None and self._thread.is_alive()

    def stats(self) -> dict[str, int]:
        """Return the number of requests by endpoint since the start or the last reset."""
        return self._on_loop(lambda: self._started()[1].control.stats())

    def reset_stats(self) -> None:
        """Reset the counts of requests and of injected faults."""
        self._on_loop(lambda: self._started()[1].control.reset_stats())

    def rate_limit_report(self) -> list[dict[str, float]]:
        """
        Return the last windows of the rate limit, the oldest first; an empty list without a limit.

        Each has its ``begin`` and ``end`` in seconds since the epoch, and the numbers of ``accepted`` and
        ``refused`` requests. A window that was exceeded ends with its block.
        """
        return self._on_loop(lambda: self._started()[1].control.rate_limit_report())

    def foreign_write(self, index_name: str | None = None, count: int = 1) -> dict[str, list[str]]:
        """
        Make mutations as another writer would. Each deletes an id that never existed.

        :param index_name: The index; None for every index.
        :param count: Number of mutations for each index.
        :return: The mutation ids by index name.
        """
        return self._on_loop(lambda: self._started()[0].foreign_writes(index_name, count))

    def set_faults(self, faults: Iterable[str], fault_seed: int = 0) -> None:
        """
        Replace all faults; before the start, set the faults to start with.

        Each fault counts its requests from 1. Lagging views and stuck watermarks begin now.

        :param faults: The new faults; an empty list removes all.
        :param fault_seed: Seed of their random choices.
        :raises ValueError: A fault is invalid; nothing has changed.
        """
        self._faults = tuple(fault.spec for fault in parse_faults(faults))
        self._fault_seed = check_seed(fault_seed)
        if self._app is not None:
            control = self._app.control
            self._on_loop(lambda: control.faults.set(self._faults, self._fault_seed))

    def injected(self) -> dict[str, int]:
        """Return the number of injected faults by kind since the start or the last reset."""
        return self._on_loop(lambda: self._started()[1].control.faults.injected())

    # --- running ---------------------------------------------------------------------------------------

    def start(self) -> Self:
        """
        Start the server and return once it accepts connections.

        :raises MissingExtraError: The extra ``local`` is not installed.
        :raises OSError: The server cannot listen on the address.
        :raises DataFileError: The data file cannot be used.
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
            # Only the first query imports it, but a missing package should fail the start.
            raise MissingExtraError("numpy")
        if self._thread is not None:
            raise RuntimeError("this server is already running")
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
        """Stop the server. Open requests get a second to end. Does nothing if the server is not running."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        with contextlib.suppress(RuntimeError):  # The server has ended by itself.
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
        writer = asyncio.create_task(self._write_foreign_mutations()) if self._foreign_rate else None
        try:
            await self._server.serve(sockets=[listener])
        finally:
            if writer is not None:
                writer.cancel()

    async def _write_foreign_mutations(self) -> None:
        store, _ = self._started()
        period = max(_FOREIGN_TICK, min(1.0, 1 / self._foreign_rate))
        last, owed = time.monotonic(), 0.0
        while True:
            await asyncio.sleep(period)
            now = time.monotonic()
            # After the machine has slept, do not catch up on hours of writes.
            owed += min(now - last, 1.0) * self._foreign_rate
            last = now
            try:
                store.foreign_writes(None, int(owed))
            except Exception:
                log.exception("Foreign mutations were lost")
            owed -= int(owed)

    def _started(self) -> tuple[Store, App]:
        if self._store is None or self._app is None:
            raise RuntimeError("this server has not been started")
        return self._store, self._app

    def _on_loop(self, call: Callable[[], T]) -> T:
        """Run a function in the server's thread, the only one that uses the store."""
        if not self.running or self._loop is None:
            return call()

        async def in_loop() -> T:
            return call()

        return asyncio.run_coroutine_threadsafe(in_loop(), self._loop).result(timeout=_CALL_TIMEOUT)
