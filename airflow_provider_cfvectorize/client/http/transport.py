# SPDX-License-Identifier: Apache-2.0
"""
The HTTP library: :class:`RequestsTransport` sends a request with ``requests``.

Everything specific to ``requests`` and ``urllib3`` is in this file.
"""

from __future__ import annotations

import functools
import http.client
import http.cookiejar
import io
import os
import ssl
import time
from collections.abc import Mapping, MutableMapping
from typing import Any
from urllib.parse import urlsplit

import requests
import requests.adapters
import requests.auth
import requests.utils
import urllib3

from airflow_provider_cfvectorize.client.http.responses import RawResponse
from airflow_provider_cfvectorize.client.http.urls import is_loopback
from airflow_provider_cfvectorize.client.inputs.text import show
from airflow_provider_cfvectorize.exceptions import (
    VectorizeFileError,
    VectorizeInputError,
    VectorizeTransportError,
)

#: The most bytes of a response. The service's largest response is ``get_by_ids`` of 20 vectors with 1,536
#: values and 10 KiB of metadata each: under 2 MB.
MAX_RESPONSE_BYTES = 64 * 1024 * 1024
#: A response may take this many times the timeout of one read, from its first byte to its last.
TOTAL_TIME_FACTOR = 3
#: The environment variables that name CA certificates to use instead of the library's own.
CA_VARIABLES = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
#: A request body with more bytes is sent in steps.
MAX_STEP_BYTES = 64 * 1024


class _DeadlineReader(io.RawIOBase):
    """
    The raw stream of a response, with a deadline.

    A socket's timeout restarts at every byte, so a server that sends a byte now and then would block a reader
    forever. Here the deadline limits each read.
    """

    def __init__(self, raw: io.RawIOBase, sock: Any) -> None:
        self._raw = raw
        self._sock = sock
        self._read_timeout = sock.gettimeout()
        self._deadline = (
            None if self._read_timeout is None else time.monotonic() + TOTAL_TIME_FACTOR * self._read_timeout
        )

    def readable(self) -> bool:
        """Return True: the stream is readable."""
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Read into the buffer before the deadline."""
        if self._deadline is not None:
            left = self._deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("the response did not end in time")
            self._sock.settimeout(min(self._read_timeout, left))
        return self._raw.readinto(buffer)

    def close(self) -> None:
        """Close this stream and the one that it wraps."""
        self._raw.close()
        super().close()


class _BoundedHTTPResponse(http.client.HTTPResponse):
    """A response whose total time is limited, including its headers."""

    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        raw = self.fp.detach()
        self.fp = io.BufferedReader(_DeadlineReader(raw, sock))

    def begin(self) -> None:
        """Read the status line and the headers, and discard malformed header lines."""
        super().begin()
        # The library would log those lines, and they may echo a credential.
        self.msg.defects.clear()
        self.msg.set_payload("")


@functools.cache
def _bounded(connection: type) -> type:
    """Return a connection class that limits the total time of a response."""
    return type(f"Bounded{connection.__name__}", (connection,), {"response_class": _BoundedHTTPResponse})


class _BoundedAdapter(requests.adapters.HTTPAdapter):
    """An adapter whose connections, also those to a proxy, limit the total time of a response."""

    def get_connection_with_tls_context(self, *args: Any, **kwargs: Any) -> Any:
        """Return the pool for a request, with such connections."""
        pool: Any = super().get_connection_with_tls_context(*args, **kwargs)
        pool.ConnectionCls = _bounded(type(pool).ConnectionCls)
        return pool


class _Session(requests.Session):
    """A session that never prepares a redirect, which would read a body of any size."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return None: no response is a redirect."""


