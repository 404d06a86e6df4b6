# SPDX-License-Identifier: Apache-2.0
"""The hook: from an Airflow connection to a client of the Vectorize API."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import BaseHook, conf

from airflow_provider_cfvectorize import __version__, connection
from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.deletion import DEFAULT_CONCURRENCY, delete_ids
from airflow_provider_cfvectorize.client.ids import read_ids
from airflow_provider_cfvectorize.client.session import RetryPolicy
from airflow_provider_cfvectorize.client.text import show
from airflow_provider_cfvectorize.client.types import Index, IndexInfo, Mutation, Vector, VectorPage
from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeError,
    VectorizeInputError,
    VectorizeNotFoundError,
    VectorizeTransportError,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection


class CloudflareVectorizeHook(BaseHook):
    """
    Talk to Cloudflare Vectorize with the credentials of an Airflow connection.

    Every method of :class:`~airflow_provider_cfvectorize.client.client.VectorizeClient` is here too; what
    they raise is described there. In a plain task::

        CloudflareVectorizeHook().delete_by_ids("my-index", ["a", "b"])

    :param conn_id: the connection, of type ``cloudflare_vectorize``.
    :param account_id: the account, 32 hexadecimal digits; the connection's login if not given.
    """

    conn_name_attr: ClassVar[str] = "conn_id"
    default_conn_name: ClassVar[str] = connection.DEFAULT_CONN_ID
    conn_type: ClassVar[str] = connection.CONN_TYPE
    hook_name: ClassVar[str] = connection.HOOK_NAME

    def __init__(self, conn_id: str = connection.DEFAULT_CONN_ID, account_id: str | None = None) -> None:
        super().__init__()
        self.conn_id = conn_id
        self.account_id = account_id
        #: Requests under way at once; set before the first request.
        self.max_connections = DEFAULT_CONCURRENCY

    # --- connection -----------------------------------------------------------------------------------

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the extras' form fields, for Airflow before 3.2."""
        from flask_appbuilder.fieldwidgets import BS3TextFieldWidget
        from flask_babel import lazy_gettext
        from wtforms import StringField
        from wtforms.validators import Optional

        # All as strings: of a hook with a field for numbers with a fraction, Airflow 2 drops the whole type.
        return {
            name: StringField(
                lazy_gettext(extra["label"]),
                widget=BS3TextFieldWidget(),
                description=extra["description"],
                default=extra["schema"]["default"],
                validators=[Optional()],
            )
            for name, extra in connection.EXTRAS.items()
        }

    @classmethod
    def get_ui_field_behaviour(cls) -> dict[str, Any]:
        """Return labels, placeholders and hidden fields, for Airflow before 3.2."""
        return connection.ui_field_behaviour(kebab=False)

    def get_conn(self) -> VectorizeClient:
        """
        Return the client, made on first use.

        :raises VectorizeInputError: the connection cannot be used, with the field that is wrong.
        """
        return self._client

    def get_watching_conn(self) -> VectorizeClient:
        """
        Return a new client for a wait: it makes single attempts, since the next look is the retry.

        :raises VectorizeInputError: the connection cannot be used, with the field that is wrong.
        """
        return client_of(self.get_connection(self.conn_id), account_id=self.account_id, retry=None)

    @cached_property
    def _client(self) -> VectorizeClient:
        return client_of(
            self.get_connection(self.conn_id),
            account_id=self.account_id,
            max_connections=self.max_connections,
        )

    def test_connection(self) -> tuple[bool, str]:
        """Say whether the connection works, and if not why or what to check; sends nothing but reads."""
        client = None
        try:
            # Single attempts: somebody waits for the answer.
            client = self.get_watching_conn()
            count = len(client.list_indexes())
        except VectorizeAuthError as e:
            return False, _explain_refusal(client, e) if client else str(e)
        except VectorizeNotFoundError as e:
            return False, f"Wrong account, or a wrong host: {e}"
        except VectorizeTransportError as e:
            return False, f"Unreachable: {e}. Check the connection's host, proxies and the CA bundle"
        except VectorizeError as e:
            return False, str(e)
        return True, f"Account {client.account_id} has {count} Vectorize index{'' if count == 1 else 'es'}"

    # --- anything -------------------------------------------------------------------------------------

    def request(self, method: str, path: str, **kwargs: Any) -> Any:
        """
        Send a request that has no method here yet and return the envelope's ``result``.

        :param method: the HTTP method.
        :param path: the path below this account's ``vectorize/v2``, such as ``indexes/my-index/query``.
        :param kwargs: ``params``, ``json``, ``body``, ``content_type``, ``repeatable``; see
            :meth:`~airflow_provider_cfvectorize.client.client.VectorizeClient.request`.
        """
        return self.get_conn().request(method, path, **kwargs)

    # --- indexes --------------------------------------------------------------------------------------

    def list_indexes(self) -> list[Index]:
        """Return all indexes of the account."""
        return self.get_conn().list_indexes()

    def create_index(
        self,
        name: str,
        *,
        dimensions: int | None = None,
        metric: str | None = None,
        preset: str | None = None,
        description: str | None = None,
    ) -> Index:
        """
        Create an index.

        :param name: its name.
        :param dimensions: values in each vector, 32 to 1536. With ``metric``, instead of ``preset``.
        :param metric: ``cosine``, ``euclidean`` or ``dot-product``.
        :param preset: the name of an embedding model that fixes both.
        :param description: a text.
        """
        return self.get_conn().create_index(
            name, dimensions=dimensions, metric=metric, preset=preset, description=description
        )

    def get_index(self, index_name: str) -> Index:
        """Return one index."""
        return self.get_conn().get_index(index_name)

    def delete_index(self, index_name: str) -> None:
        """Delete an index with all its vectors."""
        self.get_conn().delete_index(index_name)

    def info(self, index_name: str) -> IndexInfo:
        """Return the number of vectors and the watermark of an index."""
        return self.get_conn().info(index_name)

    # --- vectors --------------------------------------------------------------------------------------

    def insert(
        self, index_name: str, vectors: Iterable[Vector] | bytes, *, unparsable_behavior: str | None = None
    ) -> Mutation:
        """
        Add up to 5,000 vectors; one whose id exists already is left as it is.

        :param index_name: the index.
        :param vectors: the vectors, or NDJSON.
        :param unparsable_behavior: ``error`` or ``discard``.
        """
        return self.get_conn().insert(index_name, vectors, unparsable_behavior=unparsable_behavior)

    def upsert(
        self, index_name: str, vectors: Iterable[Vector] | bytes, *, unparsable_behavior: str | None = None
    ) -> Mutation:
        """
        Add up to 5,000 vectors; one whose id exists already is replaced whole.

        :param index_name: the index.
        :param vectors: the vectors, or NDJSON.
        :param unparsable_behavior: ``error`` or ``discard``.
        """
        return self.get_conn().upsert(index_name, vectors, unparsable_behavior=unparsable_behavior)

    def delete_by_ids(
        self, index_name: str, ids: Sequence[str | int] | str, *, concurrency: int = DEFAULT_CONCURRENCY
    ) -> dict[str, Any]:
        """
        Delete any number of vectors and return the receipt, with which a sensor can wait.

        :param index_name: the index.
        :param ids: their ids; see :func:`~airflow_provider_cfvectorize.client.ids.read_ids`.
        :param concurrency: requests in flight at once.
        :raises VectorizeBatchError: not all were accepted; says how many were.
        """
        checked = read_ids(ids)
        self.max_connections = max(self.max_connections, concurrency)
        receipt = delete_ids(self.get_conn(), index_name, checked, concurrency=concurrency, log=self.log)
        return receipt.as_dict()

    def get_by_ids(self, index_name: str, ids: Sequence[str]) -> list[Vector]:
        """Return those of up to 20 vectors that exist, with values and metadata."""
        return self.get_conn().get_by_ids(index_name, ids)

    def list_vectors(
        self, index_name: str, *, count: int | None = None, cursor: str | None = None
    ) -> VectorPage:
        """
        Return one page of the ids of an index.

        :param index_name: the index.
        :param count: ids on the page, 1 to 1,000.
        :param cursor: ``nextCursor`` of the page before.
        """
        return self.get_conn().list_vectors(index_name, count=count, cursor=cursor)


