"""Time limits, cancellation and hooks: what is stopped dies with its whole tree, and the hooks follow in order."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from kici.runner.host import JobResult, Zygote
from kici.runner.processes import is_running
from kici.spec.states import JobStatus, StepStatus
from tests.process.runner.builders import Recorder, Repo, run

pytestmark = pytest.mark.process


@asynccontextmanager
async def running(
    repo: Repo, job: str, **changes: Any
) -> AsyncGenerator[tuple[Zygote, Recorder, "asyncio.Future[JobResult]"]]:
    seen = Recorder()
    async with asyncio.timeout(60), Zygote.start() as zygote:
        yield zygote, seen, asyncio.ensure_future(zygote.run(repo.execute(job, **changes), seen))  # noqa: TID251 - the test acts meanwhile


def rows(seen: Recorder) -> list[str]:
    return [event.removeprefix("start ") for event in seen.events if event.startswith("start ")]


HOOKS = """
def says(word):
    async def fn(ctx: HookContext) -> None:
        o = ctx.outcome
        print(word, o.status, o.failed_step, sorted(o.step_outputs))
        await ctx.sh("echo in bash")
    return fn

ALL = dict(
    on_success=says("on_success"), on_failure=says("on_failure"),
    on_cancel=says("on_cancel"), cleanup=says("cleanup"),
)
"""


async def test_hooks_of_success_and_failure(repo: Repo) -> None:
    """AG-53, AG-54, AU-33."""
    repo.write(
        HOOKS
        + """
    """.rstrip()
        + """
def before(ctx: HookContext) -> None:
    print("before", ctx.outcome.status)

@step(cleanup=says("step cleanup"), on_cancel=says("never"))
async def good(ctx: Context) -> str:
    return "x"

@step(cleanup=says("step cleanup"))
async def bad(ctx: Context) -> None:
    raise ValueError("no")

@step
async def skipped(ctx: Context) -> None: ...

