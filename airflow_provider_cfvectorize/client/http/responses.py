# SPDX-License-Identifier: Apache-2.0
"""The meaning of a response: a result of a checked shape, or a typed error. All functions are pure."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Final, cast

from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.client.types import (
    Index,
    IndexConfig,
    MetadataIndex,
    Mutation,
    QueryMatch,
    QueryResult,
    Vector,
    VectorPage,
    is_mutation_id,
)
from airflow_provider_cfvectorize.exceptions import (
    VectorizeAuthError,
    VectorizeNotFoundError,
    VectorizeResponseError,
    VectorizeThrottledError,
)

#: Vectorize's own write throttle, also with HTTP 400 (observed).
THROTTLE_CODE: Final = 40041
#: "Authentication error", "Invalid request headers", "Invalid access token" (observed), and the
#: gateway's "Missing X-Auth-Key, X-Auth-Email or Authorization headers".
AUTH_CODES: Final = frozenset({10000, 6003, 9109, 9106})
#: Unknown index, deleted index, no such route (observed).
INDEX_NOT_FOUND_CODE: Final = 3000
INDEX_DELETED_CODE: Final = 3005
NO_ROUTE_CODE: Final = 7003
#: An index of that name exists; there is no metadata index of that property (observed).
INDEX_EXISTS_CODE: Final = 3002
METADATA_INDEX_NOT_FOUND_CODE: Final = 40005
NOT_FOUND_CODES: Final = frozenset({INDEX_NOT_FOUND_CODE, INDEX_DELETED_CODE, NO_ROUTE_CODE})

#: The remedy of an error, by its code.
_ADVICE: Final[Mapping[int, str]] = {
    INDEX_NOT_FOUND_CODE: "Check index_name and the account id, or create the index first",
    INDEX_DELETED_CODE: "The index was deleted: create it again, or check index_name",
    NO_ROUTE_CODE: "Check the account id and the connection's host",
    INDEX_EXISTS_CODE: "An index of that name already exists",
    METADATA_INDEX_NOT_FOUND_CODE: "list_metadata_indexes lists those that exist. A retry also ends like "
    "this if an earlier attempt deleted it and the response was lost",
    40006: "A query's vector needs as many values as the index has dimensions: use the embedding model that "
    "filled the index",
    40007: "Send fewer ids in one request",
    40008: "An id has at most 64 bytes of UTF-8: use a digest of a longer id",
    40012: "Every vector needs as many values as the index has dimensions (see get_index). Nothing of this "
    "request was written",
    40016: "Store large values elsewhere, and a reference in the metadata. Nothing of this request was "
    "written",
    40023: "NDJSON is one JSON object a line, UTF-8: id a string, values an array of finite numbers. Nothing "
    "of this request was written",
    40025: "Request at most 50 matches, or neither values nor all metadata",
    1005: "Send NDJSON as application/x-ndjson",
}
_AUTH_ADVICE: Final = (
    "Check, in this order: the API token in the connection's password is complete and not expired; it has "
    "the permission 'Vectorize: Edit'; it is for this account. (With api_email set, the password is the "
    "Global API Key)"
)
_PAGE_ADVICE: Final = (
    "This says nothing about the API token: a proxy, a firewall or a challenge for browsers responded "
    "instead of the API. Check the connection's host, and the path to it from this worker"
)
#: A sentence for the errors about the budget.
BUDGET_IS_SHARED: Final = "All programs of the account's owner share the budget"
#: A number from here on is not an error code.
_MOST_CODE: Final = 10**9


@dataclass(frozen=True, slots=True)
class RawResponse:
    """
    A response that is not interpreted yet.

    :param headers: a mapping that ignores case.
    :param body: the whole body, decoded from its content encoding.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """
    The content of a successful response.

    :param result: the envelope's ``result``.
    :param date: the server's time in whole seconds, from the ``Date`` header; None without it.
    """

    result: Any
    date: datetime | None
    headers: Mapping[str, str]


