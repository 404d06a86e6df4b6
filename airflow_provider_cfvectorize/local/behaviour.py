# SPDX-License-Identifier: Apache-2.0
"""
What is not known about the service, one switch each.

Everything here is either undocumented, or documented in two ways that disagree. The default is the likelier
or the stricter reading, so that what works here does not fail there; the comment says which and why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

#: The code of refusals for which no public record names one. It lies outside the codes that are on record, so
#: that nobody comes to rely on a guess.
UNPUBLISHED_CODE: Final = 40000

Choice = Literal["refuse", "accept"]


@dataclass(frozen=True, kw_only=True)
class Behaviour:
    """
    The switches; give :class:`~airflow_provider_cfvectorize.local.LocalVectorize` one with other values.

    :param wrong_token_status: HTTP status of code 10000 for a token that is well formed but unknown.
    :param missing_permission_status: HTTP status of code 10000 for a token that may read but not write.
    :param not_found_status: HTTP status of code 3000, an index that never existed.
    :param deleted_status: HTTP status of code 3005, an index that was deleted.
    :param empty_ids: Whether ``{"ids": []}`` is refused or is a no-op that answers as usual.
    :param missing_ids: The same for ``{}``, which the schema allows.
    :param empty_id: Whether an id of no characters is refused.
    :param duplicate_ids_in_get: Whether an id sent twice in one ``get_by_ids`` is answered once or twice.
    :param empty_upload: Whether an insert or upsert without a single vector is refused.
    :param processed_up_to: What ``processedUpToDatetime`` tells: when the job ran that applied the mutation
        (``batch``), or when the mutation itself was accepted (``mutation``).
    :param deleted_ids_fill_jobs: Whether each id of a delete counts towards the 200,000 vectors of a job.
    :param cursor_lifetime: Seconds for which a ``list`` cursor can be used.
    :param cursor_lifetime_restarts: Whether each page's cursor lives that long from its own page, or all of
        them only from the first page.
    :param unknown_parameter_value: What to do with a value of ``unparsable-behavior`` that is not one of
        the schema's.
    :param invalid_parameter_code: Code for the same, if it is refused.
    :param invalid_name_code: Code for a name of an index that does not match the schema's pattern.
    :param invalid_config_code: Code of ``vectorize.index.invalid_config``.
    :param invalid_ids_code: Code for empty ``ids``, missing ``ids`` and an empty id.
    :param too_many_vectors_code: Code for more than 5,000 vectors in one insert or upsert.
    :param oversized_upload_status: HTTP status for a body of more than 100 MB.
    :param oversized_upload_code: Code for the same.
    :param invalid_namespace_code: Code for a namespace of more than 64 bytes.
    :param invalid_metadata_key_code: Code for a metadata key that is empty, contains ``.`` or ``"``, or
        starts with ``$``.
    :param invalid_list_count_code: Code for a ``count`` of ``list`` that is not a number from 1 to 1,000.
    :param invalid_cursor_code: Code for a ``list`` cursor that is expired, damaged or another index's.
    """

    # 401 and 403 are both on record, 401 for Vectorize itself.
    wrong_token_status: Literal[401, 403] = 401
    # The token is known, so 403 is what HTTP has for it.
    missing_permission_status: Literal[401, 403] = 403
    # Official clients look for 404; one public test double says 400.
    not_found_status: Literal[400, 404] = 404
    # An official client names "404 Not Found or 410 Gone" for an index that is missing.
    deleted_status: Literal[404, 410] = 410
    # Careful clients never send such a request; refusing shows that one slipped through.
    empty_ids: Choice = "refuse"
    missing_ids: Choice = "refuse"
    empty_id: Choice = "refuse"
    # The answer is a set of vectors in all public samples.
    duplicate_ids_in_get: Literal["once", "each"] = "once"
    empty_upload: Choice = "refuse"
    # The schema says "the timestamp the last mutation batch was processed"; the types of Workers differ.
    processed_up_to: Literal["batch", "mutation"] = "batch"
    # The documentation counts vectors, and updates; its example counts calls.
    deleted_ids_fill_jobs: bool = False
    # The order of magnitude of other cursors; the only other emulator has 15 minutes as well.
    cursor_lifetime: float = 900.0
    # Listing twenty million ids takes 20,000 requests: it could not end within one fixed lifetime.
    cursor_lifetime_restarts: bool = True
    unknown_parameter_value: Choice = "refuse"
    invalid_parameter_code: int = UNPUBLISHED_CODE
    invalid_name_code: int = UNPUBLISHED_CODE
    invalid_config_code: int = UNPUBLISHED_CODE
    invalid_ids_code: int = UNPUBLISHED_CODE
    too_many_vectors_code: int = UNPUBLISHED_CODE
    # What HTTP has for it.
    oversized_upload_status: Literal[400, 413] = 413
    oversized_upload_code: int = UNPUBLISHED_CODE
    invalid_namespace_code: int = UNPUBLISHED_CODE
    invalid_metadata_key_code: int = UNPUBLISHED_CODE
    invalid_list_count_code: int = UNPUBLISHED_CODE
    invalid_cursor_code: int = UNPUBLISHED_CODE
