# SPDX-License-Identifier: Apache-2.0
"""The private parts of Airflow that ``airflow_rendering.py`` needs, on every supported version."""

from __future__ import annotations

import inspect
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG, BaseOperator

from airflow_provider_cfvectorize.airflow_rendering import mapped_arguments
from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByIdsOperator


def make_mapped(**over: Any) -> tuple[Any, Any]:
    """Return a DAG with a mapped task, and the task."""
    with DAG("private", schedule=None, start_date=datetime(2026, 1, 1, tzinfo=UTC)) as dag:
        partial = DeleteVectorsByIdsOperator.partial(task_id="a", index_name="docs")
        partial.expand_kwargs(over["each"]) if "each" in over else partial.expand(**over)
    return dag, dag.task_dict["a"]


@pytest.mark.parametrize(
    ("method", "parameters"),
    [
        ("_do_render_template_fields", ["parent", "template_fields", "context", "jinja_env", "seen_oids"]),
        ("_render", ["template", "context", "dag"]),
    ],
)
def test_signatures_of_the_rendering_methods(method: str, parameters: list[str]) -> None:
    assert [*inspect.signature(getattr(BaseOperator, method)).parameters][1:] == parameters


def test_attributes_of_a_mapped_task() -> None:
    _, task = make_mapped(ids=[["a"], ["b"]])
    over, others = mapped_arguments(task)
    assert over == {"ids": [["a"], ["b"]]}
    assert others["index_name"] == "docs"
    _, task = make_mapped(each=[{"ids": ["a"]}, {"ids": ["b"]}])
    assert mapped_arguments(task)[0] == [{"ids": ["a"]}, {"ids": ["b"]}]


def test_attributes_of_a_plain_task() -> None:
    over, others = mapped_arguments(DeleteVectorsByIdsOperator(task_id="a", index_name="docs", ids=["a"]))
    assert over is None
    assert others["index_name"] == "docs"


def test_the_constructor_receives_the_mapped_argument() -> None:
    assert DeleteVectorsByIdsOperator(task_id="a", index_name="docs", ids=["a"]).mapped_with is None
    made = DeleteVectorsByIdsOperator(task_id="a", index_name="docs", ids=["a"], _airflow_from_mapped=True)
    assert made.mapped_with == {"index_name": "docs", "ids": ["a"]}
