# SPDX-License-Identifier: Apache-2.0
"""The operator that deletes every id outside a desired set, against a real local server."""

from __future__ import annotations

import json
import logging
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from airflow_provider_cfvectorize.client.bulk import reconcile as reconciliation
from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.exceptions import (
    VectorizeInputError,
    VectorizeListingExpired,
)
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.local.behaviour import Behaviour
from airflow_provider_cfvectorize.operators.vectors import ReconcileVectorsOperator
from harness import INDEX, Clock, Vectorize, make_context
from operators.reconciling import ids_in, pushed, reconcile, report_of_failure

CONN = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"


@pytest.fixture
def logged(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> Iterator[Callable[[], str]]:
    """Return a function that returns the log. Airflow 3 logs to standard output without a supervisor."""
    with caplog.at_level(logging.INFO):
        yield lambda: caplog.text + capfd.readouterr().out


# --- deletes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("surplus", [0, 1, 100, 101, 1250])
@pytest.mark.parametrize("how", ["list", "tuple", "text", "lines", "ndjson"])
def test_exactly_the_surplus_is_deleted(vectorize: Vectorize, tmp_path: Path, surplus: int, how: str) -> None:
    there = [f"id-{i}" for i in range(1200)]
    missing = {"id", "id-", "id--1", "é\u2028"}
    old = {f"old-{i}" for i in range(surplus)}
    vectorize.fill([*there, *old])
    desired = [*there, *missing]
    kwargs: dict[str, Any]
    if how in ("lines", "ndjson"):
        path = tmp_path / f"ids.{how}"
        lines = desired if how == "lines" else [json.dumps({"id": id_, "values": [1, 2]}) for id_ in desired]
        path.write_text("\n".join(lines))
        kwargs = {"ids_path": str(path)}
    else:
        kwargs = {"ids": {"list": desired, "tuple": tuple(desired), "text": str(desired)}[how]}
    xcoms = pushed(**kwargs)
    assert vectorize.ids() == set(there)
    report, receipt = xcoms["report"], xcoms["receipt"]
    counts = [report[name] for name in ("listed", "desired", "surplus", "deleted", "missing")]
    assert counts == [1200 + surplus, 1204, surplus, surplus, 4]
    assert set(report["missing_ids"]) == missing
    assert (report["refused"], report["dry_run"], report["surplus_path"]) == (None, False, None)
    assert (receipt["count"], receipt["mutation_id"]) == (surplus, xcoms["return_value"])
    assert len(receipt["witness_ids"]) == min(5, surplus)
    assert xcoms["evidence"]["mutation_id"] == xcoms["return_value"]
    if not surplus:
        assert xcoms["return_value"] is None
        assert xcoms["evidence"]["outcome"] == "nothing_to_do"


def test_an_empty_index_has_nothing_to_delete(vectorize: Vectorize) -> None:
    xcoms = pushed(ids=["a"])
    assert (xcoms["report"]["listed"], xcoms["report"]["missing_ids"]) == (0, ["a"])
    assert vectorize.server.stats()["delete_by_ids"] == 0


def test_a_prefix_limits_what_is_deleted(vectorize: Vectorize, logged: Callable[[], str]) -> None:
    vectorize.fill(["a:1", "a:2", "a:3", "A:1", "b:1", "a", "xa:1"])
    xcoms = pushed(ids=["a:1", "a:4"], id_prefix="a:")
    assert vectorize.ids() == {"a:1", "A:1", "b:1", "a", "xa:1"}
    report = xcoms["report"]
    assert (report["listed"], report["surplus"], report["missing_ids"]) == (3, 2, ["a:4"])
    assert report["id_prefix"] == "a:"
    text = logged()
    assert "ids that begin with 'a:': 3 ids listed, 2 desired, 2 surplus, 1 missing" in text
    assert "owns the whole index" not in text


def test_without_a_prefix_the_log_says_that_the_task_owns_the_index(
    vectorize: Vectorize, logged: Callable[[], str]
) -> None:
    vectorize.fill(["a"])
    reconcile(ids=["a"])
    assert f"owns the whole index {INDEX}" in logged()


@pytest.mark.parametrize("deferrable", [False, True])
def test_everything_of_a_tenant_can_be_deleted(vectorize: Vectorize, deferrable: bool) -> None:
    vectorize.fill(["t1/a", "t1/b", "t2/a"])
    # The fraction does not limit it.
    xcoms = pushed(ids=[], id_prefix="t1/", allow_empty=True, max_delete_fraction=0.1, deferrable=deferrable)
    assert vectorize.ids() == {"t2/a"}
    assert (xcoms["report"]["desired"], xcoms["report"]["deleted"]) == (0, 2)


# --- lookalike ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("doc-1 \ndoc-2\t\n\u00a0doc-3\n", "'doc-1' and the desired 'doc-1 '; 'doc-2' and"),
        ("caf\u00e9\n", r"'cafe\u0301' and the desired 'caf\xe9'"),
        ("doc-1\n\ufeffdoc-2\n", r"'doc-2' and the desired '\ufeffdoc-2'"),
        ("doc-1\0\n", r"'doc-1' and the desired 'doc-1\x00'"),
        ("doc-2\ndoc-10\ndoc-1", "'doc-11' and the desired 'doc-1'"),
        ("\ufeff \0doc-\u00e9", r"'doc-e\u0301' and the desired ' \x00doc-\xe9'"),
    ],
    ids=["white space", "normalization", "byte order mark", "nul", "cut", "all"],
)
def test_a_damaged_file_deletes_nothing(vectorize: Vectorize, tmp_path: Path, text: str, shown: str) -> None:
    ids = {"doc-2", "doc-3", "doc-10", "doc-11", "cafe\u0301", "doc-e\u0301"}
    if not text.endswith("doc-1"):
        ids.add("doc-1")
    vectorize.fill(ids)
    (tmp_path / "ids.txt").write_text(text)
    report = report_of_failure(
        VectorizeInputError, "look like missing ones", ids_path=str(tmp_path / "ids.txt")
    )
    assert shown in report["refused"]
    assert "set allow_lookalikes=True" in report["refused"]
    assert (vectorize.ids(), report["deleted"]) == (ids, 0)


