# SPDX-License-Identifier: Apache-2.0
"""The endpoints of the API: one method for each, with the name of the client's method."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from starlette.datastructures import QueryParams

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.local import errors
from airflow_provider_cfvectorize.local.faults.injection import PLAN
from airflow_provider_cfvectorize.local.http import bodies, multipart, queries

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from starlette.requests import Request

    from airflow_provider_cfvectorize.local.engine.index import Index
    from airflow_provider_cfvectorize.local.engine.store import Store
    from airflow_provider_cfvectorize.local.engine.view import Recall
    from airflow_provider_cfvectorize.local.faults.injection import Faults, Plan

#: An upload of this size or more is parsed in a thread, so that it does not delay other responses.
_THREAD_BYTES: Final = 64 * 1024
#: A query on an index with more numbers than this runs in a thread, so that it does not delay other
#: responses.
_THREAD_FLOATS: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Endpoint:
    """
    An endpoint of the API.

    :param handle: Returns the result of a request; its arguments are the request and the index name in its
        path, which is empty if the path has none.
    :param writes: Whether it requires the permission to write.
    :param result_info: Whether its envelope has the field ``result_info``.
    """

    handle: Callable[[Request, str], Coroutine[Any, Any, Any]]
    writes: bool
    result_info: bool = False

    @property
    def name(self) -> str:
        """The name of the client's method, and of the count of requests."""
        return self.handle.__name__


