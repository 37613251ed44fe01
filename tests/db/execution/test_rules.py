"""What is decided when a run begins, and what its agents decide later (AU-34, AU-41)."""

from typing import Any

import pytest
from sqlalchemy import event

from kici.orchestrator.runs.service import RunService
from kici.protocol.runner_v1 import RuleResult
from kici.runtime.clock import SystemClock
from kici.spec.lock import Container, Inline, Matrix, Need, Rule
from kici.spec.states import JobStatus, StepStatus
from tests.db.execution import rows
from tests.db.execution.acting import execution, invariants, report
from tests.db.execution.starting import (
    BROKEN,
    IMPURE,
    ON_MAIN,
    Crew,
    asked,
    begin,
    begin_all,
    completions,
    job,
    job_rows,
    statuses,
    workflow,
)
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres


async def test_a_rule_that_says_no_skips_its_job_and_all_that_needs_it(orchestrator_db: Database) -> None:
    """AU-34, OR-131."""
    run = await begin(
        orchestrator_db,
        workflow(
            job("build", rules=[ON_MAIN]),
            job("test", "build"),
            job("report", Need(name="test", run_on=["success", "skipped"])),
            job("other"),
        ),
        branch="dev",
    )
    found = await job_rows(orchestrator_db, run.run_id)
    assert {name: row["status"] for name, row in found.items()} == {
        "build": "skipped",
        "test": "skipped",
        "report": "queued",
        "other": "queued",
    }
    assert found["build"]["error_message"] == "rule 'on main' said no"
    assert found["test"]["error_message"] == "upstream_unmet: build (skipped)"
    detail = await RunService(execution(orchestrator_db), SystemClock(), cluster_name="test").detail(
        run.run_id
    )
    (rule,) = detail.jobs[0].rules
    assert (rule.label, rule.passed, rule.error) == ("on main", False, None)
    await invariants(orchestrator_db, [run.run_id])


async def test_a_run_of_which_nothing_is_left_ends_when_it_begins(orchestrator_db: Database) -> None:
    """AU-34, OR-122: run, completion and projection in one transaction."""
    run = await begin(
        orchestrator_db, workflow(job("build", rules=[ON_MAIN]), job("test", "build")), branch="dev"
    )
    row = await rows.run(orchestrator_db.engine, run.run_id)
    assert (row["status"], row["jobs_open"]) == ("skipped", 0)
    assert row["completed_at"] is not None
    (ended,) = [e for e in await completions(orchestrator_db) if e["event"] == "__workflow_complete"]
    assert (ended["status"], ended["runId"]) == ("skipped", run.run_id)
    await invariants(orchestrator_db, [run.run_id])


async def test_a_rule_that_raises_fails_its_job(orchestrator_db: Database) -> None:
    """AU-34."""
    run = await begin(orchestrator_db, workflow(job("build", rules=[BROKEN])))
    row = (await job_rows(orchestrator_db, run.run_id))["build"]
    assert row["status"] == "failed"
    assert row["error_message"].startswith("rule 'broken' failed: ")
    assert (await rows.run(orchestrator_db.engine, run.run_id))["status"] == "failed"


async def test_a_workflow_rule_that_says_no_leaves_a_run_without_jobs(orchestrator_db: Database) -> None:
    """AU-34."""
    run = await begin(orchestrator_db, workflow(job("build"), rules=[ON_MAIN]), branch="dev")
    row = await rows.run(orchestrator_db.engine, run.run_id)
    assert (row["status"], row["job_count"]) == ("skipped", 0)
    detail = await RunService(execution(orchestrator_db), SystemClock(), cluster_name="test").detail(
        run.run_id
    )
    assert [(rule.label, rule.passed) for rule in detail.run.rules] == [("on main", False)]
    (ended,) = await completions(orchestrator_db)
    assert ended["status"] == "skipped"
    broken = await begin(orchestrator_db, workflow(job("build"), rules=[BROKEN]))
    row = await rows.run(orchestrator_db.engine, broken.run_id)
    assert row["status"] == "failed"
    assert row["failure_reason"].startswith("rule 'broken' failed: ")


async def test_rules_of_author_code_go_to_the_agent(orchestrator_db: Database) -> None:
    """AU-34, AG-41: the agent begins where we ended, and its results stand behind ours."""
    run = await begin(
        orchestrator_db, workflow(job("build", rules=[ON_MAIN, IMPURE]), job("test", "build"))
    )
    ex = execution(orchestrator_db)
    crew = Crew(orchestrator_db, ex)
    held = await crew.start()
    assert crew.sent["build"].rules_from == 1
    results = [RuleResult(label="asks a server", passed=False, duration_ms=7)]
    assert await report(ex, held.job(JobStatus.SKIPPED, rules=results)) == []
    found = await job_rows(orchestrator_db, run.run_id)
    assert {name: row["status"] for name, row in found.items()} == {"build": "skipped", "test": "skipped"}
    shown = await rows.fetch(
        orchestrator_db.engine,
        "SELECT r->>'label' AS label FROM execution_jobs j, jsonb_array_elements(j.rules) r WHERE j.id = :id",
        id=held.job_id,
    )
    assert [row["label"] for row in shown] == ["on main", "asks a server"]
    assert (await rows.run(orchestrator_db.engine, run.run_id))["status"] == "skipped"