jobs = [
    job("good", runs_on=LINUX, steps=[good], before_step=before, after_step=before, **ALL),
    job("bad", runs_on=LINUX, steps=[good, bad, skipped], **ALL),
]
"""
    )
    result, seen = await run(repo, "good")
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert rows(seen) == [
        "before_step (good)",
        "good",
        "cleanup (good)",
        "after_step (good)",
        "on_success",
        "cleanup",
    ]
    assert [(m.step_index, m.step_type) for m in seen.starts] == [
        (2_000_000, "hook:beforeStep"),
        (0, "step"),
        (2_000_001, "hook:cleanup"),
        (2_000_002, "hook:afterStep"),
        (2_000_003, "hook:onSuccess"),
        (2_000_004, "hook:cleanup"),
    ]
    assert seen.text(2_000_003) == "on_success success None ['good']\nin bash\n"
    result, seen = await run(repo, "bad")
    assert result.status == JobStatus.FAILED
    assert rows(seen) == ["good", "cleanup (good)", "bad", "cleanup (bad)", "on_failure", "cleanup"]
    assert seen.text(seen.index("on_failure")) == "on_failure failed bad ['good']\nin bash\n"
    assert seen.end("skipped").status == StepStatus.SKIPPED


async def test_hooks_of_a_job_see_that_a_hook_has_failed_it(repo: Repo) -> None:
    """AU-33, AG-55: whichever hook it was, and whatever the steps came to."""
    repo.write("""
    def broken(ctx: HookContext) -> None:
        raise RuntimeError("hook broke")

    def told(ctx: HookContext) -> None:
        print(ctx.outcome.status, ctx.outcome.reason)

    @step(cleanup=broken)
    async def tidied(ctx: Context) -> None: ...

    @step
    async def ok(ctx: Context) -> None: ...

    every = dict(on_success=told, on_failure=told, cleanup=told)
    jobs = [
        job("j", runs_on=LINUX, steps=[tidied], **every),
        job("k", runs_on=LINUX, steps=[ok], on_success=broken, on_failure=told, cleanup=told),
    ]
    """)
    why = "failed hook cleanup (tidied) failed: RuntimeError: hook broke"
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.FAILED
    assert rows(seen) == ["tidied", "cleanup (tidied)", "on_failure", "cleanup"]
    assert seen.text(seen.index("on_failure")).startswith(why)
    assert seen.text(seen.index("cleanup")).startswith(why)

    result, seen = await run(repo, "k")
    assert rows(seen) == ["ok", "on_success", "cleanup"]
    assert seen.text(seen.index("cleanup")).startswith(
        "failed hook on_success failed: RuntimeError: hook broke"
    )


async def test_a_failing_hook_fails_the_job_and_cleanup_still_runs(repo: Repo) -> None:
    """AG-55, AU-33."""
    repo.write("""
    async def broken(ctx: HookContext) -> None:
        raise RuntimeError("hook broke")

    def slow(ctx: HookContext) -> None:
        subprocess.run(["sleep", "1000"])

    async def fine(ctx: HookContext) -> None:
        print("cleaned")

    @step
    async def ok(ctx: Context) -> None: ...

    jobs = [
        job("j", runs_on=LINUX, steps=[ok], before_step=broken, on_success=broken, cleanup=fine),
        job("k", runs_on=LINUX, steps=[ok], on_success=hook(slow, timeout=0.1), cleanup=fine, grace_period=1),
    ]
    """)
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.FAILED
    assert str(result.error_message).startswith("hook on_success failed: RuntimeError: hook broke")
    assert seen.statuses() == {
        "before_step (ok)": "failed", "ok": "success", "on_success": "failed", "cleanup": "success",
    }  # fmt: skip
    result, seen = await run(repo, "k")
    assert result.error_message == "hook on_success failed: timed out after 100ms"
    assert seen.text(seen.index("cleanup")) == "cleaned\n"


@pytest.mark.parametrize(
    "kind", ["await_sh", "sync_in_async", "busy", "sleep", "thread", "ignores_term", "swallows"]
)
async def test_a_step_past_its_time_is_stopped_with_its_tree(repo: Repo, kind: str) -> None:
    """AG-42, AG-43, AU-31."""
    repo.write("""
    SLEEPERS = "sleep 1000 & sleep 1000 & (setsid sleep 1000 &) ; echo started; wait"
    OPTIONS = dict(timeout=1, continue_on_error=True)

    @step(**OPTIONS)
    async def await_sh(ctx: Context) -> None:
        try:
            await ctx.sh(SLEEPERS)
        finally:
            print("finally")

    @step(**OPTIONS)
    async def sync_in_async(ctx: Context) -> None:
        subprocess.run(["bash", "-c", SLEEPERS])

    @step(**OPTIONS)
    async def busy(ctx: Context) -> None:
        subprocess.Popen(["bash", "-c", SLEEPERS])
        while True:
            pass

    @step(**OPTIONS)
    async def sleep(ctx: Context) -> None:
        subprocess.Popen(["bash", "-c", SLEEPERS])
        time.sleep(1000)

    @step(**OPTIONS)
    def thread(ctx: Context) -> None:
        subprocess.run(["bash", "-c", SLEEPERS])

    @step(**OPTIONS)
    async def ignores_term(ctx: Context) -> None:
        await ctx.sh("trap '' TERM; " + SLEEPERS + "; while true; do sleep 1; done")

    @step(**OPTIONS)
    async def swallows(ctx: Context) -> None:
        subprocess.Popen(["bash", "-c", SLEEPERS])
        while True:
            try:
                await asyncio.sleep(1000)
            except asyncio.CancelledError:
                print("no")

    @step
    async def left(ctx: Context) -> None:
        await ctx.sh("ps -o comm= --ppid $PPID | sort | uniq -c")

    jobs = [job(s.name, runs_on=LINUX, steps=[s, left], grace_period=1)
            for s in (await_sh, sync_in_async, busy, sleep, thread, ignores_term, swallows)]
    """)
    name = kind.replace("_", "-")
    result, seen = await run(repo, name)
    assert result.status == JobStatus.SUCCESS, result.error_message
    end = seen.end(name)
    assert (end.status, end.timeout_reason, end.error_message) == (
        "failed",
        "step_timeout",
        "timed out after 1s",
    )
    assert "started" in seen.text(0)
    assert "timed out after 1s" in seen.text(0)
    if kind == "await_sh":
        assert "finally" in seen.text(0)
    assert "sleep" not in seen.text(1)


async def test_the_default_time_limit_and_a_job_that_fails_by_it(repo: Repo) -> None:
    """AG-42, AU-31."""
    repo.write("""
    @step
    async def slow(ctx: Context) -> None:
        await asyncio.sleep(1000)
    jobs = [job("j", runs_on=LINUX, steps=[slow])]
    """)
    result, seen = await run(repo, "j", default_step_timeout_ms=200)
    assert (result.status, result.timeout_reason) == (JobStatus.FAILED, "step_timeout")
    assert result.error_message == "step 'slow' failed: timed out after 200ms"
    assert seen.end("slow").timeout_reason == "step_timeout"


async def test_a_job_past_its_time(repo: Repo) -> None:
    """AG-42, AU-31."""
    repo.write(
        HOOKS
        + """
