# SPDX-License-Identifier: Apache-2.0
"""
What importing the modules of a provider adds to importing the Airflow classes that they derive from.

A DAG processor imports them for every DAG file, again and again. Each import is timed in a fresh process that
has imported the base classes before; the providers take turns. The other providers come into an environment
of the benchmark's own, ``.venv-imports``, which sees the packages of this one.
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
#: What is imported, by provider and row. A name after the colon is one class, else all that the module has.
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
#: The base classes first, then the modules, then every class that a module offers on being asked for it.
TIMED = """
import gc, importlib, json, sys, time
from airflow.providers.common.compat.sdk import BaseHook, BaseOperator, BaseSensorOperator, conf
from airflow.triggers.base import BaseTrigger, TriggerEvent
# A collection would fall into one of them by chance, and take longer than all of it.
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
    """Return the interpreter of an environment that has the other providers too."""
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
        # Airflow and all else is there already.
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
    """Measure, print, write."""
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=int, help="runs of each import (default: 5, briefly 1)")
    options = parser.parse_args()
    runs: int = options.runs or (1 if options.brief else 5)
    # Briefly, those whose clients are large are left out: it takes minutes to install them.
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

        # Once without being counted: what is compiled is compiled then.
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
