# SPDX-License-Identifier: Apache-2.0
"""The hook: calls the Vectorize API with an Airflow connection."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

from airflow import __version__ as airflow_version
from airflow.providers.common.compat.sdk import BaseHook, conf

from airflow_provider_cfvectorize import __version__, connection
from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.bulk.delete import DEFAULT_CONCURRENCY, delete_ids, take_sample
from airflow_provider_cfvectorize.client.bulk.delete_by_filter import (
    DEFAULT_PROBES,
    begin,
    check_limits,
    rehearse,
    run_round,
)
from airflow_provider_cfvectorize.client.bulk.list import iter_ids
from airflow_provider_cfvectorize.client.bulk.read import iter_vectors
from airflow_provider_cfvectorize.client.bulk.write import write_vectors
from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.http.refusals import CredentialHistory
from airflow_provider_cfvectorize.client.http.session import RetryLimits
from airflow_provider_cfvectorize.client.inputs.ids import read_ids
from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.client.inputs.vectors import Vectors
from airflow_provider_cfvectorize.client.mutations.evidence import report_evidence
from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
from airflow_provider_cfvectorize.client.mutations.wait import Wait
from airflow_provider_cfvectorize.client.types import (
    Index,
    IndexInfo,
    IndexType,
    MetadataIndex,
    QueryResult,
    ReturnMetadata,
    Vector,
    VectorPage,
)
from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeError,
    VectorizeInputError,
    VectorizeNotFoundError,
    VectorizeTransportError,
)

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Connection


#: The most unknown extras that a message lists.
_SHOWN_EXTRAS: Final = 5

log = logging.getLogger(__name__)


def client_of(
    conn: Connection,
    *,
    account_id: str | None = None,
    max_connections: int = DEFAULT_CONCURRENCY,
    retry: RetryLimits | None = RetryLimits(),  # noqa: B008 - frozen
    history: CredentialHistory | None = None,
) -> VectorizeClient:
    """
    Return a client for a connection.

    :param conn: the connection.
    :param account_id: the account; the connection's login if not given.
    :param max_connections: the most requests in flight at once.
    :param retry: the limits of retries; None for a single attempt that never sleeps.
    :param history: the service's responses to the credentials, shared with other clients of the task.
    :raises VectorizeInputError: the connection is of another type, or a field is wrong.
    """
    # First: a wrong conn_id must not send a database's password to another host.
    if conn.conn_type != connection.CONN_TYPE:
        raise VectorizeInputError(
            f"connection {show(conn.conn_id)} is of type {show(conn.conn_type)}, expected "
            f"{connection.CONN_TYPE!r} (in the UI: {connection.HOOK_NAME})"
        )
    for name in connection.HIDDEN_FIELDS:
        value = getattr(conn, name)
        if value:
            raise VectorizeInputError(
                f"connection {show(conn.conn_id)} has a {name} ({show(value)}), which is not used. Put the "
                f"whole address of the API into the host, such as {connection.PLACEHOLDERS['host']}. In a "
                "URI, write %3A for ':' and %2F for '/' in the host"
            )
    extras = _read_extras(conn)
    if unknown := explain_unknown_extras(conn):
        log.warning("%s", unknown)
    email = extras.get("api_email")
    password = conn.password
    if not password:
        raise VectorizeInputError(
            f"connection {show(conn.conn_id)} has no password. Put the API token into it, or with "
            "api_email the Global API Key"
        )
    if account_id == "":
        # A template that renders to nothing must not become another account.
        raise VectorizeInputError(
            "account_id is empty. Pass 32 hexadecimal digits, or None for the account in the connection's "
            "login"
        )
    if account_id is None:
        account_id = conn.login
    if not account_id:
        raise VectorizeInputError(
            f"connection {show(conn.conn_id)} has no login. Put the Account ID into it, or pass account_id"
        )
    number = partial(_read_number, conn.conn_id, extras)
    allowed = [host.strip() for host in conf.get("cfvectorize", "allow_http_hosts", fallback="").split(",")]
    timeout = number("timeout", connection.DEFAULT_TIMEOUT, lambda n: n > 0, "above 0")
    rate_reserve = number(
        "rate_reserve", connection.DEFAULT_RATE_RESERVE, lambda n: 0 <= n < 1, "from 0 to below 1"
    )
    try:
        return VectorizeClient(
            account_id,
            api_token=None if email else password,
            api_email=email or None,
            api_key=password if email else None,
            base_url=conn.host or "",
            allow_http_hosts=[host.lower() for host in allowed if host],
            timeout=timeout,
            rate_reserve=rate_reserve,
            max_connections=max_connections,
            user_agent=f"airflow-provider-cfvectorize/{__version__} apache-airflow/{airflow_version}",
            retry=retry,
            history=history,
            conn_id=conn.conn_id,
        )
    except VectorizeInputError as e:
        raise type(e)(f"connection {show(conn.conn_id)}: {e}") from None


def _read_extras(conn: Connection) -> Mapping[str, Any]:
    # Not extra_dejson: in the triggerer, it blocks the event loop to mask secrets. These extras have none.
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
    Return a message about unknown extras of a connection; empty if there are none.

    :raises VectorizeInputError: the extra is not a JSON object.
    """
    unknown = [name for name in _read_extras(conn) if name not in connection.EXTRAS]
    if not unknown:
        return ""
    shown = ", ".join(show(name) for name in unknown[:_SHOWN_EXTRAS])
    more = f" and {len(unknown) - _SHOWN_EXTRAS} more" if len(unknown) > _SHOWN_EXTRAS else ""
    return (
        f"Connection {show(conn.conn_id)} has unknown extras, which are ignored: {shown}{more}. Correct or "
        f"remove them. Known extras: {', '.join(connection.EXTRAS)}"
    )


