# SPDX-License-Identifier: Apache-2.0
"""From an Airflow connection to a client: every field checked, and none used that is not known."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import conf

from airflow_provider_cfvectorize import __version__, connection
from airflow_provider_cfvectorize.client.bulk.delete import DEFAULT_CONCURRENCY
from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.http.refusals import CredentialHistory
from airflow_provider_cfvectorize.client.http.session import RetryPolicy
from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection

#: So many unknown extras are named.
_SHOWN_EXTRAS: Final = 5

log = logging.getLogger(__name__)


def client_of(
    conn: Connection,
    *,
    account_id: str | None = None,
    max_connections: int = DEFAULT_CONCURRENCY,
    retry: RetryPolicy | None = RetryPolicy(),  # noqa: B008 - frozen
    history: CredentialHistory | None = None,
) -> VectorizeClient:
    """
    Return a client with what a connection says.

    :param conn: the connection.
    :param account_id: the account; the connection's login if not given.
    :param max_connections: requests under way at once.
    :param retry: how long a call goes on; None for a single attempt that never sleeps.
    :param history: what the service has answered to the credentials, shared with other clients of the task.
    :raises VectorizeInputError: the connection is of another type, or a field is wrong.
    """
    # Before anything else: a templated conn_id must not send some database's password to some host.
    if conn.conn_type != connection.CONN_TYPE:
        raise VectorizeInputError(
            f"connection {show(conn.conn_id)} is of type {show(conn.conn_type)}, expected "
            f"{connection.CONN_TYPE!r} (in the UI: {connection.HOOK_NAME})"
        )
    for name in connection.HIDDEN_FIELDS:
        value = getattr(conn, name)
        if value:
            raise VectorizeInputError(
                f"connection {show(conn.conn_id)} has a {name} ({show(value)}), which is not used: put the "
                f"whole address of the API into the host, such as {connection.PLACEHOLDERS['host']}. In a "
                "URI, the host is written with %3A and %2F for ':' and '/'"
            )
    extras = _read_extras(conn)
    if unknown := explain_unknown_extras(conn):
        log.warning("%s", unknown)
    email = extras.get("api_email")
    password = conn.password
    if not password:
        raise VectorizeInputError(
            f"connection {show(conn.conn_id)} has no password: put the API token into it (or, with "
            "api_email, the Global API Key)"
        )
    if account_id == "":
        # What a template makes of nothing; it must not become another account.
        raise VectorizeInputError(
            "account_id is empty: pass 32 hexadecimal digits, or None for the account in the connection's "
            "login"
        )
    if account_id is None:
        account_id = conn.login
    if not account_id:
        raise VectorizeInputError(
            f"connection {show(conn.conn_id)} has no login: put the Account ID into it, or pass account_id"
        )
    allowed = [host.strip() for host in conf.get("cfvectorize", "allow_http_hosts", fallback="").split(",")]
    return VectorizeClient(
        account_id,
        api_token=None if email else password,
        api_email=email or None,
        api_key=password if email else None,
        base_url=conn.host or "",
        allow_http_hosts=[host.lower() for host in allowed if host],
        timeout=_read_number(extras, "timeout", connection.DEFAULT_TIMEOUT, lambda n: n > 0, "above 0"),
        rate_reserve=_read_number(
            extras, "rate_reserve", connection.DEFAULT_RATE_RESERVE, lambda n: 0 <= n < 1, "from 0 to below 1"
        ),
        max_connections=max_connections,
        user_agent=f"airflow-provider-cfvectorize/{__version__} apache-airflow/{airflow_version}",
        retry=retry,
        history=history,
        conn_id=conn.conn_id,
    )


def _read_extras(conn: Connection) -> Mapping[str, Any]:
    # Not extra_dejson: in the triggerer, Airflow's own blocks the event loop to mask secrets, and there are
    # none in these extras.
    try:
        extras = json.loads(conn.extra) if conn.extra else {}
    except ValueError:
        extras = None
    if not isinstance(extras, dict):
        raise VectorizeInputError(
            f"connection {show(conn.conn_id)}: the extra is not a JSON object. Known keys: "
            f"{', '.join(connection.EXTRAS)}"
        )
    email = extras.get("api_email")
    if email is not None and not isinstance(email, str):
        raise VectorizeInputError(
            f"connection {show(conn.conn_id)}: api_email is {show(email)}, expected a string"
        )
    return extras


def explain_unknown_extras(conn: Connection) -> str:
    """
    Return which extras of a connection are not read; empty if there are none.

    :param conn: the connection.
    :raises VectorizeInputError: the extra is no JSON object.
    """
    unknown = [name for name in _read_extras(conn) if name not in connection.EXTRAS]
    if not unknown:
        return ""
    shown = ", ".join(show(name) for name in unknown[:_SHOWN_EXTRAS])
    more = f" and {len(unknown) - _SHOWN_EXTRAS} more" if len(unknown) > _SHOWN_EXTRAS else ""
    return (
        f"Connection {show(conn.conn_id)} has extras that are not read: {shown}{more}. Correct or remove "
        f"them; those that are read: {', '.join(connection.EXTRAS)}"
    )


def _read_number(extras: Mapping[str, Any], name: str, default: float, fits: Any, expected: str) -> float:
    value = extras.get(name)
    if value is None or value == "":
        return default
    number = math.nan
    # URIs give numbers as strings.
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
    if not math.isfinite(number) or not fits(number):
        raise VectorizeInputError(
            f"the connection's extra {name} is {show(value)}, expected a number {expected}"
        )
    return number
