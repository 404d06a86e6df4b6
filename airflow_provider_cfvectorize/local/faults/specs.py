# SPDX-License-Identifier: Apache-2.0
"""The kinds of faults, and the parser of their text form."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FORM: Final = "KIND[:ENDPOINT][@PROBABILITY|#REQUEST_NUMBERS][=VALUE]"
EXAMPLE: Final = "429:info@0.1=5"
#: Each request checks every fault of its endpoint, so their number is bounded.
MAX_FAULTS: Final = 100
#: The largest value, in seconds.
MAX_SECONDS: Final = 86_400

#: The endpoints of Vectorize itself.
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

#: ``delays`` delays the response. ``instead`` skips the work and sends an error. ``response`` does the work
#: and breaks the response. ``view`` lets a read show the past.
Effect = Literal["delays", "instead", "response", "view"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """
    The rules for the number after ``=``.

    :param what: Unit and meaning, for error messages.
    :param least: The smallest allowed number.
    :param whole: Whether it must be an integer.
    :param default: The value if the fault gives none.
    :param required: Whether a fault must give a value.
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

    :param effect: Its effect on a request.
    :param endpoints: The endpoints that it can apply to. It applies to all of them if the fault names none.
    :param value: The rules for its value; None if it has none.
    """

    effect: Effect
    endpoints: tuple[str, ...] = ENDPOINTS
    value: Value | None = None


KINDS: Final[Mapping[str, Kind]] = {
    "latency": Kind(effect="delays", value=Value(what="seconds of delay", required=True)),
    "reset-before": Kind(effect="instead"),
    "reset-after": Kind(effect="response"),
    "429": Kind(effect="instead", value=Value(what="seconds of Retry-After", whole=True, default=1)),
    "40041": Kind(effect="instead", endpoints=INDEX_ENDPOINTS),
    "500": Kind(effect="instead"),
    "503": Kind(effect="instead"),
    "504": Kind(effect="instead"),
    "refuse": Kind(effect="instead"),
    "challenge": Kind(effect="instead"),
    "truncated": Kind(effect="response"),
    "hang": Kind(effect="response", value=Value(what="seconds between two bytes", least=0.01)),
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
    A parsed fault.

    :param probability: The chance that it hits a request; None if the fault gives no chance.
    :param numbers: Ranges of the requests that it hits, each as first and last number. Requests are counted
        from 1 over all of its endpoints. A last number of None means an open range. None if the fault gives
        no numbers.
    :param value: The number after ``=``, or its default.
    """

    spec: str
    name: str
    endpoints: tuple[str, ...]
    probability: float | None
    numbers: tuple[tuple[int, int | None], ...] | None
    value: float | None

    @property
    def effect(self) -> Effect:
        """The effect on a request."""
        return KINDS[self.name].effect


def parse_faults(specs: Iterable[Any]) -> list[Fault]:
    """
    Parse several faults.

    :raises ValueError: A fault is invalid, or there are too many.
    """
    if isinstance(specs, str | bytes | dict):
        raise ValueError(f"faults must be a list, such as [{EXAMPLE!r}], got {specs!a:.80}")
    try:
        faults = [parse_fault(spec) for spec in specs]
    except TypeError:
        raise ValueError(f"faults must be a list, such as [{EXAMPLE!r}], got {specs!a:.80}") from None
    if len(faults) > MAX_FAULTS:
        raise ValueError(f"at most {MAX_FAULTS} faults are allowed, got {len(faults)}")
    return faults


def check_seed(seed: Any) -> int:
    """
    Return the seed of random choices.

    :raises ValueError: It is not an integer.
    """
    if type(seed) is not int:
        raise ValueError(f"fault_seed must be an integer, got {seed!a:.80}")
    return seed


def parse_fault(spec: Any) -> Fault:
    """
    Parse a fault.

    :raises ValueError: It is invalid. The text has the value, the expected form and an example.
    """
    match = _FORM.fullmatch(spec) if isinstance(spec, str) else None
    if match is None:
        raise _refused(spec, "invalid form")
    name, endpoint, probability, numbers, value = match.groups()
    kind = KINDS.get(name)
    if kind is None:
        raise _refused(spec, f"unknown kind {name!a:.40}; the kinds are {', '.join(KINDS)}")
    if endpoint is not None and endpoint not in kind.endpoints:
        raise _refused(
            spec, f"{name} does not apply to endpoint {endpoint!a:.40}, only to {', '.join(kind.endpoints)}"
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
        raise _refused(spec, f"the probability must be a number from 0 to 1, such as 0.1, got {text!a:.40}")
    return float(text)


def _range(spec: str, text: str) -> tuple[int, int | None]:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise _refused(
            spec, f"request numbers must be like 3 or 1,4-6 or 10-, counted from 1, got {text!a:.40}"
        )
    first = int(match[1])
    if match[2] is None:
        return first, first
    last = None if match[3] is None else int(match[3])
    if last is not None and last < first:
        raise _refused(spec, f"the range {text!a:.40} of request numbers ends before it begins")
    return first, last


def _value(spec: str, name: str, value: Value | None, text: str | None) -> float | None:
    if value is None:
        if text is not None:
            raise _refused(spec, f"{name} accepts no value, got {text!a:.40}")
        return None
    if text is None:
        if value.required:
            raise _refused(spec, f"{name} requires a value, the {value.what}, such as {name}=2")
        return value.default
    is_number = _NUMBER.fullmatch(text) and not (value.whole and "." in text)
    if not is_number or not value.least <= float(text) <= MAX_SECONDS:
        sort = "an integer" if value.whole else "a number"
        raise _refused(
            spec,
            f"the value of {name}, the {value.what}, must be {sort} from {value.least:g} to {MAX_SECONDS}, "
            f"such as {name}=2, got {text!a:.40}",
        )
    return float(text)


def _refused(spec: Any, why: str) -> ValueError:
    return ValueError(f"fault {spec!a:.80}: {why}. Expected {FORM}, such as {EXAMPLE}")
