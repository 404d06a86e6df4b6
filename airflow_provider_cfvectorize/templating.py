# SPDX-License-Identifier: Apache-2.0
"""
Reads and checks the values of template fields after rendering.

``airflow_rendering.py`` does the rendering; ``client/inputs/rendered.py`` parses texts. A ``value`` is the
rendered value of a template field; ``given`` is the value that the constructor got.
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
    Return the list or object that a rendered text holds, in JSON or Python; return other values unchanged.

    :raises VectorizeInputError: the text begins like a list or an object but is neither, or it is too long.
    """
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "(", "{"):
        return value
    if len(value) > MAX_TEXT_CHARS:
        raise VectorizeInputError(
            f"{name}: the text has {len(value):,} characters, expected at most {MAX_TEXT_CHARS:,}"
        )
    try:
        return read_rendered(value.strip())
    except ValueError:
        raise VectorizeInputError(
            f"{name}: the string {show(value)} begins like a list or an object, but is neither valid "
            "JSON nor a Python literal"
        ) from None


def read_nothing(value: Any) -> Any:
    """Return None for a text that is empty, None or null; return other values unchanged."""
    return None if isinstance(value, str) and value.strip() in ("", "None", "null") else value


def read_integer(value: Any) -> Any:
    """Return the integer that a rendered text holds, in any range; return other values unchanged."""
    if isinstance(value, str) and value.strip().removeprefix("-").isdecimal() and len(value) <= 20:
        return int(value)
    return value


def is_given(operator: Any, name: str, value: object) -> bool:
    """Return whether a DAG gives a parameter, even if it renders to nothing."""
    return value is not None or name in (operator.mapped_with or ())


def read_given(operator: Any, name: str, given: object, harm: str) -> Any:
    """
    Return the rendered value of a parameter; None only if the DAG does not give it.

    :param operator: the operator that has the rendered parameter.
    :param given: the value that the constructor got.
    :param harm: what would happen without it, as a sentence without its end.
    :raises VectorizeInputError: the DAG gives the parameter, and it renders to nothing.
    """
    value = getattr(operator, name)
    if read_nothing(value) is not None:
        return value
    if value is not None or is_given(operator, name, given):
        raise VectorizeInputError(
            f"{name} is {show(value)} after rendering, which counts as nothing. {harm}. Check the template "
            f"or upstream task that gives it. To run without {name}, do not pass it"
        )
    return None


class Narrowing:
    """
    Parameters that limit what a task reads, such as a namespace.

    A parameter that was given and renders to nothing is refused: a task for no tenant must not read the data
    of all tenants, or pass it to a delete.

    :param given: the parameters as the constructor gets them.
    """

    def __init__(self, **given: object) -> None:
        self._given = given

    def read(self, operator: Any, name: str) -> Any:
        """
        Return the rendered value of a parameter; None only if the DAG does not give it.

        :raises VectorizeInputError: the DAG gives the parameter, and it renders to nothing.
        """
        harm = f"Without a {name}, the task would read more than intended"
        return read_given(operator, name, self._given[name], harm)


def check_account(operator: Any, given: object) -> None:
    """Refuse an account that renders to nothing: the connection's account must not replace it."""
    read_given(operator, "account_id", given, "The connection's own account does not replace it")


def check_flags(operator: Any) -> None:
    """Refuse a flag that is not True or False: the text "False" from a Variable would count as true."""
    for name in sorted(operator.flags):
        # dry_run is a method of Airflow's base class.
        value = getattr(operator, "is_dry_run" if name == "dry_run" else name, False)
        if not isinstance(value, bool):
            raise VectorizeInputError(
                f"{name} is {show(value)}, expected True or False. A Variable or a template gives text. "
                'Compare it, as in Variable.get("x") == "true"'
            )


def to_seconds(duration: timedelta | float) -> float:
    """Return a duration in seconds; return an invalid one unchanged, the task refuses it when it runs."""
    return duration.total_seconds() if isinstance(duration, timedelta) else duration


def plain(value: object) -> object:
    """
    Return a value with dicts and lists in place of other mappings and sequences.

    A lazy sequence of mapped tasks' results requests each item from Airflow here.
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
