"""Rows that find out what others need: init, generators, hooks (OR-134…137, AU-33, AU-40, AU-43)."""

from typing import Any

import pytest

from kici.engine.matrix import Scalar
from kici.orchestrator.runs.cancel import Request, cancel_runs
from kici.orchestrator.runs.service import RunService
from kici.protocol.runner_v1 import InitResult, RuleResult
from kici.runtime.clock import SystemClock
from kici.spec.lock import Concurrency, LockJob, Matrix, Need
from kici.spec.states import JobStatus
from tests.db.execution import rows
from tests.db.execution.acting import dispatch, execution, invariants, report
from tests.db.execution.starting import (
    BROKEN,
    FILE,
    IMPURE,
    ON_MAIN,
    Crew,
    begin,
    completions,
    generator,
    job,
    job_rows,
    statuses,
    told,
    workflow,
)
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres

DYNAMIC = Matrix(type="dynamic")


def group(name: str, *run_on: str) -> Need:
    return Need(group=name, run_on=list(run_on) or ["success"])


def made(name: str, *needs: str | Need, **more: Any) -> LockJob:
    return job(name, *needs, generated=True, **more)


# ── init ─────────────────────────────────────────────────────────────────────────────────────────


async def test_an_init_row_completes_its_job(orchestrator_db: Database) -> None:
    """OR-136, AU-41: what the functions came to is in the job's dispatch."""
    run = await begin(
        orchestrator_db, workflow(job("deploy", dynamic_env=True, matrix=Matrix(values={"n": [1, 2]})))
    )
    crew = Crew(orchestrator_db, execution(orchestrator_db))
    found = InitResult(env={"TOKEN_NAME": "x"})
    order = await crew.work({"__init__ci__deploy": {"init": found}})
    assert order == ["__init__ci__deploy", "deploy (1)", "deploy (2)"]
    asked = crew.sent["__init__ci__deploy"]
    assert (asked.purpose, asked.base_job_name) == ("init", "deploy")
    assert crew.sent["deploy (2)"].job.env == {"TOKEN_NAME": "x"}
    assert crew.sent["deploy (2)"].job.dynamic_env is False
    assert crew.sent["deploy (2)"].upstream_statuses == {}
    assert (await rows.run(orchestrator_db.engine, run.run_id))["status"] == "success"
    shown = await told(orchestrator_db)
    assert shown["__init__ci__deploy"]["displayName"] == "Init: deploy"
    names = [event.get("jobName") for event in await completions(orchestrator_db)]
    assert "__init__ci__deploy" not in names


