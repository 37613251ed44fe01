"""The same tests under several interpreter settings, side by side; then one job that counts them all."""

import re
from dataclasses import dataclass

from kici import Context, job, pr, push, workflow


@dataclass
class Tested:
    tests: int
    seconds: float


@job(
    runs_on="kici:os:linux",
    matrix={"mode": ["default", "optimized", "warnings"], "seed": [0, 1]},
    exclude=[{"mode": "warnings", "seed": 1}],
    include=[{"mode": "dev", "seed": 0}],
    max_parallel=4,
)
async def test(ctx: Context, *, mode: str, seed: int) -> Tested:
    """Matrix values arrive as parameters of the same name."""
    flags = {"default": [], "optimized": ["-O"], "warnings": ["-W", "error"], "dev": ["-X", "dev"]}[mode]
    done = await ctx.run("python3", *flags, "-m", "unittest", "-v", env={"PYTHONHASHSEED": str(seed)})
    ran = re.search(r"Ran (\d+) tests? in ([\d.]+)s", done.stderr)
    if ran is None:
        raise ValueError("unittest did not say how many tests it ran")
    return Tested(tests=int(ran[1]), seconds=float(ran[2]))


@job(runs_on="kici:os:linux", needs=[test])
async def count(ctx: Context) -> int:
    results = ctx.matrix_outputs(test).by_matrix
    for combination, tested in results.items():
        ctx.log.info("%-14s %d tests in %.3f s", combination, tested.tests, tested.seconds)
    return sum(tested.tests for tested in results.values())


tests = workflow("tests", on=[push(), pr()], jobs=[test, count])
