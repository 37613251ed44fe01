"""What is minted when a job is sent (OR-153, AU-124, AG-52)."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from kici.orchestrator.blobs.service import Blobs, open_store
from kici.orchestrator.dispatch.claim import ClaimedJob, FreeAgent, claim
from kici.orchestrator.dispatch.extras import Extras, Minted
from kici.orchestrator.dispatch.frame import dispatch_frame
from kici.orchestrator.remote.briefs import Brief, RemoteBriefs
from kici.orchestrator.runs.request import RunSource
from kici.orchestrator.secrets.runs import RunKeys
from kici.runtime.clock import SystemClock
from kici.spec.states import JobStatus
from tests.db.execution import rows
from tests.db.execution.acting import Held, execution, report
from tests.db.execution.rows import ORG
from tests.db.execution.starting import begin, job, workflow
from tests.support.postgres import Database

pytestmark = pytest.mark.postgres

KEY = b"k" * 32
REMOTE = RunSource(
    org_id=ORG, routing_key=f"remote:{ORG}", name="kici run remote", subtype="internal", provider="local"
)


@pytest.fixture
def briefs(tmp_path: Path) -> RemoteBriefs:
    return RemoteBriefs(
        KEY, Blobs(open_store(f"file://{tmp_path}"), KEY, SystemClock(), public_url="http://127.0.0.1")
    )


async def _claim(
    db: Database, briefs: RemoteBriefs, *agents: str
) -> tuple[dict[str, ClaimedJob], Extras, int]:
    """Claimed jobs by name, what they are told beyond, and how many statements that took."""
    free = [await rows.add_agent(db.engine, agent) for agent in agents]
    asked: list[str] = []

    def count(_connection: object, _cursor: object, statement: str, *_: Any) -> None:
        asked.append(statement)

    async with db.engine.begin() as tx:
        found = await claim(tx, free, [], ack_timeout_ms=10_000)
        event.listen(db.engine.sync_engine, "before_cursor_execute", count)
        extras = await Minted(RunKeys(KEY), briefs).extras(tx, found.jobs)
        event.remove(db.engine.sync_engine, "before_cursor_execute", count)
    return {each.job_name: each for each in found.jobs}, extras, len(asked)


async def test_a_job_that_stands_alone_costs_no_statement(
    orchestrator_db: Database, briefs: RemoteBriefs
) -> None:
    """The hot path of every trivial run."""
    await begin(orchestrator_db, workflow(job("a")))
    assert (await _claim(orchestrator_db, briefs, "a1"))[1:] == ({}, 0)


async def test_jobs_that_others_need_get_the_key_to_seal_for_them(
    orchestrator_db: Database, briefs: RemoteBriefs
) -> None:
    """AG-52."""
    await begin(orchestrator_db, workflow(job("a"), job("b", "a")))
    jobs, extras, _ = await _claim(orchestrator_db, briefs, "a1")
    told = extras[jobs["a"].job_id]
    assert told is not None
    frame = dispatch_frame(jobs["a"], now_ms=0, max_log_size_bytes=1, extras=told)
    assert frame.run_public_key
    assert frame.secrets == {}
    held = Held(
        _agent(jobs["a"]),
        jobs["a"].run_id,
        jobs["a"].job_id,
        "a",
        jobs["a"].attempt,
    )
    ex = execution(orchestrator_db)
    assert await report(ex, held.ack(), held.job(JobStatus.RUNNING), held.job(JobStatus.SUCCESS)) == []
    jobs, extras, _ = await _claim(orchestrator_db, briefs, "a2")
    assert extras[jobs["b"].job_id] == {"run_public_key": None, "secrets": {}}


def _agent(claimed: ClaimedJob) -> FreeAgent:
    return FreeAgent(
        agent_id=claimed.agent_id, session_id=claimed.agent_session, org_id=ORG, labels=frozenset()
    )


async def test_a_remote_run_brings_its_tree_or_is_not_sent(
    orchestrator_db: Database, briefs: RemoteBriefs
) -> None:
    """AU-124: without it, a job would run something else."""
    sealed = briefs.seal("uploads/1", Brief(key="a2V5", size_bytes=12, values={"TOKEN": "t"}))
    fields: dict[str, Any] = {"source": REMOTE, "is_test_run": True}
    await begin(
        orchestrator_db, workflow(job("whole")), overlay_key="uploads/1", remote_secrets=sealed, **fields
    )
    await begin(orchestrator_db, workflow(job("bare")), **fields)
    jobs, extras, _ = await _claim(orchestrator_db, briefs, "a1", "a2")
    whole = extras[jobs["whole"].job_id]
    assert whole is not None
    frame = dispatch_frame(jobs["whole"], now_ms=0, max_log_size_bytes=1, extras=whole)
    assert frame.overlay is not None
    assert (frame.overlay.key, frame.overlay.size_bytes, frame.secrets) == ("a2V5", 12, {"TOKEN": "t"})
    assert frame.overlay.path.startswith("/blobs/")
    assert frame.is_test_run
    assert extras[jobs["bare"].job_id] is None
