"""A tag becomes a release: archive, checksum, notes from the commits, and a word when something fails."""

from dataclasses import dataclass

from kici import Context, HookContext, Retry, job, step, tag, workflow

LINUX = "kici:os:linux"


@dataclass
class Archive:
    name: str
    sha256: str


@step
async def archive(ctx: Context) -> Archive:
    version = ctx.event.target_branch or ctx.run_info.sha[:12]
    name = f"release-{version}.tar.gz".replace("/", "-")
    await ctx.sh('git archive --prefix="release/" --output "$name" HEAD', name=name)
    digest = (await ctx.run("sha256sum", name, quiet=True)).text.split()[0]
    return Archive(name=name, sha256=digest)


@step
async def notes(ctx: Context) -> None:
    """Since the tag before, or the last twenty commits."""
    lines = (await ctx.sh('git log -20 --format="- %s (%h)"', quiet=True)).text
    ctx.summary(f"## Changes\n\n{lines}\n")


build = job("build", runs_on=LINUX, steps=[archive, notes])


async def tell(ctx: HookContext) -> None:
    ctx.log.error("The release failed at %s: %s", ctx.outcome.failed_step, ctx.outcome.reason)


@step(retry=Retry(attempts=3, delay="5s"))
async def upload(ctx: Context) -> None:
    made = ctx.job_outputs(build).of(archive)
    ctx.log.info("Put your upload of %s (sha256 %s) here", made.name, made.sha256)


publish = job("publish", runs_on=LINUX, needs=[build], steps=[upload], on_failure=tell)

release = workflow("release", on=tag(patterns="v*"), jobs=[build, publish])
