# SPDX-License-Identifier: Apache-2.0
"""
A local Vectorize server that behaves like the service.

The command ``vectorize-local`` runs it in a process of its own. :class:`LocalVectorize` runs it in a thread,
for tests and notebooks. The package imports starlette and uvicorn on first use, so that you can import it
without the extra ``local``.
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
