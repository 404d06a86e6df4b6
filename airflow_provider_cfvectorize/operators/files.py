# SPDX-License-Identifier: Apache-2.0
"""
Reads and writes the operators' files, local or in object storage, and reads ids from parameter or file.

Files: :func:`path_of`, :func:`place_of`, :func:`open_file`, :func:`write_file`. Ids:
:func:`read_id_source`, and :func:`origin_of` for its errors. A ``path`` may be a URL of object storage;
``name`` is the parameter that has it, for errors.
"""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeAlias, cast

from airflow_provider_cfvectorize.airflow_rendering import mapped_arguments
from airflow_provider_cfvectorize.client.inputs.files import (
    CHUNK_BYTES,
    has_scheme,
    local_path,
    new_file,
    no_room_explained,
    open_local,
    path_text,
)
from airflow_provider_cfvectorize.client.inputs.text import counted, show
from airflow_provider_cfvectorize.exceptions import VectorizeFileError, VectorizeInputError

if TYPE_CHECKING:
    import os

    from airflow.providers.common.compat.sdk import ObjectStoragePath

    from airflow_provider_cfvectorize.client.inputs.ids import IdSource

#: The accepted types of a parameter that names a file.
FilePath: TypeAlias = "str | os.PathLike[str] | ObjectStoragePath"
#: An expression in a template that reads a param or an upstream task's XCom.
_SOURCE: Final = re.compile(
    r"""\{\{\s*(?:params(?:\.|\[['"])(\w+)|(?:ti|task_instance)\.xcom_pull\((?:task_ids=)?['"]([\w.-]+))"""
)


def path_of(value: object, name: str) -> str:
    """
    Return a path as text.

    :raises VectorizeInputError: the value is not a path, or is empty.
    """
    text = path_text(value)
    if not isinstance(text, str) or text in ("", "None"):
        raise VectorizeInputError(
            f"{name} is {show(value)}, expected a path such as /data/file.txt or s3://conn_id@bucket/file.txt"
        )
    return text


def place_of(path: str, name: str) -> str:
    """
    Return a path in a normal form, to compare two spellings of one place as far as possible.

    :raises VectorizeInputError: the path is invalid, or below a system directory.
    """
    if not has_scheme(path):
        return local_path(path, name)
    scheme, _, rest = path.partition("://")
    try:
        found = _path(path, name, "found")
    except VectorizeInputError:
        # The store is not installed; opening the file reports it better.
        return f"{scheme.lower()}://{rest}"
    if isinstance(found, str):
        return local_path(found, name)
    # With two connections, one bucket name can mean two buckets.
    conn_id = rest.partition("/")[0].rpartition("@")[0]
    names = found.fs.protocol
    # A store with several names (gs, gcs) lists them in a fixed order.
    return f"{names if isinstance(names, str) else names[0]}://{conn_id}@{found.path}"


def open_file(path: str, name: str) -> BinaryIO:
    """
    Open a file for reading, local or in object storage.

    :raises VectorizeFileError: the file cannot be read.
    """
    return open_object(path, name) if has_scheme(path) else open_local(path, name)


def open_object(url: str, name: str) -> BinaryIO:
    """
    Open a file in object storage for reading, with Airflow's own connections.

    :param url: such as ``s3://conn_id@bucket/ids.txt``; see Airflow's documentation of object storage.
    :param name: the parameter that has it, for errors.
    :raises VectorizeFileError: the store's provider is not installed, or the file cannot be read.
    """
    path = _path(url, name, "read")
    if isinstance(path, str):
        return open_local(path, name)
    with _explained(url, name, "read"):
        return cast("BinaryIO", path.open("rb"))


@contextmanager
def write_file(path: str, name: str) -> Iterator[BinaryIO]:
    """
    Yield a file to write bytes to, and move it to the path after the block succeeds.

    :raises VectorizeFileError: the file cannot be written.
    """
    target = _path(path, name, "written") if has_scheme(path) else path
    if isinstance(target, str):
        with new_file(target, name) as file:
            yield file
        return
    with tempfile.TemporaryFile() as whole:
        with no_room_explained(path, name):
            yield whole
        whole.seek(0)
        with _explained(path, name, "written"):
            _upload(whole, target)


