# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import struct

import pytest

from airflow_provider_cfvectorize.local import Behaviour, LocalVectorize
from local.local_client import DIMENSIONS, Client, envelope, mutation, refusal, result, vector

ASKED = [0.5] * DIMENSIONS


def values(*start: float) -> list[float]:
    return [*map(float, start), *[0.0] * (DIMENSIONS - len(start))]


def matches(client: Client, asked=None, **more):
    found = result(client.query(asked, **more))
    assert list(found) == ["count", "matches"]
    assert found["count"] == len(found["matches"])
    return found["matches"]


def ids(client: Client, asked=None, **more) -> list[str]:
    return [match["id"] for match in matches(client, asked, **more)]


@pytest.fixture(scope="module")
def immediate():
    """Start a server for all tests without switches; its jobs run at once."""
    with LocalVectorize(apply_delay=0) as server:
        yield server


@pytest.fixture
def served(immediate, start, connect):
    """Create an index with a metric, on a separate server if there are switches."""

    def starter(metric: str = "cosine", **switches) -> Client:
        own = start(apply_delay=0, behaviour=Behaviour(**switches)) if switches else immediate
        client = connect(own)
        client.send("DELETE", "/docs")
        result(client.create(config={"dimensions": DIMENSIONS, "metric": metric}))
        return client

    return starter


# --- scores and order ---------------------------------------------------------------------------------------

POINTS = {
    "same": values(3, 4),
    "double": values(6, 8),
    "across": values(-4, 3),
    "opposite": values(-3, -4),
    "zero": values(0),
}


@pytest.mark.parametrize(
    ("metric", "switches", "expected"),
    [
        ("cosine", {}, {"double": 1, "same": 1, "across": 0, "zero": 0, "opposite": -1}),
        ("euclidean", {}, {"same": 0, "double": 5, "zero": 5, "across": 50**0.5, "opposite": 10}),
        ("dot-product", {}, {"double": 50, "same": 25, "across": 0, "zero": 0, "opposite": -25}),
        (
            "dot-product",
            {"dot_product_score": "negative"},
            {"double": -50, "same": -25, "across": 0, "zero": 0, "opposite": 25},
        ),
    ],
)
def test_scores_and_order_of_each_metric(served, metric, switches, expected):
    client = served(metric, **switches)
    mutation(client.upsert([{"id": name, "values": point} for name, point in POINTS.items()]))

    found = matches(client, POINTS["same"])
    assert [match["id"] for match in found] == list(expected)
    assert [match["score"] for match in found] == pytest.approx(list(expected.values()), abs=1e-12)
    assert "-0.0" not in client.query(POINTS["same"]).text


@pytest.mark.parametrize("metric", ["cosine", "euclidean", "dot-product"])
def test_equal_vectors_have_equal_scores_and_are_ordered_by_id(served, metric, monkeypatch):
    # The vectors are in many chunks and at every position of a chunk.
    monkeypatch.setattr("airflow_provider_cfvectorize.local.engine.view._CHUNK", 7 * DIMENSIONS)
    client = served(metric)
    names = [f"{number * 7919 % 1000:04}" for number in range(1000)]
    point = [0.1 * (i + 1) for i in range(DIMENSIONS)]
    mutation(client.upsert([{"id": name, "values": point} for name in names]))

    found = matches(client, [0.3] * DIMENSIONS, topK=100)
    assert len({match["score"] for match in found}) == 1
    assert [match["id"] for match in found] == sorted(names)[:100]


def test_ids_are_ordered_by_code_point(served):
    client = served()
    mutation(client.upsert([vector(name) for name in ("😀", "\uffff", "a", "Z", "ä")]))
    assert ids(client, ASKED) == ["Z", "a", "ä", "\uffff", "😀"]


