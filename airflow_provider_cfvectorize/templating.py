# SPDX-License-Identifier: Apache-2.0
"""
Rendering of template fields that keeps text text, and reading of what Jinja makes of other values.

A ``value`` is what stands in a template field after rendering, ``given`` what the constructor got.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, ClassVar, Final, Self

from airflow_provider_cfvectorize.client.inputs.files import path_text
from airflow_provider_cfvectorize.client.inputs.rendered import read_rendered
from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.mapping import MARKS, fields_to_render

#: Characters of a text that is read as a list or an object; a vector of 1,536 values takes 40,000.
MAX_TEXT_CHARS: Final = 1024 * 1024


class VerbatimStringsMixin:
    """
    Keeps a DAG with ``render_template_as_native_obj=True`` from reading text as Python.

    Native rendering evaluates what every template gives, and every plain string too: of the ids
    ``["1e5", "{{ params.id }}"]`` it would make ``[100000.0, 31]`` where the parameter is ``0x1f``, and
    another vector would be deleted. Here a string without any of Jinja's marks is passed on as it is, and
    what stands in a list is rendered to text. A template that is the whole field may still give a list,
    unless the field is a text by nature: of the prefix ``'a'`` the quotes are part, and ``2024`` is a tenant.
    """

    #: Fields that are text by nature, and rendered to text in any DAG.
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
    #: Parameters that are True or False.
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
    #: The arguments for template fields that Airflow has made a mapped task with; None in any other task.
    mapped_with: Mapping[str, Any] | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Note what a mapped task is made with."""
        self = super().__new__(cls)
        # A mapped operator is made on the worker, of values. None among them is no absence, and looks like
        # one to each constructor; and what came out of XCom looks like a template.
        if kwargs.get("_airflow_from_mapped"):
            fields = cls.template_fields  # type: ignore[attr-defined]
            # Not by setattr, for which Airflow's base class is not ready yet.
            vars(self)["mapped_with"] = {name: kwargs[name] for name in fields if name in kwargs}
        return self

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # To the end: in 2.11, a copy of a task is made attribute by attribute, Airflow's own first.
        self.mapped_with = vars(self).pop("mapped_with", None)

    def render_template(
        self, content: Any, context: Any, jinja_env: Any = None, seen_oids: set[int] | None = None
    ) -> Any:
        """
        Render a template, or a structure of them.

        :param content: what stands in a template field.
        :param context: the task's context.
        :param jinja_env: the environment of the DAG.
        :param seen_oids: ids of the objects that are rendered already.
        """
        if content is None or isinstance(content, int | float):
            # There may be hundreds of thousands of these, in vectors that stand in the DAG.
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
        # The one place, of mapped tasks too, where Airflow has both the fields' names and the environment.
        render = super()._do_render_template_fields  # type: ignore[misc]
        if parent is not self:
            render(parent, template_fields, context, jinja_env, seen_oids)
            return
        names = template_fields
        if self.mapped_with is not None:
            # Not with what Airflow has seen: that has values of the DAG file among those out of XCom.
            names, seen_oids = fields_to_render(self, names, context), set()
        text_env = self._text_env(jinja_env)
        for name in names:
            env, template = jinja_env, getattr(self, name)
            if name in self.text_fields:
                # Of path objects, Airflow renders some, leaves some, and fails at some.
                env, template = text_env, path_text(template)
                setattr(self, name, template)
            render(self, [name], context, env, seen_oids)
            if getattr(self, name) is template:
                # Before 3.3, Airflow keeps the template if it renders to nothing.
                setattr(self, name, self.render_template(template, context, env, seen_oids))
            elif env is not jinja_env and isinstance(template, str) and getattr(self, name) == "None":
                # What gives None stays None in such a DAG.
                setattr(self, name, None)

    def _text_env(self, jinja_env: Any) -> Any:
        """Return an environment that renders to text: the one at hand if it does, for making one is slow."""
        from jinja2.nativetypes import NativeEnvironment

        dag = self.get_dag() if isinstance(jinja_env, NativeEnvironment) else None  # type: ignore[attr-defined]
        return jinja_env if dag is None else dag.get_template_env(force_sandboxed=True)

    def _render(self, template: Any, context: Any, dag: Any = None) -> Any:
        # Airflow goes by the DAG's option, whatever environment the template is of.
        from jinja2.nativetypes import NativeEnvironment

        if isinstance(template.environment, NativeEnvironment):
            return super()._render(template, context, dag)  # type: ignore[misc]
        try:
            from airflow.sdk.definitions.context import render_template_to_string
        except ImportError:
            from airflow.utils.helpers import render_template_to_string  # type: ignore[no-redef,attr-defined,unused-ignore]
        return render_template_to_string(template, context)


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
    :param name: the parameter.
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
    """
    Refuse an account that was given and came to nothing: it must not become the connection's.

    :raises VectorizeInputError: it is nothing now.
    """
    read_given(operator, "account_id", given, "The connection's own account is not taken instead")


def check_flags(operator: Any) -> None:
    """
    Refuse a flag that is neither True nor False: the text "False", which a Variable gives, would be true.

    :raises VectorizeInputError: one is something else.
    """
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