async def test_a_matrix_known_at_run_time_becomes_children(orchestrator_db: Database) -> None:
    """AU-40, OR-134: with the window, the edges of both sides, and outputs of what came before."""
    run = await begin(
        orchestrator_db,
        workflow(
            job("find"),
            job("test", "find", matrix=DYNAMIC, max_parallel=2, exclude=[{"os": "mac"}]),
            job("ship", "test"),
            has_cleanup=True,
        ),
    )
    crew = Crew(orchestrator_db, execution(orchestrator_db))
    outputs = {"only": {"systems": ["linux", "mac"]}}
    await crew.work({"find": {"outputs": outputs}}, at_most=1)
    held = await crew.start()
    assert crew.sent[held.job_name].upstream_outputs == {"find": outputs}
    matrix: dict[str, list[Scalar]] = {"os": ["linux", "mac", "bsd"], "n": [1, 2]}
    assert await report(crew.ex, held.job(JobStatus.SUCCESS, init=InitResult(matrix=matrix))) == []
    assert await statuses(orchestrator_db, run.run_id) == {
        "find": "success",
        "__init__ci__test": "success",
        "test (linux, 1)": "queued",
        "test (linux, 2)": "queued",
        "test (bsd, 1)": "pending",
        "test (bsd, 2)": "pending",
        "ship": "pending",
        "__hooks__ci": "pending",
    }
    await invariants(orchestrator_db, [run.run_id])
    shown = await told(orchestrator_db)
    assert shown["test (bsd, 2)"]["displayName"] == "test (os:bsd, n:2)"
    order = await crew.work()
    assert order[-2:] == ["ship", "__hooks__ci"]
    assert crew.sent["test (bsd, 1)"].matrix == {"os": "bsd", "n": 1}
    assert (crew.sent["test (bsd, 1)"].fanout_index, crew.sent["test (bsd, 1)"].fanout_total) == (2, 4)
    assert crew.sent["test (bsd, 1)"].upstream_outputs == {"find": outputs}
    assert crew.sent["ship"].upstream_groups == {
        "test": ["test (linux, 1)", "test (linux, 2)", "test (bsd, 1)", "test (bsd, 2)"]
    }
    row = await rows.run(orchestrator_db.engine, run.run_id)
    assert (row["status"], row["job_count"], row["jobs_open"]) == ("success", 8, 0)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (InitResult(matrix={"n": []}), "0 combinations"),
        (InitResult(matrix={"n": list(range(300))}), "300 combinations"),
        (InitResult(), "no matrix"),
        (InitResult(matrix={"n": ["taken"]}), "already"),
        (None, "no result"),
    ],
)
async def test_a_matrix_that_is_none_fails_its_job_before_any_step(
    orchestrator_db: Database, found: InitResult | None, message: str
) -> None:
    """AU-40, OR-134."""
    run = await begin(
        orchestrator_db, workflow(job("test", matrix=DYNAMIC), job("ship", "test"), job("test (taken)"))
    )
    crew = Crew(orchestrator_db, execution(orchestrator_db))
    await crew.work({"__init__ci__test": {"init": found}})
    after = await job_rows(orchestrator_db, run.run_id)
    assert {name: row["status"] for name, row in after.items()} == {
        "__init__ci__test": "failed",
        "test": "failed",
        "ship": "skipped",
        "test (taken)": "success",
    }
    assert message in after["test"]["error_message"]
    detail = await RunService(crew.ex, SystemClock(), cluster_name="test").detail(run.run_id)
    failure = next(shown.init_failure for shown in detail.jobs if shown.job_name == "test")
    assert failure is not None
    assert (failure.category, failure.job_name) == ("matrix_expansion", "test")
    assert after["test"]["error_message"].startswith("Matrix expansion failed: ")
    assert (await rows.run(orchestrator_db.engine, run.run_id))["status"] == "failed"
    await invariants(orchestrator_db, [run.run_id])


async def test_an_init_row_that_fails_or_times_out_fails_its_job(orchestrator_db: Database) -> None:
    """AU-42, OR-136."""
    ex = execution(orchestrator_db)
    for state in (JobStatus.FAILED, JobStatus.TIMED_OUT_STALE):
        run = await begin(orchestrator_db, workflow(job("deploy", dynamic_concurrency_group=True)))
        await Crew(orchestrator_db, ex).work(
            {"__init__ci__deploy": {"state": state, "error_message": "no net"}}
        )
        row = (await job_rows(orchestrator_db, run.run_id))["deploy"]
        assert (row["status"], row["error_message"]) == ("failed", "no net")
        assert "dynamic_eval" in str(row["init_failure"])


async def test_a_repeated_or_late_report_of_a_setup_row_changes_nothing(orchestrator_db: Database) -> None:
    """OR-150, OR-125: replay and attempt fencing."""
    run = await begin(orchestrator_db, workflow(job("test", matrix=DYNAMIC)))
    ex = execution(orchestrator_db)
    crew = Crew(orchestrator_db, ex)
    lost = await crew.take()
    assert lost is not None
    assert await report(ex, lost.reject("draining")) == []
    held = await crew.start()
    late = lost.job(JobStatus.SUCCESS, init=InitResult(matrix={"n": [1]}))
    assert await report(ex, late) == ["stale_attempt"]
    end = held.job(JobStatus.SUCCESS, init=InitResult(matrix={"n": [1, 2]}))
    assert await report(ex, end, end) == ["job_ended"]
    assert await report(ex, end) == ["job_ended"]
    assert await statuses(orchestrator_db, run.run_id) == {
        "__init__ci__test": "success",
        "test (1)": "queued",
        "test (2)": "queued",
    }


