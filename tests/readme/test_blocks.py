# SPDX-License-Identifier: Apache-2.0
"""
Every fenced block of the documents works as described.

``RULES`` has a rule for each block, by document, heading and number. Some blocks cannot run here: they
install packages or need a container engine. Their rules check the names in the block and say where it runs.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import socket
import sqlite3
import subprocess
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from airflow.providers.common.compat.sdk import BaseHook
from airflow.secrets.local_filesystem import LocalFilesystemBackend

from airflow_provider_cfvectorize import __version__
from airflow_provider_cfvectorize.client.client import VectorizeClient
from airflow_provider_cfvectorize.client.mutations.decide import IndexState, decide
from airflow_provider_cfvectorize.client.mutations.evidence import make_evidence
from airflow_provider_cfvectorize.client.mutations.receipts import Receipt
from airflow_provider_cfvectorize.hooks.vectorize import CloudflareVectorizeHook
from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.local.__main__ import TOKEN_VARIABLE, build_parser
from airflow_provider_cfvectorize.retry import retry_policy
from dags.running import change, make_dag, query, run_dag
from harness import PROVEN, Vectorize, wait_until
from readme import (
    client_blocks,
    connection_blocks,
    guide_blocks,
    lineage_blocks,
    operator_blocks,
    proof_blocks,
    task_blocks,
)
from readme.bench import Bench
from readme.markdown import ROOT, Block, documents, read

pytestmark = pytest.mark.long

BLOCKS = {block.key: block for path in documents() for block in read(path).blocks}
CONN_ID = "cloudflare_vectorize_default"
POOL = "cloudflare_vectorize"
CONN_VARIABLE = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"
ACCOUNT_ID = "0123456789abcdef0123456789abcdef"
TOKEN = "your-api-token"


@pytest.fixture
def bench(server: LocalVectorize, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(server, tmp_path, monkeypatch)


# --- checked here, run elsewhere ----------------------------------------------------------------------------


def is_placeholder(block: Block, bench: Bench) -> None:
    """Not run: the repository has no address yet."""
    assert block.language == "text"
    first, second = block.text.splitlines()
    assert first == "git clone <this repository>"
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert second == f"cd {tomllib.load(file)['project']['name']}"


def names_targets(block: Block, bench: Bench) -> None:
    """Not run: each target sets up a whole environment. ``.ci/run`` runs them."""
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for line in block.text.splitlines():
        command, target = line.split()
        assert command == "make"
        assert target in targets


def installs_the_checkout(block: Block, bench: Bench) -> None:
    """Not run: it installs packages. ``make wheel`` installs them in a clean environment."""
    assert bench.bash(f"pip() {{ printf '%s ' \"$@\"; }}\n{block.text}") == "install . "


def installs_the_wheel(block: Block, bench: Bench) -> None:
    """Not run: it builds and installs packages. ``make wheel`` does it in a clean environment."""
    names_targets(Block(block.path, "", 1, "", block.text.splitlines()[0] + "\n"), bench)
    wheel = bench.directory / "dist" / "airflow_provider_cfvectorize-0.1.0-py3-none-any.whl"
    wheel.parent.mkdir()
    wheel.touch()
    # This pip prints its arguments.
    lines = bench.bash(f"pip() {{ printf '%s\\n' \"$@\"; }}\n{block.text.split(chr(10), 1)[1]}").splitlines()
    assert lines[:3] == ["install", f"dist/{wheel.name}", "install"]
    path, extras = lines[3].rstrip("]").split("[")
    assert path == f"dist/{wheel.name}"
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert set(extras.split(",")) == set(tomllib.load(file)["project"]["optional-dependencies"])


# --- the command line ---------------------------------------------------------------------------------------


def shows_the_provider(block: Block, bench: Bench) -> None:
    printed = bench.bash(block.text)
    assert "airflow-provider-cfvectorize" in printed
    assert __version__ in printed


def exports_a_connection(block: Block, bench: Bench) -> None:
    value = bench.bash(f"{block.text}printenv {CONN_VARIABLE}").removesuffix("\n")
    bench.monkeypatch.setenv(CONN_VARIABLE, value)
    # A secrets backend holds this text too.
    kept = LocalFilesystemBackend().deserialize_connection(conn_id=CONN_ID, value=value)
    for conn in (BaseHook.get_connection(CONN_ID), kept):
        assert (conn.conn_type, conn.login, conn.password) == ("cloudflare_vectorize", ACCOUNT_ID, TOKEN)
    client = CloudflareVectorizeHook().get_conn()
    assert client.account_id == ACCOUNT_ID
    assert client.base_url == "https://api.cloudflare.com/client/v4"
    assert client.timeout == 20


def adds_a_connection(block: Block, bench: Bench) -> None:
    path = os.environ["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"].removeprefix("sqlite:///")
    database = sqlite3.connect(path)
    try:
        bench.bash(block.text, CLOUDFLARE_API_TOKEN=TOKEN)
        rows = database.execute(
            "SELECT conn_type, login, password, extra FROM connection WHERE conn_id=?", (CONN_ID,)
        ).fetchall()
    finally:
        with database:
            database.execute("DELETE FROM connection WHERE conn_id=?", (CONN_ID,))
        database.close()
    assert rows == [("cloudflare_vectorize", ACCOUNT_ID, TOKEN, '{"timeout": 20}')]


def checks_the_connection(block: Block, bench: Bench) -> None:
    assert "Connection success" in bench.bash(block.text)
    assert bench.server.stats()["list_indexes"] == 1


@contextmanager
def started(bench: Bench, script: str, **env: str) -> Iterator[list[str]]:
    """Run a server's command line and yield the two printed lines."""
    process = subprocess.Popen(
        ["bash", "-c", f"exec {script}"],
        cwd=bench.directory,
        env=bench.env(**env),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield [process.stdout.readline().rstrip("\n") for _ in range(2)]
    finally:
        process.terminate()
        assert process.wait(timeout=30) == 0


def runs_the_server(block: Block, bench: Bench) -> None:
    """Run on a free port, because a fixed port may be in use; tests of the options check the default."""
    options = shlex.split(block.text)
    assert options[0] == "vectorize-local"
    assert build_parser().parse_args(options[1:])
    with started(bench, f"{block.text.strip()} --port 0") as (address, variable):
        assert address.startswith("listening on http://127.0.0.1:")
        # Readers can paste the line.
        bench.monkeypatch.setenv(
            CONN_VARIABLE, bench.bash(f"export {variable}\nprintenv {CONN_VARIABLE}").removesuffix("\n")
        )
        assert CloudflareVectorizeHook().test_connection() == (
            True,
            "Account 10ca10ca10ca10ca10ca10ca10ca10ca has 0 Vectorize indexes",
        )
    if "--data" in options:
        assert (bench.directory / options[options.index("--data") + 1]).exists()


def is_what_the_server_prints(block: Block, bench: Bench) -> None:
    with started(bench, "vectorize-local --port 0") as printed:
        shown = [
            line.replace("8787", printed[0].split(":")[2].split("/")[0]) for line in block.text.splitlines()
        ]
    assert shown[0] == printed[0]
    beginning, dots = shown[1].split("...")
    assert printed[1].startswith(beginning)
    assert printed[1].endswith(dots)


def collects_the_suite(block: Block, bench: Bench) -> None:
    """Only collected: ``make test`` runs the suite, and tests/package runs it as with a real account."""
    printed = bench.bash(f"cd {ROOT}\n{block.text.rstrip()} --collect-only -q -p no:cacheprovider")
    assert "test_an_insert_keeps_existing_vectors" in printed


def is_what_the_suite_prints(block: Block, bench: Bench) -> None:
    printed = bench.bash(f"cd {ROOT}\npython -m pytest tests/conformance -k test_no_ids -p no:cacheprovider")
    for line in block.text.splitlines():
        assert line in printed


# --- Python -------------------------------------------------------------------------------------------------

FIRST_DAG = "README.md#in-a-dag/1"


def runs_as_a_dag(block: Block, bench: Bench) -> None:
    vectorize = Vectorize(bench.server)
    vectorize.fill([f"chunk-{i}" for i in range(4)])
    run = run_dag(bench.load(block).dag)
    assert run.state == "success", run.states
    assert vectorize.ids() == {"chunk-2", "chunk-3"}
    evidence = run.pull("wait_until_gone")
    assert evidence["mutation_id"] == run.pull("delete") == run.pull("delete", "receipt")["mutation_id"]
    assert evidence["outcome"] in PROVEN


POLICY_DAG = "docs/retries.md#the-retry-policy/1"


def runs_with_the_retry_policy(block: Block, bench: Bench) -> None:
    runs_as_a_dag(block, bench)
    dag = bench.load(block).dag
    assert dag.default_args["retry_policy"] is retry_policy
    assert {task.retries for task in dag.tasks} == {3}
    if retry_policy is not None:
        assert {task.retry_policy for task in dag.tasks} == {retry_policy}


def creates_the_pool(block: Block, bench: Bench) -> None:
    try:
        bench.bash(block.text)
        assert query("SELECT slots, include_deferred FROM slot_pool WHERE pool=?", (POOL,)) == [(2, 0)]
    finally:
        change("DELETE FROM slot_pool WHERE pool=?", (POOL,))


def runs_in_the_pool(block: Block, bench: Bench) -> None:
    vectorize = Vectorize(bench.server)
    vectorize.fill(["a", "b", "c"])
    names = {**vars(bench.load(BLOCKS[POLICY_DAG]))}
    with make_dag("in_the_pool", params={"ids": ["a", "b"]}) as dag:
        exec(compile(block.text, block.key, "exec"), names)
    assert dag.get_task("delete_a_chunk").pool == POOL
    run = run_dag(dag)
    assert run.state == "success", run.states
    vectorize.settle()
    assert vectorize.ids() == {"c"}


def runs_as_a_script(block: Block, bench: Bench) -> None:
    bench.load(block)


def fills_an_index(block: Block, bench: Bench) -> None:
    bench.load(block)
    wait_until(lambda: CloudflareVectorizeHook().info("docs")["vectorCount"] == 1000)


def passes_in_pytest(block: Block, bench: Bench) -> None:
    path = bench.directory / "test_snippet.py"
    path.write_text(block.text)
    outcomes = []

    class Listener:
        def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
            outcomes.append((report.when, report.outcome))

    # In this process: another process would import Airflow for seconds.
    alone = ["-c", os.devnull, f"--rootdir={bench.directory}", "-p", "no:cacheprovider", "-p", "no:randomly"]
    # Several blocks create a file with this name.
    alone.append("--import-mode=importlib")
    assert pytest.main([*alone, str(path)], plugins=[Listener()]) == pytest.ExitCode.OK
    assert outcomes == [("setup", "passed"), ("call", "passed"), ("teardown", "passed")]


# --- formats ------------------------------------------------------------------------------------------------


def is_evidence(block: Block, bench: Bench) -> None:
    now = datetime.now(UTC)
    receipt = Receipt("m", "docs", "0" * 32, now, 1, 1, ("a",))
    state = IndexState("other", now, now)
    made = make_evidence(receipt, decide(receipt, state, []), state, account_id="0" * 32, index_name="docs")
    shown = json.loads(block.text)
    assert list(shown) == list(made)
    assert {key: type(value) for key, value in shown.items()} == {key: type(made[key]) for key in made}


def command_of_image(dockerfile: str) -> list[str]:
    (command,) = re.findall(r"^CMD (\[.*\])$", dockerfile, re.MULTILINE)
    parts: list[str] = json.loads(command)
    assert parts[0] == "vectorize-local"
    return parts[1:]


def is_an_image(block: Block, bench: Bench) -> None:
    """Not built: it needs a container engine. The rule for the compose file runs the image's command."""
    assert re.findall("^[A-Z]+", block.text, re.MULTILINE) == ["FROM", "COPY", "RUN", "CMD"]
    with (ROOT / "pyproject.toml").open("rb") as file:
        least = tomllib.load(file)["project"]["requires-python"].removeprefix(">=")
    assert block.text.startswith(f"FROM python:{least}-slim\n")
    options = build_parser().parse_args(command_of_image(block.text))
    assert (options.host, options.allow_host, options.port) == ("0.0.0.0", ["vectorize"], 8787)


def connects_containers(block: Block, bench: Bench) -> None:
    """
    Not run: it needs a container engine.

    The image's command runs here, bound to all addresses, with the environment of its service. A worker with
    the other service's environment connects to it by the name that the network would resolve.
    """
    services = yaml.safe_load(block.text)["services"]
    image = BLOCKS["docs/local-server.md#in-containers/1"]
    prose = " ".join(read(image.path).text.split())
    assert f"`{services['vectorize']['build']['dockerfile']}`" in prose
    arguments = shlex.join(command_of_image(image.text))
    token = services["vectorize"]["environment"][TOKEN_VARIABLE]
    for name, value in services["airflow-worker"]["environment"].items():
        bench.monkeypatch.setenv(name, value)
    with started(bench, f"vectorize-local {arguments} --port 0", **{TOKEN_VARIABLE: token}) as printed:
        assert token not in "".join(printed)
        port = int(printed[0].split(":")[2].split("/")[0])
        resolve = socket.getaddrinfo

        def in_the_network(host: Any, asked: Any, *args: Any, **kwargs: Any) -> Any:
            if host == "vectorize":
                assert asked == 8787
                return resolve("127.0.0.1", port, *args, **kwargs)
            return resolve(host, asked, *args, **kwargs)

        bench.monkeypatch.setattr(socket, "getaddrinfo", in_the_network)
        hook = CloudflareVectorizeHook()
        assert hook.test_connection()[0], hook.test_connection()[1]
        assert hook.get_conn().base_url == "http://vectorize:8787/client/v4"
        hook.create_index("docs", dimensions=32, metric="cosine")
        assert hook.delete_by_ids("docs", ["a"])["count"] == 1
        # Without the option, the provider refuses the connection.
        bench.monkeypatch.delenv("AIRFLOW__CFVECTORIZE__ALLOW_HTTP_HOSTS")
        good, why = CloudflareVectorizeHook().test_connection()
        assert not good
        assert "AIRFLOW__CFVECTORIZE__ALLOW_HTTP_HOSTS" in why


def is_what_scale_out_prints(block: Block, bench: Bench) -> None:
    """Not run: it needs minutes, Redis and PostgreSQL; ``.ci/run`` runs it. The rule checks the rows."""
    bench.monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import scale_out

    made = scale_out.table(
        scale_out.Story(), 1, [], dict.fromkeys(("set-up", "the run", "the check"), 1.0), ""
    )
    assert [line[:15] for line in block.text.splitlines()] == [line[3:18] for line in made.splitlines()]


SCALE_VALUES = "docs/scale-out.md#on-kubernetes/1"


def are_values_of_the_chart(block: Block, bench: Bench) -> None:
    """Not installed: it needs a cluster. ``make scale-out`` uses these settings with these names."""
    bench.monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    import scale_airflow

    values = yaml.safe_load(block.text)
    settings = scale_airflow.settings("", "")
    for section, options in values["config"].items():
        for name, value in options.items():
            assert isinstance(value, str)
            assert f"AIRFLOW__{section}__{name}".upper() in settings
    assert [secret["envName"] for secret in values["secret"]] == [CONN_VARIABLE]


def installs_the_chart(block: Block, bench: Bench) -> None:
    """Not run: it needs a cluster. The values name this secret."""
    (secret,) = yaml.safe_load(BLOCKS[SCALE_VALUES].text)["secret"]
    create, install = (shlex.split(line) for line in block.text.splitlines())
    assert create[:4] == ["kubectl", "create", "secret", "generic"]
    assert create[4] == secret["secretName"]
    assert create[5].startswith(f"--from-file={secret['secretKey']}=")
    assert install[-2:] == ["--values", "values.yaml"]


def kills_a_pod(block: Block, bench: Bench) -> None:
    """Not run: it needs a cluster."""
    assert shlex.split(block.text)[:3] == ["kubectl", "delete", "pod"]


RULES: dict[str, Callable[[Block, Bench], None]] = {
    "CONTRIBUTING.md#set-up-test-check/1": names_targets,
    "README.md#try-it/1": is_placeholder,
    "README.md#try-it/2": names_targets,
    "README.md#install-into-an-existing-airflow/1": installs_the_checkout,
    "README.md#install-into-an-existing-airflow/2": installs_the_wheel,
    "README.md#install-into-an-existing-airflow/3": shows_the_provider,
    "README.md#the-connection/1": exports_a_connection,
    "README.md#the-connection/2": checks_the_connection,
    "docs/connection.md#create-it/1": exports_a_connection,
    "docs/connection.md#create-it/2": exports_a_connection,
    "docs/connection.md#create-it/3": adds_a_connection,
    "docs/connection.md#test-the-connection/1": checks_the_connection,
    FIRST_DAG: runs_as_a_dag,
    "docs/develop-without-an-account.md#in-a-shell/1": runs_the_server,
    "docs/develop-without-an-account.md#in-a-shell/2": fills_an_index,
    "docs/develop-without-an-account.md#in-pytest/1": passes_in_pytest,
    "docs/conformance.md#against-a-real-account/1": collects_the_suite,
    "docs/conformance.md#against-vectorize-local/1": collects_the_suite,
    "docs/conformance.md#read-the-table/1": is_what_the_suite_prints,
    "docs/local-server.md#in-containers/1": is_an_image,
    "docs/local-server.md#in-containers/2": connects_containers,
    "docs/decision.md#the-evidence/1": is_evidence,
    POLICY_DAG: runs_with_the_retry_policy,
    "docs/retries.md#use-a-pool/1": creates_the_pool,
    "docs/retries.md#time-limits/1": runs_in_the_pool,
    "docs/local-server.md#from-the-shell/1": runs_the_server,
    "docs/local-server.md#from-the-shell/2": is_what_the_server_prints,
    "docs/local-server.md#rate-limits/1": runs_the_server,
    "docs/local-server.md#faults/1": runs_the_server,
    "docs/local-server.md#faults/2": runs_the_server,
    "docs/local-server.md#faults/3": runs_as_a_script,
    "docs/local-server.md#from-python/1": runs_as_a_script,
    "docs/local-server.md#from-python/2": runs_as_a_script,
    "docs/performance.md#performance/1": names_targets,
    "docs/scale-out.md#test-with-celery/1": names_targets,
    "docs/scale-out.md#result/1": is_what_scale_out_prints,
    SCALE_VALUES: are_values_of_the_chart,
    "docs/scale-out.md#on-kubernetes/2": installs_the_chart,
    "docs/scale-out.md#on-kubernetes/3": kills_a_pod,
    **client_blocks.RULES,
    **connection_blocks.RULES,
    **guide_blocks.RULES,
    **lineage_blocks.RULES,
    **proof_blocks.RULES,
    **task_blocks.RULES,
    **operator_blocks.RULES,
}


#: `airflow dags test` of Airflow 3.0 refuses outlets that no DAG processor has registered.
NOT_ON_3_0 = {"docs/lineage.md#openlineage/1"}


@pytest.mark.usefixtures("airflow_db")
@pytest.mark.parametrize(
    "key",
    [
        pytest.param(key, marks=pytest.mark.airflow(but_not="3.0")) if key in NOT_ON_3_0 else key
        for key in BLOCKS
    ],
)
def test_block(key: str, bench: Bench) -> None:
    assert key in RULES, "a new block needs a rule that runs it"
    RULES[key](BLOCKS[key], bench)


def test_every_rule_has_a_block() -> None:
    assert set(RULES) <= set(BLOCKS)


def test_the_local_server_at_another_address(bench: Bench) -> None:
    """Connect as from another machine: without loopback, with the token, under an allowed name."""
    with LocalVectorize(host="0.0.0.0", api_token=TOKEN, allow_hosts=["vectorize"]) as server:
        bench.monkeypatch.setattr(
            socket, "getaddrinfo", lambda *_, **__: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address)]
        )
        address = (own_address(), server.port)
        client = VectorizeClient(
            server.account_id,
            api_token=TOKEN,
            base_url=f"http://vectorize:{server.port}/client/v4",
            allow_http_hosts=["vectorize"],
            retry=None,
        )
        begun = time.monotonic()
        assert client.list_indexes() == []
        assert time.monotonic() - begun < 10


def own_address() -> str:
    """Return an address of this machine other than 127.0.0.1; nothing is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))
            return str(probe.getsockname()[0])
        except OSError:
            # No route: use another address of the loopback network.
            return "127.0.0.2"
