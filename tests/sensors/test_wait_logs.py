# SPDX-License-Identifier: Apache-2.0
"""Log lines of a write and of its wait."""

from __future__ import annotations

import re
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import TaskDeferred

from airflow_provider_cfvectorize.client.inputs.text import counted
from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook
from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByIdsOperator, UpsertVectorsOperator
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor
from harness import INDEX, Vectorize, make_context

Read = Callable[[], str]


@pytest.fixture
def read(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> Read:
    """Return the log since the last call. Airflow 2 also writes it to standard output."""
    caplog.set_level("INFO")

    def read() -> str:
        text = caplog.text + capfd.readouterr().out
        caplog.clear()
        return text

    return read


def run(task: Any) -> None:
    with suppress(TaskDeferred):
        task.execute(make_context())


@pytest.mark.parametrize("ids", [["a"], ["a", "b"]])
def test_hook_and_operator_log_equal_lines(vectorize: Vectorize, read: Read, ids: list[str]) -> None:
    vectorize.fill(ids)
    read()
    amount = "1 id in 1 request" if len(ids) == 1 else "2 ids in 1 request"
    line = rf"Accepted: {amount}; the last mutation is [0-9a-f-]{{36}}, it has \d witness(?:es)?\."
    CloudflareVectorizeHook().delete_by_ids(INDEX, ids)
    assert len(set(re.findall(line, read()))) == 1
    run(DeleteVectorsByIdsOperator(task_id="t", index_name=INDEX, ids=ids))
    assert len(set(re.findall(line, read()))) == 1


def test_a_fill_logs_its_progress_and_ends_with_the_acceptance(vectorize: Vectorize, read: Read) -> None:
    vectors = [{"id": f"v{i}", "values": [0.5] * 32} for i in range(5001)]
    calls: list[Callable[[], Any]] = [
        lambda: CloudflareVectorizeHook().upsert(INDEX, vectors),
        lambda: run(UpsertVectorsOperator(task_id="t", index_name=INDEX, vectors=vectors)),
    ]
    progress = f"Upserting into {INDEX}: 5000 vectors in 1 request acknowledged"
    end = r"Accepted: 5001 vectors in 2 requests; the last mutation is \S+, it has \d witness(?:es)?\."
    for call in calls:
        read()
        call()
        lines = dict.fromkeys(re.findall(r"Upserting into .*? acknowledged|Accepted: .*?\.", read()))
        assert re.fullmatch(f"{progress}\n{end}", "\n".join(lines))


def test_a_deferral_logs_mutation_interval_and_deadline(vectorize: Vectorize, read: Read) -> None:
    said = r"poll every 7 s, until \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ \(600 s\) at the latest\."
    run(
        DeleteVectorsByIdsOperator(
            task_id="t",
            index_name=INDEX,
            ids=["a"],
            wait_for_completion=True,
            deferrable=True,
            poll_interval=7,
            wait_timeout=600,
        )
    )
    text = read()
    mutation_id = re.findall(r"the last mutation is (\S+),", text)[0]
    assert re.search(f"Deferring: mutation {mutation_id[:8]} of index {INDEX}, {said}", text)
    for waits, what in ((["m"], "mutation m"), (["m", "n"], "2 mutations")):
        run(
            VectorizeMutationSensor(
                task_id="t",
                index_name=INDEX,
                mutation_id=waits,
                deferrable=True,
                poke_interval=7,
                timeout=600,
            )
        )
        (line,) = set(re.findall(r"Deferring: .*latest\.", read()))
        assert re.fullmatch(f"Deferring: {what} of index {INDEX}, {said}", line)
        assert len(line) <= 120


def test_counted_nouns_agree_in_number() -> None:
    assert [counted(n, "batch") for n in (0, 1, 2)] == ["0 batches", "1 batch", "2 batches"]
    assert [counted(n, "id", "are") for n in (0, 1)] == ["0 ids are", "1 id is"]
    assert counted(2, "metadata index", "have") == "2 metadata indexes have"
