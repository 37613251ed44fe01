"""Greets on every push: one job of one function, run where a Linux agent is free."""

from kici import Context, job, push, workflow


@job(runs_on="kici:os:linux", timeout="5m")
async def greet(ctx: Context) -> None:
    files = (await ctx.run("git", "ls-files", quiet=True)).lines
    ctx.log.info("This repository has %d files", len(files))
    await ctx.sh('echo "Hello from $(hostname), at commit $sha"', sha=ctx.run_info.sha)


hello_world = workflow("hello-world", on=push(), jobs=[greet])
