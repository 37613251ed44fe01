"""Build the container image of this repository; push it from the default branch."""

from kici import Concurrency, Context, RuleContext, job, pr, push, rule, step, workflow

IMAGE = "registry.example.com/team/app"
LINUX = "kici:os:linux"


@step(timeout="20m")
async def build(ctx: Context) -> str:
    """The image's name with its tag, or empty where there is nothing to build with."""
    engine = (await ctx.sh("command -v podman || command -v docker || true", quiet=True)).text
    if not engine or not (ctx.workspace / "Dockerfile").exists():
        ctx.log.warning("This needs a Dockerfile, and podman or docker on the agent")
        return ""
    image = f"{IMAGE}:{ctx.run_info.sha[:12]}"
    await ctx.run(engine, "build", "--tag", image, ".")
    return image


image = job("image", runs_on=LINUX, steps=[build])


@rule("the default branch")
def on_main(ctx: RuleContext) -> bool:
    return ctx.event.type == "push" and ctx.event.target_branch == "main"


@job(runs_on=LINUX, needs=[image], rules=[on_main])
async def publish(ctx: Context) -> None:
    name = ctx.job_outputs(image).of(build)
    if not name:
        ctx.log.warning("There is no image to push")
        return
    ctx.log.info("Put `podman login` and `podman push %s` here", name)


docker_build = workflow(
    "docker-build",
    on=[push(branches="main"), pr(target="main")],
    jobs=[image, publish],
    concurrency=Concurrency(group="docker-build", cancel_in_progress=True),
)
