# SPDX-License-Identifier: Apache-2.0
"""Mapped tasks treat values from XCom as data and values in the DAG file as templates."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import task, task_group

from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.operators.vectors import (
    DeleteVectorsByIdsOperator,
    ListVectorsOperator,
    QueryVectorsOperator,
    UpsertVectorsOperator,
)
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor
from dags.running import make_dag, run_dag
from harness import DIMENSIONS, INDEX, Vectorize

pytestmark = pytest.mark.usefixtures("airflow_db")
#: A template in the DAG file; data in an XCom.
TEXT = "price {{ 7*7 }}"
RENDERED = "price 49"


class Shown(DeleteVectorsByIdsOperator):
    """An operator that returns its index name and ids."""

    def execute(self, context: Any) -> Any:
        return [self.index_name, list(self.ids)]


class Making(Shown):
    """An operator that derives a parameter from another and has a template as its default."""

    def __init__(self, *, chunk: str, account_id: str = "{{ 'of-class' }}", **kwargs: Any) -> None:
        super().__init__(account_id=account_id, ids=[f"{chunk}-1"], **kwargs)

    def execute(self, context: Any) -> Any:
        return [self.account_id, *super().execute(context)]


def give(value: Any, task_id: str) -> Any:
    return task(task_id=task_id)(lambda: value)()


def as_is(row: Any) -> Any:
    return row


def as_kwargs(row: Any) -> Any:
    return {"ids": row}


def test_text_from_xcom_is_not_rendered() -> None:
    @task_group
    def group(ids: Any) -> None:
        Shown(task_id="shown", ids=ids)

    defaults = {"index_name": "{{ 'of-dag' }}"}
    with make_dag("ways", default_args=defaults, render_template_as_native_obj=True) as dag:
        row, rows = give([TEXT], "row"), give([[TEXT]], "rows")
        kwargs, more = give({"ids": [TEXT]}, "kwargs"), give([{"ids": [TEXT], "index_name": TEXT}], "more")
        Shown.partial(task_id="partial", index_name="{{ 'of-partial' }}").expand(ids=rows)
        Shown.partial(task_id="mapped").expand(ids=rows.map(as_is))
        Shown.partial(task_id="zipped").expand(ids=row.zip(row))
        Shown.partial(task_id="kwargs_mapped").expand_kwargs(rows.map(as_kwargs))
        Shown.partial(task_id="kwargs_more", index_name="docs").expand_kwargs(more, strict=False)
        literal = [kwargs, {"ids": [TEXT], "index_name": "{{ 2 }}"}, {"ids": row}, {"ids": [row, TEXT]}]
        Shown.partial(task_id="kwargs_literal").expand_kwargs(literal)
        Shown.partial(task_id="literal").expand(ids=[[TEXT], row])
        group.override(group_id="a").expand(ids=rows)
        group.override(group_id="b").expand_kwargs(rows.map(as_kwargs))
        Making.partial(task_id="made").expand(chunk=["a {{ 1+1 }}"])
        Making.partial(task_id="made_of_xcom").expand(chunk=give(["a"], "chunk"))
    run = run_dag(dag)
    assert run.state == "success", run.states
    found = {key: run.pull(key.partition("[")[0], map_index=int(key[-2])) for key in run.states if "[" in key}
    assert found == {
        "partial[0]": ["of-partial", [TEXT]],
        "mapped[0]": ["of-dag", [TEXT]],
        "zipped[0]": ["of-dag", [TEXT, TEXT]],
        "kwargs_mapped[0]": ["of-dag", [TEXT]],
        "kwargs_more[0]": [TEXT, [TEXT]],
        "kwargs_literal[0]": ["of-dag", [TEXT]],
        "kwargs_literal[1]": ["2", [RENDERED]],
        "kwargs_literal[2]": ["of-dag", [TEXT]],
        "kwargs_literal[3]": ["of-dag", [[TEXT], RENDERED]],
        "literal[0]": ["of-dag", [RENDERED]],
        "literal[1]": ["of-dag", [TEXT]],
        "a.shown[0]": ["of-dag", [TEXT]],
        "b.shown[0]": ["of-dag", [TEXT]],
        "made[0]": ["of-class", "of-dag", ["a 2-1"]],
        "made_of_xcom[0]": ["of-class", "of-dag", ["a-1"]],
    }


def test_text_of_unknown_origin_is_refused() -> None:
    with make_dag("unknown"):
        mapped = Making.partial(task_id="made", index_name=INDEX).expand(chunk=give([TEXT], "chunk"))
    with pytest.raises(VectorizeInputError, match="or text from XCom"):
        mapped.unmap({"chunk": TEXT}).render_template_fields({})


def test_an_id_that_looks_like_a_template_is_deleted(vectorize: Vectorize) -> None:
    vectorize.fill([TEXT, RENDERED])
    vector = {"id": "new", "values": [0.5] * DIMENSIONS, "metadata": {"text": "{{ conn.other.password }}"}}
    with make_dag("named") as dag:
        deleted = DeleteVectorsByIdsOperator.partial(task_id="delete", index_name=INDEX).expand_kwargs(
            give([{"ids": [TEXT]}], "ids")
        )
        filled = UpsertVectorsOperator.partial(task_id="fill", index_name=INDEX).expand_kwargs(
            give([{"vectors": [vector]}], "vectors")
        )
        ListVectorsOperator.partial(task_id="list", index_name=INDEX).expand_kwargs(
            give([{"prefix": "{{ 'price' }}"}], "prefixes")
        )
        QueryVectorsOperator.partial(
            task_id="query", index_name=INDEX, vector=vector["values"]
        ).expand_kwargs(give([{"namespace": "{{ '' }}"}], "filters"))
        waits = VectorizeMutationSensor.partial(task_id="wait", index_name=INDEX, poke_interval=0.05)
        waits.expand_kwargs(deleted.output.zip(filled.output).map(lambda ids: {"mutation_id": list(ids)}))
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert vectorize.ids() == {RENDERED, "new"}
    assert vectorize.client.get_by_ids(INDEX, ["new"])[0]["metadata"] == vector["metadata"]
    assert run.pull("list", map_index=0) == []
    assert run.pull("query", map_index=0)["count"] == 0
