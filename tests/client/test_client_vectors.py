# SPDX-License-Identifier: Apache-2.0
"""Vectors to write: invalid vectors and their positions, and how the client cuts them into requests."""

from __future__ import annotations

import io
import json
from array import array
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import numpy
import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cfvectorize.client.bulk.vector_batches import VectorBatch, VectorBatches
from airflow_provider_cfvectorize.client.inputs.vectors import write_ndjson
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

V = [0.5, 1]


def vector(id_: Any = "a", **fields: Any) -> dict[str, Any]:
    return {"id": id_, "values": V, **fields}


def line(vector: object) -> bytes:
    return json.dumps(vector).encode() + b"\n"


def cut(vectors: Any, **options: Any) -> list[VectorBatch]:
    return list(VectorBatches(vectors, **options))


NO_VECTORS = [
    (None, "is None, expected an object with id and values"),
    ([1], "is a list, expected an object"),
    ({"values": V}, "has no id"),
    ({"id": 5.0, "values": V}, "has 5.0 as its id, expected a string"),
    ({"id": "a"}, "has no values"),
    ({"id": "a", "values": []}, "has a list of values that is empty"),
    ({"id": "a", "values": "12"}, "expected a list of numbers"),
    ({"id": "a", "values": {"0": 1}}, "is a dict, expected a list"),
    ({"id": "a", "values": [1, "2"]}, "has '2' at position 1"),
    ({"id": "a", "values": [1, [2]]}, "has a list at position 1"),
    ({"id": "a", "values": [1e39]}, "not a finite 32-bit number"),
    (vector(namespace=5), "has 5 as its namespace"),
    (vector(metadata="x"), "has 'x' as its metadata, expected an object"),
]
BEYOND_CAPS = [
    (vector(""), "has an id that is empty"),
    (vector("é" * 33), "has 66 bytes of UTF-8, expected at most 64"),
    (vector("\ud800"), "half of a surrogate pair"),
    (vector(values=[1.0]), "has 1 value, expected 2"),
    (vector(namespace="é" * 33), "has a namespace that has 66 bytes"),
    (
        vector(metadata={"k": "x" * 10233}),
        "has 10241 bytes of metadata as compact JSON, expected at most 10240",
    ),
    (vector(metadata={"": 1}), "has the key '' in its metadata"),
    (vector(metadata={"a.b": 1}), "has the key 'a.b' in its metadata"),
    (vector(metadata={"a": [{'b"': 1}]}), "has the key 'b\"' in its"),
    (vector(metadata={"a": {"$b": 1}}), r"has the key '\$b' in its metadata"),
    (vector(metadata={"a": "\ud800"}), "has invalid metadata: a value cannot be written as JSON"),
]


@pytest.mark.parametrize(("bad", "said"), [*NO_VECTORS, *BEYOND_CAPS])
def test_the_error_of_an_invalid_vector_has_its_position(bad: Any, said: str) -> None:
    with pytest.raises(VectorizeInputError, match=f"^vectors: at position 1, the vector .*{said}"):
        cut([vector(), bad])
    with pytest.raises(VectorizeInputError, match=f"^vectors: line 4 .*{said}"):
        cut(b"\r\n" + line(vector()) + b"  \n" + line(bad))


@pytest.mark.parametrize(
    "bad",
    [b"{", b'{"id":"a","values":[NaN]}', b'{"id":"a","values":[Infinity]}', b"\xff", b"[" * 100_000, b"a,b"],
    ids=range(6),
)
def test_a_line_that_is_not_json_is_an_error(bad: bytes) -> None:
    with pytest.raises(VectorizeInputError, match=rf"line 2 \({len(bad)} bytes\) is not JSON in UTF-8"):
        cut(line(vector()) + bad)
    batches = VectorBatches(line(vector()) + bad, discard=True)
    assert [batch.count for batch in batches] == [1]
    assert batches.discarded == 1


def test_1e400_is_refused_as_infinite() -> None:
    with pytest.raises(VectorizeInputError, match="has inf at position 0"):
        cut(b'{"id":"a","values":[1e400]}')


