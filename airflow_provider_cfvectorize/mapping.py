# SPDX-License-Identifier: Apache-2.0
"""
Which arguments of a mapped task stand in the DAG file, and which came out of XCom.

This relies on what Airflow does not document, from 2.11 to 3.3:

- the DAG has the mapped operator in ``task_dict``, with ``partial_kwargs`` and ``expand_input``;
- ``expand_input.value`` is a dict after ``expand()``, and a list or an ``XComArg`` after ``expand_kwargs()``;
- what stands in the DAG file is a mapping or a sequence there, and what resolves to XCom is neither;
- the constructor gets the arguments as they are, with ``_airflow_from_mapped=True``.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

#: What begins a template in a text.
MARKS: Final = ("{{", "{%", "{#")


def has_marks(value: object) -> bool:
    """Say whether rendering a value would change it."""
    if isinstance(value, Mapping):
        return any(map(has_marks, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(has_marks, value))
    text = str(value)
    return any(mark in text for mark in MARKS)


def fields_to_render(operator: Any, names: Iterable[str], context: Any) -> Iterator[str]:
    """
    Yield the template fields that stand in the DAG file; what came out of XCom is data and is not rendered.

    Airflow itself renders what ``expand_kwargs()`` takes out of XCom.

    :param operator: made by Airflow of a mapped operator, with the arguments as ``mapped_with``.
    :param names: its template fields.
    :param context: the task's context.
    :raises VectorizeInputError: a field has Jinja's marks, and may be of either origin: the constructor of a
        subclass has made it.
    """
    given = operator.mapped_with
    written, is_all = _find_written(operator, context)
    for name in names:
        value = getattr(operator, name)
        is_as_given = name in given and value is given[name]
        if is_as_given and name not in written:
            continue
        if is_as_given or is_all or not has_marks(value) or _is_default(operator, name, value):
            yield name
            continue
        raise VectorizeInputError(
            f"{name} is {show(value, 200)}, made by the constructor of {type(operator).__name__}. It may be "
            "a template of the DAG file, or text out of XCom that looks like one: it is not rendered. Pass "
            f"{name} itself to partial(), expand() or expand_kwargs(), and do not change it there"
        )


def _find_written(operator: Any, context: Any) -> tuple[set[str], bool]:
    """Return the names of the arguments that stand in the DAG file, and whether all do."""
    dag = operator.get_dag()
    mapped: Any = dag.task_dict.get(operator.task_id) if dag is not None else None
    if not hasattr(mapped, "expand_input"):
        return set(), False
    values = mapped.expand_input.value
    if isinstance(values, Mapping):
        names = {name for name, value in values.items() if isinstance(value, Mapping | Sequence)}
    else:
        instance = values[context["ti"].map_index] if isinstance(values, Sequence) else None
        # What resolves to XCom within it is resolved by rendering, which ends there.
        names, values = (set(instance), instance) if isinstance(instance, Mapping) else (set(), (None,))
    # Where both have a name, what is mapped counts.
    given = operator.mapped_with
    partial = {name for name, value in mapped.partial_kwargs.items() if given.get(name) is value}
    return names | partial, len(names) == len(values)


def _is_default(operator: Any, name: str, value: object) -> bool:
    """Say whether nothing was passed and this is a default, of the DAG, the task group or the class."""
    if name in operator.mapped_with:
        return False
    parameter = inspect.signature(type(operator).__init__).parameters.get(name)
    parents = [parent for parent in (operator.get_dag(), operator.task_group) if parent is not None]
    defaults = [(parent.default_args or {}).get(name) for parent in parents]
    if parameter is not None:
        defaults.append(parameter.default)
    return any(value is default for default in defaults)
