"""Setup jobs, generated jobs and the hooks of workflows (AU-33, AU-42…45, AG-67…70)."""

import asyncio
from typing import Any

import pytest

from kici.protocol.runner_v1 import RunOutcome
from kici.runner.host import Zygote
from kici.spec.events import Event
from kici.spec.ids import HOOK_STEPS
from kici.spec.states import JobStatus
from tests.process.runner.builders import Host, Recorder, Repo, run

pytestmark = pytest.mark.process


async def init(repo: Repo, job: str, **changes: Any) -> tuple[Any, Recorder]:
    return await run(
        repo,
        job,
        purpose="init",
        event=Event(type="push", target_branch="main", payload={"n": 3}),
        **changes,
    )


FUNCTIONS = """
print("module level")

def env(event: Event) -> dict:
    print("computing env")
    return {"BRANCH": event.target_branch}
async def where(event: Event) -> str:
    return "staging-" + (await asyncio.to_thread(str.upper, event.target_branch))
async def combos(g: GenerateContext) -> dict:
    listed = (await g.sh("echo a b")).text.split()
    return {"part": listed, "n": [1, True]}

@job(runs_on=LINUX, env=env, environment=[where, "eu"], concurrency_group=lambda e: os.path.join("grp", e.target_branch),
     matrix=combos, exclude=[{"part": "a", "n": True}])
async def deploy(ctx: Context) -> None: ...
jobs = [deploy]
"""


async def test_functions_of_a_job(repo: Repo) -> None:
    """AG-68, AU-42: everything that is printed, the import included, goes to the one row `init`."""
    repo.write(FUNCTIONS)
    result, seen = await init(repo, "deploy")
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert result.init.env == {"BRANCH": "main"}
    assert result.init.environments == ["staging-MAIN", "eu"]
    assert result.init.concurrency_group == "grp/main"
    assert result.init.matrix == {"part": ["a", "b"], "n": [1, True]}
    assert result.init.rules is None
    assert seen.events == ["start init", "end init success"]
    assert seen.text(0) == "module level\ncomputing env\na b\n"
    assert seen.text(-1) == ""


@pytest.mark.parametrize(
    ("body", "why", "category"),
    [
        (
            "raise ValueError('no idea')",
            "Matrix expansion failed: matrix failed: ValueError: no idea",
            "matrix_expansion",
        ),
        (
            "return []",
            "Matrix expansion failed: job 'j': its matrix has 0 combinations",
            "matrix_expansion",
        ),
        (
            "return list(range(257))",
            "Matrix expansion failed: job 'j': its matrix has 257",
            "matrix_expansion",
        ),
        ("return {'a': [None]}", "Matrix expansion failed: matrix is not usable", "matrix_expansion"),
        (
            "return ['a\\t']",
            "Matrix expansion failed: job 'j': matrix value 'a\\t' of 'value' has control",
            "matrix_expansion",
        ),
        (
            "return {'a b': [1]}",
            "Matrix expansion failed: job 'j': matrix dimension 'a b' is no word",
            "matrix_expansion",
        ),
        ("return [2**70]", "Matrix expansion failed: ", "matrix_expansion"),
        ("g.sh('true')", "Matrix expansion failed: matrix failed: NotAwaitedError", "matrix_expansion"),
    ],
)
async def test_a_matrix_that_cannot_be(repo: Repo, body: str, why: str, category: str) -> None:
    """AU-40, AG-70."""
    repo.write(
        f"""
async def combos(g):
    {body}
@step
async def one(ctx: Context) -> None: ...
jobs = [job("j", runs_on=LINUX, matrix=combos, steps=[one])]
"""
    )
    result, seen = await init(repo, "j")
    assert result.status == JobStatus.FAILED
    assert str(result.error_message).startswith(why)
    assert result.failure_category == category
    assert seen.statuses() == {"init": "failed"}
    assert why in seen.text(0)


@pytest.mark.parametrize(
    ("option", "why"),
    [
        ("env=lambda e: {'A': open('/nope')}", "env failed: FileNotFoundError"),
        ("env=lambda e: {'A': os.getpid()}", "env is not usable: Expected `str`, got `int` - at `$[...]`"),
        (
            "environment=lambda e: os.environ.get('NOPE')",
            "environment is not usable: Expected `str`, got `null`",
        ),
        ("concurrency_group=lambda e: os.nope", "concurrency_group failed: AttributeError"),
    ],
)
async def test_functions_that_fail(repo: Repo, option: str, why: str) -> None:
    """AU-41: the job fails, the log has the traceback."""
    repo.write(
        f"""
@step
async def one(ctx: Context) -> None: ...
jobs = [job("j", runs_on=LINUX, steps=[one], {option})]
"""
    )
    result, seen = await init(repo, "j")
    assert (result.status, result.failure_category) == (JobStatus.FAILED, "dynamic_eval")
    assert str(result.error_message).startswith(why)
    if "failed" in why:
        assert "Traceback" in seen.text(0)


