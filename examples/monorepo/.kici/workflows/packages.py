"""Tests what a change concerns, and nothing else: the matrix is worked out when the event arrives."""

from packages import concerned_by

from kici import Context, GenerateContext, job, pr, push, workflow


def concerned(g: GenerateContext) -> list[str]:
    return concerned_by(g.event.changed_files)


@job(runs_on="kici:os:linux", matrix=concerned, max_parallel=4)
async def test(ctx: Context) -> int:
    package = str(ctx.matrix["value"])
    await ctx.run("python3", "-m", "compileall", "-q", package)
    await ctx.run("python3", "-m", "unittest", "discover", "-v", "-s", package, "-t", ".")
    return len(list((ctx.workspace / package).rglob("*.py")))


@job(runs_on="kici:os:linux", needs=[test])
async def report(ctx: Context) -> None:
    for package, files in ctx.matrix_outputs(test).by_matrix.items():
        ctx.log.info("%-14s %d files", package, files)


everything = workflow("packages", on=[push(), pr()], jobs=[test, report])