@pytest.mark.parametrize(("bad", "_"), NO_VECTORS)
def test_invalid_vectors_can_be_discarded(bad: Any, _: str) -> None:
    for given_ in ([vector("a"), bad, vector("b")], line(vector("a")) + line(bad) + line(vector("b"))):
        batches = VectorBatches(given_, discard=True)
        (batch,) = batches
        assert [json.loads(text)["id"] for text in batch.body.splitlines()] == ["a", "b"]
        assert (batch.count, batches.discarded) == (2, 1)


@pytest.mark.parametrize(("bad", "said"), BEYOND_CAPS)
def test_vectors_over_a_limit_cannot_be_discarded(bad: Any, said: str) -> None:
    with pytest.raises(VectorizeInputError, match=said):
        cut([vector(), bad], discard=True)


@pytest.mark.parametrize(
    "good",
    [
        vector("x" * 64, namespace="n" * 64, metadata={"k": "x" * 10232}),
        vector("é\n\u2028", namespace=None, metadata=None),
        vector(values=(1, -3.4028234663852886e38)),
        vector(values=list(numpy.ones(2))),
        vector(values=[0, -0.0], metadata={}, namespace=""),
        vector(values=[10**38, 1e-300], metadata={"a": [1, {"b": None}]}),
        vector(anything="else"),
    ],
)
def test_valid_vectors_are_sent(good: dict[str, Any]) -> None:
    (batch,) = cut([good, good])
    assert [json.loads(text) for text in batch.body.decode().removesuffix("\n").split("\n")] == (
        [json.loads(json.dumps(good))] * 2
    )
    (batch,) = cut(line(good), dimensions=2)
    assert batch.body == line(good)


@pytest.mark.parametrize(
    ("given", "sent"),
    [
        (vector(17), vector("17")),
        (vector(numpy.int64(17)), vector("17")),
        (vector(UUID(int=10)), vector("00000000-0000-0000-0000-00000000000a")),
        (vector(values=numpy.array([1, 0.5], numpy.float32)), vector(values=[1.0, 0.5])),
        (vector(values=numpy.array([1, 0.5], numpy.float16)), vector(values=[1.0, 0.5])),
        (vector(values=array("d", [1, 0.5])), vector(values=[1.0, 0.5])),
        (vector(values=[numpy.float32(0.5), numpy.int8(2)]), vector(values=[0.5, 2.0])),
        (vector(values=range(2)), vector(values=[0, 1])),
    ],
)
def test_other_keys_and_arrays_are_converted(given: Any, sent: Any) -> None:
    (batch,) = cut([given])
    assert batch.body == write_ndjson([given]) == json.dumps(sent, separators=(",", ":")).encode() + b"\n"


def test_an_integer_id_in_a_file_is_sent_as_text() -> None:
    (batch,) = cut(line(vector(17)) + line(vector("18")))
    assert [json.loads(text)["id"] for text in batch.body.splitlines()] == ["17", "18"]


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (numpy.array([1, numpy.nan]), "has nan at position 1"),
        (numpy.ones((2, 3)), "has a list at position 0, expected numbers: values have one dimension"),
        (numpy.array(1.0), "is 1.0, expected a list of numbers"),
        (numpy.ones(0), "is empty"),
        (numpy.array([True]), "has True at position 0, expected numbers"),
    ],
)
def test_invalid_arrays_of_values_are_refused(values: Any, said: str) -> None:
    with pytest.raises(VectorizeInputError, match=f"position 0, the vector has a list of values that {said}"):
        cut([vector(values=values)])


def test_the_number_of_values_is_checked() -> None:
    with pytest.raises(VectorizeInputError, match="position 0, the vector has 2 values, expected 3"):
        cut([vector()], dimensions=3)
    with pytest.raises(VectorizeInputError, match="has 1537 values, expected at most 1536"):
        cut([vector(values=[1] * 1537)])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (None, "vectors is None, expected vectors such as"),
        (5, "vectors is 5, expected"),
        ("vectors.ndjson", r"for a path, pass open\(path, 'rb'\)"),
        (vector(), "vectors is a dict, expected"),
    ],
)
def test_inputs_without_vectors_are_refused(wrong: Any, said: str) -> None:
    with pytest.raises(VectorizeInputError, match=said):
        VectorBatches(wrong)


class NothingYet(io.BytesIO):
    def read(self, size: int | None = -1) -> Any:
        return None


