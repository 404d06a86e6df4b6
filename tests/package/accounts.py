# SPDX-License-Identifier: Apache-2.0
"""The test account that the conformance suite uses instead of a real account."""

from __future__ import annotations

from conformance import conftest as suite
from conformance.account import Account, Bearer
from conformance.service import NEAR, Pace, Service

ACCOUNT = "ab" * 16
TOKEN = "a-token-that-nobody-may-see-0123456789"


def account_variables(base_url: str) -> dict[str, str]:
    return {
        suite.ACCOUNT_VARIABLE: ACCOUNT,
        suite.TOKEN_VARIABLE: TOKEN,
        "CLOUDFLARE_API_BASE_URL": base_url,
    }


def make_service(base_url: str, pace: Pace | None = None, read_only: Bearer | None = None) -> Service:
    account = Account(base_url, ACCOUNT, Bearer(TOKEN), read_only)
    return Service(account, pace or Pace(None), NEAR, trust_env=False)
