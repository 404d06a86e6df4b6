# SPDX-License-Identifier: Apache-2.0
"""Names that users' DAGs and tests import stay in place."""

from __future__ import annotations

import importlib
from importlib.metadata import entry_points

import pytest

PACKAGE = "airflow_provider_cfvectorize"

#: Public modules and their names.
NAMES = {
    "hooks.vectorize": ["CloudflareVectorizeHook"],
    "operators.vectors": [
        "DeleteVectorsByFilterOperator",
        "DeleteVectorsByIdsOperator",
        "GetVectorsByIdsOperator",
        "InsertVectorsOperator",
        "ListVectorsOperator",
        "QueryVectorsOperator",
        "ReconcileVectorsOperator",
        "UpsertVectorsOperator",
    ],
    "operators.indexes": [
        "CreateVectorizeIndexOperator",
        "CreateVectorizeMetadataIndexOperator",
        "DeleteVectorizeIndexOperator",
        "DeleteVectorizeMetadataIndexOperator",
    ],
    "sensors.mutation": ["VectorizeMutationSensor", "VectorizeMutationTimeout"],
    "triggers.mutation": ["VectorizeMutationTrigger"],
    "exceptions": [
        "VectorizeAuthError",
        "VectorizeBatchAuthError",
        "VectorizeBatchError",
        "VectorizeBatchNotFoundError",
        "VectorizeBatchThrottledError",
        "VectorizeDiffersError",
        "VectorizeError",
        "VectorizeFileError",
        "VectorizeIndexRecreatedError",
        "VectorizeInputError",
        "VectorizeInterrupted",
        "VectorizeListingExpired",
        "VectorizeNotFoundError",
        "VectorizeResponseError",
        "VectorizeStillVisibleError",
        "VectorizeThrottledError",
        "VectorizeTransportError",
        "VectorizeWaitTimeout",
    ],
    "retry": ["retry_policy"],
    "assets": ["vectorize_asset"],
    "links": ["VectorizeIndexLink"],
    "local": ["LocalVectorize"],
    # `python -m airflow_provider_cfvectorize.local`.
    "local.__main__": ["main"],
}


@pytest.mark.parametrize("module", NAMES)
def test_public_names_are_importable(module: str) -> None:
    imported = importlib.import_module(f"{PACKAGE}.{module}")
    assert [name for name in NAMES[module] if not hasattr(imported, name)] == []


@pytest.mark.parametrize("module", ["operators.vectors", "operators.indexes"])
def test_every_operator_is_on_the_list(module: str) -> None:
    assert sorted(importlib.import_module(f"{PACKAGE}.{module}").__all__) == NAMES[module]


def test_the_console_script() -> None:
    (script,) = entry_points(group="console_scripts", name="vectorize-local")
    assert script.value == f"{PACKAGE}.local.__main__:main"
