"""Each marked line must be refused by both checkers; no other line may be."""

from kici import (
    Context,
    EventPayload,
    HmacAuth,
    Inputs,
    PushEvent,
    SyncContext,
    comment,
    create,
    delete,
    dispatch,
    fixture,
    fork,
    generic_webhook,
    job,
    job_complete,
    kici_event,
    lifecycle,
    pr,
    push,
    release,
    review,
    review_comment,
    schedule,
    star,
    status,
    step,
    tag,
    watch,
    webhook,
    workflow_complete,
    workflow_run,
)


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
    ctx.secrets.get("x")  # error: pyright=reportUnusedCoroutine mypy=unused-coroutine
    print(ctx.outcome)  # error: pyright=reportAttributeAccessIssue mypy=attr-defined
    print(text, number, of_many)


push(branch="main")  # error: pyright=reportCallIssue mypy=call-arg
push(branches=5)  # error: pyright=reportArgumentType mypy=arg-type
push("main")  # error: pyright=reportCallIssue mypy=call-arg
push(repos=5)  # error: pyright=reportArgumentType mypy=arg-type
pr(events="openend")  # error: pyright=reportArgumentType mypy=arg-type
pr(events=["opened", "merged"])  # error: pyright=reportArgumentType mypy=list-item
tag(patterns=None)  # error: pyright=reportArgumentType mypy=arg-type
webhook()  # error: pyright=reportCallIssue mypy=call-arg
generic_webhook(events="alert")  # error: pyright=reportCallIssue mypy=call-arg
generic_webhook(source="s", match={"$.a": object()})  # error: pyright=reportArgumentType mypy=dict-item
pr(branches="main")  # error: pyright=reportCallIssue mypy=call-arg
comment(actions="posted")  # error: pyright=reportArgumentType mypy=arg-type
comment(source=["pull"])  # error: pyright=reportArgumentType mypy=list-item
review(states="accepted")  # error: pyright=reportArgumentType mypy=arg-type
review_comment(actions="submitted")  # error: pyright=reportArgumentType mypy=arg-type
release(actions="tagged")  # error: pyright=reportArgumentType mypy=arg-type
dispatch(inputs={"target": str})  # error: pyright=reportArgumentType mypy=arg-type
dispatch(type="deploy")  # error: pyright=reportCallIssue mypy=call-arg
create(ref_types="commit")  # error: pyright=reportArgumentType mypy=arg-type
delete(ref_type="branch")  # error: pyright=reportCallIssue mypy=call-arg
status(states="ok")  # error: pyright=reportArgumentType mypy=arg-type
workflow_run(actions="done")  # error: pyright=reportArgumentType mypy=arg-type
fork(actions="created")  # error: pyright=reportCallIssue mypy=call-arg
star(actions="started")  # error: pyright=reportArgumentType mypy=arg-type
watch(actions="deleted")  # error: pyright=reportArgumentType mypy=arg-type
kici_event()  # error: pyright=reportCallIssue mypy=call-arg
kici_event(int)  # error: pyright=reportArgumentType mypy=arg-type
workflow_complete(status="skipped")  # error: pyright=reportArgumentType mypy=arg-type
job_complete(status="done")  # error: pyright=reportArgumentType mypy=arg-type
schedule()  # error: pyright=reportCallIssue mypy=call-arg
schedule(cron=5)  # error: pyright=reportArgumentType mypy=arg-type
lifecycle()  # error: pyright=reportCallIssue mypy=call-arg
lifecycle(events="run_started")  # error: pyright=reportArgumentType mypy=arg-type
generic_webhook(source="s", auth="hmac")  # error: pyright=reportArgumentType mypy=arg-type
HmacAuth(secret="s")  # error: pyright=reportCallIssue mypy=call-arg
fixture("f", event="push")  # error: pyright=reportArgumentType mypy=call-overload
fixture("f", event=push(), brnch="main")  # error: pyright=reportCallIssue mypy=call-overload


class Deploy(Inputs):
    mode: str = "full"
    count: int


class Done(EventPayload, event="done"):
    env: str


Deploy()  # error: pyright=reportCallIssue mypy=call-arg
Deploy(count="1")  # error: pyright=reportArgumentType mypy=arg-type
Deploy(count=1).mode = "edge"  # error: pyright=reportAttributeAccessIssue mypy=misc
Done(environment="prod")  # error: pyright=reportCallIssue mypy=call-arg


@step
async def uses_more(ctx: Context) -> None:
    ctx.inputs(Done)  # error: pyright=reportArgumentType mypy=type-var
    number: str = ctx.inputs(Deploy).count  # error: pyright=reportAssignmentType mypy=assignment
    await ctx.emit(Deploy(count=1))  # error: pyright=reportArgumentType mypy=call-overload
    await ctx.emit("done", ["x"])  # error: pyright=reportArgumentType mypy=call-overload
    ctx.annotate("fatal", "no")  # error: pyright=reportArgumentType mypy=arg-type
    ctx.summary(5)  # error: pyright=reportArgumentType mypy=arg-type
    ctx.set_secret_output("a", "b")  # error: pyright=reportUnusedCoroutine mypy=unused-coroutine
    await ctx.cache.restore("key")  # error: pyright=reportArgumentType mypy=arg-type
    await ctx.kici.oidc.token()  # error: pyright=reportCallIssue mypy=call-arg
    print(ctx.fanout.index)  # error: pyright=reportOptionalMemberAccess mypy=union-attr
    ctx.host_outputs("x")  # error: pyright=reportArgumentType mypy=call-overload
    match ctx.event:
        case PushEvent() as e:
            print(e.payload.pull_request)  # error: pyright=reportAttributeAccessIssue mypy=attr-defined
            branch: int = e.payload.ref  # error: pyright=reportAssignmentType mypy=assignment
            print(branch)
        case _:
            print(ctx.event.payload.ref)  # error: pyright=reportAttributeAccessIssue mypy=attr-defined
    print(number)


@step
def blocking(ctx: SyncContext) -> None:
    waits = ctx.sh("ls")
    waits.send(None)  # error: pyright=reportAttributeAccessIssue mypy=attr-defined
    text: int = ctx.secrets.get("x")  # error: pyright=reportAssignmentType mypy=assignment
    print(text)
