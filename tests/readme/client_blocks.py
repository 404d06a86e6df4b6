# SPDX-License-Identifier: Apache-2.0
"""Rules for the fenced blocks of docs/other-clients.md."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from harness import DIMENSIONS, Vectorize
from readme.bench import Bench
from readme.markdown import Block

PAGE = "docs/other-clients.md"


def sets_the_variables(block: Block, bench: Bench) -> None:
    """The test's local server has this account and token, and another port."""
    printed = bench.bash(f"{block.text}env | grep ^CLOUDFLARE_")
    values = dict(line.split("=", 1) for line in printed.splitlines())
    assert values["CLOUDFLARE_ACCOUNT_ID"] == bench.server.account_id
    assert values["CLOUDFLARE_API_TOKEN"] == bench.server.api_token
    for name in ("CLOUDFLARE_BASE_URL", "CLOUDFLARE_API_BASE_URL"):
        assert re.sub(":[0-9]+/", "/", values[name]) == re.sub(":[0-9]+/", "/", bench.server.base_url)


def upserts_by_the_sdk(block: Block, bench: Bench) -> None:
    vectorize = Vectorize(bench.server)
    assert DIMENSIONS == 32
    bench.monkeypatch.setenv("CLOUDFLARE_API_TOKEN", bench.server.api_token)
    bench.monkeypatch.setenv("CLOUDFLARE_BASE_URL", bench.server.base_url)
    bench.load(block)
    vectorize.settle()
    assert vectorize.ids() == {"chunk-0"}


def is_run_elsewhere(block: Block, bench: Bench) -> None:
    """Not run here: tests/local/test_other_clients.py makes these calls with the required clients."""
    assert block.language == "text"


RULES: Mapping[str, Callable[[Block, Bench], None]] = {
    f"{PAGE}#other-clients/1": sets_the_variables,
    f"{PAGE}#wrangler/1": is_run_elsewhere,
    f"{PAGE}#sdks/1": upserts_by_the_sdk,
    f"{PAGE}#langchain-and-langmem/1": is_run_elsewhere,
}
