# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import ast
import json
import shutil
import subprocess
import tracemalloc
from array import array
from collections.abc import Callable, Sequence
from decimal import Decimal
from hashlib import sha256
from typing import Any
from uuid import UUID

import numpy
import pytest
import sqlalchemy
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_cfvectorize.client.inputs import ids as ids_module
from airflow_provider_cfvectorize.client.inputs.ids import problem_with_id, read_ids, sha256_of_sorted, spread
from airflow_provider_cfvectorize.exceptions import VectorizeInputError

valid_ids = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=64).filter(
    lambda text: len(text.encode()) <= 64
)


def rows_of(query: str) -> list[Any]:
    """Return SQLAlchemy rows."""
    with sqlalchemy.create_engine("sqlite://").connect() as connection:
        return connection.execute(sqlalchemy.text(query)).fetchall()


def ids_of(value: object) -> list[str]:
    return [id_ for batch in read_ids(value) for id_ in batch]


def refusal(value: object) -> str:
    with pytest.raises(VectorizeInputError) as e:
        read_ids(value)
    text = str(e.value)
    assert text.isprintable()
    assert len(text) < 2500
    assert "Pass a list of strings" in text or "ids_path" in text
    return text


def short(value: object) -> str:
    return f"{value:.20}" if isinstance(value, str) else type(value).__name__


class Lazy(Sequence[Any]):
    """A sequence that is not a list, as mapped upstream tasks return."""

    def __getitem__(self, i: Any) -> Any:
        return [f"id-{n}" for n in range(3)][i]

    def __len__(self) -> int:
        return 3


@pytest.mark.parametrize(
    ("value", "ids"),
    [
        (["a", "b"], ["a", "b"]),
        (("a", "b"), ["a", "b"]),
        (Lazy(), ["id-0", "id-1", "id-2"]),
        (range(3), ["0", "1", "2"]),
        ([], []),
        ((), []),
        ([1, -2, 0, 10**63], ["1", "-2", "0", str(10**63)]),
        ([numpy.int64(7), numpy.uint8(8)], ["7", "8"]),
        ([numpy.str_("x")], ["x"]),
        ([UUID(int=10)], ["00000000-0000-0000-0000-00000000000a"]),
        ([Decimal(2**53 + 1), Decimal("9007199254740991.0")], ["9007199254740993", "9007199254740991"]),
        ([Decimal("17"), Decimal("1E+2"), Decimal("-3.00"), Decimal("-0")], ["17", "100", "-3", "0"]),
        # Rows of one column
        ([("a",), ("b",)], ["a", "b"]),
        ([["a"], [5]], ["a", "5"]),
        (rows_of("SELECT 'a' UNION ALL SELECT 'b'"), ["a", "b"]),
        (str(rows_of("SELECT 'a' UNION ALL SELECT 'b'")), ["a", "b"]),
        ("[('a',), ('it\\'s',)]", ["a", "it's"]),
        ("[(1,), (-2,)]", ["1", "-2"]),
        ("[['a'], ['b']]", ["a", "b"]),
        ('[["a"], ["b"]]', ["a", "b"]),
        # Arrays
        (numpy.array(["a", "b"]), ["a", "b"]),
        (numpy.array([[1], [2]]), ["1", "2"]),
        (array("q", [1, 2]), ["1", "2"]),
        (["b", "a", "b", "a", "c"], ["b", "a", "c"]),
        (["1", 1], ["1"]),
        ([" a ", "\t", "a,b", "a\nb", "None", "null", "[]", "1e5", "0x1f"], None),
        (["é" * 32, "x" * 64, "\x00", "\u2028", "𝄞" * 16], None),
        # Strings: single ids, never parsed
        ("a", ["a"]),
        ("1e5", ["1e5"]),
        ("0x1f", ["0x1f"]),
        ("12", ["12"]),
        ("True", ["True"]),
        ("a b", ["a b"]),
        ("{'a'}", ["{'a'}"]),
        ('"a"', ['"a"']),
        ("a\u2028b", ["a\u2028b"]),
        ("none", ["none"]),
        # Strings: lists
        ("[]", []),
        ("()", []),
        ("[ ]", []),
        ('["a", "b"]', ["a", "b"]),
        ("['a', 'b']", ["a", "b"]),
        ("('a', 'b')", ["a", "b"]),
        ("('a',)", ["a"]),
        ("['a',]", ["a"]),
        ("['a']\n", ["a"]),
        ("[1, 2]", ["1", "2"]),
        ("(1, -2, 0)", ["1", "-2", "0"]),
        (
            "[\"it's\", '\"', 'a\\'b\"c', 'x\\ny', '\\u2028', 'a, b', ']']",
            ["it's", '"', "a'b\"c", "x\ny", "\u2028", "a, b", "]"],
        ),
        ("['a', 'a', 1, '1']", ["a", "1"]),
        ('["\\u00e9", "None"]', ["é", "None"]),
        ("['a\u2028b']", ["a\u2028b"]),
        ("['[1]', '()']", ["[1]", "()"]),
    ],
)
def test_accepted_ids(value: object, ids: list[str] | None) -> None:
    assert ids_of(value) == (value if ids is None else ids)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "ids is None (an upstream task that returned nothing, or was skipped, gives None)"),
        ("None", "which Jinja renders for a missing value"),
        ("null", "which Jinja renders for a missing value"),
        (" None\n", "which Jinja renders for a missing value"),
        ("", "which Jinja renders for a missing value"),
        (" \n", "which Jinja renders for a missing value"),
        ("a,b", "which has a comma, so it may be several ids"),
        ("a\nb", "which has a line break"),
        ("a\rb", "which has a line break"),
        (" a", "which begins or ends with white space"),
        ("a ", "which begins or ends with white space"),
        ("\u2028a", "which begins or ends with white space"),
        (" ['a']", "which begins or ends with white space"),
        (b"a", "ids is b'a' (decode bytes first)"),
        (bytearray(b"a"), "decode bytes first"),
        (memoryview(b"a"), "ids is a memoryview"),
        ({"a": 1}, "ids is a dict (a mapping: pass list(...)"),
        ({"a"}, "a set has no order: pass sorted(...)"),
        (frozenset("a"), "a set has no order"),
        ({"a": 1}.keys(), "a set has no order"),
        ({"a": 1}.values(), "ids is a dict_values"),
        ((id_ for id_ in "ab"), "a generator can be read only once: pass list(...)"),
        (iter(["a"]), "pass list(...)"),
        (5, "ids is 5"),
        (1.5, "ids is 1.5"),
        (True, "ids is True"),
        (object(), "ids is an object"),
        (numpy.array(5), "ids is 5"),
    ],
)
def test_values_that_are_not_lists_are_refused(value: object, said: str) -> None:
    assert said in refusal(value)


