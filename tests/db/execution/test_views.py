"""What people read: detail, lists, queue, agents, diagnostics; and that final states are the engine's."""

import itertools
from collections.abc import Sequence

import pytest

from kici.engine.transitions import run_status
from kici.orchestrator.outbox.depth import measure
from kici.orchestrator.runs.execution import Execution
from kici.orchestrator.runs.projection import snapshot
from kici.orchestrator.runs.service import RunService
from kici.orchestrator.runs.state import RunPatch, write_runs
from kici.orchestrator.runs.views import RunQuery
from kici.protocol.agent_v1 import JobContext
from kici.runtime.clock import SystemClock
from kici.runtime.database import text
from kici.spec.states import JOB_TERMINAL, JobStatus, StepStatus
from tests.db.execution import rows
from tests.db.execution.acting import dispatch, execution, report
from tests.db.execution.rows import Job
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres


@pytest.fixture
def ex(orchestrator_db: Database) -> Execution:
    return execution(orchestrator_db)


@pytest.fixture
def service(ex: Execution) -> RunService:
    return RunService(ex, SystemClock(), cluster_name="test")


async def test_a_run_in_detail(orchestrator_db: Database, ex: Execution, service: RunService) -> None:
    """OR-245."""
    run = await rows.add_run(orchestrator_db.engine, [Job("a"), Job("b", needs=[("a", "on-success")])])
    (job,) = await dispatch(orchestrator_db, await rows.add_agent(orchestrator_db.engine))
    context = JobContext(seq=1, run_id=run.id, job_id=job.job_id, attempt=1, context={"python": "3.11"})
    await report(
        ex,
        job.job(JobStatus.RUNNING),
        job.report(context),
        job.step(1, StepStatus.PENDING),
        job.step(0, StepStatus.RUNNING),
        job.event("agent.clone.start", 1),
    )
    found = await service.detail(run.id, org_id=rows.ORG)
    assert (found.source, found.run.run_id, found.run.status) == ("orchestrator", run.id, "running")
    a, b = found.jobs
    assert (a.job_name, a.status, a.context, a.agent_id) == ("a", "running", {"python": "3.11"}, "agent-1")
    assert [(step.step_index, step.status) for step in a.steps] == [(0, "running"), (1, "pending")]
    assert (b.status, b.waiting_reason, b.steps) == ("pending", "Waits for a", [])
    kinds = [event.event_type for event in found.events]
    assert set(kinds) == {"agent.clone.start", "orchestrator.job.started"}


async def test_detail_shows_the_steps_of_the_newest_attempt(
    orchestrator_db: Database, ex: Execution, service: RunService
) -> None:
    run = await rows.add_run(orchestrator_db.engine)
    agent = await rows.add_agent(orchestrator_db.engine)
    (first,) = await dispatch(orchestrator_db, agent)
    await report(ex, first.step(0, StepStatus.RUNNING))
    await report(ex, first.reject())
    (second,) = await dispatch(orchestrator_db, agent)
    await report(ex, second.job(JobStatus.RUNNING), second.step(0, StepStatus.RUNNING))
    (shown,) = (await service.detail(run.id)).jobs
    assert [(step.attempt, step.status) for step in shown.steps] == [(2, "running")]


async def test_runs_are_listed_newest_first_and_filtered(
    orchestrator_db: Database, ex: Execution, service: RunService
) -> None:
    made = [(await rows.add_run(orchestrator_db.engine)).id for _ in range(5)]
    (job,) = await dispatch(orchestrator_db, await rows.add_agent(orchestrator_db.engine))
    await report(ex, job.job(JobStatus.SUCCESS))
    page = await service.list_runs(RunQuery(org_id=rows.ORG, page_size=2))
    assert [run.run_id for run in page.runs] == made[:2:-1]
    assert (page.total, page.total_is_capped, page.has_more) == (5, False, True)
    last = await service.list_runs(RunQuery(page=3, page_size=2))
    assert ([run.run_id for run in last.runs], last.has_more) == (made[:1], False)
    assert [run.run_id for run in (await service.list_runs(RunQuery(statuses=["success"]))).runs] == made[
        :1
    ]
    failure = '{"scope": "run", "category": "matrix_expansion", "message": "", "jobName": "a"}'
    for column, value, run_id in (("init_failure", failure, made[1]), ("timeout_reason", "slow", made[2])):
        kind = "jsonb" if column == "init_failure" else "text"
        ended = f"status = 'failed', jobs_open = 0, completed_at = now(), {column} = CAST(:value AS {kind})"
        async with orchestrator_db.engine.begin() as tx:
            await tx.execute(
                text(f"UPDATE execution_runs SET {ended} WHERE id = :id"), {"id": run_id, "value": value}
            )
    for word, expected in (("failed", made[2:0:-1]), ("error", [made[1]]), ("timed_out", [made[2]])):
        found = await service.list_runs(RunQuery(statuses=[word]))
        assert [run.run_id for run in found.runs] == expected
    for query in (
        RunQuery(org_id="org_other"),
        RunQuery(workflow_name="other"),
        RunQuery(repo_identifier="x/y"),
        RunQuery(branch="other"),
        RunQuery(statuses=["held"]),
    ):
        assert (await service.list_runs(query)).total == 0


