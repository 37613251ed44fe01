"""Workflows about what is around a job: variables, preparation, files that are kept, other runs."""

ENVIRONMENT = """
NORMAL = ("KICI_RUN_ID", "KICI_JOB_ID")
SERVER = ("KICI_ORG_ID", "KICI_REQUEST_ID")  # there is neither on an author's machine
MACHINE = ("HOME", "LANG", "LC_ALL", "PATH", "SHELL", "TERM", "TMPDIR", "TZ", "USER")  # the machine's own

@step
async def facts(ctx: Context) -> None:
    for name in sorted(n for n in os.environ if n.startswith("KICI") and n not in ("KICI_ENV", "KICI_PATH", *SERVER)):
        print(name, "set" if name in NORMAL else os.environ[name])
    await ctx.sh("env | grep -c ^KICI_RUN_ID=; echo ${FORCE_COLOR-} ${CI-}", check=False)
    print(sorted(n for n in ctx.env if not n.startswith("KICI_") and n not in MACHINE))
    r = ctx.run_info
    print(r.repository, r.ref, r.sha == os.environ["KICI_SHA"], r.attempt)
    print(ctx.workflow, ctx.job, ctx.step.name, ctx.step.index, ctx.provider, ctx.is_test_run, ctx.check_mode)
    print(ctx.environment, list(ctx.environments), ctx.fanout, dict(ctx.matrix), dict(ctx.dispatch_inputs))
    print(ctx.source_repo.identifier, ctx.workflow_repo.identifier, ctx.workspace == Path.cwd(), ctx.tmp.is_dir())
    print((await ctx.sh("git rev-parse --abbrev-ref HEAD; git status --porcelain; git log -1 --format=%s")).lines)

@step
async def event(ctx: Context) -> None:
    e = ctx.event
    print(type(e).__name__, e.type, e.action, e.target_branch, e.source_branch, e.base_branch, e.provider, e.is_fork_pr)
    print(e.source_repo, sorted({"ref", "before", "after", "head_commit", "repository", "sender"} & set(e.payload.raw)), e.payload.ref, e.payload.after == os.environ["KICI_SHA"])
    print(e.payload.repository.full_name, e.payload.repository.default_branch)

@step
async def sets(ctx: Context) -> None:
    ctx.set_env("LAYER", "set_env"); ctx.set_env("SET", "1")
    os.makedirs("bin"); Path("bin/tool").write_text("#!/bin/sh\\necho tool"); os.chmod("bin/tool", 0o755)
    ctx.add_path("bin")
    await ctx.sh('echo "FILE=a=b" >> "$KICI_ENV"; echo "LAYER=file" >> "$KICI_ENV"; echo "$PWD/other" >> "$KICI_PATH"')
    await ctx.sh('echo "now $LAYER $SET ${FILE-unset}"', env={"LAYER": "call"})

@step
async def reads(ctx: Context) -> None:
    await ctx.sh('echo "$JOB $LAYER $SET $FILE"; tool')
    print(ctx.env["LAYER"], [p.rsplit("/", 1)[-1] for p in os.environ["PATH"].split(":")][:2])

@step
async def tells(ctx: Context) -> None:
    await ctx.sh('echo "${BRANCH-} ${KIND-}"')

def impure(event: Event) -> dict[str, str]:
    print("asking")
    return {"BRANCH": event.target_branch, "KIND": Path("kind.txt").name}

def raising(event: Event) -> dict[str, str]:
    raise KeyError("kind")

variables = workflow("environment", on=push(branches="main"), jobs=[
    job("facts", runs_on=LINUX, steps=[facts, event]),
    job("layers", runs_on=LINUX, steps=[sets, reads], env={"JOB": "job", "LAYER": "job", "SET": "job"}),
    job("pure", runs_on=LINUX, steps=[tells], env=lambda event: {"BRANCH": event.target_branch, "KIND": f"{event.type}!"}),
    job("impure", runs_on=LINUX, steps=[tells], env=impure),
    job("pure-raises", runs_on=LINUX, steps=[tells], env=lambda event: {"BRANCH": event.payload["absent"]}),
    job("impure-raises", runs_on=LINUX, steps=[tells], env=raising),
    job("behind", runs_on=LINUX, steps=[tells], needs=[need("impure-raises", when="on-failure")]),
])

@step
async def listed(ctx: Context) -> None:
    print(sorted(p.name for p in Path().iterdir()), Path(".git").exists())

bare = workflow("checkout", on=push(branches="main"), hash_files=["notes/*.txt"], jobs=[
    job("without", runs_on=LINUX, steps=[listed], checkout=False), job("with", runs_on=LINUX, steps=[listed]),
])
"""

