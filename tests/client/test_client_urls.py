# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cfvectorize.client.http.urls import DEFAULT_BASE_URL, check_base_url, is_loopback
from airflow_provider_cfvectorize.client.inputs.names import (
    check_account_id,
    check_new_index_name,
    check_path_name,
)
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

#: The published pattern (openapi-vectorize.json, vectorize_index-name), with "\Z" for its "$": in Python that
#: would also accept a line feed at the end.
PUBLISHED = re.compile(r"^([a-z]+[a-z0-9_-]*[a-z0-9]+)\Z")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        (None, DEFAULT_BASE_URL),
        ("", DEFAULT_BASE_URL),
        (DEFAULT_BASE_URL, DEFAULT_BASE_URL),
        (f"{DEFAULT_BASE_URL}/", DEFAULT_BASE_URL),
        (f"{DEFAULT_BASE_URL}///", DEFAULT_BASE_URL),
        ("api.cloudflare.com", "https://api.cloudflare.com"),
        ("api.cloudflare.com/client/v4", DEFAULT_BASE_URL),
        ("API.Cloudflare.COM:443/client/v4", "https://api.cloudflare.com:443/client/v4"),
        ("HTTPS://api.cloudflare.com", "https://api.cloudflare.com"),
        ("localhost:8787", "https://localhost:8787"),
        ("http://localhost:8787/client/v4", "http://localhost:8787/client/v4"),
        ("http://LOCALHOST", "http://localhost"),
        ("http://127.0.0.1:8787", "http://127.0.0.1:8787"),
        ("http://127.9.9.9", "http://127.9.9.9"),
        ("http://[::1]:8787/x", "http://[::1]:8787/x"),
        ("https://[2001:DB8::1]", "https://[2001:db8::1]"),
        ("http://vectorize:8787/client/v4/", "http://vectorize:8787/client/v4"),
        ("http://Vectorize", "http://vectorize"),
        ("https://gateway.example.com/a/b_c~d/v4.1", "https://gateway.example.com/a/b_c~d/v4.1"),
        ("https://my_host.example.com.", "https://my_host.example.com."),
    ],
)
def test_base_urls_are_normalized(host: str | None, url: str) -> None:
    assert check_base_url(host, allow_http_hosts=["VECTORIZE"]) == url
    assert check_base_url(url, allow_http_hosts=["vectorize"]) == url


@pytest.mark.parametrize(
    "host",
    [
        "http://api.cloudflare.com",
        "http://10.0.0.1",
        "http://vectorize.example.com",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://[2001:db8::1]",
        "http://0.0.0.0",
        "http://2130706433",
        "http://127.1",
    ],
)
def test_plain_http_needs_loopback_or_an_allowed_host(host: str) -> None:
    with pytest.raises(VectorizeInputError, match=r"over plain http.*\[cfvectorize\] allow_http_hosts"):
        check_base_url(host, allow_http_hosts=["vectorize"])


@pytest.mark.parametrize(
    "host",
    [
        "https://user:hunter2@api.cloudflare.com",
        "https://hunter2@api.cloudflare.com",
        "user:hunter2@api.cloudflare.com",
        "user:p/hunter2@api.cloudflare.com",
        "user:hunter2/w@api.cloudflare.com",
        "https://user:hunter2@[",
        "https://u:hunter2\u2100@api.cloudflare.com",
        "https://api.cloudflare.com/?token=hunter2",
        "https://api.cloudflare.com?token=hunter2",
        "https://api.cloudflare.com#hunter2",
        "api.cloudflare.com/#hunter2",
        "http://user:hunter2@127.0.0.1",
    ],
)
def test_urls_with_a_possible_secret_are_refused_and_not_shown(host: str) -> None:
    with pytest.raises(VectorizeInputError, match="not shown: it may contain a secret") as e:
        check_base_url(host)
    assert "hunter2" not in str(e.value)
    assert e.value.__context__ is None


