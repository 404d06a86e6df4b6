# SPDX-License-Identifier: Apache-2.0
"""
What is not known about the service, one switch each.

Everything here is either undocumented, or documented in two ways that disagree. The default is the likelier
or the stricter reading, so that what works here does not fail there; the comment says which and why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Choice = Literal["refuse", "accept"]


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """
    The switches; give :class:`~airflow_provider_cfvectorize.local.LocalVectorize` one with other values.

    What each of their values does stands in the table of switches in docs/local-server.md.
    """

    # The code of each refusal for which no public record names one, see ``errors.REFUSALS``.
    # It lies outside the codes that are on record, so that nobody relies on a guess.
    unpublished_code: int = 40000
    # 401 and 403 are both on record, 401 for Vectorize itself.
    wrong_token_status: Literal[401, 403] = 401
    # The token is known, so 403 is what HTTP has for it.
    missing_permission_status: Literal[401, 403] = 403
    # Official clients look for 404; one public test double says 400.
    not_found_status: Literal[400, 404] = 404
    # An official client names "404 Not Found or 410 Gone" for an index that is missing.
    deleted_status: Literal[404, 410] = 410
    # The documentation has neither; such a window is what "r left, t seconds to the reset" describes best.
    rate_limit_window: Literal["first_request", "fixed", "sliding"] = "first_request"
    # 971 and 10500 are on record as well; this one with this very text.
    rate_limited_code: int = 10100
    # Careful clients never send such a request; refusing shows that one slipped through.
    empty_ids: Choice = "refuse"
    missing_ids: Choice = "refuse"
    empty_id: Choice = "refuse"
    # The answer is a set of vectors in all public samples.
    duplicate_ids_in_get: Literal["once", "each"] = "once"
    empty_upload: Choice = "refuse"
    # What serde_json, which the error texts look like, does unless it is told otherwise.
    unknown_vector_field: Choice = "accept"
    # The schema says "the timestamp the last mutation batch was processed"; the types of Workers differ.
    processed_up_to: Literal["batch", "mutation"] = "batch"
    # The documentation counts vectors, and updates; its example counts calls.
    deleted_ids_fill_jobs: bool = False
    # The order of magnitude of other cursors; the only other emulator has 15 minutes as well.
    cursor_lifetime: float = 900.0
    # Listing twenty million ids takes 20,000 requests: it could not end within one fixed lifetime.
    cursor_lifetime_restarts: bool = True
    unknown_parameter_value: Choice = "refuse"
    # On record once, in a note of 2026-08-19 on an index of too few dimensions; it is of the family of 3000.
    invalid_config_code: int = 3003
    # What HTTP has for it.
    oversized_upload_status: Literal[400, 413] = 413
    # The page on metrics says "negative dot product", -1000 being more similar than -500; no answer of such
    # an index is on record. A score that grows with the similarity, as for cosine, surprises least.
    dot_product_score: Literal["product", "negative"] = "product"
    # The documentation promises results for one that is there only. A refusal shows the mistake.
    unknown_vector_id: Literal["refuse", "no_match"] = "refuse"
    # Nobody can mean both, and the documentation has one or the other.
    vector_and_vector_id: Choice = "refuse"
    # Live test suites (Mastra's) send {} and find every vector; n8n's node sends it by default. A page of the
    # documentation says "non-empty object".
    empty_filter: Choice = "accept"
    # The documentation asks for a metadata index, and no error for want of one is on record.
    unindexed_filter_property: Literal["no_match", "refuse"] = "no_match"
    # A live test suite (Mastra's) finds 10 in a string index by 10, and compares numbers with "150".
    value_of_other_type: Literal["convert", "leave_out", "refuse"] = "convert"
    # The same suite: $in with null finds no vector more, and $ne with null finds all.
    null_in_filters: Literal["nothing", "null"] = "nothing"
    # The same suite, and the query language that the filter's operators come from; the schema's example,
    # "has_viewed" is not true, makes sense only so.
    missing_property: Literal["null", "no_match"] = "null"
    # The documentation cuts what is indexed, and says nothing of cutting filters.
    long_filter_strings: Literal["whole", "cut"] = "whole"
    # As for everything else that is read; whoever waits sees no difference.
    metadata_index_listed: Literal["applied", "accepted"] = "applied"
    # As for the other codes of this family.
    metadata_index_not_found_status: Literal[400, 404] = 400
