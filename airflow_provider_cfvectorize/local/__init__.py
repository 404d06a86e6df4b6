# SPDX-License-Identifier: Apache-2.0
"""
Vectorize on your own machine: a server that answers as the service does.

The command ``vectorize-local`` runs it on its own; :class:`LocalVectorize` runs it in a thread, for tests and
notebooks. What it needs (starlette, uvicorn) is imported on first use, so that importing this package costs
nothing and works without the extra ``local``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from airflow_provider_cfvectorize.local.behaviour import Behaviour
    from airflow_provider_cfvectorize.local.server import LocalVectorize

__all__ = ["Behaviour", "LocalVectorize"]


def __getattr__(name: str) -> Any:
    if name == "LocalVectorize":
        from airflow_provider_cfvectorize.local.server import LocalVectorize

        return LocalVectorize
    if name == "Behaviour":
        from airflow_provider_cfvectorize.local.behaviour import Behaviour

        return Behaviour
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