def is_server_fault(error: BaseException) -> bool:
    """Return whether an error is a response about the server, not about the request: 408, 5xx."""
    return isinstance(error, VectorizeResponseError) and (
        error.status == 408 or (error.status is not None and error.status >= 500)
    )


def read_date(headers: Mapping[str, str]) -> datetime | None:
    """Return the ``Date`` header as an aware time; None if it is missing or invalid."""
    return _read_http_date(headers.get("Date", ""))


def _read_http_date(text: str) -> datetime | None:
    try:
        parsed = parsedate_to_datetime(text)
        return parsed.astimezone(UTC) if parsed.tzinfo else parsed.replace(tzinfo=UTC)
    except (ValueError, TypeError, OverflowError):
        return None


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds of ``Retry-After``, a number or a date; None if it is missing or invalid."""
    value = headers.get("Retry-After", "").strip()
    if re.fullmatch(r"\d{1,9}(\.\d{1,9})?", value, re.ASCII):
        return float(value)
    until = _read_http_date(value)
    if until is None:
        return None
    return max(0.0, (until - (read_date(headers) or datetime.now(UTC))).total_seconds())


def read_answer(raw: RawResponse, *, what: str, secrets: Collection[str] = ()) -> Answer:
    """
    Interpret a response.

    :param what: method and path of the request, for errors.
    :param secrets: texts that no error may show.
    :raises VectorizeThrottledError: the account's request budget is used up.
    :raises VectorizeAuthError: the API refuses the credentials.
    :raises VectorizeNotFoundError: the index or account does not exist.
    :raises VectorizeResponseError: any other refusal, and any response that is not the API's, such as a page
        with HTTP 403.
    """

    def shown(text: object) -> str:
        return show(masked(text if isinstance(text, str) else "", secrets), 200)

    if 300 <= raw.status < 400:
        raise VectorizeResponseError(
            f"{what}: HTTP {raw.status}, a redirect to {shown(raw.headers.get('Location', ''))}, which is "
            "not followed because it would carry the credentials elsewhere. Put the API's final address into "
            "the connection's host",
            status=raw.status,
        )
    envelope = _parse(raw.body)
    errors = envelope.get("errors") if envelope is not None else None
    first = errors[0] if isinstance(errors, list) and errors and isinstance(errors[0], dict) else {}
    code = first.get("code")
    code = code if isinstance(code, int) and not isinstance(code, bool) and 0 <= code < _MOST_CODE else None
    succeeded = envelope is not None and envelope.get("success") is True and 200 <= raw.status < 300
    if envelope is not None and succeeded:
        return Answer(envelope.get("result"), read_date(raw.headers), raw.headers)
    if raw.status == 429 or code == THROTTLE_CODE:
        retry_after = read_retry_after(raw.headers)
        until = "" if retry_after is None else f"; retry after {retry_after:g} s"
        raise VectorizeThrottledError(
            f"{what}: HTTP {raw.status}, code {code}: the account's request budget is used up{until}. "
            f"{BUDGET_IS_SHARED}",
            status=raw.status,
            code=code,
            retry_after=retry_after,
        )
    if envelope is None or not isinstance(envelope.get("success"), bool):
        advice = f". {_PAGE_ADVICE}" if raw.status in (401, 403) else ""
        raise VectorizeResponseError(
            f"{what}: HTTP {raw.status} with a body that is not the API's JSON: "
            # Decode the whole body: a secret that is cut in half would not be masked.
            f"{shown(raw.body.decode('utf-8', 'replace'))}{advice}",
            status=raw.status,
        )
    said = f"{what}: HTTP {raw.status}, code {code}: {shown(first.get('message'))}"
    if raw.status in (401, 403) or code in AUTH_CODES:
        raise VectorizeAuthError(f"{said}. {_AUTH_ADVICE}", status=raw.status, code=code)
    advice = f". {_ADVICE[code]}" if code is not None and code in _ADVICE else ""
    if code in NOT_FOUND_CODES or raw.status in (404, 410):
        raise VectorizeNotFoundError(f"{said}{advice}", status=raw.status, code=code)
    if 200 <= raw.status < 300:
        said = f"{said} (success: false)"
    raise VectorizeResponseError(f"{said}{advice}", status=raw.status, code=code)


def masked(text: str, secrets: Collection[str]) -> str:
    """Return a text with every secret in it replaced."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return text


