# SPDX-License-Identifier: Apache-2.0
"""The link to Cloudflare's dashboard: its URL, and that Airflow shows it."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_cfvectorize.exceptions import VectorizeError
from airflow_provider_cfvectorize.links import VectorizeIndexLink
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.operators import indexes, vectors
from airflow_provider_cfvectorize.operators.vectors import (
    DeleteVectorsByIdsOperator,
    ListVectorsOperator,
    UpsertVectorsOperator,
)
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor
from dags.running import make_dag, run_dag
from harness import INDEX, Vectorize, make_context, outcome_of, run_task

ACCOUNT = "0123456789abcdef0123456789abcdef"
DASHBOARD = "https://dash.cloudflare.com"
ANY_ACCOUNT = f"{DASHBOARD}/?to=/:account/ai/vectorize"
KEY = "_link_VectorizeIndexLink"
CLASSES = [
    *(getattr(module, name) for module in (vectors, indexes) for name in module.__all__),
    VectorizeMutationSensor,
]


def link_of(operator: Any) -> str:
    """Return the only link of an operator; the task instance does not matter."""
    (link,) = operator.operator_extra_links
    assert link.name == "Cloudflare dashboard"
    return str(link.get_link(operator, ti_key=None))


def page(account_id: str, index_name: str = INDEX) -> str:
    return f"{DASHBOARD}/{account_id}/ai/vectorize/{index_name}"


@pytest.mark.parametrize("cls", CLASSES)
def test_every_operator_has_the_link(cls: Any) -> None:
    (link,) = cls.operator_extra_links
    assert isinstance(link, VectorizeIndexLink)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({"account_id": ACCOUNT}, page(ACCOUNT)),
        ({"account_id": ACCOUNT.upper(), "index_name": "My_Index-2"}, page(ACCOUNT, "My_Index-2")),
        ({}, f"{ANY_ACCOUNT}/{INDEX}"),
        # Not rendered, like in the webserver of Airflow 2.
        ({"account_id": "{{ var.value.account }}"}, f"{ANY_ACCOUNT}/{INDEX}"),
        ({"account_id": ACCOUNT, "index_name": "{{ params.index }}"}, f"{DASHBOARD}/{ACCOUNT}/ai/vectorize"),
        ({"index_name": "{{ params.index }}"}, ANY_ACCOUNT),
        # Values that would change the path.
        ({"account_id": f"{ACCOUNT}/.."}, f"{ANY_ACCOUNT}/{INDEX}"),
        ({"account_id": ACCOUNT + "\n"}, f"{ANY_ACCOUNT}/{INDEX}"),
        ({"account_id": "@evil.example"}, f"{ANY_ACCOUNT}/{INDEX}"),
        ({"account_id": ACCOUNT, "index_name": "../billing"}, f"{DASHBOARD}/{ACCOUNT}/ai/vectorize"),
        ({"account_id": ACCOUNT, "index_name": "a?b"}, f"{DASHBOARD}/{ACCOUNT}/ai/vectorize"),
        ({"account_id": ACCOUNT, "index_name": "é"}, f"{DASHBOARD}/{ACCOUNT}/ai/vectorize"),
        ({"account_id": ACCOUNT, "index_name": "a" * 65}, f"{DASHBOARD}/{ACCOUNT}/ai/vectorize"),
        # Values that a template can render to.
        ({"account_id": 7, "index_name": None}, ANY_ACCOUNT),
        ({"account_id": [ACCOUNT], "index_name": {}}, ANY_ACCOUNT),
    ],
)
def test_the_url_of_the_link(given: dict[str, Any], expected: str) -> None:
    for cls in (ListVectorsOperator, VectorizeMutationSensor):
        assert link_of(cls(task_id="a", **{"index_name": INDEX} | given)) == expected


def test_an_operator_without_attributes() -> None:
    # In the webserver of Airflow 2, a mapped operator lacks the mapped attributes.
    assert VectorizeIndexLink().get_link(object(), ti_key=None) == ANY_ACCOUNT


def test_the_link_has_the_account_of_the_used_connection(vectorize: Vectorize) -> None:
    vectorize.fill(["a"])
    delete = DeleteVectorsByIdsOperator(task_id="a", index_name=INDEX, ids=["a"])
    assert link_of(delete) == f"{ANY_ACCOUNT}/{INDEX}"
    context = make_context()
    run_task(lambda: delete, context)
    assert link_of(delete) == page(vectorize.server.account_id)
    sensor = VectorizeMutationSensor(
        task_id="b", index_name=INDEX, receipt=context["ti"].pushed["receipt"], poke_interval=0.01
    )
    run_task(lambda: sensor, make_context())
    assert link_of(sensor) == page(vectorize.server.account_id)


@pytest.mark.parametrize("timeout", [60, 0])
def test_the_link_has_the_account_after_a_deferral(timeout: float) -> None:
    # A failed wait has no evidence with the account.
    with LocalVectorize(apply_delay=0.3 if timeout else 600) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT", server.connection)
        vectorize = Vectorize(server)
        made: list[Any] = []

        def delete() -> Any:
            made.append(
                DeleteVectorsByIdsOperator(
                    task_id="a",
                    index_name=INDEX,
                    ids=["a"],
                    wait_for_completion=True,
                    wait_timeout=timeout,
                    poll_interval=0.05,
                    deferrable=True,
                )
            )
            return made[-1]

        def sensor() -> Any:
            made.append(
                VectorizeMutationSensor(
                    task_id="b",
                    index_name=INDEX,
                    receipt=receipt,
                    timeout=timeout,
                    poke_interval=0.05,
                    deferrable=True,
                )
            )
            return made[-1]

        receipt = vectorize.delete(["b"])
        for make in (delete, sensor):
            made.clear()
            state, error = outcome_of(lambda make=make: run_task(make, make_context()))  # type: ignore[misc]
            assert state == ("success" if timeout else "failed")
            assert timeout or isinstance(error, VectorizeError)
            assert len(made) == 2
            assert [link_of(one) for one in made] == [page(server.account_id)] * 2


# --- in Airflow ---------------------------------------------------------------------------------------------


def all_operators() -> DAG:
    with make_dag("all_operators") as dag:
        for cls in CLASSES:
            more: dict[str, Any] = {"property_name": "a"} if "MetadataIndex" in cls.__name__ else {}
            if cls.__name__ == "CreateVectorizeMetadataIndexOperator":
                more["index_type"] = "string"
            if cls.__name__ == "DeleteVectorsByFilterOperator":
                more |= {"namespace": "a", "max_ids": 1}
            cls(task_id=cls.__name__, index_name=INDEX, account_id=ACCOUNT, **more)
        ListVectorsOperator.partial(task_id="mapped", account_id=ACCOUNT).expand(index_name=["a", "b"])
    return dag


@pytest.mark.airflow(since="3.0")
def test_the_serialized_dag_names_the_xcom() -> None:
    try:
        from airflow.serialization.serialized_objects import DagSerialization as Serialization
    except ImportError:
        from airflow.serialization.serialized_objects import SerializedDAG as Serialization

    read = Serialization.from_dict(Serialization.to_dict(all_operators()))
    for task in read.tasks:
        assert task.extra_links == ["Cloudflare dashboard"], task.task_id
        (link,) = task.operator_extra_links
        assert link.xcom_key == KEY


@pytest.mark.airflow(before="3.0")
def test_the_webserver_of_airflow_2_makes_the_link(airflow_db: None) -> None:
    from unittest.mock import Mock

    from airflow.serialization.serialized_objects import SerializedDAG

    read = SerializedDAG.from_dict(SerializedDAG.to_dict(all_operators()))
    for task in read.tasks:
        assert task.extra_links == ["Cloudflare dashboard"], task.task_id
        # The webserver knows no account of a mapped task.
        expected = ANY_ACCOUNT if task.task_id == "mapped" else page(ACCOUNT)
        assert task.get_extra_links(Mock(), "Cloudflare dashboard") == expected


@pytest.mark.airflow(since="3.0")
@pytest.mark.usefixtures("airflow_db")
def test_the_worker_pushes_the_link_for_the_ui(vectorize: Vectorize) -> None:
    with make_dag("links", params={"index": INDEX}) as dag:
        upsert = UpsertVectorsOperator(
            task_id="upsert", index_name="{{ params.index }}", vectors=[{"id": "a", "values": [0.5] * 32}]
        )
        upsert >> VectorizeMutationSensor(
            task_id="wait", index_name=INDEX, mutation_id=upsert.output, deferrable=True, poke_interval=0.1
        )
        ListVectorsOperator.partial(task_id="list").expand(index_name=[INDEX, "no-such-index"])
    run = run_dag(dag)
    assert run.states == {"upsert": "success", "wait": "success", "list[0]": "success", "list[1]": "failed"}
    account_id = vectorize.server.account_id
    for task_id in ("upsert", "wait"):
        assert run.pull(task_id, KEY) == page(account_id), task_id
    assert run.pull("list", KEY, map_index=0) == page(account_id)
    # A failed task has the link too.
    assert run.pull("list", KEY, map_index=1) == page(account_id, "no-such-index")
