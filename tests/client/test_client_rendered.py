# SPDX-License-Identifier: Apache-2.0
"""Lists and objects that Jinja rendered as text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cfvectorize.client.inputs import rendered
from airflow_provider_cfvectorize.client.inputs.rendered import read_rendered

plain = st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | st.text()
finite = plain.filter(lambda value: value not in (float("inf"), float("-inf")))
values = st.recursive(
    finite, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=10
)


@given(st.lists(values) | st.dictionaries(st.text(), values))
def test_rendered_values_are_read_back(value: Any) -> None:
    assert read_rendered(repr(value)) == value
    assert read_rendered(json.dumps(value)) == value


@pytest.mark.parametrize(
    "text",
    [
        "['a' 'b']",
        "['a', 'b'",
        "('a')",
        "[0x10]",
        "{1, 2}",
        "[a]",
        "{'a'}",
        "(1)",
        "['a'] + ['b']",
        "[" * 500,
    ],
)
def test_text_that_repr_does_not_write_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="neither JSON nor what repr"):
        read_rendered(text)


def test_only_lists_of_strings_and_integers_may_exceed_the_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendered, "MAX_LITERAL_CHARS", 10)
    assert read_rendered("['one', 'two', 3]") == ["one", "two", 3]
    assert read_rendered("[[True]]") == [[True]]
    with pytest.raises(ValueError, match="neither JSON nor"):
        read_rendered("[[True, False]]")
