# SPDX-License-Identifier: Apache-2.0
"""Finds the receipts that a sensor waits for: the passed ones, or those of the upstream tasks."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.client.mutations.receipts import RECEIPT_KEY, Receipt, condense
from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.templating import read_nothing, read_structure

if TYPE_CHECKING:
    from airflow.providers.common.compat.sdk import Context


def read_waits(
    mutation_id: Any,
    receipt: Any,
    context: Context,
    *,
    index_name: str,
    account_id: str,
    texts: Collection[str] = (),
) -> Sequence[Receipt]:
    """
    Return the receipts to wait for, each once and condensed for a trigger; empty if nothing was sent.

    :param context: the task's context. If no receipt is passed, the receipts of its direct upstream tasks
        count.
    :param texts: the names of those of the first two parameters that the DAG gives as text, such as a
        template.
    :raises VectorizeInputError: the value is not a mutation, or belongs to another index or account; or a
        template renders to nothing and no upstream receipt says that there was nothing to do.
    """
    given = {"mutation_id": mutation_id, "receipt": receipt}
    lost = [name for name, value in given.items() if _is_lost(value, is_text=name in texts)]
    passed = [*_flatten(receipt, "receipt"), *_flatten(mutation_id, "mutation_id")]
    known = {r.mutation_id: r for r in passed if not r.bare}
    bare = [r.mutation_id for r in passed if r.bare and r.mutation_id not in known]
    # None and bare ids need the upstream receipts. A receipt does not, even if it says that nothing was sent.
    if bare or lost or not known:
        found = list(_upstream_receipts(context))
        # Upstream tasks may also write to other indexes; other sensors wait for those.
        ours = [r for r in found if r.index_name == index_name]
        if lost and not any(r.mutation_id is None for r in ours) and (passed or not ours):
            raise VectorizeInputError(
                f"{lost[0]} is {show(given[lost[0]], 200)} after rendering, and no task directly "
                f"upstream has pushed a receipt of index {show(index_name)} that says that there was "
                "nothing to do. Check the task id in the template, or pass the task's output: "
                "mutation_id=delete.output"
            )
        if bare:
            wanted = set(bare)
            known |= {r.mutation_id: r for r in found if r.mutation_id in wanted}
        elif not known:
            known = {r.mutation_id: r for r in ours or found}
    waits = [r for id_, r in known.items() if id_ is not None]
    _check(waits, index_name=index_name, account_id=account_id)
    waits += [Receipt.of_bare_id(id_) for id_ in dict.fromkeys(bare) if id_ not in known]
    # In every mode, so that every mode ends with equal evidence.
    return condense(waits)


def _is_lost(value: Any, *, is_text: bool) -> bool:
    """Return whether a template, or one in a list, renders to nothing. Airflow resolves XComs to None."""
    if isinstance(value, list | tuple):
        return any(_is_lost(item, is_text=False) for item in value)
    return read_nothing(value) is None and (is_text or value is not None)


def _check(receipts: Sequence[Receipt], *, index_name: str, account_id: str) -> None:
    for receipt in receipts:
        if receipt.index_name is not None and receipt.index_name != index_name:
            raise VectorizeInputError(
                f"the receipt of mutation {receipt.mutation_id} belongs to index {show(receipt.index_name)}, "
                f"but this sensor waits on index {show(index_name)}. Set the sensor's index_name to that of "
                "the task it waits for"
            )
        if receipt.account_id is not None and receipt.account_id.lower() != account_id:
            raise VectorizeInputError(
                f"the receipt of mutation {receipt.mutation_id} belongs to account "
                f"{show(receipt.account_id)}, but this sensor uses account {show(account_id)}. Pass one "
                "conn_id and account_id to both tasks"
            )


def _flatten(value: Any, name: str) -> list[Receipt]:
    """Return the receipts and bare ids in a value of any accepted shape, as receipts."""
    value = read_structure(read_nothing(value), name)
    if value is None:
        return []
    if isinstance(value, Mapping):
        return [Receipt.from_dict(value)]
    if isinstance(value, str):
        return [Receipt.of_bare_id(value)]
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
        return [receipt for item in value for receipt in _flatten(item, name)]
    raise VectorizeInputError(
        f"{name} is {show(value)}, expected a task's output (delete.output), its receipt "
        "(delete.output['receipt']), or a list of them"
    )


def _upstream_receipts(context: Context) -> Iterable[Receipt]:
    task: Any = context.get("task")
    upstream = sorted(getattr(task, "upstream_task_ids", None) or ())
    ti: Any = context["ti"]
    groups = _mapped_groups(task)
    pulled: list[Any] = []
    for task_id in upstream:
        # In a mapped task group, each sensor waits for the receipts of its own map index; elsewhere, for
        # those of all map indexes. A skipped task has no receipt.
        is_beside = bool(groups) and groups & _mapped_groups(task.dag.get_task(task_id))
        only = {"map_indexes": ti.map_index} if is_beside else {}
        pulled += ti.xcom_pull(task_ids=[task_id], key=RECEIPT_KEY, **only) or ()
    return [receipt for value in pulled if (receipt := _receipt_or_none(value)) is not None]


def _receipt_or_none(value: Any) -> Receipt | None:
    # The key is a common word: other tasks may push other values with it.
    if not isinstance(value, Mapping) or not {"mutation_id", "index_name", "account_id"} <= value.keys():
        return None
    try:
        return Receipt.from_dict(value)
    except VectorizeInputError:
        return None


def _mapped_groups(task: Any) -> set[str]:
    find = getattr(task, "iter_mapped_task_groups", None)
    return {group.group_id for group in find()} if find is not None else set()
