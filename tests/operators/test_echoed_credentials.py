# SPDX-License-Identifier: Apache-2.0
"""A server that echoes request headers in its results: no credential reaches an XCom or a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_cfvectorize.operators.indexes import CreateVectorizeIndexOperator
from airflow_provider_cfvectorize.operators.vectors import (
    GetVectorsByIdsOperator,
    ListVectorsOperator,
    QueryVectorsOperator,
)
from client.servers import TOKEN, Reply, Request, ScriptedServer, ok
from harness import INDEX, make_context

Script = Callable[[Any], ScriptedServer]


def echo(request: Request) -> Reply:
    debug = {"debug": dict(request.headers)}
    assert TOKEN in json.dumps(debug)
    match request.path.rpartition("/")[2].partition("?")[0]:
        case "query":
            return ok({"count": 1, "matches": [{"id": "a", "score": 1.0, **debug}], **debug})
        case "get_by_ids":
            return ok([{"id": "a", "values": [1.0], **debug}])
        case "list":
            page = {"count": 1, "totalCount": 1, "isTruncated": False}
            return ok({**page, "vectors": [{"id": "a", **debug}], **debug})
        case _:
            return ok({"name": INDEX, "config": {"dimensions": 32, "metric": "cosine", **debug}, **debug})


@pytest.mark.parametrize(
    ("operator", "kwargs"),
    [
        (QueryVectorsOperator, {"vector": [0.5]}),
        (GetVectorsByIdsOperator, {"ids": ["a"]}),
        (ListVectorsOperator, {}),
        (CreateVectorizeIndexOperator, {"dimensions": 32, "metric": "cosine"}),
    ],
)
def test_no_xcom_has_echoed_credentials(script: Script, operator: Any, kwargs: dict[str, Any]) -> None:
    server = script(echo)
    context = make_context()
    returned = operator(task_id="task", index_name=INDEX, **kwargs).execute(context)
    assert TOKEN not in json.dumps([returned, context["ti"].pushed])
    assert len(server.requests) == 1


def test_no_file_has_echoed_credentials(script: Script, tmp_path: Path) -> None:
    script(echo)
    path = tmp_path / "vectors.ndjson"
    GetVectorsByIdsOperator(task_id="get", index_name=INDEX, ids=["a"], path=str(path)).execute(
        make_context()
    )
    assert json.loads(path.read_text()) == {"id": "a", "values": [1.0]}
