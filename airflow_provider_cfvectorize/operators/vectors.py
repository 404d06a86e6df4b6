# SPDX-License-Identifier: Apache-2.0
"""
The operators for vectors; import them from here.

To add an operator, edit three places of this module: the imports for type checkers, ``__all__`` and
``_MODULES``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_cfvectorize.operators.delete import DeleteVectorsByIdsOperator
    from airflow_provider_cfvectorize.operators.delete_by_filter import DeleteVectorsByFilterOperator
    from airflow_provider_cfvectorize.operators.read import (
        GetVectorsByIdsOperator,
        ListVectorsOperator,
        QueryVectorsOperator,
    )
    from airflow_provider_cfvectorize.operators.reconcile import ReconcileVectorsOperator
    from airflow_provider_cfvectorize.operators.write import InsertVectorsOperator, UpsertVectorsOperator

__all__ = [
    "DeleteVectorsByFilterOperator",
    "DeleteVectorsByIdsOperator",
    "GetVectorsByIdsOperator",
    "InsertVectorsOperator",
    "ListVectorsOperator",
    "QueryVectorsOperator",
    "ReconcileVectorsOperator",
    "UpsertVectorsOperator",
]

_MODULES = {
    "DeleteVectorsByFilterOperator": "delete_by_filter",
    "DeleteVectorsByIdsOperator": "delete",
    "GetVectorsByIdsOperator": "read",
    "InsertVectorsOperator": "write",
    "ListVectorsOperator": "read",
    "QueryVectorsOperator": "read",
    "ReconcileVectorsOperator": "reconcile",
    "UpsertVectorsOperator": "write",
}


def __getattr__(name: str) -> Any:
    """Import an operator on first use: Airflow needs a millisecond or two to make each class."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(f"{__package__}.{_MODULES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