def _upload(file: BinaryIO, target: Any) -> None:
    # With Airflow's path instead of its store, so that Airflow's lineage has the file.
    remote = target.open("wb")
    try:
        shutil.copyfileobj(file, remote, CHUNK_BYTES)
    except BaseException:
        _abandon(getattr(remote, "_obj", remote))
        raise
    remote.close()


def _abandon(remote: Any) -> None:
    with suppress(Exception):
        remote.discard()
    try:
        # Closing it, as a with statement or its finalizer does, would publish the incomplete file.
        remote.closed = True
    except AttributeError:
        # The written part is published already, and the original error matters more than one of close().
        with suppress(Exception):
            remote.close()


def _path(url: str, name: str, verb: str) -> Any:
    """Return a path in object storage, or the local path if the URL is one."""
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    with _explained(url, name, verb):
        # Airflow 2 does not know schemes in capitals.
        scheme, _, rest = url.partition("://")
        path = ObjectStoragePath(f"{scheme.lower()}://{rest}")
        protocols = path.fs.protocol
        # A URL of a local path must pass the checks of local paths.
        is_local = {"file", "local"} & ({protocols} if isinstance(protocols, str) else set(protocols))
        return path.path if is_local else path


@contextmanager
def _explained(url: str, name: str, verb: str) -> Iterator[None]:
    try:
        yield
    except Exception as e:
        raise VectorizeFileError(
            f"{name} {show(url, 200)} cannot be {verb}: {type(e).__name__}: {show(str(e), 200)}. Check that "
            "the store's provider is installed and its connection is right"
        ) from None


def origin_of(operator: Any, name: str) -> str | None:
    """Return the origin of a parameter's value, for errors; None if the DAG does not show it."""
    dag = operator.get_dag()
    # The running task is a copy with rendered templates; the DAG has the original or a mapped operator.
    task = operator if dag is None else dag.get_task(operator.task_id)
    over, others = mapped_arguments(task)
    given: Any = others.get(name)
    if given is None:
        given = over.get(name) if isinstance(over, dict) else over
    if hasattr(given, "iter_references"):
        tasks = {f'"{upstream.task_id}"' for upstream, _ in given.iter_references()}
        return f"the upstream task {', '.join(sorted(tasks))}"
    if isinstance(given, str) and (match := _SOURCE.search(given)):
        param, task_id = match.groups()
        return f'the param "{param}"' if param else f'the upstream task "{task_id}"'
    return None


def read_id_source(
    ids: object, ids_path: object, *, max_ids: int | None = None, origin: str | None = None, log: Any
) -> IdSource:
    """
    Return the checked ids of one of two parameters.

    :param ids: see :func:`~airflow_provider_cfvectorize.client.inputs.ids.read_ids`.
    :param ids_path: a file; see :class:`~airflow_provider_cfvectorize.client.inputs.ids_file.IdsFile`.
    :param max_ids: the most ids to accept.
    :param origin: the origin of ``ids``, for errors.
    :param log: the log for the numbers of a file.
    :raises VectorizeInputError: both parameters are given, or an id is invalid.
    """
    from airflow_provider_cfvectorize.client.inputs.ids_file import IdsFile

    if ids_path is None:
        from airflow_provider_cfvectorize.client.inputs.ids import read_ids

        return read_ids(ids, max_ids=max_ids, origin=origin)
    if ids is not None:
        raise VectorizeInputError("both ids and ids_path are given: pass one of them")

    file = IdsFile(path_of(ids_path, "ids_path"), open_remote=open_object, max_ids=max_ids)
    log.info(
        "%s has %s, in %s; empty lines skipped: %d.",
        show(file.path, 200),
        counted(file.count, "id"),
        counted(file.batches, "batch"),
        file.empty_lines,
    )
    return file
