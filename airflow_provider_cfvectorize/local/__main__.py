# SPDX-License-Identifier: Apache-2.0
"""The command ``vectorize-local``."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_cfvectorize.local.errors import DataFileError, MissingExtraError
from airflow_provider_cfvectorize.local.faults.specs import EXAMPLE, FORM, KINDS
from airflow_provider_cfvectorize.local.server import (
    DEFAULT_ACCOUNT_ID,
    DEFAULT_APPLY_DELAY,
    DEFAULT_HOST,
    LocalVectorize,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

DEFAULT_PORT: Final = 8787
TOKEN_VARIABLE: Final = "VECTORIZE_LOCAL_TOKEN"  # noqa: S105
CONNECTION_VARIABLE: Final = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"
#: Seconds between two checks for a signal.
_TICK: Final = 0.1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="vectorize-local",
        description="Run a local Cloudflare Vectorize server for development and tests.",
        epilog=f"Set the token in the environment variable {TOKEN_VARIABLE} "
        "to keep it out of the list of processes.",
        allow_abbrev=False,
    )
    default = " (default: %(default)s)"

    def option(name: str, help_: str, **settings: Any) -> None:
        parser.add_argument(name, help=help_, **settings)

    def number(name: str, help_: str, value: float = 0.0, unit: str = "SECONDS") -> None:
        option(name, help_ + default, type=float, default=value, metavar=unit)

    def repeated(name: str, help_: str, metavar: str) -> None:
        option(name, help_, action="append", default=[], metavar=metavar)

    option("--host", "name or address to listen on" + default, default=DEFAULT_HOST)
    option("--port", "port to listen on; 0 picks a free one" + default, type=int, default=DEFAULT_PORT)
    repeated(
        "--allow-host",
        "additional name to accept in the Host header, such as the name of a service in Docker or "
        "Kubernetes; may be repeated",
        "NAME",
    )
    option("--data", "file to store everything in (default: store in memory)", metavar="PATH")
    option(
        "--account-id",
        "the server's only account, 32 hexadecimal digits" + default,
        default=DEFAULT_ACCOUNT_ID,
        metavar="HEX",
    )
    option(
        "--api-token",
        "token that clients must send (default: a fixed token, printed at start; required for a host that "
        "other machines can reach)",
        metavar="TOKEN",
    )
    number(
        "--apply-delay",
        "seconds until a job applies pending mutations, and between the jobs of a backlog",
        DEFAULT_APPLY_DELAY,
    )
    number("--visibility-lag", "seconds by which reads of vectors, ids and counts lag behind the watermark")
    number("--latency", "seconds to delay each response")
    number("--foreign-writes-per-second", "mutations a second by another writer, on every index", unit="N")
    option(
        "--rate-limit",
        "the account's request limit; the service has 1200/300 (default: no limit)",
        metavar="REQUESTS/SECONDS",
    )
    number("--recall", "chance that a query finds a match, from 0 to 1", 1.0, "SHARE")
    repeated(
        "--fault",
        f"fault to inject, such as {EXAMPLE}; may be repeated; kinds: {', '.join(KINDS)}",
        FORM,
    )
    option(
        "--fault-seed",
        "seed of the random choices of --fault and --recall" + default,
        type=int,
        default=0,
        metavar="N",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command.

    :param arguments: The command line; None means that of the process.
    :return: The exit code.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    # `docker run -e` turns an unset variable into an empty one.
    token = options.api_token or os.environ.get(TOKEN_VARIABLE) or None
    try:
        server = LocalVectorize(
            host=options.host,
            port=options.port,
            data=options.data,
            account_id=options.account_id,
            api_token=token,
            apply_delay=options.apply_delay,
            visibility_lag=options.visibility_lag,
            latency=options.latency,
            foreign_writes_per_second=options.foreign_writes_per_second,
            rate_limit=options.rate_limit,
            recall=options.recall,
            faults=options.fault,
            fault_seed=options.fault_seed,
            allow_hosts=options.allow_host,
        )
    except ValueError as e:
        parser.error(str(e))
    received: list[int] = []

    def stop(number: int, frame: Any) -> None:
        received.append(number)

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    try:
        server.start()
    except (MissingExtraError, DataFileError) as e:
        return _fail(str(e))
    except OSError as e:
        return _fail(f"cannot listen on {options.host} port {options.port}: {e.strerror or e}")
    shown = server.connection if token is None else server.connection_with("***")
    print(f"listening on {server.base_url}", f"{CONNECTION_VARIABLE}='{shown}'", sep="\n", flush=True)
    try:
        while server.running and not received:
            time.sleep(_TICK)
    finally:
        server.stop()
    return 0 if received else _fail("the server ended unexpectedly; see the log above")


def _fail(message: str) -> int:
    print(f"vectorize-local: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
