# SPDX-License-Identifier: Apache-2.0
"""Faults on purpose: which kinds there are, and how one is written down."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FORM: Final = "KIND[:ENDPOINT][@PROBABILITY|#REQUEST_NUMBERS][=VALUE]"
EXAMPLE: Final = "429:info@0.1=5"
#: Every request looks at each fault of its endpoint.
MAX_FAULTS: Final = 100
#: Seconds that a value may be.
MAX_SECONDS: Final = 86_400

#: Those that the API's own store answers.
INDEX_ENDPOINTS: Final = (
    "list_indexes",
    "create_index",
    "get_index",
    "delete_index",
    "info",
    "insert",
    "upsert",
    "delete_by_ids",
    "get_by_ids",
    "list_vectors",
    "query",
    "create_metadata_index",
    "list_metadata_indexes",
    "delete_metadata_index",
)
ENDPOINTS: Final = (*INDEX_ENDPOINTS, "verify_token")
VIEWS: Final = ("info", "get_by_ids", "list_vectors", "query")

#: ``delays`` the answer; comes ``instead`` of the work; spoils the ``answer`` to work that was done; or lets
#: a ``view`` show the past.
Effect = Literal["delays", "instead", "answer", "view"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """
    The number behind ``=``.

    :param what: What it is.
    :param least: The smallest there may be.
    :param whole: Whether it is a whole number.
    :param default: What it is when not given; None if it has no default.
    :param required: Whether it must be given.
    """

    what: str
    least: float = 0
    whole: bool = False
    default: float | None = None
    required: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """
    A kind of fault.

    :param effect: What it does to a request.
    :param endpoints: Where it makes sense, and happens unless one of them is named.
    :param value: The number it takes, if it takes one.
    """

    effect: Effect
    endpoints: tuple[str, ...] = ENDPOINTS
    value: Value | None = None


KINDS: Final[Mapping[str, Kind]] = {
    "latency": Kind(effect="delays", value=Value(what="seconds of delay", required=True)),
    "reset-before": Kind(effect="instead"),
    "reset-after": Kind(effect="answer"),
    "429": Kind(effect="instead", value=Value(what="seconds of Retry-After", whole=True, default=1)),
    "40041": Kind(effect="instead", endpoints=INDEX_ENDPOINTS),
    "500": Kind(effect="instead"),
    "503": Kind(effect="instead"),
    "504": Kind(effect="instead"),
    "refuse": Kind(effect="instead"),
    "challenge": Kind(effect="instead"),
    "truncated": Kind(effect="answer"),
    "hang": Kind(effect="answer", value=Value(what="seconds between two bytes", least=0.01)),
    "stuck-watermark": Kind(effect="view", endpoints=("info",)),
    "lagging-view": Kind(
        effect="view", endpoints=VIEWS, value=Value(what="seconds behind the watermark", required=True)
    ),
}

_FORM: Final = re.compile(r"([^:@#=]*)(?::([^@#=]*))?(?:@([^#=]*)|#([^@=]*))?(?:=(.*))?", re.DOTALL)
_NUMBER: Final = re.compile(r"[0-9]{1,9}(\.[0-9]{1,9})?")
_RANGE: Final = re.compile(r"([1-9][0-9]{0,8})(-([1-9][0-9]{0,8})?)?")


@dataclass(frozen=True, slots=True)
class Fault:
    """
    One fault.

    :param probability: How likely it hits a request; None if it is not by chance.
    :param numbers: The first and last numbers of the requests that it hits, counted from 1 over its
        endpoints, with None for no last one; None if it is not by number.
    :param value: The number behind ``=``, or its default.
    """

    spec: str
    name: str
    endpoints: tuple[str, ...]
    probability: float | None
    numbers: tuple[tuple[int, int | None], ...] | None
    value: float | None

    @property
    def effect(self) -> Effect:
        """What it does to a request."""
        return KINDS[self.name].effect


def parse_faults(specs: Iterable[Any]) -> list[Fault]:
    """
    Read several faults.

    :raises ValueError: One of them is not a fault, or there are too many.
    """
    if isinstance(specs, str | bytes | dict):
        raise ValueError(f"faults must be a list, such as [{EXAMPLE!r}], got {specs!a:.80}")
    try:
        faults = [parse_fault(spec) for spec in specs]
    except TypeError:
        raise ValueError(f"faults must be a list, such as [{EXAMPLE!r}], got {specs!a:.80}") from None
    if len(faults) > MAX_FAULTS:
        raise ValueError(f"there may be {MAX_FAULTS} faults at a time, got {len(faults)}")
    return faults


def check_seed(seed: Any) -> int:
    """
    Return what the chances of faults depend on.

    :raises ValueError: It is none.
    """
    if type(seed) is not int:
        raise ValueError(f"fault_seed must be a whole number, got {seed!a:.80}")
    return seed


def parse_fault(spec: Any) -> Fault:
    """
    Read a fault.

    :raises ValueError: It is none; the text says what arrived, what was expected, and gives an example.
    """
    match = _FORM.fullmatch(spec) if isinstance(spec, str) else None
    if match is None:
        raise _refused(spec, "it has not the form of one")
    name, endpoint, probability, numbers, value = match.groups()
    kind = KINDS.get(name)
    if kind is None:
        raise _refused(spec, f"there is no kind {name!a:.40}; there are {', '.join(KINDS)}")
    if endpoint is not None and endpoint not in kind.endpoints:
        raise _refused(
            spec, f"{name} does not go with endpoint {endpoint!a:.40}, but with {', '.join(kind.endpoints)}"
        )
    return Fault(
        spec,
        name,
        kind.endpoints if endpoint is None else (endpoint,),
        None if probability is None else _probability(spec, probability),
        None if numbers is None else tuple(_range(spec, part) for part in numbers.split(",")),
        _value(spec, name, kind.value, value),
    )


def _probability(spec: str, text: str) -> float:
    if not _NUMBER.fullmatch(text) or float(text) > 1:
        raise _refused(spec, f"a probability is a number from 0 to 1, such as 0.1, and not {text!a:.40}")
    return float(text)


def _range(spec: str, text: str) -> tuple[int, int | None]:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise _refused(
            spec, f"request numbers are written as 3 or 1,4-6 or 10-, counted from 1, and not as {text!a:.40}"
        )
    first = int(match[1])
    if match[2] is None:
        return first, first
    last = None if match[3] is None else int(match[3])
    if last is not None and last < first:
        raise _refused(spec, f"the request numbers {text!a:.40} end before they begin")
    return first, last


def _value(spec: str, name: str, value: Value | None, text: str | None) -> float | None:
    if value is None:
        if text is not None:
            raise _refused(spec, f"{name} takes no value, got {text!a:.40}")
        return None
    if text is None:
        if value.required:
            raise _refused(spec, f"{name} needs its {value.what}, such as {name}=2")
        return value.default
    is_number = _NUMBER.fullmatch(text) and not (value.whole and "." in text)
    if not is_number or not value.least <= float(text) <= MAX_SECONDS:
        sort = "whole number" if value.whole else "number"
        raise _refused(
            spec,
            f"the {value.what} of {name} are a {sort} from {value.least:g} to {MAX_SECONDS}, "
            f"such as {name}=2, and not {text!a:.40}",
        )
    return float(text)


def _refused(spec: Any, why: str) -> ValueError:
    return ValueError(f"fault {spec!a:.80}: {why}. Expected {FORM}, such as {EXAMPLE}")
