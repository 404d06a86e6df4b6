# SPDX-License-Identifier: Apache-2.0
"""
Measure how long the import of a provider's modules takes, after the import of their Airflow base classes.

A DAG processor repeats these imports for every DAG file. Each import is timed in a new process that has
already imported the base classes; the providers alternate. The other providers are installed in an
environment of their own, ``.venv-imports``, which also has access to the packages of this environment.
"""

from __future__ import annotations

import subprocess
import sys
import sysconfig
import venv
from functools import partial
from pathlib import Path

from measuring import (
    HERE,
    ROOT,
    Goal,
    Report,
    airflow_home,
    alternate,
    arguments,
    environment,
    finish,
    median,
    run_python,
    say,
)

MAX_MS = 10.0
OURS = "cfvectorize"
PACKAGE = "airflow_provider_cfvectorize"
#: The imported modules, by provider and row. With a name after a colon, one class is imported; without it,
#: all names of the module.
MODULES = {
    (OURS, "delete by ids"): [f"{PACKAGE}.operators.vectors:DeleteVectorsByIdsOperator"],
    (OURS, "upsert"): [f"{PACKAGE}.operators.vectors:UpsertVectorsOperator"],
    (OURS, "query"): [f"{PACKAGE}.operators.vectors:QueryVectorsOperator"],
    (OURS, "reconcile"): [f"{PACKAGE}.operators.vectors:ReconcileVectorsOperator"],
    (OURS, "create an index"): [f"{PACKAGE}.operators.indexes:CreateVectorizeIndexOperator"],
    (OURS, "sensor"): [f"{PACKAGE}.sensors.mutation"],
    (OURS, "trigger"): [f"{PACKAGE}.triggers.mutation"],
    (OURS, "all 12 operators, sensor, trigger"): [
        f"{PACKAGE}.operators.vectors",
        f"{PACKAGE}.operators.indexes",
        f"{PACKAGE}.sensors.mutation",
        f"{PACKAGE}.triggers.mutation",
    ],
    ("http", "operator"): ["airflow.providers.http.operators.http"],
    ("http", "sensor"): ["airflow.providers.http.sensors.http"],
    ("http", "trigger"): ["airflow.providers.http.triggers.http"],
    ("pinecone", "operators"): ["airflow.providers.pinecone.operators.pinecone"],
    ("qdrant", "operator"): ["airflow.providers.qdrant.operators.qdrant"],
    ("weaviate", "operators"): ["airflow.providers.weaviate.operators.weaviate"],
}
#: Imports the base classes, then the modules, then every class that a module loads lazily.
TIMED = """
import gc, importlib, json, sys, time
from airflow.providers.common.compat.sdk import BaseHook, BaseOperator, BaseSensorOperator, conf
from airflow.triggers.base import BaseTrigger, TriggerEvent
# A garbage collection would hit one of the imports at random, and take longer than the import.
gc.collect()
gc.disable()
before = len(sys.modules)
wall, cpu = time.perf_counter(), time.process_time()
for word in sys.argv[1:]:
    path, _, name = word.partition(":")
    module = importlib.import_module(path)
    for one in [name] if name else getattr(module, "__all__", ()):
        getattr(module, one)
found = {"wall": (time.perf_counter() - wall) * 1000, "cpu": (time.process_time() - cpu) * 1000}
print(json.dumps(found | {"modules": len(sys.modules) - before}))
"""


def make_environment(providers: set[str]) -> str:
    """Return the interpreter of an environment with the other providers."""
    directory = ROOT / ".venv-imports"
    python = directory / "bin" / "python"
    if not python.exists():
        say("  making .venv-imports")
        venv.create(directory, with_pip=True)
        site = Path(
            subprocess.check_output(
                [python, "-c", "import site; print(site.getsitepackages()[0])"], text=True
            ).strip()
        )
        # Airflow and the other packages come from the current environment.
        (site / "environment.pth").write_text(sysconfig.get_path("purelib") + "\n")
    wanted = [f"apache-airflow-providers-{name}" for name in sorted(providers)]
    subprocess.run(
        [
            *(str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"),
            *("-c", str(ROOT / "constraints" / "airflow-3.3.txt"), "-c", str(HERE / "providers.txt")),
            *wanted,
        ],
        check=True,
        stdout=sys.stderr,
    )
    return str(python)


def main() -> None:
    """Run the benchmark."""
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=int, help="runs of each import (default: 5, briefly 1)")
    options = parser.parse_args()
    runs: int = options.runs or (1 if options.brief else 5)
    # A brief run leaves out the providers with large clients, which take minutes to install.
    others = {"http"} if options.brief else {"http", "pinecone", "qdrant", "weaviate"}
    cases = {key: words for key, words in MODULES.items() if key[0] in {OURS, *others}}
    python = make_environment(others)
    report = Report(
        "imports",
        options.brief,
        ["provider", "what is imported", "CPU ms", "ms", "least CPU ms", "modules"],
    )
    with airflow_home() as home:
        env = environment(home)

        def run(words: list[str]) -> dict[str, float]:
            found: dict[str, float] = run_python("-c", TIMED, *words, env=env, python=python)
            return found

        # Not counted: the first run compiles the modules.
        for words in cases.values():
            run(words)
        found = alternate(
            {f"{provider}: {what}": partial(run, words) for (provider, what), words in cases.items()}, runs
        )
    for provider, what in cases:
        samples = found[f"{provider}: {what}"]
        cpu = median(one["cpu"] for one in samples)
        report.rows.append(
            [
                provider,
                what,
                cpu,
                median(one["wall"] for one in samples),
                min(one["cpu"] for one in samples),
                int(samples[0]["modules"]),
            ]
        )
        if provider == OURS:
            report.goals.append(Goal(f"{what}: CPU time that the import adds, ms", cpu, most=MAX_MS))
    report.samples = found
    report.notes.append(f"medians of {runs} runs in fresh processes, all compiled, no garbage collection")
    finish(report, options)


if __name__ == "__main__":
    main()
