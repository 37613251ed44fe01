"""Workflows about rules, hooks and needs: who runs, in which order, and what is said of the others."""

RULES = """
@step
async def ran(ctx: Context) -> None:
    print("ran")

def named(ctx: RuleContext) -> bool:
    return ctx.event.target_branch == "main"

async def says_yes(ctx: RuleContext) -> bool:
    return (await ctx.sh("echo yes")).text == "yes"

async def says_no(ctx: RuleContext) -> bool:
    return (await ctx.sh("echo no")).text == "yes"

async def raises(ctx: RuleContext) -> bool:
    raise ValueError("cannot tell")

def in_a_thread(ctx: RuleContext) -> bool:
    return os.path.isdir(".kici") and not ctx.env.get("NOTHING_LIKE_IT")

def touched(ctx: RuleContext) -> bool:
    return ctx.changed_files is None or any(name.startswith(".kici/") for name in ctx.changed_files)

on_main = rule("on main", named)
elsewhere = rule("elsewhere", lambda ctx: ctx.event.target_branch == "elsewhere")
never = skip("never", lambda ctx: True)
absent = rule("absent", lambda ctx: ctx.event.payload["absent"] == 1)
asked = rule("asked", says_yes)
refused = rule("refused", says_no)
broken = rule("broken", raises)

def guarded(name: str, *rules: Rule, **options):
    return job(name, runs_on=LINUX, steps=[ran], rules=rules, **options)

pure_no = guarded("pure-no", on_main, elsewhere, asked)
impure_no = guarded("impure-no", on_main, refused, broken)
impure_raises = guarded("impure-raises", on_main, broken)
of_jobs = workflow("rules-of-jobs", on=push(branches="main"), jobs=[
    guarded("pure-yes", on_main), pure_no, guarded("pure-skip", never), guarded("pure-raises", absent),
    guarded("impure-yes", on_main, asked, rule("in a thread", in_a_thread)), impure_no, impure_raises,
    guarded("impure-skip", skip("skips", says_yes)), guarded("touched", rule("touched", touched)),
    guarded("behind-pure", needs=[pure_no]), guarded("behind-impure", needs=[need(impure_no, when="on-skip")]),
    guarded("behind-raising", needs=[need(impure_raises, when="on-failure")]),
])

def stepped(name: str, *rules: Rule, **options):
    async def body(ctx: Context) -> str:
        return name
    return step(name, rules=rules, **options)(body)

of_steps = workflow("rules-of-steps", on=push(branches="main"), jobs=[
    job("decided", runs_on=LINUX, steps=[
        stepped("yes", on_main, asked), stepped("no", on_main, elsewhere, asked), stepped("asked-no", refused),
        stepped("skipped", never), stepped("last"),
    ]),
    job("broken-rule", runs_on=LINUX, steps=[stepped("first"), stepped("raising", broken), stepped("unreached")]),
    job("tolerated", runs_on=LINUX, steps=[stepped("raising", broken, continue_on_error=True), stepped("reached")]),
])

of_workflow_no = workflow("rules-workflow-no", on=push(branches="main"), jobs=[guarded("j")], rules=[on_main, elsewhere])
of_workflow_raises = workflow("rules-workflow-raises", on=push(branches="main"), jobs=[guarded("j")], rules=[absent])
of_workflow_asks = workflow("rules-workflow-asks", on=push(branches="main"), jobs=[guarded("j")], rules=[on_main, asked])
of_workflow_refuses = workflow(
    "rules-workflow-refuses", on=push(branches="main"), jobs=[guarded("j"), guarded("k")], rules=[on_main, refused, broken])
of_workflow_breaks = workflow("rules-workflow-breaks", on=push(branches="main"), jobs=[guarded("j")], rules=[broken])

places = workflow("rules-of-position", on=push(branches="main"), jobs=[
    guarded("first", only_on_first_host(), matrix=["a", "b", "c"]),
    guarded("last", only_on_last_host(), matrix=["a", "b", "c"]),
    guarded("second", only_on_fanout_index(1), matrix=["a", "b", "c"]),
    guarded("alone", only_on_first_host(), only_on_last_host()),
    guarded("alone-second", only_on_fanout_index(1)),
    job("by-step", runs_on=LINUX, matrix=[1, 2], steps=[
        step("once", rules=[only_on_first_host()])(lambda ctx: print("once")), ran]),
])
"""

