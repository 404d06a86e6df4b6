# SPDX-License-Identifier: Apache-2.0
"""Run Airflow with its UI, the example DAGs and a connection to a local Vectorize, until Ctrl-C."""

from __future__ import annotations

import shlex
import signal
import sys
import time
from importlib.metadata import version
from pathlib import Path

from playground import INDEX, ROOT, Airflow, airflow, fresh, local_vectorize, seed
from progress import say, step

DAG_ID = "vectorize_delete_by_params"
VECTORS = 1000
#: The UI tests a connection without a port as one with port 0, which the API refuses (apache/airflow#73298).
WITHOUT_TEST_BUTTON = ("3.3.1", "3.3.2")


def write_environment(path: Path, instance: Airflow) -> None:
    """
    Write a file that makes a shell use this Airflow.

    :param path: the file.
    :param instance: the running Airflow.
    """
    names = [name for name in instance.env if name.startswith("AIRFLOW_")]
    lines = [f"export {name}={shlex.quote(instance.env[name])}\n" for name in [*names, "PATH"]]
    # The file contains the token of the local Vectorize.
    path.touch(mode=0o600)
    path.write_text("".join(lines))


def main() -> None:
    """Run both until Ctrl-C."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    home = fresh(ROOT / ".ui")
    say("Step 1 of 2: Vectorize on this machine")
    with local_vectorize(home, "--apply-delay", "15") as connection:
        with step(f"Index {INDEX!r} with {VECTORS} vectors, chunk-0 ... chunk-{VECTORS - 1}"):
            seed(connection, VECTORS)
        say("Step 2 of 2: Airflow")
        with airflow(home / "airflow", connection, DAG_ID) as instance:
            environment = home / "env"
            write_environment(environment, instance)
            say(f"Open {instance.url}  (no password)")
            print(f"""
   Trigger {DAG_ID} and type ids into its form.
   The connection cloudflare_vectorize_default comes from the environment, so the UI does not list it. To see
   the form, add a connection of type 'Cloudflare Vectorize' under Admin > Connections.
   Logs: {instance.log.relative_to(ROOT)}. Stop with Ctrl-C.
""")
            if (running := version("apache-airflow")) in WITHOUT_TEST_BUTTON:
                print(f"""   The Test button of a connection without a port says "Bad Request" in Airflow
   {running}: a bug of its UI (apache/airflow#73298). In another terminal, this command tests it instead:

       (. {environment.relative_to(ROOT)}; airflow connections test cloudflare_vectorize_default)
""")
            while True:
                time.sleep(1)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        say("Stopped.")
