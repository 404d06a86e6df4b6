# SPDX-License-Identifier: Apache-2.0
"""Indexes as Airflow assets: valid URIs and how Airflow handles them."""

from __future__ import annotations

import sys
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import pytest
from airflow.providers.common.compat.sdk import DAG, Asset

from airflow_provider_cfvectorize.assets import (
    SCHEME,
    convert_asset_to_openlineage,
    sanitize_uri,
    vectorize_asset,
)
from airflow_provider_cfvectorize.exceptions import VectorizeInputError
from airflow_provider_cfvectorize.operators.vectors import ListVectorsOperator
from dags.running import START
from package.test_provider_info import run_python

ACCOUNT = "0123456789abcdef0123456789abcdef"
URI = f"cloudflare-vectorize://{ACCOUNT}/docs"
REFUSED = {
    f"cloudflare-vectorize://{ACCOUNT}/": "the path '/'",
    f"cloudflare-vectorize://{ACCOUNT}/docs/more": "the path '/docs/more'",
    f"cloudflare-vectorize://{ACCOUNT}//docs": "the path '//docs'",
    f"cloudflare-vectorize://{ACCOUNT}/do%63s": "the path '/do%63s'",
    f"cloudflare-vectorize://{ACCOUNT}/{'a' * 65}": "name of an index",
    "cloudflare-vectorize:///docs": "an account id of 0 characters",
    "cloudflare-vectorize://docs": "an account id of 4 characters",
    f"cloudflare-vectorize://{ACCOUNT}0/docs": "an account id of 33 characters",
    f"cloudflare-vectorize://{ACCOUNT}:443/docs": "no port, query or fragment",
    f"cloudflare-vectorize://{ACCOUNT}/docs?a=b": "no port, query or fragment",
}
# URIs that some versions of Airflow change before they call the sanitizer.
REFUSED_BY_US = {
    **REFUSED,
    f"cloudflare-vectorize://{ACCOUNT}": "the path ''",
    f"cloudflare-vectorize://{ACCOUNT}/docs/": "the path '/docs/'",
    f"cloudflare-vectorize://{ACCOUNT}/docs#a": "no port, query or fragment",
    f"cloudflare-vectorize://hunter2@{ACCOUNT}/docs": "no user or password",
    f"cloudflare-vectorize://u:hunter2@{ACCOUNT}/docs": "no user or password",
    f"cloudflare-vectorize://@{ACCOUNT}/docs": "no user or password",
}


def sanitized(uri: str) -> str:
    return urlunsplit(sanitize_uri(urlsplit(uri)))


def test_uris_are_normalized() -> None:
    assert sanitized(URI) == URI
    assert sanitized(f"cloudflare-vectorize://{ACCOUNT.upper()}/My_Docs-2").endswith(f"{ACCOUNT}/My_Docs-2")


@pytest.mark.parametrize(("uri", "said"), REFUSED_BY_US.items())
def test_invalid_uris_are_refused(uri: str, said: str) -> None:
    with pytest.raises(ValueError, match=r"expected cloudflare-vectorize://<account id") as caught:
        sanitized(uri)
    assert said in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_vectorize_asset() -> None:
    asset = vectorize_asset(account_id=ACCOUNT.upper(), index_name="docs", extra={"team": "search"})
    assert (asset.uri, asset.extra) == (URI, {"team": "search"})
    assert isinstance(asset, Asset)
    assert vectorize_asset(account_id=ACCOUNT, index_name="docs") == Asset(URI)
    for account_id, index_name in (
        ("{{ var.value.account }}", "docs"),
        (ACCOUNT, "{{ params.index }}"),
        (ACCOUNT, "a/b"),
        (None, "docs"),
        (ACCOUNT, None),
    ):
        with pytest.raises(VectorizeInputError):
            vectorize_asset(account_id=account_id, index_name=index_name)  # type: ignore[arg-type]


