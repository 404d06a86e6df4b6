# SPDX-License-Identifier: Apache-2.0
"""Operators that write and read vectors: the place to import them from."""

from __future__ import annotations

from airflow_provider_cfvectorize.operators.deletion import DeleteVectorsByIdsOperator
from airflow_provider_cfvectorize.operators.filling import InsertVectorsOperator, UpsertVectorsOperator
from airflow_provider_cfvectorize.operators.reading import (
    GetVectorsByIdsOperator,
    ListVectorsOperator,
    QueryVectorsOperator,
)
from airflow_provider_cfvectorize.operators.reconciling import ReconcileVectorsOperator

__all__ = [
    "DeleteVectorsByIdsOperator",
    "GetVectorsByIdsOperator",
    "InsertVectorsOperator",
    "ListVectorsOperator",
    "QueryVectorsOperator",
    "ReconcileVectorsOperator",
    "UpsertVectorsOperator",
]
