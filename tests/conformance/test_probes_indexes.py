# SPDX-License-Identifier: Apache-2.0
"""Probes: access, indexes, ``list`` and metadata indexes."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from conformance.account import Header
from conformance.routes import OF_AN_INDEX
from conformance.scenario import Lab, Scenario
from conformance.service import DIMENSIONS, Service, mutation, result
from conformance.sources import unknown

Probe = Callable[..., None]
Switch = Callable[[str], Any]

COSINE = {"dimensions": DIMENSIONS, "metric": "cosine"}
#: Maximum seconds that a probe waits for a cursor to expire.
LONGEST_WAIT = 300.0


# --- access -------------------------------------------------------------------------------------------------


@unknown("An unknown token: 401 or 403", "wrong_token_status")
def test_an_unknown_token(vectorize: Service, probe: Probe, switch: Switch) -> None:
    response = vectorize.send("GET", auth=Header("Bearer 0123456789abcdefghijABCDEFGHIJ0123456789"))
    probe("list indexes", response, (switch("wrong_token_status"), 10000))


@pytest.mark.read_only_token
@unknown("A token without the permission to write: 401 or 403", "missing_permission_status")
def test_a_missing_permission(vectorize: Service, scratch: str, probe: Probe, switch: Switch) -> None:
    body = {"ids": ["never"]}
    response = vectorize.send("POST", f"/{scratch}/delete_by_ids", json=body, auth=vectorize.read_only)
    probe("delete_by_ids", response, (switch("missing_permission_status"), 10000))


@unknown("No credentials at all", states="| No credentials | Status 400 with code 9106. |")
def test_no_credentials(vectorize: Service, probe: Probe) -> None:
    probe("list indexes", vectorize.send("GET", auth=Header(None)), (400, 9106))


@unknown("Another account", states="| Path of another account | Status 404 with code 7003. |")
def test_another_account(vectorize: Service, probe: Probe) -> None:
    response = vectorize.send("GET", below=f"/accounts/{'0' * 32}/vectorize/v2/indexes")
    probe("list indexes of an account of zeros", response, (404, 7003))


@unknown("Ratelimit headers of a response", states="every response show the whole documented budget")
def test_rate_limit_headers(vectorize: Service, probe: Probe) -> None:
    response = vectorize.send("GET")
    names = ("Ratelimit", "Ratelimit-Policy", "Retry-After", "Content-Type")
    probe(
        "list indexes",
        {name: response.headers.get(name) for name in names},
        lambda found: found["Ratelimit"] == '"default";r=1200;t=300',
    )


@unknown(
    "Throttles: windows and body of HTTP 429; status and headers of 40041",
    "rate_limit_window",
    "rate_limited_code",
)
def test_throttles(probe: Probe) -> None:
    text = "not provoked: it would block the account for everybody; see above if one came by itself"
    for asked in ("HTTP 429", "code 40041"):
        probe(asked, text, text)


# --- indexes ------------------------------------------------------------------------------------------------


@unknown("Creating an index: 200 or 201", states="| Create an index | Status 200, as in the schema")
def test_the_status_of_a_creation(scenario: Scenario, probe: Probe) -> None:
    probe("create", scenario.created, 200)


@unknown("Description of an index from a preset", states="description has preset, dimensions and metric")
def test_a_preset(lab: Lab, probe: Probe) -> None:
    name = lab.name("shown")
    response = lab.create({"name": name, "config": {"preset": "@cf/baai/bge-base-en-v1.5"}})
    expected = {"dimensions": 768, "metric": "cosine", "preset": "@cf/baai/bge-base-en-v1.5"}
    probe("config", result(response)["config"], expected)
    probe("deleting it", lab.remove(name), 200)


@unknown("The code of vectorize.index.invalid_config (3003 is on record once)", "invalid_config_code")
def test_invalid_config(lab: Lab, probe: Probe, switch: Switch) -> None:
    for asked, config in {
        "dimensions 31": {**COSINE, "dimensions": 31},
        "dimensions 1537": {**COSINE, "dimensions": 1537},
        "no dimensions": {"metric": "cosine"},
        "metric manhattan": {**COSINE, "metric": "manhattan"},
        "an unknown preset": {"preset": "@cf/none"},
        "no config": None,
    }.items():
        response = lab.create({"name": lab.name("config"), "config": config})
        probe(asked, response, (400, switch("invalid_config_code")))


@unknown("The code of an invalid name", "unpublished_code")
def test_invalid_names(lab: Lab, probe: Probe, switch: Switch) -> None:
    name = lab.name("named")
    for odd in (f"{name}-", f"1{name}", f"X{name}", name.ljust(65, "x")):
        response = lab.create({"name": odd, "config": COSINE})
        probe(odd.replace(name, "NAME"), response, (400, switch("unpublished_code")))


@unknown("An index that never was: 404 or 400", "not_found_status")
def test_not_found(vectorize: Service, never: str, probe: Probe, switch: Switch) -> None:
    for route in OF_AN_INDEX:
        probe(route.name, route.send(vectorize, never), (switch("not_found_status"), 3000))


@unknown("An index that was deleted: 410 or 404, on all routes or some", "deleted_status")
def test_deleted(vectorize: Service, gone: str, probe: Probe, switch: Switch) -> None:
    for route in OF_AN_INDEX:
        probe(route.name, route.send(vectorize, gone), (switch("deleted_status"), 3005))


# --- list ---------------------------------------------------------------------------------------------------


@unknown("A count of list that is out of range", "unpublished_code")
def test_list_counts(vectorize: Service, docs_index: str, probe: Probe, switch: Switch) -> None:
    for count in ("0", "-1", "1001", "many"):
        response = vectorize.page(docs_index, count=count)
        probe(f"count={count}", response, (400, switch("unpublished_code")))


@unknown("A cursor that is damaged or of another index", "unpublished_code")
def test_cursors(vectorize: Service, docs_index: str, scratch: str, probe: Probe, switch: Switch) -> None:
    expected = (400, switch("unpublished_code"))
    cursor = result(vectorize.page(docs_index, count=1))["nextCursor"]
    probe("cursor=nonsense", vectorize.page(docs_index, cursor="nonsense"), expected)
    probe("another index's", vectorize.page(scratch, cursor=cursor), expected)


@unknown("How long a cursor lives", "cursor_lifetime", "cursor_lifetime_restarts")
def test_the_life_of_a_cursor(vectorize: Service, docs_index: str, probe: Probe, switch: Switch) -> None:
    response = vectorize.page(docs_index, count=1)
    first = result(response)
    time.sleep(min(vectorize.patience.interval, 2))
    second = result(vectorize.page(docs_index, count=1, cursor=first["nextCursor"]))
    lives = (_expiry(first) - parsedate_to_datetime(response.headers["Date"])).total_seconds()
    # Date has whole seconds and another moment than the stamp.
    probe("seconds, by its stamp", round(lives, 3), lambda found: abs(found - switch("cursor_lifetime")) < 60)
    restarts = _expiry(second) > _expiry(first)
    probe("the next page's expires later", restarts, switch("cursor_lifetime_restarts"))


@unknown("A cursor that has expired", "unpublished_code", "cursor_lifetime")
def test_an_expired_cursor(
    vectorize: Service, docs_index: str, probe: Probe, switch: Switch, slow: bool
) -> None:
    first = vectorize.page(docs_index, count=1)
    page = result(first)
    left = (_expiry(page) - parsedate_to_datetime(first.headers["Date"])).total_seconds() + 2
    if not slow or left > LONGEST_WAIT:
        text = f"not asked: takes {left:.0f} s" + ("" if slow else "; CONFORMANCE_SLOW is not set")
        probe("after its stamp", text, text)
        return
    time.sleep(left)
    response = vectorize.page(docs_index, cursor=page["nextCursor"])
    probe(f"after {left:.0f} s", response, (400, switch("unpublished_code")))


def _expiry(page: dict[str, Any]) -> datetime:
    return datetime.fromisoformat(page["cursorExpirationTimestamp"])


# --- metadata indexes ---------------------------------------------------------------------------------------


@unknown("A missing metadata index: the status of 40005", "metadata_index_not_found_status")
def test_no_metadata_index(vectorize: Service, scratch: str, probe: Probe, switch: Switch) -> None:
    expected = (switch("metadata_index_not_found_status"), 40005)
    probe("metadata_index/delete", vectorize.delete_metadata_index(scratch, "unheard_of"), expected)


@unknown("A property name that filters cannot contain", "unpublished_code")
def test_property_names(vectorize: Service, scratch: str, probe: Probe, switch: Switch) -> None:
    for name in ("", "$size", 'si"ze', "si|ze", "s" * 513):
        response = vectorize.create_metadata_index(scratch, name, "string")
        probe(f"propertyName {name[:10]!r}", response, (400, switch("unpublished_code")))


@unknown("An eleventh metadata index", "unpublished_code")
def test_too_many_metadata_indexes(vectorize: Service, lab: Lab, probe: Probe, switch: Switch) -> None:
    index = lab.index("eleven")
    for number in range(10):
        mutation(vectorize.create_metadata_index(index, f"property_{number}", "string"))
    response = vectorize.create_metadata_index(index, "one_more", "string")
    probe("metadata_index/create", response, (400, switch("unpublished_code")))
    response = vectorize.create_metadata_index(index, "property_0", "number")
    probe("the first again, of another type", response, 200)
    lab.remove(index)


@unknown("When a metadata index is listed: accepted or applied", "metadata_index_listed")
def test_when_metadata_indexes_are_listed(
    vectorize: Service, scratch: str, probe: Probe, switch: Switch
) -> None:
    # All earlier mutations are applied now, so that no job runs in between.
    vectorize.wait_for(scratch, mutation(vectorize.delete(scratch, ["never"])))
    accepted = mutation(vectorize.create_metadata_index(scratch, "listed", "string"))
    at_once = "listed" in vectorize.metadata_indexes(scratch)
    applied = vectorize.info(scratch).get("processedUpToMutation") == accepted
    vectorize.wait_for(scratch, accepted)
    seen = {"listed at once": at_once, "already applied then": applied}
    expected = switch("metadata_index_listed") == "accepted"
    probe(
        "metadata_index/list after create", seen, lambda found: applied or found["listed at once"] == expected
    )
    vectorize.wait_for(scratch, mutation(vectorize.delete_metadata_index(scratch, "listed")))
