"""The examples of the requirements as they stand there: inferred without a single cast (AU-5, AU-44, AU-83)."""

from dataclasses import dataclass
from typing import Annotated, Literal, assert_type

from kici import (
    Context,
    DynamicJobs,
    EventPayload,
    GenerateContext,
    Inputs,
    Meta,
    MultiJob,
    Step,
    dispatch,
    dynamic_jobs,
    fixture,
    job,
    kici_event,
    push,
    step,
    workflow,
)


@dataclass
class Found:
    targets: list[str]


@job("discover", runs_on="kici:os:linux")
async def discover(ctx: Context) -> Found:
    return Found(targets=(await ctx.sh("ls services")).lines)


@step
async def scan(ctx: Context, *, target: str) -> None:
    await ctx.sh('./scan "$t"', t=target)


@dynamic_jobs("reports", needs=[discover])
async def reports(g: GenerateContext) -> list[MultiJob]:
    assert_type(g.job_outputs(discover), Found)
    return [
        job(f"report-{t}", runs_on="linux", steps=[scan.bind(target=t)])
        for t in g.job_outputs(discover).targets
    ]


class DeployInputs(Inputs):
    target: str | None = None
    mode: Literal["full", "edge-only"] = "full"
    retries: Annotated[int, Meta(ge=0, le=10)] = 3


class DeployComplete(EventPayload, event="deploy-complete"):
    env: str


@step
async def announce(ctx: Context) -> None:
    inputs = ctx.inputs(DeployInputs)
    assert_type(inputs.target, str | None)
    assert_type(inputs.mode, Literal["full", "edge-only"])
    tag = (await ctx.sh("git describe --tags")).text
    await ctx.sh(
        'docker push "$image" && rm -rf -- "${dirs[@]}"', image=f"ghcr.io/a/b:{tag}", dirs=["a b", "c"]
    )
    if not (await ctx.run("systemctl", "is-active", "nginx", check=False)).ok:
        await ctx.emit(DeployComplete(env=inputs.target or "all"))


push_main = fixture("push-main", event=push(branches="main"), secrets={"db": "test-database"})
scans = workflow(
    "scans",
    on=[dispatch(inputs=DeployInputs), kici_event(DeployComplete, match={"$.env": "prod"})],
    jobs=[discover, reports],
)
assert_type(reports, DynamicJobs)
assert_type(scan.bind(target="x"), Step[None])