@pytest.mark.airflow(since="3.0")
def test_name_and_group_in_airflow_3() -> None:
    asset = vectorize_asset(account_id=ACCOUNT, index_name="docs", name="docs", group="vectors")
    assert (asset.uri, asset.name, asset.group) == (URI, "docs", "vectors")


# --- in Airflow ---------------------------------------------------------------------------------------------


def test_airflow_normalizes_a_uri() -> None:
    for more in ("", "/", "#a"):
        assert Asset(f"Cloudflare-Vectorize://{ACCOUNT.upper()}/docs{more}").uri == URI


@pytest.mark.parametrize(("uri", "said"), REFUSED.items())
def test_airflow_refuses_an_invalid_uri(uri: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # An option of Airflow 2; Airflow 3 ignores it.
    monkeypatch.setenv("AIRFLOW__CORE__STRICT_DATASET_URI_VALIDATION", "True")
    with pytest.raises(ValueError, match="expected cloudflare-vectorize") as caught:
        Asset(uri)
    assert said in str(caught.value)


@pytest.mark.airflow(before="3.0")
def test_airflow_2_warns_of_an_invalid_uri_by_default() -> None:
    with pytest.warns(UserWarning, match="expected cloudflare-vectorize"):
        Asset(f"cloudflare-vectorize://{ACCOUNT}/a/b")


def test_an_asset_as_outlet_and_schedule() -> None:
    asset = vectorize_asset(account_id=ACCOUNT, index_name="docs")
    with DAG("after_an_upsert", schedule=[asset], start_date=START) as dag:
        task = ListVectorsOperator(task_id="list", index_name="docs", inlets=[asset], outlets=[asset])
    assert (task.inlets, task.outlets) == ([asset], [asset])
    timetable: Any = dag.timetable
    condition = getattr(timetable, "asset_condition", None) or timetable.dataset_condition
    assert [one.uri for one in condition.objects] == [URI]


def test_airflows_collector_accepts_an_asset() -> None:
    # The class itself: without a reader such as OpenLineage, Airflow's own collector collects nothing.
    known = {"account_id": ACCOUNT, "index_name": "docs"}
    extra = {"rows": 3}
    try:
        from airflow.sdk.lineage import HookLineageCollector
    except ImportError:
        from airflow.lineage.hook import HookLineageCollector
    collector: Any = HookLineageCollector()
    if hasattr(collector, "add_output_asset"):
        collector.add_output_asset(object(), scheme=SCHEME, asset_kwargs=known, asset_extra=extra)
        (asset,) = (info.asset for info in collector.collected_assets.outputs)
    else:
        collector.add_output_dataset(object(), scheme=SCHEME, dataset_kwargs=known, dataset_extra=extra)
        (asset,) = (info.dataset for info in collector.collected_datasets.outputs)
    assert (asset.uri, asset.extra) == (URI, extra)


def test_openlineage_splits_the_uri_into_namespace_and_name() -> None:
    from airflow.providers.common.compat.openlineage.utils.utils import translate_airflow_asset

    asset = vectorize_asset(account_id=ACCOUNT, index_name="docs")
    for found in (convert_asset_to_openlineage(asset, None), translate_airflow_asset(asset, None)):
        assert (found.namespace, found.name) == (f"cloudflare-vectorize://{ACCOUNT}", "docs")


def test_the_assets_module_imports_little() -> None:
    code = """
import sys, urllib.parse, re
before = set(sys.modules)
import airflow_provider_cfvectorize.assets
print(*sorted(set(sys.modules) - before))
"""
    added: set[Any] = set(run_python(code).split())
    assert {name for name in added if name.split(".")[0] not in sys.stdlib_module_names} == {
        "airflow_provider_cfvectorize",
        "airflow_provider_cfvectorize.assets",
        "airflow_provider_cfvectorize.client",
        "airflow_provider_cfvectorize.client.inputs",
        "airflow_provider_cfvectorize.client.inputs.names",
        "airflow_provider_cfvectorize.client.inputs.text",
        "airflow_provider_cfvectorize.exceptions",
    }