async def test_impure_workflow_rules_decide_before_any_job(orchestrator_db: Database) -> None:
    """AU-34."""
    ex = execution(orchestrator_db)
    lock = workflow(job("a"), job("b", "a"), rules=[IMPURE], has_cleanup=True)
    run = await begin(orchestrator_db, lock)
    no = InitResult(rules=[RuleResult(label="asks a server", passed=False, duration_ms=3)])
    crew = Crew(orchestrator_db, ex)
    assert await crew.work({"__init__ci": {"init": no}}) == ["__init__ci"]
    assert (crew.sent["__init__ci"].purpose, crew.sent["__init__ci"].base_job_name) == ("init", "")
    row = await rows.run(orchestrator_db.engine, run.run_id)
    assert (row["status"], row["jobs_open"]) == ("skipped", 0)
    detail = await RunService(ex, SystemClock(), cluster_name="test").detail(run.run_id)
    assert [(rule.label, rule.passed) for rule in detail.run.rules] == [("asks a server", False)]
    assert detail.jobs[0].display_name == "Init: ci"
    yes = InitResult(rules=[RuleResult(label="asks a server", passed=True, duration_ms=3)])
    await begin(orchestrator_db, lock)
    order = await Crew(orchestrator_db, ex).work({"__init__ci": {"init": yes}})
    assert order == ["__init__ci", "a", "b", "__hooks__ci"]


async def test_an_impure_group_blocks_the_run_once_it_is_known(orchestrator_db: Database) -> None:
    """OR-180, AU-59."""
    ex = execution(orchestrator_db)
    lock = workflow(job("a"), concurrency=Concurrency(group=None, cancel_in_progress=False))
    ids = [(await begin(orchestrator_db, lock)).run_id for _ in range(2)]
    crew = Crew(orchestrator_db, ex)
    for _ in ids:
        held = await crew.start()
        assert held.job_name == "__init__ci"
        found = InitResult(concurrency_group="deploy")
        assert await report(ex, held.job(JobStatus.SUCCESS, init=found)) == []
    running = await crew.start()
    assert await crew.take() is None
    waiting = next(run_id for run_id in ids if run_id != running.run_id)
    assert (await statuses(orchestrator_db, waiting))["a"] == "waiting"
    row = await rows.run(orchestrator_db.engine, waiting)
    assert (row["blocked"], row["waiting_reason"]) == (True, "Waiting for deploy (1 ahead)")
    assert await report(ex, running.job(JobStatus.SUCCESS)) == []
    await crew.work()
    assert (await rows.run(orchestrator_db.engine, waiting))["status"] == "success"


# ── generators ───────────────────────────────────────────────────────────────────────────────────