PREPARATION = """
@step
async def uses(ctx: Context) -> None:
    await ctx.sh('echo "$FIRST $SECOND"; tool')

exports = [
    Init(run='echo preparing; echo "FIRST=$START" >> "$KICI_ENV"; mkdir bin; echo "$PWD/bin" >> "$KICI_PATH"', env={"START": "1"}),
    Init(run='echo "SECOND=$FIRST+1" >> "$KICI_ENV"; printf "#!/bin/sh\\necho tool" > bin/tool; chmod +x bin/tool', shell="sh"),
]

@step
async def nothing(ctx: Context) -> None: ...

inits = workflow("inits", on=push(branches="main"), jobs=[
    job("exports", runs_on=LINUX, steps=[uses], init=exports), job("auto", runs_on=LINUX, steps=[nothing], init="auto"),
    job("off", runs_on=LINUX, steps=[nothing], init=False),
    job("fails", runs_on=LINUX, steps=[nothing], init=[Init(run="echo no >&2; exit 4"), Init(run="echo never")],
        on_failure=lambda ctx: print("failed", ctx.outcome.reason)),
    job("late", runs_on=LINUX, steps=[nothing], init=Init(run="sleep 60", timeout="300ms")),
    job("wrong-shell", runs_on=LINUX, steps=[nothing], init=Init(run="x", shell="no-such-shell")),
])

@step
async def fills(ctx: Context) -> None:
    print("had", sorted(p.name for p in Path("kept").glob("*")))
    Path("kept").mkdir(exist_ok=True); Path("kept/file").write_text("x")

@step(cache=Cache(key="of-step", paths=["stepped"]))
async def of_step(ctx: Context) -> None:
    print("had", Path("stepped").exists())
    Path("stepped").write_text("x")

@step
async def by_hand(ctx: Context) -> None:
    spec = Cache(key=cache_key("by-hand", files=["notes/a.txt"]), paths=["hand"], restore_keys=["by-"])
    hit = await ctx.cache.restore(spec)
    print(hit.hit, (hit.matched_key or "").rsplit("-", 1)[0])
    Path("hand").write_text("x")
    print(await ctx.cache.save(spec))

@step
async def fails(ctx: Context) -> None:
    Path("lost").mkdir(exist_ok=True); Path("lost/file").write_text("x")
    raise ValueError("so nothing is saved")

caches = workflow("caches", on=push(branches=["main", "again"]), jobs=[
    job("of-job", runs_on=LINUX, steps=[fills, of_step], cache=Cache(key="of-job", paths=["kept"])),
    job("by-hand", runs_on=LINUX, steps=[by_hand]),
    job("not-saved", runs_on=LINUX, steps=[fails], cache=Cache(key="lost", paths=["lost"])),
    job("missing", runs_on=LINUX, steps=[fails], cache=[Cache(key="none", paths=["nowhere"])]),
    job("prefix", runs_on=LINUX, steps=[fills], needs=["of-job"],
        cache=Cache(key="of-job-other", paths=["kept"], restore_keys=["of-"])),
])
"""

