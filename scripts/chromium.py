# SPDX-License-Identifier: Apache-2.0
"""Find a Chromium for the browser tests; install Debian's if there is none."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping

#: The environment variable that names another executable.
VARIABLE = "CHROMIUM"
NAMES = ("chromium", "chromium-browser", "google-chrome")
PACKAGE = "chromium"


class NoBrowserError(Exception):
    """No browser was found, and none can be installed."""


def find(environ: Mapping[str, str]) -> str | None:
    """
    Return the path of a Chromium; None if there is none.

    :param environ: the environment variables, with ``PATH`` and perhaps an executable.
    :raises NoBrowserError: the environment names an executable that does not exist.
    """
    path = environ.get("PATH", os.defpath)
    if named := environ.get(VARIABLE):
        if found := shutil.which(named, path=path):
            return found
        raise NoBrowserError(
            f"{VARIABLE}={named} is not an executable. Name one, or unset {VARIABLE} to search PATH for "
            f"{', '.join(NAMES)}"
        )
    return next((found for name in NAMES if (found := shutil.which(name, path=path))), None)


def installation(environ: Mapping[str, str], *, root: bool) -> list[list[str]]:
    """
    Return the commands that install a Chromium.

    :param environ: the environment variables, with ``PATH``.
    :param root: whether this process may install packages.
    :raises NoBrowserError: this machine lacks the commands to install one.
    """
    path = environ.get("PATH", os.defpath)
    by_hand = (
        f"Install a Chromium (Debian: apt-get install {PACKAGE}) and run this again, or name an executable: "
        f"{VARIABLE}=/path/to/chromium make test-browser"
    )
    missing = f"No browser: PATH has none of {', '.join(NAMES)}"
    apt = shutil.which("apt-get", path=path)
    if apt is None:
        raise NoBrowserError(f"{missing}, and no apt-get to install a browser. {by_hand}")
    before: list[str] = []
    if not root:
        sudo = shutil.which("sudo", path=path)
        if sudo is None:
            raise NoBrowserError(f"{missing}; installing a browser needs root or sudo. {by_hand}")
        before = [sudo]
    # sudo does not pass on environment variables.
    before += ["/usr/bin/env", "DEBIAN_FRONTEND=noninteractive", apt, "-qq"]
    return [[*before, "update"], [*before, "install", "-y", "--no-install-recommends", PACKAGE]]


def main() -> None:
    """Find or install a Chromium, and print its path."""
    try:
        found = find(os.environ)
        if found is None:
            commands = installation(os.environ, root=os.geteuid() == 0)
            print(f"No browser in PATH: installing Debian's package {PACKAGE}", flush=True)
            for command in commands:
                print(f"  {' '.join(command)}", flush=True)
                if subprocess.run(command, check=False).returncode:
                    raise NoBrowserError(
                        f"That failed. Install a Chromium by hand and run this again, or name an executable: "
                        f"{VARIABLE}=/path/to/chromium make test-browser"
                    )
            found = find(os.environ)
        if found is None:
            raise NoBrowserError(f"{PACKAGE} is installed, but PATH has none of {', '.join(NAMES)}")
    except NoBrowserError as e:
        sys.exit(str(e))
    print(f"Browser: {found}")


if __name__ == "__main__":
    main()
