# SPDX-License-Identifier: Apache-2.0
"""Run PostgreSQL, Redis and object storage on free ports; remove them and their data at the end."""

from __future__ import annotations

import contextlib
import ctypes
import glob
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playground import process
from progress import say

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
BUCKET = "chunks"
HOST = "127.0.0.1"
#: Settings for a database that exists for a few minutes.
NOT_DURABLE = ("fsync=off", "synchronous_commit=off", "full_page_writes=off")
_PR_SET_CHILD_SUBREAPER = 36


class NotInstalledError(Exception):
    """A program is missing; the text says how to install it."""


@dataclass(frozen=True)
class Programs:
    """
    The paths of the required programs.

    :param redis: ``redis-server``.
    :param initdb: ``initdb``, which creates PostgreSQL's files.
    :param postgres: ``postgres``, PostgreSQL's server.
    """

    redis: str
    initdb: str
    postgres: str

    @classmethod
    def find(cls, path: str | None = None, postgresql: str = "/usr/lib/postgresql/*/bin") -> Programs:
        """
        Find the programs.

        :param path: the directories to search; None for ``PATH``.
        :param postgresql: a pattern of the directories in which Debian installs PostgreSQL, outside ``PATH``.
        :raises NotInstalledError: a program is missing.
        """
        path = os.environ.get("PATH", os.defpath) if path is None else path
        versions = sorted(
            glob.glob(postgresql), key=lambda name: [int(n) for n in Path(name).parts if n.isdigit()]
        )
        both = os.pathsep.join([path, *reversed(versions)])
        found = {
            "redis-server": shutil.which("redis-server", path=path),
            # Both from one directory, so that they have one version.
            **{name: shutil.which(name, path=both) for name in ("initdb", "postgres")},
        }
        if missing := [name for name, program in found.items() if program is None]:
            raise NotInstalledError(
                f"{', '.join(missing)}: not found. Install Redis and PostgreSQL; they need not run. "
                "On Debian or Ubuntu: apt-get install redis-server postgresql. On macOS: brew install "
                "redis postgresql"
            )
        return cls(*(str(program) for program in found.values()))


def free_ports(count: int) -> list[int]:
    """Return different free ports."""
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind((HOST, 0))
        return [probe.getsockname()[1] for probe in probes]


