"""Opening, dispatch, replay after cuts, refusals: a scripted agent against the real socket."""

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from tests.db.execution import rows
from tests.support.postgres import Database
from tests.wire.harness import Agent, Orchestrator, orchestrator

pytestmark = pytest.mark.postgres


@pytest.fixture
async def orch(orchestrator_db: Database, tmp_path: Path) -> AsyncGenerator[Orchestrator]:
    async with orchestrator(orchestrator_db, tmp_path) as running:
        yield running


async def test_a_job_goes_out_and_comes_back(orch: Orchestrator) -> None:
    agent = Agent()
    ack = await agent.dial(orch.url)
    assert (ack.labels, ack.acked_seq) == (["kici:os:linux"], 0)
    run = await rows.add_run(orch.db.engine)
    orch.wakeups.wake("queue")
    job = await agent.take()
    assert (job.run_id, job.job_id, job.attempt) == (run.id, run["build"], 1)
    last = await agent.perform(job)
    await agent.acked(last)
    assert await orch.run_ended(run) == "success"
    assert await orch.log_of(run.id, job.job_id, 1, 0) == b"hello\n"