async def test_generated_jobs_join_the_run(orchestrator_db: Database) -> None:
    """AU-43, AU-45, OR-137: with the snapshot of what came before, edges of their group, and hooks."""
    run = await begin(
        orchestrator_db,
        workflow(
            job("discover"),
            generator("reports", "discover", index=2),
            job("publish", group("reports")),
            has_on_success=True,
        ),
    )
    crew = Crew(orchestrator_db, execution(orchestrator_db))
    outputs = {"only": {"targets": ["a", "b"]}}
    jobs = [made("report-a"), made("report-b", "discover", rules=[ON_MAIN]), made("index", "report-a")]
    order = await crew.work(
        {
            "discover": {"outputs": outputs},
            "__dynamic__ci__2": {"generated": jobs},
            "report-a": {"outputs": outputs},
        }
    )
    assert order[:2] == ["discover", "__dynamic__ci__2"]
    assert order[-2:] == ["publish", "__hooks__ci"]
    assert sorted(order[2:-2]) == ["index", "report-a", "report-b"]
    asked = crew.sent["__dynamic__ci__2"]
    assert (asked.purpose, asked.generator_index, asked.upstream_outputs) == (
        "dynamic",
        2,
        {"discover": outputs},
    )
    assert crew.sent["report-a"].job.generated
    assert crew.sent["report-a"].upstream_statuses == {}
    assert crew.sent["index"].upstream_outputs == {"report-a": outputs}
    assert crew.sent["publish"].upstream_groups == {"reports": ["report-a", "report-b", "index"]}
    outcome = crew.sent["__hooks__ci"].run_outcome
    assert outcome is not None
    assert outcome.status == "success"
    assert set(outcome.job_statuses) == {"discover", "report-a", "report-b", "index", "publish"}
    row = await rows.run(orchestrator_db.engine, run.run_id)
    assert (row["status"], row["job_count"]) == ("success", 7)
    shown = await told(orchestrator_db)
    assert shown["__dynamic__ci__2"]["displayName"] == "Evaluate: reports"
    assert shown["index"]["status"] == "success"
    await invariants(orchestrator_db, [run.run_id])


async def test_an_empty_group_satisfies_who_needs_it(orchestrator_db: Database) -> None:
    """AU-24, OR-137."""
    run = await begin(
        orchestrator_db,
        workflow(generator("g"), job("after", group("g")), job("never", group("g", "failed"))),
    )
    crew = Crew(orchestrator_db, execution(orchestrator_db))
    assert await crew.work({"__dynamic__ci__0": {"generated": []}}) == [
        "__dynamic__ci__0",
        "after",
        "never",
    ]
    assert crew.sent["after"].upstream_groups == {"g": []}
    assert (await rows.run(orchestrator_db.engine, run.run_id))["status"] == "success"


async def test_a_group_counts_as_a_whole(orchestrator_db: Database) -> None:
    """AU-24."""
    run = await begin(
        orchestrator_db,
        workflow(
            generator("g"),
            job("after", group("g")),
            job("repair", group("g", "failed", "timed_out_stale")),
            job("always", group("g", "success", "failed", "skipped")),
        ),
    )
    crew = Crew(orchestrator_db, execution(orchestrator_db))
    order = await crew.work(
        {"__dynamic__ci__0": {"generated": [made("x"), made("y")]}, "x": JobStatus.FAILED}
    )
    assert order == ["__dynamic__ci__0", "x", "y", "repair", "always"]
    after = (await job_rows(orchestrator_db, run.run_id))["after"]
    assert (after["status"], after["error_message"]) == ("skipped", "upstream_unmet: g (failed)")


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ([made("lint")], "already"),
        ([made("x", "y"), made("y", "x")], "circle"),
        ([made("x", "report")], "circle"),
        ([made("x", "nobody")], "does not exist"),
        ([made(f"x{n}") for n in range(101)], "101 jobs"),
        ([made("x", matrix=Matrix(values={"n": []}))], "0 combinations"),
        (None, "no jobs"),
    ],
)
async def test_what_cannot_join_fails_its_generator(
    orchestrator_db: Database, jobs: list[LockJob] | None, message: str
) -> None:
    """AU-43, AU-45, OR-133, OR-136."""
    run = await begin(
        orchestrator_db, workflow(job("lint"), generator("g", "lint"), job("report", group("g")))
    )
    crew = Crew(orchestrator_db, execution(orchestrator_db))
    assert await crew.work({"__dynamic__ci__0": {"generated": jobs}}) == ["lint", "__dynamic__ci__0"]
    after = await job_rows(orchestrator_db, run.run_id)
    assert {name: row["status"] for name, row in after.items()} == {
        "lint": "success",
        "__dynamic__ci__0": "failed",
        "report": "skipped",
    }
    assert message in after["__dynamic__ci__0"]["error_message"]
    row = await rows.run(orchestrator_db.engine, run.run_id)
    assert (row["status"], row["jobs_open"]) == ("failed", 0)
    detail = await RunService(crew.ex, SystemClock(), cluster_name="test").detail(run.run_id)
    failure = detail.jobs[1].init_failure
    assert failure is not None
    assert failure.category in {"dynamic_eval", "matrix_expansion"}


