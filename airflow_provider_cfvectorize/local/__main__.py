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
#: Seconds between two looks for a signal.
_TICK: Final = 0.1


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="vectorize-local",
        description="Cloudflare Vectorize on your own machine, for developing and testing.",
        epilog=f"The token can come from the environment variable {TOKEN_VARIABLE} as well, "
        "which keeps it out of the list of processes.",
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
    option("--port", "port; 0 takes a free one" + default, type=int, default=DEFAULT_PORT)
    repeated(
        "--allow-host",
        "further name that clients may use in the Host header, such as a service's name in Docker or "
        "Kubernetes; may be repeated",
        "NAME",
    )
    option("--data", "file that keeps everything (default: in memory)", metavar="PATH")
    option("--account-id", "32 hexadecimal digits" + default, default=DEFAULT_ACCOUNT_ID, metavar="HEX")
    option(
        "--api-token",
        "the token that clients must send (default: a fixed one, which is shown; needed for a host that "
        "others can reach)",
        metavar="TOKEN",
    )
    number(
        "--apply-delay",
        "until a job applies what is pending, and between jobs of a backlog",
        DEFAULT_APPLY_DELAY,
    )
    number("--visibility-lag", "by which vectors, ids and their number follow the watermark")
    number("--latency", "by which each answer is delayed")
    number("--foreign-writes-per-second", "mutations that another writer makes on every index", unit="N")
    option(
        "--rate-limit",
        "requests that the account has in so many seconds; the service's is 1200/300 (default: no limit)",
        metavar="REQUESTS/SECONDS",
    )
    number("--recall", "the chance that a query finds a match, from 0 to 1", 1.0, "SHARE")
    repeated(
        "--fault",
        f"a fault on purpose, such as {EXAMPLE}; may be repeated; kinds: {', '.join(KINDS)}",
        FORM,
    )
    option(
        "--fault-seed",
        "what the chances of faults and of --recall depend on" + default,
        type=int,
        default=0,
        metavar="N",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """
    Run the command.

    :param arguments: The command line; None takes the process's.
    :return: The exit code.
    """
    parser = build_parser()
    options = parser.parse_args(arguments)
    # An empty variable is what `docker run -e` makes of one that is not set.
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
    return 0 if received else _fail("the server ended by itself; see the log above")


def _fail(message: str) -> int:
    print(f"vectorize-local: {message}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
