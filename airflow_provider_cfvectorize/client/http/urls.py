# SPDX-License-Identifier: Apache-2.0
"""Checks of the API's base URL."""

from __future__ import annotations

import contextlib
import ipaddress
import re
from collections.abc import Collection
from urllib.parse import urlsplit

from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

DEFAULT_BASE_URL = "https://api.cloudflare.com/client/v4"

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
    shown = show(host, 120) if not re.search("[@?#]", host) else "(not shown: it may contain a secret)"
    expected = f"expected a URL such as {DEFAULT_BASE_URL}"
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
