# SPDX-License-Identifier: Apache-2.0
"""Whole DAGs run by Airflow: every way to pass ids to the delete and mutations to the sensor."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import AirflowSkipException, Param, task, task_group

from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByIdsOperator
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor
from dags.running import make_dag, query, run_dag
from harness import INDEX, MODES, PROVEN, Vectorize

pytestmark = pytest.mark.usefixtures("airflow_db")

IDS = ["plain", "a,b", "it's", 'say "hi"', "two words", "line\u2028sep", "é漢😀", "1e5", "007"]


def delete(task_id: str = "delete", **kwargs: Any) -> DeleteVectorsByIdsOperator:
    return DeleteVectorsByIdsOperator(task_id=task_id, index_name=INDEX, **kwargs)


def wait(task_id: str = "wait", **kwargs: Any) -> VectorizeMutationSensor:
    arguments: dict[str, Any] = {"poke_interval": 0.05, "timeout": 20, **kwargs}
    return VectorizeMutationSensor(task_id=task_id, index_name=INDEX, **arguments)


def upstream(value: Any) -> Any:
    """Return the output of a task with this result."""

    @task(task_id="upstream")
    def give() -> Any:
        return value

    return give()


# --- ids ----------------------------------------------------------------------------------------------------


def ids_from_list() -> dict[str, Any]:
    return {"ids": IDS}


def ids_from_tuple() -> dict[str, Any]:
    return {"ids": tuple(IDS)}


def ids_from_xcom_arg() -> dict[str, Any]:
    return {"ids": upstream(IDS)}


def ids_from_params() -> dict[str, Any]:
    return {"ids": "{{ params.ids }}"}


def ids_from_xcom_pull() -> dict[str, Any]:
    upstream(IDS)
    return {"ids": "{{ ti.xcom_pull('upstream') }}"}


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(
    "make_ids",
    [
        ids_from_list,
        ids_from_tuple,
        ids_from_xcom_arg,
        ids_from_params,
        ids_from_xcom_pull,
    ],
)
def test_ids_from_any_source(
    vectorize: Vectorize, make_ids: Callable[[], dict[str, Any]], native: bool
) -> None:
    vectorize.fill([*IDS, "other", "plai", "100000.0", "7"])
    with make_dag(
        "ids", params={"ids": Param(IDS, type="array")}, render_template_as_native_obj=native
    ) as dag:
        kwargs = make_ids()
        operator = delete(**kwargs)
        if "upstream" in dag.task_ids:
            dag.get_task("upstream") >> operator
        wait(mutation_id=operator.output)
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert vectorize.ids() == {"other", "plai", "100000.0", "7"}
    assert run.pull("delete") == run.pull("wait")["mutation_id"]


@pytest.mark.parametrize("native", [False, True])
def test_templates_in_a_list_render_to_text(vectorize: Vectorize, native: bool) -> None:
    vectorize.fill(["0x1f", "31", "1e5", "100000.0", "007"])
    with make_dag("items", params={"id": "0x1f"}, render_template_as_native_obj=native) as dag:
        delete(ids=["{{ params.id }}", "1e5"], wait_for_completion=True, poll_interval=0.05)
    assert run_dag(dag).state == "success"
    assert vectorize.ids() == {"31", "100000.0", "007"}


def test_the_error_of_a_bad_id_names_its_source(vectorize: Vectorize) -> None:
    errors: dict[str, str] = {}

    # In Airflow 3.0, a callback's context has no exception.
    class Noting(DeleteVectorsByIdsOperator):
        def execute(self, context: Any) -> Any:
            try:
                return super().execute(context)
            except VectorizeInputError as e:
                errors[self.task_id] = str(e)

    def delete(task_id: str, **kwargs: Any) -> Any:
        return Noting(task_id=task_id, index_name=INDEX, **kwargs)

    def give(task_id: str, value: Any) -> Any:
        @task(task_id=task_id)
        def returns() -> Any:
            return value

        return returns()

    def mapped(task_id: str) -> Any:
        return Noting.partial(task_id=task_id, index_name=INDEX)

    bad = ["a", ""]
    with make_dag("bad", params={"ids": Param(bad, type="array")}) as dag:
        chosen = give("choose", bad)
        delete("literal", ids=bad)
        delete("param", ids="{{ params.ids }}")
        delete("item", ids="{{ params['ids'] }}")
        delete("xcom", ids=chosen)
        chosen >> delete("pulled", ids="{{ ti.xcom_pull('choose') }}")
        mapped("expand").expand(ids=give("chunks", [bad]))
        mapped("kwargs").expand_kwargs(give("arguments", [{"ids": bad}]))
    run_dag(dag)
    shown = "ids[1]: '' is empty (of 2, counted from ids[0]). An id has 1 to 64 bytes of UTF-8. "
    assert [error for error in errors.values() if not error.startswith(shown)] == []
    assert errors.pop("literal").removeprefix(shown).startswith("Pass a list of strings")
    advice = "They come from the {}: correct them there, and leave no line empty"
    assert {task_id: error.removeprefix(shown) for task_id, error in errors.items()} == {
        "param": advice.format('param "ids"'),
        "item": advice.format('param "ids"'),
        "xcom": advice.format('upstream task "choose"'),
        "pulled": advice.format('upstream task "choose"'),
        "expand": advice.format('upstream task "chunks"'),
        "kwargs": advice.format('upstream task "arguments"'),
    }


def test_ids_as_json(vectorize: Vectorize) -> None:
    vectorize.fill([*IDS, "other"])
    with make_dag("json", params={"ids": IDS}) as dag:
        delete(ids="{{ params.ids | tojson }}", wait_for_completion=True, poll_interval=0.05)
    assert run_dag(dag).state == "success"
    assert vectorize.ids() == {"other"}


@pytest.mark.parametrize("count", [1, 100, 101, 250, 10_000])
def test_any_number_of_ids(vectorize: Vectorize, count: int) -> None:
    vectorize.fill([f"v{i}" for i in range(count + 3)])
    with make_dag("many") as dag:
        operator = delete(ids=upstream([f"v{i}" for i in range(count)]))
        wait(mutation_id=operator.output)
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert vectorize.ids() == {f"v{i}" for i in range(count, count + 3)}


def test_integers_from_a_database(vectorize: Vectorize) -> None:
    vectorize.fill(["1", "2", "3"])
    with make_dag("integers") as dag:
        delete(ids=upstream([1, 2]), wait_for_completion=True, poll_interval=0.05)
    assert run_dag(dag).state == "success"
    assert vectorize.ids() == {"3"}


def test_output_of_a_mapped_task_as_ids(vectorize: Vectorize) -> None:
    vectorize.fill(["v1", "v2", "v3"])
    with make_dag("lazy") as dag:

        @task
        def name(number: int) -> str:
            return f"v{number}"

        operator = delete(ids=name.expand(number=[1, 2]))
        wait(mutation_id=operator.output)
    assert run_dag(dag).state == "success"
    assert vectorize.ids() == {"v3"}


@pytest.mark.parametrize("suffix", ["txt", "ndjson"])
def test_ids_path_in_object_storage(vectorize: Vectorize, tmp_path: Path, suffix: str) -> None:
    vectorize.fill([*IDS, "other"])
    path = tmp_path / f"ids.{suffix}"
    lines = IDS if suffix == "txt" else [json.dumps({"id": id_}) for id_ in IDS]
    path.write_text("\r\n".join(lines), encoding="utf-8-sig")
    with make_dag("stored") as dag:
        operator = delete(ids_path=f"file://{tmp_path}/ids.{{{{ params.suffix }}}}")
        dag.params["suffix"] = suffix
        wait(mutation_id=operator.output)
    assert run_dag(dag).state == "success"
    assert vectorize.ids() == {"other"}


# --- mutations ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("overtaken", [False, True])
def test_the_output_finds_its_receipt(vectorize: Vectorize, mode: str, overtaken: bool) -> None:
    vectorize.fill(IDS)
    with make_dag("output") as dag:
        operator = delete(ids=IDS)

        @task
        def others_write() -> None:
            vectorize.settle()

        sensor = wait(
            mutation_id=operator.output,
            deferrable=mode == "deferrable",
            mode="reschedule" if mode == "reschedule" else "poke",
        )
        if overtaken:
            operator >> others_write() >> sensor
    run = run_dag(dag)
    assert run.state == "success", run.states
    evidence = run.pull("wait")
    assert evidence["outcome"] in ({"read_back"} if overtaken else PROVEN)
    assert evidence["witnesses_checked"] == 5


def test_a_mapped_delete_and_one_sensor(vectorize: Vectorize) -> None:
    chunks = [[f"v{i}{j}" for j in range(3)] for i in range(4)]
    vectorize.fill([id_ for chunk in chunks for id_ in chunk] + ["other"])
    with make_dag("mapped") as dag:
        operator = DeleteVectorsByIdsOperator.partial(task_id="delete", index_name=INDEX).expand(ids=chunks)
        wait(mutation_id=operator.output)
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert vectorize.ids() == {"other"}
    evidence = run.pull("wait")
    assert evidence["mutation_count"] == 4
    assert {single["mutation_id"] for single in evidence["mutations"]} == {
        run.pull("delete", map_index=i) for i in range(4)
    }
    # The sensor found each receipt: later mutations have overtaken most of them.
    assert evidence["witnesses_checked"] == 12


def test_a_mapped_delete_and_a_mapped_sensor(vectorize: Vectorize) -> None:
    vectorize.fill(IDS)
    with make_dag("expanded") as dag:
        operator = DeleteVectorsByIdsOperator.partial(task_id="delete", index_name=INDEX).expand(
            ids=[[id_] for id_ in IDS[:3]]
        )
        VectorizeMutationSensor.partial(
            task_id="wait", index_name=INDEX, poke_interval=0.05, timeout=20
        ).expand(mutation_id=operator.output)
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert vectorize.ids() == set(IDS[3:])
    for i in range(3):
        evidence = run.pull("wait", map_index=i)
        assert evidence["mutation_id"] == run.pull("delete", map_index=i)
        assert evidence["witnesses_checked"] == 1


def test_a_mapped_group_of_deletes_and_sensors(vectorize: Vectorize) -> None:
    vectorize.fill(IDS)
    with make_dag("group") as dag:

        @task_group(group_id="forget")
        def forget(ids: list[str]) -> None:
            wait(mutation_id=delete(ids=ids).output)

        forget.expand(ids=[[], IDS[:2], IDS[2:4]])
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert vectorize.ids() == set(IDS[4:])
    outcomes = [run.pull("forget.wait", map_index=i) for i in range(3)]
    # A sensor of an empty delete does not wait for its siblings' mutations.
    assert outcomes[0]["outcome"] == "nothing_to_do"
    assert [evidence["witnesses_checked"] for evidence in outcomes] == [0, 2, 2]


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(
    "template",
    [
        {"mutation_id": "{{ ti.xcom_pull('delete') }}"},
        {"mutation_id": "{{ [ti.xcom_pull('delete'), none] }}"},
        {"mutation_id": "{{ ti.xcom_pull('delete', key='receipt') }}"},
        {"receipt": "{{ ti.xcom_pull('delete', key='receipt') }}"},
        {"receipt": "{{ [ti.xcom_pull('delete', key='receipt')] | tojson }}"},
    ],
)
def test_mutations_from_templates(vectorize: Vectorize, native: bool, template: dict[str, str]) -> None:
    vectorize.fill(IDS)
    with make_dag("jinja", render_template_as_native_obj=native) as dag:

        @task
        def others_write() -> None:
            vectorize.settle()

        operator, sensor = delete(ids=IDS), wait(**template)
        operator >> others_write() >> sensor
        operator >> sensor
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert run.pull("wait")["outcome"] == "read_back"


@pytest.mark.parametrize("native", [False, True])
def test_a_template_with_a_misspelt_task_fails(vectorize: Vectorize, native: bool) -> None:
    with make_dag("misspelt", render_template_as_native_obj=native) as dag:
        wait("misspelt", mutation_id="{{ ti.xcom_pull('delte') }}")
        wait("empty", receipt="{{ '' }}")
        delete(ids=[]) >> wait("nothing", mutation_id="{{ ti.xcom_pull('delete') }}")
    run = run_dag(dag)
    assert run.states == {"misspelt": "failed", "empty": "failed", "delete": "success", "nothing": "success"}


def test_a_list_of_outputs_with_an_empty_delete(vectorize: Vectorize) -> None:
    vectorize.fill(IDS)
    with make_dag("outputs") as dag:
        first, second = delete("first", ids=IDS[:4]), delete("second", ids=IDS[4:8])
        nothing = delete("nothing", ids=[])
        wait(mutation_id=[first.output, second.output, nothing.output])
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert vectorize.ids() == {IDS[8]}
    assert run.pull("wait")["mutation_count"] == 2


@pytest.mark.parametrize("deferrable", [False, True])
def test_an_empty_delete(vectorize: Vectorize, deferrable: bool) -> None:
    with make_dag("empty") as dag:
        operator = delete(ids=upstream([]))
        wait(mutation_id=operator.output, deferrable=deferrable)
        wait("wait_for_receipt", receipt=operator.output["receipt"], deferrable=deferrable)
    run = run_dag(dag)
    assert run.state == "success", run.states
    for task_id in ("wait", "wait_for_receipt"):
        assert run.pull(task_id)["outcome"] == "nothing_to_do"


def test_a_delete_without_a_pushed_return_value(vectorize: Vectorize) -> None:
    vectorize.fill(IDS)
    with make_dag("unpushed") as dag:
        operator = delete(ids=IDS, do_xcom_push=False)
        operator >> wait()
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert run.pull("delete") is None
    evidence = run.pull("wait")
    assert evidence["mutation_id"] == run.pull("delete", "receipt")["mutation_id"]
    assert vectorize.ids() == set()


def test_a_skipped_upstream_task(vectorize: Vectorize) -> None:
    vectorize.fill(IDS)
    with make_dag("skipped") as dag:

        @task
        def skip() -> list[str]:
            raise AirflowSkipException

        skipped = delete("skipped", ids=skip())
        done = delete("done", ids=IDS[:1])
        wait(mutation_id=[skipped.output, done.output], trigger_rule="none_failed")
        wait("only_skipped", mutation_id=skipped.output)
        wait("only_skipped_but_run", mutation_id=skipped.output, trigger_rule="none_failed")
    run = run_dag(dag)
    assert run.states["skipped"] == run.states["only_skipped"] == "skipped"
    assert run.pull("wait")["mutation_id"] == run.pull("done")
    assert run.pull("only_skipped_but_run")["outcome"] == "nothing_to_do"
    assert run.state == "success"


def test_a_wait_in_the_delete_task(vectorize: Vectorize) -> None:
    vectorize.fill(IDS)
    with make_dag("itself") as dag:
        delete(ids=IDS, wait_for_completion=True, deferrable=True, poll_interval=0.05)
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert run.pull("delete", "evidence")["mutation_id"] == run.pull("delete")
    assert vectorize.ids() == set()


def test_the_hook_in_a_plain_task(vectorize: Vectorize) -> None:
    vectorize.fill(IDS)
    with make_dag("plain") as dag:

        @task
        def purge() -> dict[str, Any]:
            from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook

            return CloudflareVectorizeHook().delete_by_ids(INDEX, IDS)

        wait(receipt=purge())
    run = run_dag(dag)
    assert run.state == "success", run.states
    assert vectorize.ids() == set()


def test_the_token_is_nowhere_in_the_database_or_the_output(
    vectorize: Vectorize, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    vectorize.fill(IDS)
    with make_dag("secret") as dag:
        operator = delete(ids=IDS)
        wait(mutation_id=operator.output, deferrable=True)
    caplog.set_level("DEBUG")
    assert run_dag(dag).state == "success"
    lines = f"{caplog.text}{''.join(capfd.readouterr())}".splitlines()
    # At level DEBUG, Airflow 3.0 logs the values to mask of all connections.
    logged = "".join(line for line in lines if "MaskSecret(value=" not in line)
    tables = [name for (name,) in query("SELECT name FROM sqlite_master WHERE type='table'")]
    kept = "".join(str(query(f'SELECT * FROM "{table}"')) for table in tables)
    token = json.loads(os.environ["AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"])["password"]
    assert token == vectorize.server.api_token
    assert "plain" in kept, "the database was read"
    assert token not in kept
    assert token not in logged


@pytest.mark.airflow(before="3.0")
def test_airflow_logs_no_warning_about_the_sensor(
    vectorize: Vectorize, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with make_dag("guard") as dag:
        wait(receipt=vectorize.delete(IDS))
    assert run_dag(dag).state == "success"
    assert "cannot be called outside" not in caplog.text + "".join(capfd.readouterr())


@pytest.mark.parametrize(
    "mode",
    [
        "poke",
        # A test run of Airflow 3.0 counts each reschedule as an attempt and never ends.
        pytest.param("reschedule", marks=pytest.mark.airflow(but_not="3.0")),
        "deferrable",
    ],
)
@pytest.mark.parametrize("soft_fail", [False, True])
def test_a_timeout_is_not_retried(vectorize: Vectorize, mode: str, soft_fail: bool) -> None:
    vectorize.fill(IDS)
    vectorize.settle()
    with make_dag("retries") as dag:
        wait(
            mutation_id="00000000-0000-4000-8000-000000000000",
            timeout=0.2,
            soft_fail=soft_fail,
            retries=3,
            retry_delay=timedelta(0),
            deferrable=mode == "deferrable",
            mode="reschedule" if mode == "reschedule" else "poke",
        )
    run = run_dag(dag)
    assert run.states == {"wait": "skipped" if soft_fail else "failed"}
    assert run.tries("wait") == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_refused_token_is_retried_and_not_skipped(
    vectorize: Vectorize, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT",
        vectorize.server.connection_with("wrong-token-0123456789abcdef0123456789"),
    )
    with make_dag("refused") as dag:
        wait(
            mutation_id="00000000-0000-4000-8000-000000000000",
            soft_fail=True,
            retries=1,
            retry_delay=timedelta(0),
            deferrable=mode == "deferrable",
            mode="reschedule" if mode == "reschedule" else "poke",
        )
    run = run_dag(dag)
    assert run.states == {"wait": "failed"}
    assert run.tries("wait") == 2
