"""Every option in every form it may take."""

import asyncio
import re
from datetime import timedelta
from pathlib import Path
from typing import Any, assert_type

from kici import (
    Completed,
    Context,
    Event,
    HookContext,
    Job,
    MatrixOutputs,
    Retry,
    RunInfo,
    Runner,
    Step,
    generic_webhook,
    hook,
    job,
    need,
    parallel,
    pr,
    push,
    step,
    tag,
    webhook,
    workflow,
)


async def release_lock(ctx: HookContext) -> None:
    if ctx.outcome.status != "success":
        ctx.log.error("failed in %s: %s", ctx.outcome.failed_step, ctx.outcome.reason)


def note(ctx: Context) -> None:
    ctx.log.info("a hook may ask for less")


@step(
    "checks",
    timeout=90,
    retry=Retry(attempts=3, delay="2s", max_delay=timedelta(minutes=1), retry_if=OSError),
)
async def lint(ctx: Context) -> dict[str, int]:
    return {"findings": 0}


@step(
    retry={"attempts": 2, "backoff": "fixed"}, continue_on_error=True, on_cancel=note, cleanup=release_lock
)
def types(ctx: Context) -> list[str]:
    return []


@step()
async def everything(ctx: Context) -> None:
    done = await ctx.sh(
        "echo $x", cwd=Path(), env={"A": "b"}, input="in", check=False, timeout="1m", quiet=True, x=[1]
    )
    assert_type(done, Completed)
    assert_type(done.json(), Any)
    assert_type(done.json(dict[str, int]), dict[str, int])
    assert_type(await ctx.run("ls", Path("/"), input=b"bytes"), Completed)
    assert_type(ctx.event, Event)
    assert_type(ctx.run_info, RunInfo)
    assert_type(ctx.workspace / "file", Path)
    assert_type(ctx.matrix_outputs(matrix_job), MatrixOutputs[str])
    ctx.set_env("NAME", ctx.env.get("OTHER", ""))
    ctx.add_path(ctx.tmp)
    ctx.log.add_mask("hunter2")
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(ctx.sh("make docs"))
    assert_type(task.result(), Completed)
    both = await asyncio.gather(ctx.run("make"), ctx.sh("make"))
    assert_type(both[1], Completed)
    with ctx.log.group("part"):
        ctx.log.debug("x")
        ctx.log.warning("y")
    for name, result in ctx.needs.items():
        ctx.log.info("%s %r", name, result)
    assert_type(await lint(ctx), dict[str, int])
    assert_type(await types(ctx), list[str])


@job(
    "test",
    runs_on=Runner(labels=["kici:os:linux", re.compile("gpu-[0-9]+")], exclude="slow", pick="any"),
    matrix={"os": ["linux", "mac"], "python": ["3.11", "3.12"], "fast": [True, 1.5, 2]},
    include=[{"os": "bsd", "python": "3.12"}],
    exclude=[{"os": "mac"}],
    max_parallel=2,
    fail_fast=True,
    checkout=False,
    env={"PYTHONUTF8": "1"},
    timeout="1h",
    grace_period=timedelta(seconds=20),
    description="Tests on every platform",
    on_cancel=hook(release_lock, timeout="30s"),
    cleanup=release_lock,
    on_success=note,
    on_failure=note,
    before_step=note,
    after_step=hook(note),
)
async def matrix_job(ctx: Context, *, python: str) -> str:
    return f"{ctx.matrix['os']} {python}"


assert_type(matrix_job, Job[str])


@job(runs_on="linux")
@step(retry=2)
async def both(ctx: Context) -> int:
    return 1


assert_type(both, Job[int])

many = job(
    "many",
    runs_on={"labels": ["linux"]},
    matrix=[1, 2],
    needs=[matrix_job, "both", need(both, when="on-skip")],
    steps=[
        everything,
        parallel(lint, types, fail_fast=False, max_parallel=2, name="checks"),
        lambda ctx: None,
    ],
)

steps: list[Step[Any]] = [lint, types, everything]

everything_on = workflow(
    "everything",
    on=[
        push(branches=["main", re.compile("^release/")], tags="v*", paths=["src/**", "!**/*.md"]),
        pr(events=["opened", "labeled"], target="main", source="feature/*", paths="src/**"),
        pr(events="closed"),
        tag(patterns="v*"),
        webhook(events="deployment", actions=["created"]),
        generic_webhook(
            source="grafana", events="alert", match={"$.a": [1, None]}, not_={"$.b": "/x/i"}, path="/p"
        ),
    ],
    jobs=[matrix_job, both, many],
    description="All of it",
    hash_files=["uv.lock"],
    timeout="2h",
)
one_trigger = workflow("one", on=push(), jobs=[both])
