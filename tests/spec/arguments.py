# SPDX-License-Identifier: Apache-2.0
"""Arguments for each client method that sends one request: random ones, and all parameters at once."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import strategies as st

from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.inputs.queries import OPERATORS
from airflow_provider_cfvectorize.client.types import INDEX_TYPES, RETURN_METADATA

Arguments = dict[str, Any]

#: Text that UTF-8 can encode. The client refuses half a surrogate pair before a request.
texts = st.text(st.characters(codec="utf-8"), max_size=40)


def _fits(limit: int) -> Any:
    return lambda text: len(text.encode()) <= limit


index_names = st.from_regex(r"[a-z][a-z0-9_-]{0,62}[a-z0-9]", fullmatch=True)
ids = texts.filter(bool).filter(_fits(limits.MAX_ID_BYTES)) | st.just("x" * limits.MAX_ID_BYTES)
namespaces = texts.filter(_fits(limits.MAX_NAMESPACE_BYTES))
values = st.lists(
    st.floats(width=32, allow_nan=False, allow_infinity=False) | st.integers(-(10**9), 10**9),
    min_size=1,
    max_size=8,
)
scalars = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts
metadata = st.dictionaries(
    texts,
    st.recursive(
        scalars,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
        max_leaves=6,
    ),
    max_size=4,
)
vectors = st.fixed_dictionaries(
    {"id": ids, "values": values},
    # The client's types allow null in several fields; the description allows it only for namespaces.
    optional={"namespace": st.none() | namespaces, "metadata": metadata},
)
#: Vectors, or NDJSON of vectors, with and without a line break at the end.
uploads = st.lists(vectors, min_size=1, max_size=4) | st.tuples(
    st.lists(vectors, min_size=1, max_size=4), st.sampled_from([b"", b"\n"])
).map(lambda drawn: b"\n".join(json.dumps(vector).encode() for vector in drawn[0]) + drawn[1])
property_names = st.lists(
    st.text(st.characters(codec="utf-8", exclude_characters='."|$'), min_size=1, max_size=12),
    min_size=1,
    max_size=3,
).map(".".join)
_ranges = st.sampled_from([operator for operator in OPERATORS if operator[1] in "lg"])
conditions = st.one_of(
    scalars,
    st.dictionaries(st.sampled_from(["$eq", "$ne"]), scalars, min_size=1, max_size=1),
    st.dictionaries(
        st.sampled_from(["$in", "$nin"]), st.lists(scalars, min_size=1, max_size=3), min_size=1, max_size=1
    ),
    st.dictionaries(_ranges, texts | st.integers(), min_size=1, max_size=1),
    st.fixed_dictionaries({"$gte": st.integers(), "$lt": st.integers()}),
)
filters = st.dictionaries(property_names, conditions, min_size=1, max_size=3)


def _index(**more: Any) -> st.SearchStrategy[Arguments]:
    return st.fixed_dictionaries({"index_name": index_names, **more})


_uploads: st.SearchStrategy[Arguments] = st.fixed_dictionaries(
    {"index_name": index_names, "vectors": uploads},
    optional={"unparsable_behavior": st.sampled_from(["error", "discard"])},
)
_descriptions = {"description": texts}

#: By method: every meaningful argument.
ARGUMENTS: dict[str, st.SearchStrategy[Arguments]] = {
    "list_indexes": st.just({}),
    "create_index": st.one_of(
        st.fixed_dictionaries(
            {
                "name": index_names,
                "dimensions": st.integers(limits.MIN_DIMENSIONS, limits.MAX_DIMENSIONS),
                "metric": st.sampled_from(["cosine", "euclidean", "dot-product"]),
            },
            optional=_descriptions,
        ),
        st.fixed_dictionaries(
            {
                "name": index_names,
                "preset": st.sampled_from(["@cf/baai/bge-base-en-v1.5", "openai/text-embedding-ada-002"]),
            },
            optional=_descriptions,
        ),
    ),
    "get_index": _index(),
    "delete_index": _index(),
    "info": _index(),
    "insert": _uploads,
    "upsert": _uploads,
    "delete_by_ids": _index(ids=st.lists(ids, max_size=limits.MAX_DELETE_IDS)),
    "get_by_ids": _index(ids=st.lists(ids, max_size=limits.MAX_GET_IDS)),
    "list_vectors": st.fixed_dictionaries(
        {"index_name": index_names},
        optional={"count": st.integers(1, limits.MAX_LIST_COUNT), "cursor": texts},
    ),
    "query": st.tuples(
        st.fixed_dictionaries({"vector": values}) | st.fixed_dictionaries({"vector_id": ids}),
        st.fixed_dictionaries(
            {"index_name": index_names},
            optional={
                "top_k": st.integers(1, limits.MAX_TOP_K_WITH_DATA),
                "filter": filters,
                "namespace": namespaces,
                "return_values": st.booleans(),
                "return_metadata": st.sampled_from(RETURN_METADATA),
            },
        ),
    ).map(lambda drawn: drawn[0] | drawn[1]),
    "create_metadata_index": _index(property_name=property_names, index_type=st.sampled_from(INDEX_TYPES)),
    "list_metadata_indexes": _index(),
    "delete_metadata_index": _index(property_name=property_names),
}

_VECTOR = {"id": "a", "values": [0.5] * 32, "namespace": "n", "metadata": {"k": {"l": [1, None, "x"]}}}
_QUERY = {"top_k": 7, "filter": {"k": "x"}, "return_values": True, "return_metadata": "all"}

#: Calls that together use every parameter of every method. A server can execute them in this order.
CALLS: list[tuple[str, Arguments]] = [
    ("create_index", {"name": "docs", "dimensions": 32, "metric": "cosine", "description": "text"}),
    ("create_index", {"name": "other", "preset": "@cf/baai/bge-small-en-v1.5"}),
    ("list_indexes", {}),
    ("get_index", {"index_name": "docs"}),
    ("info", {"index_name": "docs"}),
    ("create_metadata_index", {"index_name": "docs", "property_name": "k", "index_type": "string"}),
    ("list_metadata_indexes", {"index_name": "docs"}),
    ("insert", {"index_name": "docs", "vectors": [_VECTOR], "unparsable_behavior": "error"}),
    ("upsert", {"index_name": "docs", "vectors": [_VECTOR], "unparsable_behavior": "discard"}),
    ("query", {"index_name": "docs", "vector": [0.5] * 32, "namespace": "n", **_QUERY}),
    ("query", {"index_name": "docs", "vector_id": "a", **_QUERY}),
    ("get_by_ids", {"index_name": "docs", "ids": ["a"]}),
    ("list_vectors", {"index_name": "docs", "count": 10, "cursor": "c"}),
    ("delete_by_ids", {"index_name": "docs", "ids": ["a"]}),
    ("delete_metadata_index", {"index_name": "docs", "property_name": "k"}),
    ("delete_index", {"index_name": "docs"}),
]
