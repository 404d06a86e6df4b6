# SPDX-License-Identifier: Apache-2.0
"""From what a DAG passes to an operator to what the client takes, where several operators take the same."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from airflow_provider_cfvectorize.client.inputs.text import counted, show
from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.templating import read_given

if TYPE_CHECKING:
    from airflow_provider_cfvectorize.client.inputs.ids import IdSource

#: A template's expression that takes a param, or an upstream task's XCom.
_SOURCE: Final = re.compile(
    r"""\{\{\s*(?:params(?:\.|\[['"])(\w+)|(?:ti|task_instance)\.xcom_pull\((?:task_ids=)?['"]([\w.-]+))"""
)


def origin_of(operator: Any, name: str) -> str | None:
    """
    Return where a parameter's value comes from, None if the DAG does not tell.

    :param operator: the operator, at run time.
    :param name: the parameter.
    """
    dag = operator.get_dag()
    # What runs is a copy, whose templates are rendered; the DAG has the original, or a mapped operator.
    task = operator if dag is None else dag.get_task(operator.task_id)
    over = getattr(getattr(task, "expand_input", None), "value", None)
    given = getattr(task, "partial_kwargs", vars(task)).get(name)
    if given is None:
        given = over.get(name) if isinstance(over, dict) else over
    if hasattr(given, "iter_references"):
        tasks = {f'"{upstream.task_id}"' for upstream, _ in given.iter_references()}
        return f"the upstream task {', '.join(sorted(tasks))}"
    if isinstance(given, str) and (match := _SOURCE.search(given)):
        param, task_id = match.groups()
        return f'the param "{param}"' if param else f'the upstream task "{task_id}"'
    return None


def read_id_source(
    ids: object, ids_path: object, *, max_ids: int | None = None, origin: str | None = None, log: Any
) -> IdSource:
    """
    Return checked ids, out of either of two parameters.

    :param ids: see :func:`~airflow_provider_cfvectorize.client.inputs.ids.read_ids`.
    :param ids_path: a file; see :class:`~airflow_provider_cfvectorize.client.inputs.ids_file.IdsFile`.
    :param max_ids: refuse more than so many.
    :param origin: where ``ids`` come from, for errors.
    :param log: where to say what a file has.
    :raises VectorizeInputError: both are given, or what is given cannot be ids.
    """
    if ids_path is None:
        from airflow_provider_cfvectorize.client.inputs.ids import read_ids

        return read_ids(ids, max_ids=max_ids, origin=origin)
    if ids is not None:
        raise VectorizeInputError("both ids and ids_path are given: pass one of them")
    from airflow_provider_cfvectorize.client.inputs.ids_file import IdsFile
    from airflow_provider_cfvectorize.operators.files import open_object, path_of

    file = IdsFile(path_of(ids_path, "ids_path"), open_remote=open_object, max_ids=max_ids)
    log.info(
        "%s has %s, in %s; empty lines skipped: %d.",
        show(file.path, 200),
        counted(file.count, "id"),
        counted(file.batches, "batch"),
        file.empty_lines,
    )
    return file


class Narrowing:
    """
    Parameters without which a task would read more than with them, such as a namespace.

    One that was given and renders to nothing is refused: a run for no tenant at all must not read, or hand
    on to a delete, what belongs to all of them.

    :param given: the parameters as the constructor gets them.
    """

    def __init__(self, **given: object) -> None:
        self._given = given

    def read(self, operator: Any, name: str) -> Any:
        """
        Return what a parameter is after rendering; None only if it was not given.

        :param operator: has the parameter. Airflow renders a copy of what the constructor has made.
        :param name: the parameter.
        :raises VectorizeInputError: it was given, and is nothing now.
        """
        harm = f"Without a {name}, more would be read than was meant"
        return read_given(operator, name, self._given[name], harm)
