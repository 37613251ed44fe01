"""Workflows whose jobs fan out, or are made while they run."""

MATRICES = """
@step
async def tell(ctx: Context) -> str:
    f = ctx.fanout
    print(dict(ctx.matrix), f and (f.index, f.total, f.first, f.last))
    return "/".join(f"{type(v).__name__}:{v}" for v in ctx.matrix.values())

def fan(name: str, **options):
    return job(name, runs_on=LINUX, steps=[tell], **options)

@job(runs_on=LINUX, matrix={"size": [1, 2], "fast": [True, False]}, exclude=[{"size": 2, "fast": False}],
     include=[{"size": 9, "fast": True}])
async def shaped(ctx: Context, *, size: int, fast: bool) -> int:
    print(list(ctx.matrix))
    return size * 10 + fast

@job(runs_on=LINUX, needs=[shaped])
async def reads(ctx: Context) -> None:
    found = ctx.matrix_outputs(shaped)
    print(sorted(found.by_matrix.items()), [n.name for n in ctx.needs["shaped"]])

static = workflow("matrix", on=push(branches="main"), jobs=[
    fan("plain", matrix=["a", "b", 3]), shaped, reads, fan("window", matrix=[1, 2, 3, 4], max_parallel=2),
    fan("one-by-one", matrix=[1, 2, 3], max_parallel=1), fan("single", matrix=["only"]), fan("none"),
    fan("floats", matrix=[1.5, 0.25]),
])

@step
async def second_fails(ctx: Context) -> None:
    assert ctx.matrix["value"] != 2, "two"

failing = workflow("matrix-fails", on=push(branches="main"), jobs=[
    job("stops", runs_on=LINUX, matrix={"value": [1, 2, 3, 4]}, max_parallel=1, fail_fast=True, steps=[second_fails]),
    job("goes-on", runs_on=LINUX, matrix={"value": [1, 2, 3]}, max_parallel=1, steps=[second_fails]),
    fan("behind", needs=["stops"]), fan("behind-failed", needs=[need("goes-on", when="on-failure")]),
])

@job(runs_on=LINUX)
async def discover(ctx: Context) -> dict[str, list[str]]:
    return {"letter": ["x", "y"], "size": ["s", "m"]}

def found(g: GenerateContext):
    print("asked for", g.event.target_branch)
    return g.job_outputs(discover)

async def too_many(g: GenerateContext):
    return list(range(257))

def raises(g: GenerateContext):
    raise LookupError("no matrix")

@job(runs_on=LINUX, needs=[discover], matrix=found, exclude=[{"letter": "y", "size": "m"}], max_parallel=2)
async def grown(ctx: Context, *, letter: str, size: str) -> dict[str, str]:
    print(ctx.fanout.index, ctx.fanout.total)
    return {letter: size}

@job(runs_on=LINUX, needs=[grown])
async def gathers(ctx: Context) -> None:
    print(ctx.matrix_outputs(grown).merged, sorted(ctx.matrix_outputs(grown).by_matrix.items()))
    print([(n.name, n.status) for n in ctx.needs["grown"]])

runtime = workflow("matrix-at-run-time", on=push(branches="main"), jobs=[
    discover, grown, gathers, fan("empty", matrix=lambda g: []), fan("many", matrix=too_many),
    fan("raising", matrix=raises), fan("behind-raising", needs=["raising"]),
    fan("behind-always", needs=[need("empty", when="always")]), fan("wrong-kind", matrix=lambda g: "abc"),
])
"""

GENERATORS = """
@step
async def scan(ctx: Context, *, target: str) -> str:
    print("scanning", target)
    return target.upper()

@step
async def nothing(ctx: Context) -> None: ...

async def hooked(ctx: HookContext) -> None:
    print("hooked", ctx.outcome.status)

@job(runs_on=LINUX)
async def discover(ctx: Context) -> list[str]:
    return ["a", "b"]

def scans(name: str, target: str, **options) -> MultiJob:
    return job(name, runs_on=LINUX, steps=[scan.bind(target=target)], **options)

@dynamic_jobs("at-once")
async def at_once(g: GenerateContext) -> list[MultiJob]:
    print("for", g.event.type, g.event.target_branch)
    return [scans("once-1", "one", cleanup=hooked, before_step=hooked, env={"A": "1"}),
            scans("once-2", "two", needs=["once-1"], timeout="1m")]

@dynamic_jobs("later", needs=[discover])
async def later(g: GenerateContext) -> list[MultiJob]:
    await g.sh("echo from a command")
    return [scans(f"scan-{t}", t) for t in g.job_outputs(discover)]

@dynamic_jobs("none", needs=[discover])
def none(g: GenerateContext) -> list[MultiJob]:
    return []

@dynamic_jobs("fans")
def fans(g: GenerateContext) -> list[MultiJob]:
    return [job("spread", runs_on=LINUX, matrix={"n": [1, 2]}, steps=[nothing], max_parallel=1),
            job("ruled", runs_on=LINUX, steps=[nothing], rules=[rule("no", lambda ctx: False)]),
            job("joins", runs_on=LINUX, steps=[nothing], needs=["spread", "discover"])]

@job(runs_on=LINUX, needs=[group("later"), none, at_once])
async def gathers(ctx: Context) -> None:
    for name in ("later", "none", "at-once"):
        print(name, [(n.name, n.status, n.result) for n in ctx.needs[name]])

good = workflow("generators", on=push(branches="main"), jobs=[discover, at_once, later, none, fans, gathers])

@dynamic_jobs("clash")
def clash(g: GenerateContext) -> list[MultiJob]:
    return [scans("plain", "x")]

@dynamic_jobs("twice")
def twice(g: GenerateContext) -> list[MultiJob]:
    return [scans("same", "x"), scans("same", "y")]

@dynamic_jobs("hundred")
def hundred(g: GenerateContext) -> list[MultiJob]:
    return [scans(f"n-{n}", "x") for n in range(101)]

def closing_over(name: str):
    async def inner(ctx: Context) -> None:
        print(name)
    return step(name)(inner)

@dynamic_jobs("closures")
def closures(g: GenerateContext) -> list[MultiJob]:
    return [job(f"closure-{name}", runs_on=LINUX, steps=[closing_over(name)]) for name in "abc"]

@dynamic_jobs("raising")
def raising(g: GenerateContext) -> list[MultiJob]:
    raise OSError("no inventory")

@dynamic_jobs("unknown")
def unknown(g: GenerateContext) -> list[MultiJob]:
    return [scans("lost", "x", needs=["nobody"])]

@dynamic_jobs("circle")
def circle(g: GenerateContext) -> list[MultiJob]:
    return [scans("c1", "x", needs=["c2"]), scans("c2", "x", needs=["c1"])]

@dynamic_jobs("wrong")
def wrong(g: GenerateContext):
    return ["not a job"]

bad = workflow("generators-that-fail", on=push(branches="main"), jobs=[
    job("plain", runs_on=LINUX, steps=[nothing]), clash, twice, hundred, closures, raising, unknown, circle, wrong,
    job("behind", runs_on=LINUX, steps=[nothing], needs=[raising]),
    job("behind-always", runs_on=LINUX, steps=[nothing], needs=[group("hundred", when="always")]),
])
"""
