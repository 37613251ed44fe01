"""Each marked line must be refused by both checkers; no other line may be."""

from kici import Context, generic_webhook, job, pr, push, step, tag, webhook


@step
async def build(ctx: Context) -> int:
    return 1


package = job("package", runs_on="linux", steps=[build])


@job(runs_on="linux")
async def single(ctx: Context) -> str:
    return ""


@step
async def uses(ctx: Context) -> None:
    text: str = ctx.outputs_of(build)  # error: pyright=reportAssignmentType mypy=assignment
    number: int = ctx.job_outputs(single)  # error: pyright=reportAssignmentType mypy=assignment
    of_many: int = ctx.job_outputs(package)  # error: pyright=reportAssignmentType mypy=assignment
    ctx.job_outputs("package")  # error: pyright=reportArgumentType mypy=call-overload
    ctx.job_outputs(build)  # error: pyright=reportArgumentType mypy=call-overload
    ctx.outputs_of(package)  # error: pyright=reportArgumentType mypy=arg-type
    ctx.sh("ls")  # error: pyright=reportUnusedCoroutine mypy=unused-coroutine
    ctx.run("ls")  # error: pyright=reportUnusedCoroutine mypy=unused-coroutine
    await ctx.sh(["ls"])  # error: pyright=reportArgumentType mypy=arg-type
    await ctx.run(1)  # error: pyright=reportArgumentType mypy=arg-type
    await ctx.run("ls", chek=False)  # error: pyright=reportCallIssue mypy=call-arg
    await ctx.sh("ls", timeout=b"1")  # error: pyright=reportArgumentType mypy=arg-type
    ctx.set_env("A", 1)  # error: pyright=reportArgumentType mypy=arg-type
    ctx.env["A"] = "b"  # error: pyright=reportIndexIssue mypy=index
    ctx.workspace = ctx.tmp  # error: pyright=reportAttributeAccessIssue mypy=misc
    ctx.secrets.get("x")  # error: pyright=reportAttributeAccessIssue mypy=attr-defined
    print(ctx.outcome)  # error: pyright=reportAttributeAccessIssue mypy=attr-defined
    print(text, number, of_many)


push(branch="main")  # error: pyright=reportCallIssue mypy=call-arg
push(branches=5)  # error: pyright=reportArgumentType mypy=arg-type
push("main")  # error: pyright=reportCallIssue mypy=call-arg
push(repos="other/repo")  # error: pyright=reportCallIssue mypy=call-arg
pr(events="openend")  # error: pyright=reportArgumentType mypy=arg-type
pr(events=["opened", "merged"])  # error: pyright=reportArgumentType mypy=list-item
tag(patterns=None)  # error: pyright=reportArgumentType mypy=arg-type
webhook()  # error: pyright=reportCallIssue mypy=call-arg
generic_webhook(events="alert")  # error: pyright=reportCallIssue mypy=call-arg
generic_webhook(source="s", match={"$.a": object()})  # error: pyright=reportArgumentType mypy=dict-item