@step(cleanup=says("step cleanup"))
async def slow(ctx: Context) -> None:
    await ctx.sh("sleep 1000")

@step
async def later(ctx: Context) -> None: ...

jobs = [job("j", runs_on=LINUX, steps=[slow, later], timeout=0.5, **ALL)]
"""
    )
    result, seen = await run(repo, "j")
    assert (result.status, result.timeout_reason) == (JobStatus.FAILED, "job_timeout")
    assert result.error_message == "the job timed out after 0.5s"
    assert rows(seen) == ["slow", "cleanup (slow)", "on_failure", "cleanup"]
    assert seen.end("slow").timeout_reason == "job_timeout"
    assert seen.end("later").status == StepStatus.SKIPPED


async def test_graceful_cancel_runs_hooks_inside_out(repo: Repo) -> None:
    """AG-54, AG-56, AU-68."""
    repo.write(
        HOOKS
        + """
@step(on_cancel=says("step on_cancel"), cleanup=says("step cleanup"))
async def work(ctx: Context) -> None:
    try:
        await ctx.sh("trap 'echo got term; exit 1' TERM; echo ready; while true; do sleep 0.05; done")
    finally:
        await ctx.sh("echo tidied up")

@step
async def later(ctx: Context) -> None: ...

jobs = [job("j", runs_on=LINUX, steps=[work, later], **ALL)]
"""
    )
    async with running(repo, "j") as (zygote, seen, job):
        await seen.printed("ready")
        zygote.abort("j", "Cancelled by ada", force=False)
        zygote.abort("j", "asked again", force=False)
        result = await job
    assert (result.status, result.error_message) == (JobStatus.CANCELLED, "Cancelled by ada")
    assert rows(seen) == ["work", "on_cancel (work)", "cleanup (work)", "on_cancel", "cleanup"]
    said = [line for line in seen.text(0).splitlines() if line in {"ready", "got term", "tidied up"}]
    assert said == ["ready", "got term", "tidied up"]
    assert seen.end("work").status == StepStatus.CANCELLED
    assert seen.end("later").status == StepStatus.SKIPPED
    assert seen.text(seen.index("on_cancel")).startswith("on_cancel cancelled None []")


async def test_a_step_that_ignores_cancellation_is_killed_after_the_grace_period(repo: Repo) -> None:
    """AG-56, AU-68."""
    repo.write("""
    @step
    async def stubborn(ctx: Context) -> None:
        while True:
            try:
                await ctx.sh("trap '' TERM; echo ready; while true; do sleep 1000; done")
            except asyncio.CancelledError:
                print("not me")

    async def after(ctx: HookContext) -> None:
        print("cleaned")

    jobs = [job("j", runs_on=LINUX, steps=[stubborn], grace_period=0.3, cleanup=after)]
    """)
    async with running(repo, "j") as (zygote, seen, job):
        await seen.printed("ready")
        zygote.abort("j", "enough", force=False)
        result = await job
    assert result.status == JobStatus.CANCELLED
    assert seen.end("stubborn").status == StepStatus.CANCELLED
    assert seen.text(seen.index("cleanup")) == "cleaned\n"


@pytest.mark.parametrize("body", ["time.sleep(1000)", "await ctx.sh('sleep 1000')", "while True: pass"])
async def test_force_kills_at_once_without_hooks(repo: Repo, body: str) -> None:
    """AG-57."""
    repo.write(
        HOOKS
        + f"""