@pytest.mark.parametrize(
    ("item", "said"),
    [
        (None, "None is neither a string nor an integer"),
        (True, "True is neither"),
        (numpy.bool_(True), "is neither"),
        (1.0, "1.0 is neither"),
        (float("nan"), "nan is neither"),
        (numpy.float64(1), "is neither"),
        (b"a", "b'a' is neither"),
        ({"id": "a"}, "a dict is neither"),
        ({"a"}, "a set is neither"),
        (Decimal("1.5"), "Decimal('1.5') is neither"),
        (Decimal("NaN"), "Decimal('NaN') is neither"),
        (Decimal("sNaN"), "Decimal('sNaN') is neither"),
        (Decimal("-Infinity"), "Decimal('-Infinity') is neither"),
        (Decimal("1E+65"), "Decimal('1E+65') may have been rounded"),
        # An XCom turns it into 9007199254740992.0, a different id.
        (Decimal("9007199254740993.0"), "Decimal('9007199254740993.0') may have been rounded by an XCom"),
        (Decimal("1E+999999"), "Decimal('1E+999999') may have been rounded"),
        (numpy.array([1, 2]), "a ndarray is neither"),
        ("", "'' is empty"),
        ("x" * 65, "has 65 bytes of UTF-8, expected at most 64"),
        ("é" * 25 + "x" * 15, "has 65 bytes of UTF-8"),
        ("\ud800", "half of a surrogate pair"),
        ("a\udfff", "half of a surrogate pair"),
        (10**64, "has 65 bytes of UTF-8, expected at most 64"),
        (-(10**63), "has 65 bytes of UTF-8"),
        (10**10_000, "an integer of more than 77 digits has too many digits"),
    ],
    ids=short,
)
def test_invalid_ids_are_refused(item: object, said: str) -> None:
    text = refusal(["fine", item])
    assert text.startswith("ids[1]: ")
    assert "(of 2, counted from ids[0]). An id has 1 to 64 bytes of UTF-8. Pass a list" in text
    assert said in text


@pytest.mark.parametrize(
    "value", [[("a", 1), ("b", 2)], [("a",), ("b", 2)], "[('a', 1), ('b', 2)]", [()]], ids=short
)
def test_rows_with_several_columns_are_refused(value: Any) -> None:
    with pytest.raises(VectorizeInputError, match=r"is a row of . columns, .*Query only .*\.map\(lambda row"):
        ids_of(value)