async def test_a_generated_job_whose_rule_fails_ends_at_once(orchestrator_db: Database) -> None:
    """AU-34, AU-43."""
    run = await begin(orchestrator_db, workflow(generator("g"), job("after", group("g"))), branch="dev")
    crew = Crew(orchestrator_db, execution(orchestrator_db))
    jobs = [made("x", rules=[ON_MAIN]), made("y", "x"), made("z", rules=[BROKEN])]
    await crew.work({"__dynamic__ci__0": {"generated": jobs}})
    assert await statuses(orchestrator_db, run.run_id) == {
        "__dynamic__ci__0": "success",
        "x": "skipped",
        "y": "skipped",
        "z": "failed",
        "after": "skipped",
    }
    await invariants(orchestrator_db, [run.run_id])


async def test_setup_rows_of_one_run_may_end_in_one_batch(orchestrator_db: Database) -> None:
    """OR-130: what one adds, the other sees."""
    run = await begin(
        orchestrator_db,
        workflow(
            generator("g"),
            generator("h", index=1),
            job("t", matrix=DYNAMIC),
            job("end", group("g"), group("h")),
        ),
    )
    ex = execution(orchestrator_db)
    agents = [await rows.add_agent(orchestrator_db.engine, f"a{n}") for n in range(3)]
    held = {each.job_name: each for each in await dispatch(orchestrator_db, *agents)}
    ends = [
        held["__dynamic__ci__0"].job(JobStatus.SUCCESS, generated=[made("same")]),
        held["__dynamic__ci__1"].job(JobStatus.SUCCESS, generated=[made("same")]),
        held["__init__ci__t"].job(JobStatus.SUCCESS, init=InitResult(matrix={"n": [1, 2]})),
    ]
    assert await report(ex, *(each.ack() for each in held.values()), *ends) == []
    found = await statuses(orchestrator_db, run.run_id)
    assert sorted([found["__dynamic__ci__0"], found["__dynamic__ci__1"]]) == ["failed", "success"]
    assert (found["t (1)"], found["t (2)"], found["same"]) == ("queued", "queued", "queued")
    await invariants(orchestrator_db, [run.run_id])


# ── hooks of the workflow ────────────────────────────────────────────────────────────────────────


async def test_hooks_come_last_and_fail_the_run_when_they_fail(orchestrator_db: Database) -> None:
    """AU-33."""
    run = await begin(orchestrator_db, workflow(job("a"), job("b", "a"), has_on_failure=True))
    crew = Crew(orchestrator_db, execution(orchestrator_db))
    ends: dict[str, Any] = {
        "a": {"state": JobStatus.FAILED, "error_message": "exit 2"},
        "__hooks__ci": {"state": JobStatus.FAILED, "error_message": "hook failed"},
    }
    assert await crew.work(ends) == ["a", "__hooks__ci"]
    frame = crew.sent["__hooks__ci"]
    assert (frame.purpose, frame.workflow_file) == ("hooks", FILE)
    assert frame.run_outcome is not None
    assert (frame.run_outcome.status, frame.run_outcome.failed_job, frame.run_outcome.reason) == (
        "failed",
        "a",
        "exit 2",
    )
    assert frame.run_outcome.job_statuses == {"a": "failed", "b": "skipped"}
    assert (await rows.run(orchestrator_db.engine, run.run_id))["status"] == "failed"
    other = await begin(orchestrator_db, workflow(job("a"), has_cleanup=True))
    await crew.work({"__hooks__ci": JobStatus.FAILED})
    assert (await rows.run(orchestrator_db.engine, other.run_id))["status"] == "failed"
    assert (await told(orchestrator_db))["__hooks__ci"]["displayName"] == "Hooks: ci"


