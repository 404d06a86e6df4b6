# SPDX-License-Identifier: Apache-2.0
"""Whole DAGs run by Airflow that create and delete indexes and metadata indexes."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import Param, task

from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.operators.indexes import (
    CreateVectorizeIndexOperator,
    CreateVectorizeMetadataIndexOperator,
    DeleteVectorizeIndexOperator,
    DeleteVectorizeMetadataIndexOperator,
)
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor
from dags.running import make_dag, run_dag
from harness import DIMENSIONS, INDEX

pytestmark = pytest.mark.usefixtures("airflow_db")

TYPES = {"lang": "string", "year": "number"}


def create(task_id: str = "create", **kwargs: Any) -> CreateVectorizeIndexOperator:
    arguments: dict[str, Any] = {"index_name": INDEX, "poll_interval": 0.05, **kwargs}
    if "preset" not in kwargs:
        arguments = {"dimensions": DIMENSIONS, "metric": "cosine", **arguments}
    return CreateVectorizeIndexOperator(task_id=task_id, **arguments)


def wait(task_id: str = "wait", **kwargs: Any) -> VectorizeMutationSensor:
    arguments: dict[str, Any] = {"index_name": INDEX, "poke_interval": 0.05, "timeout": 20, **kwargs}
    return VectorizeMutationSensor(task_id=task_id, **arguments)


def client_of(server: LocalVectorize) -> VectorizeClient:
    return VectorizeClient(server.account_id, api_token=server.api_token, base_url=server.base_url)


def types_of(server: LocalVectorize) -> dict[str, str]:
    listed = client_of(server).list_metadata_indexes(INDEX)
    return {one["propertyName"]: one["indexType"] for one in listed}


@task
def fill() -> dict[str, Any]:
    """Write vectors and return the receipt for the sensor."""
    from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook

    hook = CloudflareVectorizeHook()
    vectors: list[Any] = [
        {"id": f"v{i}", "values": [0.5] * DIMENSIONS, "metadata": {"lang": ("de", "en")[i % 2], "year": i}}
        for i in range(6)
    ]
    return hook.upsert(INDEX, vectors)


@task
def query() -> list[str]:
    """Query with a filter on both properties."""
    from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook

    found = CloudflareVectorizeHook().query(
        INDEX, vector=[0.5] * DIMENSIONS, top_k=10, filter={"lang": "en", "year": {"$gte": 2}}
    )
    return sorted(match["id"] for match in found["matches"])


@pytest.mark.parametrize("deferrable", [False, True])
def test_an_index_is_created_filled_queried_and_deleted(server: LocalVectorize, deferrable: bool) -> None:
    with make_dag("life") as dag:
        made = create(metadata_indexes=TYPES)
        filled = fill()
        (
            made
            >> filled
            >> wait(receipt=filled, deferrable=deferrable)
            >> query()
            >> DeleteVectorizeIndexOperator(task_id="delete", index_name=INDEX)
        )
    run = run_dag(dag)
    assert run.state == "success", run.states
    # The vectors were written without a wait for the metadata indexes.
    assert run.pull("query") == ["v3", "v5"]
    assert run.pull("create", "index")["config"] == {"dimensions": DIMENSIONS, "metric": "cosine"}
    assert run.pull("create", "receipt")["mutation_id"] == run.pull("create")
    assert run.pull("delete") is None
    assert client_of(server).list_indexes() == []


@pytest.mark.parametrize("deferrable", [False, True])
@pytest.mark.parametrize("downstream", [False, True])
def test_every_write_can_be_waited_for(server: LocalVectorize, deferrable: bool, downstream: bool) -> None:
    waiting: dict[str, Any] = {"index_name": INDEX, "poll_interval": 0.05}
    if not downstream:
        waiting |= {"wait_for_completion": True, "deferrable": deferrable}
    with make_dag("writes") as dag:
        steps: list[Any] = [
            create(metadata_indexes=TYPES, **waiting),
            CreateVectorizeMetadataIndexOperator(
                task_id="add", property_name="flag", index_type="boolean", **waiting
            ),
            DeleteVectorizeMetadataIndexOperator(task_id="remove", property_name="lang", **waiting),
        ]
        last = None
        for step in steps:
            if last is not None:
                last >> step
            last = step
            if downstream:
                last = wait(f"wait_{step.task_id}", mutation_id=step.output, deferrable=deferrable)
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert types_of(server) == {"year": "number", "flag": "boolean"}
    for step in ("create", "add", "remove"):
        evidence = run.pull(f"wait_{step}") if downstream else run.pull(step, "evidence")
        assert (evidence["mutation_id"], evidence["outcome"]) == (run.pull(step), "watermark")


@pytest.mark.parametrize("deferrable", [False, True])
def test_a_wait_without_a_mutation_ends_at_once(server: LocalVectorize, deferrable: bool) -> None:
    with make_dag("nothing") as dag:
        made = create()
        again = create("again", if_exists="skip", wait_for_completion=True, deferrable=deferrable)
        made >> again
        wait(mutation_id=made.output, deferrable=deferrable)
        wait("wait_for_again", mutation_id=again.output, deferrable=deferrable)
    run = run_dag(dag)
    assert run.state == "success", run.states
    for evidence in (run.pull("wait"), run.pull("again", "evidence"), run.pull("wait_for_again")):
        assert evidence["outcome"] == "nothing_to_do"


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("as_json", [False, True])
def test_all_arguments_from_params(server: LocalVectorize, native: bool, as_json: bool) -> None:
    params = {
        "name": "of-params",
        "dimensions": 64,
        "metric": "dot-product",
        "preset": Param(None, type=["null", "string"]),
        "description": "of 2026",
        "types": Param(TYPES, type="object"),
        "property": "flag",
        "type": "boolean",
        "if_exists": "skip",
        "if_missing": "skip",
    }
    named = {"index_name": "{{ params.name }}"}
    with make_dag("params", params=params, render_template_as_native_obj=native) as dag:
        steps: list[Any] = [
            create(
                **named,
                dimensions="{{ params.dimensions }}",
                metric="{{ params.metric }}",
                preset="{{ params.preset }}",
                description="{{ params.description }}",
                metadata_indexes="{{ params.types | tojson }}" if as_json else "{{ params.types }}",
                if_exists="{{ params.if_exists }}",
            ),
            CreateVectorizeMetadataIndexOperator(
                task_id="add",
                **named,
                property_name="{{ params.property }}",
                index_type="{{ params.type }}",
                if_exists="{{ params.if_exists }}",
                wait_for_completion=True,
                poll_interval=0.05,
            ),
            DeleteVectorizeMetadataIndexOperator(
                task_id="remove",
                **named,
                property_name="{{ params.property }}",
                if_missing="{{ params.if_missing }}",
                wait_for_completion=True,
                poll_interval=0.05,
            ),
            DeleteVectorizeIndexOperator(
                task_id="delete", **named, if_missing="{{ params.if_missing }}", trigger_rule="all_done"
            ),
        ]
        for first, second in pairwise(steps):
            first >> second
    run = run_dag(dag)
    assert run.states == dict.fromkeys(["create", "add", "remove", "delete"], "success")
    index = run.pull("create", "index")
    assert (index["name"], index["description"]) == ("of-params", "of 2026")
    assert index["config"] == {"dimensions": 64, "metric": "dot-product"}
    assert run.pull("create", "receipt")["count"] == 2
    assert client_of(server).list_indexes() == []


def test_the_types_of_a_mapping_are_rendered(server: LocalVectorize) -> None:
    with make_dag("mapping", params={"type": "number"}) as dag:
        create(metadata_indexes={"year": "{{ params.type }}", "lang": "string"}, wait_for_completion=True)
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert types_of(server) == {"year": "number", "lang": "string"}


def test_a_mapped_create(server: LocalVectorize) -> None:
    with make_dag("mapped") as dag:
        CreateVectorizeIndexOperator.partial(task_id="create", dimensions=32, metric="cosine").expand(
            index_name=["docs-de", "docs-en"]
        )
    assert run_dag(dag).state == "success"
    assert {index["name"] for index in client_of(server).list_indexes()} == {"docs-de", "docs-en"}


@pytest.mark.parametrize("if_exists", ["fail", "skip"])
def test_a_retry_after_the_index_was_created(
    server: LocalVectorize, monkeypatch: pytest.MonkeyPatch, if_exists: str
) -> None:
    send = VectorizeClient.create_metadata_index
    tries: list[str] = []

    def end_the_first_attempt(client: VectorizeClient, index_name: str, name: str, index_type: Any) -> Any:
        tries.append(name)
        if len(tries) == 2:
            raise MemoryError
        return send(client, index_name, name, index_type)

    monkeypatch.setattr(VectorizeClient, "create_metadata_index", end_the_first_attempt)
    with make_dag("tries") as dag:
        create(
            metadata_indexes=TYPES,
            if_exists=if_exists,
            wait_for_completion=True,
            retries=1,
            retry_delay=timedelta(0),
        )
    run = run_dag(dag)
    assert run.tries("create") == 2
    if if_exists == "skip":
        assert run.state == "success"
        assert types_of(server) == TYPES
    else:
        assert run.state == "failed"
        assert tries == ["lang", "year"]
