# SPDX-License-Identifier: Apache-2.0
"""Shared code of the benchmarks: alternating runs, medians, tables, goals, JSON, and facts of the machine."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).parent
ROOT = HERE.parent

Sample = TypeVar("Sample")


@dataclass
class Goal:
    """
    A bound for a measured number.

    :param text: the name of the number.
    :param measured: the number.
    :param least: the lower bound.
    :param most: the upper bound.
    """

    text: str
    measured: float
    least: float | None = None
    most: float | None = None

    @property
    def met(self) -> bool:
        """Whether the number is within the bound."""
        return (self.least is None or self.measured >= self.least) and (
            self.most is None or self.measured <= self.most
        )

    def __str__(self) -> str:
        bound = f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"
        return f"{'met   ' if self.met else 'MISSED'}  {self.text}: {self.measured:.4g}, {bound}"


@dataclass
class Report:
    """
    The result of a benchmark: a table, goals, and notes about the numbers.

    :param name: the benchmark.
    :param brief: whether it was a brief run, which checks that the benchmark works.
    """

    name: str
    brief: bool
    columns: list[str] = field(default_factory=list)
    rows: list[list[Any]] = field(default_factory=list)
    goals: list[Goal] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    samples: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {
            "benchmark": self.name,
            "brief": self.brief,
            "machine": machine(),
            "columns": self.columns,
            "rows": self.rows,
            "goals": [vars(goal) | {"met": goal.met} for goal in self.goals],
            "notes": self.notes,
            "samples": self.samples,
        }


def arguments(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the options of all benchmarks."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the result to a JSON file")
    parser.add_argument(
        "--brief",
        action="store_true",
        help="do little work in few runs, to check that the benchmark works; missed goals do not fail it",
    )
    return parser


def finish(report: Report, options: argparse.Namespace) -> None:
    """Print a report, write it as JSON if requested, and exit; with 1 if a full run missed a goal."""
    facts = machine()
    print(f"\n{report.name}{' (brief)' if report.brief else ''}: {', '.join(facts.values())}\n")
    print_table(report.columns, report.rows)
    for line in [*report.notes, *map(str, report.goals)]:
        print(f"  {line}")
    sys.stdout.flush()
    if options.json is not None:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(report.as_dict(), indent=2) + "\n")
    sys.exit(1 if not report.brief and not all(goal.met for goal in report.goals) else 0)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a table, with numbers aligned to the right."""
    texts = [[_text(cell) for cell in row] for row in rows]
    widths = [max(len(row[i]) for row in [list(columns), *texts]) for i in range(len(columns))]
    numeric = [all(_is_number(row[i]) for row in texts) for i in range(len(columns))]

    def line(cells: Sequence[str]) -> str:
        return " | ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        )

    print(line(columns))
    print("-|-".join("-" * width for width in widths))
    for row in texts:
        print(line(row))
    print()


def _text(cell: Any) -> str:
    if cell is None:
        return ""
    return (
        f"{cell:.4g}"
        if isinstance(cell, float) and abs(cell) < 1000
        else f"{cell:,.0f}"
        if isinstance(cell, float)
        else f"{cell:,}"
        if isinstance(cell, int)
        else str(cell)
    )


def _is_number(text: str) -> bool:
    return not text or text.replace(",", "").replace(".", "").replace("-", "").replace("e", "").isdigit()


def machine() -> dict[str, str]:
    """Return facts that numbers depend on, without the name of the machine."""
    facts = {
        "cores": f"{os.cpu_count()} cores",
        "cpu": platform.machine(),
        "system": f"{platform.system()} {platform.release().split('-')[0]}",
        "python": f"Python {platform.python_version()}",
    }
    for package in ("apache-airflow", "requests", "urllib3"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            facts[package] = f"{package} {importlib.metadata.version(package)}"
    return facts


def alternate(
    cases: Mapping[str, Callable[[], Sample]], runs: int, tell: Callable[[str, Sample], object] | None = None
) -> dict[str, list[Sample]]:
    """
    Run all cases in turn, several times, so that other load on the machine affects all of them.

    :param cases: the cases by name.
    :param runs: the number of runs of each case.
    :param tell: called after each run.
    """
    found: dict[str, list[Sample]] = {name: [] for name in cases}
    for number in range(runs):
        # Each round begins with another case, so that none is always first.
        names = list(cases)
        first = number % len(names)
        for name in names[first:] + names[:first]:
            sample = cases[name]()
            found[name].append(sample)
            if tell is not None:
                tell(name, sample)
    return found


def median(values: Iterable[float]) -> float:
    """Return the median."""
    return float(statistics.median(values))


def median_ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    """Return the median of the ratios of runs in the same round."""
    return median(one / other for one, other in zip(ones, others, strict=True))


def say(text: str) -> None:
    """Print progress to stderr."""
    print(text, file=sys.stderr, flush=True)


# --- processes ---------------------------------------------------------------------------------------------


def environment(home: Path | None = None, **more: str) -> dict[str, str]:
    """
    Return the environment variables of a process that imports this package and uses its own Airflow.

    :param home: Airflow's directory.
    :param more: more variables.
    """
    env = dict(os.environ)
    # With this variable, each process would compile this package, which no installer has compiled.
    env.pop("PYTHONDONTWRITEBYTECODE", None)
    env["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(HERE), *filter(None, [env.get("PYTHONPATH")])])
    if home is not None:
        env |= {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(home / "logs"),
        }
    return env | more


@contextlib.contextmanager
def airflow_home() -> Iterator[Path]:
    """Create a directory for an Airflow, and remove it at the end."""
    with tempfile.TemporaryDirectory(prefix="cfvectorize-bench-") as directory:
        home = Path(directory)
        (home / "dags").mkdir()
        yield home


def run_python(
    *words: str,
    env: Mapping[str, str],
    core: int | None = None,
    timeout: float = 1800,
    python: str = sys.executable,
) -> Any:
    """
    Run a Python process and return the JSON in its last line of output.

    :param words: the arguments of the interpreter.
    :param env: the environment variables.
    :param core: the only core it may use; None for any.
    :param timeout: the most seconds it may take.
    :param python: the interpreter.
    """
    done = subprocess.run(
        [python, *words],
        env=dict(env),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        preexec_fn=None if core is None else lambda: _pin(core),
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(words)[:200]} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


@contextlib.contextmanager
def server(*words: str, core: int | None = None) -> Iterator[str]:
    """
    Run a server in its own process and yield its base URL, which it prints once it listens.

    :param words: the arguments of the interpreter.
    :param core: the only core it may use; None for any.
    """
    process = subprocess.Popen(
        [sys.executable, *words],
        env=environment(),
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=None if core is None else lambda: _pin(core),
    )
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if "listening on" in line:
                break
        else:
            raise SystemExit(f"{' '.join(words)} ended before it listened")
        # Read further output, so that it does not fill the pipe.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield line.split()[-1]
    finally:
        process.terminate()
        process.wait(30)


def _pin(core: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


def two_cores() -> tuple[int, int] | tuple[None, None]:
    """Return a core for clients and one for servers; None for both if that is not possible."""
    if not hasattr(os, "sched_getaffinity"):
        return None, None
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)