def test_values_are_float32_and_scores_are_exact(served):
    client = served("dot-product")
    stored = [16777217.0, 0.1, -16777216.0, *[0.0] * (DIMENSIONS - 3)]
    mutation(client.upsert([{"id": "a", "values": stored}]))
    as_float32 = struct.unpack("<f", struct.pack("<f", 0.1))[0]

    assert matches(client, [1.0] * DIMENSIONS)[0]["score"] == as_float32


def test_the_largest_possible_values(served):
    for metric in ("cosine", "euclidean", "dot-product"):
        client = served(metric)
        mutation(
            client.upsert(
                [
                    {"id": "large", "values": [3.4e38] * DIMENSIONS},
                    {"id": "negative", "values": [-3.4e38] * DIMENSIONS},
                    {"id": "small", "values": [1e-45] * DIMENSIONS},
                ]
            )
        )
        for asked in ([3.4e38] * DIMENSIONS, [1e-45] * DIMENSIONS, [0.0] * DIMENSIONS):
            assert len(matches(client, asked)) == 3


# --- fields -------------------------------------------------------------------------------------------------


def test_the_fields_of_a_match(client: Client, clock):
    metadata = {"k": "x", "free": {"text": ["é"]}, "deep": {"er": 1, "other": 2}}
    mutation(client.create_metadata_index("k", "string"))
    mutation(client.create_metadata_index("deep.er", "number"))
    mutation(client.create_metadata_index("none", "boolean"))
    mutation(client.upsert([vector("a", metadata=metadata, namespace="ns"), vector("b")]))
    clock.advance(2)

    full = {"id": "a", "score": 1.0, "namespace": "ns"}
    bare = {"id": "b", "score": 1.0}
    score = {"score": pytest.approx(1)}
    some = {"k": "x", "deep": {"er": 1}}
    for more, first, second in (
        ({}, full, bare),
        ({"returnValues": False, "returnMetadata": "none"}, full, bare),
        ({"returnValues": True}, {**full, "values": ASKED}, {**bare, "values": ASKED}),
        ({"returnMetadata": "all"}, {**full, "metadata": metadata}, bare),
        ({"returnMetadata": "indexed"}, {**full, "metadata": some}, bare),
    ):
        assert matches(client, ASKED, **more) == [{**first, **score}, {**second, **score}]
    everything = matches(client, ASKED, returnValues=True, returnMetadata="all")[0]
    assert list(everything) == ["id", "score", "values", "metadata", "namespace"]


def test_indexed_metadata_may_be_absent_or_null(client: Client, clock):
    mutation(client.create_metadata_index("n", "number"))
    mutation(
        client.upsert(
            [
                vector("a", metadata={"n": None}),
                vector("b", metadata={"n": "one", "x": 1}),
                vector("c", metadata={"n": "7"}),
            ]
        )
    )
    clock.advance(2)
    found = matches(client, ASKED, returnMetadata="indexed")
    assert [match["metadata"] for match in found] == [{"n": None}, {}, {"n": 7}]


def test_the_envelope_of_a_query_has_an_extra_field(client: Client):
    for response in (client.query(ASKED), client.query([1.0]), client.query()):
        body = envelope(response)
        assert list(body) == ["result", "success", "errors", "messages", "result_info"]
        assert body["result_info"] is None
    assert "result_info" not in envelope(client.get(["a"]))
    assert "result_info" not in envelope(client.delete(["a"] * 101))


def test_a_query_of_an_empty_index(client: Client):
    assert result(client.query(ASKED)) == {"count": 0, "matches": []}
    assert result(client.query(ASKED, namespace="none")) == {"count": 0, "matches": []}


# --- top K --------------------------------------------------------------------------------------------------


def test_top_k(client: Client, clock):
    mutation(client.upsert([vector(f"{number:03}") for number in range(120)]))
    clock.advance(2)

    assert len(matches(client, ASKED)) == 5
    assert len(matches(client, ASKED, topK=None)) == 5
    assert ids(client, ASKED, topK=1) == ["000"]
    assert ids(client, ASKED, topK=3.0) == ["000", "001", "002"]
    assert len(matches(client, ASKED, topK=100)) == 100
    assert len(matches(client, ASKED, topK=100, returnMetadata="indexed")) == 100
    assert len(matches(client, ASKED, topK=50, returnValues=True)) == 50
    assert len(matches(client, ASKED, topK=50, returnMetadata="all")) == 50


