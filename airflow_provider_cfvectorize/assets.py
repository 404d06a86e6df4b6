# SPDX-License-Identifier: Apache-2.0
"""
Indexes as Airflow's assets (in Airflow 2, datasets): ``cloudflare-vectorize://<account>/<index>``.

Airflow imports this module in every process that reads such a URI, so it imports very little.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, urlsplit

from airflow_provider_cfvectorize.client.inputs.names import check_account_id, check_path_name
from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

if TYPE_CHECKING:
    from airflow.providers.common.compat.openlineage.facet import Dataset
    from airflow.providers.common.compat.sdk import Asset

SCHEME: Final = "cloudflare-vectorize"

_EXPECTED: Final = f"expected {SCHEME}://<account id, 32 hexadecimal digits>/<index name>"


def vectorize_asset(
    *,
    account_id: str,
    index_name: str,
    extra: dict[str, Any] | None = None,
    **kwargs: Any,
) -> Asset:
    """
    Return an index as an asset (in Airflow 2, a dataset) for outlets, inlets and schedules.

    Assets with equal account and index are the same asset for Airflow.

    :param account_id: the account, 32 hexadecimal digits; no template, because an asset is part of the DAG.
    :param index_name: the index.
    :param extra: data to save with the asset.
    :param kwargs: other arguments of assets in Airflow 3: ``name``, ``group``, ``watchers``.
    :raises VectorizeInputError: the account or the index is invalid; also a ``ValueError``.
    """
    from airflow.providers.common.compat.sdk import Asset

    return Asset(uri=uri_of(account_id, index_name), extra=extra, **kwargs)


def uri_of(account_id: object, index_name: object) -> str:
    """
    Return the URI of an index.

    :raises VectorizeInputError: the account or the index is invalid.
    """
    return f"{SCHEME}://{check_account_id(account_id)}/{check_path_name(index_name)}"


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """
    Return a URI in its canonical form, with the account in lower case.

    Airflow calls this for each URI of the scheme. After an error, Airflow 3 refuses the URI; Airflow 2 warns,
    unless ``[core] strict_dataset_uri_validation`` is set. Both drop a fragment before.

    :raises VectorizeInputError: the URI does not name an index; also a ``ValueError``.
    """
    # The user may be a token in the wrong place, so the error does not show the URI.
    if "@" in uri.netloc:
        raise VectorizeInputError(f"the URI of an index must have no user or password; {_EXPECTED}")
    if ":" in uri.netloc or uri.query or uri.fragment:
        raise VectorizeInputError(f"the URI of an index must have no port, query or fragment; {_EXPECTED}")
    try:
        account_id = check_account_id(uri.netloc)
    except VectorizeInputError:
        # The error does not show the text, which may be anything.
        raise VectorizeInputError(
            f"the URI of an index has an account id of {len(uri.netloc)} characters; {_EXPECTED}"
        ) from None
    try:
        index_name = check_path_name(uri.path.removeprefix("/"))
    except VectorizeInputError:
        raise VectorizeInputError(
            f"the URI of an index has the path {show(uri.path)}, which is not the name of an index (1 to 64 "
            f"characters of A-Z, a-z, 0-9, '_' and '-') after a single '/'; {_EXPECTED}"
        ) from None
    return uri._replace(netloc=account_id, path=f"/{index_name}")


def convert_asset_to_openlineage(asset: Asset, lineage_context: Any) -> Dataset:
    """
    Return the OpenLineage dataset of an index.

    :param asset: an asset of this scheme.
    :param lineage_context: the user of the asset, unused.
    :raises VectorizeInputError: its URI does not name an index.
    """
    from airflow.providers.common.compat.openlineage.facet import Dataset

    uri = sanitize_uri(urlsplit(asset.uri))
    namespace, name = dataset_names(uri.netloc, uri.path.removeprefix("/"))
    return Dataset(namespace=namespace, name=name)


def dataset_names(account_id: str, index_name: str) -> tuple[str, str]:
    """Return the namespace and the name of an index in OpenLineage: the two halves of its URI."""
    return f"{SCHEME}://{account_id}", index_name
