# SPDX-License-Identifier: Apache-2.0
"""
Errors and gaps in Cloudflare's description of the API, with a correction each.

With these corrections, tests can check answers against the description, and a server accepts requests made
from it. A correction names the published value: if the value has changed, review the correction.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.local.server import DEFAULT_ACCOUNT_ID
from spec.openapi import DOCUMENT, ENDPOINTS, INDEXES, NDJSON

#: The name and content of the index that requests use; see ``test_spec_server.py``.
INDEX, DIMENSIONS, VECTOR_ID, PROPERTY = "docs", 32, "a", "k"

#: No published value, or no corrected value.
ABSENT: Final = object()
_SCHEMAS: Final = "/components/schemas"


class Correction(NamedTuple):
    """One change, by JSON pointer."""

    at: str
    published: Any
    corrected: Any
    reason: str


def _pointer(*parts: str) -> str:
    return "".join("/" + part.replace("~", "~0").replace("/", "~1") for part in parts)


def _operation(method: str, action: str) -> str:
    return _pointer("paths", INDEXES + action, method.lower())


def _schema(path: str) -> str:
    return f"{_SCHEMAS}/vectorize_{path}"


def _reference(name: str) -> dict[str, str]:
    return {"$ref": f"#{_SCHEMAS}/vectorize_{name}"}


# --- answers ------------------------------------------------------------------------------------------------


def _answers() -> Iterator[Correction]:
    for endpoint in ENDPOINTS:
        base = _operation(endpoint.method, str(endpoint).partition(" ")[2])
        failure = f"{base}/responses/4XX/content/application~1json/schema"
        yield Correction(
            f"{failure}/allOf/0/allOf/0",
            _reference("api-response-single"),
            {},
            "a refusal must fit the envelope of a success as well, whose success is true: none can",
        )
    yield Correction(
        _operation("POST", "/{index_name}/get_by_ids")
        + "/responses/200/content/application~1json/schema/allOf/0",
        _reference("api-response-single"),
        _reference("api-response-common"),
        "the result is an array, and that envelope has an object or a text",
    )
    yield Correction(
        _schema("api-response-common/properties/result/anyOf/0/nullable"),
        ABSENT,
        True,
        "deleting an index answers null, which its own schema allows and that of all envelopes does not",
    )
    yield Correction(
        _schema("list-metadata-index-response/properties/metadataIndexes/items/properties/indexType/enum"),
        ["string", "number", "boolean"],
        ["String", "Number", "Boolean"],
        "the live service lists them with a capital (output of wrangler, and its documentation)",
    )
    yield Correction(
        _schema("api-response-common-failure/properties/errors/minItems"),
        ABSENT,
        1,
        "it has minLength, which means nothing for an array",
    )
    for at, names in (
        (
            _schema("create-index-response"),
            ["name", "description", "created_on", "modified_on", "config"],
        ),
        (_schema("index-info-response"), ["dimensions", "vectorCount"]),
        (_schema("index-get-vectors-by-id-response/items"), ["id", "values"]),
        (_schema("index-query-v2-response"), ["count", "matches"]),
        (_schema("index-query-v2-response/properties/matches/items"), ["id", "score"]),
        (_schema("list-metadata-index-response"), ["metadataIndexes"]),
        (
            _schema("list-metadata-index-response/properties/metadataIndexes/items"),
            ["propertyName", "indexType"],
        ),
        (_schema("index-insert-v2-response"), ["mutationId"]),
        (_schema("index-upsert-v2-response"), ["mutationId"]),
        (_schema("index-delete-vectors-by-id-v2-response"), ["mutationId"]),
        (_schema("create-metadata-index-response"), ["mutationId"]),
        (_schema("delete-metadata-index-response"), ["mutationId"]),
    ):
        yield Correction(f"{at}/required", ABSENT, names, "every field is optional, so that {} would do")


# --- requests -----------------------------------------------------------------------------------------------

_DELETE_IDS: Final = _schema("index-delete-vectors-by-id-request")
_GET_IDS: Final = _schema("index-get-vectors-by-id-request")
_QUERY: Final = _schema("index-query-v2-request")
_ID: Final = _schema("vector-identifier")
#: Not published: one line of NDJSON.
_LINE: Final = _schema("line")


def _rules() -> Iterator[Correction]:
    """Rules that a schema can express completely: the server accepts exactly the requests that keep them."""
    yield Correction(
        _schema("index-dimensions/minimum"),
        1,
        limits.MIN_DIMENSIONS,
        'the live service says "Dimensions must be in range: [32, 1536]"',
    )
    yield Correction(
        _schema("index-name/maxLength"), ABSENT, limits.MAX_INDEX_NAME_BYTES, "64 bytes (documented)"
    )
    yield Correction(
        f"{_ID}/readOnly",
        True,
        ABSENT,
        "what is readOnly must not be in a request, and requests name vectors by it",
    )
    yield Correction(f"{_ID}/minLength", ABSENT, 1, "an empty id names nothing; see Behaviour.empty_id")
    for at, limit in ((_DELETE_IDS, limits.MAX_DELETE_IDS), (_GET_IDS, limits.MAX_GET_IDS)):
        yield Correction(
            f"{at}/required", ABSENT, ["ids"], "without ids there is nothing to do; see Behaviour.missing_ids"
        )
        yield Correction(
            f"{at}/properties/ids/minItems", ABSENT, 1, "the same as no ids; see Behaviour.empty_ids"
        )
        yield Correction(
            f"{at}/properties/ids/maxItems", ABSENT, limit, f"code 40007: at most {limit} ids a request"
        )
    for name in ("create-metadata-index-request", "delete-metadata-index-request"):
        at = _schema(f"{name}/properties/propertyName")
        yield Correction(
            f"{at}/pattern",
            ABSENT,
            r'^[^.$"|][^."|]*(\.[^.$"|][^."|]*)*$',
            "the documentation of filters says what a key cannot be",
        )
        yield Correction(
            f"{at}/maxLength", ABSENT, limits.MAX_FILTER_KEY_CHARS, "512 characters (documented)"
        )
    for name, schema, reason in (
        ("namespace", {"type": "string", "maxLength": limits.MAX_NAMESPACE_BYTES}, "wrangler sends it"),
        (
            "vectorId",
            {"type": "string", "enum": [VECTOR_ID, None]},
            "wrangler sends it; there is one vector, see Behaviour.unknown_vector_id",
        ),
    ):
        yield Correction(f"{_QUERY}/properties/{name}", ABSENT, schema, reason)
    yield Correction(f"{_QUERY}/required", ["vector"], ABSENT, "there can be a vectorId in place of it")
    yield Correction(
        f"{_QUERY}/oneOf",
        ABSENT,
        [
            {"required": ["vector"]},
            {"required": ["vectorId"], "properties": {"vectorId": {"enum": [VECTOR_ID]}}},
        ],
        "one of both; see Behaviour.vector_and_vector_id",
    )
    for name in ("minItems", "maxItems"):
        yield Correction(
            f"{_QUERY}/properties/vector/{name}",
            ABSENT,
            DIMENSIONS,
            "the dimensions of the index: code 40006",
        )
    yield Correction(f"{_QUERY}/properties/vector/example", [0.5] * 3, ABSENT, "not of that index")
    for name, published, value, reason in (
        ("type", "number", "integer", "there is no half a match"),
        ("minimum", ABSENT, 1, "nor a query for none"),
        ("maximum", ABSENT, limits.MAX_TOP_K, "documented; code 40025"),
    ):
        yield Correction(f"{_QUERY}/properties/topK/{name}", published, value, reason)
    yield Correction(
        f"{_QUERY}/anyOf",
        ABSENT,
        [
            {"properties": {"topK": {"maximum": limits.MAX_TOP_K_WITH_DATA}}},
            {
                "properties": {
                    "returnValues": {"enum": [False, None]},
                    "returnMetadata": {"enum": ["none", "indexed", None]},
                }
            },
        ],
        "half as many with values or all metadata: code 40025",
    )
    for action in ("insert", "upsert"):
        content = _operation("POST", f"/{{index_name}}/{action}") + f"/requestBody/content{_pointer(NDJSON)}"
        yield Correction(
            f"{content}/schema",
            {
                "description": f"ndjson file containing vectors to {action}.",
                "example": "@/path/to/vectors.ndjson",
                "format": "binary",
                "type": "string",
            },
            {"type": "array", "minItems": 1, "items": _reference("line")},
            "nothing is described of what is in it; here an item of an array is a line, see to_ndjson",
        )
    yield Correction(
        _LINE,
        ABSENT,
        {
            "type": "object",
            "required": ["id", "values"],
            "properties": {
                "id": _reference("vector-identifier"),
                "values": {
                    "type": "array",
                    "minItems": DIMENSIONS,
                    "maxItems": DIMENSIONS,
                    "items": {"type": "number"},
                },
                "namespace": {
                    "type": "string",
                    "maxLength": limits.MAX_NAMESPACE_BYTES,
                    "nullable": True,
                },
                "metadata": {"type": "object"},
            },
        },
        "as vectors are described that are read back, and what the documentation says must be there",
    )


def _nulls() -> Iterator[Correction]:
    """Fields for which vectorize-local treats null as absent."""
    yield Correction(
        f"{_QUERY}/properties/returnMetadata/enum",
        ["none", "indexed", "all"],
        ["none", "indexed", "all", None],
        "nullable alone does not let null into an enum",
    )
    for at in (
        _schema("index-description"),
        *(
            f"{_QUERY}/properties/{name}"
            for name in ("filter", "namespace", "returnMetadata", "returnValues", "topK", "vectorId")
        ),
        f"{_LINE}/properties/metadata",
    ):
        yield Correction(
            f"{at}/nullable", ABSENT, True, "vectorize-local accepts null; the service's behaviour is unknown"
        )


_TEXT: Final = {"type": "string", "maxLength": 20}
_NUMBER: Final = {"type": "number", "minimum": -1e300, "maximum": 1e300}
_SCALAR: Final[dict[str, Any]] = {"anyOf": [_TEXT, _NUMBER, {"type": "boolean"}]}
_OPERATORS: Final[dict[str, Any]] = {
    "$eq": _SCALAR,
    "$ne": _SCALAR,
    **{name: {"type": "array", "items": _SCALAR, "maxItems": 3} for name in ("$in", "$nin")},
    **{name: {"anyOf": [_TEXT, _NUMBER]} for name in ("$lt", "$lte", "$gt", "$gte")},
}


def _safe_side() -> Iterator[Correction]:
    """Restrictions for rules that a schema cannot express: requests within them certainly keep the rules."""
    yield Correction(
        f"{_ID}/anyOf",
        ABSENT,
        [{"pattern": "^[ -~]+$"}, {"maxLength": limits.MAX_ID_BYTES // 4}],
        "the 64 are bytes, not characters (documented), and a character has up to four",
    )
    for at in (f"{_QUERY}/properties/namespace", f"{_LINE}/properties/namespace"):
        yield Correction(
            f"{at}/maxLength",
            limits.MAX_NAMESPACE_BYTES,
            limits.MAX_NAMESPACE_BYTES // 4,
            "the 64 are bytes as well",
        )
    for at in (f"{_QUERY}/properties/vector", f"{_LINE}/properties/values"):
        yield Correction(
            f"{at}/items",
            {"type": "number"},
            {"type": "number", "minimum": -3.4e38, "maximum": 3.4e38},
            "numbers of 32 bits (documented), of which a schema knows nothing",
        )
    yield Correction(f"{_LINE}/maxItems", ABSENT, 3, "three show as much as the 5,000 of the limit")
    yield Correction(
        f"{_LINE}/properties/metadata",
        {"type": "object"},
        {
            "type": "object",
            "properties": {
                PROPERTY: _SCALAR,
                "n": {"type": "array", "items": _TEXT, "maxItems": 3},
                "deep": {"type": "object", "properties": {"er": _NUMBER}, "additionalProperties": False},
            },
            "additionalProperties": False,
        },
        "what a key can be, and 10 KiB of compact JSON, no schema of OpenAPI 3.0 can say",
    )
    one_operator = [
        {"type": "object", "properties": {name: schema}, "required": [name], "additionalProperties": False}
        for name, schema in _OPERATORS.items()
    ]
    yield Correction(
        f"{_QUERY}/properties/filter/properties",
        ABSENT,
        {name: {"anyOf": [*_SCALAR["anyOf"], *one_operator]} for name in (PROPERTY, "n", "deep.er")},
        "any object is described; the documentation of filters has the operators and what they take",
    )
    yield Correction(
        f"{_QUERY}/properties/filter/additionalProperties",
        ABSENT,
        False,
        "what a key can be, no schema of OpenAPI 3.0 can say",
    )
    yield Correction(
        f"{_QUERY}/properties/filter/example",
        {"has_viewed": {"$ne": True}, "streaming_platform": "netflix"},
        ABSENT,
        "of other properties than those",
    )
    listing = _operation("GET", "/{index_name}/list")
    text = {"type": "string", "description": "Cursor for pagination to get the next page of results"}
    yield Correction(
        f"{listing}/parameters/3",
        {"in": "query", "name": "cursor", "schema": text},
        ABSENT,
        "it is opaque: good ones are only those that an answer before had in it",
    )


# --- existing names -----------------------------------------------------------------------------------------


def _setting() -> Iterator[Correction]:
    for endpoint in ENDPOINTS:
        base = _operation(endpoint.method, str(endpoint).partition(" ")[2])
        for number, (name, published, value) in enumerate(
            (("account_id", "identifier", DEFAULT_ACCOUNT_ID), ("index_name", "index-name", INDEX))
        ):
            if f"{{{name}}}" in endpoint.path:
                yield Correction(
                    f"{base}/parameters/{number}/schema",
                    _reference(published),
                    {"type": "string", "enum": [value]},
                    "of all that could be, one is there",
                )
    for name, published, value in (
        ("enum", ABSENT, [PROPERTY]),
        ("example", "random_metadata_property", PROPERTY),
    ):
        at = _schema(f"delete-metadata-index-request/properties/propertyName/{name}")
        yield Correction(at, published, value, "of all that could be, one is there")


#: For requests that the server must accept, and for requests that it must refuse.
FOR_GOOD: Final[list[Correction]] = [*_answers(), *_rules(), *_setting(), *_safe_side(), *_nulls()]
FOR_BAD: Final[list[Correction]] = [*_answers(), *_rules(), *_setting(), *_nulls()]


def corrected(corrections: list[Correction]) -> dict[str, Any]:
    """
    Return the corrected description of the current API.

    :param corrections: the corrections.
    """
    document = copy.deepcopy(DOCUMENT)
    for path, methods in list(document["paths"].items()):
        # v1: the description marks it as deprecated, and vectorize-local does not have it.
        if all(operation.get("deprecated") for operation in methods.values()):
            del document["paths"][path]
    for correction in corrections:
        _correct(document, correction)
    return document


def _correct(document: dict[str, Any], correction: Correction) -> None:
    *way, last = (part.replace("~1", "/").replace("~0", "~") for part in correction.at.split("/")[1:])
    place: Any = document
    for part in way:
        place = place[int(part) if isinstance(place, list) else part]
    key: Any = int(last) if isinstance(place, list) else last
    there = place[key] if isinstance(place, list) else place.get(key, ABSENT)
    assert there == correction.published, f"{correction.at}: {there!r} is published"
    if correction.corrected is ABSENT:
        del place[key]
    else:
        place[key] = copy.deepcopy(correction.corrected)
