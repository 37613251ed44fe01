"""Checks, builds, proves that the build is reproducible, and reports whatever happened."""

from artifacts import Artifact, build_artifact

from kici import Context, HookContext, Retry, job, need, parallel, push, step, workflow


@step
async def syntax(ctx: Context) -> None:
    await ctx.sh("python3 -m compileall -q .")


@step(timeout="5m", retry=Retry(attempts=2, delay="1s"))
async def unit_tests(ctx: Context) -> None:
    await ctx.run("python3", "-m", "unittest", "-v")


@step
async def build(ctx: Context) -> Artifact:
    return await build_artifact(ctx)


@step
async def smoke_test(ctx: Context) -> None:
    artifact = ctx.outputs_of(build)
    said = await ctx.sh('./dist/greeter.pyz "$name"', name="kici")
    if said.text != "Hello, kici!":
        raise ValueError(f"version {artifact.version} greets wrongly: {said.text}")


def note_end(ctx: HookContext) -> None:
    ctx.log.info("ended as %s after %.1f s", ctx.outcome.status, ctx.outcome.duration)


package = job(
    "package",
    runs_on="kici:os:linux",
    steps=[parallel(syntax, unit_tests, name="checks"), build, smoke_test],
    env={"PYTHONDONTWRITEBYTECODE": "1"},
    timeout="15m",
    cleanup=note_end,
)


@job(runs_on="kici:os:linux", needs=[package])
async def reproduce(ctx: Context) -> bool:
    """Builds again, elsewhere, and compares."""
    wanted = ctx.job_outputs(package).of(build)
    found = await build_artifact(ctx)
    if found != wanted:
        raise ValueError(f"{wanted.sha256} became {found.sha256}")
    return True


@job(runs_on="kici:os:linux", needs=[need(package, when="always"), need(reproduce, when="always")])
async def report(ctx: Context) -> None:
    for result in (ctx.need(package), ctx.need(reproduce)):
        ctx.log.info("%s: %s", result.name, result.status)
    if ctx.need(package).status == "success":
        ctx.log.info("version %s is ready", ctx.job_outputs(package).of(build).version)


release = workflow(
    "release",
    on=[push(branches=["main", "release/*"]), push(tags="v*")],
    jobs=[package, reproduce, report],
    description="Build, verify, report",
)