@pytest.mark.parametrize("file", [io.StringIO("{}"), NothingYet()])
def test_a_file_must_be_opened_as_binary(file: Any) -> None:
    with pytest.raises(
        VectorizeInputError, match=r"reading the file returned .*expected bytes: open it with"
    ):
        cut(file)


def test_empty_inputs_give_no_batches() -> None:
    for nothing in ([], (), iter([]), b"", b"\n\r\n \n", io.BytesIO(), b"\xef\xbb\xbf"):
        assert cut(nothing) == []


def test_a_last_line_without_a_line_feed_and_a_byte_order_mark() -> None:
    (batch,) = cut(b"\xef\xbb\xbf" + line(vector("a")) + line(vector("b")).rstrip())
    assert (batch.count, batch.body) == (2, line(vector("a")) + line(vector("b")))


def test_a_line_that_is_too_long_is_an_error() -> None:
    with pytest.raises(VectorizeInputError, match="more than 1048576 bytes"):
        cut(io.BytesIO(b"x" * 3 * 2**20))


def test_requests_hold_a_limited_number_of_vectors() -> None:
    batches = cut(vector(str(i)) for i in range(12_001))
    assert [batch.count for batch in batches] == [5000, 5000, 2001]
    assert [batch.where for batch in batches] == [
        "positions 0 to 4999",
        "positions 5000 to 9999",
        "positions 10000 to 12000",
    ]
    batches = cut(b"\n" + b"".join(line(vector(str(i))) for i in range(5001)))
    assert [batch.where for batch in batches] == ["lines 2 to 5001", "line 5002"]


def test_requests_hold_a_limited_number_of_bytes() -> None:
    large = line(vector(metadata={"k": "x" * 10_000}))
    batches = cut(io.BytesIO(large * 4000))
    assert sum(batch.count for batch in batches) == 4000
    assert len(batches) == 2
    assert 32_000_000 - len(large) < len(batches[0].body) <= 32_000_000
    assert b"".join(batch.body for batch in batches) == large * 4000


class Dribble(io.RawIOBase):
    """A file that returns a few bytes at a time."""

    def __init__(self, content: bytes, step: int) -> None:
        self._left, self._step = content, step

    def read(self, size: int = -1) -> bytes:
        chunk, self._left = self._left[: self._step], self._left[self._step :]
        return chunk


ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=16)
some_vectors = st.lists(
    st.builds(
        lambda id_, a, b, metadata: {"id": id_, "values": [a, b], "metadata": metadata},
        ids,
        st.floats(width=32, allow_nan=False, allow_infinity=False),
        st.integers(-(2**100), 2**100),
        st.none()
        | st.dictionaries(st.sampled_from(["a", "é", "x y"]), st.text("ab\n\r\u2028\x85", max_size=9)),
    ),
    max_size=30,
)


@given(some_vectors, st.integers(1, 9), st.integers(1, 600), st.integers(1, 50))
def test_all_vectors_are_sent_in_order(
    vectors: list[dict[str, Any]], max_vectors: int, max_bytes: int, step: int
) -> None:
    ndjson = b"".join(line(one) for one in vectors)

    def generated() -> Iterator[dict[str, Any]]:
        yield from vectors

    for given_ in (
        vectors,
        generated(),
        ndjson,
        bytearray(ndjson),
        memoryview(ndjson),
        Dribble(ndjson, step),
    ):
        batches = cut(given_, max_vectors=max_vectors, max_bytes=max_bytes)
        sent = [text for batch in batches for text in batch.body.split(b"\n") if text]
        assert [json.loads(text) for text in sent] == vectors
        assert [batch.count for batch in batches] == [batch.body.count(b"\n") for batch in batches]
        assert all(0 < batch.count <= max_vectors for batch in batches)
        assert all(len(batch.body) <= max_bytes or batch.count == 1 for batch in batches)


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_arbitrary_bytes_are_sent_unchanged_or_refused(content: bytes) -> None:
    said = ""
    batches: list[VectorBatch] = []
    try:
        batches = cut(content)
    except VectorizeInputError as e:
        said = str(e)
    # The content of a line cannot forge a log line.
    assert said.isascii()
    assert not said or said.isprintable()
    for batch in batches:
        assert all(isinstance(json.loads(text)["id"], str) for text in batch.body.splitlines())
