# SPDX-License-Identifier: Apache-2.0
"""Cloudflare's description of the API, and a check of sent requests against it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from email.message import Message
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

import jsonschema

DOCUMENT: dict[str, Any] = json.loads((Path(__file__).parent / "openapi-vectorize.json").read_text())
INDEXES = "/accounts/{account_id}/vectorize/v2/indexes"
JSON, NDJSON = "application/json", "application/x-ndjson"
BASE_PATH = urlsplit(DOCUMENT["servers"][0]["url"]).path


class Endpoint(NamedTuple):
    """A method and a path template."""

    method: str
    path: str

    def __str__(self) -> str:
        return f"{self.method} {self.path.removeprefix(INDEXES)}"

    @property
    def operation(self) -> dict[str, Any]:
        """The description of this endpoint."""
        found: dict[str, Any] = DOCUMENT["paths"][self.path][self.method.lower()]
        return found


#: The endpoints of the current API; the other paths belong to v1.
ENDPOINTS = [
    Endpoint(method.upper(), path)
    for path, methods in DOCUMENT["paths"].items()
    if path.startswith(INDEXES)
    for method in methods
]

#: One line of NDJSON. The description only calls the body of an insert or upsert binary. This is its schema
#: of a vector in a response, with the fields that the documentation requires.
VECTOR: dict[str, Any] = {
    "allOf": [
        {"$ref": "#/components/schemas/vectorize_index-get-vectors-by-id-response/items"},
        {"required": ["id", "values"]},
    ]
}


@dataclass(frozen=True, order=True)
class Finding:
    """A part of a request that the description does not allow."""

    endpoint: str
    where: str
    problem: str


def findings(method: str, target: str, headers: Message | Mapping[str, str], body: bytes) -> list[Finding]:
    """
    Check a request against the description; undescribed parts are not allowed.

    :param method: the method.
    :param target: the sent path and query.
    :param headers: the headers.
    :param body: the body.
    """
    parts = urlsplit(target)
    matched = _match(method, parts.path)
    if matched is None:
        return [Finding("", "path", f"{method} {parts.path} is no endpoint of v2")]
    endpoint, names = matched
    found = [
        *_parameters(endpoint, "path", list(names.items())),
        *_parameters(
            endpoint,
            "query",
            parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query)),
        ),
        *_credentials(endpoint, headers),
        *_body(endpoint, headers.get("Content-Type"), body),
    ]
    return [Finding(str(endpoint), where, problem) for where, problem in found]


def endpoint_of(method: str, target: str) -> Endpoint:
    """
    Return the endpoint of a request.

    :param method: the method.
    :param target: the sent path and query.
    """
    matched = _match(method, urlsplit(target).path)
    assert matched is not None, (method, target)
    return matched[0]


def _match(method: str, path: str) -> tuple[Endpoint, dict[str, str]] | None:
    for endpoint in ENDPOINTS:
        pattern = re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(BASE_PATH + endpoint.path))
        if endpoint.method == method and (match := re.fullmatch(pattern, path)):
            return endpoint, {
                name: unquote(value, errors="strict") for name, value in match.groupdict().items()
            }
    return None


def _parameters(endpoint: Endpoint, where: str, sent: list[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    declared = {p["name"]: p for p in endpoint.operation["parameters"] if p["in"] == where}
    names = [name for name, _ in sent]
    for name in declared:
        if declared[name].get("required") and name not in names:
            yield where, f"missing {name}"
    for name, text in sent:
        if name not in declared:
            yield where, f"undeclared {name}"
            continue
        if names.count(name) > 1:
            yield where, f"{name} is there more than once"
        schema = declared[name]["schema"]
        is_integer = schema.get("type") == "integer" and re.fullmatch("-?[0-9]+", text)
        value = int(text) if is_integer else text
        yield from ((f"{where} {name}", problem) for problem in _problems(schema, value))


def _credentials(endpoint: Endpoint, headers: Message | Mapping[str, str]) -> Iterator[tuple[str, str]]:
    def is_there(scheme: dict[str, str]) -> bool:
        if scheme["type"] == "apiKey":
            return scheme["in"] == "header" and bool(headers.get(scheme["name"]))
        value = headers.get("Authorization") or ""
        return value.partition(" ")[0].lower() == scheme["scheme"] and bool(value.partition(" ")[2])

    sent = {name for name, scheme in DOCUMENT["components"]["securitySchemes"].items() if is_there(scheme)}
    # All headers of one alternative, and none of another.
    if sent not in [set(alternative) for alternative in endpoint.operation["security"]]:
        yield "headers", f"credentials {sorted(sent)}"


def _body(endpoint: Endpoint, content_type: str | None, body: bytes) -> Iterator[tuple[str, str]]:
    described = endpoint.operation.get("requestBody")
    if described is None:
        if body or content_type is not None:
            yield "body", f"{len(body)} bytes of {content_type}, and none are described"
        return
    assert described["required"]
    if content_type not in described["content"]:
        yield "headers", f"Content-Type {content_type}"
        return
    schema = described["content"][content_type]["schema"]
    if content_type == JSON:
        yield from (("body", problem) for problem in _problems(schema, _parse(body)))
        return
    assert (schema["type"], schema["format"]) == ("string", "binary")
    for number, line in enumerate(body.removesuffix(b"\n").split(b"\n")):
        yield from ((f"line {number}", problem) for problem in _problems(VECTOR, _parse(line)))


def _parse(text: bytes) -> Any:
    """Parse strict JSON: UTF-8, without NaN or duplicate keys."""

    def no_constant(name: str) -> None:
        raise ValueError(f"{name} is not JSON")

    def no_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError(f"a key twice in {pairs}")
        return found

    return json.loads(text.decode(), parse_constant=no_constant, object_pairs_hook=no_repetition)


# --- schemas ------------------------------------------------------------------------------------------------


def _problems(schema: dict[str, Any], value: Any) -> Iterator[str]:
    for error in _validator(json.dumps(schema)).iter_errors(value):
        at = "".join(f"{part}." for part in error.absolute_path)
        if error.validator == "additionalProperties":
            for name in sorted(set(error.instance) - set(error.schema["properties"])):
                yield f"undeclared {at}{name}"
        elif error.validator == "required":
            yield from (f"missing {at}{name}" for name in error.validator_value if name not in error.instance)
        else:
            yield f"{at or 'all'}: {error.message[:200]}"


@cache
def _validator(schema: str) -> jsonschema.Draft4Validator:
    # OpenAPI 3.0 uses a draft of JSON Schema before 5; 4 is the one with its own name.
    components = {"schemas": _closed(DOCUMENT["components"]["schemas"])}
    return jsonschema.Draft4Validator({"allOf": [_closed(json.loads(schema))], "components": components})


def _closed(schema: Any) -> Any:
    """Convert a schema to JSON Schema; its objects allow only the named properties."""
    if isinstance(schema, list):
        return [_closed(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: _closed(value) for key, value in schema.items() if key not in ("example", "nullable")}
    if schema.get("nullable") is True and "type" in schema:
        found["type"] = [schema["type"], "null"]
    if isinstance(schema.get("properties"), dict) and "type" in schema:
        found.setdefault("additionalProperties", False)
    return found
