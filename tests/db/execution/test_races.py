"""Two processes at the same row: exactly one wins, and the other's work is still right."""

import asyncio
from collections.abc import Awaitable

import pytest

from kici.orchestrator.runs.cancel import Request, cancel_runs
from kici.orchestrator.runs.execution import Execution
from kici.orchestrator.runs.repair import repair
from kici.runtime.database import text
from kici.spec.states import JobStatus
from tests.db.execution import acting, rows
from tests.db.execution.acting import dispatch, execution, report
from tests.db.execution.rows import Job
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres

ROUNDS = 10


@pytest.fixture
def ex(orchestrator_db: Database) -> Execution:
    return execution(orchestrator_db)


async def together(*works: Awaitable[object]) -> None:
    async def done(work: Awaitable[object]) -> None:
        await work

    async with asyncio.TaskGroup() as tasks:
        for work in works:
            tasks.create_task(done(work))


async def _cancel(ex: Execution, run_id: str) -> None:
    async with ex.change() as change:
        await cancel_runs(change, {run_id: Request(reason="enough", by="Ann")})


async def test_the_last_jobs_end_at_once_and_the_run_ends_once(
    orchestrator_db: Database, ex: Execution
) -> None:
    """OR-122."""
    agents = [await rows.add_agent(orchestrator_db.engine, f"agent-{i}") for i in range(6)]
    for _ in range(ROUNDS):
        run = await rows.add_run(orchestrator_db.engine, [Job(f"j{i}") for i in range(6)])
        held = await dispatch(orchestrator_db, *agents)
        await together(*(report(ex, job.job(JobStatus.SUCCESS)) for job in held))
        found = await rows.run(orchestrator_db.engine, run.id)
        assert (found["status"], found["jobs_open"]) == ("success", 0)
        events = await rows.fetch(
            orchestrator_db.engine,
            "SELECT id FROM kici_events WHERE source_run_id = :id AND event_name = '__workflow_complete'",
            id=run.id,
        )
        assert len(events) == 1
    assert await repair(ex) == 0


async def test_the_last_needs_end_at_once_and_the_job_is_queued_once(
    orchestrator_db: Database, ex: Execution
) -> None:
    """OR-132."""
    agents = [await rows.add_agent(orchestrator_db.engine, f"agent-{i}") for i in range(4)]
    needs = [(f"j{i}", "on-success") for i in range(4)]
    for _ in range(ROUNDS):
        run = await rows.add_run(
            orchestrator_db.engine, [*(Job(f"j{i}") for i in range(4)), Job("end", needs=needs)]
        )
        held = await dispatch(orchestrator_db, *agents)
        await together(*(report(ex, job.job(JobStatus.SUCCESS)) for job in held))
        (last,) = await dispatch(orchestrator_db, *agents)
        assert (last.job_name, last.attempt) == ("end", 1)
        await report(ex, last.job(JobStatus.SUCCESS))
        assert (await rows.run(orchestrator_db.engine, run.id))["status"] == "success"


async def test_a_window_is_never_wider_than_it_says(orchestrator_db: Database, ex: Execution) -> None:
    """OR-134."""
    run = await rows.add_run(orchestrator_db.engine, [Job("m", children=12, max_parallel=3)])
    agents = [await rows.add_agent(orchestrator_db.engine, f"agent-{i}") for i in range(12)]
    done = 0
    while held := await dispatch(orchestrator_db, *agents):
        assert len(held) <= 3
        done += len(held)
        await together(*(report(ex, job.job(JobStatus.SUCCESS)) for job in held))
    assert done == 12
    assert (await rows.run(orchestrator_db.engine, run.id))["status"] == "success"


async def test_cancel_and_end_cross(orchestrator_db: Database, ex: Execution) -> None:
    """OR-171."""
    agent = await rows.add_agent(orchestrator_db.engine)
    endings = set[str]()
    for _ in range(ROUNDS):
        run = await rows.add_run(orchestrator_db.engine, [Job("a"), Job("b", needs=[("a", "on-success")])])
        (job,) = await dispatch(orchestrator_db, agent)
        await report(ex, job.job(JobStatus.RUNNING))
        await together(_cancel(ex, run.id), report(ex, job.job(JobStatus.SUCCESS)))
        await acting.invariants(orchestrator_db, [run.id])
        found = await rows.statuses(orchestrator_db.engine, run)
        assert found["b"] == "cancelled"
        endings.add(found["a"])
        assert (await rows.run(orchestrator_db.engine, run.id))["status"] == "cancelled"
    assert endings <= {"success", "cancelled"}


async def test_cancel_and_claim_cross(orchestrator_db: Database, ex: Execution) -> None:
    """OR-145, OR-171."""
    agent = await rows.add_agent(orchestrator_db.engine)
    for _ in range(ROUNDS):
        run = await rows.add_run(orchestrator_db.engine)
        await together(_cancel(ex, run.id), dispatch(orchestrator_db, agent))
        assert (await rows.run(orchestrator_db.engine, run.id))["status"] == "cancelled"
        assert await dispatch(orchestrator_db, agent) == []


async def test_fail_fast_and_claim_cross(orchestrator_db: Database, ex: Execution) -> None:
    """OR-134, OR-145."""
    agents = [await rows.add_agent(orchestrator_db.engine, f"agent-{i}") for i in range(3)]
    for _ in range(ROUNDS):
        run = await rows.add_run(orchestrator_db.engine, [Job("m", children=3, fail_fast=True)])
        (job,) = await dispatch(orchestrator_db, agents[0])
        found: list[acting.Held] = []

        async def claim_rest(found: list[acting.Held] = found) -> None:
            found += await dispatch(orchestrator_db, *agents[1:])

        await together(report(ex, job.job(JobStatus.FAILED)), claim_rest())
        after = await rows.statuses(orchestrator_db.engine, run)
        sent = {held.job_name for held in found}
        assert all(
            after[name] == ("queued" if name in sent else "skipped") for name in after if name != "m (0)"
        )
        await report(ex, *(held.job(JobStatus.SUCCESS) for held in found))
        assert (await rows.run(orchestrator_db.engine, run.id))["status"] == "failed"


async def test_a_loss_and_an_end_cross(orchestrator_db: Database, ex: Execution) -> None:
    """The recovery window closes while the agent's last word arrives: success or a new attempt, never both. AG-23."""
    from kici.orchestrator.runs.sweeps import Sweeps

    agent = await rows.add_agent(orchestrator_db.engine)
    sweeps = Sweeps(ex, lambda _sessions: None)
    for _ in range(ROUNDS):
        run = await rows.add_run(orchestrator_db.engine)
        (job,) = await dispatch(orchestrator_db, agent)
        await report(ex, job.job(JobStatus.RUNNING))
        async with orchestrator_db.engine.begin() as tx:
            await tx.execute(
                text(
                    "UPDATE execution_jobs SET status = 'recovering', recovery_deadline = now() - interval '1 s'"
                    " WHERE completed_at IS NULL"
                )
            )
        await together(sweeps.quick(), report(ex, job.job(JobStatus.SUCCESS)))
        row = await rows.job(orchestrator_db.engine, run["build"])
        if row["status"] != "success":
            assert (row["status"], row["agent_id"]) == ("queued", None)
            (again,) = await dispatch(orchestrator_db, agent)
            assert again.attempt == 2
            await report(ex, again.job(JobStatus.SUCCESS))
        await acting.invariants(orchestrator_db, [run.id])
        assert (await rows.run(orchestrator_db.engine, run.id))["status"] == "success"
