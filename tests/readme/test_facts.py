# SPDX-License-Identifier: Apache-2.0
"""Names, numbers, files and links in the documents are correct."""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import fields
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit
from xml.etree import ElementTree

import matrix
import pytest
from environments import ENVIRONMENTS, constraints_of

from airflow_provider_cfvectorize import connection, exceptions
from airflow_provider_cfvectorize.client import limits
from airflow_provider_cfvectorize.client.http import budget
from airflow_provider_cfvectorize.client.http.refusals import REFUSED_SECONDS, UNPROVEN_SECONDS
from airflow_provider_cfvectorize.client.http.session import RetryLimits
from airflow_provider_cfvectorize.client.http.transport import MAX_RESPONSE_BYTES, TOTAL_TIME_FACTOR
from airflow_provider_cfvectorize.client.mutations import decide as mutations
from airflow_provider_cfvectorize.client.mutations.receipts import MAX_WITNESSES
from airflow_provider_cfvectorize.local import Behaviour
from airflow_provider_cfvectorize.local.__main__ import build_parser
from airflow_provider_cfvectorize.local.faults import specs
from airflow_provider_cfvectorize.operators.vectors import DeleteVectorsByIdsOperator
from airflow_provider_cfvectorize.retry import LONGEST_DELAY
from airflow_provider_cfvectorize.sensors import mutation as sensor_module
from client.pacing_simulation import Limit, Simulation
from readme.markdown import ROOT, documents, read

PACKAGE = ROOT / "airflow_provider_cfvectorize"


def words(path: str) -> str:
    """Return a document's prose without line breaks."""
    return " ".join(read(path).text.split())


def code_spans(path: str) -> list[str]:
    return re.findall(r"`([^`]+)`", read(path).text)


# --- links --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", documents())
def test_links_have_targets(path: str) -> None:
    for link in read(path).links():
        parts = urlsplit(link)
        if parts.scheme:
            assert parts.scheme == "https", link
            continue
        target = ((ROOT / path).parent / parts.path).resolve() if parts.path else ROOT / path
        assert target.is_relative_to(ROOT), link
        assert target.exists(), link
        if parts.fragment:
            assert parts.fragment in read(str(target.relative_to(ROOT))).anchors, link


def test_every_picture_is_on_a_page() -> None:
    links = [link for path in documents() for link in read(path).links()]
    shown = {Path(link).name for link in links if link.endswith((".png", ".svg"))}
    assert {path.name for path in (ROOT / "docs" / "images").iterdir()} == shown


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs/images").glob("*.svg")), ids=lambda path: str(path.stem)
)
def test_drawings_are_accessible_and_self_contained(path: Path) -> None:
    root = ElementTree.parse(path).getroot()
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    # Text is text, for search and screen readers, and the drawing has its own colours.
    assert {"title", "desc", "text"} <= names
    assert not names & {"image", "foreignObject", "script"}
    assert "prefers-color-scheme: dark" in path.read_text()
    assert "//" not in path.read_text().replace("http://www.w3.org/2000/svg", "")


def test_the_tree_of_the_decision_has_every_rule() -> None:
    root = ElementTree.parse(ROOT / "docs/images/decision.svg").getroot()
    svg = "{http://www.w3.org/2000/svg}"
    texts = [element.text or "" for element in root.iter(f"{svg}text")]
    drawn = " ".join(texts)
    rules: list[int] = []
    # The picture has no numbers of rules: its description has them.
    for found in re.findall(r"rules? ([\d, to]*\d)", root.findtext(f"{svg}desc") or ""):
        for part in found.split(", "):
            first, _, last = part.partition(" to ")
            rules += range(int(first), int(last or first) + 1)
    document = read("docs/decision.md")
    rows = [row for heading in sorted(document.anchors) for row in document.rows(heading)]
    assert sorted(rules) == sorted(int(row[0]) for row in rows if row[0].isdigit())
    outcomes = {row[0].strip("`") for row in document.rows("what-each-outcome-proves")}
    assert all(outcome in drawn for outcome in outcomes)
    assert sum(bool(re.match(r"\d\. .*\?$", text)) for text in texts) == 5
    per_job = f"{mutations.INFERENCE_TIME_PER_JOB.total_seconds():g} s for each {limits.MUTATIONS_PER_JOB:,}"
    for number in (
        f"{mutations.INFERENCE_TIME.total_seconds():g} s ago, plus {per_job} batches",
        f"{limits.VECTORS_PER_JOB:,} vectors",
        f"more than {mutations.CLOCK_TOLERANCE.total_seconds():g} s before the acceptance",
        f"up to {mutations.CLOCK_TOLERANCE.total_seconds():g} s older",
        f"up to {MAX_WITNESSES} of the ids",
        f"for up to {mutations.VISIBILITY_PATIENCE.total_seconds():g} s",
        f"in the last {mutations.INFERENCE_TIME.total_seconds():g} s",
        f"nothing was applied for {mutations.INFERENCE_TIME.total_seconds():g} s",
    ):
        assert number in drawn, number


