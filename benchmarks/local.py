"""`kici run local` from Enter to exit: one trivial job, and a graph of two hundred."""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.report import Row, spread
from benchmarks.scenarios import timed

_TRIVIAL = """
from kici import Context, job, push, workflow

@job(runs_on="kici:os:linux")
async def greet(ctx: Context) -> None:
    await ctx.sh("echo hello")

ci = workflow("ci", on=push(), jobs=[greet])
"""
_GRAPH = """
from kici import Context, MultiJob, job, push, step, workflow

@step
async def note(ctx: Context) -> str:
    print("here")
    return "done"

jobs: list[MultiJob] = []
for layer in range(10):
    below = jobs[-20:]
    jobs += [job(f"l{layer}-{n}", runs_on="kici:os:linux", steps=[note], needs=below[n % 5 :: 5]) for n in range(20)]

ci = workflow("ci", on=push(), jobs=jobs)
"""


def local_runs(rounds: int) -> list[Row]:
    trivial = _runs(_TRIVIAL, rounds)
    graph = _runs(_GRAPH, max(2, rounds // 3))
    return [
        _row("`kici run local` of a trivial workflow, Enter to exit", trivial, 0.6),
        _row("`kici run local` of 200 jobs in ten layers", graph, None),
    ]


def _row(path: str, samples: list[tuple[float, float]], budget_s: float | None) -> Row:
    seconds = [wall for wall, _ in samples]
    cpu = [spent for _, spent in samples]
    return Row(
        path,
        "" if budget_s is None else f"≤ {budget_s} s",
        f"{spread(seconds, 's', 2)}; CPU {statistics.median(cpu):.2f} s",
        None if budget_s is None else statistics.median(seconds) <= budget_s,
        {"seconds": seconds, "cpuSeconds": cpu},
    )


def _runs(source: str, rounds: int) -> list[tuple[float, float]]:
    """(wall, CPU) of each, in a repository with one commit; the first run only warms caches."""
    kici = str(Path(sys.executable).with_name("kici"))
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "repository"
        (root / ".kici" / "workflows").mkdir(parents=True)
        (root / ".kici" / "workflows" / "ci.py").write_text(source)
        identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org"]
        for arguments in (["init", "-q", "-b", "main"], ["add", "."], ["commit", "-qm", "workflows"]):
            subprocess.run(["git", *identity, *arguments], cwd=root, check=True)
        environ = {**os.environ, "KICI_RUN_DIR": f"{folder}/runs", "KICI_CONFIG_DIR": f"{folder}/home"}
        command = [kici, "run", "local", "push", "--quiet"]
        timed(command, cwd=str(root), env=environ)
        return [timed(command, cwd=str(root), env=environ) for _ in range(rounds)]