async def test_the_queue_is_shown_in_order_with_reasons(
    orchestrator_db: Database, service: RunService
) -> None:
    for name in ("first", "second"):
        await rows.add_run(orchestrator_db.engine, [Job(name)])
    await rows.add_run(orchestrator_db.engine, [Job("urgent", priority=1)])
    await dispatch(orchestrator_db, await rows.add_agent(orchestrator_db.engine))
    shown = [(job.job_name, job.waiting_reason) for job in await service.queue()]
    assert shown == [
        ("urgent", "Sent to agent agent-1"),
        ("first", "Next in line for an agent"),
        ("second", "Queued behind 1"),
    ]


async def test_diagnostics_count_what_waits_and_who_works(
    orchestrator_db: Database, ex: Execution, service: RunService
) -> None:
    runs = [await rows.add_run(orchestrator_db.engine) for _ in range(3)]
    (job,) = await dispatch(orchestrator_db, await rows.add_agent(orchestrator_db.engine))
    await report(ex, job.job(JobStatus.RUNNING))
    await rows.add_agent(orchestrator_db.engine, "agent-2", ["gpu"])
    found = await service.diagnostics(org_id=rows.ORG)
    assert (found.instance_id, found.cluster_name) == ("orch-1", "test")
    assert (found.queued_jobs, found.running_jobs, found.inbox_depth, found.outbox_depth) == (2, 1, 0, 1)
    assert [(a.agent_id, a.connected, a.busy, a.current_job_id) for a in found.agents] == [
        ("agent-1", True, True, runs[0]["build"]),
        ("agent-2", True, False, None),
    ]
    assert await service.agents(org_id="org_other") == []


async def test_diagnostics_name_what_no_agent_has(orchestrator_db: Database, service: RunService) -> None:
    """AU-134: jobs that wait for more than a minute, also while other agents work; patterns count."""
    engine = orchestrator_db.engine
    await rows.add_agent(engine, "agent-1", ["kici:os:linux", "gpu:a100"])
    fits = [Job("a"), Job("b", runs_on=(), patterns=("^gpu:a",))]
    lacks = [
        Job("c", runs_on=("gpu:h100",)),
        Job("d", runs_on=("gpu:h100",)),
        Job("e", runs_on=(), patterns=("^gpu:b",)),
        Job("f", exclude=("gpu:a100",)),
    ]
    await rows.add_run(engine, [*fits, *lacks])
    assert (await service.diagnostics(org_id=rows.ORG)).shortages == []
    async with engine.begin() as tx:
        await tx.execute(text("UPDATE execution_jobs SET ready_at = now() - interval '61 seconds'"))
    found = (await service.diagnostics(org_id=rows.ORG)).shortages
    assert {(entry.wanted, entry.jobs) for entry in found} == {
        ("gpu:h100", 2),
        ("/^gpu:b/", 1),
        ("kici:os:linux, not gpu:a100", 1),
    }
    assert all(61_000 <= entry.waiting_ms < 120_000 for entry in found)
    assert (await service.diagnostics(org_id="org_other")).shortages == []


async def test_the_outbox_is_measured(orchestrator_db: Database, ex: Execution) -> None:
    """OP-30."""
    assert await measure(orchestrator_db.engine, ex.metrics) == 0
    run = await rows.add_run(orchestrator_db.engine)
    async with orchestrator_db.engine.begin() as tx:
        await snapshot(tx, [run.id])
        await tx.execute(text("UPDATE outbox SET created_at = now() - interval '60 seconds'"))
    assert await measure(orchestrator_db.engine, ex.metrics) == 1
    assert ex.metrics.outbox_oldest.labels("platform")._value.get() >= 60


ENDED = sorted(JOB_TERMINAL)


async def test_the_final_status_in_sql_is_the_engines(orchestrator_db: Database) -> None:
    """Every multiset of up to three endings. OR-122."""
    for size in (1, 2, 3):
        cases: list[Sequence[JobStatus]] = list(itertools.combinations_with_replacement(ENDED, size))
        async with orchestrator_db.engine.begin() as tx:
            runs = [await rows.insert_run(tx, [Job(f"j{i}") for i in range(size)]) for _ in cases]
            for run, case in zip(runs, cases, strict=True):
                for job_id, status in zip(run.ids, case, strict=True):
                    await tx.execute(
                        text(
                            "UPDATE execution_jobs SET status = :status, completed_at = now() WHERE id = :id"
                        ),
                        {"status": status, "id": job_id},
                    )
            written = await write_runs(tx, [RunPatch(run_id=run.id, ended=size, last=True) for run in runs])
        by_id = {run.run_id: run.status for run in written}
        assert [by_id[run.id] for run in runs] == [run_status(case) for case in cases]
