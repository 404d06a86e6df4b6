# SPDX-License-Identifier: Apache-2.0
"""
Changes how Airflow renders template fields: text stays text, and values from XCom are not rendered.

This module has everything that the operators use of Airflow's private parts. ``templating.py`` reads the
rendered values. From 2.11 to 3.3 this module relies on these facts:

- ``BaseOperator._do_render_template_fields`` renders the template fields of every task, mapped or not;
- ``BaseOperator._render`` renders one template;
- the DAG has the mapped operator in ``task_dict``, with ``partial_kwargs`` and ``expand_input``;
- ``expand_input.value`` is a dict after ``expand()``, and a list or an ``XComArg`` after ``expand_kwargs()``;
- a value of the DAG file is a mapping or a sequence there, and a value that resolves to XCom is neither;
- the constructor gets the arguments as they are, with ``_airflow_from_mapped=True``.

``tests/dags/test_private_parts.py`` checks them on every supported minor of Airflow.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Final, Self

from airflow_provider_cfvectorize.client.inputs.files import path_text
from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

#: The marks that begin a template in a text.
MARKS: Final = ("{{", "{%", "{#")


class VerbatimStringsMixin:
    """
    Keeps a DAG with ``render_template_as_native_obj=True`` from reading text as Python.

    Native rendering evaluates the result of every template and every plain string. It would turn the ids
    ``["1e5", "{{ params.id }}"]`` into ``[100000.0, 31]`` if the parameter is ``0x1f``, and the task would
    delete another vector. Here, a string without Jinja's marks stays unchanged, and the items of a list are
    rendered to text. A template that is the whole field may still give a list, unless the field is always
    text: the quotes are part of the prefix ``'a'``, and ``2024`` is a tenant.
    """

    #: Fields that are always text. They are rendered to text in every DAG.
    text_fields: ClassVar[frozenset[str]] = frozenset(
        {
            "account_id",
            "conn_id",
            "description",
            "id_prefix",
            "ids_path",
            "index_name",
            "missing_path",
            "namespace",
            "path",
            "prefix",
            "property_name",
            "surplus_path",
            "vector_id",
            "vectors_path",
        }
    )
    #: Parameters that must be True or False.
    flags: ClassVar[frozenset[str]] = frozenset(
        {
            "allow_empty",
            "allow_lookalikes",
            "deferrable",
            "dry_run",
            "durable",
            "fail_if_none_exist",
            "owns_index",
            "require_absent",
            "require_equal",
            "return_values",
            "wait_for_completion",
        }
    )
    #: The arguments for template fields with which Airflow made a mapped task; None in any other task.
    mapped_with: Mapping[str, Any] | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Save the arguments with which Airflow makes a mapped task."""
        self = super().__new__(cls)
        # The worker makes a mapped operator from values. A constructor cannot distinguish a None among them
        # from a missing argument, nor a value from XCom from a template.
        if kwargs.get("_airflow_from_mapped"):
            fields = cls.template_fields  # type: ignore[attr-defined]
            # Not setattr: Airflow's base class is not ready for it yet.
            vars(self)["mapped_with"] = {name: kwargs[name] for name in fields if name in kwargs}
        return self

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # Moved to the end: Airflow 2.11 copies a task attribute by attribute, Airflow's own first.
        self.mapped_with = vars(self).pop("mapped_with", None)

    def render_template(
        self, content: Any, context: Any, jinja_env: Any = None, seen_oids: set[int] | None = None
    ) -> Any:
        """Render a template or a structure of templates."""
        if content is None or isinstance(content, int | float):
            # Vectors in a DAG file may hold hundreds of thousands of numbers.
            return content
        if isinstance(content, str) and not any(mark in content for mark in MARKS):
            return content
        if isinstance(content, list | tuple):
            jinja_env = self._text_env(jinja_env or self.get_template_env())  # type: ignore[attr-defined]
        return super().render_template(content, context, jinja_env, seen_oids)  # type: ignore[misc]

    def _do_render_template_fields(
        self,
        parent: Any,
        template_fields: Iterable[str],
        context: Any,
        jinja_env: Any,
        seen_oids: set[int],
    ) -> None:
        # Only here does Airflow have both the fields' names and the environment, also for mapped tasks.
        render = super()._do_render_template_fields  # type: ignore[misc]
        if parent is not self:
            render(parent, template_fields, context, jinja_env, seen_oids)
            return
        names = template_fields
        if self.mapped_with is not None:
            # Not Airflow's own seen_oids: they hold values of the DAG file beside values from XCom.
            names, seen_oids = fields_to_render(self, names, context), set()
        text_env = self._text_env(jinja_env)
        for name in names:
            env, template = jinja_env, getattr(self, name)
            if name in self.text_fields:
                # Airflow renders some path objects, leaves others unchanged, and fails at others.
                env, template = text_env, path_text(template)
                setattr(self, name, template)
            render(self, [name], context, env, seen_oids)
            if getattr(self, name) is template:
                # Before 3.3, Airflow keeps the template if it renders to nothing.
                setattr(self, name, self.render_template(template, context, env, seen_oids))
            elif env is not jinja_env and isinstance(template, str) and getattr(self, name) == "None":
                # A template that gives None stays None in such a DAG.
                setattr(self, name, None)

    def _text_env(self, jinja_env: Any) -> Any:
        """Return an environment that renders to text; reuse the given one if possible, making one is slow."""
        from jinja2.nativetypes import NativeEnvironment

        dag = self.get_dag() if isinstance(jinja_env, NativeEnvironment) else None  # type: ignore[attr-defined]
        return jinja_env if dag is None else dag.get_template_env(force_sandboxed=True)

    def _render(self, template: Any, context: Any, dag: Any = None) -> Any:
        # Airflow reads the DAG's option, whatever the template's environment is.
        from jinja2.nativetypes import NativeEnvironment

        if isinstance(template.environment, NativeEnvironment):
            return super()._render(template, context, dag)  # type: ignore[misc]
        try:
            from airflow.sdk.definitions.context import render_template_to_string
        except ImportError:
            from airflow.utils.helpers import render_template_to_string  # type: ignore[no-redef,attr-defined,unused-ignore]
        return render_template_to_string(template, context)