@step(cleanup=says("never"))
async def work(ctx: Context) -> None:
    child = subprocess.Popen(["sleep", "1000"])
    print("pid", child.pid, "ready")
    {body}

jobs = [job("j", runs_on=LINUX, steps=[work], grace_period=100, **ALL)]
"""
    )
    async with running(repo, "j") as (zygote, seen, job):
        pid = int((await seen.printed("ready")).split()[1])
        zygote.abort("j", "stop now", force=True)
        result = await job
        assert not is_running(pid)
    assert (result.status, result.error_message) == (JobStatus.CANCELLED, "stop now")
    assert rows(seen) == ["work"]
    assert seen.end("work").status == StepStatus.CANCELLED


async def test_force_overtakes_a_graceful_cancel_in_its_hooks(repo: Repo) -> None:
    """AG-57."""
    repo.write("""
    async def forever(ctx: HookContext) -> None:
        print("in hook", flush=True)
        await ctx.sh("sleep 1000")

    @step
    async def work(ctx: Context) -> None:
        print("ready", flush=True)
        await asyncio.sleep(1000)

    jobs = [job("j", runs_on=LINUX, steps=[work], on_cancel=forever, cleanup=forever, grace_period=100)]
    """)
    async with running(repo, "j") as (zygote, seen, job):
        await seen.printed("ready")
        zygote.abort("j", "please", force=False)
        await seen.printed("in hook")
        zygote.abort("j", "now", force=True)
        result = await job
    assert (result.status, result.error_message) == (JobStatus.CANCELLED, "now")
    assert rows(seen) == ["work", "on_cancel"]


async def test_cancel_before_and_during_loading(repo: Repo) -> None:
    """AG-58."""
    repo.write("""
    print("loading", flush=True)
    time.sleep(1000)
    jobs = []
    """)
    async with running(repo, "j") as (zygote, seen, job):
        await seen.printed("loading")
        zygote.abort("j", "never mind", force=False)
        result = await job
    assert (result.status, result.error_message) == (JobStatus.CANCELLED, "never mind")
    repo.write("""
    @step
    async def work(ctx: Context) -> None: ...
    jobs = [job("j", runs_on=LINUX, steps=[work])]
    """)
    async with running(repo, "j") as (zygote, seen, job):
        await asyncio.sleep(0)  # `run` has been entered, nothing is forked yet
        zygote.abort("j", "at once", force=False)
        result = await job
    assert result.status == JobStatus.CANCELLED
    assert set(seen.statuses().values()) <= {StepStatus.SKIPPED, StepStatus.CANCELLED}


async def test_fail_fast_in_a_group(repo: Repo) -> None:
    """AU-32."""
    repo.write("""
    @step
    async def fails(ctx: Context) -> None:
        while not Path("slow-runs").exists():
            await asyncio.sleep(0.01)
        raise ValueError("first")

    @step
    async def slow(ctx: Context) -> None:
        await ctx.sh("(setsid sleep 1000 &); touch slow-runs; sleep 1000")

    @step
    async def waits(ctx: Context) -> None: ...

    @step(continue_on_error=True)
    async def soft(ctx: Context) -> None:
        raise ValueError("soft")

    @step
    async def fine(ctx: Context) -> None:
        await ctx.sh("sleep 0.05")

    jobs = [
        job("j", runs_on=LINUX, steps=[parallel(fails, slow, waits, max_parallel=2)]),
        job("k", runs_on=LINUX, steps=[parallel(soft, fine)]),
        job("l", runs_on=LINUX, steps=[parallel(fails, fine, step("touches")(lambda ctx: Path("slow-runs").touch()), fail_fast=False)]),
    ]
    """)
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.FAILED
    assert str(result.error_message).startswith("step 'fails' failed: ValueError: first")
    assert seen.statuses() == {"fails": "failed", "slow": "cancelled", "waits": "cancelled"}
    assert seen.end("slow").error_message == "step 'fails' beside it failed"
    result, seen = await run(repo, "k")
    assert (result.status, seen.statuses()) == (JobStatus.SUCCESS, {"soft": "failed", "fine": "success"})
    (repo.root / "slow-runs").unlink()
    result, seen = await run(repo, "l")
    assert (result.status, seen.statuses()) == (
        JobStatus.FAILED,
        {"fails": "failed", "fine": "success", "touches": "success"},
    )


async def test_a_fresh_runner_runs_the_hooks_of_one_that_died(repo: Repo) -> None:
    """AG-46, AG-55."""
    repo.write(
        HOOKS
        + """