def client_of(
    conn: Connection,
    *,
    account_id: str | None = None,
    max_connections: int = DEFAULT_CONCURRENCY,
    retry: RetryPolicy | None = RetryPolicy(),  # noqa: B008 - frozen
) -> VectorizeClient:
    """
    Return a client with what a connection says.

    :param conn: the connection.
    :param account_id: the account; the connection's login if not given.
    :param max_connections: requests under way at once.
    :param retry: how long a call goes on; None for a single attempt that never sleeps.
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
    email = extras.get("api_email")
    password = conn.password
    if not password:
        raise VectorizeInputError(
            f"connection {show(conn.conn_id)} has no password: put the API token into it (or, with "
            "api_email, the Global API Key)"
        )
    account_id = account_id or conn.login
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


def _explain_refusal(client: VectorizeClient, refusal: VectorizeAuthError) -> str:
    """Ask the token itself what is wrong; a Global API Key cannot be asked."""
    # A user's token and an account's token are asked at different places.
    for path in ("user/tokens/verify", f"accounts/{client.account_id}/tokens/verify"):
        try:
            token = client.request("GET", path)
        except VectorizeError:
            continue
        status = token.get("status") if isinstance(token, dict) else None
        if status == "active":
            return (
                "No permission: the API token is valid, but not for Vectorize on account "
                f"{client.account_id}. Give it the permission 'Vectorize: Edit' for this account"
            )
        return f"The API token is {show(status)}: make a new one, or enable it"
    return str(refusal)