OTHERS = """
@step
async def emits(ctx: Context) -> None:
    sent = await ctx.emit("conformance", {"env": "prod"})
    print(bool(sent.id))

@step
async def refused(ctx: Context) -> None:
    await ctx.emit("conformance", {"big": "x" * 300_000})

@step
async def far(ctx: Context) -> None:
    await ctx.emit("conformance", {}, target_repos=["someone/else"])

@step
async def nothing(ctx: Context) -> None: ...

def named(name: str, **options):
    return job(name, runs_on=LINUX, steps=[nothing], **options)

async def asked(ctx: ConcurrencyContext) -> str:
    print("asking for a group")
    return f"asked-{ctx.workflow}"

async def raising(ctx: ConcurrencyContext) -> str:
    raise ValueError("no group")

events = workflow("events", on=push(branches="main"), jobs=[
    *(job(each.name, runs_on=LINUX, steps=[each]) for each in (emits, refused, far))])
turns = workflow("turns", on=push(branches="main"), jobs=[
    named("one", concurrency_group="line"), named("two", concurrency_group="line"),
    named("pure", concurrency_group=lambda e: f"line-{e.target_branch}"), named("after", needs=["one"], concurrency_group="line"),
    named("raises", concurrency_group=lambda e: e.payload["absent"]),
])
in_group = workflow("group-pure", on=push(branches="main"), jobs=[named("j")],
                    concurrency=Concurrency(group=lambda ctx: f"deploy-{ctx.workflow}", cancel_in_progress=False))
in_asked = workflow("group-asked", on=push(branches="main"), jobs=[named("j")], concurrency=Concurrency(group=asked))
in_raising = workflow("group-raises", on=push(branches="main"), jobs=[named("j")], concurrency=Concurrency(group=raising))
in_pure_raising = workflow("group-pure-raises", on=push(branches="main"), jobs=[named("j")],
                           concurrency=Concurrency(group=lambda ctx: ctx.event.payload["absent"]))
"""

CALLED = """
@job(runs_on=LINUX)
async def tells(ctx: Context) -> None:
    e = ctx.event
    print(type(e).__name__, e.source, e.action, e.path, e.verified_by, e.payload["env"])

def called(name: str, path: str, header: str):
    return workflow(name, jobs=[tells], on=generic_webhook(
        source="deploys", events=["deploy.done"], match={"$.env": "prod"}, path=path,
        auth=ApiKeyAuth(secret="prod:KEY", header=header)))

there = called("called", "/staging/eu", "x-key")
elsewhere = called("called-elsewhere", "/other", "x-key")
otherwise = called("called-otherwise", "/staging/eu", "x-other")
"""

DISPATCHED = """
class Wanted(Inputs):
    target: str
    mode: Literal["full", "edge-only"] = "full"
    retries: Annotated[int, Meta(ge=0, le=10)] = 3
    really: bool = False

@job(runs_on=LINUX, rules=[rule("only full", lambda ctx: ctx.dispatch_inputs["mode"] == "full")])
async def deploy(ctx: Context) -> None:
    wanted = ctx.inputs(Wanted)
    print(wanted, dict(ctx.dispatch_inputs), ctx.event.type, ctx.event.action)

@job(runs_on=LINUX, rules=[rule("not full", lambda ctx: ctx.dispatch_inputs["mode"] != "full")])
async def edge(ctx: Context) -> None: ...

dispatched = workflow("dispatched", on=dispatch(types=["deploy"], inputs=Wanted), jobs=[deploy, edge])
"""

STOPPED = """
def tell(level: str):
    async def hook_body(ctx: HookContext) -> None:
        print(level, ctx.outcome.status)
    return hook_body

async def stays(ctx: Context) -> None:
    try:
        print("begun", flush=True)
        await ctx.sh("sleep 600")
    finally:
        print("finally")

@step
async def unreached(ctx: Context) -> None: ...

def stopped(name: str, branch: str, **options):
    return workflow(name, on=push(branches=branch), on_cancel=tell("workflow cancel"), cleanup=tell("workflow cleanup"),
        on_failure=tell("never"), on_success=tell("never"), jobs=[
            job("stays", runs_on=LINUX, on_cancel=tell("job cancel"), cleanup=tell("job cleanup"), on_failure=tell("never"),
                steps=[step("sleeps", on_cancel=tell("step cancel"), cleanup=tell("step cleanup"))(stays), unreached]),
            job("behind", runs_on=LINUX, steps=[unreached], needs=["stays"]),
            job("behind-always", runs_on=LINUX, steps=[unreached], needs=[need("stays", when="always")]),
        ], **options)

too_long = stopped("too-long", "late", timeout="4s")
cancelled = stopped("cancelled", "stop")
"""
