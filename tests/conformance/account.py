# SPDX-License-Identifier: Apache-2.0
"""The account that requests are sent to, of which nothing is shown that must not be."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import requests

#: What stands for an account's id and tokens wherever something is shown.
HIDDEN = "***"


@dataclass(frozen=True, repr=False)
class Bearer(requests.auth.AuthBase):
    """
    A token on its way into a header, and nowhere else: not into a repr, not to another host.

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
    What is known of an account. Neither its id nor a token is in its repr.

    :param base_url: What stands for ``https://api.cloudflare.com/client/v4``.
    :param id: The account's id.
    :param auth: Its token.
    :param read_only: A token that may read and not write, if there is one.
    """

    base_url: str
    id: str = field(repr=False)
    auth: Bearer
    read_only: Bearer | None = None

    def hide(self, text: str) -> str:
        """Return a text without the account's id, its tokens, and the credentials of a proxy's address."""
        for secret in (self.id, self.auth.token, self.read_only and self.read_only.token):
            if secret:
                text = text.replace(secret, HIDDEN)
        return re.sub(r"://[^/@\s]*@", f"://{HIDDEN}@", text)


class NoAnswer(Exception):
    """A request got no answer; says why, without account and token."""


class Header(requests.auth.AuthBase):
    """
    Any ``Authorization`` header, or none.

    :param value: The header; None sends none, and none out of a file either.
    """

    def __init__(self, value: str | None) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._value is not None:
            request.headers["Authorization"] = self._value
        return request