def test_the_decision_is_two_clicks_away() -> None:
    assert "docs/decision.md" in read("README.md").links()
    assert "../airflow_provider_cfvectorize/client/mutations/decide.py" in read("docs/decision.md").links()
    assert "`decide` in [client/mutations/decide.py]" in words("docs/decision.md")
    assert callable(mutations.decide)


# --- files and names ----------------------------------------------------------------------------------------


def test_contributing_lists_every_folder() -> None:
    folders = {f"{path.parent.relative_to(PACKAGE)}/" for path in PACKAGE.rglob("*.py")} - {"./"}
    rows = {row[0].strip("`") for row in read("CONTRIBUTING.md").rows("source-tree")}
    assert rows == folders | {f"{PACKAGE.name}/"}


@pytest.mark.parametrize("path", documents())
def test_named_errors_exist(path: str) -> None:
    for name in code_spans(path):
        if re.fullmatch(r"Vectorize\w*(Error|Timeout|Interrupted)", name):
            assert hasattr(exceptions, name) or hasattr(sensor_module, name), name


@pytest.mark.parametrize("path", documents())
def test_named_make_targets_exist(path: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for span in code_spans(path):
        if match := re.fullmatch(r"make ([\w-]+)", span):
            assert re.search(rf"^{match[1]}:", makefile, re.MULTILINE), span


def test_the_documented_versions_are_tested() -> None:
    rows = read("docs/versions.md").rows("tested-versions")
    documented = {(row[0], python) for row in rows for python in row[1].split(" and ")}
    assert documented == {
        (ENVIRONMENTS[f"airflow-{entry.airflow}"].airflow, entry.python or "3.11") for entry in matrix.ENTRIES
    }
    assert all("`make test-matrix`" in row[2] for row in rows)


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_each_environment_is_pinned(name: str) -> None:
    assert f"\napache-airflow=={ENVIRONMENTS[name].airflow}\n" in constraints_of(name).read_text()


def test_the_fields_of_the_connection() -> None:
    rows = read("docs/connection.md").rows("the-fields")
    names = [re.match(r"(extra )?`?(\w+)", row[0])[2] for row in rows]
    assert names == ["login", "password", "host", *connection.EXTRAS]
    text = " | ".join(" ".join(row) for row in rows)
    assert f"`{connection.PLACEHOLDERS['host']}`" in text
    assert f"Default: {connection.DEFAULT_TIMEOUT:g}." in text
    assert f"Default: {connection.DEFAULT_RATE_RESERVE:g}." in text
    for name in ("login", "host"):
        assert f"{name} ({connection.RELABELING[name]})" in text
    for page in ("README.md", "docs/connection.md"):
        assert f'type "{connection.HOOK_NAME}"' in words(page)
        assert f"`{connection.CONN_TYPE}`" in words(page)
        assert f"`{connection.DEFAULT_CONN_ID}`" in words(page)


# --- the local server ---------------------------------------------------------------------------------------


def test_the_options_of_the_local_server() -> None:
    rows = read("docs/local-server.md").rows("options")
    documented = {row[0].strip("`"): row[1].strip("`") for row in rows}
    options = {
        action.option_strings[0]: action.default
        for action in build_parser()._actions
        if action.dest != "help"
    }
    # The page describes the token's default; an empty list means no name.
    expected = {
        name: str(default) if default or default == 0 else "none" for name, default in options.items()
    }
    assert documented == {**expected, "--api-token": "fixed, printed at start"}


def test_the_switches_of_the_local_server() -> None:
    rows = read("docs/local-server.md").rows("switches")
    assert {row[0].strip("`"): row[1].strip("`") for row in rows} == {
        field.name: repr(field.default) for field in fields(Behaviour)
    }
    assert all(len(row[2]) > 20 for row in rows)
    assert f"The service has no code {Behaviour.unpublished_code}" in words("docs/local-server.md")


def test_the_faults_of_the_local_server() -> None:
    rows = read("docs/local-server.md").rows("faults")
    assert [row[0].strip("`") for row in rows] == list(specs.KINDS)
    for row in rows:
        value = specs.KINDS[row[0].strip("`")].value
        assert (row[2] == "none") == (value is None), row
        assert ("must be given" in row[2]) == (value is not None and value.required), row
    assert f"`{specs.FORM}`" in read("docs/local-server.md").text


# --- numbers ------------------------------------------------------------------------------------------------


def test_the_numbers_of_the_cases() -> None:
    text = words("docs/cases.md")
    policy = RetryLimits()
    assert policy.backoff_total == 2 * 60
    for phrase in (
        f"more than {limits.MAX_DELETE_IDS} ids",
        f"batches of {limits.MAX_DELETE_IDS},",
        f"longer than {limits.MAX_ID_BYTES} bytes of UTF-8",
        "for up to two minutes",
        f"for up to {policy.throttle_total / 60:g} minutes",
        f"the delete is {mutations.INFERENCE_TIME.total_seconds():g} seconds old",
    ):
        assert phrase in text, phrase
    assert f"1 to {limits.MAX_ID_BYTES} bytes of UTF-8" in words("docs/ids.md")
    assert f"{budget.MAX_REQUESTS_PER_SECOND} requests a second" in words("docs/design.md")


def test_the_numbers_of_the_other_documents() -> None:
    assert limits.MUTATIONS_PER_JOB == 1000
    decision = words("docs/decision.md")
    for phrase in (
        f"up to {MAX_WITNESSES} **witnesses**",
        f"about {limits.MAX_GET_IDS} ids of each of up to three batches",
        f"more than {mutations.CLOCK_TOLERANCE.total_seconds():g} s before",
        f"less than {mutations.VISIBILITY_PATIENCE.total_seconds():g} s ago",
        f"accepted {mutations.INFERENCE_TIME.total_seconds():g} s ago",
        f"{mutations.INFERENCE_TIME_PER_JOB.total_seconds():g} s for each 1,000 batches",
        f"younger than {mutations.YOUNG.total_seconds():g} s",
    ):
        assert phrase in decision, phrase
    server = words("docs/local-server.md")
    for phrase in (
        f"{limits.MUTATIONS_PER_JOB:,} mutations or {limits.VECTORS_PER_JOB:,} vectors",
        f"| Ids in a delete | {limits.MAX_DELETE_IDS} |",
        f"| Ids in a read | {limits.MAX_GET_IDS} |",
        f"| Length of an id | {limits.MAX_ID_BYTES} bytes |",
        f"| Upload | {limits.MAX_UPSERT_VECTORS:,} vectors, {limits.MAX_UPLOAD_BYTES // 10**6} MB |",
        f"| Dimensions of an index | {limits.MIN_DIMENSIONS} to {limits.MAX_DIMENSIONS:,} |",
        f"| Metadata of a vector | {limits.MAX_METADATA_BYTES:,} bytes |",
        f"| Metadata indexes of an index | {limits.MAX_METADATA_INDEXES} |",
        f"| {limits.MAX_TOP_K}; {limits.MAX_TOP_K_WITH_DATA} with values or all metadata |",
        f"the first {limits.MAX_INDEXED_BYTES} bytes of a string",
    ):
        assert phrase in server, phrase
    security = words("SECURITY.md")
    assert TOTAL_TIME_FACTOR == 3
    assert f"{MAX_RESPONSE_BYTES // 2**20} MiB, and three times the connection's `timeout`" in security


def test_the_numbers_of_the_retries() -> None:
    text = words("docs/retries.md")
    policy = RetryLimits()
    parameters = inspect.signature(DeleteVectorsByIdsOperator).parameters
    concurrency = parameters["concurrency"].default
    requests = limits.ACCOUNT_REQUESTS * (1 - connection.DEFAULT_RATE_RESERVE)
    per_second = requests / limits.ACCOUNT_WINDOW_SECONDS
    assert (connection.DEFAULT_RATE_RESERVE, policy.backoff_total) == (1 / 5, 2 * 60)
    assert timedelta(days=1) == LONGEST_DELAY
    assert (REFUSED_SECONDS, UNPROVEN_SECONDS) == (3 * 60, 5)
    for phrase in (
        "| Three minutes. |",
        "| Five seconds. ",
        f"| {policy.throttle_total / 60:g} minutes of waiting |",
        f"Add {policy.throttle_total / 60:g} minutes for throttles",
        f"{limits.ACCOUNT_REQUESTS:,} requests in {limits.ACCOUNT_WINDOW_SECONDS} s",
        f"leaves {requests:g}, or {per_second:.1f} a second",
        f"{limits.MAX_DELETE_IDS} ids per request are {limits.MAX_DELETE_IDS * per_second:.0f} ids a second",
        f"A million ids take {1_000_000 / limits.MAX_DELETE_IDS:,.0f} requests",
        f"{1_000_000 / limits.MAX_DELETE_IDS / per_second / 60:.0f} minutes",
        f"`concurrency` requests in flight, {concurrency} unless",
        f"At 0.25 s per request, it could send {concurrency / 0.25:g} a second",
        f"if a request takes up to {concurrency / per_second:.2f} s",
        f"With 2 tasks sharing {per_second:.1f} requests a second, 10,000 ids take "
        f"{math.ceil(10_000 / limits.MAX_DELETE_IDS / (per_second / 2)):g} s",
    ):
        assert phrase in text, phrase


def test_the_numbers_of_deleting_at_scale() -> None:
    documented = {row[0]: row[1:] for row in read("docs/deleting-at-scale.md").rows("the-speed-limit")}
    per_second = (
        limits.ACCOUNT_REQUESTS * (1 - connection.DEFAULT_RATE_RESERVE) / limits.ACCOUNT_WINDOW_SECONDS
    )
    for ids, seconds, shown in (
        ("10,000", 4, "4 seconds"),
        ("50,000", 20, "20 seconds"),
        ("70,000", 97, "97 seconds"),
        ("100,000", 5 * 60, "5 minutes"),
        ("1,000,000", 50 * 60, "50 minutes"),
        ("10,000,000", 9 * 3600, "9 hours"),
    ):
        requests = int(ids.replace(",", "")) // limits.MAX_DELETE_IDS
        assert documented.pop(ids) == [f"{requests:,}", shown]
        # The rate alone gives the longest time.
        takes = simulated_seconds(requests) if requests <= 10_000 else requests / per_second
        assert takes == pytest.approx(seconds, rel=0.05)
    assert not documented
    assert f"{per_second * limits.MAX_DELETE_IDS:.0f} ids per second" in words("docs/deleting-at-scale.md")


def test_the_simulated_jobs() -> None:
    for requests, ids, seconds in read("docs/performance.md").rows("simulated-jobs"):
        count = int(requests.replace(",", ""))
        assert f"{count * limits.MAX_DELETE_IDS:,}" == ids
        assert f"{simulated_seconds(count):.0f}" == seconds


def simulated_seconds(requests: int) -> float:
    """Return the duration of a job in a fresh window without other clients."""
    limit = Limit("fixed", limits.ACCOUNT_REQUESTS, limits.ACCOUNT_WINDOW_SECONDS, phase=0)
    simulation = Simulation(limit, latency=0.25, seed=0)
    simulation.add_process(
        reserve=connection.DEFAULT_RATE_RESERVE, concurrency=4, begins=0, requests=requests
    )
    simulation.run(4000)
    (seconds,) = simulation.ended
    return seconds


def test_the_table_of_the_retry_policy() -> None:
    table = read("docs/retries.md").rows("the-retry-policy")
    rows = {name: row[1] for row in table for name in row[0].split(", ")}
    assert rows.pop("anything else") == "It is retried after `retry_delay`, as without a policy."
    for name, error in vars(exceptions).items():
        if not isinstance(error, type) or not issubclass(error, exceptions.VectorizeError):
            continue
        said = rows.pop(f"`{name}`", "")
        assert exceptions.is_permanent(error("why"), "retry") is said.startswith("It fails immediately"), name
        if issubclass(error, exceptions.VectorizeBatchError):
            after_a_part = exceptions.is_permanent(error("why", acknowledged=1), "retry")
            assert after_a_part is (said == "It fails immediately."), name
        if issubclass(error, exceptions.VectorizeThrottledError):
            assert said.startswith("It is retried after the time that the service requires"), name
    assert not rows


def test_the_readme_stays_short() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
