# SPDX-License-Identifier: Apache-2.0
"""
Where the values of an operator come from: parameters, and files on a disk or in object storage.

A ``path`` may be a URL of object storage; ``name`` is the parameter that names it, for errors.
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

#: What a parameter that names a file takes.
FilePath: TypeAlias = "str | os.PathLike[str] | ObjectStoragePath"
#: A template's expression that takes a param, or an upstream task's XCom.
_SOURCE: Final = re.compile(
    r"""\{\{\s*(?:params(?:\.|\[['"])(\w+)|(?:ti|task_instance)\.xcom_pull\((?:task_ids=)?['"]([\w.-]+))"""
)


def path_of(value: object, name: str) -> str:
    """
    Return a path as text.

    :raises VectorizeInputError: it is something else, or nothing.
    """
    text = path_text(value)
    if not isinstance(text, str) or text in ("", "None"):
        raise VectorizeInputError(
            f"{name} is {show(value)}, expected a path such as /data/file.txt or s3://conn_id@bucket/file.txt"
        )
    return text


def place_of(path: str, name: str) -> str:
    """
    Return what is equal for two spellings of one place, as far as that can be seen.

    :raises VectorizeInputError: it is no path, or one that holds no files of data.
    """
    if not has_scheme(path):
        return local_path(path, name)
    scheme, _, rest = path.partition("://")
    try:
        found = _path(path, name, "found")
    except VectorizeInputError:
        # No such store here, which whoever opens the file says better.
        return f"{scheme.lower()}://{rest}"
    if isinstance(found, str):
        return local_path(found, name)
    # One bucket's name can be two buckets by two connections.
    conn_id = rest.partition("/")[0].rpartition("@")[0]
    names = found.fs.protocol
    # Of a store with several names (gs, gcs) they come in one order.
    return f"{names if isinstance(names, str) else names[0]}://{conn_id}@{found.path}"


def open_file(path: str, name: str) -> BinaryIO:
    """
    Open a file for reading: a local one, or one in object storage.

    :raises VectorizeFileError: it cannot be read.
    """
    return open_object(path, name) if has_scheme(path) else open_local(path, name)


def open_object(url: str, name: str) -> BinaryIO:
    """
    Open a file in object storage for reading, with Airflow's own connections.

    :param url: such as ``s3://conn_id@bucket/ids.txt``; see Airflow's documentation of object storage.
    :param name: the parameter that names it, for errors.
    :raises VectorizeFileError: no such store is installed, or the file cannot be read.
    """
    path = _path(url, name, "read")
    if isinstance(path, str):
        return open_local(path, name)
    with _explained(url, name, "read"):
        return cast("BinaryIO", path.open("rb"))


@contextmanager
def write_file(path: str, name: str) -> Iterator[BinaryIO]:
    """
    Yield a file to write bytes to, which stands at the path when the block has ended well.

    :raises VectorizeFileError: it cannot be written.
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
    # By way of Airflow's path and not of its store alone, so that Airflow's lineage has the file.
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
        # Closing it, as the end of a with statement or its finalizer would, makes a whole file of what was
        # sent so far.
        remote.closed = True
    except AttributeError:
        # What it has written is there already, and why it ended is more than that it cannot be closed.
        with suppress(Exception):
            remote.close()


def _path(url: str, name: str, verb: str) -> Any:
    """Return a path in object storage, or of a URL that is another spelling of a local path, that path."""
    from airflow.providers.common.compat.sdk import ObjectStoragePath

    with _explained(url, name, verb):
        # A scheme is the same in capitals, which Airflow 2 does not know.
        scheme, _, rest = url.partition("://")
        path = ObjectStoragePath(f"{scheme.lower()}://{rest}")
        protocols = path.fs.protocol
        # Another spelling of a local path does not go round the checks of one.
        is_local = {"file", "local"} & ({protocols} if isinstance(protocols, str) else set(protocols))
        return path.path if is_local else path


@contextmanager
def _explained(url: str, name: str, verb: str) -> Iterator[None]:
    try:
        yield
    except Exception as e:
        raise VectorizeFileError(
            f"{name} {show(url, 200)} cannot be {verb}: {type(e).__name__}: {show(str(e), 200)}. Is the "
            "provider of that store installed, and its connection right?"
        ) from None


def origin_of(operator: Any, name: str) -> str | None:
    """Return where a parameter's value comes from, None if the DAG does not tell."""
    dag = operator.get_dag()
    # What runs is a copy, whose templates are rendered; the DAG has the original, or a mapped operator.
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
    Return checked ids, out of either of two parameters.

    :param ids: see :func:`~airflow_provider_cfvectorize.client.inputs.ids.read_ids`.
    :param ids_path: a file; see :class:`~airflow_provider_cfvectorize.client.inputs.ids_file.IdsFile`.
    :param max_ids: refuse more than so many.
    :param origin: where ``ids`` come from, for errors.
    :param log: where to say what a file has.
    :raises VectorizeInputError: both are given, or what is given cannot be ids.
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
