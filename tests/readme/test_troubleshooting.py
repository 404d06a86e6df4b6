# SPDX-License-Identifier: Apache-2.0
"""docs/troubleshooting.md shows messages that users see; real calls produce each of them here."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from airflow.providers.common.compat.sdk import DAG

from airflow_provider_cfvectorize import exceptions
from airflow_provider_cfvectorize.client.http import responses
from airflow_provider_cfvectorize.client.http.refusals import CredentialHistory
from airflow_provider_cfvectorize.client.http.responses import RawResponse
from airflow_provider_cfvectorize.exceptions import (
    VectorizeError,
    VectorizeResponseError,
    VectorizeThrottledError,
)
from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.operators.vectors import (
    DeleteVectorsByFilterOperator,
    DeleteVectorsByIdsOperator,
    ListVectorsOperator,
    ReconcileVectorsOperator,
    UpsertVectorsOperator,
)
from airflow_provider_cfvectorize.sensors.mutation import VectorizeMutationSensor, VectorizeMutationTimeout
from airflow_provider_cfvectorize.triggers.events import read_event
from client.servers import Reply, Request, ScriptedServer, ok, refused
from harness import DIMENSIONS, INDEX, Vectorize, make_context, run_task
from readme.markdown import read
from readme.messages import messages, rows_for
from readme.test_connection_page import closed_port, silent, with_tls

CONN = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"
PAGE = read("docs/troubleshooting.md")
AIRFLOW = "in-airflow"
TOKEN = "another-token-0123456789abcdef0123456789"
VECTOR: dict[str, Any] = {"id": "a", "values": [0.5] * DIMENSIONS}


class Bench:
    """A local server as the default connection, and the calls that the cases make."""

    def __init__(self, server: LocalVectorize, stack: ExitStack, env: pytest.MonkeyPatch, at: Path) -> None:
        self.server, self.stack, self.env, self.directory = server, stack, env, at

    def connect(self, **change: Any) -> None:
        self.env.setenv(CONN, json.dumps({**json.loads(self.server.connection), **change}))

    def answers(self, *replies: Reply | str) -> None:
        self.script(lambda: ScriptedServer(list(replies)))

    def script(self, start: Callable[[], ScriptedServer]) -> None:
        server = start()
        self.stack.callback(server.close)
        self.connect(host=server.base_url)

    def serve(self, **kwargs: Any) -> Vectorize:
        self.server = self.stack.enter_context(LocalVectorize(**{"apply_delay": 0.02, **kwargs}))
        self.connect()
        return Vectorize(self.server)

    def ask(self, **change: Any) -> None:
        """Send a request without retries."""
        if change:
            self.connect(**change)
        CloudflareVectorizeHook().get_watching_conn().list_indexes()

    def delete(self, **kwargs: Any) -> Any:
        kwargs = {"task_id": "t", "index_name": INDEX, "poll_interval": 0.05, "wait_timeout": 0, **kwargs}
        return run_task(lambda: DeleteVectorsByIdsOperator(**kwargs), make_context())

    def write_in_namespace(self) -> Callable[[], None]:
        vectorize = Vectorize(self.server)

        def write() -> None:
            mutation = vectorize.client.upsert(INDEX, [{**VECTOR, "namespace": "n"}])
            vectorize.wait_for(mutation["mutationId"])

        write()
        return write

    def delete_by_filter(self, **kwargs: Any) -> Any:
        self.write_in_namespace()
        return CloudflareVectorizeHook().delete_by_filter(INDEX, max_ids=0, **kwargs)

    def sense(self, **kwargs: Any) -> Any:
        kwargs = {"task_id": "t", "index_name": INDEX, "poke_interval": 0.05, "timeout": 0, **kwargs}
        return run_task(lambda: VectorizeMutationSensor(**kwargs), make_context())


@pytest.fixture
def bench(
    server: LocalVectorize, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, impatient_refusals: None
) -> Iterator[Bench]:
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with ExitStack() as stack:
        yield Bench(server, stack, monkeypatch, tmp_path)


# --- cases of more than a line ------------------------------------------------------------------------------


def may_only_read(bench: Bench) -> None:
    bench.serve(read_only_token=TOKEN)
    bench.connect(password=TOKEN)
    bench.delete(ids=["a", "b"])


def revoked_since(bench: Bench) -> None:
    bench.answers(refused(403, 10000))
    hook = CloudflareVectorizeHook()
    hook.history = CredentialHistory(accepted=True, accepted_to_write=True, refused_since=-1e6)
    hook.list_indexes()


def challenged(bench: Bench) -> None:
    bench.answers(Reply(403, b"<html>Just a moment"))
    bench.ask()


def through_a_closed_proxy(bench: Bench) -> None:
    bench.env.setenv("https_proxy", f"http://127.0.0.1:{closed_port()}")
    bench.ask(host="https://vectorize.invalid/client/v4")


def with_no_certificates(bench: Bench) -> None:
    bench.env.setenv("REQUESTS_CA_BUNDLE", "/no/such/bundle.pem")
    bench.ask(host="https://vectorize.invalid/client/v4")


def with_half_a_proxy(bench: Bench) -> None:
    bench.env.setenv("https_proxy", "http://someone:secret@")
    bench.ask(host="https://vectorize.invalid/client/v4")


def no_budget_left(bench: Bench) -> None:
    bench.answers(refused(429, 971, Retry_After="3000"))
    hook = CloudflareVectorizeHook()
    with pytest.raises(VectorizeThrottledError):
        hook.list_indexes()
    hook.list_indexes()


def a_file_that_changes(bench: Bench) -> None:
    Vectorize(bench.server)
    path = bench.directory / "ids.txt"
    path.write_text("a\nb\n")

    class Changing(DeleteVectorsByIdsOperator):
        def _read_ids(self) -> Any:
            ids = super()._read_ids()
            path.write_text("a\nc\nd\n")
            return ids

    run_task(lambda: Changing(task_id="t", index_name=INDEX, ids_path=str(path)), make_context())


def nothing_exists(bench: Bench) -> None:
    Vectorize(bench.server)
    bench.delete(ids=["a"], fail_if_none_exist=True)


def nothing_desired(bench: Bench) -> None:
    Vectorize(bench.server).fill(["a"])
    kwargs: dict[str, Any] = {"task_id": "t", "index_name": INDEX, "ids": [], "confirm_after": None}
    run_task(lambda: ReconcileVectorsOperator(**kwargs), make_context())


def desired_with_a_space(bench: Bench) -> None:
    Vectorize(bench.server).fill(["a"])
    run_task(
        lambda: ReconcileVectorsOperator(task_id="t", index_name=INDEX, ids=["a "], max_delete_fraction=1),
        make_context(),
    )


def mapped_over_ids(bench: Bench) -> None:
    context = make_context()
    context["ti"].map_index = 0
    with DAG("mapped"):
        operator = ReconcileVectorsOperator(task_id="t", index_name=INDEX, ids=["a"])
    operator.execute(context)


def written_again_and_again(bench: Bench) -> None:
    write = bench.write_in_namespace()

    class Overwritten(DeleteVectorsByFilterOperator):
        def report(self, evidence: Any) -> None:
            write()

    kwargs: dict[str, Any] = {"task_id": "t", "index_name": INDEX, "poll_interval": 0.02}
    run_task(lambda: Overwritten(namespace="n", max_ids=1, **kwargs), make_context())


def a_bad_vector_is_refused(bench: Bench) -> None:
    Vectorize(bench.server)
    CloudflareVectorizeHook().upsert(INDEX, [{"id": "a", "values": [0.5]}])


def interrupted(bench: Bench) -> None:
    Vectorize(bench.server)
    made: list[Any] = []

    def make() -> Any:
        made.append(DeleteVectorsByIdsOperator(task_id="t", index_name=INDEX, ids=["a"], verify="none"))
        made[-1].on_kill()
        return made[-1]

    run_task(make, make_context())


def a_listing_that_expires(bench: Bench) -> None:
    page = {
        "count": 1,
        "totalCount": 2,
        "isTruncated": True,
        "nextCursor": "next",
        "vectors": [{"id": "a"}],
    }

    def answer(request: Request) -> Reply:
        return refused(400, 40000, "no such cursor") if "cursor=" in request.path else ok(page)

    bench.script(lambda: ScriptedServer(answer))
    run_task(lambda: ListVectorsOperator(task_id="t", index_name=INDEX), make_context())


def a_bare_id_that_is_overtaken(bench: Bench) -> None:
    vectorize = Vectorize(bench.server)
    vectorize.fill(["a"])
    mutation_id = vectorize.delete(["a"])["mutation_id"]
    vectorize.settle()
    bench.sense(mutation_id=mutation_id)


def too_early(bench: Bench) -> None:
    bench.serve(apply_delay=3600)
    bench.delete(ids=["a"], wait_for_completion=True)


def the_sensor_is_too_early(bench: Bench) -> None:
    bench.sense(receipt=bench.serve(apply_delay=3600).delete(["a"]))


def the_execution_timeout_is_shorter(bench: Bench) -> None:
    receipt = bench.serve(apply_delay=3600).delete(["a"])
    bench.sense(receipt=receipt, deferrable=True, timeout=5, execution_timeout=timedelta(seconds=0.1))


def accepted_by_an_earlier_index(bench: Bench) -> None:
    receipt = bench.serve(apply_delay=3600).delete(["a"])
    bench.sense(receipt={**receipt, "accepted_at": "2026-01-01T00:00:00Z"})


def a_view_that_lags(bench: Bench) -> None:
    vectorize = bench.serve()
    vectorize.fill(["a"])
    bench.server.set_faults(["lagging-view:get_by_ids=3600"])
    receipt = vectorize.delete(["a"])
    vectorize.wait_for(receipt["mutation_id"])
    bench.sense(receipt=receipt, require_absent=True)


def written_otherwise(bench: Bench) -> None:
    vectorize = Vectorize(bench.server)
    context = make_context()
    kwargs: dict[str, Any] = {"task_id": "t", "index_name": INDEX, "vectors": [VECTOR]}
    mutation_id = run_task(lambda: UpsertVectorsOperator(**kwargs), context)
    vectorize.wait_for(mutation_id)
    vectorize.client.upsert(INDEX, [{"id": "a", "values": [0.25, *VECTOR["values"][1:]]}])
    vectorize.settle()
    bench.sense(receipt=context["ti"].pushed["receipt"], require_equal=True)


def of_another(**change: Any) -> Callable[[Bench], None]:
    def case(bench: Bench) -> None:
        bench.sense(receipt={**Vectorize(bench.server).delete(["a"]), **change})

    return case


def raw(path: str, **kwargs: Any) -> Callable[[Bench], Any]:
    def case(bench: Bench) -> Any:
        Vectorize(bench.server)
        return CloudflareVectorizeHook().request("POST", path, **kwargs)

    return case


#: By the beginning of a message: its error and the call that causes it.
CASES: list[tuple[str, str, Callable[[Bench], Any]]] = [
    ("GET ...: HTTP ..., code ...: .... Check", "VectorizeAuthError", lambda b: b.ask(password=TOKEN)),
    ("... The service has accepted these credentials", "VectorizeAuthError", revoked_since),
    ("GET ...: HTTP 403 with a body", "VectorizeResponseError", challenged),
    ("... ids are acknowledged, ... failed with code 10000", "VectorizeBatchAuthError", may_only_read),
    (
        "GET ...: no response",
        "VectorizeTransportError",
        lambda b: b.ask(host=f"http://127.0.0.1:{closed_port()}"),
    ),
    (
        "GET ...: no complete response",
        "VectorizeTransportError",
        lambda b: b.ask(host=silent(b.stack), extra={"timeout": 0.1}),
    ),
    ("GET ...: no trusted TLS", "VectorizeTransportError", lambda b: b.ask(host=with_tls(b.stack))),
    ("connection ...: no CA certificates", "VectorizeFileError", with_no_certificates),
    ("connection ...: the environment's proxy", "VectorizeInputError", with_half_a_proxy),
    ("GET ...: the proxy", "VectorizeTransportError", through_a_closed_proxy),
    (
        "GET ...: HTTP ..., a redirect",
        "VectorizeResponseError",
        lambda b: (b.answers(Reply(302, b"", {"Location": "/login"})), b.ask()),
    ),
    (
        "GET ...: HTTP ... with a body",
        "VectorizeResponseError",
        lambda b: (b.answers(Reply(504, b"<html>")), b.ask()),
    ),
    (
        "GET ...: HTTP ..., code ...: the account's",
        "VectorizeThrottledError",
        lambda b: (b.answers(refused(429, 971)), b.ask()),
    ),
    ("GET ...: not sent", "VectorizeThrottledError", no_budget_left),
    ("ids is the string 'None'", "VectorizeInputError", lambda b: b.delete(ids="None")),
    ("ids is None", "VectorizeInputError", lambda b: b.delete(ids=None)),
    ("ids is the string ..., which has a comma", "VectorizeInputError", lambda b: b.delete(ids="a,b")),
    ("ids: the string ... begins like a list", "VectorizeInputError", lambda b: b.delete(ids="['a'")),
    ("ids is 31", "VectorizeInputError", lambda b: b.delete(ids=0x1F)),
    ("ids is a ", "VectorizeInputError", lambda b: b.delete(ids={"a"})),
    ("ids[...]: ...", "VectorizeInputError", lambda b: b.delete(ids=["a", 1.5])),
    ("ids: rows and plain ids are mixed", "VectorizeInputError", lambda b: b.delete(ids=["a", ["b"]])),
    ("there are ... ids and max_ids", "VectorizeInputError", lambda b: b.delete(ids=["a", "b"], max_ids=1)),
    ("fail_if_none_exist", "VectorizeInputError", nothing_exists),
    ("both ids and ids_path", "VectorizeInputError", lambda b: b.delete(ids=["a"], ids_path="ids.txt")),
    (
        "ids_path ... cannot be read: No such file",
        "VectorizeFileError",
        lambda b: b.delete(ids_path=str(b.directory / "ids.txt")),
    ),
    (
        "ids_path ... cannot be read: ...",
        "VectorizeFileError",
        lambda b: b.delete(ids_path="nostore://bucket/ids.txt"),
    ),
    ("ids_path ... changed", "VectorizeFileError", a_file_that_changes),
    ("invalid index name ...", "VectorizeInputError", lambda b: b.delete(ids=["a"], index_name="")),
    (
        "account_id is empty",
        "VectorizeInputError",
        lambda b: CloudflareVectorizeHook(account_id="").get_conn(),
    ),
    ("max_ids is", "VectorizeInputError", lambda b: b.delete(ids=["a"], max_ids="many")),
    ("dry_run is", "VectorizeInputError", lambda b: b.delete(ids=["a"], dry_run="False")),
    (
        "vectors: at position",
        "VectorizeInputError",
        lambda b: CloudflareVectorizeHook().upsert("docs", [{"values": [0.5]}]),  # type: ignore[list-item]
    ),
    ("index ...: there are no desired ids", "VectorizeInputError", nothing_desired),
    ("index ...: ... of ... ids that would be deleted look", "VectorizeInputError", desired_with_a_space),
    ("neither filter nor namespace", "VectorizeInputError", lambda b: b.delete_by_filter()),
    ("filter: index ... has no", "VectorizeInputError", lambda b: b.delete_by_filter(filter={"a": 1})),
    ("index ...: ... found so far", "VectorizeInputError", lambda b: b.delete_by_filter(namespace="n")),
    ("this mapped task has no id_prefix", "VectorizeInputError", mapped_over_ids),
    (
        "... of ... ids are acknowledged",
        "VectorizeBatchNotFoundError",
        lambda b: b.delete(ids=["a", "b"], verify="none"),
    ),
    ("... vectors in ... are acknowledged", "VectorizeBatchError", a_bad_vector_is_refused),
    ("interrupted", "VectorizeInterrupted", interrupted),
    ("the listing of index", "VectorizeListingExpired", a_listing_that_expires),
    (
        "not observed as applied in index ... within ... s: mutation ...: inconclusive",
        "VectorizeMutationTimeout",
        a_bare_id_that_is_overtaken,
    ),
    (
        "not observed as applied in index ... within ... s: mutation ..., accepted",
        "VectorizeWaitTimeout",
        too_early,
    ),
    (
        "not observed as applied in index ... within ... s: mutation ..., accepted",
        "VectorizeMutationTimeout",
        the_sensor_is_too_early,
    ),
    ("the task's execution_timeout", "VectorizeWaitTimeout", the_execution_timeout_is_shorter),
    ("index ... was created again", "VectorizeIndexRecreatedError", accepted_by_an_earlier_index),
    ("mutation ... is applied", "VectorizeStillVisibleError", a_view_that_lags),
    ("index ...: 2 rounds in a row", "VectorizeStillVisibleError", written_again_and_again),
    ("mutation ... counts as applied", "VectorizeDiffersError", written_otherwise),
    ("the receipt of mutation ... belongs to index", "VectorizeInputError", of_another(index_name="other")),
    (
        "the receipt of mutation ... belongs to account",
        "VectorizeInputError",
        of_another(account_id="f" * 32),
    ),
    ("mutation_id is", "VectorizeInputError", lambda b: b.sense(mutation_id="None")),
    ("never_fail is True", "VectorizeInputError", lambda b: b.sense(never_fail=True)),
    ("mutation_id is ..., expected a task", "VectorizeInputError", lambda b: b.sense(mutation_id=5)),
    ("unknown event from the trigger", "VectorizeError", lambda b: read_event({"status": "done"})),
    (
        "POST ...: HTTP 400, code 40007",
        "VectorizeResponseError",
        raw("indexes/docs/delete_by_ids", json={"ids": [str(i) for i in range(101)]}),
    ),
]


@pytest.mark.parametrize(("beginning", "kind", "case"), CASES, ids=[case[0] for case in CASES])
def test_a_documented_message(bench: Bench, beginning: str, kind: str, case: Callable[[Bench], Any]) -> None:
    bench.connect()
    with pytest.raises(VectorizeError) as e:
        case(bench)
    said = str(e.value)
    shown = [*messages(PAGE), "POST ...: HTTP 400, code 40007: ..."]
    found = rows_for(said, shown)
    assert type(e.value).__name__ == kind, said
    assert any(row.startswith(beginning) for row in found), (said, found)


def test_every_row_has_a_case() -> None:
    assert "`POST ...: HTTP 400, code 40007: ...`" in PAGE.text
    of_airflow = {row[0].strip("`") for row in PAGE.rows(AIRFLOW)}
    for shown in messages(PAGE):
        if shown not in of_airflow:
            assert any(shown.startswith(beginning) for beginning, *_ in CASES), shown


def test_every_class_of_error_is_listed() -> None:
    classes = {
        name
        for name, kind in vars(exceptions).items()
        if isinstance(kind, type) and issubclass(kind, VectorizeError) and kind is not VectorizeError
    }
    rows = [row[0].strip("`") for row in PAGE.rows("classes-of-errors")]
    assert sorted(rows) == sorted({*classes, VectorizeMutationTimeout.__name__})


# --- codes --------------------------------------------------------------------------------------------------


def test_every_known_code_is_listed() -> None:
    documented = {int(code) for row in PAGE.rows("codes-of-the-service") for code in row[0].split(", ")}
    known = {responses.THROTTLE_CODE, *responses.AUTH_CODES, *responses.NOT_FOUND_CODES, *responses._ADVICE}
    assert documented == known


@pytest.mark.parametrize("code", sorted({*responses.AUTH_CODES, *responses._ADVICE}))
def test_an_error_has_the_code_and_advice(code: int) -> None:
    body = json.dumps({"success": False, "errors": [{"code": code, "message": "why"}]}).encode()
    with pytest.raises(VectorizeResponseError, match=rf"^POST /x: HTTP 400, code {code}: 'why'\. [A-Za-z_]"):
        responses.read_answer(RawResponse(400, {}, body), what="POST /x")


# --- messages of Airflow ------------------------------------------------------------------------------------


def test_airflows_message_about_an_unknown_hook_type() -> None:
    from airflow.models import Connection

    with pytest.raises(Exception, match=r"^Unknown hook type \"cloudflare_vectorise\"$"):
        Connection(conn_id="c", conn_type="cloudflare_vectorise").get_hook()
    assert '`Unknown hook type "cloudflare_vectorize"`' in PAGE.text


def test_airflows_message_if_connection_tests_are_disabled() -> None:
    from airflow.cli.commands import connection_command

    assert "Testing connections is disabled" in Path(connection_command.__file__).read_text()
    assert "`Testing connections is disabled`" in PAGE.text


def test_the_message_if_progress_is_not_saved() -> None:
    from airflow_provider_cfvectorize.operators import base

    (shown,) = (one for one in messages(PAGE) if one.startswith("Progress is not"))
    assert shown.removesuffix("...") in Path(base.__file__).read_text()
