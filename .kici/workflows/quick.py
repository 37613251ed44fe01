"""Every push: what can be said within half a minute."""

from toolbox import python

from kici import Context, job, parallel, push, step, workflow

LINUX = "kici:os:linux"
PURE_ROOMS = ["engine", "sdk"]


@step
async def formatting(ctx: Context) -> None:
    await ctx.run(await python(ctx), "-m", "ruff", "format", "--check", ".")


@step
async def lint(ctx: Context) -> None:
    await ctx.run(await python(ctx), "-m", "ruff", "check", ".")


@step(timeout="5m")
async def unit_tests(ctx: Context, *, room: str) -> None:
    """Of this checkout: its `src` comes before what is installed."""
    await ctx.run(
        await python(ctx),
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        f"tests/unit/{room}",
        env={"PYTHONPATH": str(ctx.workspace / "src")},
    )


style = job("style", runs_on=LINUX, steps=[parallel(formatting, lint)])
tests = job("unit tests", runs_on=LINUX, needs=[style], matrix={"room": PURE_ROOMS}, steps=[unit_tests])

quick = workflow("quick", on=push(branches="**"), jobs=[style, tests])
