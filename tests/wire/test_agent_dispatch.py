"""What a dispatch says, and that the next one follows the last end at once."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from kici.protocol.agent_v1 import AgentMetrics, JobDispatch
from kici.runtime.database import text
from kici.spec.states import JobStatus
from tests.db.execution import rows
from tests.db.execution.rows import Job
from tests.support.postgres import Database
from tests.wire.harness import Agent, Orchestrator, orchestrator

pytestmark = pytest.mark.postgres


@pytest.fixture
async def orch(orchestrator_db: Database, tmp_path: Path) -> AsyncGenerator[Orchestrator]:
    async with orchestrator(orchestrator_db, tmp_path) as running:
        yield running


async def test_facts_outputs_and_statuses_travel_with_the_job(orch: Orchestrator) -> None:
    """OR-138, OR-153, AG-63."""
    jobs = [
        Job("build", children=2),
        Job("lint"),
        Job("deploy", needs=[("build", "on-success"), ("lint", "always")]),
    ]
    run = await rows.add_run(orch.db.engine, jobs)
    agent = Agent()
    await agent.dial(orch.url)
    for _ in range(3):
        job = await agent.take()
        failed = job.job_name == "lint"
        await agent.finish(
            job,
            JobStatus.FAILED if failed else JobStatus.SUCCESS,
            outputs=None if failed else {"work": {"n": job.matrix["value"]}},
        )
    job = await agent.take()
    assert job.job_name == "deploy"
    assert job.upstream_outputs == {"build (0)": {"work": {"n": 0}}, "build (1)": {"work": {"n": 1}}}
    assert job.upstream_statuses == {"build (0)": "success", "build (1)": "success", "lint": "failed"}
    assert (job.checkout.repo_url, job.checkout.ref, job.checkout.token) == (
        "file:///srv/shop.git",
        "refs/heads/main",
        None,
    )
    assert (job.event.type, job.event.payload) == ("push", {"n": 1})
    assert (job.job.name, [step.name for step in job.job.steps]) == ("deploy", ["work"])
    found = await rows.run(orch.db.engine, run.id)
    assert job.env == {
        "KICI": "true",
        "CI": "true",
        "KICI_ORG_ID": rows.ORG,
        "KICI_RUN_ID": run.id,
        "KICI_JOB_ID": job.job_id,
        "KICI_WORKFLOW": "ci",
        "KICI_JOB": "deploy",
        "KICI_ATTEMPT": "1",
        "KICI_REPO": "acme/shop",
        "KICI_SHA": found["sha"],
        "KICI_REF": "refs/heads/main",
        "KICI_BRANCH": "main",
        "KICI_EVENT": "push",
        "KICI_REQUEST_ID": found["request_id"],
    }


async def test_one_job_at_a_time_and_the_next_without_being_asked(orch: Orchestrator) -> None:
    """AG-14, OR-147."""
    agents = [Agent("agent-1"), Agent("agent-2")]
    for agent in agents:
        await agent.dial(orch.url)
    runs = [await rows.add_run(orch.db.engine) for _ in range(10)]
    orch.wakeups.wake("queue")
    for _ in range(5):
        for agent in agents:
            await agent.perform(await agent.take())
    for run in runs:
        assert await orch.run_ended(run) == "success"
    taken = await rows.fetch(
        orch.db.engine, "SELECT agent_id, count(*) FROM execution_jobs GROUP BY 1 ORDER BY 1"
    )
    assert [tuple(row.values()) for row in taken] == [("agent-1", 5), ("agent-2", 5)]


async def test_patterns_find_their_agent(orch: Orchestrator) -> None:
    """OR-146."""
    plain, gpu = Agent("plain", ("linux",)), Agent("rich", ("linux", "gpu-a100"))
    await plain.dial(orch.url)
    await gpu.dial(orch.url)
    run = await rows.add_run(orch.db.engine, [Job("train", runs_on=["linux"], patterns=["^gpu-"])])
    orch.wakeups.wake("queue")
    assert (await gpu.take()).run_id == run.id


async def test_a_job_whose_dispatch_cannot_be_made_fails_and_says_why(
    orchestrator_db: Database, tmp_path: Path
) -> None:
    async with orchestrator(orchestrator_db, tmp_path, max_job_attempts=2) as orch:
        run = await rows.add_run(orch.db.engine)
        good = await rows.add_run(orch.db.engine)
        async with orch.db.engine.begin() as tx:
            await tx.execute(
                text("UPDATE execution_job_specs SET spec = '{\"name\": 7}' WHERE run_id = :id"),
                {"id": run.id},
            )
        agent = Agent()
        await agent.dial(orch.url)
        assert (await agent.expect(JobDispatch)).run_id == good.id
        assert await orch.run_ended(run) == "failed"
        row = await rows.job(orch.db.engine, run["build"])
        assert row["error_message"].startswith("its dispatch could not be made: ")


async def test_the_page_of_metrics_has_ours_and_theirs(orch: Orchestrator) -> None:
    """AG-99, OP-30."""
    agent = Agent()
    await agent.dial(orch.url)
    page = "# TYPE kici_agent_jobs_active gauge\nkici_agent_jobs_active 1\n"
    await agent.send(AgentMetrics(agent_id=agent.agent_id, timestamp=1, exposition=page))
    run = await rows.add_run(orch.db.engine)
    orch.wakeups.wake("queue")
    await agent.acked(await agent.perform(await agent.take()))
    assert await orch.run_ended(run) == "success"
    shown = orch.metrics.exposition().decode()
    for line in (
        'kici_agent_jobs_active{agent_id="agent-1",scaler="stateful"} 1.0',
        "kici_orch_agents_active 1.0",
        'kici_orch_executions_total{status="success"} 1.0',
        'kici_orch_steps_total{status="success"} 1.0',
        "kici_orch_job_queue_wait_seconds_count 1.0",
        'kici_orch_agent_messages_total{type="JobStatusUpdate"} 2.0',
    ):
        assert line in shown
