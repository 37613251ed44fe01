"""Builds an image, runs what is in it, builds it again elsewhere, and releases on a tag."""

from images import Image, build_image, unpack

from kici import Concurrency, Context, Retry, job, need, push, skip, step, tag, workflow

COMMAND = ["python3", "/app/main.py"]


@step
async def build(ctx: Context) -> Image:
    name = ctx.event.target_branch if ctx.event.type == "tag" else "latest"
    image = build_image(ctx.workspace / "app", ctx.workspace / "image", str(name), COMMAND)
    ctx.log.info("%s is %s, %d bytes", image.tag, image.digest, image.size)
    return image


@step(timeout="2m", retry=Retry(attempts=2, delay="1s"))
async def smoke_test(ctx: Context) -> None:
    """Unpacks the layers as a runtime would, and runs the command there."""
    root = ctx.tmp / "root"
    program, script = unpack(ctx.workspace / "image", root)
    said = await ctx.run(program, str(root / script.lstrip("/")), input="three words here")
    if said.text != "3":
        raise ValueError(f"the image counts {said.text}")


image = job("image", runs_on="kici:os:linux", steps=[build, smoke_test], timeout="15m")


@job(runs_on="kici:os:linux", needs=[image])
async def reproduce(ctx: Context) -> bool:
    """Another clone, another directory: the digest must be the same."""
    wanted = ctx.job_outputs(image).of(build)
    found = build_image(ctx.workspace / "app", ctx.tmp / "again", wanted.tag, COMMAND)
    if found.digest != wanted.digest:
        raise ValueError(f"{wanted.digest} became {found.digest}")
    return True


@job(
    runs_on="kici:os:linux",
    needs=[image, reproduce],
    rules=[skip("no tag", lambda ctx: ctx.event.type != "tag")],
)
async def publish(ctx: Context) -> None:
    """Where a registry is at hand, this is the place to push to it."""
    released = ctx.job_outputs(image).of(build)
    ctx.summary(f"Released `{released.tag}` as `{released.digest}`\n")


@job(runs_on="kici:os:linux", needs=[need(image, when="always"), need(publish, when="always")])
async def report(ctx: Context) -> None:
    for result in (ctx.need(image), ctx.need(publish)):
        ctx.log.info("%s: %s", result.name, result.status)


container = workflow(
    "container",
    on=[push(branches="main", paths=["app/**", ".kici/**"]), tag(patterns="v*")],
    jobs=[image, reproduce, publish, report],
    concurrency=Concurrency(group=lambda c: f"{c.workflow}-{c.ref}"),
)
