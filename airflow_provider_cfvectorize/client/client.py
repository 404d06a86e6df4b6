# SPDX-License-Identifier: Apache-2.0
"""A client for the Vectorize v2 API, with one method for each endpoint."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, cast

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.http.credentials import read_credentials
from airflow_provider_cfvectorize.client.http.pacer import PROCESS_GATE, OwnCount, Pacer
from airflow_provider_cfvectorize.client.http.refusals import CredentialHistory
from airflow_provider_cfvectorize.client.http.responses import (
    Answer,
    expect,
    read_index,
    read_matches,
    read_metadata_indexes,
    read_mutation,
    read_page,
    read_vectors,
)
from airflow_provider_cfvectorize.client.http.session import RetryLimits, VectorizeSession
from airflow_provider_cfvectorize.client.http.transport import RequestsTransport
from airflow_provider_cfvectorize.client.http.urls import DEFAULT_BASE_URL, check_base_url
from airflow_provider_cfvectorize.client.inputs.ids import text_of_key
from airflow_provider_cfvectorize.client.inputs.indexes import (
    check_index_type,
    check_property_name,
    index_config,
)
from airflow_provider_cfvectorize.client.inputs.names import (
    check_account_id,
    check_new_index_name,
    check_path_name,
)
from airflow_provider_cfvectorize.client.inputs.queries import query_body
from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.client.inputs.vectors import check_unparsable_behavior, write_ndjson
from airflow_provider_cfvectorize.client.types import (
    Index,
    IndexInfo,
    IndexType,
    MetadataIndex,
    Mutation,
    QueryResult,
    ReturnMetadata,
    Vector,
    VectorPage,
)
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

_METHOD = re.compile(r"[A-Za-z]{1,16}", re.ASCII)
_PATH = re.compile(r"/?[A-Za-z0-9_-]+(/[A-Za-z0-9_-]+)*", re.ASCII)


class VectorizeClient:
    """
    Requests to one account's Vectorize indexes; safe to share between threads.

    Each method sends one request, and retries it where that helps. It raises
    :class:`~airflow_provider_cfvectorize.exceptions.VectorizeInputError` for an invalid name before it sends
    anything, and another error of :mod:`airflow_provider_cfvectorize.exceptions` if the request fails.

    :param account_id: 32 hexadecimal digits.
    :param api_token: an API token. Give this, or ``api_email`` and ``api_key``.
    :param api_email: the e-mail address that belongs to ``api_key``.
    :param api_key: the Global API Key.
    :param base_url: the API's address.
    :param allow_http_hosts: hosts, besides loopback ones, to which plain http is allowed.
    :param timeout: seconds to connect and for each read; a whole response may take three times as long.
    :param rate_reserve: share of the account's request budget that the client leaves to others.
    :param max_connections: the most requests in flight; further threads wait.
    :param user_agent: the ``User-Agent`` header.
    :param retry: the limits of retries; None for a single attempt that never sleeps.
    :param history: the service's responses to the credentials, shared with other clients of the task.
    :param conn_id: the Airflow connection of the client, for errors about the host.
    """

    def __init__(
        self,
        account_id: str,
        *,
        api_token: str | None = None,
        api_email: str | None = None,
        api_key: str | None = None,
        base_url: str = DEFAULT_BASE_URL,
        allow_http_hosts: Collection[str] = (),
        timeout: float = 30.0,
        rate_reserve: float = 0.2,
        max_connections: int = 4,
        user_agent: str = "airflow-provider-cfvectorize",
        retry: RetryLimits | None = RetryLimits(),  # noqa: B008 - frozen
        history: CredentialHistory | None = None,
        conn_id: str | None = None,
    ) -> None:
        self.account_id = check_account_id(account_id)
        self.base_url = check_base_url(base_url, allow_http_hosts=allow_http_hosts)
        self.timeout = timeout
        self.rate_reserve = rate_reserve
        credentials = read_credentials(api_token, api_email, api_key)
        #: Equal for interchangeable clients.
        self.identity = (self.base_url, self.account_id, *credentials.identity)
        if not user_agent.isascii() or not user_agent.isprintable():
            raise VectorizeInputError(f"user_agent {show(user_agent)} cannot be sent in a header")
        transport = RequestsTransport(
            self.base_url, auth_headers=credentials.headers, timeout=timeout, max_connections=max_connections
        )
        # Over plain http there is never Cloudflare, but a private server. The client obeys the budget in its
        # responses, but does not assume Cloudflare's documented limits.
        is_cloudflare = self.base_url.startswith("https:")
        self.session = VectorizeSession(
            transport,
            base_url=self.base_url,
            user_agent=user_agent,
            secrets=[credentials.secret],
            retry=retry,
            pacer=Pacer(
                reserve=rate_reserve,
                concurrency=max_connections,
                own_count=OwnCount() if is_cloudflare else None,
            ),
            gate=PROCESS_GATE if is_cloudflare else None,
            history=history,
            conn_id=conn_id,
        )

    def __repr__(self) -> str:
        return f"VectorizeClient(account_id={self.account_id!r}, base_url={self.base_url!r})"

    def replaces(self, other: VectorizeClient) -> bool:
        """Return whether this client has other credentials than another client of its account and host."""
        return self.identity[:2] == other.identity[:2] and self.identity != other.identity

    def close(self) -> None:
        """Close all connections."""
        self.session.close()

    # --- anything -------------------------------------------------------------------------------------

    def request(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        json: object = None,
        body: bytes | None = None,
        content_type: str | None = None,
        repeatable: bool = True,
    ) -> Any:
        """
        Send any request and return the envelope's ``result``.

        :param method: the HTTP method.
        :param path: the path: below this account's ``vectorize/v2`` (``indexes/my-index/query``), or below
            the API's base if it begins with ``accounts/`` or ``user/``.
        :param params: the query string's parameters.
        :param json: a value to send as JSON.
        :param body: bytes to send unchanged, instead of ``json``.
        :param content_type: the type of ``body``.
        :param repeatable: whether retries may carry out the request twice without harm.
        """
        if not isinstance(method, str) or not _METHOD.fullmatch(method):
            raise VectorizeInputError(
                f"invalid method {show(method)}: expected an HTTP method such as GET or POST"
            )
        if content_type is not None and not (content_type.isascii() and content_type.isprintable()):
            raise VectorizeInputError(f"content_type {show(content_type)} cannot be sent in a header")
        if not isinstance(path, str) or len(path) > 1000 or not _PATH.fullmatch(path):
            raise VectorizeInputError(
                f"invalid path {show(path)}: expected segments of A-Z, a-z, 0-9, '_' and '-', such as "
                "'indexes/my-index/query'; parameters go into params"
            )
        path = path.lstrip("/")
        if path.split("/")[0] not in ("accounts", "user"):
            path = f"accounts/{self.account_id}/vectorize/v2/{path}"
        return self.session.request(
            method.upper(),
            f"/{path}",
            params=params,
            json_body=json,
            body=body,
            content_type=content_type,
            repeatable=repeatable,
        ).result

    # --- indexes --------------------------------------------------------------------------------------

    def list_indexes(self) -> list[Index]:
        """Return all indexes of the account."""
        return cast("list[Index]", expect(self._send("GET", ""), list))

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
        Create an index. Not retried after a timeout, because the service may have created it.

        :param name: its name; see
            :func:`~airflow_provider_cfvectorize.client.inputs.names.check_new_index_name`.
        :param dimensions: values in each vector, 32 to 1536. With ``metric``, instead of ``preset``.
        :param metric: ``cosine``, ``euclidean`` or ``dot-product``.
        :param preset: the name of an embedding model that fixes both.
        :param description: a text.
        """
        config = index_config(dimensions=dimensions, metric=metric, preset=preset)
        body: dict[str, object] = {"name": check_new_index_name(name), "config": config}
        if description is not None:
            body["description"] = description
        return read_index(self._send("POST", "", json_body=body, repeatable=False))

    def get_index(self, index_name: str) -> Index:
        """Return one index."""
        return read_index(self._send("GET", self._at(index_name)))

    def delete_index(self, index_name: str) -> None:
        """Delete an index with all its vectors."""
        self._send("DELETE", self._at(index_name), missing_ok_on_retry=True)

    def info(self, index_name: str) -> IndexInfo:
        """Return the number of vectors and the watermark."""
        return cast("IndexInfo", expect(self.ask_info(index_name), dict))

    def ask_info(self, index_name: str) -> Answer:
        """Return the whole response of :meth:`info`, with the server's clock and the headers."""
        return self._send("GET", self._at(index_name, "info"))

    # --- vectors --------------------------------------------------------------------------------------

    def insert(
        self, index_name: str, vectors: Iterable[Vector] | bytes, *, unparsable_behavior: str | None = None
    ) -> Mutation:
        """Add vectors like :meth:`upsert`, but leave vectors whose id exists unchanged."""
        return self._write(index_name, "insert", vectors, unparsable_behavior)

    def upsert(
        self, index_name: str, vectors: Iterable[Vector] | bytes, *, unparsable_behavior: str | None = None
    ) -> Mutation:
        """
        Add vectors; replace vectors whose id exists as a whole.

        :param index_name: the index.
        :param vectors: at most 5,000 vectors, or NDJSON (one vector a line).
        :param unparsable_behavior: ``error`` or ``discard``: the service's action for a line that it cannot
            parse.
        """
        return self._write(index_name, "upsert", vectors, unparsable_behavior)

    def delete_by_ids(self, index_name: str, ids: Sequence[str]) -> Mutation:
        """
        Delete up to 100 vectors.

        :param index_name: the index.
        :param ids: their ids; the service refuses a request with more than 100.
        """
        return read_mutation(
            self._send("POST", self._at(index_name, "delete_by_ids"), json_body={"ids": _ids(ids)})
        )

    def get_by_ids(self, index_name: str, ids: Sequence[str]) -> list[Vector]:
        """
        Return up to 20 vectors with values and metadata, omitting those that do not exist.

        :param index_name: the index.
        :param ids: their ids; the service refuses a request with more than 20.
        """
        return read_vectors(
            self._send("POST", self._at(index_name, "get_by_ids"), json_body={"ids": _ids(ids)})
        )

    def list_vectors(
        self, index_name: str, *, count: int | None = None, cursor: str | None = None
    ) -> VectorPage:
        """
        Return one page of the ids of an index, from a snapshot made for the first page.

        :param index_name: the index.
        :param count: ids on the page, 1 to 1,000; the service's default is 100.
        :param cursor: ``nextCursor`` of the previous page; None for the first page.
        """
        if count is not None and not 1 <= count <= limits.MAX_LIST_COUNT:
            raise VectorizeInputError(f"count is {count}, expected 1 to {limits.MAX_LIST_COUNT}")
        params = {} if count is None else {"count": str(count)}
        if cursor is not None:
            params["cursor"] = cursor
        return read_page(self._send("GET", self._at(index_name, "list"), params=params))

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
        Return the vectors nearest to a vector, by the index's metric, the nearest first.

        :param index_name: the index.
        :param vector: the values to compare with, as many as the index has dimensions.
        :param vector_id: instead of ``vector``: the id of a vector in the index, to compare with its values.
        :param top_k: the most matches to return: 1 to 100, or to 50 with values or all metadata.
        :param filter: only vectors with such metadata; None or ``{}`` for no filter. See
            :func:`~airflow_provider_cfvectorize.client.inputs.queries.check_filter`. Each property needs a
            metadata index that is older than the vectors.
        :param namespace: only vectors of this namespace.
        :param return_values: return the matches' values; only then are the scores exact.
        :param return_metadata: the metadata to return for each match: ``none``, ``indexed`` or ``all``.
        """
        body = query_body(
            vector=vector,
            vector_id=vector_id,
            top_k=top_k,
            filter=filter,
            namespace=namespace,
            return_values=return_values,
            return_metadata=return_metadata,
        )
        return read_matches(self._send("POST", self._at(index_name, "query"), json_body=body))

    # --- metadata indexes -----------------------------------------------------------------------------

    def create_metadata_index(self, index_name: str, property_name: str, index_type: IndexType) -> Mutation:
        """
        Let queries filter by a property of the metadata, for vectors written from now on.

        An index has at most 10 metadata indexes. The service accepts a request for one that exists.

        :param index_name: the index.
        :param property_name: the property, ``.`` for nested ones.
        :param index_type: ``string`` (its first 64 bytes are indexed), ``number`` or ``boolean``.
        """
        body = {"propertyName": check_property_name(property_name), "indexType": check_index_type(index_type)}
        return read_mutation(
            self._send("POST", self._at(index_name, "metadata_index/create"), json_body=body)
        )

    def list_metadata_indexes(self, index_name: str) -> list[MetadataIndex]:
        """Return the metadata indexes of an index, with their types in lower case, as in the request."""
        return read_metadata_indexes(self._send("GET", self._at(index_name, "metadata_index/list")))

    def delete_metadata_index(self, index_name: str, property_name: str) -> Mutation:
        """
        Delete a metadata index: queries can no longer filter by its property.

        :param index_name: the index.
        :param property_name: the property.
        """
        body = {"propertyName": check_property_name(property_name)}
        return read_mutation(
            self._send("POST", self._at(index_name, "metadata_index/delete"), json_body=body)
        )

    # --- shared ---------------------------------------------------------------------------------------

    def _at(self, index_name: str, route: str = "") -> str:
        return f"/{check_path_name(index_name)}{'/' if route else ''}{route}"

    def _send(self, method: str, path: str, **kwargs: Any) -> Answer:
        return self.session.request(
            method, f"/accounts/{self.account_id}/vectorize/v2/indexes{path}", **kwargs
        )

    def _write(
        self, index_name: str, route: str, vectors: Iterable[Vector] | bytes, unparsable_behavior: str | None
    ) -> Mutation:
        check_unparsable_behavior(unparsable_behavior)
        answer = self._send(
            "POST",
            self._at(index_name, route),
            params=None if unparsable_behavior is None else {"unparsable-behavior": unparsable_behavior},
            body=vectors if isinstance(vectors, bytes) else write_ndjson(vectors),
            content_type="application/x-ndjson",
        )
        return read_mutation(answer)


def _ids(ids: Sequence[str]) -> list[str]:
    # A string is a sequence of strings, and its characters may be ids of other vectors.
    texts = [] if isinstance(ids, str | bytes) else [text_of_key(id_) for id_ in ids]
    if isinstance(ids, str | bytes) or None in texts:
        raise VectorizeInputError(f"ids is {show(ids)}, expected a list of strings or integers")
    return cast("list[str]", texts)
