# SPDX-License-Identifier: Apache-2.0
"""
The switches of the local server: one for each behaviour of the service that is not known for certain.

Each behaviour is undocumented, or two documents disagree about it. The default is the likelier or the
stricter reading, so that what works here does not fail on the service. The comments give the reasons.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Choice = Literal["refuse", "accept"]


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """
    The switches. Pass one with other values to :class:`~airflow_provider_cfvectorize.local.LocalVectorize`.

    The table of switches in docs/local-server.md describes their values.
    """

    # The code of each refusal whose code is not on public record, see ``errors.REFUSALS``.
    # No code on record has this value, so that no client relies on a guess.
    unpublished_code: int = 40000
    # 401 and 403 are both on record, 401 for Vectorize itself.
    wrong_token_status: Literal[401, 403] = 401
    # The token is known, and HTTP has 403 for this case.
    missing_permission_status: Literal[401, 403] = 403
    # Official clients expect 404; one public test double returns 400.
    not_found_status: Literal[400, 404] = 404
    # An official client expects "404 Not Found or 410 Gone" for a missing index.
    deleted_status: Literal[404, 410] = 410
    # The documentation does not say. "r left, t seconds to the reset" describes this kind of window best.
    rate_limit_window: Literal["first_request", "fixed", "sliding"] = "first_request"
    # 971 and 10500 are also on record, but only 10100 appears with exactly this text.
    rate_limited_code: int = 10100
    # Careful clients never send such a request, so a refusal shows a mistake.
    empty_ids: Choice = "refuse"
    missing_ids: Choice = "refuse"
    empty_id: Choice = "refuse"
    # In all public samples the response is a set of vectors.
    duplicate_ids_in_get: Literal["once", "each"] = "once"
    empty_upload: Choice = "refuse"
    # The default of serde_json, whose error texts look like the service's.
    unknown_vector_field: Choice = "accept"
    # The schema says "the timestamp the last mutation batch was processed"; the Workers types differ.
    processed_up_to: Literal["batch", "mutation"] = "batch"
    # The documentation counts vectors and updates; its example counts calls.
    deleted_ids_fill_jobs: bool = False
    # The order of magnitude of other cursors. The only other emulator also has 15 minutes.
    cursor_lifetime: float = 900.0
    # Listing 20 million ids takes 20,000 requests, which do not fit into one fixed lifetime.
    cursor_lifetime_restarts: bool = True
    unknown_parameter_value: Choice = "refuse"
    # On record once, in a note of 2026-08-19 on an index with too few dimensions. It belongs to the 3000
    # family.
    invalid_config_code: int = 3003
    # HTTP has 413 for this case.
    oversized_upload_status: Literal[400, 413] = 413
    # The page on metrics says "negative dot product", where -1000 is more similar than -500. No response of
    # such an index is on record. A score that grows with the similarity, as for cosine, surprises least.
    dot_product_score: Literal["product", "negative"] = "product"
    # The documentation promises results only for an existing vector. A refusal shows the mistake.
    unknown_vector_id: Literal["refuse", "no_match"] = "refuse"
    # The documentation allows one of the two. A request with both is a mistake.
    vector_and_vector_id: Choice = "refuse"
    # Mastra's tests, which run against the live service, send {} and find every vector; n8n's node sends it
    # by default. A page of the documentation says "non-empty object".
    empty_filter: Choice = "accept"
    # The documentation requires a metadata index, and no error for a missing one is on record.
    unindexed_filter_property: Literal["no_match", "refuse"] = "no_match"
    # Mastra's live tests find 10 in a string index by the number 10, and compare numbers with "150".
    value_of_other_type: Literal["convert", "leave_out", "refuse"] = "convert"
    # In Mastra's live tests, null adds no match to $in, and $ne with null finds every vector.
    null_in_filters: Literal["nothing", "null"] = "nothing"
    # Mastra's live tests do so, and so does the query language that the operators come from. The schema's
    # example, "has_viewed" is not true, makes sense only this way.
    missing_property: Literal["null", "no_match"] = "null"
    # The documentation cuts indexed strings and does not mention strings in filters.
    long_filter_strings: Literal["whole", "cut"] = "whole"
    # All other reads show applied mutations. A client that waits sees no difference.
    metadata_index_listed: Literal["applied", "accepted"] = "applied"
    # The other codes of this family have 400.
    metadata_index_not_found_status: Literal[400, 404] = 400
