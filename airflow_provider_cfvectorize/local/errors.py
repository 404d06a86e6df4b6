# SPDX-License-Identifier: Apache-2.0
"""The error responses of the local server: every status, code and text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow_provider_cfvectorize.local.behaviour import Behaviour

#: The code of errors that only this server has (an unexpected Host header, a full disk).
LOCAL_CODE: Final = 1999


class ApiError(Exception):
    """
    An error response to a request.

    :param status: HTTP status, or the name of the switch of ``Behaviour`` that holds it.
    :param code: Cloudflare's numeric code, 1000 or more, or the name of the switch that holds it.
    :param chain: Entries of ``error_chain``, as (code, message).
    """

    def __init__(
        self,
        status: int | str,
        code: int | str,
        message: str,
        *,
        chain: tuple[tuple[int, str], ...] = (),
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(f"{status}/{code} {message}")
        self._status = status
        self._code = code
        self._message = message
        self._chain = [{"code": c, "message": m} for c, m in chain]
        #: Whether the envelope has the field ``result_info``; only a query's envelope does.
        self.result_info = False
        self.headers = headers

    def response(self, behaviour: Behaviour) -> tuple[int, dict[str, Any]]:
        """Return the HTTP status and the envelope of the response."""
        status, code = (
            value if isinstance(value, int) else getattr(behaviour, value)
            for value in (self._status, self._code)
        )
        error: dict[str, Any] = {"code": code, "message": self._message}
        if self._chain:
            error["error_chain"] = self._chain
        envelope = {"result": None, "success": False, "errors": [error], "messages": []}
        if self.result_info:
            envelope["result_info"] = None
        return status, envelope


class DataFileError(Exception):
    """The file given as ``--data`` cannot be used or written; the text says why."""


class MissingExtraError(ImportError):
    """
    A package of the extra ``local`` is not installed.

    :param name: The package.
    """

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} is missing: pip install 'airflow-provider-cfvectorize[local]'",
            name=name,
        )


#: Every refusal: HTTP status, code and text. A string in place of a number is the name of a switch of
#: ``Behaviour``.
REFUSALS: Final[Mapping[str, tuple[int | str, int | str, str]]] = {
    # Cloudflare's API gateway.
    "invalid_header": (400, 6003, "Invalid request headers"),
    "missing_credentials": (400, 9106, "Missing X-Auth-Key, X-Auth-Email or Authorization headers"),
    "unknown_credentials": ("wrong_token_status", 10000, "Authentication error"),
    "missing_permission": ("missing_permission_status", 10000, "Authentication error"),
    "invalid_token": (401, 1000, "Invalid API Token"),
    "no_route": (404, 7003, "Could not route to {path:.200}, perhaps your object identifier is invalid?"),
    "no_method": (405, 7001, "Method {method:.20} not available for that URI."),
    "rate_limited": (
        429,
        "rate_limited_code",
        "More than {requests} requests per {seconds} seconds reached. "
        "Please wait and consider throttling your request speed",
    ),
    # Vectorize's own throttle, separate from the account's budget.
    "too_many_requests": (400, 40041, "Too Many Requests"),
    # Indexes.
    "index_not_found": ("not_found_status", 3000, 'vectorize.index.not_found - Index name "{name:.200}"'),
    "index_deleted": ("deleted_status", 3005, 'vectorize.index.deleted - Index name "{name}"'),
    "duplicate_name": (400, 3002, 'vectorize.index.duplicate_name - Index name "{name}"'),
    "invalid_name": (
        400,
        "unpublished_code",
        "vectorize.index.invalid_name - Name must match ^([a-z]+[a-z0-9_-]*[a-z0-9]+)$ "
        "and be at most 64 bytes",
    ),
    "invalid_config": (400, "invalid_config_code", "vectorize.index.invalid_config - {detail}"),
    # Bodies and parameters.
    "expected_json": (400, 40026, "Expected request with `Content-Type: application/json`"),
    "not_json": (400, 40026, "Failed to parse the request body as JSON: {detail}"),
    "unknown_content_type": (400, 1005, "vectorize.unknown_content_type"),
    "not_ndjson": (
        400,
        40023,
        "vectorize.upstream_error - failed to parse {operation} vectors request in ndjson format: "
        "line {line} was not expected format",
    ),
    "oversized_upload": (
        "oversized_upload_status",
        "unpublished_code",
        "request body too large; max is {limit} bytes",
    ),
    "invalid_parameter": (400, "unpublished_code", "unparsable-behavior must be one of: error, discard"),
    "invalid_list_count": (400, "unpublished_code", "count must be a number from 1 to {limit}"),
    "invalid_cursor": (400, "unpublished_code", "invalid or expired cursor"),
    # Ids and vectors.
    "missing_ids": (400, "unpublished_code", "missing field `ids`"),
    "empty_ids": (400, "unpublished_code", "no ids in payload"),
    "empty_id": (400, "unpublished_code", "id must not be empty"),
    "too_many_ids": (400, 40007, "too many ids in payload; max id count is {limit}, got {got}"),
    "id_too_long": (400, 40008, "id too long; max is {limit} bytes, got {got} bytes"),
    "too_many_vectors": (
        400,
        "unpublished_code",
        "too many vectors in payload; max vector count is {limit}, got {got}",
    ),
    "wrong_dimensions": (
        400,
        40012,
        'invalid vector for id="{id}", expected {expected} dimensions, and got {got} dimensions',
    ),
    "namespace_too_long": (
        400,
        "unpublished_code",
        "namespace too long; max is {limit} bytes, got {got} bytes",
    ),
    "oversized_metadata": (
        400,
        40016,
        'oversized metadata for vector id="{id}"; the compact JSON representation of the metadata '
        "must not exceed {limit} bytes, got {got} bytes",
    ),
    "invalid_metadata_key": (
        400,
        "unpublished_code",
        'invalid metadata key for vector id="{id}"; keys must not be empty, contain . or ", or start with $',
    ),
    # Queries and metadata indexes.
    "wrong_query_dimensions": (
        400,
        40006,
        "invalid query vector, expected {expected} dimensions, and got {got} dimensions",
    ),
    "vector_and_vector_id": (400, "unpublished_code", "expected one of vector and vectorId, got both"),
    "unknown_vector_id": (400, "unpublished_code", 'no vector with id="{id}"'),
    "top_k_too_small": (400, "unpublished_code", "top K must be at least 1"),
    "top_k_too_large": (400, 40025, "max top K is {limit}, but got {got}"),
    "top_k_too_large_with_data": (
        400,
        40025,
        "with returnValues=true or returnMetadata=all, max top K is {limit}, but got {got}; "
        "for a top K up to {limit_without}, retry with returnValues=false and returnMetadata=indexed",
    ),
    "invalid_filter": (400, "unpublished_code", "invalid filter: {detail}"),
    "invalid_property_name": (400, "unpublished_code", "invalid property name; it {problem}"),
    "too_many_metadata_indexes": (400, "unpublished_code", "too many metadata indexes; max is {limit}"),
    "metadata_index_not_found": (
        "metadata_index_not_found_status",
        40005,
        'no metadata index for property "{name:.200}"',
    ),
}


def refusal(
    kind: str,
    *,
    chain: tuple[tuple[int, str], ...] = (),
    headers: tuple[tuple[bytes, bytes], ...] = (),
    **details: object,
) -> ApiError:
    """
    Return the error that refuses a request.

    :param kind: A key of :data:`REFUSALS`.
    :param chain: See :class:`ApiError`.
    :param headers: See :class:`ApiError`.
    :param details: Values for the fields in braces in the text.
    """
    status, code, text = REFUSALS[kind]
    return ApiError(status, code, text.format(**details), chain=chain, headers=headers)


def rate_limited(requests: int, seconds: int, retry_after: int) -> ApiError:
    """
    Return the error for an account that has sent too many requests.

    :param retry_after: Seconds until requests are accepted again.
    """
    wait = str(retry_after).encode("ascii")
    return refusal("rate_limited", requests=requests, seconds=seconds, headers=((b"retry-after", wait),))
