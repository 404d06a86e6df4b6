# SPDX-License-Identifier: Apache-2.0
"""The provider's metadata. Every Airflow process imports this, so it imports only the standard library."""

from __future__ import annotations

import copy
from typing import Any

from airflow_provider_cfvectorize import __version__, connection

_PACKAGE = "airflow_provider_cfvectorize"
_INTEGRATION = "Cloudflare Vectorize"
#: Pages in docs/operators, in the repository.
_GUIDES = (
    "delete-vectors-by-filter",
    "delete-vectors-by-ids",
    "upsert-vectors",
    "insert-vectors",
    "get-vectors-by-ids",
    "query-vectors",
    "list-vectors",
    "reconcile-vectors",
    "create-index",
    "delete-index",
    "create-metadata-index",
    "delete-metadata-index",
    "mutation-sensor",
)
_ASSET_URI = {
    "schemes": ["cloudflare-vectorize"],
    "handler": f"{_PACKAGE}.assets.sanitize_uri",
    "factory": f"{_PACKAGE}.assets.vectorize_asset",
    "to_openlineage_converter": f"{_PACKAGE}.assets.convert_asset_to_openlineage",
}


def get_provider_info() -> dict[str, Any]:
    """Return the provider's metadata."""
    return {
        # Airflow compares this with the canonical name of the distribution and fails at once if they differ.
        "package-name": "airflow-provider-cfvectorize",
        "name": _INTEGRATION,
        "description": "Delete, write, read, query, list and reconcile vectors in "
        "`Cloudflare Vectorize <https://developers.cloudflare.com/vectorize/>`__, create and delete its "
        "indexes, and wait until a write is applied.",
        "versions": [__version__],
        "integrations": [
            {
                "integration-name": _INTEGRATION,
                "external-doc-url": "https://developers.cloudflare.com/vectorize/",
                "how-to-guide": [f"/docs/operators/{guide}.md" for guide in _GUIDES],
                "tags": ["service"],
            }
        ],
        "operators": [
            {
                "integration-name": _INTEGRATION,
                "python-modules": [f"{_PACKAGE}.operators.vectors", f"{_PACKAGE}.operators.indexes"],
            },
        ],
        "sensors": [
            {"integration-name": _INTEGRATION, "python-modules": [f"{_PACKAGE}.sensors.mutation"]},
        ],
        "hooks": [
            {"integration-name": _INTEGRATION, "python-modules": [f"{_PACKAGE}.hooks.vectorize"]},
        ],
        "triggers": [
            {"integration-name": _INTEGRATION, "python-modules": [f"{_PACKAGE}.triggers.mutation"]},
        ],
        "extra-links": [f"{_PACKAGE}.links.VectorizeIndexLink"],
        "asset-uris": [dict(_ASSET_URI)],
        # Airflow 2 reads this key.
        "dataset-uris": [dict(_ASSET_URI)],
        "connection-types": [
            {
                "connection-type": connection.CONN_TYPE,
                "hook-class-name": connection.HOOK_CLASS_NAME,
                "hook-name": connection.HOOK_NAME,
                "ui-field-behaviour": connection.ui_field_behaviour(kebab=True),
                "conn-fields": copy.deepcopy(connection.EXTRAS),
            }
        ],
        "config": {
            "cfvectorize": {
                "description": "Options of the Cloudflare Vectorize provider.",
                "options": {
                    "allow_http_hosts": {
                        "description": "Host names, separated by commas, that a connection may address over "
                        "plain http. Loopback addresses are always allowed. Use it only for the embedded "
                        "server in containers during development: anybody on the network can read the "
                        "requests, including the API token.",
                        "version_added": "0.1.0",
                        "type": "string",
                        "example": "vectorize-local",
                        "default": "",
                    }
                },
            }
        },
    }