def test_errors_in_rows_name_the_row() -> None:
    for value in ([("a", 1)], [("a",), "b"]):
        with pytest.raises(VectorizeInputError, match='They come from the param "ids"'):
            read_ids(value, origin='the param "ids"')


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([("a",), "b"], "ids[1] is 'b', but those before it are rows"),
        (["a", "b", ["c"]], "ids[2] is a list, but those before it are ids"),
    ],
    ids=short,
)
def test_mixed_rows_and_bare_ids_are_refused(value: Any, said: str) -> None:
    assert f"ids: rows and plain ids are mixed: {said}" in refusal(value)


@given(st.lists(st.text(max_size=5) | st.integers(), max_size=5))
def test_rendered_rows_give_the_ids_of_the_rows(items: list[str | int]) -> None:
    def read(value: object) -> list[str] | str:
        try:
            return ids_of(value)
        except VectorizeInputError as e:
            return str(e)

    expected = read(items)
    for rows in ([(item,) for item in items], [[item] for item in items]):
        assert read(rows) == expected
        assert read(str(rows)) == expected


def test_long_rendered_rows_are_accepted() -> None:
    rows = [(f"id-{i}",) for i in range(100_000)]
    assert ids_of(str(rows)) == [id_ for (id_,) in rows]


def test_the_first_ten_bad_ids_are_listed_with_their_positions() -> None:
    text = refusal([f"ok-{i}" if i % 2 else None for i in range(50)])
    assert [int(part.split("]")[0]) for part in text.split("ids[")[1:11]] == list(range(0, 20, 2))
    assert "; and 15 more (of 50, counted from ids[0])." in text


@pytest.mark.parametrize(
    "text",
    [
        "[",
        "(",
        "[a]",
        "['a'",
        "['a')",
        "('a')",
        "('a' )",
        "['a']]",
        "['a'] ['b']",
        "['a' 'b']",
        "[,]",
        "['a',,'b']",
        "[u'a']",
        "[r'a']",
        "[f'a']",
        "[0x1f]",
        "[007]",
        "[1_000]",
        "[1 + 1]",
        "['a'] + ['b']",
        "['\\N{nothing of that name}']",
        "['\\d']",
        "['\\141']",
        "['\\u2g28']",
        "['a\nb']",
        "[*'ab']",
        "[__import__('os')]",
        "[i for i in 'ab']",
        "(1)",
        "[np.str_('a')]",
        "[" * 100_000,
        "(" * 100_000 + ")" * 100_000,
        "[" + "-" * 100_000 + "1]",
        "[" + "'a' " * 20_000 + "]",
        "[1" + "+1" * 20_000 + "]",
        "['a', \ud800]",
        "['a', \x00]",
        "()\u2028",
        "['a',\xa0'b']",
    ],
    ids=short,
)
def test_text_with_a_malformed_list_is_refused(text: str) -> None:
    assert "begins like a list, but is neither valid JSON nor a Python literal" in refusal(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[null]", "ids[0]: None is neither"),
        ("['a', None]", "ids[1]: None is neither"),
        ("[1e5]", "100000.0 is neither"),
        ("['a', 1.5, True]", "Decimal without a fraction; ids[2]: True is"),
        ("[(None,)]", "ids[0]: None is neither"),
        ("[('a' 'b',)]", "neither valid JSON nor a Python literal"),
        ("[{'id': 'a'}]", "a dict is neither"),
        ("[b'a']", "b'a' is neither"),
        ("['']", "'' is empty"),
        ('["\\ud800"]', "surrogate"),
        ("[" + "[" * 500 + "]" * 501, "a list is neither"),
    ],
    ids=short,
)
def test_rendered_lists_of_other_values_are_refused(text: str, said: str) -> None:
    assert said in refusal(text)


def test_a_rendered_list_has_at_most_16_mib(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ids_module.MAX_TEXT_BYTES == 16 * 2**20
    monkeypatch.setattr(ids_module, "MAX_TEXT_BYTES", 2**20)
    ids = [f"{i:060}" for i in range(16_000)]
    text = str(ids)
    fits = f"{text[:-1]}{' ' * (2**20 - len(text))}]"
    tracemalloc.start()
    try:
        assert ids_of(fits) == ids
        # A Python parser would need about 20 MB.
        assert tracemalloc.get_traced_memory()[1] < 8_000_000
    finally:
        tracemalloc.stop()
    assert "longer than 1 MiB: write the ids into a file" in refusal(f"{fits[:-1]} ]")


def test_the_size_of_text_is_measured_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ids_module, "MAX_TEXT_BYTES", 10)
    assert ids_of("['é', 1]") == ["é", "1"]
    assert "is longer than" in refusal("['éé', 12]")