async def test_hooks_that_are_not_for_this_outcome_are_skipped(orchestrator_db: Database) -> None:
    """AU-33, AU-49."""
    ex = execution(orchestrator_db)
    run = await begin(orchestrator_db, workflow(job("a"), has_on_failure=True, has_on_cancel=True))
    assert await Crew(orchestrator_db, ex).work() == ["a"]
    row = await rows.run(orchestrator_db.engine, run.run_id)
    assert (row["status"], (await statuses(orchestrator_db, run.run_id))["__hooks__ci"]) == (
        "success",
        "skipped",
    )
    run = await begin(orchestrator_db, workflow(job("a"), has_on_success=True), check_mode="check")
    assert await Crew(orchestrator_db, ex).work() == ["a"]
    run = await begin(orchestrator_db, workflow(job("a", rules=[ON_MAIN]), has_cleanup=True), branch="dev")
    assert (await rows.run(orchestrator_db.engine, run.run_id))["status"] == "skipped"


async def test_a_cancelled_run_runs_its_hooks_then_ends(orchestrator_db: Database) -> None:
    """AU-33, OR-171, OR-172."""
    ex = execution(orchestrator_db)
    run = await begin(orchestrator_db, workflow(job("a"), job("b", "a"), has_on_cancel=True))
    crew = Crew(orchestrator_db, ex)
    held = await crew.start()
    async with ex.change() as change:
        await cancel_runs(change, {run.run_id: Request(reason="cancelled by Ann", by="Ann")})
    assert await statuses(orchestrator_db, run.run_id) == {
        "a": "cancelling",
        "b": "cancelled",
        "__hooks__ci": "pending",
    }
    assert await report(ex, held.job(JobStatus.CANCELLED)) == []
    assert await crew.work() == ["a", "__hooks__ci"]
    outcome = crew.sent["__hooks__ci"].run_outcome
    assert outcome is not None
    assert (outcome.status, outcome.reason) == ("cancelled", "cancelled by Ann")
    assert (await rows.run(orchestrator_db.engine, run.run_id))["status"] == "cancelled"
    await invariants(orchestrator_db, [run.run_id])


async def test_force_skips_hooks_and_so_does_a_run_that_never_began(orchestrator_db: Database) -> None:
    """AU-33."""
    ex = execution(orchestrator_db)
    lock = workflow(job("a"), has_on_cancel=True)
    run = await begin(orchestrator_db, lock)
    await Crew(orchestrator_db, ex).start()
    async with ex.change() as change:
        await cancel_runs(change, {run.run_id: Request(reason="now", by="Ann", force=True)})
    assert (await statuses(orchestrator_db, run.run_id))["__hooks__ci"] == "cancelled"
    idle = await begin(orchestrator_db, lock)
    async with ex.change() as change:
        await cancel_runs(change, {idle.run_id: Request(reason="never mind", by="Ann")})
    row = await rows.run(orchestrator_db.engine, idle.run_id)
    assert (row["status"], row["jobs_open"]) == ("cancelled", 0)
    hooks = (await told(orchestrator_db))["__hooks__ci"]
    assert hooks["errorMessage"] == "the run was called off before anything began"
    await invariants(orchestrator_db, [idle.run_id])


async def test_a_run_cancelled_while_its_hooks_wait_is_cancelled(orchestrator_db: Database) -> None:
    """AU-33, OR-122."""
    ex = execution(orchestrator_db)
    run = await begin(orchestrator_db, workflow(job("a"), has_cleanup=True))
    crew = Crew(orchestrator_db, ex)
    await crew.work(at_most=1)
    async with ex.change() as change:
        await cancel_runs(change, {run.run_id: Request(reason="late", by="Ann")})
    assert await crew.work() == ["a", "__hooks__ci"]
    assert (await rows.run(orchestrator_db.engine, run.run_id))["status"] == "cancelled"
