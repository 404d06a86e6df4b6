# SPDX-License-Identifier: Apache-2.0
"""Where requests may go: the checks of everything that becomes part of a URL."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from airflow_provider_cfvectorize.client.text import show
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

DEFAULT_BASE_URL = "https://api.cloudflare.com/client/v4"

_ACCOUNT_ID = re.compile(r"[0-9A-Fa-f]{32}", re.ASCII)
_PATH_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_CONTROL_OR_SPACE = re.compile(r"[\x00-\x20\x7f-\xa0\\]|[^\x00-\x7f]")


def is_loopback(host: str) -> bool:
    """Say whether a host name or address can only mean this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_account_id(account_id: object) -> str:
    """
    Return the account id in lower case.

    :param account_id: what was configured.
    :raises VectorizeInputError: it is not 32 hexadecimal digits.
    """
    if not isinstance(account_id, str) or not _ACCOUNT_ID.fullmatch(account_id):
        raise VectorizeInputError(
            f"account id {show(account_id)} is not 32 hexadecimal digits: put the Account ID (Cloudflare dashboard, "
            "account home, 'Copy account ID') into the connection's login, or pass account_id"
        )
    return account_id.lower()


def check_path_name(name: object, what: str = "index name") -> str:
    """
    Return a name that is safe as one segment of a path.

    Only what could leave the segment is refused; whether the service knows the name, it says itself. The
    check is linear in the name's length.

    :param name: what was passed.
    :param what: what it names, for the error.
    :raises VectorizeInputError: it is anything but 1 to 64 of A-Z, a-z, 0-9, ``_`` and ``-``.
    """
    if not isinstance(name, str) or not _PATH_NAME.fullmatch(name):
        raise VectorizeInputError(
            f"{what} {show(name)} cannot be one: expected 1 to 64 characters of A-Z, a-z, 0-9, '_' and '-'"
        )
    return name


def check_new_index_name(name: object) -> str:
    """
    Return a name that the service accepts for a new index.

    :param name: what was passed.
    :raises VectorizeInputError: the API's pattern (openapi-vectorize.json, ``vectorize_index-name``) does not
        fit: a lower-case letter first, then lower-case letters, digits, ``_`` and ``-``, a letter or digit last.
    """
    checked = check_path_name(name)
    # The published pattern ^([a-z]+[a-z0-9_-]*[a-z0-9]+)$ backtracks catastrophically; this accepts the same.
    if not re.fullmatch(r"[a-z][a-z0-9_-]*[a-z0-9]", checked, re.ASCII):
        raise VectorizeInputError(
            f"index name {show(name)} cannot be given to a new index: expected 2 to 64 characters, a lower-case "
            "letter first, then lower-case letters, digits, '_' and '-', a letter or digit last"
        )
    return checked


def check_base_url(host: str | None, *, allow_http_hosts: Collection[str] = ()) -> str:
    """
    Return the API's base URL without a trailing slash.

    :param host: URL, or host with an optional path (then ``https``); None or empty is Cloudflare's own.
    :param allow_http_hosts: host names, beside the loopback ones, to which plain ``http`` is allowed.
    :raises VectorizeInputError: the URL is malformed, has a user, query or fragment, or would send the
        credentials in the clear.
    """
    if not host:
        return DEFAULT_BASE_URL
    url = host if "://" in host else f"https://{host}"
    # Nothing of the URL is shown where it may hold a password.
    shown = show(host, 120) if "@" not in host else "(not shown: it has a user or password in it)"
    expected = f"expected something like {DEFAULT_BASE_URL}"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as e:
        raise VectorizeInputError(f"the connection's host {shown} is not a URL ({e}); {expected}") from None
    if _CONTROL_OR_SPACE.search(url) or parts.scheme not in ("http", "https") or not parts.hostname:
        raise VectorizeInputError(f"the connection's host {shown} is not an http(s) URL; {expected}")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise VectorizeInputError(
            f"the connection's host {shown} must have no user, password, query or fragment; {expected}. "
            "The API token belongs into the password"
        )
    if parts.scheme == "http" and not (is_loopback(parts.hostname) or parts.hostname in allow_http_hosts):
        raise VectorizeInputError(
            f"the connection's host {shown} would send the API token over plain http to {show(parts.hostname)}: "
            "use https. For development in containers, name the host in Airflow's option [cfvectorize] "
            "allow_http_hosts (environment: AIRFLOW__CFVECTORIZE__ALLOW_HTTP_HOSTS)"
        )
    hostname = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    netloc = hostname if port is None else f"{hostname}:{port}"
    if any(segment in (".", "..") for segment in parts.path.split("/")):
        raise VectorizeInputError(
            f"the connection's host {shown} must have no '.' or '..' in its path; {expected}"
        )
    return f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}"