@given(st.lists(valid_ids, unique=True, max_size=30))
def test_a_rendered_list_gives_the_ids_of_the_list(ids: list[str]) -> None:
    assert ids_of(str(ids)) == ids
    assert ids_of(str(tuple(ids))) == ids
    assert ids_of(json.dumps(ids)) == ids
    assert ids_of(json.dumps(ids, ensure_ascii=False)) == ids


@given(st.lists(valid_ids | st.integers(-(10**20), 10**20), min_size=1, max_size=8))
def test_a_rendered_list_of_strings_and_integers_gives_its_ids(ids: list[str | int]) -> None:
    expected = list(dict.fromkeys(str(id_) for id_ in ids))
    assert ids_of(ids) == ids_of(str(ids)) == ids_of(json.dumps(ids)) == expected


@given(st.text("[](),'\"\\ abn01-\n\u2028", max_size=20), st.sampled_from("[("))
def test_arbitrary_list_text_is_read_like_python_or_refused(text: str, first: str) -> None:
    text = first + text
    try:
        ids = ids_of(text)
    except VectorizeInputError:
        return
    try:
        value = json.loads(text)
    except ValueError:
        value = ast.literal_eval(text)
    assert ids == list(dict.fromkeys(str(id_) for id_ in value))


@given(st.text(max_size=80))
def test_a_string_is_an_id_or_a_list_or_refused(text: str) -> None:
    try:
        ids = ids_of(text)
    except VectorizeInputError:
        return
    if text[:1] not in ("[", "("):
        assert ids == [text]
    assert all(problem_with_id(id_) is None for id_ in ids)


def test_max_ids_counts_distinct_ids() -> None:
    assert read_ids(["a", "b", "a"], max_ids=2).count == 2
    assert read_ids([], max_ids=0).count == 0
    with pytest.raises(VectorizeInputError, match="3 ids and max_ids is 2: nothing was sent"):
        read_ids(["a", "b", "c"], max_ids=2)


@pytest.mark.parametrize(
    ("count", "sizes"), [(0, []), (1, [1]), (99, [99]), (100, [100]), (101, [100, 1]), (250, [100, 100, 50])]
)
def test_ids_are_cut_into_batches_of_100(count: int, sizes: list[int]) -> None:
    source = read_ids([str(i) for i in range(count)])
    assert (source.count, source.batches) == (count, len(sizes))
    assert [len(batch) for batch in source] == sizes
    assert list(source) == list(source)
    for position, batch in source.samples():
        assert batch == list(source)[position]


@pytest.mark.parametrize(
    ("total", "positions"), [(0, []), (1, [0]), (3, [0, 1, 2]), (4, [0, 2, 3]), (101, [0, 50, 100])]
)
def test_spread_positions(total: int, positions: list[int]) -> None:
    assert spread(total, 3) == positions


@given(st.integers(0, 10_000), st.integers(2, 20))
def test_spread_positions_are_distinct_and_in_range(total: int, wanted: int) -> None:
    positions = spread(total, wanted)
    assert len(set(positions)) == len(positions) == min(total, wanted)
    assert positions == sorted(positions)
    assert all(0 <= position < total for position in positions)


@given(st.lists(valid_ids, max_size=20))
def test_the_digest_covers_distinct_ids_sorted_by_bytes(ids: list[str]) -> None:
    encoded = sorted({id_.encode() for id_ in ids})
    expected = sha256(b"".join(id_ + b"\n" for id_ in encoded)).hexdigest()
    assert sha256_of_sorted([ids[:7], ids[7:], ids]) == (len(encoded), expected)


@pytest.fixture
def sort_command() -> Callable[[bytes], bytes]:
    sort = shutil.which("sort")
    assert sort, "the documented command needs sort"

    def run(text: bytes) -> bytes:
        return subprocess.run(
            [sort, "-u"], input=text, env={"LC_ALL": "C"}, check=True, capture_output=True
        ).stdout

    return run


def test_sort_and_sha256sum_give_the_same_digest(sort_command: Callable[[bytes], bytes]) -> None:
    ids = ["b", "a", "B", "é", "z", "\U0001d11e", "\ufffd", "a b", "a", "~", "\x01", "b"]
    text = "".join(f"{id_}\n" for id_ in ids).encode()
    assert sha256_of_sorted([ids])[1] == sha256(sort_command(text)).hexdigest()