def _read_number(
    conn_id: str | None, extras: Mapping[str, Any], name: str, default: float, fits: Any, expected: str
) -> float:
    value = extras.get(name)
    if value is None or value == "":
        return default
    number = math.nan
    # Numbers of a URI are strings.
    if isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            number = math.nan
    if not math.isfinite(number) or not fits(number):
        raise VectorizeInputError(
            f"connection {show(conn_id)}: the extra {name} is {show(value)}, expected a number {expected}"
        )
    return number


class CloudflareVectorizeHook(BaseHook):
    """
    Call the Cloudflare Vectorize API with the credentials of an Airflow connection.

    The hook has every method of :class:`~airflow_provider_cfvectorize.client.client.VectorizeClient`, which
    describes their errors. The hook's methods for vectors accept any number of vectors or ids, and send as
    many requests as they need. In a Python task::

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
        #: The most requests in flight at once. Set it before the first request.
        self.max_connections = DEFAULT_CONCURRENCY
        #: The service's responses to the credentials; all clients of this hook share it.
        self.history = CredentialHistory()

    # --- connection -----------------------------------------------------------------------------------

    @classmethod
    def get_connection_form_widgets(cls) -> dict[str, Any]:
        """Return the form fields of the extras, for Airflow before 3.2."""
        from flask_appbuilder.fieldwidgets import BS3TextFieldWidget
        from flask_babel import lazy_gettext
        from wtforms import StringField
        from wtforms.validators import Optional

        # All as strings: Airflow 2 drops a connection type that has a field for fractions.
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
        Return the client. The first call makes it; a call with a higher ``concurrency`` replaces it.

        :raises VectorizeInputError: a field of the connection is invalid.
        """
        return self._client

    def get_watching_conn(self) -> VectorizeClient:
        """
        Return a new client for a wait. It makes single attempts, since the next poll is the retry.

        :raises VectorizeInputError: a field of the connection is invalid.
        """
        return client_of(
            self.get_connection(self.conn_id), account_id=self.account_id, retry=None, history=self.history
        )

    def _conn_for(self, concurrency: int) -> VectorizeClient:
        """Return the client; replace it if it allows fewer requests in flight."""
        if concurrency > self.max_connections:
            self.max_connections = concurrency
            self.__dict__.pop("_client", None)
        return self.get_conn()

    @cached_property
    def _client(self) -> VectorizeClient:
        return client_of(
            self.get_connection(self.conn_id),
            account_id=self.account_id,
            max_connections=self.max_connections,
            history=self.history,
        )

    def test_connection(self) -> tuple[bool, str]:
        """Test the connection with read requests; return whether it works, and what to check if not."""
        works, text = self._test()
        try:
            unknown = explain_unknown_extras(self.get_connection(self.conn_id))
        except VectorizeInputError:
            # The test has reported this error.
            unknown = ""
        return works, f"{text}. {unknown}" if unknown else text

    def _test(self) -> tuple[bool, str]:
        client = None
        try:
            # Single attempts: a person waits for the result.
            client = self.get_watching_conn()
            count = len(client.list_indexes())
        except VectorizeAuthError as e:
            return False, _explain_refusal(client, e) if client else str(e)
        except VectorizeNotFoundError as e:
            return False, f"Wrong account or host: {e}"
        except VectorizeTransportError as e:
            return False, f"Unreachable: {e}. Check the connection's host, proxies and the CA bundle"
        except VectorizeError as e:
            return False, str(e)
        return True, f"Account {client.account_id} has {count} Vectorize index{'' if count == 1 else 'es'}"

    # --- anything -------------------------------------------------------------------------------------

    def request(self, method: str, path: str, **kwargs: Any) -> Any:
        """
        Send a request for which the hook has no method, and return the ``result`` of the response.

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
        Create an index. The hook does not retry after a timeout, since the index may exist already.

        Parameters: :meth:`~airflow_provider_cfvectorize.client.client.VectorizeClient.create_index`.
        """
        return self.get_conn().create_index(
            name, dimensions=dimensions, metric=metric, preset=preset, description=description
        )

    def get_index(self, index_name: str) -> Index:
        """Return the name, configuration and times of an index."""
        return self.get_conn().get_index(index_name)

    def delete_index(self, index_name: str) -> None:
        """Delete an index with all its vectors and metadata indexes."""
        self.get_conn().delete_index(index_name)

    def info(self, index_name: str) -> IndexInfo:
        """Return the number of vectors and the watermark of an index."""
        return self.get_conn().info(index_name)

    # --- vectors --------------------------------------------------------------------------------------

    def insert(
        self, index_name: str, vectors: Vectors, *, unparsable_behavior: str | None = None
    ) -> dict[str, Any]:
        """
        Write any number of vectors and skip those whose ids exist; return the receipt.

        Parameters and errors: :meth:`upsert`. Of two vectors with one id, the earlier one counts.
        """
        return self._write("insert", index_name, vectors, unparsable_behavior)

    def upsert(
        self, index_name: str, vectors: Vectors, *, unparsable_behavior: str | None = None
    ) -> dict[str, Any]:
        """
        Write any number of vectors, replacing those whose ids exist; return the receipt.

        The hook checks and sends vectors as it reads them, at most 5,000 vectors or 32 MB a request, one
        request after another. Of two vectors with one id, the later one counts.

        :param index_name: the index.
        :param vectors: an iterable of vectors, such as a list or a generator; or NDJSON, one vector per line,
            as bytes or as a file opened in binary mode.
        :param unparsable_behavior: ``error`` (the default) ends the call at a line or item that is not a
            vector; ``discard`` skips it. A vector above a limit of the service is always an error.
        :return: the receipt, for which a sensor can wait, and the number of ``discarded`` lines. The
            ``mutation_id`` is None if there was nothing to send.
        :raises VectorizeInputError: a vector is invalid. The error has its position (from 0) or line (from 1)
            and the number of acknowledged vectors before it, which are or will be in the index.
        :raises VectorizeBatchError: a request failed permanently. The error has the number of acknowledged
            vectors. Sending all vectors again is harmless.
        """
        return self._write("upsert", index_name, vectors, unparsable_behavior)

    def _write(
        self, route: Literal["insert", "upsert"], index_name: str, vectors: Vectors, unparsable: str | None
    ) -> dict[str, Any]:
        client = self.get_conn()
        written = write_vectors(
            client, route, index_name, vectors, unparsable_behavior=unparsable, log=self.log
        )
        receipt = Receipt.of(
            written.mutation, index_name, client.account_id, count=written.vectors, batches=written.requests
        )
        self.log.info("%s", receipt.acceptance("vector"))
        return {**receipt.as_dict(), "discarded": written.discarded}

    def delete_by_ids(
        self, index_name: str, ids: Sequence[str | int] | str, *, concurrency: int = DEFAULT_CONCURRENCY
    ) -> dict[str, Any]:
        """
        Delete vectors by id, in batches of 100; return the receipt, for which a sensor can wait.

        :param index_name: the index.
        :param ids: the ids, any number; see
            :func:`~airflow_provider_cfvectorize.client.inputs.ids.read_ids`.
        :param concurrency: the most requests in flight at once.
        :raises VectorizeInputError: an id is invalid; nothing was sent.
        :raises VectorizeBatchError: the service accepted only a part; the error has the number of
            acknowledged ids.
        """
        checked = read_ids(ids)
        client = self._conn_for(concurrency)
        receipt = delete_ids(client, index_name, checked, concurrency=concurrency, log=self.log)
        self.log.info("%s", receipt.acceptance("id"))
        return receipt.as_dict()

    def delete_by_filter(
        self,
        index_name: str,
        *,
        filter: Mapping[str, Any] | None = None,
        namespace: str | None = None,
        max_ids: int,
        probes: int = DEFAULT_PROBES,
        dry_run: bool = False,
        poll_interval: float = 10,
        wait_timeout: float = 900,
    ) -> dict[str, Any]:
        """
        Delete the vectors that a filter, a namespace or both select, and wait until the deletes are applied.

        The hook searches, deletes the found ids, waits, and repeats until several queries in a row find
        nothing; see :class:`~airflow_provider_cfvectorize.operators.vectors.DeleteVectorsByFilterOperator`.
        Search is approximate, so this does not prove that no vector is left.

        :param index_name: the index.
        :param filter: select vectors with this metadata. Each property needs a metadata index that existed
            before the vectors were written.
        :param namespace: select vectors of this namespace.
        :param max_ids: the most ids to find in all rounds; more are an error.
        :param probes: the number of queries in a row that must find no new id.
        :param dry_run: search once and delete nothing.
        :param poll_interval: seconds between two polls of a wait.
        :param wait_timeout: the longest wait of one round, in seconds.
        :return: the report of the found and deleted ids, with the last ``receipt`` and ``evidence``, or None
            if there is none. The report of a dry run has ``ids``, the first 10.
        :raises VectorizeInputError: filter and namespace select nothing in particular, a property has no
            metadata index, or there are more ids than ``max_ids``.
        :raises VectorizeStillVisibleError: two rounds in a row found only ids whose delete is applied.
        :raises VectorizeBatchError: the service accepted only a part; the error has the number of
            acknowledged ids.
        :raises VectorizeWaitTimeout: a delete was not observed as applied in time.
        """
        check_limits(max_ids=max_ids, probes=probes)
        client = self.get_conn()
        deletion = begin(client, index_name, filter, namespace)
        options: dict[str, Any] = {"probes": probes, "max_ids": max_ids, "log": self.log}
        if dry_run:
            read_sample = partial(take_sample, client, index_name, log=self.log)
            rehearsed = rehearse(client, index_name, deletion, read_sample, **options)
            return {**deletion.report("dry_run", probes), **rehearsed}
        receipt = evidence = None
        delete = partial(delete_ids, client, index_name, log=self.log)
        while (found := run_round(client, index_name, deletion, delete, **options)) is not None:
            receipt = found
            renew = self.get_watching_conn
            with closing(Wait(renew(), index_name, [receipt], self.log, renew=renew)) as wait:
                evidence = wait.until(wait_timeout, interval=poll_interval, stopped=lambda: False)
            report_evidence(evidence, self.log)
            deletion.note_wait(evidence)
        deletion.log_end(probes, self.log)
        return {
            **deletion.report("none_found", probes),
            "receipt": receipt and receipt.as_dict(),
            "evidence": evidence,
        }

    def get_by_ids(
        self,
        index_name: str,
        ids: Sequence[str | int] | str,
        *,
        concurrency: int = DEFAULT_CONCURRENCY,
    ) -> list[Vector]:
        """
        Return the existing vectors with these ids, with values and metadata, in the order of the ids.

        :param index_name: the index.
        :param ids: the ids, any number, 20 per request. Duplicates count once. See
            :func:`~airflow_provider_cfvectorize.client.inputs.ids.read_ids`.
        :param concurrency: the most requests in flight at once.
        """
        checked = read_ids(ids)
        read = iter_vectors(self._conn_for(concurrency), index_name, checked, concurrency=concurrency)
        return [vector for _, vector in read if vector is not None]

    def list_vectors(
        self, index_name: str, *, count: int | None = None, cursor: str | None = None
    ) -> VectorPage:
        """
        Return one page of the ids of an index.

        Parameters: :meth:`~airflow_provider_cfvectorize.client.client.VectorizeClient.list_vectors`.
        """
        return self.get_conn().list_vectors(index_name, count=count, cursor=cursor)

    def iter_ids(
        self, index_name: str, *, prefix: str | None = None, page_size: int = limits.MAX_LIST_COUNT
    ) -> Iterator[str]:
        """
        Iterate over the ids that an index has when the first page is read, one request a page.

        :param index_name: the index.
        :param prefix: return only ids with this prefix. The hook reads all ids, since the service cannot
            select by prefix.
        :param page_size: ids per request, 1 to 1,000.
        :raises VectorizeListingExpired: while iterating: the listing expired before every page was read. To
            repeat it, see :func:`~airflow_provider_cfvectorize.client.bulk.list.repeat_listing`.
        """
        return iter_ids(self.get_conn(), index_name, prefix=prefix, page_size=page_size)

    def query(
        self,
        index_name: str,
        *,
        vector: Sequence[float] | None = None,
        vector_id: str | None = None,
        top_k: int = limits.DEFAULT_TOP_K,
        filter: Mapping[str, Any] | None = None,
        namespace: str | None = None,
        return_values: bool = False,
        return_metadata: ReturnMetadata = "none",
    ) -> QueryResult:
        """
        Return the vectors nearest to a vector, the nearest first.

        Parameters: :meth:`~airflow_provider_cfvectorize.client.client.VectorizeClient.query`.
        """
        return self.get_conn().query(
            index_name,
            vector=vector,
            vector_id=vector_id,
            top_k=top_k,
            filter=filter,
            namespace=namespace,
            return_values=return_values,
            return_metadata=return_metadata,
        )

    # --- metadata indexes -----------------------------------------------------------------------------

    def create_metadata_index(
        self, index_name: str, property_name: str, index_type: IndexType
    ) -> dict[str, Any]:
        """
        Create a metadata index and return the receipt, for which a sensor can wait.

        Queries can then filter by the property, for vectors that are written after it.

        Parameters: :meth:`~airflow_provider_cfvectorize.client.client.VectorizeClient.create_metadata_index`.
        """
        client = self.get_conn()
        mutation = client.create_metadata_index(index_name, property_name, index_type)
        return Receipt.of(mutation, index_name, client.account_id, count=1, batches=1).as_dict()

    def list_metadata_indexes(self, index_name: str) -> list[MetadataIndex]:
        """Return the metadata indexes of an index."""
        return self.get_conn().list_metadata_indexes(index_name)

    def delete_metadata_index(self, index_name: str, property_name: str) -> dict[str, Any]:
        """
        Delete a metadata index and return the receipt, for which a sensor can wait.

        Parameters: :meth:`~airflow_provider_cfvectorize.client.client.VectorizeClient.delete_metadata_index`.
        """
        client = self.get_conn()
        mutation = client.delete_metadata_index(index_name, property_name)
        return Receipt.of(mutation, index_name, client.account_id, count=1, batches=1).as_dict()


def _explain_refusal(client: VectorizeClient, refusal: VectorizeAuthError) -> str:
    """Return what is wrong with a refused token, by the API's own check; a Global API Key has no check."""
    # A user's token and an account's token have different check routes.
    for path in ("user/tokens/verify", f"accounts/{client.account_id}/tokens/verify"):
        try:
            token = client.request("GET", path)
        except VectorizeError:
            continue
        status = token.get("status") if isinstance(token, dict) else None
        if status == "active":
            return (
                "No permission: the API token is valid, but has no permission for Vectorize on account "
                f"{client.account_id}. Give it the permission 'Vectorize: Edit' for this account"
            )
        return f"The API token is {show(status)}: enable it, or create a new one"
    return str(refusal)
