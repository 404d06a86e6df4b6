# SPDX-License-Identifier: Apache-2.0
"""The metadata that Airflow reads, and the modules that an import of the provider loads."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import inspect
import json
import os
import pkgutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import airflow
import jsonschema
import pytest

import airflow_provider_cfvectorize
from airflow_provider_cfvectorize import assets, connection
from airflow_provider_cfvectorize.get_provider_info import get_provider_info
from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook
from airflow_provider_cfvectorize.links import VectorizeIndexLink
from airflow_provider_cfvectorize.operators import indexes, vectors
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor
from airflow_provider_cfvectorize.triggers.mutation import VectorizeMutationTrigger

DISTRIBUTION = "airflow-provider-cfvectorize"
ROOT = Path(airflow_provider_cfvectorize.__file__).parent
OPERATORS = [getattr(module, name) for module in (vectors, indexes) for name in module.__all__]
MODULES = [
    module.name
    for module in pkgutil.walk_packages([str(ROOT)], "airflow_provider_cfvectorize.")
    if not module.name.endswith("__main__")
]


def run_python(code: str, *options: str, **env: str) -> str:
    """Run Python in a separate process and return its output; fail if it fails."""
    with tempfile.TemporaryDirectory() as home:
        done = subprocess.run(
            [sys.executable, *options, "-c", code],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | {"AIRFLOW_HOME": home} | env,
        )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def import_path(path: str) -> Any:
    """Import the object of a dotted path."""
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def run_airflow(*arguments: str) -> tuple[str, str]:
    """Run Airflow's command line and return its output and errors."""
    done = subprocess.run(
        [sys.executable, "-m", "airflow", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"COLUMNS": "250"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, done.stderr


# --- metadata -----------------------------------------------------------------------------------------------


def test_the_entry_point() -> None:
    (entry,) = [
        e
        for e in importlib.metadata.entry_points(group="apache_airflow_provider")
        if e.dist is not None and e.dist.name == DISTRIBUTION
    ]
    info = entry.load()()
    assert info["package-name"] == DISTRIBUTION
    assert info["versions"] == [importlib.metadata.version(DISTRIBUTION)]


@pytest.mark.parametrize("name", ["provider_info.schema.json", "provider.yaml.schema.json"])
def test_the_metadata_matches_airflows_schemas(name: str) -> None:
    path = Path(airflow.__file__).parent / name
    schema = json.loads(path.read_text())
    if name == "provider.yaml.schema.json":
        # This schema is for files in Airflow's repository, which have more fields; parts of it apply to us.
        info = get_provider_info()
        for key in (
            "connection-types",
            "operators",
            "sensors",
            "hooks",
            "triggers",
            "integrations",
            "extra-links",
            "asset-uris" if "asset-uris" in schema["properties"] else "dataset-uris",
            "config",
        ):
            part = schema["properties"][key]
            value = info[key]
            if key == "integrations":
                # Airflow's own integrations also name logos on its site.
                value = [item | {"logo": "/docs/x.png"} for item in value]
            jsonschema.validate(value, {**part, "definitions": schema.get("definitions", {})})
    else:
        jsonschema.validate(get_provider_info(), schema)


def test_every_path_in_the_metadata_can_be_imported() -> None:
    info = get_provider_info()
    for key in ("operators", "sensors", "hooks", "triggers"):
        for entry in info[key]:
            for module in entry["python-modules"]:
                importlib.import_module(module)
    assert [import_path(path) for path in info["extra-links"]] == [VectorizeIndexLink]
    assert info["asset-uris"] == info["dataset-uris"]
    (asset_uri,) = info["asset-uris"]
    assert asset_uri["schemes"] == [assets.SCHEME]
    assert [import_path(asset_uri[key]) for key in ("handler", "factory", "to_openlineage_converter")] == [
        assets.sanitize_uri,
        assets.vectorize_asset,
        assets.convert_asset_to_openlineage,
    ]
    (integration,) = info["integrations"]
    guides = {path.name for path in (ROOT.parent / "docs/operators").glob("*.md")} - {"index.md"}
    assert {Path(guide).name for guide in integration["how-to-guide"]} == guides
    (connection_type,) = info["connection-types"]
    hook = import_path(connection_type["hook-class-name"])
    assert hook is CloudflareVectorizeHook
    assert (hook.conn_type, hook.hook_name) == (
        connection_type["connection-type"],
        connection_type["hook-name"],
    )


def test_both_forms_have_equal_fields() -> None:
    (metadata,) = get_provider_info()["connection-types"]
    kebab, snake = metadata["ui-field-behaviour"], CloudflareVectorizeHook.get_ui_field_behaviour()
    assert {key.replace("-", "_"): value for key, value in kebab.items()} == snake
    assert metadata["conn-fields"].keys() == connection.EXTRAS.keys()


@pytest.mark.airflow(before="3.0")
def test_the_form_of_airflow_2() -> None:
    from flask import Flask
    from flask_babel import Babel

    app = Flask(__name__)
    Babel(app)
    with app.test_request_context():
        widgets = CloudflareVectorizeHook.get_connection_form_widgets()
        assert {name: str(field.args[0]) for name, field in widgets.items()} == {
            name: extra["label"] for name, extra in connection.EXTRAS.items()
        }


@pytest.mark.airflow(before="3.0")
def test_airflow_2_accepts_the_form() -> None:
    code = """
from airflow.providers_manager import ProvidersManager
manager = ProvidersManager()
print(manager.hooks["cloudflare_vectorize"].hook_name)
print(*sorted(name for name in manager.connection_form_widgets if "cloudflare_vectorize" in name))
"""
    printed = run_python(code)
    assert "Cloudflare Vectorize" in printed
    for name in connection.EXTRAS:
        assert f"extra__cloudflare_vectorize__{name}" in printed


@pytest.mark.airflow(since="3.3")
def test_the_form_from_metadata_does_not_import_the_hook() -> None:
    code = """
import sys
from airflow.providers_manager import ProvidersManager
(found,) = [
    hook for hook in ProvidersManager().iter_connection_type_hook_ui_metadata()
    if hook.connection_type == "cloudflare_vectorize"
]
print(found)
assert "airflow_provider_cfvectorize.hooks.vectorize" not in sys.modules
"""
    printed = run_python(code)
    assert "API token" in printed


# --- commands -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("airflow_db")
def test_airflows_commands_show_the_provider_without_a_warning() -> None:
    printed, complained = run_airflow("providers", "get", DISTRIBUTION, "--full", "-o", "json")
    assert json.loads(printed)[0]["package-name"] == DISTRIBUTION
    assert "cfvectorize" not in complained
    for command, expected in (
        ("hooks", connection.CONN_TYPE),
        ("behaviours", connection.CONN_TYPE),
        ("widgets", "rate_reserve"),
        ("links", "airflow_provider_cfvectorize.links.VectorizeIndexLink"),
    ):
        printed, complained = run_airflow("providers", command, "-o", "json")
        assert expected in printed, command
        assert "cfvectorize" not in complained, command


# --- imports ------------------------------------------------------------------------------------------------


def test_a_dag_processor_imports_nothing_heavy() -> None:
    code = """
import sys
from airflow.providers.common.compat.sdk import BaseHook, BaseOperator, BaseSensorOperator, conf
from airflow.triggers.base import BaseTrigger
before = set(sys.modules)
from airflow_provider_cfvectorize import assets, links, retry
from airflow_provider_cfvectorize.operators import indexes, vectors
from airflow_provider_cfvectorize.sensors import mutation
from airflow_provider_cfvectorize.triggers import mutation
print(*sorted(set(sys.modules) - before))
"""
    added = set(run_python(code).split())
    assert "airflow_provider_cfvectorize.triggers.mutation" in added
    assert not {name for name in added if name.split(".")[0] in ("requests", "urllib3", "numpy", "sqlite3")}
    assert not {name for name in added if name.startswith("airflow_provider_cfvectorize.local")}
    assert not {name for name in added if name.startswith("airflow_provider_cfvectorize.hooks.")}


def test_operators_sensors_and_triggers_do_not_import_requests() -> None:
    # Airflow itself may import requests; check that our modules do not.
    for path in ROOT.rglob("*.py"):
        if (
            path.relative_to(ROOT).parts[0] not in ("operators", "sensors", "triggers")
            or path.name == "poll.py"
        ):
            continue
        for node in ast.parse(path.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.startswith(("requests", "airflow_provider_cfvectorize.local"))]


def test_the_metadata_needs_only_the_standard_library() -> None:
    code = """
import sys
before = set(sys.modules)
import airflow_provider_cfvectorize.get_provider_info as module
module.get_provider_info()
print(*sorted({name.split(".")[0] for name in set(sys.modules) - before}))
"""
    added = set(run_python(code).split()) - {"airflow_provider_cfvectorize"}
    assert added <= set(sys.stdlib_module_names)


@pytest.mark.airflow(since="3.3")  # which logs everything
def test_the_package_uses_nothing_deprecated() -> None:
    code = f"""
import warnings
import airflow, airflow.providers.common.compat.sdk, airflow.triggers.base
import requests, starlette, uvicorn, numpy
warnings.simplefilter("error")
import importlib
for name in {MODULES!r}:
    importlib.import_module(name)
from airflow_provider_cfvectorize.operators.vectors import (
    DeleteVectorsByIdsOperator, GetVectorsByIdsOperator, InsertVectorsOperator, ListVectorsOperator,
    QueryVectorsOperator, ReconcileVectorsOperator, UpsertVectorsOperator,
)
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor
ReconcileVectorsOperator(task_id="a", index_name="b", ids=["c"])
DeleteVectorsByIdsOperator(task_id="a", index_name="b", ids=["c"])
GetVectorsByIdsOperator(task_id="a", index_name="b", ids=["c"])
InsertVectorsOperator(task_id="a", index_name="b", vectors=[])
UpsertVectorsOperator(task_id="a", index_name="b", vectors=[])
ListVectorsOperator(task_id="a", index_name="b")
QueryVectorsOperator(task_id="a", index_name="b", vector_id="c")
VectorizeMutationSensor(task_id="a", index_name="b", mutation_id="c")
"""
    run_python(code)


def test_the_client_and_the_local_server_do_not_import_airflow() -> None:
    for part in ("client", "local"):
        for path in (ROOT / part).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not [name for name in names if name.split(".")[0] == "airflow"], path
                if part == "local":
                    ours = [n for n in names if n.startswith("airflow_provider_cfvectorize.")]
                    allowed = ("airflow_provider_cfvectorize.local", "airflow_provider_cfvectorize.client")
                    assert all(name.startswith(allowed) for name in ours), path


# --- docstrings ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cls",
    [CloudflareVectorizeHook, *OPERATORS, VectorizeMutationSensor, VectorizeMutationTrigger],
)
def test_every_parameter_is_documented(cls: Any) -> None:
    parameters = [
        p for p in inspect.signature(cls.__init__).parameters if p not in ("self", "kwargs", "args")
    ]
    documented = inspect.getdoc(cls) or ""
    assert not [name for name in parameters if f":param {name}:" not in documented]


@pytest.mark.parametrize("cls", [*OPERATORS, VectorizeMutationSensor])
def test_template_fields_are_parameters_and_keyword_only(cls: Any) -> None:
    parameters = inspect.signature(cls.__init__).parameters
    assert set(cls.template_fields) <= set(parameters)
    assert {"index_name", "conn_id", "account_id"} <= set(cls.template_fields)
    for name in cls.template_fields:
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY
