"""Transitions of jobs, steps and runs under batches of agent messages."""

import pytest

from kici.orchestrator.runs.execution import Execution
from kici.protocol.runner_v1 import RuleResult
from kici.runtime.clock import to_ms
from kici.spec.states import JobStatus, StepStatus
from tests.db.execution import acting, rows
from tests.db.execution.acting import T0, Woken, dispatch, execution, report, work_off
from tests.db.execution.rows import Job
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres


@pytest.fixture
def ex(orchestrator_db: Database) -> Execution:
    return execution(orchestrator_db)


async def test_a_trivial_run_goes_from_queued_to_success(orchestrator_db: Database, ex: Execution) -> None:
    """OR-4, OR-92, OR-122."""
    engine = orchestrator_db.engine
    run = await rows.add_run(engine)
    agent = await rows.add_agent(engine)
    (job,) = await dispatch(orchestrator_db, agent)
    assert await report(ex, job.ack()) == []
    assert (await rows.run(engine, run.id))["status"] == "queued"
    assert await report(ex, job.job(JobStatus.RUNNING), job.step(0, StepStatus.RUNNING)) == []
    found = await rows.run(engine, run.id)
    assert (found["status"], found["started_at"] is not None) == ("running", True)
    done = await report(
        ex,
        job.step(0, StepStatus.SUCCESS, duration_ms=12, exit_code=0, log_lines=3, log_bytes=90),
        job.job(JobStatus.SUCCESS, outputs={"step 0": {"version": "1.4"}}),
    )
    assert done == []
    found = await rows.run(engine, run.id)
    assert (found["status"], found["jobs_open"], found["log_bytes"]) == ("success", 0, 90)
    row = await rows.job(engine, run["build"])
    assert row["status"] == "success"
    assert (row["agent_id"], row["attempt"], row["log_bytes"]) == ("agent-1", 1, 90)
    step = (await rows.fetch(engine, "SELECT * FROM execution_steps"))[0]
    assert (step["status"], step["duration_ms"], step["log_lines"]) == ("success", 12, 3)
    events = await rows.fetch(engine, "SELECT event_name, payload->>'status' AS status FROM kici_events")
    assert {(row["event_name"], row["status"]) for row in events} == {
        ("__job_complete", "success"),
        ("__workflow_complete", "success"),
    }
    assert isinstance(ex.wakeups, Woken)
    assert ex.wakeups.taken() == {"outbox", "kici_event_channel"}


async def test_one_batch_may_hold_a_whole_job(orchestrator_db: Database, ex: Execution) -> None:
    """OR-124, OR-125."""
    run = await rows.add_run(orchestrator_db.engine)
    (job,) = await dispatch(orchestrator_db, await rows.add_agent(orchestrator_db.engine))
    batch = [
        job.ack(),
        job.job(JobStatus.RUNNING),
        job.event("agent.clone.start", 7, timestamp_ms=T0),
        job.step(-1, StepStatus.RUNNING, step_type="prepare"),
        job.step(-1, StepStatus.SUCCESS, step_type="prepare"),
        job.step(0, StepStatus.RUNNING),
        job.step(0, StepStatus.FAILED, exit_code=2, error_message="exit code 2"),
        job.step(1, StepStatus.SKIPPED),
        job.job(JobStatus.FAILED, error_message="Step 'step 0' failed: exit code 2"),
        job.event("agent.teardown", 8, timestamp_ms=T0 + 5),
    ]
    assert await report(ex, *batch) == []
    found = await rows.run(orchestrator_db.engine, run.id)
    assert (found["status"], found["failure_reason"]) == ("failed", "Step 'step 0' failed: exit code 2")
    steps = await rows.fetch(
        orchestrator_db.engine,
        "SELECT step_index, status, exit_code FROM execution_steps ORDER BY step_index",
    )
    assert [tuple(step.values()) for step in steps] == [
        (-1, "success", None),
        (0, "failed", 2),
        (1, "skipped", None),
    ]
    before = await _everything(orchestrator_db)
    assert await report(ex, *batch) == ["job_ended"] * 8  # all but the two events
    assert await _everything(orchestrator_db) == before


async def test_messages_have_a_limit_whoever_sends_them(orchestrator_db: Database, ex: Execution) -> None:
    """OR-125: what an agent says of an error stands in lists, so it is short."""
    run = await rows.add_run(orchestrator_db.engine)
    (job,) = await dispatch(orchestrator_db, await rows.add_agent(orchestrator_db.engine))
    rule = RuleResult(label="r", passed=False, duration_ms=1, error="x" * 100_000)
    await report(
        ex,
        job.step(0, StepStatus.RUNNING),
        job.step(0, StepStatus.FAILED, error_message="x" * 100_000, rules=[rule]),
        job.job(JobStatus.FAILED, error_message="x" * 100_000, rules=[rule]),
    )
    expected = "x" * 8192 + "… (91,808 characters left out)"
    (step,) = await rows.fetch(orchestrator_db.engine, "SELECT error_message, rules FROM execution_steps")
    ended = await rows.job(orchestrator_db.engine, job.job_id)
    found = await rows.run(orchestrator_db.engine, run.id)
    assert step["error_message"] == ended["error_message"] == found["failure_reason"] == expected
    assert step["rules"][0]["error"] == ended["rules"][0]["error"] == expected


async def _everything(db: Database) -> list[object]:
    return [
        await rows.fetch(db.engine, f"SELECT * FROM {table} ORDER BY 1, 2, 3")
        for table in (
            "execution_runs",
            "execution_jobs",
            "execution_steps",
            "run_events",
            "kici_events",
            "outbox",
        )
    ]


async def test_what_another_agent_process_or_attempt_says_changes_nothing(
    orchestrator_db: Database, ex: Execution
) -> None:
    """OR-150, OR-152, AG-10."""
    run = await rows.add_run(orchestrator_db.engine)
    agent = await rows.add_agent(orchestrator_db.engine)
    (old,) = await dispatch(orchestrator_db, agent)
    assert await report(ex, old.reject()) == []
    (new,) = await dispatch(orchestrator_db, agent)
    assert (new.attempt, new.job_id) == (2, old.job_id)
    other = await rows.add_agent(orchestrator_db.engine, "agent-2")
    stranger = acting.Held(other, new.run_id, new.job_id, new.job_name, new.attempt)
    reborn = acting.Held(await _reborn(agent), new.run_id, new.job_id, new.job_name, new.attempt)
    nowhere = acting.Held(agent, new.run_id, "0190a0a0-0000-7000-8000-000000000000", "x", 1)
    before = await _everything(orchestrator_db)
    assert await report(
        ex,
        old.ack(),
        old.job(JobStatus.SUCCESS),
        stranger.job(JobStatus.SUCCESS),
        reborn.job(JobStatus.SUCCESS),
        nowhere.event("agent.teardown", 3),
        old.event("agent.teardown", 4),
    ) == ["stale_attempt", "stale_attempt", "not_owner", "not_owner", "unknown_job", "stale_attempt"]
    assert await _everything(orchestrator_db) == before
    assert (await rows.job(orchestrator_db.engine, run["build"]))["status"] == "queued"


async def _reborn(agent: acting.FreeAgent) -> acting.FreeAgent:
    return acting.FreeAgent(
        agent_id=agent.agent_id, session_id="another", org_id=agent.org_id, labels=agent.labels
    )


async def test_a_rejected_job_is_queued_again_in_its_place_until_the_budget_is_spent(
    orchestrator_db: Database,
) -> None:
    """OR-150, AG-16."""
    ex = execution(orchestrator_db, max_job_attempts=3)
    run = await rows.add_run(orchestrator_db.engine)
    await rows.add_run(orchestrator_db.engine)
    agent = await rows.add_agent(orchestrator_db.engine)
    for attempt in (1, 2, 3):
        (job,) = await dispatch(orchestrator_db, agent)
        assert (job.job_id, job.attempt) == (run["build"], attempt)
        await report(ex, job.reject())
    row = await rows.job(orchestrator_db.engine, run["build"])
    assert row["status"] == "failed"
    assert row["error_message"] == (
        "agent agent-1 rejected the job: busy (attempt 3; 3 attempts were lost)"
    )
    assert (await rows.run(orchestrator_db.engine, run.id))["status"] == "failed"
    for _ in range(5):  # draining is nobody's failure
        (job,) = await dispatch(orchestrator_db, agent)
        await report(ex, job.reject("draining"))
    assert (await rows.job(orchestrator_db.engine, job.job_id))["infra_failures"] == 0


async def test_unfinished_steps_end_with_their_job(orchestrator_db: Database, ex: Execution) -> None:
    """OR-125."""
    await rows.add_run(orchestrator_db.engine)
    (job,) = await dispatch(orchestrator_db, await rows.add_agent(orchestrator_db.engine))
    await report(
        ex, job.job(JobStatus.RUNNING), job.step(0, StepStatus.RUNNING), job.step(1, StepStatus.PENDING)
    )
    assert await report(ex, job.job(JobStatus.FAILED)) == []
    steps = await rows.fetch(
        orchestrator_db.engine, "SELECT step_index, status FROM execution_steps ORDER BY 1"
    )
    assert [step["status"] for step in steps] == ["failed", "skipped"]
    assert await report(ex, job.step(0, StepStatus.SUCCESS)) == ["job_ended"]


async def test_a_step_never_goes_back(orchestrator_db: Database, ex: Execution) -> None:
    """OR-120, OR-124."""
    await rows.add_run(orchestrator_db.engine)
    (job,) = await dispatch(orchestrator_db, await rows.add_agent(orchestrator_db.engine))
    await report(ex, job.job(JobStatus.RUNNING), job.step(0, StepStatus.RUNNING))
    await report(ex, job.step(0, StepStatus.FAILED))
    await report(ex, job.step(0, StepStatus.RUNNING))
    await report(ex, job.step(0, StepStatus.SUCCESS))
    await report(ex, job.step(0, StepStatus.PENDING))
    steps = await rows.fetch(orchestrator_db.engine, "SELECT status FROM execution_steps")
    assert [step["status"] for step in steps] == ["failed"]
    assert await report(
        ex,
        job.step(1, StepStatus.SUCCESS),
        job.step(1, StepStatus.FAILED),
        job.step(2, StepStatus.CANCELLED),
    ) == ["illegal"]


async def test_agent_clocks_are_kept_between_dispatch_and_now(
    orchestrator_db: Database, ex: Execution
) -> None:
    run = await rows.add_run(orchestrator_db.engine)
    (job,) = await dispatch(orchestrator_db, await rows.add_agent(orchestrator_db.engine))
    await report(
        ex, job.job(JobStatus.RUNNING, timestamp=5), job.job(JobStatus.SUCCESS, timestamp=9_999_999_999_999)
    )
    row = await rows.job(orchestrator_db.engine, run["build"])
    assert row["started_at"] == row["dispatched_at"]
    assert row["completed_at"] >= row["started_at"]
    assert to_ms(row["completed_at"]) < 9_000_000_000_000


async def test_too_many_outputs_fail_the_job_and_say_so(orchestrator_db: Database, ex: Execution) -> None:
    """OR-138."""
    run = await rows.add_run(orchestrator_db.engine)
    (job,) = await dispatch(orchestrator_db, await rows.add_agent(orchestrator_db.engine))
    await report(ex, job.job(JobStatus.SUCCESS, outputs={"s": {"x": "y" * (1 << 20)}}))
    row = await rows.job(orchestrator_db.engine, run["build"])
    assert (row["status"], row["outputs"]) == ("failed", None)
    assert "1048576 are allowed" in row["error_message"]


@pytest.mark.parametrize(
    ("when", "ending", "expected"),
    [
        ("on-success", JobStatus.SUCCESS, "success"),
        ("on-success", JobStatus.FAILED, "skipped"),
        ("always", JobStatus.FAILED, "success"),
        ("on-failure", JobStatus.FAILED, "success"),
        ("on-failure", JobStatus.SUCCESS, "skipped"),
        ("on-skip", JobStatus.SUCCESS, "success"),
        ("on-skip", JobStatus.CANCELLED, "skipped"),
    ],
)
async def test_an_edge_lets_pass_what_it_names(
    orchestrator_db: Database, ex: Execution, when: str, ending: JobStatus, expected: str
) -> None:
    """OR-130, OR-131."""
    run = await rows.add_run(
        orchestrator_db.engine,
        [
            Job("a"),
            Job("b", needs=[("a", when)]),
            Job("c", needs=[("b", "on-success")]),
            Job("d", needs=[("c", "always")]),
        ],
    )
    await work_off(ex, orchestrator_db, {"a": ending})
    found = await rows.statuses(orchestrator_db.engine, run)
    assert found == {"a": ending, "b": expected, "c": expected, "d": "success"}
    if expected == "skipped":
        row = await rows.job(orchestrator_db.engine, run["c"])
        assert row["error_message"] == "upstream_unmet: b (skipped)"
    await acting.invariants(orchestrator_db, [run.id])


async def test_skips_run_down_a_long_chain_in_one_transaction(
    orchestrator_db: Database, ex: Execution
) -> None:
    """OR-131."""
    chain = [Job("j0"), *(Job(f"j{i}", needs=[(f"j{i - 1}", "on-success")]) for i in range(1, 60))]
    run = await rows.add_run(orchestrator_db.engine, chain)
    assert await work_off(ex, orchestrator_db, {"j0": JobStatus.FAILED}) == ["j0"]
    assert (await rows.run(orchestrator_db.engine, run.id))["status"] == "failed"
    found = await rows.statuses(orchestrator_db.engine, run)
    assert list(found.values()) == ["failed"] + ["skipped"] * 59


