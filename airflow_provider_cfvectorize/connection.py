# SPDX-License-Identifier: Apache-2.0
"""
Describes the connection for both of Airflow's forms; imports only the standard library.

Airflow 3.2 and later draw the form from the provider's metadata, earlier versions from two class methods of
the hook.
"""

from __future__ import annotations

from typing import Any, Final

CONN_TYPE: Final = "cloudflare_vectorize"
DEFAULT_CONN_ID: Final = "cloudflare_vectorize_default"
HOOK_NAME: Final = "Cloudflare Vectorize"
HOOK_CLASS_NAME: Final = "airflow_provider_cfvectorize.hooks.vectorize.CloudflareVectorizeHook"

DEFAULT_TIMEOUT: Final = 30.0
DEFAULT_RATE_RESERVE: Final = 0.2

HIDDEN_FIELDS: Final = ("port", "schema")
RELABELING: Final = {
    "login": "Account ID",
    "password": "API token (or Global API Key)",
    "host": "API base URL",
}
PLACEHOLDERS: Final = {
    "login": "32 hexadecimal digits",
    "host": "https://api.cloudflare.com/client/v4",
}

#: All extras: label, description and JSON Schema of each.
EXTRAS: Final[dict[str, dict[str, Any]]] = {
    "api_email": {
        "label": "API e-mail",
        "description": "Only with a Global API Key in the password: the e-mail address it belongs to. Leave "
        "empty for an API token.",
        "schema": {"type": ["string", "null"], "default": None},
    },
    "timeout": {
        "label": "Timeout (seconds)",
        "description": "Seconds to connect and for each read; a response may take three times as long.",
        "schema": {"type": ["number", "null"], "minimum": 1, "default": DEFAULT_TIMEOUT},
    },
    "rate_reserve": {
        "label": "Rate reserve",
        "description": "Share of the account's request budget that is left to other clients: 0 to below 1.",
        "schema": {
            "type": ["number", "null"],
            "minimum": 0,
            "maximum": 0.99,
            "default": DEFAULT_RATE_RESERVE,
        },
    },
}


def ui_field_behaviour(*, kebab: bool) -> dict[str, Any]:
    """
    Return which standard fields are hidden, and the labels and placeholders of the others.

    :param kebab: spell the keys as in the metadata, not as in the hook's method.
    """
    hidden = "hidden-fields" if kebab else "hidden_fields"
    return {hidden: list(HIDDEN_FIELDS), "relabeling": dict(RELABELING), "placeholders": dict(PLACEHOLDERS)}
