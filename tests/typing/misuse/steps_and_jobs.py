"""Each marked line must be refused by both checkers; no other line may be."""

from kici import (
    Approval,
    Cache,
    Concurrency,
    ConcurrencyContext,
    Container,
    Context,
    GenerateContext,
    HookContext,
    Hosts,
    Init,
    MultiJob,
    Retry,
    RuleContext,
    Runner,
    cache_key,
    dynamic_jobs,
    group,
    hook,
    idempotent,
    job,
    mise,
    need,
    only_on_fanout_index,
    parallel,
    restart_host,
    rule,
    skip,
    step,
    team,
    uv,
    wait_for,
    wait_for_host_alive,
    wait_for_step,
    workflow,
)


@step(timeot="5m")  # error: pyright=reportCallIssue mypy=call-overload
async def misspelt(ctx: Context) -> None: ...


@step(timeout=[5])  # error: pyright=reportArgumentType mypy=call-overload
async def bad_duration(ctx: Context) -> None: ...


@step(retry="3")  # error: pyright=reportArgumentType mypy=call-overload
async def bad_retry(ctx: Context) -> None: ...


@step(retry=Retry(attempts=2, backoff="linear"))  # error: pyright=reportArgumentType mypy=arg-type
async def bad_backoff(ctx: Context) -> None: ...


@step(secrets=["token"])  # error: pyright=reportCallIssue mypy=call-overload
async def later_feature(ctx: Context) -> None: ...


@step  # error: pyright=reportArgumentType mypy=arg-type
async def no_ctx() -> None: ...


@step()  # error: pyright=reportArgumentType mypy=arg-type
async def wrong_first(ctx: int) -> None: ...


@step
async def good(ctx: Context) -> int:
    return 1


async def not_a_hook(ctx: HookContext, extra: int) -> None: ...


@step(cleanup=not_a_hook)  # error: pyright=reportArgumentType mypy=arg-type
async def bad_hook(ctx: Context) -> None: ...


hook(good, timeout=None)  # error: pyright=reportArgumentType mypy=arg-type
parallel("lint")  # error: pyright=reportArgumentType mypy=arg-type
parallel(good, fail_fast="no")  # error: pyright=reportArgumentType mypy=arg-type

fine = job("fine", runs_on="linux", steps=[good])
job("x", run_on="linux", steps=[good])  # error: pyright=reportCallIssue mypy=call-overload
job("x", runs_on=5, steps=[good])  # error: pyright=reportArgumentType mypy=call-overload
job("x", runs_on="linux", steps=good)  # error: pyright=reportArgumentType mypy=call-overload
job("x", runs_on="linux", steps=[good], needs=[1])  # error: pyright=reportArgumentType mypy=list-item
job("x", runs_on="linux", steps=[good], env={"A": 1})  # error: pyright=reportArgumentType mypy=dict-item
job("x", runs_on="linux", steps=[good], matrix=5)  # error: pyright=reportArgumentType mypy=call-overload
job(approval=False)  # error: pyright=reportArgumentType mypy=call-overload
job("x", runs_on="linux", steps=[fine])  # error: pyright=reportArgumentType mypy=list-item


@job("decorated", runs_on="linux", timout="5m")  # error: pyright=reportCallIssue mypy=call-overload
async def misspelt_job(ctx: Context) -> None: ...


@job(runs_on="linux")  # error: pyright=reportArgumentType mypy=arg-type
async def job_without_ctx() -> None: ...


unfinished = job("unfinished", runs_on="linux")
need(fine, when="on-sucess")  # error: pyright=reportArgumentType mypy=arg-type
need(fine, when={"succeeded"})  # error: pyright=reportArgumentType mypy=arg-type
need(good)  # error: pyright=reportArgumentType mypy=arg-type
workflow("w", jobs=[good])  # error: pyright=reportArgumentType mypy=list-item
workflow("w", jobs=[unfinished])  # error: pyright=reportArgumentType mypy=list-item
workflow("w", jobs=[fine], on="push")  # error: pyright=reportArgumentType mypy=arg-type
workflow("w", jobs=[fine], timeout={})  # error: pyright=reportArgumentType mypy=arg-type
workflow(jobs=[fine])  # error: pyright=reportCallIssue mypy=call-arg


# ── checks ──


async def drifted(ctx: Context) -> list[str] | None:
    return None


def shown(drift: list[str]) -> str:
    return ", ".join(drift)


def shown_wrong(drift: int) -> str:
    return ""


@step(check=drifted)  # error: pyright=reportCallIssue mypy=call-overload
async def unsummarized(ctx: Context, drift: list[str]) -> None: ...


@step(summarize=shown)  # error: pyright=reportCallIssue mypy=call-overload
async def unchecked(ctx: Context, drift: list[str]) -> None: ...


@step(check=drifted, summarize=shown_wrong)  # error: pyright=reportArgumentType mypy=misc
async def wrong_summary(ctx: Context, drift: list[str]) -> None: ...


@step(check=drifted, summarize=shown)  # error: pyright=reportArgumentType mypy=arg-type
async def no_drift(ctx: Context) -> None: ...


@step(check=drifted, summarize=shown)  # error: pyright=reportArgumentType mypy=arg-type
async def wrong_drift(ctx: Context, drift: int) -> None: ...


@step(check=drifted, summarize=shown, timeot=5)  # error: pyright=reportCallIssue mypy=call-overload
async def misspelt_beside_check(ctx: Context, drift: list[str]) -> None: ...


# ── options ──


