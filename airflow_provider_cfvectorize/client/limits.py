# SPDX-License-Identifier: Apache-2.0
"""
The limits of the Vectorize service.

The client stays within them, and the embedded server refuses requests beyond them. The mark after each number
gives its source:

``docs``
    Cloudflare's documentation: https://developers.cloudflare.com/vectorize/platform/limits/ unless another
    page is named.
``schema``
    Cloudflare's published OpenAPI schema of the Vectorize v2 API.
``observed``
    Error texts of the live service, reported firsthand in public repositories.
"""

from __future__ import annotations

from typing import Final

# --- ids and names -------------------------------------------------------------------------------------

#: Bytes of UTF-8 in a vector id. docs; observed: code 40008 "id too long; max is 64 bytes, got 87 bytes".
MAX_ID_BYTES: Final = 64
#: Bytes of UTF-8 in a namespace. docs.
MAX_NAMESPACE_BYTES: Final = 64
#: Bytes in the name of an index. docs.
MAX_INDEX_NAME_BYTES: Final = 64
#: Characters in a mutation id (a UUID). schema: ``vectorize_mutation-uuid``.
MAX_MUTATION_ID_CHARS: Final = 36

# --- items a request -----------------------------------------------------------------------------------

#: Ids in one ``delete_by_ids`` request; the service refuses a request with more. observed: code 40007
#: "too many ids in payload; max id count is 100, got 173".
MAX_DELETE_IDS: Final = 100
#: Ids in one ``get_by_ids`` request. observed: code 40007 "too many ids in payload; max id count is 20".
MAX_GET_IDS: Final = 20
#: Vectors in one insert or upsert request over HTTP. docs.
MAX_UPSERT_VECTORS: Final = 5000
#: Bytes in one insert or upsert request. docs ("maximum upload size").
MAX_UPLOAD_BYTES: Final = 100 * 1000 * 1000
#: Ids on one page of ``list``. schema.
MAX_LIST_COUNT: Final = 1000
#: Ids on one page of ``list`` by default. schema.
DEFAULT_LIST_COUNT: Final = 100

# --- vectors and indexes -------------------------------------------------------------------------------

#: Fewest dimensions of an index. observed: "Dimensions must be in range: [32, 1536]" (the schema says 1).
MIN_DIMENSIONS: Final = 32
#: Most dimensions of an index. schema; observed, as above.
MAX_DIMENSIONS: Final = 1536
#: Dimensions of an index by its preset, which are those of the model. docs: for bge-small and bge-large
#: https://developers.cloudflare.com/workers-ai/models/, for the others
#: https://developers.cloudflare.com/vectorize/best-practices/create-indexes/. The metrics are not documented.
PRESET_DIMENSIONS: Final = {
    "@cf/baai/bge-small-en-v1.5": 384,
    "@cf/baai/bge-base-en-v1.5": 768,
    "@cf/baai/bge-large-en-v1.5": 1024,
    "openai/text-embedding-ada-002": 1536,
    "cohere/embed-multilingual-v2.0": 768,
}
#: Bytes of a vector's metadata as compact JSON. observed: code 40016 "must not exceed 10240 bytes".
MAX_METADATA_BYTES: Final = 10240
#: Metadata indexes of an index. docs.
MAX_METADATA_INDEXES: Final = 10
#: Bytes of UTF-8 of a string that a metadata index holds. docs.
MAX_INDEXED_BYTES: Final = 64
#: A filter as compact JSON has fewer bytes than this. docs:
#: https://developers.cloudflare.com/vectorize/reference/metadata-filtering/
FILTER_BYTES: Final = 2048
#: Characters of a key in a filter. docs, same page.
MAX_FILTER_KEY_CHARS: Final = 512
#: Matches of a query by default. schema.
DEFAULT_TOP_K: Final = 5
#: Matches of a query with values or all metadata. docs, changelog of 2026-03-16; observed: code 40025.
MAX_TOP_K_WITH_DATA: Final = 50
#: Matches of any other query. docs, changelog of 2026-03-16; observed: code 40025.
MAX_TOP_K: Final = 100

# --- applying writes -----------------------------------------------------------------------------------

#: Mutations that one background job of the service applies, unless it reaches ``VECTORS_PER_JOB`` first.
#: docs: https://developers.cloudflare.com/vectorize/best-practices/insert-vectors/
MUTATIONS_PER_JOB: Final = 1000
#: Vectors that one such job applies. docs, same page.
VECTORS_PER_JOB: Final = 200_000

# --- requests a time -----------------------------------------------------------------------------------

#: Requests in a window, from all clients of an account's owner. docs:
#: https://developers.cloudflare.com/fundamentals/api/reference/limits/
ACCOUNT_REQUESTS: Final = 1200
#: Seconds of such a window. docs, same page.
ACCOUNT_WINDOW_SECONDS: Final = 300
#: Requests a second from one IP address. docs, same page.
IP_REQUESTS_PER_SECOND: Final = 200
