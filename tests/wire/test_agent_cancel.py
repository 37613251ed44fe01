"""Cancel reaches agents, once per connection, and force only when asked for (OR-170…172)."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from kici.orchestrator.agents.recall import recall
from kici.orchestrator.runs.service import RunEnded
from kici.orchestrator.runs.views import RunNotFound
from kici.protocol.agent_v1 import JobCancel, JobDispatch, JobStatusUpdate
from kici.protocol.dashboard_v1 import CancelResult
from kici.protocol.platform_v1 import Actor
from kici.runtime.ids import uuid7
from kici.spec.states import JobStatus, StepStatus
from tests.db.execution import rows
from tests.db.execution.rows import Job
from tests.support.postgres import Database
from tests.wire.harness import Agent, Orchestrator, orchestrator

pytestmark = pytest.mark.postgres

ANN = Actor(kind="user", id="u1", display_name="Ann")


@pytest.fixture
async def orch(orchestrator_db: Database, tmp_path: Path) -> AsyncGenerator[Orchestrator]:
    async with orchestrator(orchestrator_db, tmp_path) as running:
        yield running


async def _running(orch: Orchestrator, agent: Agent, jobs: list[Job]) -> tuple[rows.Run, JobDispatch]:
    run = await rows.add_run(orch.db.engine, jobs)
    await agent.dial(orch.url)
    job = await agent.take()
    await agent.acked(await agent.tell(JobStatusUpdate, job, state=JobStatus.RUNNING))
    return run, job


async def test_a_running_job_is_asked_and_the_rest_of_the_run_ends_at_once(orch: Orchestrator) -> None:
    """OR-170, OR-171."""
    agent = Agent()
    jobs = [Job("a"), Job("b"), Job("c", needs=[("a", "always")])]
    run, job = await _running(orch, agent, jobs)
    done = await orch.room.runs.cancel(run.id, ANN, org_id=rows.ORG)
    assert done == CancelResult(agents_notified=1, pending_cancelled=2)
    stop = await agent.expect(JobCancel)
    assert (stop.job_id, stop.force, stop.reason) == (job.job_id, False, "cancelled by Ann")
    assert await rows.statuses(orch.db.engine, run) == {
        "a": "cancelling",
        "b": "cancelled",
        "c": "cancelled",
    }
    assert (await rows.run(orch.db.engine, run.id))["status"] == "cancelling"
    await agent.step(job, 2_000_000, state=StepStatus.SUCCESS, step_type="hook:onCancel")
    await agent.finish(job, JobStatus.CANCELLED)
    assert await orch.run_ended(run) == "cancelled"
    found = await rows.run(orch.db.engine, run.id)
    assert (found["cancelled_by"], found["cancel_reason"]) == ("Ann", "cancelled by Ann")
    with pytest.raises(RunEnded):
        await orch.room.runs.cancel(run.id, ANN)


async def test_asking_twice_is_force_and_looking_twice_is_not(orch: Orchestrator) -> None:
    """OR-170, AG-57."""
    agent = Agent()
    run, job = await _running(orch, agent, [Job("a")])
    await orch.room.runs.cancel(run.id, ANN)
    assert not (await agent.expect(JobCancel)).force
    assert await recall(orch.room.execution, orch.room.hub) == 0
    assert (await orch.room.runs.cancel(run.id, ANN)).agents_notified == 1
    assert (await agent.expect(JobCancel)).force
    await agent.finish(job, JobStatus.CANCELLED)
    assert await orch.run_ended(run) == "cancelled"


async def test_a_cancel_waits_for_an_agent_that_is_away(orch: Orchestrator) -> None:
    """OR-171."""
    agent = Agent()
    run, job = await _running(orch, agent, [Job("a")])
    await orch.room.runs.cancel(run.id, ANN)
    await agent.expect(JobCancel)
    await agent.cut()
    await agent.dial(orch.url)
    again = await agent.expect(JobCancel)
    assert (again.job_id, again.force) == (job.job_id, False)
    await agent.finish(job, JobStatus.FAILED, error_message="on_cancel failed")
    assert await orch.run_ended(run) == "failed"


async def test_a_job_that_was_only_sent_ends_at_once_and_its_agent_is_told(orch: Orchestrator) -> None:
    """OR-171, AG-58."""
    agent = Agent()
    run = await rows.add_run(orch.db.engine)
    await agent.dial(orch.url)
    job = await agent.expect(JobDispatch)
    done = await orch.room.runs.cancel(run.id, ANN)
    assert done == CancelResult(agents_notified=0, pending_cancelled=1)
    assert await orch.run_ended(run) == "cancelled"
    assert (await agent.expect(JobCancel)).force
    next_run = await rows.add_run(orch.db.engine)
    await agent.finish(job, JobStatus.CANCELLED)  # only now it is free
    assert (await agent.take()).run_id == next_run.id


async def test_a_recovering_job_is_cancelled_and_stopped_when_its_agent_returns(orch: Orchestrator) -> None:
    """AG-25, OR-171."""
    agent = Agent()
    run, job = await _running(orch, agent, [Job("a")])
    await agent.cut()
    await orch.job_is(job.job_id, "recovering")
    await orch.room.runs.cancel(run.id, ANN)
    assert await orch.run_ended(run) == "cancelled"
    await agent.dial(orch.url)
    assert (await agent.expect(JobCancel)).force


async def test_success_that_crosses_a_cancel_does_not_undo_it(orch: Orchestrator) -> None:
    agent = Agent()
    run, job = await _running(orch, agent, [Job("a")])
    await orch.room.runs.cancel(run.id, ANN)
    await agent.finish(job, outputs={"s": 1})
    assert await orch.run_ended(run) == "cancelled"


async def test_runs_of_others_and_of_nobody_are_not_found(orch: Orchestrator) -> None:
    """OR-170."""
    run = await rows.add_run(orch.db.engine)
    for run_id, org_id in ((uuid7(), None), ("nonsense", None), (run.id, "org_other")):
        with pytest.raises(RunNotFound):
            await orch.room.runs.cancel(run_id, ANN, org_id=org_id)
        with pytest.raises(RunNotFound):
            await orch.room.runs.detail(run_id, org_id=org_id)
    assert (await rows.run(orch.db.engine, run.id))["status"] == "queued"
