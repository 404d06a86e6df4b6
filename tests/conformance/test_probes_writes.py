# SPDX-License-Identifier: Apache-2.0
"""Probes: accepted writes, their effects, and how they are applied."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import Any

import pytest

from conformance.scenario import Scenario, turned, vector
from conformance.service import DIMENSIONS, LOCAL_APPLY_DELAY, NDJSON, Service, mutation
from conformance.sources import unknown

Probe = Callable[..., None]
Switch = Callable[[str], Any]

#: Seconds between two polls of the watermark: short enough to see a value that lasts only a moment.
CLOSE_LOOK = 1.0


@pytest.fixture
def refused_if(switch: Switch) -> Callable[[str, str], Any]:
    """Return a function that returns the expected answer for a switch that refuses or accepts."""

    def expected(choice: str, code: str) -> Any:
        return (400, switch(code)) if switch(choice) == "refuse" else 200

    return expected


# --- ids ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("route", ["delete_by_ids", "get_by_ids"])
@unknown("Empty and missing ids, and an empty id", "empty_ids", "missing_ids", "empty_id", "unpublished_code")
def test_no_ids(vectorize: Service, scratch: str, probe: Probe, refused_if: Any, route: str) -> None:
    for body, choice in (({"ids": []}, "empty_ids"), ({}, "missing_ids"), ({"ids": [""]}, "empty_id")):
        response = vectorize.send("POST", f"/{scratch}/{route}", json=body)
        probe(f"{route} {json.dumps(body)}", response, refused_if(choice, "unpublished_code"))


@unknown("Empty and missing ids, and an empty id", "empty_id", "unpublished_code")
def test_a_vector_with_an_empty_id(vectorize: Service, scratch: str, probe: Probe, refused_if: Any) -> None:
    response = vectorize.upsert(scratch, [vector("")])
    probe('upsert of the id ""', response, refused_if("empty_id", "unpublished_code"))


@unknown(
    "Ids that are not strings or too long, in deletes and reads",
    states="| Id that is not a string | Code 40026. |",
)
def test_invalid_ids(vectorize: Service, scratch: str, probe: Probe) -> None:
    for route in ("delete_by_ids", "get_by_ids"):
        for shown, ids, code in (("[1]", [1], 40026), ('"a"', "a", 40026), ("65 bytes", ["x" * 65], 40008)):
            response = vectorize.send("POST", f"/{scratch}/{route}", json={"ids": ids})
            probe(f"{route}, ids: {shown}", response, (400, code))


@unknown(
    "Deleting missing ids",
    states="A mutation like any other. A delete may contain an id twice.",
)
def test_deleting_missing_ids(vectorize: Service, scratch: str, probe: Probe) -> None:
    unheard_of = vectorize.delete(scratch, ["never-1", "never-2"])
    probe("two unknown ids", unheard_of, 200)
    twice = vectorize.delete(scratch, ["never-1", "never-1"])
    probe("one id twice", twice, 200)
    if twice.ok and "mutationId" in twice.text:
        info = vectorize.wait_for(scratch, mutation(twice))
        probe("the watermark comes to it", info["processedUpToMutation"] == mutation(twice), True)


@unknown("An id twice in one read", "duplicate_ids_in_get")
def test_reading_twice(vectorize: Service, docs_index: str, probe: Probe, switch: Switch) -> None:
    response = vectorize.get(docs_index, ["shelf-a", "shelf-a"])
    found = [shown["id"] for shown in response.json()["result"] or []]
    probe("get_by_ids", found, ["shelf-a"] * (1 if switch("duplicate_ids_in_get") == "once" else 2))


# --- uploads ------------------------------------------------------------------------------------------------


@unknown("Uploads of JSON", states="| Insert or upsert with JSON | Refused in any form, with code 1005.")
def test_json_uploads(vectorize: Service, scratch: str, probe: Probe) -> None:
    for operation in ("insert", "upsert"):
        body = json.dumps({"vectors": [vector("json")]})
        response = vectorize.upload(scratch, operation, body, headers={"Content-Type": "application/json"})
        probe(f'{operation} {{"vectors": [...]}}', response, (400, 1005))


@unknown("An upload without a vector", "empty_upload")
def test_empty_uploads(vectorize: Service, scratch: str, probe: Probe, switch: Switch) -> None:
    expected = (400, 40023) if switch("empty_upload") == "refuse" else 200
    probe("upsert of nothing", vectorize.upsert(scratch, ""), expected)
    response = vectorize.upsert(scratch, "bad\n", params={"unparsable-behavior": "discard"})
    probe("upsert of a discarded line", response, expected)


@unknown("An unknown unparsable-behavior", "unknown_parameter_value", "unpublished_code")
def test_an_unknown_parameter(vectorize: Service, scratch: str, probe: Probe, refused_if: Any) -> None:
    response = vectorize.upsert(scratch, [vector("x")], params={"unparsable-behavior": "ignore"})
    probe("ignore", response, refused_if("unknown_parameter_value", "unpublished_code"))


@unknown(
    "Discard, for lines that parse but do not fit the index",
    states="A line that parses but does not fit the index fails the request",
)
def test_discarding_lines_that_do_not_fit(vectorize: Service, scratch: str, probe: Probe) -> None:
    discard = {"unparsable-behavior": "discard"}
    wrong = [vector("fits"), {"id": "does-not", "values": [0.5]}]
    probe("wrong dimensions", vectorize.upsert(scratch, wrong, params=discard), (400, 40012))
    probe("an id of 65 bytes", vectorize.upsert(scratch, [vector("x" * 65)], params=discard), (400, 40008))


@unknown("More than 5,000 vectors", "unpublished_code")
def test_too_many_vectors(vectorize: Service, scratch: str, probe: Probe, switch: Switch) -> None:
    values = ",".join("1" * DIMENSIONS)
    body = "\n".join(f'{{"id":"w{number}","values":[{values}]}}' for number in range(5001))
    probe("upsert of 5,001", vectorize.upsert(scratch, body), (400, switch("unpublished_code")))


@unknown("More than 100 MB", "oversized_upload_status", "unpublished_code")
def test_too_many_bytes(vectorize: Service, scratch: str, probe: Probe, switch: Switch, slow: bool) -> None:
    if not slow:
        text = "not asked: sends 101 MB; CONFORMANCE_SLOW is not set"
        probe("upsert of 101 MB", text, text)
        return
    # With white space between the values, a single vector is large enough.
    line = json.dumps(vector("fat")).replace(", ", "," + " " * 3_260_000)
    response = vectorize.upsert(scratch, line)
    expected = (switch("oversized_upload_status"), switch("unpublished_code"))
    probe(f"upsert of {len(line) // 10**6} MB", response, expected)


@unknown("The code of a namespace of more than 64 bytes", "unpublished_code")
def test_long_namespaces(vectorize: Service, scratch: str, probe: Probe, switch: Switch) -> None:
    expected = (400, switch("unpublished_code"))
    probe("upsert", vectorize.upsert(scratch, [vector("x", namespace="n" * 65)]), expected)
    probe("query", vectorize.query(scratch, turned(0), namespace="n" * 65), expected)


@unknown("Metadata keys that the documentation forbids", "unpublished_code")
def test_metadata_keys(vectorize: Service, scratch: str, probe: Probe, switch: Switch) -> None:
    for key in ("", "a.b", 'a"b', "$a"):
        response = vectorize.upsert(scratch, [vector("key", metadata={key: 1})])
        probe(f"metadata {json.dumps({key: 1})}", response, (400, switch("unpublished_code")))


@unknown("Unknown fields of a vector", "unknown_vector_field")
def test_unknown_fields(vectorize: Service, scratch: str, probe: Probe, switch: Switch) -> None:
    expected = (400, 40023) if switch("unknown_vector_field") == "refuse" else 200
    probe('upsert with "metdata"', vectorize.upsert(scratch, [vector("typo", metdata={"a": 1})]), expected)


# --- effects of writes --------------------------------------------------------------------------------------

#: Values that float32 holds exactly, and values that it rounds.
EXACT = [0.5, 0.30000001192092896, -1.0, 16777216.0, 9.999999747378752e-06, 2.0**-80]
ROUNDED = [0.1, 1 / 3, 16777217.0, 2.718281828459045, -1e-7, 123456.789]


def single(value: float) -> float:
    return float(struct.unpack("<f", struct.pack("<f", value))[0])


@pytest.fixture(scope="module")
def written(vectorize: Service, scratch: str) -> dict[str, dict[str, Any]]:
    """Return the vectors in the responses to reads, by id."""
    values = [*EXACT, *ROUNDED, *[0.0] * (DIMENSIONS - len(EXACT) - len(ROUNDED))]
    upserted = [
        {"id": "values", "values": values},
        vector("up-twice", metadata={"line": 1}),
        vector("up-twice", metadata={"line": 2}),
        vector("in-none"),
        vector("in-empty", namespace=""),
        vector("in-null", namespace=None, metadata=None),
        vector("no-keys", metadata={}),
    ]
    mutation(vectorize.upsert(scratch, upserted))
    inserted = [vector("in-twice", metadata={"line": 1}), vector("in-twice", metadata={"line": 2})]
    vectorize.wait_for(scratch, mutation(vectorize.insert(scratch, inserted)))
    ids = {shown["id"] for shown in [*upserted, *inserted]}

    def all_there() -> dict[str, dict[str, Any]]:
        found = vectorize.found(scratch, *ids)
        assert set(found) == ids
        return found

    return vectorize.eventually(all_there)


@unknown("Values in a response, bit for bit", states="| Values in a response | float32 with all digits. |")
def test_values(written: dict[str, dict[str, Any]], probe: Probe) -> None:
    found = written["values"]["values"]
    changed = {sent: back for sent, back in zip(EXACT, found, strict=False) if sent != back}
    probe("float32 values that come back changed", changed, {})
    rest = found[len(EXACT) : len(EXACT) + len(ROUNDED)]
    odd = {sent: back for sent, back in zip(ROUNDED, rest, strict=True) if single(sent) != back}
    probe("others, that are not the nearest float32 then", odd, {})


@unknown(
    "An id twice in one upload",
    states="An upsert keeps the last line, an insert the first.",
)
def test_ids_twice(written: dict[str, dict[str, Any]], probe: Probe) -> None:
    probe("upsert: the line that stays", written["up-twice"]["metadata"]["line"], 2)
    probe("insert: the line that stays", written["in-twice"]["metadata"]["line"], 1)


@unknown(
    "The response for a vector without namespace or metadata",
    states="| Vector without a namespace | Returned without one.",
)
def test_absent_fields(written: dict[str, dict[str, Any]], probe: Probe) -> None:
    for vector_id, expected in {
        "in-none": {},
        "in-empty": {"namespace": ""},
        "in-null": {},
        "no-keys": {"metadata": {}},
    }.items():
        shown = {key: value for key, value in written[vector_id].items() if key not in ("id", "values")}
        probe(vector_id, shown, expected)


# --- how writes are applied ---------------------------------------------------------------------------------


@unknown(
    "Whether the watermark shows every mutation",
    states="(glossary.md) to the last of them",
)
def test_the_watermark_of_several_mutations(vectorize: Service, scratch: str, probe: Probe) -> None:
    vectorize.wait_for(scratch, mutation(vectorize.delete(scratch, ["never"])))
    sent = [mutation(vectorize.delete(scratch, [f"never-{number}"])) for number in range(5)]
    seen: list[int] = []
    deadline = time.monotonic() + vectorize.patience.deadline
    while len(sent) not in seen:
        assert time.monotonic() < deadline, f"seen so far: {seen}"
        watermark = vectorize.info(scratch)["processedUpToMutation"]
        if watermark in sent and (number := sent.index(watermark) + 1) not in seen:
            seen.append(number)
        time.sleep(min(vectorize.patience.interval, CLOSE_LOOK))
    probe("seen of mutations 1 to 5", seen, lambda found: found == sorted(found) and found[-1] == 5)


@unknown("Meaning of processedUpToDatetime: the mutation or the job", "processed_up_to")
def test_the_time_of_the_watermark(vectorize: Service, scratch: str, probe: Probe, switch: Switch) -> None:
    vectorize.wait_for(scratch, mutation(vectorize.delete(scratch, ["never"])))
    before = time.time()
    response = vectorize.delete(scratch, ["never"])
    after = time.time()
    info = vectorize.wait_for(scratch, mutation(response))
    stamp = datetime.fromisoformat(info["processedUpToDatetime"])
    found = {
        "after the write's Date": round(
            (stamp - parsedate_to_datetime(response.headers["Date"])).total_seconds(), 3
        ),
        "after it was sent": round(stamp.timestamp() - before, 3),
        "after its answer came": round(stamp.timestamp() - after, 3),
        "until it was seen": round(time.time() - after, 3),
    }
    assert switch("processed_up_to") == "batch"
    # The time has milliseconds.
    probe("seconds", found, lambda found: found["after it was sent"] >= LOCAL_APPLY_DELAY - 0.002)


@unknown(
    "Lag of each view behind the watermark",
    states="With `--visibility-lag`, reads and counts lag behind the watermark",
)
def test_views(scenario: Scenario, probe: Probe) -> None:
    probe(
        "seconds", scenario.behind, lambda found: set(found) == {"get_by_ids", "list", "query", "vectorCount"}
    )


@unknown(
    "Content types of an upload",
    states="| Insert or upsert with JSON | Refused in any form, with code 1005.",
)
def test_content_types(vectorize: Service, scratch: str, probe: Probe) -> None:
    body = json.dumps(vector("typed"))
    for content_type, expected in {
        f"{NDJSON}; charset=utf-8": 200,
        "application/ndjson": (400, 1005),
    }.items():
        response = vectorize.upsert(scratch, body, headers={"Content-Type": content_type})
        probe(content_type, response, expected)
