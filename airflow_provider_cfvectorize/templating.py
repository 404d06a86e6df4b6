# SPDX-License-Identifier: Apache-2.0
"""Rendering of template fields that keeps text text."""

from __future__ import annotations

from typing import Any

_MARKS = ("{{", "{%", "{#")


class VerbatimStringsMixin:
    """
    Keeps a DAG with ``render_template_as_native_obj=True`` from reading text as Python.

    Native rendering evaluates what every template gives, and every plain string too: of the ids
    ``["1e5", "{{ params.id }}"]`` it would make ``[100000.0, 31]`` where the parameter is ``0x1f``, and
    another vector would be deleted. Here a string without any of Jinja's marks is passed on as it is, and
    what stands in a list is rendered to text. A template that is the whole field may still give a list.
    """

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
        if isinstance(content, str) and not any(mark in content for mark in _MARKS):
            return content
        dag = self.get_dag() if isinstance(content, list | tuple) else None  # type: ignore[attr-defined]
        if dag is not None:
            jinja_env = dag.get_template_env(force_sandboxed=True)
        return super().render_template(content, context, jinja_env, seen_oids)  # type: ignore[misc]

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
