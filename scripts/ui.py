# SPDX-License-Identifier: Apache-2.0
"""Airflow with its UI, the example DAGs and a ready connection to a local Vectorize, until Ctrl-C."""

from __future__ import annotations

import signal
import sys
import time

from playground import INDEX, ROOT, airflow, fresh, local_vectorize, say, seed

DAG_ID = "vectorize_delete_by_params"


def main() -> None:
    """Run it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    home = fresh(ROOT / ".ui")
    say("Starting a Vectorize on this machine")
    with local_vectorize(home, "--apply-delay", "15") as connection:
        seed(connection, 1000)
        say(f"Index {INDEX!r} has 1000 vectors, chunk-0 ... chunk-999. Starting Airflow (half a minute)")
        with airflow(home / "airflow", connection, DAG_ID) as instance:
            say(f"Open {instance.url}  (no password is asked for)")
            print(f"""
   Trigger {DAG_ID} and type ids into its form.
   The connection cloudflare_vectorize_default comes from the environment, so the UI does not list it; to see
   its form, add one of type 'Cloudflare Vectorize' under Admin > Connections.
   Logs: {instance.log.relative_to(ROOT)}. Stop with Ctrl-C.
""")
            while True:
                time.sleep(1)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        say("Stopped.")