@pytest.mark.parametrize("more", [{"returnValues": True}, {"returnMetadata": "all"}])
@pytest.mark.parametrize("top_k", [51, 100, 101])
def test_top_k_with_data(client: Client, more, top_k):
    assert refusal(client.query(ASKED, topK=top_k, **more)) == (
        400,
        40025,
        f"with returnValues=true or returnMetadata=all, max top K is 50, but got {top_k}; "
        "for a top K up to 100, retry with returnValues=false and returnMetadata=indexed",
    )


def test_top_k_without_data(client: Client):
    assert refusal(client.query(ASKED, topK=101)) == (400, 40025, "max top K is 100, but got 101")
    assert refusal(client.query(ASKED, topK=10**400))[:2] == (400, 40025)


def test_invalid_top_k_is_refused(client: Client, served):
    for top_k in (0, -1, -(10**30)):
        assert refusal(client.query(ASKED, topK=top_k)) == (400, 40000, "top K must be at least 1")
    assert refusal(served(unpublished_code=41234).query(ASKED, topK=0))[1] == 41234
    for top_k in ("5", 1.5, True, [5]):
        assert refusal(client.query(ASKED, topK=top_k)) == (
            400,
            40026,
            "Failed to parse the request body as JSON: topK: expected a whole number",
        )


def test_recall(start, connect):
    """A query always misses certain matches and returns farther matches instead."""
    names = [f"{number:03}" for number in range(400)]
    other = [*ASKED[1:], 0.4]

    def server_with(recall: float, seed: int = 0) -> Client:
        client = connect(start(apply_delay=0, recall=recall, fault_seed=seed))
        result(client.create())
        mutation(client.upsert([vector(name, namespace="ab"[int(name) % 2]) for name in names]))
        return client

    client = server_with(0.7)
    found = ids(client, ASKED, topK=100)
    assert len(found) == 100
    assert found == sorted(found)
    missed = set(names[: int(found[-1])]) - set(found)
    assert 20 <= len(missed) <= 70
    assert ids(client, ASKED, topK=100) == found
    assert ids(client, vectorId="000", topK=100) == found
    assert ids(client, ASKED, topK=20, namespace="b") == [name for name in found if int(name) % 2][:20]
    assert missed & set(ids(client, other, topK=100))
    assert ids(server_with(0.7, seed=1), ASKED, topK=100) != found
    assert ids(server_with(0.7), ASKED, topK=100) == found
    assert ids(server_with(0), ASKED) == []
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="recall must be a number from 0 to 1"):
            LocalVectorize(recall=wrong)


