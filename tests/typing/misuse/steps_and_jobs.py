"""Each marked line must be refused by both checkers; no other line may be."""

from kici import Context, HookContext, Retry, hook, job, need, parallel, step, workflow


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
job("x", runs_on="linux", steps=[good], approval=True)  # error: pyright=reportCallIssue mypy=call-overload
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