def test_lookalike_ids_are_deleted_with_allow_lookalikes(vectorize: Vectorize) -> None:
    vectorize.fill(["doc-1", "doc-2"])
    pushed(ids=["doc-1 ", "doc-2"], allow_lookalikes=True)
    assert vectorize.ids() == {"doc-2"}


def test_ids_are_deleted_if_their_lookalike_exists(vectorize: Vectorize) -> None:
    # 'doc-1 ' looks like the desired 'doc-1', but the index holds both; and a list has no truncated lines.
    vectorize.fill(["doc-1", "doc-1 ", "doc-20"])
    pushed(ids=["doc-1", "doc-2"])
    assert vectorize.ids() == {"doc-1"}


@pytest.mark.parametrize(("prefix", "warned"), [("tenant-1", True), ("tenant-1/", False)])
def test_a_prefix_without_a_delimiter_causes_a_warning(
    vectorize: Vectorize, logged: Callable[[], str], prefix: str, warned: bool
) -> None:
    vectorize.fill(["tenant-1/a"])
    reconcile(ids=["tenant-1/a"], id_prefix=prefix)
    assert ("that begin with 'tenant-10'. End it with a delimiter, as in 'tenant-1/'" in logged()) == warned


# --- guards -------------------------------------------------------------------------------------------------


def test_a_delete_over_the_fraction_is_refused(vectorize: Vectorize, tmp_path: Path) -> None:
    ids = [f"v{i}" for i in range(100)]
    vectorize.fill(ids)
    path = tmp_path / "surplus.txt"
    report = report_of_failure(
        VectorizeInputError,
        r"index 'docs': 21 of 100 ids \(21 %\) would be deleted, which is more than max_delete_fraction=0.2 "
        r"allows: nothing was deleted. Check them with dry_run=True, .* raise max_delete_fraction",
        ids=ids[21:],
        max_delete_fraction=0.2,
        surplus_path=str(path),
    )
    assert report["refused"].startswith("21 of 100 ids")
    assert (report["surplus"], report["deleted"], report["surplus_path"]) == (21, 0, None)
    assert not path.exists()
    assert vectorize.server.stats()["delete_by_ids"] == 0
    assert len(vectorize.ids()) == 100
    reconcile(ids=ids[20:], max_delete_fraction=0.2)
    assert vectorize.ids() == set(ids[20:])