@step
async def first(ctx: Context) -> str:
    return "kept"

@step(cleanup=says("step cleanup"), on_cancel=says("never"))
async def dies(ctx: Context) -> None:
    print("ready", flush=True)
    os.kill(os.getpid(), 11)

@step
async def later(ctx: Context) -> None: ...

jobs = [job("j", runs_on=LINUX, steps=[first, dies, later], before_step=says("before"), **ALL)]
"""
    )
    result, seen = await run(repo, "j")
    assert (result.status, result.outputs) == (JobStatus.FAILED, {"first": "kept"})
    assert str(result.error_message).startswith("the runner was killed by signal 11 (SIGSEGV)")
    assert rows(seen) == [
        "before_step (first)", "first", "before_step (dies)", "dies", "cleanup (dies)", "on_failure", "cleanup",
    ]  # fmt: skip
    assert seen.text(seen.index("on_failure")) == "on_failure failed dies ['first']\nin bash\n"
    assert seen.end("dies").status == "failed"
    assert seen.end("later").status == "skipped"


async def test_a_runner_that_holds_the_interpreter_is_killed_and_its_hooks_still_run(repo: Repo) -> None:
    """AG-56."""
    repo.write(
        HOOKS
        + """
@step(on_cancel=says("step on_cancel"))
async def stuck(ctx: Context) -> None:
    print("ready", flush=True)
    await asyncio.sleep(0.1)
    import ctypes
    ctypes.PyDLL(None).sleep(1000)  # in C, with the interpreter's lock held

jobs = [job("j", runs_on=LINUX, steps=[stuck], grace_period=0.1, **ALL)]
"""
    )
    async with running(repo, "j", max_grace_period_ms=100) as (zygote, seen, job):
        await seen.printed("ready")
        await asyncio.sleep(0.3)  # until it is stuck; nothing of it can tell
        zygote.abort("j", "by ada", force=False)
        result = await job
    assert (result.status, result.error_message) == (JobStatus.CANCELLED, "by ada")
    assert rows(seen) == ["stuck", "on_cancel (stuck)", "on_cancel", "cleanup"]
    assert seen.end("stuck").status == "cancelled"
