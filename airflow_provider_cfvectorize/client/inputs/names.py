# SPDX-License-Identifier: Apache-2.0
"""Checks of account ids and index names."""

from __future__ import annotations

import re

from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.exceptions import VectorizeInputError


def check_account_id(account_id: object) -> str:
    """
    Return the account id in lower case.

    :raises VectorizeInputError: it is not 32 hexadecimal digits.
    """
    if not isinstance(account_id, str) or not re.fullmatch("[0-9A-Fa-f]{32}", account_id):
        # A longer text may be an API token in the wrong field.
        too_long = isinstance(account_id, str) and len(account_id) > 32
        shown = f"of {len(account_id)} characters" if too_long else show(account_id)  # type: ignore[arg-type]
        raise VectorizeInputError(
            f"account id {shown} is not 32 hexadecimal digits: put the Account ID (Cloudflare "
            "dashboard, account home, 'Copy account ID') into the connection's login, or pass account_id"
        )
    return account_id.lower()


def check_path_name(name: object) -> str:
    """
    Return a name that is safe as one segment of a path.

    The service itself decides whether it knows the name. The check is linear in the name's length.

    :raises VectorizeInputError: the name is not 1 to 64 characters of A-Z, a-z, 0-9, ``_`` and ``-``.
    """
    if not isinstance(name, str) or not re.fullmatch("[A-Za-z0-9_-]{1,64}", name):
        raise VectorizeInputError(
            f"invalid index name {show(name)}: expected 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'"
        )
    return name


def check_new_index_name(name: object) -> str:
    """
    Return a name that the service accepts for a new index.

    :raises VectorizeInputError: the name does not match the API's pattern (openapi-vectorize.json,
        ``vectorize_index-name``): a lower-case letter, then lower-case letters, digits, ``_`` and ``-``, a
        letter or digit last.
    """
    checked = check_path_name(name)
    # Equivalent to the published ^([a-z]+[a-z0-9_-]*[a-z0-9]+)$, which backtracks catastrophically.
    if not re.fullmatch(r"[a-z][a-z0-9_-]*[a-z0-9]", checked, re.ASCII):
        raise VectorizeInputError(
            f"invalid name for a new index {show(name)}: expected 2 to 64 characters, a "
            "lower-case letter first, then lower-case letters, digits, '_' and '-', a letter or digit last"
        )
    return checked