def test_the_fraction_counts_only_ids_in_scope(vectorize: Vectorize) -> None:
    vectorize.fill(["a1", "a2", *[f"b{i}" for i in range(98)]])
    report_of_failure(VectorizeInputError, "1 of 2 ids", ids=["a1"], id_prefix="a", max_delete_fraction=0.2)


def test_the_default_fraction_is_a_fifth(vectorize: Vectorize) -> None:
    vectorize.fill("abcde")
    operator = ReconcileVectorsOperator(task_id="t", index_name=INDEX, ids=["a", "b", "c"])
    with pytest.raises(VectorizeInputError, match=r"2 of 5 ids .* max_delete_fraction=0.2"):
        operator.execute(make_context())
    assert operator.wait_for_completion


@pytest.mark.parametrize("how", [[], "[]", "file"])
def test_an_empty_set_is_refused_before_the_listing(vectorize: Vectorize, tmp_path: Path, how: Any) -> None:
    vectorize.fill(["a"])
    vectorize.server.reset_stats()
    path = tmp_path / "ids.txt"
    path.write_text("\n\n")
    kwargs: dict[str, Any] = {"ids_path": str(path)} if how == "file" else {"ids": how}
    with pytest.raises(VectorizeInputError, match=r"no desired ids.*allow_empty=True"):
        reconcile(id_prefix="a", **kwargs)
    assert sum(vectorize.server.stats().values()) == 0


# --- two listings -------------------------------------------------------------------------------------------


