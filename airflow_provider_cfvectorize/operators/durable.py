# SPDX-License-Identifier: Apache-2.0
"""Progress that outlives a try, where Airflow has a place for it: ``task_state_store``, from 3.3 on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow_provider_cfvectorize.exceptions import VectorizeError

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context

    from airflow_provider_cfvectorize.client.checkpoint import Checkpoint
    from airflow_provider_cfvectorize.client.client import VectorizeClient
    from airflow_provider_cfvectorize.operators.base import VectorizeWriteOperator


def open_checkpoint(
    operator: VectorizeWriteOperator, context: Context, client: VectorizeClient, *parts: object
) -> Checkpoint | None:
    """
    Return where the progress of a write is kept; None where there is no such place.

    Progress counts only for the same work: the same kind of operator, account, index, time the index was
    created, and parts, in a task that was not cleared since. Airflow 3.3 keeps the state of a cleared task.
    Clearing raises the task instance's ``max_tries``, which a retry leaves alone; and the run's
    ``clear_number``, unless the run is not reset.

    :param operator: the task.
    :param context: its context.
    :param client: asks for the index.
    :param parts: what else tells its work from other work; values of JSON.
    """
    store = store_of(operator, context)
    if store is None:
        return None
    from airflow_provider_cfvectorize.client.checkpoint import Checkpoint, fingerprint_of
    from airflow_provider_cfvectorize.client.waiting import ends_a_write

    try:
        created_on = operator.ask(client.get_index, operator.index_name).get("created_on")
    except VectorizeError as e:
        if ends_a_write(e):
            raise
        operator.log.warning(
            "No progress is kept, so a retry sends everything again: asking for the index failed: %s", e
        )
        return None
    fingerprint = fingerprint_of(
        type(operator).__name__,
        client.base_url,
        client.account_id,
        operator.index_name,
        created_on,
        getattr(context.get("dag_run"), "clear_number", None),
        context["ti"].max_tries,
        *parts,
    )
    return Checkpoint(store, fingerprint, operator.log)


def store_of(operator: VectorizeWriteOperator, context: Context) -> Any:
    """
    Return where the progress of a task is kept; None where it is not.

    :param operator: the task.
    :param context: its context.
    """
    return context.get("task_state_store") if operator.durable else None