HOOKS = """
def tell(level: str):
    async def hook_body(ctx: HookContext) -> None:
        o = ctx.outcome
        print(level, o.status, "because", o.reason, "failed", o.failed_step, "outputs", dict(o.step_outputs or {}))
    return hook_body

every = dict(on_success=tell("job success"), on_failure=tell("job failure"), on_cancel=tell("job cancel"),
             cleanup=tell("job cleanup"), before_step=tell("before"), after_step=tell("after"))
of_workflow = dict(on_success=tell("workflow success"), on_failure=tell("workflow failure"),
                   on_cancel=tell("workflow cancel"), cleanup=tell("workflow cleanup"))

@step(on_cancel=tell("step cancel"), cleanup=tell("step cleanup"))
async def good(ctx: Context) -> int:
    print("good")
    return 7

@step(on_cancel=tell("step cancel"), cleanup=tell("step cleanup"))
async def bad(ctx: Context) -> None:
    await ctx.sh("echo bad; exit 5")

@step
async def unreached(ctx: Context) -> None:
    print("unreached")

async def breaks(ctx: HookContext) -> None:
    raise RuntimeError("hook broke")

def blocking(ctx: HookContext) -> None:
    print("blocking", ctx.outcome.status)

async def commands(ctx: HookContext) -> None:
    await ctx.sh('echo "in a hook: $status"', status=ctx.outcome.status)

well = workflow("hooks-success", on=push(branches="main"), jobs=[
    job("well", runs_on=LINUX, steps=[good, step("again")(good.fn)], **every)], **of_workflow)
badly = workflow("hooks-failure", on=push(branches="main"), jobs=[
    job("badly", runs_on=LINUX, steps=[good, bad, unreached], **every)], **of_workflow)
broken = workflow("hooks-that-break", on=push(branches="main"), jobs=[
    job("on-success", runs_on=LINUX, steps=[good], on_success=breaks, cleanup=tell("still")),
    job("cleanup", runs_on=LINUX, steps=[good], cleanup=breaks),
    job("before", runs_on=LINUX, steps=[good], before_step=breaks, cleanup=tell("still")),
    job("after", runs_on=LINUX, steps=[good, unreached], after_step=breaks, cleanup=tell("still")),
    job("on-failure", runs_on=LINUX, steps=[bad], on_failure=breaks, cleanup=tell("still")),
    job("of-step", runs_on=LINUX, steps=[step("tidied", cleanup=breaks)(good.fn), unreached],
        on_success=tell("well"), on_failure=tell("of-step"), cleanup=tell("not well cleanup")),
    job("slow", runs_on=LINUX, steps=[good], cleanup=hook(lambda ctx: ctx.sh("sleep 60"), timeout="300ms")),
    job("kinds", runs_on=LINUX, steps=[good], on_success=blocking, cleanup=commands),
])
breaking_workflow = workflow("hooks-workflow-breaks", on=push(branches="main"), jobs=[
    job("fine", runs_on=LINUX, steps=[good])], on_success=breaks, cleanup=tell("workflow cleanup"))
unused = workflow("hooks-unused", on=push(branches="main"), jobs=[job("fine", runs_on=LINUX, steps=[good])],
                  on_failure=tell("never"))
"""

NEEDS = """
@job(runs_on=LINUX)
async def green(ctx: Context) -> dict[str, int]:
    return {"answer": 42}

@job(runs_on=LINUX)
async def red(ctx: Context) -> None:
    raise ValueError("red")

@job(runs_on=LINUX, rules=[rule("no", lambda ctx: False)])
async def grey(ctx: Context) -> None: ...

@step
async def tell(ctx: Context) -> None:
    for name, found in sorted(ctx.needs.items()):
        print(name, found.status)

def after(name: str, *needs):
    return job(name, runs_on=LINUX, steps=[tell], needs=needs)

@job(runs_on=LINUX, needs=[green, need(red, when="always"), need(grey, when={"skipped"})])
async def reads(ctx: Context) -> None:
    print(ctx.need(green).name, ctx.need(green).status, ctx.need(green).result)
    print(ctx.need("red").status, ctx.need(red).result, ctx.need(grey).status)
    print(ctx.job_outputs(green)["answer"])

@job(runs_on=LINUX, needs=[green])
async def undeclared(ctx: Context) -> None:
    ctx.job_outputs(red)

@job(runs_on=LINUX, needs=[need(red, when="always")])
async def nothing_there(ctx: Context) -> None:
    print(ctx.job_outputs(red))

ones = [green, red, grey]
edges = workflow("needs", on=push(branches="main"), jobs=[
    *ones, reads, undeclared, nothing_there,
    *(after(f"{one.name}-{when}", need(one, when=when))
      for one in ones for when in ("on-success", "always", "on-skip", "on-failure")),
    after("set-of-two", need(red, when={"failed", "skipped"}), need(grey, when={"failed", "skipped"})),
    after("set-unmet", need(green, when={"failed"})),
    after("cascade", "set-unmet"), after("cascade-always", need("set-unmet", when="always")),
    after("one-of-two-unmet", need(green), need(red)),
])
"""