@step(rules=[lambda ctx: True])  # error: pyright=reportArgumentType mypy=list-item
async def bare_rule(ctx: Context) -> None: ...


@step(cache="pip")  # error: pyright=reportArgumentType mypy=arg-type
async def text_as_cache(ctx: Context) -> None: ...


@step(approval="sre")  # error: pyright=reportArgumentType mypy=arg-type
async def text_as_approval(ctx: Context) -> None: ...


def not_a_rule(ctx: RuleContext, extra: int) -> bool:
    return True


def of_integers(event: int) -> str:
    return ""


rule("main", not_a_rule)  # error: pyright=reportArgumentType mypy=arg-type
rule(check=lambda ctx: True)  # error: pyright=reportCallIssue mypy=call-overload
skip("docs")  # error: pyright=reportCallIssue mypy=call-arg
rule("typo", lambda ctx: ctx.evnt is None)  # error: pyright=reportAttributeAccessIssue mypy=attr-defined
only_on_fanout_index("1")  # error: pyright=reportArgumentType mypy=arg-type
job("x", runs_on_all=5, steps=[good])  # error: pyright=reportArgumentType mypy=call-overload
job(on_unreachable="wait")  # error: pyright=reportArgumentType mypy=call-overload
job(environment=of_integers)  # error: pyright=reportArgumentType mypy=arg-type
job("x", runs_on="l", steps=[good], environment=5)  # error: pyright=reportArgumentType mypy=call-overload
job(concurrency_group=True)  # error: pyright=reportArgumentType mypy=call-overload
job("x", runs_on="l", steps=[good], resources="2g")  # error: pyright=reportArgumentType mypy=call-overload
job("x", runs_on="l", steps=[good], init="npm")  # error: pyright=reportArgumentType mypy=arg-type
job("x", runs_on="l", steps=[good], init=True)  # error: pyright=reportArgumentType mypy=call-overload
job("x", runs_on="l", steps=[good], container=5)  # error: pyright=reportArgumentType mypy=call-overload
Runner(label="linux")  # error: pyright=reportCallIssue mypy=call-arg
Runner(labels="linux", pick="random")  # error: pyright=reportArgumentType mypy=arg-type
Hosts(include="web", exclude=5)  # error: pyright=reportArgumentType mypy=arg-type
Container(img="x")  # error: pyright=reportCallIssue mypy=call-arg
Cache(key="pip")  # error: pyright=reportCallIssue mypy=call-arg
cache_key("uv", file="uv.lock")  # error: pyright=reportCallIssue mypy=call-arg
Init(script="x")  # error: pyright=reportCallIssue mypy=call-arg
Approval(approvers=["ada"])  # error: pyright=reportArgumentType mypy=list-item
Approval(when="never")  # error: pyright=reportArgumentType mypy=arg-type
mise(python="3.12")  # error: pyright=reportCallIssue mypy=call-arg
uv(group="dev")  # error: pyright=reportCallIssue mypy=call-arg
team()  # error: pyright=reportCallIssue mypy=call-arg
group(5)  # error: pyright=reportArgumentType mypy=arg-type
group("reports", when="sometimes")  # error: pyright=reportArgumentType mypy=arg-type


def group_name(ctx: ConcurrencyContext) -> int:
    return 1


Concurrency(group=group_name)  # error: pyright=reportArgumentType mypy=arg-type
workflow("w", jobs=[fine], concurrency="main")  # error: pyright=reportArgumentType mypy=arg-type
workflow("w", jobs=[fine], rule=[])  # error: pyright=reportCallIssue mypy=call-arg
workflow("w", jobs=[fine], registries=["https://x"])  # error: pyright=reportArgumentType mypy=list-item
workflow("w", jobs=[fine], install_env=[1])  # error: pyright=reportArgumentType mypy=list-item
workflow("w", jobs=[fine], on_succes=not_a_hook)  # error: pyright=reportCallIssue mypy=call-arg


@dynamic_jobs("g")  # error: pyright=reportArgumentType mypy=arg-type
def no_jobs(g: GenerateContext) -> list[str]:
    return []


@dynamic_jobs("g", need=[fine])  # error: pyright=reportCallIssue mypy=call-arg
def misspelt_needs(g: GenerateContext) -> list[MultiJob]:
    return []


def sync_matrix(g: int) -> list[str]:
    return []


job("x", runs_on="l", steps=[good], matrix=sync_matrix)  # error: pyright=reportArgumentType mypy=arg-type


# ── waiting ──


async def ready() -> str | None:
    return None


async def ready_with_ctx(ctx: Context) -> str | None:
    return None


async def uses() -> None:
    number: int = await wait_for(ready)  # error: pyright=reportAssignmentType mypy=arg-type
    await wait_for(ready, every=2)  # error: pyright=reportCallIssue mypy=call-arg
    wait_for(ready)  # error: pyright=reportUnusedCoroutine mypy=unused-coroutine
    await idempotent("x", check=ready)  # error: pyright=reportCallIssue mypy=call-overload
    print(number)


wait_for_step("up", ready)  # error: pyright=reportArgumentType mypy=arg-type
wait_for_step("up", ready_with_ctx, timeot=5)  # error: pyright=reportCallIssue mypy=call-arg
restart_host(timeout=5)  # error: pyright=reportCallIssue mypy=call-arg
wait_for_host_alive(ready_with_ctx)  # error: pyright=reportArgumentType mypy=arg-type
good.named(5)  # error: pyright=reportArgumentType mypy=arg-type
