# SPDX-License-Identifier: Apache-2.0
"""
Reports what a task read and wrote as OpenLineage's datasets.

The names of an index are the two halves of its asset's URI, account and index. The names of a file follow
OpenLineage's convention. The only fact about vectors is their number: no ids, values or metadata.
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

#: A change to an index itself, in OpenLineage's words.
Change = Literal["CREATE", "ALTER", "DROP"]

#: Schemes with another name in OpenLineage.
_SCHEMES: Final = {"gcs": "gs", "s3a": "s3", "s3n": "s3"}


@dataclass(frozen=True, slots=True)
class Flow:
    """
    What a task read and wrote.

    :param writes_index: whether it wrote to the index or changed it; for a failed task, whether it may have.
    :param rows: number of vectors written; None if unknown.
    :param change: the change to the index itself.
    :param input_paths: files that were read; None is no file.
    :param output_paths: files that were written; None is no file.
    """

    reads_index: bool = False
    writes_index: bool = False
    rows: int | None = None
    change: Change | None = None
    input_paths: tuple[object, ...] = ()
    output_paths: tuple[object, ...] = ()


def to_openlineage(account_id: str | None, index_name: str, flow: Flow) -> OperatorLineage[Any, Any]:
    """
    Return what a task read and wrote in OpenLineage's terms; needs Airflow's OpenLineage provider.

    :param account_id: the account; None omits the index, for a task that ended before it knew its account.
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
    Return the namespace and the name of a file; None if it is not a path.

    :param path: an operator's parameter: a local path, or a URL of object storage.
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
        # A query is often a signature. In a bucket, "?" and "#" may be part of the name.
        name = name.partition("?")[0].partition("#")[0]
    # A URL may have a connection id, or a user and a password, before the place.
    return f"{scheme}://{place.rpartition('@')[2]}", name or "/"