class Api:
    """The endpoints on the indexes of a store."""

    def __init__(self, store: Store, faults: Faults, recall: Recall) -> None:
        self._store = store
        self._faults = faults
        self._recall = recall
        self._behaviour = store.behaviour
        #: The endpoints of the path ``.../indexes``, by HTTP method.
        self.collection = {
            "GET": Endpoint(self.list_indexes, False),
            "POST": Endpoint(self.create_index, True),
        }
        #: The endpoints of the paths ``.../indexes/{index_name}/{key}``, by key and HTTP method.
        self.routes = {
            "": {
                "GET": Endpoint(self.get_index, False),
                "DELETE": Endpoint(self.delete_index, True),
            },
            "info": {"GET": Endpoint(self.info, False)},
            "insert": {"POST": Endpoint(self.insert, True)},
            "upsert": {"POST": Endpoint(self.upsert, True)},
            "delete_by_ids": {"POST": Endpoint(self.delete_by_ids, True)},
            "get_by_ids": {"POST": Endpoint(self.get_by_ids, False)},
            "list": {"GET": Endpoint(self.list_vectors, False)},
            "query": {"POST": Endpoint(self.query, False, result_info=True)},
            "metadata_index/create": {"POST": Endpoint(self.create_metadata_index, True)},
            "metadata_index/list": {"GET": Endpoint(self.list_metadata_indexes, False)},
            "metadata_index/delete": {"POST": Endpoint(self.delete_metadata_index, True)},
        }

    # --- indexes ---------------------------------------------------------------------------------------

    async def list_indexes(self, request: Request, name: str) -> list[dict[str, Any]]:
        """List the indexes."""
        return [index.describe() for index in self._store.indexes()]

    async def create_index(self, request: Request, name: str) -> dict[str, Any]:
        """Create an index."""
        body = await self._json(request)
        config = bodies.parse_index(body, self._store.now())
        return self._store.create(config).describe()

    async def get_index(self, request: Request, name: str) -> dict[str, Any]:
        """Return the description of an index."""
        return self._store.index(name).describe()

    async def delete_index(self, request: Request, name: str) -> None:
        """Delete an index."""
        self._store.delete(name)

    async def info(self, request: Request, name: str) -> dict[str, Any]:
        """Return the watermark and the number of vectors."""
        return self._index_to_read(request, name).info()

    # --- vectors ---------------------------------------------------------------------------------------

    async def insert(self, request: Request, name: str) -> dict[str, Any]:
        """Insert vectors; existing vectors stay as they are."""
        return await self._upload(request, name, "insert")

    async def upsert(self, request: Request, name: str) -> dict[str, Any]:
        """Insert vectors; they replace existing vectors completely."""
        return await self._upload(request, name, "upsert")

    async def delete_by_ids(self, request: Request, name: str) -> dict[str, Any]:
        """Delete vectors; missing ids are not an error."""
        body = await self._json(request)
        index = self._store.index(name)
        ids = bodies.parse_ids(body, limits.MAX_DELETE_IDS, self._behaviour)
        return {"mutationId": index.accept("delete", self._store.now(), ids=ids)}

    async def get_by_ids(self, request: Request, name: str) -> list[dict[str, Any]]:
        """Return vectors; missing ids are omitted."""
        body = await self._json(request)
        index = self._index_to_read(request, name)
        ids = bodies.parse_ids(body, limits.MAX_GET_IDS, self._behaviour)
        if self._behaviour.duplicate_ids_in_get == "once":
            ids = list(dict.fromkeys(ids))
        found = []
        for vector_id in ids:
            vector = index.vectors.get(vector_id)
            if vector is None:
                continue
            shown: dict[str, Any] = {"id": vector.id, "values": vector.floats()}
            if vector.namespace is not None:
                shown["namespace"] = vector.namespace
            if vector.metadata is not None:
                shown["metadata"] = json.loads(vector.metadata)
            found.append(shown)
        return found

    async def list_vectors(self, request: Request, name: str) -> dict[str, Any]:
        """Return one page of ids."""
        query = _query(request)
        index = self._index_to_read(request, name)
        count = bodies.parse_list_count(query.get("count"))
        return self._store.listings.page(index, query.get("cursor") or None, count, self._store.now())

    async def query(self, request: Request, name: str) -> dict[str, Any]:
        """Return the vectors nearest to a vector."""
        body = await self._json(request)
        index = self._index_to_read(request, name)
        query = queries.parse_query(body, index.config.dimensions, self._behaviour)
        vector = query.vector
        if vector is None:
            found = index.vectors.get(query.vector_id)
            if found is None:
                if self._behaviour.unknown_vector_id == "refuse":
                    raise errors.refusal("unknown_vector_id", id=query.vector_id)
                return {"count": 0, "matches": []}
            vector = found.floats()
        view = index.view()
        if view.size <= _THREAD_FLOATS:
            matches = view.search(query, vector, self._recall)
        else:
            matches = await asyncio.to_thread(view.search, query, vector, self._recall)
        return {"count": len(matches), "matches": matches}

    # --- metadata indexes ------------------------------------------------------------------------------

    async def create_metadata_index(self, request: Request, name: str) -> dict[str, Any]:
        """Create a metadata index; an existing one stays as it is."""
        body = await self._json(request)
        index = self._store.index(name)
        property_name = bodies.parse_property(body)
        index_type = bodies.parse_type(body)
        return {"mutationId": index.create_metadata_index(property_name, index_type, self._store.now())}

    async def list_metadata_indexes(self, request: Request, name: str) -> dict[str, Any]:
        """List the metadata indexes."""
        return {"metadataIndexes": self._store.index(name).describe_metadata_indexes()}

    async def delete_metadata_index(self, request: Request, name: str) -> dict[str, Any]:
        """Delete a metadata index."""
        body = await self._json(request)
        index = self._store.index(name)
        property_name = bodies.parse_property(body)
        return {"mutationId": index.delete_metadata_index(property_name, self._store.now())}

    async def _upload(self, request: Request, name: str, operation: str) -> dict[str, Any]:
        media_type = _media_type(request)
        if media_type not in ("application/x-ndjson", "multipart/form-data"):
            raise errors.refusal("unknown_content_type")
        behavior = _query(request).get("unparsable-behavior")
        if behavior not in (None, "error", "discard") and self._behaviour.unknown_parameter_value == "refuse":
            raise errors.refusal("invalid_parameter")
        body: bytes | None = await bodies.read_body(request)
        index = self._store.index(name)
        if media_type == "multipart/form-data" and body is not None:
            body = multipart.uploaded(body, request.headers.get("content-type", ""))
            if body is None:
                raise errors.refusal("not_ndjson", operation=operation, line=None)
        arguments = (
            body or b"",
            operation,
            index.config.dimensions,
            behavior == "discard",
            self._behaviour,
        )
        if len(arguments[0]) < _THREAD_BYTES:
            vectors = bodies.parse_vectors(*arguments)
        else:
            vectors = await asyncio.to_thread(bodies.parse_vectors, *arguments)
            if self._store.index(name) is not index:
                # The index was deleted and created again during the parsing. The upload was for the deleted
                # one.
                raise errors.refusal("index_deleted", name=name)
        kind: Any = operation
        return {"mutationId": index.accept(kind, self._store.now(), vectors=vectors)}

    def _index_to_read(self, request: Request, name: str) -> Index:
        index = self._store.index(name)
        plan: Plan | None = request.scope.get(PLAN)
        return index if plan is None else self._faults.seen(plan, index, self._store.now())

    async def _json(self, request: Request) -> dict[str, Any]:
        if _media_type(request) != "application/json":
            raise errors.refusal("expected_json")
        return bodies.parse_json(await bodies.read_body(request))


def _media_type(request: Request) -> str:
    value = request.headers.get("content-type", "")
    return value.partition(";")[0].strip().lower()


def _query(request: Request) -> QueryParams:
    return QueryParams(request.scope["query_string"])
