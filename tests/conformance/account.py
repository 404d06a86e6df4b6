# SPDX-License-Identifier: Apache-2.0
"""The account under test, with its id and tokens hidden in every output."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import requests

#: Replaces the account's id and tokens in every output.
HIDDEN = "***"


@dataclass(frozen=True, repr=False)
class Bearer(requests.auth.AuthBase):
    """
    A token that is sent in a header, and never shown in a repr or sent to another host.

    :param token: The token.
    """

    token: str

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = f"Bearer {self.token}"
        return request

    def __repr__(self) -> str:
        return "Bearer(***)"


@dataclass(frozen=True)
class Account:
    """
    An account. Its repr contains neither its id nor a token.

    :param base_url: The base URL, such as ``https://api.cloudflare.com/client/v4``.
    :param id: The account's id.
    :param auth: Its token.
    :param read_only: A token without the permission to write; None for no such token.
    """

    base_url: str
    id: str = field(repr=False)
    auth: Bearer
    read_only: Bearer | None = None

    def hide(self, text: str) -> str:
        """Hide the account's id, its tokens and the credentials in a proxy's address in a text."""
        for secret in (self.id, self.auth.token, self.read_only and self.read_only.token):
            if secret:
                text = text.replace(secret, HIDDEN)
        return re.sub(r"://[^/@\s]*@", f"://{HIDDEN}@", text)


class NoAnswer(Exception):
    """A request got no response. The text has the reason, without account and token."""


class Header(requests.auth.AuthBase):
    """
    An ``Authorization`` header.

    :param value: The header; None sends no header, not even one from ``.netrc``.
    """

    def __init__(self, value: str | None) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._value is not None:
            request.headers["Authorization"] = self._value
        return request