def _parse(body: bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None


# --- the shape of a result: any other shape is a VectorizeResponseError ------------------------------------


def expect(answer: Answer, kind: type) -> Any:
    """
    Return a result of the expected type.

    :param kind: ``dict`` or ``list``.
    """
    if not isinstance(answer.result, kind):
        # The result itself is not shown: it may have a copy of the credentials.
        expected = "an array" if kind is list else "an object"
        raise VectorizeResponseError(
            f"the service's result is of type {type(answer.result).__name__}, expected {expected}",
            status=200,
        )
    return answer.result


def known_fields(item: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """
    Return the fields of an item that its type declares.

    Airflow's database saves an operator's result, for everybody who may see the task. A server may add
    fields, such as a copy of the request with its credentials, which must not get there.

    :param kind: a typed dictionary of :mod:`~airflow_provider_cfvectorize.client.types`.
    """
    return {name: item[name] for name in kind.__annotations__ if name in item}


def read_index(answer: Answer) -> Index:
    """Return an index."""
    index = known_fields(expect(answer, dict), Index)
    if isinstance(index.get("config"), Mapping):
        index["config"] = known_fields(index["config"], IndexConfig)
    return cast(Index, index)


def read_vectors(answer: Answer) -> list[Vector]:
    """Return vectors, each with an id."""
    # The vectors that are read back decide whether a delete is applied.
    vectors = _expect_texts(expect(answer, list), ["id"], "vectors with an id")
    return cast("list[Vector]", [known_fields(vector, Vector) for vector in vectors])


def read_page(answer: Answer) -> VectorPage:
    """Return a page of ids."""
    page = known_fields(expect(answer, dict), VectorPage)
    vectors = _expect_texts(page.get("vectors"), ["id"], "vectors with an id")
    return cast(VectorPage, {**page, "vectors": [{"id": vector["id"]} for vector in vectors]})


def read_mutation(answer: Answer) -> Mutation:
    """Return the acknowledged mutation."""
    mutation_id = expect(answer, dict).get("mutationId")
    if not is_mutation_id(mutation_id):
        # The schema makes it optional, but nothing can wait for a write without it.
        raise VectorizeResponseError(
            "the service acknowledged a write without a mutationId, so it is unknown when the write is "
            "applied. Send it again: repeating a write by id is harmless",
            status=200,
        )
    accepted_at = answer.date or datetime.now(UTC).replace(microsecond=0)
    return {"mutationId": mutation_id, "accepted_at": accepted_at.isoformat().replace("+00:00", "Z")}


def read_matches(answer: Answer) -> QueryResult:
    """Return the matches of a query."""
    result = expect(answer, dict)
    matches = _expect_texts(result.get("matches"), ["id"], "matches with an id")
    if not all(isinstance(match.get("score"), int | float) for match in matches):
        raise VectorizeResponseError("the service's result has a match without a score", status=200)
    found = [known_fields(match, QueryMatch) for match in matches]
    return cast(QueryResult, {"count": result.get("count", len(matches)), "matches": found})


def read_metadata_indexes(answer: Answer) -> list[MetadataIndex]:
    """Return metadata indexes, their types in lower case."""
    names = ["propertyName", "indexType"]
    indexes = _expect_texts(expect(answer, dict).get("metadataIndexes"), names, "metadata indexes")
    # The service accepts "string" and lists it as "String" (seen in real output).
    return [{"propertyName": one["propertyName"], "indexType": one["indexType"].lower()} for one in indexes]


def _expect_texts(items: Any, names: list[str], what: str) -> list[dict[str, Any]]:
    if not isinstance(items, list) or not all(
        isinstance(item, dict) and all(isinstance(item.get(name), str) for name in names) for item in items
    ):
        raise VectorizeResponseError(f"the service's result is invalid, expected {what}", status=200)
    return items
