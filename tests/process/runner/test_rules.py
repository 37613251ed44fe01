"""Rules of jobs and steps that an agent has to evaluate (AU-34, AU-35)."""

import pytest

from kici.spec.events import Event
from kici.spec.states import JobStatus, StepStatus
from tests.process.runner.builders import Repo, run

pytestmark = pytest.mark.process

STEP = """
@step
async def one(ctx: Context) -> None:
    print("ran")
"""


async def test_a_job_rule_that_says_no_skips_the_job(repo: Repo) -> None:
    """AU-34: in order, up to the first no; rules decided before dispatch are not evaluated again."""
    repo.write(
        STEP
        + """
async def decided(ctx): raise AssertionError("was decided before dispatch")
async def yes(ctx: RuleContext) -> bool:
    done = await ctx.sh("echo from a rule; test -d .kici")
    return done.ok and ctx.changed_files == ["a.py"] and ctx.env["HOME"] != ""
def no(ctx: RuleContext) -> bool:
    print(ctx.event.target_branch, ctx.dispatch_inputs, ctx.fanout.total)
    return ctx.dispatch_inputs["go"]
def never(ctx): raise AssertionError("comes after the first no")

async def failing_hook(ctx): raise AssertionError("nothing began")

jobs = [job("j", runs_on=LINUX, steps=[one], cleanup=failing_hook,
            rules=[rule("zero", decided), rule("first", yes), rule("second", no), rule("third", never)])]
"""
    )
    result, seen = await run(
        repo,
        "j",
        rules_from=1,
        inputs={"go": False},
        event=Event(type="push", target_branch="main", changed_files=["a.py"]),
    )
    assert (result.status, result.error_message) == (JobStatus.SKIPPED, None)
    assert [(rule.label, rule.passed, rule.error) for rule in result.rules] == [
        ("first", True, None),
        ("second", False, None),
    ]
    assert seen.events == ["end one skipped"]
    assert seen.text(-1) == "from a rule\nmain {'go': False} 1\n"


async def test_a_rule_that_raises_fails_its_job(repo: Repo) -> None:
    """AU-34: not awaiting what a rule calls is such an error (AU-14); `on_failure` and `cleanup` hear of it."""
    repo.write(
        STEP
        + """
async def broken(ctx: RuleContext) -> bool:
    return ctx.event.payload["pull"]["number"] > 3
async def forgot(ctx: RuleContext) -> bool:
    ctx.sh("true")
    return True
async def tell(ctx: HookContext) -> None:
    print("told", ctx.outcome.status)
jobs = [
    job("j", runs_on=LINUX, steps=[one], rules=[rule("big ones", broken)], on_failure=tell),
    job("k", runs_on=LINUX, steps=[one], rules=[skip("forgot", forgot)]),
]
"""
    )
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.FAILED
    assert result.error_message is not None
    assert result.error_message.startswith(
        "rule 'big ones' failed: KeyError: 'pull' (.kici/workflows/ci.py:"
    )
    assert result.rules[0].passed is False
    assert str(result.rules[0].error).startswith("KeyError")
    assert seen.statuses() == {"one": StepStatus.SKIPPED, "on_failure": StepStatus.SUCCESS}
    assert "Traceback" in seen.text(-1)
    assert seen.text(seen.index("on_failure")) == "told failed\n"
    result, _seen = await run(repo, "k")
    assert "rule 'forgot' failed" in str(result.error_message)
    assert "ctx.sh('true') at .kici/workflows/ci.py:" in str(result.error_message)


async def test_rules_of_steps(repo: Repo) -> None:
    """AU-34: skipped is no failure, a rule that raises fails the step unless it may fail; also side by side."""
    repo.write(
        """
calls = []
async def no(ctx: RuleContext) -> bool:
    await ctx.sh("echo asked")
    return False
def broken(ctx): raise ValueError("no idea")

@step(rules=[rule("never", no)])
async def skipped(ctx: Context) -> None: raise AssertionError
@step(rules=[rule("broken", broken)], continue_on_error=True)
async def soft(ctx: Context) -> None: raise AssertionError
@step(rules=[skip("docs only", lambda ctx: ctx.changed_files == ["README.md"])])
async def runs(ctx: Context) -> str: return "x"
@step(rules=[rule("broken", broken)])
async def hard(ctx: Context) -> None: raise AssertionError
@step
async def last(ctx: Context) -> None: raise AssertionError
def seen(ctx: HookContext) -> None: print("before")

jobs = [
    job("j", runs_on=LINUX, steps=[skipped, soft, runs, hard, last], before_step=seen),
    job("p", runs_on=LINUX, steps=[parallel(skipped, runs)]),
]
"""
    )
    result, seen = await run(repo, "j")
    assert result.status == JobStatus.FAILED
    assert str(result.error_message).startswith(
        "step 'hard' failed: rule 'broken' failed: ValueError: no idea"
    )
    ends = {name: seen.end(name) for name in ("skipped", "soft", "runs", "hard", "last")}
    assert {name: end.status for name, end in ends.items()} == {
        "skipped": "skipped",
        "soft": "failed",
        "runs": "success",
        "hard": "failed",
        "last": "skipped",
    }
    assert [(rule.label, rule.passed) for rule in ends["skipped"].rules] == [("never", False)]
    assert [(rule.label, rule.passed) for rule in ends["runs"].rules] == [("docs only", True)]
    assert "rule 'broken' failed" in seen.text(1)
    assert seen.events.count("start before_step (runs)") == 1
    assert "start before_step (skipped)" not in seen.events
    assert "asked\n" in seen.text(-1)
    result, seen = await run(repo, "p")
    assert result.status == JobStatus.SUCCESS
    assert seen.statuses() == {"skipped": "skipped", "runs": "success"}


async def test_position_rules(repo: Repo) -> None:
    """AU-35: child 0 of 1 off fan-out."""
    repo.write(
        """
@step(rules=[only_on_first_host()])
async def first(ctx: Context) -> None: ...
@step(rules=[only_on_last_host()])
async def last(ctx: Context) -> None: ...
@step(rules=[only_on_fanout_index(1)])
async def second(ctx: Context) -> None: ...
jobs = [job("j", runs_on=LINUX, steps=[first, last, second])]
"""
    )
    ran = []
    for index, total in ((0, 1), (1, 2), (1, 3)):
        _result, seen = await run(repo, "j", fanout_index=index, fanout_total=total)
        ran.append([name for name, status in seen.statuses().items() if status == "success"])
    assert ran == [["first", "last"], ["last", "second"], ["second"]]


async def test_a_hanging_rule_ends_with_its_job(repo: Repo) -> None:
    """AU-31: the job's limit covers its rules; what a rule started dies."""
    repo.write(
        STEP
        + """
async def hangs(ctx: RuleContext) -> bool:
    await ctx.sh("sleep 1000")
    return True
jobs = [job("j", runs_on=LINUX, steps=[one], rules=[rule("hangs", hangs)], timeout="300ms")]
"""
    )
    result, seen = await run(repo, "j")
    assert (result.status, result.timeout_reason) == (JobStatus.FAILED, "job_timeout")
    assert seen.statuses() == {"one": "skipped"}
