# SPDX-License-Identifier: Apache-2.0
"""
Indexes as Airflow's assets (in Airflow 2, datasets): ``cloudflare-vectorize://<account>/<index>``.

Airflow imports this module in every process that reads such a URI, so it imports next to nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final
from urllib.parse import SplitResult, urlsplit

from airflow_provider_cfvectorize.client.http.urls import check_account_id, check_path_name
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
    Return an index as an asset, for outlets, inlets and schedules; in Airflow 2, as a dataset.

    Airflow sees the same asset wherever account and index are the same.

    :param account_id: the account, 32 hexadecimal digits. A template is none: an asset is part of the DAG.
    :param index_name: the index.
    :param extra: what to keep beside the asset.
    :param kwargs: what else the asset has in Airflow 3: ``name``, ``group``, ``watchers``.
    :raises VectorizeInputError: there can be no such account or index; a ``ValueError``, too.
    """
    from airflow.providers.common.compat.sdk import Asset

    return Asset(uri=uri_of(account_id, index_name), extra=extra, **kwargs)


def uri_of(account_id: object, index_name: object) -> str:
    """
    Return the URI of an index.

    :raises VectorizeInputError: there can be no such account or index.
    """
    return f"{SCHEME}://{check_account_id(account_id)}/{check_path_name(index_name)}"


def sanitize_uri(uri: SplitResult) -> SplitResult:
    """
    Return a URI in its one form, with the account in lower case.

    Airflow calls this for each URI of the scheme. Airflow 3 refuses what it refuses; Airflow 2 warns, unless
    ``[core] strict_dataset_uri_validation`` is set. Both drop a fragment before.

    :raises VectorizeInputError: it does not name an index; a ``ValueError``, too.
    """
    # A user may be a token in the wrong place, so of such a URI nothing is shown.
    if "@" in uri.netloc:
        raise VectorizeInputError(f"the URI of an index has no user and no password; {_EXPECTED}")
    if ":" in uri.netloc or uri.query or uri.fragment:
        raise VectorizeInputError(f"the URI of an index has no port, query or fragment; {_EXPECTED}")
    try:
        account_id = check_account_id(uri.netloc)
    except VectorizeInputError:
        # What was written for an account may be anything.
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
    Return the dataset that OpenLineage knows an index by.

    :param asset: an asset of this scheme.
    :param lineage_context: who has used it; it makes no difference.
    :raises VectorizeInputError: it does not name an index.
    """
    from airflow.providers.common.compat.openlineage.facet import Dataset

    uri = sanitize_uri(urlsplit(asset.uri))
    namespace, name = dataset_names(uri.netloc, uri.path.removeprefix("/"))
    return Dataset(namespace=namespace, name=name)


def dataset_names(account_id: str, index_name: str) -> tuple[str, str]:
    """Return the namespace and the name of an index in OpenLineage: the two halves of its URI."""
    return f"{SCHEME}://{account_id}", index_name
