# SPDX-License-Identifier: Apache-2.0
"""
Reading of what Jinja makes of the values of template fields.

A ``value`` is what stands in a template field after rendering, ``given`` what the constructor got.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any, Final

from airflow_provider_cfvectorize.client.inputs.rendered import read_rendered
from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

#: Characters of a text that is read as a list or an object; a vector of 1,536 values takes 40,000.
MAX_TEXT_CHARS: Final = 1024 * 1024


def read_structure(value: Any, name: str) -> Any:
    """
    Return what Jinja has made text of: a list or an object, out of JSON or Python; all else as it is.

    :raises VectorizeInputError: a text begins like a list or an object, and is neither; or is too long.
    """
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "(", "{"):
        return value
    if len(value) > MAX_TEXT_CHARS:
        raise VectorizeInputError(
            f"{name}: the text has {len(value):,} characters, the most that is read is {MAX_TEXT_CHARS:,}"
        )
    try:
        return read_rendered(value.strip())
    except ValueError:
        raise VectorizeInputError(
            f"{name}: the string {show(value)} begins like a list or an object, and is neither in JSON nor "
            "in Python"
        ) from None


def read_nothing(value: Any) -> Any:
    """Return None for what Jinja makes of it, and all else as it is."""
    return None if isinstance(value, str) and value.strip() in ("", "None", "null") else value


def read_integer(value: Any) -> Any:
    """Return the number that Jinja has made text of, and all else as it is, in any range."""
    if isinstance(value, str) and value.strip().removeprefix("-").isdecimal() and len(value) <= 20:
        return int(value)
    return value


def is_given(operator: Any, name: str, value: object) -> bool:
    """Say whether a DAG gives a parameter, whatever it is after rendering."""
    return value is not None or name in (operator.mapped_with or ())


def read_given(operator: Any, name: str, given: object, harm: str) -> Any:
    """
    Return what a parameter is after rendering; None only if it was not given.

    :param operator: has the parameter, rendered.
    :param given: what the constructor got.
    :param harm: what would happen without it, as a sentence without its end.
    :raises VectorizeInputError: it was given, and is nothing now.
    """
    value = getattr(operator, name)
    if read_nothing(value) is not None:
        return value
    if value is not None or is_given(operator, name, given):
        raise VectorizeInputError(
            f"{name} was given, and is {show(value)} now that it is rendered, which counts as nothing. "
            f"{harm}: check where it comes from. To do without {name}, leave it out"
        )
    return None


def check_account(operator: Any, given: object) -> None:
    """Refuse an account that was given and came to nothing: it must not become the connection's."""
    read_given(operator, "account_id", given, "The connection's own account is not taken instead")


def check_flags(operator: Any) -> None:
    """Refuse a flag that is not True or False: the text "False", which a Variable gives, would be true."""
    for name in sorted(operator.flags):
        # dry_run is a method of Airflow's base class.
        value = getattr(operator, "is_dry_run" if name == "dry_run" else name, False)
        if not isinstance(value, bool):
            raise VectorizeInputError(
                f"{name} is {show(value)}, expected True or False. A Variable or a template gives text: "
                'compare it, as in Variable.get("x") == "true"'
            )


def to_seconds(duration: timedelta | float) -> float:
    """Return a duration as seconds; what is none as it is, to be refused when the task runs."""
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def plain(value: object) -> object:
    """
    Return a value with dicts and lists in place of other mappings and sequences.

    What mapped tasks returned is asked of Airflow when it is read: so it is read where this is called.
    """
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [plain(inner) for inner in value]
    return value


def count_nones(value: object) -> int:
    """Return how many values within a value are None."""
    if isinstance(value, Mapping):
        return sum(map(count_nones, value.values()))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return sum(map(count_nones, value))
    return int(value is None)