async def test_a_window_moves_past_children_that_a_rule_ended(orchestrator_db: Database) -> None:
    """OR-134, AU-35."""
    first = ["attr", ["attr", ["arg"], "fanout"], "first"]
    only_later = Inline(expression=["not", first])
    run = await begin(
        orchestrator_db,
        workflow(
            job(
                "test",
                matrix=Matrix(values={"n": [1, 2, 3]}),
                max_parallel=1,
                rules=[Rule(label="not the first", inline=only_later)],
            )
        ),
    )
    assert await statuses(orchestrator_db, run.run_id) == {
        "test (1)": "skipped",
        "test (2)": "queued",
        "test (3)": "pending",
    }
    await invariants(orchestrator_db, [run.run_id])


async def test_values_of_pure_functions_are_in_the_dispatch(orchestrator_db: Database) -> None:
    """AU-41."""
    env = Inline(expression=["dict", ["BRANCH", ["attr", ["arg"], "target_branch"]]])
    await begin(
        orchestrator_db, workflow(job("build", inline_env=env)), inputs={"level": 3}, check_mode="check"
    )
    crew = Crew(orchestrator_db, execution(orchestrator_db))
    await crew.start()
    frame = crew.sent["build"]
    assert (frame.job.env, frame.job.inline_env) == ({"BRANCH": "main"}, None)
    assert (frame.inputs, frame.check_mode, frame.purpose) == ({"level": 3}, "check", "job")


async def test_a_function_that_fails_fails_its_job_alone(orchestrator_db: Database) -> None:
    """AU-41."""
    run = await begin(
        orchestrator_db, workflow(job("build", inline_env=Inline(expression=["arg"])), job("other"))
    )
    found = await job_rows(orchestrator_db, run.run_id)
    assert (found["build"]["status"], found["other"]["status"]) == ("failed", "queued")
    failure: Any = found["build"]["init_failure"]
    assert '"dynamic_eval"' in str(failure).replace("'", '"')


async def test_a_workflow_that_asks_for_too_much_is_refused_by_name(orchestrator_db: Database) -> None:
    """OR-210."""
    run = await begin(orchestrator_db, workflow(job("build", container=Container(image="x"))))
    row = await rows.run(orchestrator_db.engine, run.run_id)
    assert row["status"] == "failed"
    assert "container (job build)" in row["failure_reason"]


async def test_one_batch_holds_runs_of_every_kind(orchestrator_db: Database) -> None:
    """AU-34, OR-6."""
    ruled = workflow(job("a", rules=[ON_MAIN]), job("b", "a"))
    started = await begin_all(
        orchestrator_db,
        asked(ruled, branch="dev"),
        asked(workflow(job("plain"))),
        asked(ruled),
        asked(workflow(job("c"), rules=[ON_MAIN]), branch="dev"),
    )
    found = [(await rows.run(orchestrator_db.engine, run.run_id))["status"] for run in started]
    assert found == ["skipped", "queued", "queued", "skipped"]
    await invariants(orchestrator_db, [run.run_id for run in started[:3]])


async def test_runs_without_any_of_it_cost_three_statements(orchestrator_db: Database) -> None:
    """OR-6: the hot path of every trivial run, whatever the size of the batch."""
    asked_for: list[str] = []

    def count(_connection: object, _cursor: object, statement: str, *_: Any) -> None:
        asked_for.append(statement)

    event.listen(orchestrator_db.engine.sync_engine, "before_cursor_execute", count)
    await begin_all(orchestrator_db, *(asked(workflow(job("a"), job("b", "a"))) for _ in range(5)))
    event.remove(orchestrator_db.engine.sync_engine, "before_cursor_execute", count)
    assert len(asked_for) == 3


async def test_drift_fails_a_job_when_it_was_asked_to(orchestrator_db: Database) -> None:
    """OR-122, AU-48."""
    ex = execution(orchestrator_db)
    for mode, ends in (("check", "success"), ("check-fail-on-drift", "failed")):
        run = await begin(orchestrator_db, workflow(job("build")), check_mode=mode)
        held = await Crew(orchestrator_db, ex).start()
        step = held.step(
            0,
            StepStatus.SUCCESS,
            check_outcome="would_change",
            drift_summary="1 file",
            summary="# Done",
            secrets_accessed=["TOKEN"],
        )
        assert await report(ex, step, held.job(JobStatus.SUCCESS, drifted=True)) == []
        assert (await rows.run(orchestrator_db.engine, run.run_id))["status"] == ends
    detail = await RunService(ex, SystemClock(), cluster_name="test").detail(run.run_id)
    (step,) = detail.jobs[0].steps
    assert (step.check_outcome, step.drift_summary, step.summary, step.secrets_accessed) == (
        "would_change",
        "1 file",
        "# Done",
        ["TOKEN"],
    )
