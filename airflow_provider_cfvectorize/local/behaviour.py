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

    :param unpublished_code: Code of each refusal for which no public record names one: those in
        ``errors.REFUSALS`` that name this switch.
    :param wrong_token_status: HTTP status of code 10000 for a token that is well formed but unknown.
    :param missing_permission_status: HTTP status of code 10000 for a token that may read but not write.
    :param not_found_status: HTTP status of code 3000, an index that never existed.
    :param deleted_status: HTTP status of code 3005, an index that was deleted.
    :param rate_limit_window: What requests are counted in: windows that begin with the first request after
        the last window (``first_request``), windows aligned to the clock (``fixed``), or the time before each
        request (``sliding``).
    :param rate_limited_code: Code of HTTP 429.
    :param empty_ids: Whether ``{"ids": []}`` is refused or is a no-op that answers as usual.
    :param missing_ids: The same for ``{}``, which the schema allows.
    :param empty_id: Whether an id of no characters is refused.
    :param duplicate_ids_in_get: Whether an id sent twice in one ``get_by_ids`` is answered once or twice.
    :param empty_upload: Whether an insert or upsert without a single vector is refused.
    :param unknown_vector_field: Whether a line with a field that no vector has is refused as unparsable;
        otherwise the field is left out.
    :param processed_up_to: What ``processedUpToDatetime`` tells: when the job ran that applied the mutation
        (``batch``), or when the mutation itself was accepted (``mutation``).
    :param deleted_ids_fill_jobs: Whether each id of a delete counts towards the 200,000 vectors of a job.
    :param cursor_lifetime: Seconds for which a ``list`` cursor can be used.
    :param cursor_lifetime_restarts: Whether each page's cursor lives that long from its own page, or all of
        them only from the first page.
    :param unknown_parameter_value: What to do with a value of ``unparsable-behavior`` that is not one of
        the schema's.
    :param invalid_config_code: Code of ``vectorize.index.invalid_config``.
    :param oversized_upload_status: HTTP status for a body of more than 100 MB.
    :param dot_product_score: Whether the score of a match in a dot-product index is the product, the largest
        first, or its negative, the smallest first. The order of the matches is the same.
    :param unknown_vector_id: Whether a query by the id of a vector that is not there is refused or has no
        matches.
    :param vector_and_vector_id: Whether a query with both is refused; otherwise ``vector`` counts.
    :param unindexed_filter_property: Whether a filter on a property that has no metadata index matches
        nothing or is refused.
    :param filter_value_of_other_type: Whether a filter value that is not of the metadata index's type is
        refused; otherwise it equals nothing.
    :param missing_property: Whether a vector that its metadata index knows, and that lacks the property or
        has it with another type, counts as having null there (``null``), or matches no condition
        (``no_match``).
    :param long_filter_strings: Whether strings in a filter are compared as they are (``whole``) or cut to 64
        bytes first, as the indexed ones are (``cut``).
    :param metadata_index_listed: Whether ``metadata_index/list`` shows what is ``applied``, or what is
        ``accepted`` already.
    :param metadata_index_not_found_status: HTTP status of code 40005, a metadata index that is not there.
    """

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
    # The documentation asks for a metadata index, and no error for want of one is on record.
    unindexed_filter_property: Literal["no_match", "refuse"] = "no_match"
    # The documentation lets any filter value be a string, number, boolean or null.
    filter_value_of_other_type: Choice = "accept"
    # So it is in the query language that the filter's operators come from; the schema's example, "has_viewed"
    # is not true, makes sense only so.
    missing_property: Literal["null", "no_match"] = "null"
    # The documentation cuts what is indexed, and says nothing of cutting filters.
    long_filter_strings: Literal["whole", "cut"] = "whole"
    # As for everything else that is read; whoever waits sees no difference.
    metadata_index_listed: Literal["applied", "accepted"] = "applied"
    # As for the other codes of this family.
    metadata_index_not_found_status: Literal[400, 404] = 400