def wait_until(
    check: Callable[[], object], what: str, child: subprocess.Popen[bytes], log: Path, seconds: float = 60
) -> None:
    """
    Wait until a process is ready; end the script if it does not start.

    :param check: raises until the process is ready.
    :param what: the name of the process.
    :param child: the process.
    :param log: its log.
    :param seconds: the most seconds to wait.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            check()
            return
        except Exception as e:
            if child.poll() is not None or time.monotonic() > deadline:
                sys.exit(
                    f"{what} did not start ({type(e).__name__}); the end of {log}:\n{log.read_text()[-3000:]}"
                )
            time.sleep(0.2)


# --- ending every process -----------------------------------------------------------------------------------


@contextlib.contextmanager
def everything_ends() -> Iterator[ExitStack]:
    """
    Yield a stack, close it at the end, also after a failure or a signal, and end all remaining processes.

    Airflow's tasks have their own process groups and outlive a killed worker. To end the groups that this
    script started is therefore not enough.
    """
    if sys.platform == "linux":
        # A process whose parent ends becomes a child of this process, which can then find it.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for number in SIGNALS:
        signal.signal(number, _interrupted)
    stack = ExitStack()
    try:
        yield stack
    finally:
        for number in SIGNALS:
            signal.signal(number, signal.SIG_IGN)
        say("Stopping everything")
        try:
            stack.close()
        finally:
            _end_descendants()


def _interrupted(number: int, frame: Any) -> None:
    sys.exit(f"Interrupted by {signal.Signals(number).name}")


def _end_descendants() -> None:
    import psutil

    deadline = time.monotonic() + 10
    while (left := psutil.Process().children(recursive=True)) and time.monotonic() < deadline:
        for one in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        psutil.wait_procs(left, timeout=1)


# --- directories and their owner ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Household:
    """
    The directories and the user of PostgreSQL and Redis.

    :param directory: the directory for their files.
    :param logs: the directory for their logs.
    :param user: the user that they run as; None for the user of this process.
    """

    directory: Path
    logs: Path
    user: pwd.struct_passwd | None

    @property
    def options(self) -> dict[str, Any]:
        """Return the arguments of ``Popen`` that run a process as the user."""
        env = {"PATH": os.environ.get("PATH", os.defpath), "LANG": "C.UTF-8"}
        place = {"env": env, "cwd": self.directory}
        if self.user is None:
            return place
        return {**place, "user": self.user.pw_uid, "group": self.user.pw_gid, "extra_groups": []}

    def write(self, name: str, text: str) -> Path:
        """Write a file that only the user can read."""
        path = self.directory / name
        path.touch(mode=0o600)
        path.write_text(text)
        self.own(path)
        return path

    def own(self, path: Path) -> None:
        """Make the user the owner of a path."""
        if self.user is not None:
            os.chown(path, self.user.pw_uid, self.user.pw_gid)


@contextlib.contextmanager
def household(home: Path) -> Iterator[Household]:
    """
    Create the directory for the data, and remove it at the end.

    :param home: the parent directory. If the data needs another user, who has no access to it, the system's
        temporary directory is used instead.
    """
    user = None
    if os.geteuid() == 0:
        # PostgreSQL refuses to run as root.
        names = {entry.pw_name: entry for entry in pwd.getpwall()}
        user = names.get("postgres") or names["nobody"]
    reachable = user is None or all(parent.stat().st_mode & 0o001 for parent in (home, *home.parents))
    directory = Path(tempfile.mkdtemp(prefix="scale-out-", dir=home if reachable else None))
    try:
        house = Household(directory, home / "logs", user)
        house.own(directory)
        yield house
    finally:
        shutil.rmtree(directory, ignore_errors=True)


# --- the services -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def postgresql(house: Household, programs: Programs, port: int) -> Iterator[str]:
    """Run a PostgreSQL with an empty database, and yield its URL without the scheme."""
    import psycopg2

    password = secrets.token_hex(16)
    data = house.directory / "postgresql"
    log = house.logs / "postgresql.log"
    options = house.options
    made = subprocess.run(
        [
            programs.initdb,
            *(
                "--pgdata",
                str(data),
                "--username",
                "airflow",
                "--encoding",
                "UTF8",
                "--no-locale",
                "--no-sync",
            ),
            *("--auth", "scram-sha-256", "--pwfile", str(house.write("password", password))),
        ],
        capture_output=True,
        text=True,
        check=False,
        **options,
    )
    if made.returncode:
        sys.exit(f"initdb failed:\n{made.stdout[-2000:]}\n{made.stderr[-2000:]}")
    settings = (f"listen_addresses={HOST}", f"port={port}", "unix_socket_directories=", *NOT_DURABLE)
    command = [
        programs.postgres,
        "-D",
        str(data),
        *(word for setting in settings for word in ("-c", setting)),
    ]

    def connect(database: str = "postgres") -> Any:
        return psycopg2.connect(host=HOST, port=port, user="airflow", password=password, dbname=database)

    def create_database() -> None:
        with contextlib.closing(connect()) as connection:
            connection.autocommit = True
            connection.cursor().execute("CREATE DATABASE airflow")

    # SIGINT, because after SIGTERM PostgreSQL waits for its clients.
    with process(command, log, sign=signal.SIGINT, **options) as child:
        wait_until(create_database, "PostgreSQL", child, log)
        yield f"airflow:{password}@{HOST}:{port}/airflow"


@contextlib.contextmanager
def redis(house: Household, programs: Programs, port: int) -> Iterator[str]:
    """Run a Redis that writes nothing to disk, and yield its URL."""
    from redis import Redis

    password = secrets.token_hex(16)
    settings = house.write(
        "redis.conf",
        f'bind {HOST}\nport {port}\nrequirepass {password}\nsave ""\nappendonly no\ndir {house.directory}\n',
    )
    log = house.logs / "redis.log"
    with process([programs.redis, str(settings)], log, **house.options) as child:
        with contextlib.closing(Redis(HOST, port, password=password)) as client:
            wait_until(client.ping, "Redis", child, log)
        yield f"redis://:{password}@{HOST}:{port}/0"


@dataclass(frozen=True)
class ObjectStorage:
    """
    An object storage with S3's protocol.

    :param client: a boto3 client.
    :param connection: an Airflow connection.
    """

    client: Any
    connection: dict[str, Any]

    def put(self, key: str, lines: list[str]) -> None:
        """Write lines to an object."""
        self.client.put_object(Bucket=BUCKET, Key=key, Body="".join(f"{line}\n" for line in lines).encode())


@contextlib.contextmanager
def object_storage(logs: Path, port: int) -> Iterator[ObjectStorage]:
    """Run moto's S3, which stores objects in memory, and yield it with an empty bucket."""
    import boto3
    from botocore.config import Config

    login, password = secrets.token_hex(8), secrets.token_hex(16)
    url = f"http://{HOST}:{port}"
    log = logs / "object-storage.log"
    command = [str(Path(sys.executable).with_name("moto_server")), "-H", HOST, "-p", str(port)]
    with process(command, log, dict(os.environ)) as child:
        client = boto3.client(
            "s3",
            endpoint_url=url,
            region_name="us-east-1",
            aws_access_key_id=login,
            aws_secret_access_key=password,
            config=Config(retries={"max_attempts": 0}, proxies={}),
        )
        wait_until(lambda: client.create_bucket(Bucket=BUCKET), "The object storage", child, log)
        extra = {"endpoint_url": url, "region_name": "us-east-1"}
        yield ObjectStorage(
            client, {"conn_type": "aws", "login": login, "password": password, "extra": extra}
        )
