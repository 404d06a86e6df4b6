# SPDX-License-Identifier: Apache-2.0
"""The answers that say no: every code, text and status that the server refuses with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from airflow_provider_cfvectorize.local.behaviour import Behaviour

#: The code of what only this server says and the service never would (a foreign Host header, a full disk).
LOCAL_CODE: Final = 1999


class ApiError(Exception):
    """
    A request is refused.

    :param status: HTTP status.
    :param code: Cloudflare's numeric code, 1000 or more.
    :param message: The text for people.
    :param chain: Entries of ``error_chain``, as (code, message).
    :param headers: Further response headers.
    """

    def __init__(
        self,
        status: int,
        code: int,
        message: str,
        *,
        chain: tuple[tuple[int, str], ...] = (),
        headers: tuple[tuple[bytes, bytes], ...] = (),
    ) -> None:
        super().__init__(f"{status}/{code} {message}")
        self.status = status
        #: Whether the envelope has the field ``result_info``, which only the one of a query has.
        self.result_info = False
        self.headers = headers
        self.error: dict[str, Any] = {"code": code, "message": message}
        if chain:
            self.error["error_chain"] = [{"code": c, "message": m} for c, m in chain]

    def envelope(self) -> dict[str, Any]:
        """Return the body of the answer."""
        envelope = {"result": None, "success": False, "errors": [self.error], "messages": []}
        if self.result_info:
            envelope["result_info"] = None
        return envelope


class DataFileError(Exception):
    """The file given as ``--data`` cannot be used; the text says why."""


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


# --- the gateway ---------------------------------------------------------------------------------------


def invalid_header(code: int, header: str) -> ApiError:
    """
    Refuse credentials that are not even well formed.

    :param code: 6111, 6102 or 6103.
    :param header: The name of the header.
    """
    return ApiError(
        400, 6003, "Invalid request headers", chain=((code, f"Invalid format for {header} header"),)
    )


def missing_credentials() -> ApiError:
    """Refuse a request without any credentials."""
    return ApiError(400, 9106, "Missing X-Auth-Key, X-Auth-Email or Authorization headers")


def authentication(status: int) -> ApiError:
    """
    Refuse credentials that are unknown, or that may not do this.

    :param status: 401 or 403.
    """
    return ApiError(status, 10000, "Authentication error")


def invalid_token() -> ApiError:
    """Refuse a token at the endpoint that verifies tokens."""
    return ApiError(401, 1000, "Invalid API Token")


def no_route(path: str) -> ApiError:
    """
    Refuse a path that leads nowhere, or to an account that is not served.

    :param path: The path asked for.
    """
    shown = path if len(path) <= 200 else path[:200] + "..."
    return ApiError(404, 7003, f"Could not route to {shown}, perhaps your object identifier is invalid?")


def no_method(method: str, allowed: tuple[str, ...]) -> ApiError:
    """
    Refuse a method that the route does not have.

    :param method: The method asked for.
    :param allowed: The methods it has.
    """
    return ApiError(
        405,
        7001,
        f"Method {method[:20]} not available for that URI.",
        headers=((b"allow", ", ".join(allowed).encode("ascii")),),
    )


def rate_limited(requests: int, seconds: int, retry_after: int, behaviour: Behaviour) -> ApiError:
    """
    Refuse a request of an account that has sent too many.

    :param requests: The requests that a window allows.
    :param seconds: The seconds that a window lasts.
    :param retry_after: Seconds until requests are accepted again.
    :param behaviour: The switches.
    """
    return ApiError(
        429,
        behaviour.rate_limited_code,
        f"More than {requests} requests per {seconds} seconds reached. "
        "Please wait and consider throttling your request speed",
        headers=((b"retry-after", str(retry_after).encode("ascii")),),
    )


def too_many_requests() -> ApiError:
    """Refuse a request by Vectorize's own throttle, which is not the account's budget."""
    return ApiError(400, 40041, "Too Many Requests")


# --- indexes -------------------------------------------------------------------------------------------


def index_not_found(name: str, behaviour: Behaviour) -> ApiError:
    """
    Refuse a name that no index ever had.

    :param name: The name asked for.
    :param behaviour: The switches.
    """
    return ApiError(
        behaviour.not_found_status, 3000, f'vectorize.index.not_found - Index name "{name[:200]}"'
    )


def index_deleted(name: str, behaviour: Behaviour) -> ApiError:
    """
    Refuse the name of an index that was deleted.

    :param name: The name asked for.
    :param behaviour: The switches.
    """
    return ApiError(behaviour.deleted_status, 3005, f'vectorize.index.deleted - Index name "{name}"')


def duplicate_name(name: str) -> ApiError:
    """
    Refuse to create an index whose name is taken.

    :param name: The name asked for.
    """
    return ApiError(400, 3002, f'vectorize.index.duplicate_name - Index name "{name}"')


def invalid_name(behaviour: Behaviour) -> ApiError:
    """
    Refuse to create an index under a name that is not one.

    :param behaviour: The switches.
    """
    return ApiError(
        400,
        behaviour.invalid_name_code,
        "vectorize.index.invalid_name - Name must match ^([a-z]+[a-z0-9_-]*[a-z0-9]+)$ "
        "and be at most 64 bytes",
    )


def invalid_config(detail: str, behaviour: Behaviour) -> ApiError:
    """
    Refuse to create an index with such a configuration.

    :param detail: What is wrong with it.
    :param behaviour: The switches.
    """
    return ApiError(400, behaviour.invalid_config_code, f"vectorize.index.invalid_config - {detail}")


# --- bodies --------------------------------------------------------------------------------------------


def expected_json() -> ApiError:
    """Refuse a body of another content type on a route that takes JSON."""
    return ApiError(400, 40026, "Expected request with `Content-Type: application/json`")


def not_json(detail: str) -> ApiError:
    """
    Refuse a body that is not JSON, or not JSON of the right shape.

    :param detail: Where, and what was expected.
    """
    return ApiError(400, 40026, f"Failed to parse the request body as JSON: {detail}")


def unknown_content_type() -> ApiError:
    """Refuse an insert or upsert that is neither NDJSON nor a form."""
    return ApiError(400, 1005, "vectorize.unknown_content_type")


def not_ndjson(operation: str, line: int | None) -> ApiError:
    """
    Refuse NDJSON with a line that is not a vector.

    :param operation: ``insert`` or ``upsert``.
    :param line: The line, counted from 0; None if there is not one line.
    """
    shown = "None" if line is None else f"Some({line})"
    return ApiError(
        400,
        40023,
        f"vectorize.upstream_error - failed to parse {operation} vectors request in ndjson format: "
        f"line {shown} was not expected format",
    )


def oversized_upload(limit: int, behaviour: Behaviour) -> ApiError:
    """
    Refuse a body that is too large.

    :param limit: The bytes that are allowed.
    :param behaviour: The switches.
    """
    return ApiError(
        behaviour.oversized_upload_status,
        behaviour.oversized_upload_code,
        f"request body too large; max is {limit} bytes",
    )


# --- ids and vectors -----------------------------------------------------------------------------------


def too_many_ids(limit: int, got: int) -> ApiError:
    """
    Refuse more ids than a request may have.

    :param limit: The ids that are allowed.
    :param got: The ids that were sent.
    """
    return ApiError(400, 40007, f"too many ids in payload; max id count is {limit}, got {got}")


def id_too_long(limit: int, got: int) -> ApiError:
    """
    Refuse an id that is too long.

    :param limit: The bytes that are allowed.
    :param got: The bytes of the id.
    """
    return ApiError(400, 40008, f"id too long; max is {limit} bytes, got {got} bytes")


def wrong_dimensions(vector_id: str, expected: int, got: int) -> ApiError:
    """
    Refuse a vector of other dimensions than the index's.

    :param vector_id: The vector's id.
    :param expected: The dimensions of the index.
    :param got: The dimensions of the vector.
    """
    return ApiError(
        400,
        40012,
        f'invalid vector for id="{vector_id}", expected {expected} dimensions, and got {got} dimensions',
    )


def oversized_metadata(vector_id: str, limit: int, got: int) -> ApiError:
    """
    Refuse metadata that is too large.

    :param vector_id: The vector's id.
    :param limit: The bytes that are allowed.
    :param got: The bytes of the metadata as compact JSON.
    """
    return ApiError(
        400,
        40016,
        f'oversized metadata for vector id="{vector_id}"; the compact JSON representation of the metadata '
        f"must not exceed {limit} bytes, got {got} bytes",
    )


# --- queries and metadata indexes ----------------------------------------------------------------------


def wrong_query_dimensions(expected: int, got: int) -> ApiError:
    """
    Refuse a query vector of other dimensions than the index's.

    :param expected: The dimensions of the index.
    :param got: The dimensions of the vector.
    """
    return ApiError(
        400, 40006, f"invalid query vector, expected {expected} dimensions, and got {got} dimensions"
    )


def top_k_too_large(with_data: bool, limit: int, limit_without: int, got: int) -> ApiError:
    """
    Refuse a query for too many matches.

    :param with_data: Whether it asks for values or all metadata.
    :param limit: The matches that are allowed.
    :param limit_without: The matches that are allowed without values and with indexed metadata at most.
    :param got: The matches asked for.
    """
    if with_data:
        text = (
            f"with returnValues=true or returnMetadata=all, max top K is {limit}, but got {got}; "
            f"for a top K up to {limit_without}, retry with returnValues=false and returnMetadata=indexed"
        )
    else:
        text = f"max top K is {limit}, but got {got}"
    return ApiError(400, 40025, text)


def invalid_filter(detail: str, behaviour: Behaviour) -> ApiError:
    """
    Refuse a filter that breaks the rules.

    :param detail: Which one.
    :param behaviour: The switches.
    """
    return ApiError(400, behaviour.invalid_filter_code, f"invalid filter: {detail}")


def too_many_metadata_indexes(limit: int, behaviour: Behaviour) -> ApiError:
    """
    Refuse one metadata index more than an index may have.

    :param limit: The metadata indexes that are allowed.
    :param behaviour: The switches.
    """
    return ApiError(
        400, behaviour.too_many_metadata_indexes_code, f"too many metadata indexes; max is {limit}"
    )


def metadata_index_not_found(name: str, behaviour: Behaviour) -> ApiError:
    """
    Refuse to delete a metadata index that is not there.

    :param name: The property.
    :param behaviour: The switches.
    """
    return ApiError(
        behaviour.metadata_index_not_found_status, 40005, f'no metadata index for property "{name[:200]}"'
    )


def unknown_vector_id(vector_id: str, behaviour: Behaviour) -> ApiError:
    """
    Refuse a query by a vector that is not there.

    :param vector_id: Its id.
    :param behaviour: The switches.
    """
    return ApiError(400, behaviour.unknown_vector_id_code, f'no vector with id="{vector_id}"')
