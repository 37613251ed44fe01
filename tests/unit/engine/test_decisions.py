"""What is decided before any author code runs (AU-34, AU-41, AU-59), and what this server cannot do yet."""

from collections.abc import Sequence
from typing import Any

import pytest

from kici.engine.capabilities import missing, refusal
from kici.engine.decisions import PLAIN, RunDecision, RunScope, is_plain, resolve
from kici.engine.expressions import Fields
from kici.engine.graph import plan
from kici.engine.rules import decide
from kici.engine.scopes import rule_scope
from kici.spec.events import Event
from kici.spec.lock import (
    Approval,
    Concurrency,
    Container,
    DynamicValue,
    HostSelection,
    Inline,
    LockJob,
    LockStep,
    LockWorkflow,
    Matrix,
    Need,
    Registry,
    Rule,
    SourceLocation,
)
from kici.spec.triggers import Pattern, PushTrigger, ScheduleTrigger, TagTrigger, Trigger

HERE = SourceLocation(file=".kici/workflows/ci.py")
BRANCH = ["attr", ["attr", ["arg"], "event"], "target_branch"]
ON_MAIN = Rule(label="on main", inline=Inline(expression=["compare", BRANCH, "==", "main"]))
BROKEN = Rule(label="broken", inline=Inline(expression=["index", ["arg"], "nothing"]))
ELSEWHERE = [Pattern(type="glob", pattern="acme/other")]
ASKS = Rule(label="asks a server")


def job(name: str, **more: Any) -> LockJob:
    return LockJob(name=name, source=HERE, **more)


def flow(*jobs: LockJob, triggers: Sequence[Trigger] = (), **more: Any) -> LockWorkflow:
    return LockWorkflow(
        name="ci",
        source=HERE,
        content_hash="",
        compile_schema_version=1,
        triggers=list(triggers),
        jobs=list(jobs),
        **more,
    )


def decided(workflow: LockWorkflow, *, branch: str = "main", **scope: Any) -> RunDecision:
    return resolve(
        workflow,
        plan(workflow),
        RunScope(event=Event(type="push", target_branch=branch), ref="refs/heads/main", **scope),
    )


def event_scope_of(branch: str) -> Fields:
    return rule_scope(Event(type="push", target_branch=branch))


def test_rules_are_decided_in_order_up_to_the_first_no() -> None:
    """AU-34."""
    scope = event_scope_of("main")
    yes = decide([ON_MAIN, ON_MAIN], scope)
    assert (yes.verdict, yes.undecided, [r.passed for r in yes.results]) == ("run", 2, [True, True])
    no = decide([ON_MAIN, Rule(label="not main", negate=True, inline=ON_MAIN.inline), BROKEN], scope)
    assert (no.verdict, [r.label for r in no.results]) == ("skip", ["on main", "not main"])
    assert no.message == "rule 'not main' said no"


def test_a_rule_that_raises_fails_what_it_guards() -> None:
    """AU-34."""
    found = decide([BROKEN, ON_MAIN], event_scope_of("main"))
    assert found.verdict == "fail"
    assert found.message is not None
    assert found.message.startswith("rule 'broken' failed: ")
    assert [result.error is not None for result in found.results] == [True]


def test_rules_of_author_code_are_left_to_the_agent_with_all_after_them() -> None:
    """AU-34, AG-41."""
    found = decided(flow(job("a", rules=[ON_MAIN, ASKS, ON_MAIN]))).jobs[0]
    assert (found.verdict, found.rules_from, len(found.rules)) == ("run", 1, 1)
    skipped = decided(flow(job("a", rules=[ON_MAIN, ASKS])), branch="dev").jobs[0]
    assert skipped.verdict == "skip"


def test_workflow_rules_decide_the_run_when_all_are_pure() -> None:
    """AU-34."""
    assert decided(flow(job("a"), rules=[ON_MAIN])).verdict == "run"
    assert decided(flow(job("a"), rules=[ON_MAIN]), branch="dev").verdict == "skip"
    assert decided(flow(job("a"), rules=[BROKEN])).verdict == "fail"
    later = decided(flow(job("a"), rules=[ON_MAIN, ASKS]), branch="dev")
    assert (later.verdict, later.rules) == ("run", ())