@pytest.mark.parametrize(
    "host",
    [
        "ftp://api.cloudflare.com",
        "file:///etc/passwd",
        "https://",
        "https:///client",
        "//api.cloudflare.com",
        "://x",
        "https:/api.cloudflare.com",
        "https://api.cloudflare.com:",
        "https://api.cloudflare.com:x",
        "https://api.cloudflare.com:70000",
        "https://api.cloudflare.com:-1",
        "https://[::1",
        "https://[::1%25eth0]",
        "https://[v1.a]",
        "https://::1",
        "https://a..b",
        "https://.a",
        "https://*.example.com",
        "https://a,b",
        "https://a%2eb",
        f"https://{'a' * 64}.com",
        f"https://{'a.' * 200}com",
        "https://exämple.com",
        "https://api.cloudflare.com\\@evil.example.com",
        " https://api.cloudflare.com",
        "https://api.cloudflare.com\n",
        "https://api.cloud\nflare.com",
        "https://api.cloud\tflare.com",
        "https://api.cloudflare.com/a b",
        "https://api.cloudflare.com/\x00",
        "https://api.cloudflare.com/\u2028",
        "https://api.cloudflare.com/client/../v4",
        "https://api.cloudflare.com/..",
        "https://api.cloudflare.com/./v4",
        "https://api.cloudflare.com/%2e%2e/v4",
        "https://api.cloudflare.com/%0d%0aX:1",
        'https://api.cloudflare.com/"',
        "https://api.cloudflare.com/{account}",
    ],
)
def test_invalid_urls_are_refused(host: str) -> None:
    with pytest.raises(
        VectorizeInputError, match=r"expected a URL such as https://api\.cloudflare\.com"
    ) as e:
        check_base_url(host)
    assert str(e.value).isprintable()


@given(st.text(max_size=40), st.sampled_from(["", "https://", "http://", "https://a"]))
def test_an_accepted_url_stays_accepted_unchanged(text: str, start: str) -> None:
    try:
        url = check_base_url(f"{start}{text}", allow_http_hosts=["a"])
    except VectorizeInputError:
        return
    assert check_base_url(url, allow_http_hosts=["a"]) == url
    assert re.fullmatch(r"https?://[^\s?#\\]+", url, re.ASCII)


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("localhost", True),
        ("LocalHost", True),
        ("127.0.0.1", True),
        ("127.255.255.254", True),
        ("::1", True),
        ("::ffff:10.0.0.1", False),
        ("128.0.0.1", False),
        ("localhost.localdomain", False),
        ("", False),
        ("host.docker.internal", False),
    ],
)
def test_loopback_hosts(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


def test_valid_account_ids() -> None:
    assert check_account_id("0123456789ABCDEFabcdef0123456789") == "0123456789abcdefabcdef0123456789"


@pytest.mark.parametrize(
    "account_id",
    [
        None,
        "",
        5,
        b"0" * 32,
        "0" * 31,
        "0" * 33,
        "0" * 31 + "g",
        "0" * 32 + "\n",
        "\u0660" * 32,
        "../" + "0" * 29,
        " " + "0" * 31,
    ],
)
def test_invalid_account_ids_are_refused(account_id: object) -> None:
    with pytest.raises(VectorizeInputError, match="not 32 hexadecimal digits: put the Account ID"):
        check_account_id(account_id)


def test_a_token_in_place_of_an_account_id_is_not_shown() -> None:
    with pytest.raises(VectorizeInputError, match="account id of 40 characters is not") as e:
        check_account_id("hunter2-" * 5)
    assert "hunter2" not in str(e.value)


@pytest.mark.parametrize("name", ["a", "docs", "A_b-9", "9", "-", "_", "x" * 64])
def test_valid_names_in_paths(name: str) -> None:
    assert check_path_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        "",
        "..",
        ".",
        "a/b",
        "/",
        "a.b",
        "a b",
        "a%2fb",
        "a?b",
        "a#b",
        "docs\n",
        "\ndocs",
        "dócs",
        "docs\u2028",
        "a" * 65,
        None,
        5,
        b"docs",
        ["docs"],
        "a\\b",
        "а",  # noqa: RUF001 - Cyrillic
    ],
)
def test_names_that_change_the_path_are_refused(name: object) -> None:
    with pytest.raises(VectorizeInputError, match="expected 1 to 64 characters of A-Z"):
        check_path_name(name)
    with pytest.raises(VectorizeInputError):
        check_new_index_name(name)


@pytest.mark.parametrize(
    "name", ["a" * 8000 + "!", "a-" * 4000, "a" * 8000], ids=["odd end", "dashes", "long"]
)
def test_a_long_name_is_refused_at_once(name: str) -> None:
    started = time.process_time()
    with pytest.raises(VectorizeInputError) as e:
        check_new_index_name(name)
    # The published pattern would take practically forever.
    assert time.process_time() - started < 1
    assert len(str(e.value)) < 300


@given(st.text("abz019_-AZ.é\n /", max_size=9))
def test_new_index_names_match_the_published_pattern(name: str) -> None:
    expected = bool(PUBLISHED.match(name))
    if expected:
        assert check_new_index_name(name) == name
    else:
        with pytest.raises(VectorizeInputError):
            check_new_index_name(name)


@pytest.mark.parametrize("name", ["a", "A1", "1a", "a-", "a_", "-a", "docs-"])
def test_names_refused_only_for_a_new_index(name: str) -> None:
    assert check_path_name(name) == name
    with pytest.raises(VectorizeInputError, match=r"invalid name for a new index .*: expected 2 to 64"):
        check_new_index_name(name)