def mapped_arguments(task: Any) -> tuple[Any, Mapping[str, Any]]:
    """
    Return the arguments that a task is mapped over (None if it is not mapped) and its other arguments.

    :param task: the task in the DAG: an operator or a mapped operator.
    """
    over = getattr(getattr(task, "expand_input", None), "value", None)
    return over, getattr(task, "partial_kwargs", vars(task))


def has_marks(value: object) -> bool:
    """Return whether rendering would change a value."""
    if isinstance(value, Mapping):
        return any(map(has_marks, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(has_marks, value))
    text = str(value)
    return any(mark in text for mark in MARKS)


def fields_to_render(operator: Any, names: Iterable[str], context: Any) -> Iterator[str]:
    """
    Yield the template fields whose values are in the DAG file. Values from XCom are data; never render them.

    Airflow itself would render the values that ``expand_kwargs()`` reads from XCom.

    :param operator: an operator that Airflow made from a mapped operator, with the arguments as
        ``mapped_with``.
    :raises VectorizeInputError: a field has Jinja's marks and its origin is unknown, because the constructor
        of a subclass made it.
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
            "a template of the DAG file, or text from XCom that looks like one, so it is not rendered. Pass "
            f"{name} to partial(), expand() or expand_kwargs() and do not change it in the constructor"
        )


def _find_written(operator: Any, context: Any) -> tuple[set[str], bool]:
    """Return the names of the arguments that are in the DAG file, and whether all are."""
    dag = operator.get_dag()
    mapped: Any = dag.task_dict.get(operator.task_id) if dag is not None else None
    if not hasattr(mapped, "expand_input"):
        return set(), False
    values = mapped.expand_input.value
    if isinstance(values, Mapping):
        names = {name for name, value in values.items() if isinstance(value, Mapping | Sequence)}
    else:
        instance = values[context["ti"].map_index] if isinstance(values, Sequence) else None
        # Rendering resolves an XCom inside it and does not render the result.
        names, values = (set(instance), instance) if isinstance(instance, Mapping) else (set(), (None,))
    # A mapped argument overrides a partial one.
    given = operator.mapped_with
    partial = {name for name, value in mapped.partial_kwargs.items() if given.get(name) is value}
    return names | partial, len(names) == len(values)


def _is_default(operator: Any, name: str, value: object) -> bool:
    """Return whether a value is a default of the DAG, the task group or the class, and was not passed."""
    if name in operator.mapped_with:
        return False
    parameter = inspect.signature(type(operator).__init__).parameters.get(name)
    parents = [parent for parent in (operator.get_dag(), operator.task_group) if parent is not None]
    defaults = [(parent.default_args or {}).get(name) for parent in parents]
    if parameter is not None:
        defaults.append(parameter.default)
    return any(value is default for default in defaults)