def test_a_rule_sees_its_place_in_the_fan_out_and_the_variables_of_its_job() -> None:
    """AU-34, AU-35."""
    first = Rule(label="first", inline=Inline(expression=["attr", ["attr", ["arg"], "fanout"], "first"]))
    found = decided(flow(job("t", matrix=Matrix(values={"n": [1, 2]}), rules=[first])))
    assert [found.jobs[index].verdict for index in (0, 1)] == ["run", "skip"]
    assert decided(flow(job("t", rules=[first]))).jobs[0].verdict == "run"
    level = Inline(expression=["dict", ["LEVEL", ["attr", ["arg"], "target_branch"]]])
    high = ["compare", ["index", ["attr", ["arg"], "env"], "LEVEL"], "==", "main"]
    ruled = decided(
        flow(job("t", inline_env=level, rules=[Rule(label="l", inline=Inline(expression=high))]))
    ).jobs[0]
    assert (ruled.verdict, ruled.job.env, ruled.job.inline_env) == ("run", {"LEVEL": "main"}, None)


def test_groups_and_environments_are_worked_out_before_dispatch() -> None:
    """AU-41, AU-59."""
    ref = Inline(expression=["binary", "+", "deploy-", ["attr", ["arg"], "ref"]])
    branch = Inline(expression=["attr", ["arg"], "target_branch"])
    found = decided(
        flow(
            job("a", concurrency_group=branch, environments=[DynamicValue(inline=branch)]),
            job("b", concurrency_group="fixed"),
            concurrency=Concurrency(group=ref),
        )
    )
    assert found.concurrency_group == "deploy-refs/heads/main"
    assert [found.jobs[index].concurrency_group for index in (0, 1)] == ["main", "fixed"]
    assert [value.value for value in found.jobs[0].job.environments] == ["main"]


@pytest.mark.parametrize(
    "broken",
    [["index", ["arg"], "nothing"], 3, "", ["attr", ["arg"], "absent"]],
)
def test_what_cannot_be_worked_out_fails_its_element(broken: Any) -> None:
    """AU-41, AU-59."""
    group = Inline(expression=broken)
    run = decided(flow(job("a"), concurrency=Concurrency(group=group)))
    assert run.verdict == "fail"
    assert run.message is not None
    assert run.message.startswith("concurrency group failed: ")
    one = decided(flow(job("a", concurrency_group=group), job("b"))).jobs
    assert {index: each.verdict for index, each in one.items()} == {0: "fail"}
    assert decided(flow(job("a", inline_env=group))).jobs[0].verdict == "fail"


def test_a_setup_row_without_anybody_to_set_up_is_skipped() -> None:
    """OR-136."""
    asked = flow(
        job("t", rules=[ON_MAIN], matrix=Matrix(values={"n": [1, 2]}), dynamic_concurrency_group=True)
    )
    rows = plan(asked)
    found = decided(asked, branch="dev")
    assert [(rows[index].kind, found.jobs[index].verdict) for index in sorted(found.jobs)] == [
        ("init", "skip"),
        ("job", "skip"),
        ("job", "skip"),
    ]


def test_a_workflow_without_functions_costs_nothing() -> None:
    plain = flow(job("a"), job("b", needs=[Need(name="a", run_on=["success"])], env={"A": "1"}))
    assert is_plain(plain)
    assert decided(plain) == PLAIN
    assert not is_plain(flow(job("a", rules=[ASKS])))
    assert not is_plain(flow(job("a"), concurrency=Concurrency(group="g")))


RESTART = LockStep(name="restart-host", source_location=SourceLocation(file="x"), restarts_host=True)


def test_what_the_server_lacks_is_named_with_who_uses_it() -> None:
    """OR-210: never silently left out."""
    asked = flow(
        job("a", environments=[DynamicValue(value="prod")], approval=Approval()),
        job("b", container=Container(image="x"), runs_on_all=HostSelection()),
        job("c", environments=[DynamicValue(value="prod")], steps=[RESTART]),
        approval=Approval(),
        registries=[Registry(url="https://x", token_secret="e:s")],
        install_env=["e:s"],
        triggers=[
            PushTrigger(repos=ELSEWHERE),
            TagTrigger(repos=ELSEWHERE),
            ScheduleTrigger(cron="0 0 * * *"),
        ],
    )
    assert missing(asked) == [
        "approval (workflow, job a)",
        "registries (workflow)",
        "install_env (workflow)",
        "repos (trigger push, trigger tag)",
        "environment (job a, job c)",
        "container (job b)",
        "runs_on_all (job b)",
        "restart_host (job c)",
    ]
    assert refusal(flow(job("a"))) is None
    assert "container (job b)" in (refusal(asked) or "")