async def test_a_matrix_counts_once_all_its_children_ended(
    orchestrator_db: Database, ex: Execution
) -> None:
    """OR-132, OR-134."""
    jobs = [
        Job("m", children=3),
        Job("good", needs=[("m", "on-success")]),
        Job("bad", needs=[("m", "on-failure")]),
    ]
    run = await rows.add_run(orchestrator_db.engine, jobs)
    assert await work_off(ex, orchestrator_db, {"m (0)": JobStatus.FAILED}) == [
        "m (0)",
        "m (1)",
        "m (2)",
        "bad",
    ]
    assert (await rows.statuses(orchestrator_db.engine, run))["good"] == "skipped"
    assert (await rows.job(orchestrator_db.engine, run["good"]))[
        "error_message"
    ] == "upstream_unmet: m (failed)"


async def test_a_window_lets_so_many_children_run_at_once(orchestrator_db: Database, ex: Execution) -> None:
    """OR-134, AU-21."""
    engine = orchestrator_db.engine
    run = await rows.add_run(
        engine, [Job("a"), Job("m", needs=[("a", "on-success")], children=5, max_parallel=2)]
    )
    agents = [await rows.add_agent(engine, f"agent-{i}") for i in range(5)]
    (first,) = await dispatch(orchestrator_db, agents[0])
    await report(ex, first.job(JobStatus.SUCCESS))
    held = await dispatch(orchestrator_db, *agents)
    assert [job.job_name for job in held] == ["m (0)", "m (1)"]
    await report(ex, *(job.job(JobStatus.RUNNING) for job in held))
    assert await dispatch(orchestrator_db, agents[2]) == []
    await report(ex, held[1].job(JobStatus.SUCCESS))
    (third,) = await dispatch(orchestrator_db, *agents[1:])
    assert third.job_name == "m (2)"
    await report(ex, third.job(JobStatus.FAILED), held[0].job(JobStatus.SUCCESS))
    assert [job.job_name for job in await dispatch(orchestrator_db, *agents)] == ["m (3)", "m (4)"]
    await acting.invariants(orchestrator_db, [run.id])


async def test_fail_fast_skips_what_has_not_started(orchestrator_db: Database, ex: Execution) -> None:
    """OR-134, AU-21."""
    engine = orchestrator_db.engine
    run = await rows.add_run(engine, [Job("m", children=5, max_parallel=3, fail_fast=True)])
    agents = [await rows.add_agent(engine, f"agent-{i}") for i in range(2)]
    held = await dispatch(orchestrator_db, *agents)
    await report(ex, held[0].job(JobStatus.RUNNING), held[1].job(JobStatus.RUNNING))
    await report(ex, held[0].job(JobStatus.FAILED))
    assert list((await rows.statuses(engine, run)).values()) == [
        "failed",
        "running",
        "skipped",
        "skipped",
        "skipped",
    ]
    await report(ex, held[1].job(JobStatus.SUCCESS))
    assert (await rows.run(engine, run.id))["status"] == "failed"
    row = await rows.job(engine, run["m (4)"])
    assert row["error_message"] == "fail_fast: another m failed"


@pytest.mark.parametrize(
    ("endings", "expected"),
    [
        ((JobStatus.SUCCESS, JobStatus.SUCCESS), "success"),
        ((JobStatus.SUCCESS, JobStatus.SKIPPED), "success"),
        ((JobStatus.SKIPPED, JobStatus.SKIPPED), "skipped"),
        ((JobStatus.CANCELLED, JobStatus.SUCCESS), "cancelled"),
        ((JobStatus.CANCELLED, JobStatus.FAILED), "failed"),
        ((JobStatus.TIMED_OUT_STALE, JobStatus.SUCCESS), "failed"),
    ],
)
async def test_the_last_job_decides_the_run(
    orchestrator_db: Database, ex: Execution, endings: tuple[JobStatus, JobStatus], expected: str
) -> None:
    """OR-122."""
    run = await rows.add_run(orchestrator_db.engine, [Job("a"), Job("b")])
    agents = [await rows.add_agent(orchestrator_db.engine, f"agent-{i}") for i in range(2)]
    held = await dispatch(orchestrator_db, *agents)
    await report(ex, *(job.job(ending) for job, ending in zip(held, endings, strict=True)))
    assert (await rows.run(orchestrator_db.engine, run.id))["status"] == expected


async def test_a_failure_before_any_step_is_shown_on_the_run(
    orchestrator_db: Database, ex: Execution
) -> None:
    """OR-210, OR-214."""
    run = await rows.add_run(orchestrator_db.engine)
    (job,) = await dispatch(orchestrator_db, await rows.add_agent(orchestrator_db.engine))
    await report(
        ex,
        job.job(
            JobStatus.FAILED,
            error_message="Lock file is out of date",
            init_failure_category="lock_resolution",
        ),
    )
    found = await rows.run(orchestrator_db.engine, run.id)
    assert found["init_failure"]["category"] == "lock_resolution"
    assert (found["failure_reason"], found["timeout_reason"]) == ("Lock file is out of date", None)