# --- vectors and ids ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("got", [0, 31, 33, 768])
def test_other_dimensions_are_refused(client: Client, got):
    assert refusal(client.query([0.5] * got)) == (
        400,
        40006,
        f"invalid query vector, expected 32 dimensions, and got {got} dimensions",
    )


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({}, "missing field `vector`"),
        ({"vector": None, "vectorId": None}, "missing field `vector`"),
        ({"vector": "x"}, "vector: expected a sequence of numbers"),
        ({"vector": {"0": 1}}, "vector: expected a sequence of numbers"),
        ({"vector": [True] * 32}, "vector: expected a sequence of numbers"),
        ({"vector": ["0.5"] * 32}, "vector: expected a sequence of numbers"),
        ({"vector": [None] * 32}, "vector: expected a sequence of numbers"),
        ({"vector": [[0.5] * 32]}, "vector: expected a sequence of numbers"),
        ({"vector": [1e39] * 32}, "vector: number out of range"),
        ({"vector": [10**400] * 32}, "vector: number out of range"),
        ({"vectorId": 7}, "vectorId: expected a string"),
        ({"vectorId": "\ud800"}, "vectorId: lone surrogate"),
        ({"vector": ASKED, "namespace": 7}, "namespace: expected a string"),
        ({"vector": ASKED, "namespace": "\ud800"}, "namespace: lone surrogate"),
        ({"vector": ASKED, "returnValues": "true"}, "returnValues: expected a boolean"),
        ({"vector": ASKED, "returnValues": 1}, "returnValues: expected a boolean"),
        ({"vector": ASKED, "returnMetadata": True}, "returnMetadata: expected value"),
        ({"vector": ASKED, "returnMetadata": False}, "returnMetadata: expected value"),
        ({"vector": ASKED, "returnMetadata": "some"}, "returnMetadata: expected value"),
        ({"vector": ASKED, "returnMetadata": ["all"]}, "returnMetadata: expected value"),
    ],
    ids=str,
)
def test_invalid_queries_are_refused(client: Client, body, message):
    assert refusal(client.query(**body)) == (
        400,
        40026,
        f"Failed to parse the request body as JSON: {message}",
    )


def test_a_number_too_large_for_python_is_refused(client: Client):
    body = json.dumps({"vector": [*ASKED[1:], "?"]}).replace('"?"', "1e999")
    response = client.send("POST", "/docs/query", data=body, headers={"Content-Type": "application/json"})
    assert refusal(response)[2].endswith("vector: number out of range")


def test_a_query_by_the_id_of_a_vector(client: Client, clock):
    mutation(
        client.upsert(
            [
                {"id": "a", "values": values(1), "namespace": "one"},
                {"id": "b", "values": values(1, 0.5)},
                {"id": "c", "values": values(0, 1), "namespace": "two"},
            ]
        )
    )
    clock.advance(2)

    assert ids(client, vectorId="a") == ["a", "b", "c"]
    assert ids(client, vectorId="c") == ["c", "b", "a"]
    # The vector may be anywhere in the index; the matches are in the namespace.
    assert ids(client, vectorId="a", namespace="two") == ["c"]


def test_a_query_by_a_missing_id_is_refused(client: Client, served):
    mutation(client.upsert([vector("a")]))
    assert refusal(client.query(vectorId="a")) == (400, Behaviour.unpublished_code, 'no vector with id="a"')
    assert refusal(client.query(vectorId="b" * 65))[1] == 40008
    assert refusal(client.query(vectorId=""))[1] == Behaviour.unpublished_code

    assert refusal(served(unpublished_code=41234).query(vectorId="b"))[1] == 41234
    assert matches(served(unknown_vector_id="no_match"), vectorId="b") == []


def test_a_query_by_vector_and_id_is_refused(client: Client, served):
    response = client.query(ASKED, vectorId="a")
    assert refusal(response) == (400, 40000, "expected one of vector and vectorId, got both")
    assert refusal(served(unpublished_code=41234).query(ASKED, vectorId="a"))[1] == 41234
    assert matches(served(vector_and_vector_id="accept"), ASKED, vectorId="a") == []


# --- namespaces ---------------------------------------------------------------------------------------------


def test_namespaces(client: Client, clock):
    mutation(
        client.upsert(
            [
                vector("a", namespace="one"),
                vector("b", namespace="two"),
                vector("c"),
                vector("d", namespace=""),
            ]
        )
    )
    clock.advance(2)

    assert ids(client, ASKED) == ["a", "b", "c", "d"]
    assert ids(client, ASKED, namespace=None) == ["a", "b", "c", "d"]
    assert ids(client, ASKED, namespace="one") == ["a"]
    assert ids(client, ASKED, namespace="") == ["d"]
    assert ids(client, ASKED, namespace="three") == []
    assert refusal(client.query(ASKED, namespace="n" * 65)) == (
        400,
        40000,
        "namespace too long; max is 64 bytes, got 65 bytes",
    )
