"""The reference examples: every result is inferred, nothing is annotated twice (AU-5)."""

from dataclasses import dataclass
from typing import assert_type

from kici import (
    Context,
    Job,
    JobOutputs,
    MultiJob,
    NeedResult,
    Step,
    Workflow,
    job,
    need,
    pr,
    push,
    step,
    workflow,
)


@dataclass
class Built:
    version: str


@step(timeout="5m", retry=2)
async def build(ctx: Context) -> Built:
    await ctx.sh("uv build")
    return Built(version="1.4.0")


package = job("package", runs_on="kici:os:linux", steps=[build])


@job(runs_on="kici:os:linux", needs=[package])
async def deploy(ctx: Context) -> None:
    assert_type(ctx.job_outputs(package), JobOutputs)
    assert_type(ctx.job_outputs(package).of(build), Built)
    await ctx.sh('./deploy.sh "$v"', v=ctx.job_outputs(package).of(build).version)


@job("discover", runs_on=["linux", "!slow"])
async def discover(ctx: Context) -> list[str]:
    found = await ctx.run("git", "ls-files", check=False)
    return found.lines if found.ok else found.json(list[str])


@step
async def scan(ctx: Context, *, target: str) -> int:
    completed = await ctx.sh('./scan "$t"', t=target)
    return completed.returncode


reports = [
    job(f"report-{target}", runs_on="linux", needs=[discover, "package"], steps=[scan.bind(target=target)])
    for target in ("api", "web")
]


@job(runs_on="linux", needs=[need(discover, when="always"), need("package", when={"failed", "cancelled"})])
def summary(ctx: Context) -> str:
    assert_type(ctx.job_outputs(discover), list[str])
    assert_type(ctx.need(discover), NeedResult[list[str]])
    assert_type(ctx.need(discover).result, list[str] | None)
    assert_type(ctx.outputs_of(build), Built)
    return ", ".join(ctx.job_outputs(discover))


ci = workflow(
    "ci", on=[push(branches="main"), pr(target="main")], jobs=[package, deploy, discover, *reports, summary]
)

assert_type(build, Step[Built])
assert_type(scan, Step[int])
assert_type(scan.bind(target="api"), Step[int])
assert_type(package, MultiJob)
assert_type(deploy, Job[None])
assert_type(discover, Job[list[str]])
assert_type(summary, Job[str])
assert_type(reports, list[MultiJob])
assert_type(ci, Workflow)
