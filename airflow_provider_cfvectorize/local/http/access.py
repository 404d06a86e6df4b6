# SPDX-License-Identifier: Apache-2.0
"""Access checks: credentials, as on the service, and the ``Host`` header, against DNS rebinding."""

from __future__ import annotations

import hmac
import ipaddress
import re
from typing import TYPE_CHECKING, Final

from airflow_provider_cfvectorize.local import errors

if TYPE_CHECKING:
    from collections.abc import Iterable

    from starlette.datastructures import Headers

#: The characters of a token, from RFC 6750.
TOKEN_PATTERN: Final = re.compile(r"[A-Za-z0-9._~+/-]+=*")
_EMAIL: Final = re.compile(r"[^@\s]+@[^@\s]+")
_PORT: Final = re.compile(r":[0-9]{0,5}")


class Access:
    """
    The credentials of the account.

    :param api_token: A token with all permissions.
    :param read_only_token: A token without the permission to write; None for no such token.
    :param api_email: With ``api_key``: the legacy credentials; None if they are not accepted.
    :param api_key: See ``api_email``.
    """

    def __init__(
        self, api_token: str, read_only_token: str | None, api_email: str | None, api_key: str | None
    ) -> None:
        self._pair = (api_email, api_key)
        self._full = api_token.encode()
        self._read_only = (read_only_token or "").encode()
        # Nearly every request has exactly this header.
        self._full_header = "Bearer " + api_token

    def check(self, headers: Headers, *, writes: bool) -> None:
        """
        Check the credentials of a request.

        :raises ApiError: They are missing, unknown or without the permission.
        """
        header = headers.get("authorization")
        if header is not None and hmac.compare_digest(header.encode(), self._full_header.encode()):
            return
        if header is None:
            self._check_key(headers)
            return
        may_write = self._may_write(header)
        if may_write is None:
            raise errors.refusal("unknown_credentials")
        if writes and not may_write:
            raise errors.refusal("missing_permission")

    def knows(self, headers: Headers) -> bool:
        """Return whether a request has credentials of the account, whatever their permissions."""
        try:
            self.check(headers, writes=False)
        except errors.ApiError:
            return False
        return True

    def verify(self, headers: Headers) -> None:
        """
        Check the token for the endpoints that verify tokens, whose refusals differ from the others'.

        :raises ApiError: The token is missing or unknown.
        """
        header = headers.get("authorization")
        if header is None:
            raise errors.refusal("missing_credentials")
        if self._may_write(header) is None:
            raise errors.refusal("invalid_token")

    def _may_write(self, header: str) -> bool | None:
        """Return whether a token has the permission to write; None if it is unknown."""
        scheme, _, text = header.partition(" ")
        if scheme.lower() != "bearer" or not TOKEN_PATTERN.fullmatch(text):
            raise _invalid_header(6111, "Authorization")
        token = text.encode("ascii")
        if hmac.compare_digest(token, self._full):
            return True
        return False if self._read_only and hmac.compare_digest(token, self._read_only) else None

    def _check_key(self, headers: Headers) -> None:
        email, key = headers.get("x-auth-email"), headers.get("x-auth-key")
        if email is None and key is None:
            raise errors.refusal("missing_credentials")
        if email is None or not _EMAIL.fullmatch(email):
            raise _invalid_header(6102, "X-Auth-Email")
        if key is None or not TOKEN_PATTERN.fullmatch(key):
            raise _invalid_header(6103, "X-Auth-Key")
        known_email, known_key = self._pair
        if (
            known_email is None
            or known_key is None
            or email.lower() != known_email.lower()
            or not hmac.compare_digest(key.encode(), known_key.encode())
        ):
            raise errors.refusal("unknown_credentials")


def _invalid_header(code: int, header: str) -> errors.ApiError:
    return errors.refusal("invalid_header", chain=((code, f"Invalid format for {header} header"),))


def is_loopback(host: str) -> bool:
    """Return whether only this machine can reach a server that listens on a host."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Hosts:
    """
    The accepted values of the ``Host`` header.

    A web page can make its own name resolve to 127.0.0.1, so that the reader's browser sends requests to this
    server (DNS rebinding). Such a request has the page's name in its ``Host`` header, so unknown names are
    refused. Addresses need no resolving: a server that listens beyond loopback accepts every address, another
    accepts the loopback addresses.

    :param host: The host that the server listens on.
    :param allowed: Additional names.
    """

    def __init__(self, host: str, allowed: Iterable[str]) -> None:
        self._loopback_only = is_loopback(host)
        self._names = {"localhost", host.lower(), *(name.lower() for name in allowed)}

    def serves(self, header: str | None) -> bool:
        """
        Return whether the server accepts a ``Host`` header.

        :param header: The value of the header. Its port is ignored, because port forwarding changes it.
        """
        if header is None:
            return False
        if header.startswith("["):
            name, closed, rest = header[1:].partition("]")
            if not closed:
                return False
        else:
            name, colon, port = header.partition(":")
            rest = colon + port
        if rest and not _PORT.fullmatch(rest):
            return False
        if name.lower() in self._names:
            return True
        try:
            address = ipaddress.ip_address(name)
        except ValueError:
            return False
        return address.is_loopback or not self._loopback_only