async def test_a_module_that_does_not_load(repo: Repo) -> None:
    """AG-67."""
    repo.write("import nowhere\njobs = []")
    result, seen = await init(repo, "j")
    assert result.status == JobStatus.FAILED
    assert str(result.error_message).startswith("the workflow cannot be loaded: ModuleNotFoundError")
    assert "import nowhere" in seen.text(0)


async def test_functions_of_a_workflow(repo: Repo) -> None:
    """AU-34, AU-59: rules up to the first no; the concurrency group only when the workflow runs."""
    repo.write(
        """
async def asks(ctx: RuleContext) -> bool:
    return (await ctx.sh("echo asked")).ok
def big(ctx: RuleContext) -> bool:
    return ctx.event.payload["n"] > int(os.environ.get("LEAST", "2"))
async def broken(ctx): raise LookupError("gone")
@step
async def one(ctx: Context) -> None: ...
jobs = [job("j", runs_on=LINUX, steps=[one])]
rules = {"ok": [rule("asks", asks), rule("big", big)], "no": [skip("asks", asks), rule("broken", broken)],
         "broken": [rule("broken", broken)]}
""",
        options=(
            "rules=rules[os.environ['CASE']], concurrency=Concurrency("
            "group=lambda c: f'{c.workflow}/{c.ref}/{c.event.target_branch}/{len(os.sep)}')"
        ),
    )
    base = repo.execute("x").env
    facts = {"base_job_name": "", "run_info": {"ref": "main"}}
    result, seen = await init(repo, "__init__ci", env={**base, "CASE": "ok"}, **facts)
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert [(rule.label, rule.passed) for rule in result.init.rules] == [("asks", True), ("big", True)]
    assert result.init.concurrency_group == "ci/main/main/1"
    assert seen.text(0) == "asked\n"
    result, seen = await init(repo, "__init__ci", env={**base, "CASE": "no"}, **facts)
    assert result.status == JobStatus.SUCCESS
    assert [(rule.label, rule.passed) for rule in result.init.rules] == [("asks", False)]
    assert result.init.concurrency_group is None
    result, seen = await init(repo, "__init__ci", env={**base, "CASE": "broken"}, **facts)
    assert result.status == JobStatus.FAILED
    assert str(result.error_message).startswith("rule 'broken' failed: LookupError: gone")
    assert result.init.rules[0].error is not None


GENERATOR = """
@dataclass
class Found:
    targets: list[str]

@job(runs_on=LINUX)
async def discover(ctx: Context) -> Found:
    return Found(["a", "b"])

@step
async def scan(ctx: Context, *, target: str) -> str:
    return (await ctx.sh('echo "scanned $t in $WORD"', t=target)).text

@step(timeout="5m", retry=2, continue_on_error=True)
async def extra(ctx: Context) -> None:
    raise RuntimeError("may fail")

@step
def quiet(ctx: Context) -> None: ...

async def tidy(ctx: HookContext) -> None:
    print("tidy", ctx.outcome.status)

@dynamic_jobs("reports", needs=[need(discover, when="always")])
async def reports(g: GenerateContext):
    print("generating for", g.need(discover).status, g.event.target_branch)
    await g.sh("echo in bash")
    hosts = await g.kici.inventory.query("role:web")
    return [
        job(f"report-{t}", runs_on=[hosts[0].agent_id], needs=[discover], env={"WORD": "yes"}, cleanup=tidy,
            timeout="1h", init=Init(run="echo init"), steps=[scan.bind(target=t), parallel(extra, quiet, name="both")])
        for t in g.job_outputs(discover).targets
    ]

jobs = [discover, reports]
"""


