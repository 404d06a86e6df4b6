# SPDX-License-Identifier: Apache-2.0
"""Credentials: their check, their headers, and a digest to compare them by."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field

from airflow_provider_cfvectorize.exceptions import VectorizeInputError

#: Makes the digests of credentials meaningless outside this process.
_SALT = os.urandom(16)


@dataclass(frozen=True, slots=True)
class Credentials:
    """
    Checked credentials of a client.

    :param headers: the headers to send.
    :param secret: the text that no error and no log line may show.
    :param identity: equal for equal credentials.
    """

    headers: dict[str, str] = field(repr=False)
    secret: str = field(repr=False)
    identity: tuple[str | None, bytes] = field(repr=False)


def read_credentials(api_token: str | None, api_email: str | None, api_key: str | None) -> Credentials:
    """
    Check credentials and return them.

    :param api_token: an API token, used without ``api_email``.
    :param api_email: the e-mail address that belongs to ``api_key``.
    :raises VectorizeInputError: a value is missing, or cannot be sent in a header.
    """
    if not api_email:
        secret = _check_header_value(api_token, "API token")
        return Credentials({"Authorization": f"Bearer {secret}"}, secret, (api_email, _digest(secret)))
    secret = _check_header_value(api_key, "Global API Key")
    _check_header_value(api_email, "api_email")
    return Credentials(
        {"X-Auth-Email": api_email, "X-Auth-Key": secret}, secret, (api_email, _digest(secret))
    )


def _digest(secret: str) -> bytes:
    return hashlib.blake2b(secret.encode(errors="surrogatepass"), key=_SALT).digest()


def _check_header_value(value: object, what: str) -> str:
    if not value:
        raise VectorizeInputError(
            f"the {what} is missing: put the API token (or, with api_email, the Global API Key) into the "
            "connection's password"
        )
    if not isinstance(value, str):
        # The value itself is not shown: it is a secret.
        raise VectorizeInputError(f"the {what} is of type {type(value).__name__}, expected a string")
    if not value.isascii() or not value.isprintable() or " " in value:
        # The value itself is not shown: it is a secret.
        raise VectorizeInputError(
            f"the {what} has a space, a line break or another character that cannot be sent in a header: "
            "copy it again"
        )
    return value
