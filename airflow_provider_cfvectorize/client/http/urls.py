# SPDX-License-Identifier: Apache-2.0
"""Checks of everything that becomes part of a URL."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

DEFAULT_BASE_URL = "https://api.cloudflare.com/client/v4"

_ACCOUNT_ID = re.compile(r"[0-9A-Fa-f]{32}", re.ASCII)
_PATH_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_HOST_NAME = re.compile(r"(?!.{254})[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?", re.ASCII)
# No "%": each proxy and server may decode it differently, such as "%2e%2e".
_BASE_PATH = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=:@/-]*", re.ASCII)


def is_loopback(host: str) -> bool:
    """Return whether a host name or address always means this machine."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_account_id(account_id: object) -> str:
    """
    Return the account id in lower case.

    :raises VectorizeInputError: it is not 32 hexadecimal digits.
    """
    if not isinstance(account_id, str) or not _ACCOUNT_ID.fullmatch(account_id):
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
    if not isinstance(name, str) or not _PATH_NAME.fullmatch(name):
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


def check_base_url(host: str | None, *, allow_http_hosts: Collection[str] = ()) -> str:
    """
    Return the API's base URL without a trailing slash.

    :param host: URL, or host with an optional path (then ``https``); None or empty for Cloudflare's API.
    :param allow_http_hosts: host names, besides loopback, to which plain ``http`` is allowed.
    :raises VectorizeInputError: the URL is malformed, has a user, query or fragment, or would send the
        credentials unencrypted.
    """
    if not host:
        return DEFAULT_BASE_URL
    url = host if "://" in host else f"https://{host}"
    # No error shows a host that may contain a password or a token, and urlsplit's errors would show it.
    shown = show(host, 120) if not re.search("[@?#]", host) else "(not shown: it may have a secret in it)"
    expected = f"expected something like {DEFAULT_BASE_URL}"
    parts = None
    with contextlib.suppress(ValueError):
        split = urlsplit(url)
        port = split.port
        parts = split
    if parts is None:
        raise VectorizeInputError(f"the connection's host {shown} is not a URL; {expected}")
    if parts.username is not None or parts.password is not None or re.search("[?#]", url):
        raise VectorizeInputError(
            f"the connection's host {shown} must have no user, password, query or fragment; {expected}. "
            "Put the API token into the password"
        )
    hostname = parts.hostname or ""
    # urlsplit drops line breaks and tabs silently.
    is_url = url.isascii() and url.isprintable() and " " not in url and parts.scheme in ("http", "https")
    is_host = _is_host(hostname) and ("[" in parts.netloc) == (":" in hostname)
    if not is_url or not is_host or parts.netloc.endswith(":"):
        raise VectorizeInputError(f"the connection's host {shown} is not an http(s) URL; {expected}")
    if not _BASE_PATH.fullmatch(parts.path) or any(part in (".", "..") for part in parts.path.split("/")):
        raise VectorizeInputError(
            f"the connection's host {shown} must have no '.' or '..', and no '%' or other special "
            f"characters, in its path; {expected}"
        )
    http_allowed = is_loopback(hostname) or hostname in {allowed.lower() for allowed in allow_http_hosts}
    if parts.scheme == "http" and not http_allowed:
        raise VectorizeInputError(
            f"the connection's host {shown} would send the API token over plain http to {show(hostname)}: "
            "use https. For development in containers, name the host in Airflow's option [cfvectorize] "
            "allow_http_hosts (environment: AIRFLOW__CFVECTORIZE__ALLOW_HTTP_HOSTS)"
        )
    netloc = f"[{hostname}]" if ":" in hostname else hostname
    if port is not None:
        netloc = f"{netloc}:{port}"
    return f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}"


def _is_host(name: str) -> bool:
    if ":" not in name:
        return bool(_HOST_NAME.fullmatch(name))
    try:
        return ipaddress.IPv6Address(name).scope_id is None
    except ValueError:
        return False
