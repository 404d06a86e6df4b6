# SPDX-License-Identifier: Apache-2.0
"""
What a task read and wrote, as OpenLineage's datasets.

An index is named by its account and itself, the two halves of its asset's URI; a file as OpenLineage's own
naming convention has it. Of vectors nothing but a number is told: no ids, values or metadata.
"""

from __future__ import annotations

import os
import urllib.parse
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from airflow_provider_cfvectorize.assets import dataset_names
from airflow_provider_cfvectorize.client.inputs.files import has_scheme, path_text

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow.providers.common.compat.openlineage.facet import Dataset, OutputDataset
    from airflow.providers.openlineage.extractors import OperatorLineage

#: What is done to an index itself, in OpenLineage's words.
Change = Literal["CREATE", "ALTER", "DROP"]

#: Schemes that OpenLineage calls otherwise.
_SCHEMES: Final = {"gcs": "gs", "s3a": "s3", "s3n": "s3"}


@dataclass(frozen=True, slots=True)
class Flow:
    """
    What a task read and wrote.

    :param reads_index: whether it read the index.
    :param writes_index: whether it wrote to the index or changed it; for one that failed, may have.
    :param rows: number of vectors written, None if that is not known.
    :param change: what was done to the index itself.
    :param input_paths: files that were read; None stands for no file.
    :param output_paths: files that were written, likewise.
    """

    reads_index: bool = False
    writes_index: bool = False
    rows: int | None = None
    change: Change | None = None
    input_paths: tuple[object, ...] = ()
    output_paths: tuple[object, ...] = ()


def to_openlineage(account_id: str | None, index_name: str, flow: Flow) -> OperatorLineage[Any, Any]:
    """
    Return what a task read and wrote in OpenLineage's terms; needs Airflow's provider for it.

    :param account_id: the account; None, for a task that ended before it knew its account, leaves the index
        out.
    """
    from airflow.providers.common.compat.openlineage.facet import Dataset, OutputDataset
    from airflow.providers.openlineage.extractors import OperatorLineage

    inputs: list[Dataset] = [
        Dataset(namespace=namespace, name=name) for namespace, name in _files(flow.input_paths)
    ]
    outputs: list[OutputDataset] = [
        OutputDataset(namespace=namespace, name=name) for namespace, name in _files(flow.output_paths)
    ]
    if account_id is not None:
        namespace, name = dataset_names(account_id, index_name)
        if flow.reads_index:
            inputs.insert(0, Dataset(namespace=namespace, name=name))
        if flow.writes_index:
            outputs.insert(0, _written_index(namespace, name, flow))
    return OperatorLineage(inputs=inputs, outputs=outputs)


def _written_index(namespace: str, name: str, flow: Flow) -> OutputDataset:
    from airflow.providers.common.compat.openlineage.facet import (
        LifecycleStateChange,
        LifecycleStateChangeDatasetFacet,
        OutputDataset,
        OutputStatisticsOutputDatasetFacet,
    )

    facets: dict[str, Any] = {}
    if flow.change is not None:
        facets["lifecycleStateChange"] = LifecycleStateChangeDatasetFacet(
            lifecycleStateChange=getattr(LifecycleStateChange, flow.change)
        )
    output_facets: dict[str, Any] = {}
    if flow.rows is not None:
        output_facets["outputStatistics"] = OutputStatisticsOutputDatasetFacet(rowCount=flow.rows)
    return OutputDataset(namespace=namespace, name=name, facets=facets, outputFacets=output_facets)


def _files(paths: Iterable[object]) -> list[tuple[str, str]]:
    return [names for path in paths if path is not None and (names := file_names(path)) is not None]


def file_names(path: object) -> tuple[str, str] | None:
    """
    Return the namespace and the name of a file, None if this is no path.

    :param path: what an operator's parameter names: a local path, or a URL of object storage.
    """
    text = path_text(path)
    if not isinstance(text, str) or text in ("", "None"):
        return None
    if not has_scheme(text):
        if text.lower().startswith("file://"):
            text = urllib.parse.unquote("/" + text[len("file://") :].partition("/")[2])
        return "file", os.path.abspath(text)
    scheme, _, rest = text.partition("://")
    place, _, name = rest.partition("/")
    scheme = _SCHEMES.get(scheme.lower(), scheme.lower())
    if scheme in ("http", "https"):
        # What follows is often a signature, and no part of an object's name as it is in a bucket.
        name = name.partition("?")[0].partition("#")[0]
    # Before the place stands a connection id, or a user and a password.
    return f"{scheme}://{place.rpartition('@')[2]}", name or "/"