async def test_a_generator_makes_jobs_as_data(repo: Repo) -> None:
    """AU-43, AU-44, AG-70: from frozen outputs; the row `evaluate` holds all that it printed. Another runner
    executes such a job from the data alone."""
    repo.write(GENERATOR)
    host = Host(repo.root.parent, inventory_query={"hosts": [{"agentId": "agent-7"}]})
    result, seen = await run(
        repo,
        "__dynamic__ci__0",
        purpose="dynamic",
        base_job_name="",
        services=host,
        event=Event(type="push", target_branch="main"),
        upstream_statuses={"discover": "success"},
        upstream_outputs={"discover": {"discover": {"targets": ["a", "b"]}}},
    )
    assert result.status == JobStatus.SUCCESS, (result.error_message, seen.text(0))
    made = result.generated or []
    assert [job.name for job in made] == ["report-a", "report-b"]
    assert {job.group for job in made} == {"reports"}
    assert made[0].generated
    assert made[0].runs_on[0].value == "agent-7"
    assert [step.ref.params for step in made[1].steps if step.ref] == [{"target": "b"}, {}, {}]
    assert seen.events == ["start evaluate", "end evaluate success"]
    assert seen.text(0) == ("generating for success main\nin bash\nGenerated 2 jobs: report-a, report-b\n")
    env = {**repo.execute("x").env, **made[1].env}
    result, seen = await run(
        repo, "report-b", generated=made[1], env=env, upstream_statuses={"discover": "success"}
    )
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert result.outputs["scan"] == "scanned b in yes"
    assert seen.end("extra").status == "failed"
    assert seen.end("init:0").status == "success"
    assert seen.text(seen.index("cleanup")) == "tidy success\n"
    assert {row.concurrency_kind for row in seen.starts} == {"sequential", "parallel-child"}


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (
            "return [job(f'r{n}', runs_on='x', steps=[scan]) for n in range(101)]",
            "made 101 jobs; the limit is 100",
        ),
        ("return 'x'", "returned str, not a list of jobs"),
        ("return [1]", "returned int among its jobs"),
        ("raise ValueError('no idea')", "generator 'r' failed: ValueError: no idea"),
        ("@step\n    async def inner(ctx): ...\n    return [job('a', runs_on='x', steps=[inner])]", "E603"),
        (
            "return [job('a', runs_on='x', steps=[scan.bind(n=[2**70])])]",
            "its parameter n[0] has more than 64 bits",
        ),
        ("return [job('a', runs_on='x', steps=[])]", "made jobs that cannot run"),
    ],
)
async def test_generators_that_fail(repo: Repo, body: str, why: str) -> None:
    """AU-43, AU-44: too many, no jobs, an exception, a closure, a wrong option."""
    repo.write(
        f"""
@step
async def scan(ctx: Context, *, n: object = None) -> None: ...
@dynamic_jobs("r")
def r(g: GenerateContext):
    {body}
jobs = [r]
"""
    )
    result, seen = await run(repo, "__dynamic__ci__0", purpose="dynamic", base_job_name="")
    assert (result.status, result.failure_category) == (JobStatus.FAILED, "dynamic_eval")
    assert why in str(result.error_message)
    assert result.generated is None
    assert seen.statuses() == {"evaluate": "failed"}


@pytest.mark.parametrize("force", [False, True])
async def test_a_setup_job_can_be_cancelled(repo: Repo, force: bool) -> None:
    """AG-71: what it started dies with it."""
    repo.write(
        """
@dynamic_jobs("r")
async def r(g: GenerateContext):
    await g.sh("echo ready; sleep 1000")
    return []
jobs = [r]
"""
    )
    seen = Recorder()
    execute = repo.execute("j", purpose="dynamic", base_job_name="")
    async with asyncio.timeout(30), Zygote.start() as zygote, asyncio.TaskGroup() as tasks:
        ended = tasks.create_task(zygote.run(execute, seen))
        await seen.printed("ready", 0)
        zygote.abort("j", "by ada", force=force)
        result = await ended
    assert (result.status, result.error_message) == (JobStatus.CANCELLED, "by ada")
    assert seen.statuses() == {"evaluate": "cancelled"}


HOOKED = """
def says(word, fail=False):
    async def fn(ctx: HookContext) -> None:
        o = ctx.outcome
        print(word, o.status, o.reason, o.failed_job, o.duration, dict(o.job_statuses))
        await ctx.sh("echo in bash")
        if fail:
            raise RuntimeError("hook is broken")
    return fn
@step
async def one(ctx: Context) -> None: ...
jobs = [job("j", runs_on=LINUX, steps=[one])]
"""


@pytest.mark.parametrize(
    ("status", "kinds"),
    [
        ("success", ["hook:onSuccess", "hook:cleanup"]),
        ("failed", ["hook:onFailure", "hook:cleanup"]),
        ("cancelled", ["hook:onCancel", "hook:cleanup"]),
    ],
)
async def test_hooks_of_a_workflow(repo: Repo, status: str, kinds: list[str]) -> None:
    """AU-33, AG-53: the one that the outcome asks for, then cleanup; they know how the run went."""
    repo.write(
        HOOKED,
        options="on_success=says('s'), on_failure=says('f'), on_cancel=says('c'), cleanup=says('clean')",
    )
    outcome = RunOutcome(
        status=status, reason="why", failed_job="j", duration_ms=1500, job_statuses={"j": JobStatus.FAILED}
    )
    result, seen = await run(repo, "__hooks__ci", purpose="hooks", base_job_name="", run_outcome=outcome)
    assert result.status == JobStatus.SUCCESS, result.error_message
    assert [row.step_type for row in seen.starts] == kinds
    assert [row.step_index for row in seen.starts] == [HOOK_STEPS, HOOK_STEPS + 1]
    shown = f"{status[0]} {status} why j 1.5 {{'j': <JobStatus.FAILED: 'failed'>}}\nin bash\n"
    assert seen.text(HOOK_STEPS) == shown
    assert seen.text(HOOK_STEPS + 1) == shown.replace(status[0], "clean", 1)


async def test_a_workflow_hook_that_fails(repo: Repo) -> None:
    """AU-33: its row fails the setup job, and `cleanup` runs all the same."""
    repo.write(HOOKED, options="on_failure=says('f', fail=True), cleanup=says('clean')")
    outcome = RunOutcome(status="failed")
    result, seen = await run(repo, "__hooks__ci", purpose="hooks", base_job_name="", run_outcome=outcome)
    assert result.status == JobStatus.FAILED
    assert str(result.error_message).startswith("hook on_failure failed: RuntimeError: hook is broken")
    assert seen.statuses() == {"on_failure": "failed", "cleanup": "success"}
