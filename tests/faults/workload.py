"""What runs while things break. `@MARKS@` and `@SOURCE@` are filled in by `workflows`."""

SOURCE = "fault-hook"
SECRET = "a secret of the fault suite"

# By the type of a delivery: the workflows it starts.
SCENARIOS: dict[str, tuple[str, ...]] = {
    "faults": ("faults",),
    "shapes": ("shapes",),
    "dressed": ("dressed",),
    "groups": ("queue", "newest", "turns"),
}
# Runs that follow from runs: how many depends on how often a job had to emit.
FOLLOWERS = ("heard", "after")
# Steps whose log says what went wrong with a cache, which fails nobody.
MAY_WARN = frozenset({"spend"})

# "faults": two matrix children, a join that reads their outputs, a log that is longer than one block.
_WORKFLOWS = '''
import asyncio
import os
import shutil
import time
from pathlib import Path

from kici import (
    Cache, Concurrency, Context, GenerateContext, HookContext, MultiJob, RuleContext, dispatch, dynamic_jobs,
    generic_webhook, group, job, kici_event, push, rule, step, workflow, workflow_complete,
)

MARKS = @MARKS@
LINUX = "kici:os:linux"


def hook(kind: str):
    return generic_webhook(source=@SOURCE@, events=kind)


def note(ctx: Context, mark: str = "") -> None:
    """One line per execution of a job: appends are atomic."""
    info = ctx.run_info
    with open(MARKS, "a") as file:
        file.write(f"{info.run_id} {info.job}{mark} {info.attempt}\\n")


def turn(ctx: Context, name: str, what: str) -> None:
    info = ctx.run_info
    with open(MARKS + ".turns", "a") as file:
        file.write(f"{name} {what} {info.run_id} {info.attempt} {time.time_ns()} {info.job}\\n")

@step
async def count(ctx: Context) -> dict[str, int]:
    note(ctx)
    size = int(ctx.matrix["size"])
    await ctx.sh('seq -f "line %.0f" 1 "$size"; sleep 0.2; echo done', size=size)
    return {"size": size}


counts = job("count", runs_on=LINUX, matrix={"size": [300, 5000]}, steps=[count])


@job(runs_on=LINUX, needs=[counts])
async def total(ctx: Context) -> None:
    note(ctx)
    print("joined")
    await ctx.sh("sleep 0.1; printf 'no newline at the end'")


faults = workflow(
    "faults", on=[push(branches="main"), hook("faults"), dispatch(types="faults")], jobs=[counts, total]
)

# ── jobs that are known only at run time, and the hooks of a workflow ──


@job(runs_on=LINUX)
async def discover(ctx: Context) -> dict[str, list[str]]:
    note(ctx)
    return {"letter": ["x", "y", "z"]}


def letters(g: GenerateContext) -> dict[str, list[str]]:
    return g.job_outputs(discover)


@job(runs_on=LINUX, needs=[discover], matrix=letters)
async def spread(ctx: Context, *, letter: str) -> str:
    note(ctx)
    print("letter", letter)
    return letter.upper()


@step
async def scan(ctx: Context, *, target: str) -> str:
    note(ctx)
    print("scanning", target)
    return target


def scans(name: str, target: str, *needs: str) -> MultiJob:
    return job(name, runs_on=LINUX, steps=[scan.bind(target=target)], needs=needs)


@dynamic_jobs("at-once")
async def at_once(g: GenerateContext) -> list[MultiJob]:
    return [scans("once-1", "one"), scans("once-2", "two", "once-1")]


@dynamic_jobs("later", needs=[discover])
async def later(g: GenerateContext) -> list[MultiJob]:
    return [scans(f"scan-{t}", t) for t in g.job_outputs(discover)["letter"][:2]]


async def told(ctx: HookContext) -> None:
    note(ctx)
    print("told", ctx.outcome.status)


async def tidied(ctx: HookContext) -> None:
    note(ctx, "~cleanup")
    print("tidied", ctx.outcome.status)


@job(runs_on=LINUX, needs=[spread, group("later"), at_once])
async def gathers(ctx: Context) -> None:
    note(ctx)
    print(sorted(ctx.matrix_outputs(spread).by_matrix.items()))
    for name in ("later", "at-once"):
        print(name, [(n.name, n.status) for n in ctx.needs[name]])


shapes = workflow("shapes", on=hook("shapes"), jobs=[discover, spread, at_once, later, gathers], cleanup=told)

# ── rules, hooks of jobs, caches, secret outputs, and events that start further runs ──

TOKEN = "a-secret-output"


async def asks(ctx: RuleContext) -> bool:
    return (await ctx.sh("echo yes")).text == "yes"


async def refuses(ctx: RuleContext) -> bool:
    return (await ctx.sh("echo no")).text == "yes"


@job(runs_on=LINUX, rules=[rule("asks", asks)], cleanup=tidied)
async def mint(ctx: Context) -> None:
    note(ctx)
    await ctx.set_secret_output("TOKEN", TOKEN)


@job(runs_on=LINUX, rules=[rule("never", lambda ctx: False)])
async def never(ctx: Context) -> None:
    note(ctx)


@job(runs_on=LINUX, rules=[rule("refuses", refuses)])
async def refused(ctx: Context) -> None:
    note(ctx)


@job(runs_on=LINUX, needs=[mint], cache=Cache(key="shared", paths=["kept"]), cleanup=tidied)
async def spend(ctx: Context) -> None:
    note(ctx)
    info = ctx.run_info
    assert await ctx.secrets.get("TOKEN") == TOKEN
    Path("kept").mkdir(exist_ok=True)
    Path("kept/file").write_text("kept")
    own, content = Cache(key=f"own-{info.run_id}-{info.attempt}", paths=["own"]), os.urandom(200_000)
    Path("own").mkdir()
    Path("own/file").write_bytes(content)
    await ctx.cache.save(own)
    shutil.rmtree("own")
    if (await ctx.cache.restore(own)).hit:
        assert Path("own/file").read_bytes() == content
    await ctx.emit("faulted", {"run": info.run_id, "attempt": info.attempt})


dressed = workflow(
    "dressed", on=hook("dressed"), jobs=[mint, never, refused, spend], on_success=told, on_failure=told, on_cancel=told
)


@job(runs_on=LINUX)
async def listens(ctx: Context) -> None:
    note(ctx)


heard = workflow("heard", on=kici_event(name="faulted"), jobs=[listens])
after = workflow("after", on=workflow_complete(name="heard", status="success"), jobs=[listens])


# ── who waits for whom ──


async def hold(ctx: Context, name: str) -> None:
    note(ctx)
    turn(ctx, name, "begins")
    await asyncio.sleep(0.3)
    turn(ctx, name, "ends")


@job(runs_on=LINUX)
async def waits(ctx: Context) -> None:
    await hold(ctx, "queue")


@job(runs_on=LINUX)
async def leads(ctx: Context) -> None:
    await hold(ctx, "newest")


@job(runs_on=LINUX, concurrency_group="line")
async def left(ctx: Context) -> None:
    await hold(ctx, "line")


@job(runs_on=LINUX, concurrency_group="line")
async def right(ctx: Context) -> None:
    await hold(ctx, "line")


queue = workflow(
    "queue", on=hook("groups"), jobs=[waits], concurrency=Concurrency(group="queue", cancel_in_progress=False)
)
newest = workflow("newest", on=hook("groups"), jobs=[leads], concurrency=Concurrency(group="newest"))
turns = workflow("turns", on=hook("groups"), jobs=[left, right])
'''

