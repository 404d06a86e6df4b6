# SPDX-License-Identifier: Apache-2.0
"""The package has no import circle, and its dependencies point one way."""

from __future__ import annotations

from structure import against_direction, circles, imports, levels


def test_there_is_no_import_circle() -> None:
    assert circles(imports()) == []
    assert circles({"a": {"b"}, "b": {"a"}, "c": {"a"}}) == [["a", "b"]]


def test_dependencies_point_one_way() -> None:
    assert against_direction(imports()) == []
    assert against_direction({"client.http.urls": {"hooks.vectorize"}}) == [
        "client.http.urls -> hooks.vectorize"
    ]


def test_few_levels_of_imports() -> None:
    assert levels(imports(), "client") <= 6
    assert levels(imports(types=False), "local") <= 7
    assert levels({"a.one": {"a.two", "b.one"}, "a.two": set(), "b.one": {"a.two"}}, "a") == 2