class CredentialAuth(requests.auth.AuthBase):
    """Adds the credentials to the headers of a request, and to nothing else."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._headers = dict(headers)

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        """Add the headers to a request."""
        request.headers.update(self._headers)
        return request

    def __repr__(self) -> str:
        return f"{type(self).__name__}(***)"


class RequestsTransport:
    """
    One ``requests.Session``, shared by the threads of a client.

    It follows no redirects, keeps no cookies and reads no ``.netrc``.

    :param base_url: the API's address; decides whether a proxy is used.
    :param auth_headers: the headers with the credentials.
    :param timeout: seconds to connect, and for each read.
    :param max_connections: the most requests in flight; more requests wait for a connection.
    :raises VectorizeInputError: the environment's proxy or file of CA certificates is unusable.
    """

    def __init__(
        self, base_url: str, *, auth_headers: Mapping[str, str], timeout: float, max_connections: int
    ) -> None:
        self._timeout = timeout
        self._session = session = _Session()
        # Read the environment here, once. With trust_env, a session reads it and .netrc for each request.
        session.trust_env = False
        session.auth = CredentialAuth(auth_headers)
        session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=()))
        session.verify = next((value for name in CA_VARIABLES if (value := os.environ.get(name))), True)
        if base_url.startswith("https:"):
            _check_ca_file(session.verify)
        if not is_loopback(urlsplit(base_url).hostname or ""):
            session.proxies.update(requests.utils.get_environ_proxies(base_url))
            _check_proxy(base_url, session.proxies)
        adapter = _BoundedAdapter(pool_connections=1, pool_maxsize=max_connections, pool_block=True)
        session.mount("https://", adapter)
        session.mount("http://", adapter)

    def send(
        self,
        method: str,
        url: str,
        *,
        params: Mapping[str, str] | None,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> RawResponse:
        """
        Send a request and read the whole response, within limits of time and size.

        :raises VectorizeTransportError: there is no connection, it broke, or the response is too slow or too
            large.
        """
        # A file is sent in steps, and the timeout limits each step. Bytes must be sent within one timeout:
        # 32 MB in 30 s is too fast for many networks.
        data = io.BytesIO(body) if body is not None and len(body) > MAX_STEP_BYTES else body
        try:
            with self._session.request(
                method,
                url,
                params=params,
                headers=headers,
                data=data,
                timeout=self._timeout,
                allow_redirects=False,
                stream=True,
            ) as response:
                return RawResponse(response.status_code, response.headers, self._read(response))
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,
        ) as e:
            failure = self._explain(e, url)
            sent = _was_sent(e)
            is_final = any(isinstance(layer, ssl.SSLCertVerificationError) for layer in _layers(e))
        # Not in the except block: the library's exception holds the request with its credentials, and would
        # become the context of this one, even with "from None".
        raise VectorizeTransportError(failure, sent=sent, is_final=is_final)

    def close(self) -> None:
        """Close all idle connections at once, and those in use when their request ends."""
        self._session.close()

    def _read(self, response: requests.Response) -> bytes:
        chunks: list[bytes] = []
        size = 0
        for chunk in response.iter_content(65536):
            size += len(chunk)
            if size > MAX_RESPONSE_BYTES:
                raise VectorizeTransportError(
                    f"the response is larger than {MAX_RESPONSE_BYTES // 2**20} MiB, which is more than the "
                    "service sends: check that the connection's host is the Cloudflare API"
                )
            chunks.append(chunk)
        return b"".join(chunks)

    def _explain(self, error: BaseException, url: str) -> str:
        # The library's errors nest several layers and repeat URLs. The innermost one says what happened.
        inner = _layers(error)[-1]
        host = urlsplit(url).netloc
        if isinstance(error, requests.ConnectTimeout):
            return f"{host} did not accept a connection within {self._timeout:g} s"
        if isinstance(error, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError) or isinstance(
            inner, TimeoutError | urllib3.exceptions.TimeoutError
        ):
            return (
                f"no complete response from {host}: more than {self._timeout:g} s between two reads, or more "
                f"than {TOTAL_TIME_FACTOR * self._timeout:g} s in all"
            )
        if isinstance(error, requests.exceptions.ProxyError):
            return f"the proxy on the way to {host} failed: {type(inner).__name__}"
        if isinstance(error, requests.exceptions.SSLError):
            remedy = ""
            if isinstance(inner, ssl.SSLCertVerificationError):
                remedy = (
                    ". If your own CA or a proxy's CA signed the certificate, set "
                    f"{CA_VARIABLES[0]} to the file of that CA's certificate, on every worker. If not, check "
                    "the connection's host"
                )
            return f"no trusted TLS connection to {host}: {str(inner)!a}{remedy}"
        return f"no response from {host}: {type(inner).__name__}: {str(inner)!a}"


def _check_ca_file(verify: str | bool) -> None:
    """Check that the CA certificates that the environment names can be read."""
    if not isinstance(verify, str):
        return
    try:
        where = "capath" if os.path.isdir(verify) else "cafile"
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(**{where: verify})
    except OSError as e:
        problem = e.strerror or str(e)
    else:
        return
    names = " or ".join(name for name in CA_VARIABLES if os.environ.get(name) == verify)
    raise VectorizeFileError(
        f"no CA certificates can be read from {show(verify, 200)}, the value of {names}: "
        f"{ascii(problem)[:200]}. Put a file of PEM certificates there, on this worker, or unset {names}"
    )


def _check_proxy(base_url: str, proxies: MutableMapping[str, str]) -> None:
    """Check the address of the environment's proxy, if it is used."""
    proxy = requests.utils.select_proxy(base_url, proxies)
    if proxy is None:
        return
    try:
        url = urllib3.util.parse_url(proxy if "://" in proxy else f"http://{proxy}")
        if url.host and url.scheme in ("http", "https", "socks4", "socks4a", "socks5", "socks5h"):
            return
    except urllib3.exceptions.LocationParseError:
        pass
    # The value itself is not shown: it may have a password in it.
    api = urlsplit(base_url)
    raise VectorizeInputError(
        f"the environment's proxy for {api.hostname} is not an address: set {api.scheme}_proxy (or "
        "all_proxy, in lower or upper case) to a URL such as http://proxy.example:3128, with user:password@ "
        "before the host if the proxy requires it"
    )


def _layers(error: BaseException) -> list[BaseException]:
    """Return an exception and those that it wraps, the outermost first."""
    layers = [error]
    while True:
        inner = layers[-1]
        reason = getattr(inner, "reason", None)
        nested = reason if isinstance(reason, BaseException) else None
        nested = nested or next((a for a in inner.args if isinstance(a, BaseException)), None)
        nested = nested or inner.__cause__
        if nested is None or nested is inner:
            return layers
        layers.append(nested)


def _was_sent(error: BaseException) -> bool:
    """Return whether a failed request may have been sent; False only if it certainly was not."""
    unconnected = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)
    return not any(isinstance(layer, unconnected) for layer in _layers(error))