# Sent as a working tree; in check mode nothing is changed.
REMOTE = """
from pathlib import Path

from kici import Context, dispatch, job, step, workflow


async def differs(ctx: Context) -> str | None:
    with open(@MARKS@, "a") as file:
        file.write(f"{ctx.run_info.run_id} {ctx.run_info.job} {ctx.run_info.attempt}\\n")
    return Path("note.txt").read_text()


@step(check=differs, summarize=len)
async def change(ctx: Context, drift: str) -> str:
    assert ctx.check_mode == "apply"
    print("changed", drift)
    return drift


far = workflow("far", on=dispatch(types="far"), jobs=[job("look", runs_on="kici:os:linux", steps=[change])])
"""

JOBS = {"count (300)": 300, "count (5000)": 5000, "total": None}


def workflows(marks: str) -> str:
    """The workflow file; jobs append to `marks`, holders of groups to `marks` + ".turns"."""
    return _WORKFLOWS.replace("@MARKS@", repr(marks)).replace("@SOURCE@", repr(SOURCE))


def remote_workflow(marks: str) -> str:
    return REMOTE.replace("@MARKS@", repr(marks))


def expected_log(job_name: str) -> bytes:
    """Of the jobs of `faults`."""
    size = JOBS[job_name]
    if size is None:
        return b"joined\nno newline at the end"
    return b"".join(b"line %d\n" % number for number in range(1, size + 1)) + b"done\n"
