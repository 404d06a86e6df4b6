# SPDX-License-Identifier: Apache-2.0
"""Rendering of template fields that leaves alone what is no template."""

from __future__ import annotations

from typing import Any

_MARKS = ("{{", "{%", "{#")


class VerbatimStringsMixin:
    """
    Keeps a DAG with ``render_template_as_native_obj=True`` from reading plain strings as Python.

    Native rendering evaluates every string, the items of a list too: of the ids ``["1e5", "0x1f"]`` it would
    make ``[100000.0, 31]``. A string without any of Jinja's marks is passed on as it is.
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
        return super().render_template(content, context, jinja_env, seen_oids)  # type: ignore[misc]