@pytest.fixture
def between(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Replace the pause between two listings by a function call."""

    def between(act: Callable[[], None]) -> None:
        def pause(seconds: float, stopped: Callable[[], bool]) -> None:
            assert (seconds, stopped()) == (3600, False)
            act()

        monkeypatch.setattr(reconciliation, "pause", pause)

    return between


def test_ids_written_between_the_listings_are_kept(
    vectorize: Vectorize, between: Callable[[Callable[[], None]], None]
) -> None:
    vectorize.fill(["a", "b", "old", "gone"])

    def others() -> None:
        vectorize.delete(["gone", "a"])
        vectorize.fill(["late", "c"])

    between(others)
    xcoms = pushed(ids=["a", "b", "c"], confirm_after=3600)
    assert vectorize.ids() == {"b", "c", "late"}
    report = xcoms["report"]
    # The last listing: b, c, late, old.
    assert (report["listed"], report["surplus"], report["missing_ids"]) == (4, 1, ["a"])
    assert xcoms["receipt"]["count"] == 1
    assert vectorize.server.stats()["list_vectors"] - 1 == 2


def test_the_fraction_applies_to_the_confirmed_surplus(
    vectorize: Vectorize, between: Callable[[Callable[[], None]], None]
) -> None:
    vectorize.fill(["old", *[f"v{i}" for i in range(9)]])
    between(lambda: vectorize.wait_for(vectorize.delete([f"v{i}" for i in range(7)])["mutation_id"]))
    report = report_of_failure(
        VectorizeInputError,
        "1 of 3 ids",
        ids=[f"v{i}" for i in range(9)],
        max_delete_fraction=0.2,
        confirm_after=3600,
    )
    assert report["missing"] == 7
    assert vectorize.ids() == {"old", "v7", "v8"}


@pytest.mark.parametrize(
    ("kwargs", "refused"),
    [
        ({"ids": ["a", "b"]}, False),
        ({"ids": ["a", "b"], "dry_run": True}, False),
        ({"ids": ["a"], "max_delete_fraction": 0.2}, True),
    ],
)
def test_no_second_listing_if_it_cannot_change_anything(
    vectorize: Vectorize, kwargs: dict[str, Any], refused: bool
) -> None:
    vectorize.fill(["a", "b"])
    context = make_context()
    arguments = {"confirm_after": 3600, **kwargs}
    if refused:
        with pytest.raises(VectorizeInputError, match="1 of 2"):
            reconcile(context, **arguments)
    else:
        reconcile(context, **arguments)
    assert vectorize.server.stats()["list_vectors"] == 1


@pytest.mark.parametrize("confirm_after", [0, 0.01])
def test_a_real_pause_is_followed_by_a_second_listing(vectorize: Vectorize, confirm_after: float) -> None:
    vectorize.fill(["a", "b"])
    reconcile(ids=["a"], confirm_after=confirm_after)
    assert vectorize.server.stats()["list_vectors"] == 2
    assert vectorize.ids() == {"a"}


def test_an_expired_listing_starts_over(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    expire = iter([True, False])
    list_vectors = VectorizeClient.list_vectors

    def slowly(client: VectorizeClient, *args: Any, **kwargs: Any) -> Any:
        page = list_vectors(client, *args, **kwargs)
        if page["isTruncated"] and next(expire, False):
            clock.ahead += 1000
        return page

    with LocalVectorize(apply_delay=0, clock=clock, behaviour=Behaviour(cursor_lifetime=900)) as server:
        monkeypatch.setenv(CONN, server.connection)
        vectorize = Vectorize(server)
        ids = [f"v{i}" for i in range(1500)]
        vectorize.fill([*ids, "old"])
        server.reset_stats()
        monkeypatch.setattr(VectorizeClient, "list_vectors", slowly)
        xcoms = pushed(ids=ids, wait_for_completion=False)
        assert server.stats()["list_vectors"] == 4
        assert (xcoms["report"]["listed"], xcoms["receipt"]["count"]) == (1501, 1)
        expire = iter([True] * 4)
        with pytest.raises(VectorizeListingExpired, match="after 1000 of 150"):
            reconcile(ids=ids[1:])
        assert server.stats()["delete_by_ids"] == 1


# --- files --------------------------------------------------------------------------------------------------


def test_a_dry_run_writes_the_surplus_and_deletes_nothing(
    vectorize: Vectorize, logged: Callable[[], str]
) -> None:
    vectorize.fill(["a", "b", "line\nbreak"])
    vectorize.server.reset_stats()
    xcoms = pushed(ids=["a", "x"], dry_run=True, max_delete_fraction=0.2)
    report = xcoms["report"]
    path = Path(report["surplus_path"])
    try:
        assert ids_in(path) == ["b", "line\nbreak"]
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    finally:
        path.unlink()
    text = logged()
    assert str(path) in text
    assert "Without dry_run, the task would fail: 2 of 3 ids" in text
    assert report["refused"].startswith("2 of 3 ids")
    assert (report["dry_run"], report["surplus"], report["deleted"], report["missing"]) == (True, 2, 0, 1)
    receipt = xcoms["receipt"]
    assert (receipt["mutation_id"], receipt["dry_run"], receipt["would_delete"]) == (None, True, 2)
    assert (xcoms["return_value"], "evidence" in xcoms) == (None, False)
    stats = vectorize.server.stats()
    assert (stats["list_vectors"], stats["delete_by_ids"]) == (1, 0)
    assert sum(stats.values()) == 1


@pytest.mark.parametrize(
    ("kwargs", "refused"),
    [
        ({"ids": ["a", "b"]}, None),
        ({"ids": ["a"], "max_delete_fraction": 0.5}, None),
        ({"ids": []}, "there are no desired ids"),
        ({"ids": [], "allow_empty": True}, None),
    ],
)
def test_a_dry_run_reports_a_refusal(
    vectorize: Vectorize, tmp_path: Path, kwargs: dict[str, Any], refused: str | None
) -> None:
    vectorize.fill(["a", "b"])
    path = tmp_path / "surplus.jsonl"
    report = pushed(dry_run=True, surplus_path=str(path), **kwargs)["report"]
    assert report["surplus_path"] == str(path)
    assert ids_in(path) == sorted({"a", "b"} - set(kwargs["ids"]))
    assert (report["refused"] or "").startswith(refused or "")
    assert (report["refused"] is None) is (refused is None)
    assert vectorize.ids() == {"a", "b"}


def test_a_dry_run_lists_twice(
    vectorize: Vectorize, tmp_path: Path, between: Callable[[Callable[[], None]], None]
) -> None:
    vectorize.fill(["a", "b", "c"])
    between(lambda: vectorize.wait_for(vectorize.delete(["b"])["mutation_id"]))
    path = tmp_path / "surplus.txt"
    pushed(ids=["a"], dry_run=True, max_delete_fraction=0.1, surplus_path=str(path), confirm_after=3600)
    assert ids_in(path) == ["c"]


@pytest.mark.parametrize("url", ["{}", "file://{}"])
def test_files_list_deleted_and_missing_ids(
    vectorize: Vectorize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    old, missing = [f"old{i:03}" for i in range(120)], [f"new{i:03}" for i in range(120)]
    vectorize.fill(["a", *old])
    surplus_path, missing_path = tmp_path / "surplus.txt", tmp_path / "missing.ndjson"
    surplus_path.write_text("of an earlier run\n")
    seen: list[list[str]] = []
    send = VectorizeClient.delete_by_ids

    def look_first(client: VectorizeClient, *args: Any) -> Any:
        seen.append(ids_in(surplus_path))
        return send(client, *args)

    monkeypatch.setattr(VectorizeClient, "delete_by_ids", look_first)
    report = pushed(
        ids=["a", *missing], surplus_path=url.format(surplus_path), missing_path=url.format(missing_path)
    )["report"]
    # The file is complete before the first delete request.
    assert seen == [old, old]
    assert ids_in(missing_path) == missing
    assert json.loads(missing_path.read_text().splitlines()[0]) == {"id": "new000"}
    assert (report["missing"], report["missing_ids"]) == (120, missing[:100])
    assert report["surplus_path"] == url.format(surplus_path)
    assert report["missing_path"] == url.format(missing_path)
    assert vectorize.ids() == {"a"}


def test_files_in_object_storage_are_read_and_written(vectorize: Vectorize, object_storage: str) -> None:
    vectorize.fill(["a", "old"])
    store = fsspec.filesystem("memory")
    store.pipe("/bucket/ids.txt", b"a\nnew\n")
    url = f"{object_storage}/{{}}".format
    paths = {name: url(name.replace("_path", ".txt")) for name in ("surplus_path", "missing_path")}
    report = pushed(ids_path=url("ids.txt"), **paths)["report"]
    assert {name: report[name] for name in paths} == paths
    assert (store.cat("/bucket/surplus.txt"), store.cat("/bucket/missing.txt")) == (b"old\n", b"new\n")
    assert vectorize.ids() == {"a"}


def test_empty_files_are_written(vectorize: Vectorize, tmp_path: Path) -> None:
    vectorize.fill(["a"])
    paths = {"surplus_path": str(tmp_path / "surplus.txt"), "missing_path": str(tmp_path / "missing.txt")}
    (tmp_path / "surplus.txt").write_text("of an earlier run\n")
    pushed(ids=["a"], **paths)
    assert [Path(path).read_bytes() for path in paths.values()] == [b"", b""]


@pytest.mark.parametrize("dry_run", [False, True])
def test_an_id_with_a_line_break_is_an_error(vectorize: Vectorize, tmp_path: Path, dry_run: bool) -> None:
    vectorize.fill(["a", "b\nc"])
    path = tmp_path / "surplus.txt"
    with pytest.raises(VectorizeInputError, match=r"'b\\nc' has a line break.*\.ndjson"):
        reconcile(ids=["a"], surplus_path=str(path), dry_run=dry_run)
    assert list(tmp_path.iterdir()) == []
    assert vectorize.ids() == {"a", "b\nc"}


def test_nothing_is_deleted_if_a_file_cannot_be_written(vectorize: Vectorize, tmp_path: Path) -> None:
    vectorize.fill(["a", "b"])
    for name in ("surplus_path", "missing_path"):
        with pytest.raises(VectorizeInputError, match=f"{name} .* cannot be written"):
            reconcile(ids=["a"], **{name: str(tmp_path / "none" / "file.txt")})
    assert vectorize.server.stats()["delete_by_ids"] == 0
