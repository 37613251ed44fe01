"""Workflows about what one job does: its steps, what they leave, and how they fail."""

OUTPUTS = """
@dataclass
class Built:
    version: str
    size: int

@step
async def build(ctx: Context) -> Built:
    return Built(version="1.4.0", size=3)

@step
async def silent(ctx: Context) -> None: ...

@step
async def rereads(ctx: Context) -> str:
    return ctx.outputs_of(build).version

package = job("package", runs_on=LINUX, steps=[build, silent, rereads])

@job(runs_on=LINUX, needs=[package])
async def deploy(ctx: Context) -> None:
    built = ctx.job_outputs(package).of(build)
    print(type(built).__name__, built.version, built.size)

@step
async def mistyped(ctx: Context) -> Built:
    return {"version": "1", "size": "large"}

@step
async def strange(ctx: Context):
    return object()

@step
async def huge(ctx: Context) -> str:
    return "x" * 1_100_000

@step
async def unreached(ctx: Context) -> None: ...

@job(runs_on=LINUX)
async def keeps(ctx: Context) -> None:
    await ctx.set_secret_output("TOKEN", "s3cret-value")
    print("the token is s3cret-value")

@job(runs_on=LINUX, needs=[keeps])
async def opens(ctx: Context) -> None:
    print(await ctx.secrets.has("TOKEN"), len(await ctx.secrets.get("TOKEN")), await ctx.secrets.list())
    print("it is", await ctx.secrets.get("TOKEN"))
    await ctx.secrets.expose("TOKEN", as_="AS_TOKEN")
    await ctx.sh('echo "${#AS_TOKEN}"')

@job(runs_on=LINUX)
async def asks_in_vain(ctx: Context) -> None:
    await ctx.secrets.get("ABSENT")

@job(runs_on=LINUX)
async def too_many_secrets(ctx: Context) -> None:
    for n in range(21):
        await ctx.set_secret_output(f"KEY_{n}", f"value-{n}")

outputs = workflow("outputs", on=push(branches="main"), jobs=[
    package, deploy, keeps, opens, asks_in_vain, too_many_secrets,
    *(job(each.name, runs_on=LINUX, steps=[build, each, unreached]) for each in (mistyped, strange, huge)),
])
"""

STEPS = """
@step
async def shell(ctx: Context) -> str:
    done = await ctx.sh('echo "to out"; echo "$name: ${items[1]}"', name="a b", items=["x", "y z"])
    listed = await ctx.run("printf", "%s\\n", "no $shell")
    print(done.lines, listed.text, (await ctx.sh("exit 3", check=False)).returncode)
    return (await ctx.sh("cat", input="given", quiet=True)).text

@step
def blocking(ctx: SyncContext) -> int:
    ctx.sh("echo blocking")
    ctx.log.info("sync %s", ctx.step.name)
    return 1

@step
async def logs(ctx: Context) -> None:
    with ctx.log.group("a group"):
        ctx.log.info("inside")
    ctx.log.warning("careful"); ctx.log.error("wrong"); ctx.log.debug("detail")
    ctx.log.add_mask("hush-hush"); print("say hush-hush")
    ctx.summary("# Summary"); ctx.summary("more")
    ctx.annotate("warning", "look here", file="a.py", line=3)
    ctx.annotate("error", "bad")
    sys.stderr.write("to stderr\\n")

@step
async def nested(ctx: Context) -> int:
    return await blocking(ctx)

green = workflow("steps", on=push(branches="main"), jobs=[job("all", runs_on=LINUX, steps=[shell, blocking, logs, nested])])

@step
async def fails(ctx: Context) -> None:
    await ctx.sh("echo one; echo two >&2; exit 9")

@step
async def raises(ctx: Context) -> None:
    raise ValueError("broken")

@step
async def forgets(ctx: Context) -> None:
    ctx.sh("echo never")

@step
async def exits(ctx: Context) -> None:
    sys.exit(4)

@step
async def ok(ctx: Context) -> str:
    return "ok"

@step(continue_on_error=True)
async def tolerated(ctx: Context) -> None:
    await ctx.sh("exit 6")

@step(timeout="300ms")
async def late(ctx: Context) -> None:
    await ctx.sh("sleep 60")

@step(timeout="300ms")
def late_thread(ctx: SyncContext) -> None:
    ctx.sh("sleep 60")

@step
async def dies(ctx: Context) -> None:
    os.kill(os.getpid(), 9)

async def late_command(ctx: Context) -> None:
    await ctx.sh("sleep 60", timeout=0.2)

red = workflow("steps-that-fail", on=push(branches="main"), jobs=[
    *(job(each.name, runs_on=LINUX, steps=[ok, each, step("after")(ok.fn)])
      for each in (fails, raises, forgets, exits, tolerated, late, late_thread, dies)),
    job("late-command", runs_on=LINUX, steps=[late_command]),
    job("late-job", runs_on=LINUX, timeout="700ms", cleanup=lambda ctx: print("tidied", ctx.outcome.status),
        on_cancel=lambda ctx: print("not cancelled"), on_failure=lambda ctx: print("failed", ctx.outcome.reason),
        steps=[step("sleeps", cleanup=lambda ctx: print("step tidied"))(lambda ctx: ctx.sh("sleep 60"))]),
])

tries = Path("tries")

@step(retry=Retry(attempts=3, delay="1ms"))
async def third_time(ctx: Context) -> int:
    print("attempt", ctx.step.attempt)
    if ctx.step.attempt < 3:
        raise ConnectionError("not yet")
    return ctx.step.attempt

@step(retry=Retry(attempts=2, delay="1ms"), continue_on_error=True)
async def never_works(ctx: Context) -> None:
    raise ConnectionError("never")

@step(retry=Retry(attempts=3, delay="1ms", backoff="fixed", retry_if=ConnectionError))
async def other_error(ctx: Context) -> None:
    raise ValueError("not this one")

@step(retry=Retry(attempts=2, delay="1ms"), timeout="200ms")
async def late_twice(ctx: Context) -> None:
    await ctx.sh("sleep 60")

retries = workflow("retries", on=push(branches="main"), jobs=[
    job("in-the-end", runs_on=LINUX, steps=[third_time, never_works, ok]),
    job("other-error", runs_on=LINUX, steps=[other_error]), job("late-twice", runs_on=LINUX, steps=[late_twice]),
])

def child(name: str, script: str = "true", **options):
    async def body(ctx: Context) -> str:
        await ctx.sh(script)
        return name
    return step(name, **options)(body)

@step
async def sums(ctx: Context) -> None:
    print("after the group")

parallels = workflow("parallel-steps", on=push(branches="main"), jobs=[
    job("together", runs_on=LINUX, steps=[
        ok, parallel(child("left", "echo l"), child("right", "echo r"), name="both", max_parallel=1), sums]),
    job("first-failure", runs_on=LINUX, steps=[
        parallel(child("fails", "exit 2"), child("sleeps", "sleep 60"), child("waits", "true"), max_parallel=2), sums]),
    job("all-the-same", runs_on=LINUX, steps=[
        parallel(child("fails", "exit 2"), child("goes-on", "sleep 0.3; echo still"), fail_fast=False), sums]),
    job("tolerant", runs_on=LINUX, steps=[
        parallel(child("soft", "exit 2", continue_on_error=True), child("goes-on", "sleep 0.3; echo still")), sums]),
    job("ruled", runs_on=LINUX, steps=[
        parallel(child("no", rules=[rule("no", lambda ctx: False)]), child("yes")), sums]),
])
"""

