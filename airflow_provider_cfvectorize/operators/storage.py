# SPDX-License-Identifier: Apache-2.0
"""Opening what ``ids_path`` names when it is not a local file."""

from __future__ import annotations

import os
from typing import BinaryIO, cast

from airflow_provider_cfvectorize.client.idsfile import open_local
from airflow_provider_cfvectorize.client.text import show
from airflow_provider_cfvectorize.exceptions import VectorizeInputError


def path_of(value: object) -> str:
    """
    Return a path as text.

    :param value: a string, a path object or an ``ObjectStoragePath``.
    :raises VectorizeInputError: it is something else, or nothing.
    """
    text = str(value) if isinstance(value, os.PathLike) or hasattr(value, "protocol") else value
    if not isinstance(text, str) or text in ("", "None"):
        raise VectorizeInputError(
            f"ids_path is {show(value)}, expected a path such as /data/ids.txt or s3://conn_id@bucket/ids.txt"
        )
    return text


def open_object(url: str) -> BinaryIO:
    """
    Open a file in object storage for reading, with Airflow's own connections.

    :param url: such as ``s3://conn_id@bucket/ids.txt``; see Airflow's documentation of object storage.
    :raises VectorizeInputError: no such store is installed, or the file cannot be read.
    """
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    try:
        path = ObjectStoragePath(url)
        protocols = path.fs.protocol
        if {"file", "local"} & ({protocols} if isinstance(protocols, str) else set(protocols)):
            # Another spelling of a local path does not go round the checks of one.
            return open_local(path.path)
        return cast("BinaryIO", path.open("rb"))
    except VectorizeInputError:
        raise
    except Exception as e:
        raise VectorizeInputError(
            f"ids_path {show(url, 200)} cannot be read: {type(e).__name__}: {show(str(e), 200)}. Is the "
            "provider of that store installed, and its connection right?"
        ) from None
