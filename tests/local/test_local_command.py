# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from airflow_provider_cfvectorize.local import LocalVectorize
from airflow_provider_cfvectorize.local.__main__ import main
from local.local_client import DIMENSIONS, Client, envelope, mutation, refusal, result, vector

COMMAND = [sys.executable, "-m", "airflow_provider_cfvectorize.local"]
VARIABLE = "AIRFLOW_CONN_CLOUDFLARE_VECTORIZE_DEFAULT"


class Running:
    """A running command and its output."""

    def __init__(self, *arguments: str, command: list[str] | None = None, **environment: str) -> None:
        self.process = subprocess.Popen(
            [*(command or COMMAND), "--port", "0", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        assert self.process.stdout is not None
        self.lines = [self.process.stdout.readline().rstrip("\n") for _ in range(2)]
        self.base_url = self.lines[0].removeprefix("listening on ")
        name, _, value = self.lines[1].partition("=")
        assert name == VARIABLE
        assert value[0] == value[-1] == "'"
        self.connection = json.loads(value[1:-1])

    def client(self, token: str | None = None) -> Client:
        return Client(self.base_url, self.connection["login"], token or self.connection["password"])

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(10)


@pytest.fixture
def running():
    started: list[Running] = []

    def starter(*arguments: str, **options) -> Running:
        started.append(Running(*arguments, **options))
        return started[-1]

    yield starter
    for one in started:
        one.process.kill()
        one.process.communicate()


def test_output_and_exit_of_the_command(running):
    command = running()

    assert command.lines[0].startswith("listening on http://127.0.0.1:")
    assert command.lines[0].endswith("/client/v4")
    expected = LocalVectorize()
    assert command.connection == {
        "conn_type": "cloudflare_vectorize",
        "login": expected.account_id,
        "password": expected.api_token,
        "host": command.base_url,
    }
    client = command.client()
    assert result(client.send("GET")) == []
    begun = time.monotonic()
    assert command.end() == 0
    assert time.monotonic() - begun < 10
    assert command.process.communicate() == ("", "")


def test_an_interrupt_ends_the_command_cleanly(running):
    command = running()
    assert command.end(signal.SIGINT) == 0
    assert command.process.communicate() == ("", "")


def test_the_console_script(running):
    script = Path(sys.executable).with_name("vectorize-local")
    assert result(running(command=[str(script)]).client().send("GET")) == []


@pytest.mark.parametrize("by_option", [True, False])
def test_a_given_token_is_not_shown(running, by_option):
    if by_option:
        command = running("--api-token", "s3cret", VECTORIZE_LOCAL_TOKEN="not-used")
    else:
        command = running(VECTORIZE_LOCAL_TOKEN="s3cret")

    assert command.connection["password"] == "***"
    assert "s3cret" not in "".join(command.lines)
    assert result(command.client("s3cret").send("GET")) == []
    assert refusal(command.client("not-used").send("GET"))[:2] == (401, 10000)


def test_all_options(running, tmp_path):
    command = running(
        *("--host", "0.0.0.0", "--api-token", "s3cret", "--account-id", "ab" * 16),
        *("--data", str(tmp_path / "file.db"), "--apply-delay", "0.1", "--visibility-lag", "0.4"),
        *("--latency", "0.05", "--foreign-writes-per-second", "50"),
        *("--allow-host", "vectorize", "--allow-host", "box", "--rate-limit", "100000/300"),
        *("--recall", "0"),
        *("--fault", "429:list_vectors@0.5", "--fault", "504:get_index", "--fault-seed", "7"),
    )
    assert command.connection["login"] == "ab" * 16
    client = command.client("s3cret")
    for host in ("vectorize:8787", "BOX", "10.0.0.1"):
        answer = client.session.get(client.indexes, headers={"Host": host})
        assert envelope(answer)["success"]
        assert answer.headers["Ratelimit-Policy"] == '"default";q=100000;w=300'
    assert refusal(client.session.get(client.indexes, headers={"Host": "evil"}))[0] == 421

    begun = time.monotonic()
    client.create()
    assert time.monotonic() - begun >= 0.05
    mutation(client.upsert([vector("a")]))
    accepted = time.monotonic()
    while client.info()["vectorCount"] == 0:
        assert time.monotonic() - accepted < 10
    assert time.monotonic() - accepted >= 0.3
    assert "processedUpToMutation" in client.info()
    assert result(client.query([0.5] * DIMENSIONS)) == {"count": 0, "matches": []}
    assert client.send("GET", "/docs").status_code == 504
    faults = result(client.session.get(client.root + "/_local/faults"))
    assert (faults["faults"], faults["seed"]) == (["429:list_vectors@0.5", "504:get_index"], 7)
    assert faults["injected"]["504"] == 1
    assert (tmp_path / "file.db").exists()
    assert command.end() == 0


def test_the_command_ends_despite_endless_answers(running):
    command = running("--fault", "hang:list_indexes")
    client = command.client()
    response = client.send("GET", stream=True)
    assert response.raw.read(10) == b'{"result":'
    begun = time.monotonic()
    assert command.end() == 0
    assert time.monotonic() - begun < 10
    assert command.process.communicate() == ("", "")


def test_a_port_in_use_is_an_error(shared, capsys):
    assert main(["--port", str(shared.port)]) == 1
    assert capsys.readouterr().err == (
        f"vectorize-local: cannot listen on 127.0.0.1 port {shared.port}: Address already in use\n"
    )


def test_a_host_of_another_machine_is_an_error(capsys):
    assert main(["--host", "203.0.113.1", "--api-token", "t"]) == 1
    assert "cannot listen on 203.0.113.1 port 8787" in capsys.readouterr().err


def test_an_invalid_data_file_is_an_error(tmp_path, capsys):
    assert main(["--port", "0", "--data", str(tmp_path)]) == 1
    assert capsys.readouterr().err == f"vectorize-local: {tmp_path} is a directory\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--port", "70000"], "port must be from 0 to 65535, got 70000"),
        (["--port", "-1"], "port must be from 0 to 65535, got -1"),
        (["--port", "http"], "argument --port: invalid int value: 'http'"),
        (["--apply-delay", "soon"], "argument --apply-delay: invalid float value: 'soon'"),
        (["--apply-delay", "nan"], "apply_delay must be 0 or more, got nan"),
        (["--visibility-lag", "-1"], "visibility_lag must be 0 or more, got -1.0"),
        (["--latency", "inf"], "latency must be 0 or more, got inf"),
        (["--foreign-writes-per-second", "x"], "argument --foreign-writes-per-second"),
        (["--recall", "90"], "recall must be a number from 0 to 1, got 90.0"),
        (["--rate-limit", "1200"], "rate_limit must be two integers REQUESTS/SECONDS, such as 1200/300"),
        (
            ["--fault", "nonsense"],
            "fault 'nonsense': unknown kind 'nonsense'; the kinds are latency, reset-b",
        ),
        (["--fault", "429", "--fault", "500=1"], "fault '500=1': 500 accepts no value, got '1'. Expected"),
        (["--fault-seed", "x"], "argument --fault-seed: invalid int value: 'x'"),
        (["--account-id", "short"], "account_id must be 32 hexadecimal digits, got 'short'"),
        (["--api-token", "two words"], "api_token must consist of letters, digits"),
        (["--host", "0.0.0.0"], "other machines can reach host '0.0.0.0': set an API token of your own"),
        (["--unknown"], "unrecognized arguments: --unknown"),
        (["--api", "x"], "unrecognized arguments: --api x"),
    ],
)
def test_invalid_arguments_are_errors(arguments, message, capsys, monkeypatch):
    monkeypatch.delenv("VECTORIZE_LOCAL_TOKEN", raising=False)
    with pytest.raises(SystemExit) as caught:
        main(arguments)

    assert caught.value.code == 2
    assert message in capsys.readouterr().err


def test_an_empty_variable_is_not_a_token(capsys, monkeypatch):
    monkeypatch.setenv("VECTORIZE_LOCAL_TOKEN", "")
    with pytest.raises(SystemExit):
        main(["--host", "0.0.0.0"])
    assert "token of your own" in capsys.readouterr().err


@pytest.mark.parametrize("package", ["starlette", "uvicorn", "numpy"])
def test_a_missing_package_names_the_extra(package):
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from airflow_provider_cfvectorize.local.__main__ import main\n"
        "sys.exit(main(['--port', '0']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)

    assert done.returncode == 1
    assert done.stderr == (
        f"vectorize-local: {package} is missing: pip install 'airflow-provider-cfvectorize[local]'\n"
    )