CHECKS = """
HAS = Path("state")

async def look(ctx: Context) -> str | None:
    return None if HAS.exists() else "state is missing"

@step(check=look, summarize=lambda d: f"- {d}", when_in_sync=lambda ctx: "kept")
async def ensure(ctx: Context, drift: str) -> str:
    HAS.write_text("x")
    return "made"

@step(check=look, summarize=str, when_in_sync=lambda ctx: "kept")
async def again(ctx: Context, drift: str) -> str:
    return "not reached"

@step
async def plain(ctx: Context) -> str:
    print("plain in", ctx.check_mode)
    return "plain"

@step
async def inline(ctx: Context) -> None:
    async def check(): return {"want": 2}
    async def apply(drift): return drift["want"]
    done = await idempotent("numbers", check=check, apply=apply, summarize=lambda d: f"want {d['want']}")
    print(type(done).__name__, done.result)

@step
async def waits(ctx: Context) -> None:
    seen = []
    async def third(): seen.append(1); return len(seen) if len(seen) == 3 else None
    print(await wait_for(third, interval=0.01, timeout=5))
    async def never(): return None
    try:
        await wait_for(never, name="nothing", interval=0.01, timeout=0.05)
    except WaitForTimeoutError as error:
        print(error.name)

ready = wait_for_step("ready", lambda ctx: HAS.exists() or None, interval=0.01, timeout=5)

def tidy(ctx: HookContext) -> None:
    print("tidy", ctx.outcome.status)

@step(check=look, summarize=str)
async def breaks(ctx: Context, drift: str) -> None:
    raise OSError("cannot")

checks = workflow("checks", on=push(branches="main"), jobs=[
    job("idempotent", runs_on=LINUX, steps=[ensure, again, plain, inline, waits, ready],
        before_step=tidy, on_success=tidy, cleanup=tidy),
    job("in-sync", runs_on=LINUX, steps=[step("always", check=lambda ctx: None, summarize=str)(lambda ctx, drift: 1)]),
    job("breaks", runs_on=LINUX, steps=[breaks]),
    job("in-vain", runs_on=LINUX, steps=[wait_for_step("never", lambda ctx: None, interval=0.01, timeout=0.1)]),
    job("plain-only", runs_on=LINUX, steps=[plain], needs=["in-sync"]),
])
"""
