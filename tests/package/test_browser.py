# SPDX-License-Identifier: Apache-2.0
"""Where ``make test-browser`` gets its browser from, on machines with one and without; and who needs none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import chromium
import pytest

from readme.markdown import ROOT

pytestmark = pytest.mark.long

SCRIPTS = ROOT / "scripts"

APT = """#!/bin/sh
echo "apt-get $* ($DEBIAN_FRONTEND)" >> {log}
case "$*" in *install*) {install} ;; esac
"""
#: What Debian's package leaves behind.
INSTALLS = "echo '#!/bin/sh' > {directory}/chromium; /bin/chmod 755 {directory}/chromium"


def program(directory: Path, name: str, text: str = "#!/bin/sh\n") -> Path:
    path = directory / name
    path.write_text(text)
    path.chmod(0o755)
    return path


def make_debian(directory: Path, install: str = INSTALLS) -> Path:
    """Make a machine's PATH: apt-get, and a sudo for whoever is not root; return apt-get's log."""
    log = directory / "log"
    log.touch()
    program(directory, "apt-get", APT.format(log=log, install=install.format(directory=directory)))
    program(directory, "sudo", '#!/bin/sh\nexec "$@"\n')
    return log


def run(path: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the script where nothing can be found but what is in a directory."""
    return subprocess.run(
        [sys.executable, str(SCRIPTS / "chromium.py")],
        capture_output=True,
        text=True,
        timeout=60,
        env={"PATH": str(path), **env},
    )


def test_a_browser_that_is_there_is_taken(tmp_path: Path) -> None:
    log = make_debian(tmp_path)
    browser = program(tmp_path, "chromium")
    done = run(tmp_path)
    assert (done.returncode, done.stdout) == (0, f"Browser: {browser}\n"), done.stderr
    assert log.read_text() == ""


def test_without_a_browser_debian_s_is_installed(tmp_path: Path) -> None:
    log = make_debian(tmp_path)
    done = run(tmp_path)
    assert done.returncode == 0, done.stderr
    assert log.read_text().splitlines() == [
        "apt-get -qq update (noninteractive)",
        "apt-get -qq install -y --no-install-recommends chromium (noninteractive)",
    ]
    first, *commands, last = done.stdout.splitlines()
    assert first == "No browser in PATH: installing Debian's package chromium"
    assert [command.split(" -qq ")[1] for command in commands] == [
        "update",
        "install -y --no-install-recommends chromium",
    ]
    assert last == f"Browser: {tmp_path / 'chromium'}"


def test_the_browser_that_is_named_is_taken(tmp_path: Path) -> None:
    program(tmp_path, "chromium")
    other = program(tmp_path, "my-chrome")
    for name in ("my-chrome", str(other)):
        assert run(tmp_path, CHROMIUM=name).stdout == f"Browser: {other}\n"


def test_a_browser_that_is_named_and_not_there_is_an_error(tmp_path: Path) -> None:
    log = make_debian(tmp_path)
    program(tmp_path, "chromium")
    done = run(tmp_path, CHROMIUM="/no/such/browser")
    assert done.returncode == 1
    assert done.stderr.startswith("CHROMIUM=/no/such/browser is no executable.")
    assert log.read_text() == ""


def test_neither_browser_nor_apt_get(tmp_path: Path) -> None:
    done = run(tmp_path)
    assert done.returncode == 1
    assert "looked in PATH for chromium, chromium-browser, google-chrome, and for apt-get" in done.stderr
    assert "apt-get install chromium" in done.stderr
    assert "CHROMIUM=/path/to/chromium make test-browser" in done.stderr


def test_who_is_not_root_needs_sudo(tmp_path: Path) -> None:
    apt = program(tmp_path, "apt-get")
    environ = {"PATH": str(tmp_path)}
    words = ["/usr/bin/env", "DEBIAN_FRONTEND=noninteractive", str(apt), "-qq", "update"]
    assert chromium.installation(environ, root=True)[0] == words
    with pytest.raises(chromium.NoBrowserError, match="to install one takes root or sudo"):
        chromium.installation(environ, root=False)
    sudo = program(tmp_path, "sudo")
    assert chromium.installation(environ, root=False)[0] == [str(sudo), *words]


@pytest.mark.parametrize(
    ("install", "text"),
    [
        ("exit 100", "That failed. Install a Chromium by hand"),
        (":", "chromium is installed, and none of chromium, chromium-browser, google-chrome is in PATH"),
    ],
    ids=["refused", "elsewhere"],
)
def test_an_installation_that_does_not_help(tmp_path: Path, install: str, text: str) -> None:
    make_debian(tmp_path, install)
    done = run(tmp_path)
    assert done.returncode == 1
    assert text in done.stderr


def collect(*arguments: str) -> str:
    """Return what pytest says that it would run, where playwright cannot be imported."""
    code = "import sys; sys.modules['playwright'] = None; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", code, "--collect-only", "-q", "-p", "no:cacheprovider", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    return done.stdout + done.stderr


def test_nobody_else_needs_a_browser() -> None:
    here = collect("tests/browser", "tests/package/test_browser.py::test_neither_browser_nor_apt_get")
    assert "test_in_the_browser" not in here
    assert "1/3 tests collected (2 deselected)" in here


@pytest.mark.airflow(since="3.0")
def test_the_browser_is_asked_for() -> None:
    asked = collect("--browser", "tests/browser")
    assert asked.count("test_in_the_browser.py::") == 2, asked
