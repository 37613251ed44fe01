"""What dispatcher and agents do to runs, without sockets."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from kici.orchestrator.dispatch.claim import FreeAgent, claim
from kici.orchestrator.runs.execution import Execution, Limits
from kici.orchestrator.runs.groups import Groups
from kici.orchestrator.runs.metrics import ExecutionMetrics
from kici.orchestrator.runs.reports import JobMessage, Report, apply
from kici.protocol.agent_v1 import JobAck, JobReject, JobStatusUpdate, RunEvent, StepStatusUpdate
from kici.runtime.metrics import Metrics
from kici.spec.states import JobStatus, StepStatus
from tests.db.execution import rows
from tests.support.postgres import Database

T0 = 1_700_000_000_000


class Woken:
    """Remembers which channels were woken."""

    def __init__(self) -> None:
        self.channels: set[str] = set()

    def wake(self, channel: str) -> None:
        self.channels.add(channel)

    def taken(self) -> set[str]:
        channels, self.channels = self.channels, set()
        return channels


def execution(db: Database, **limits: int) -> Execution:
    return Execution(
        db.engine, Woken(), Limits(**limits), ExecutionMetrics(Metrics("kici_orch_")), "orch-1"
    )


@dataclass(frozen=True)
class Held:
    """A job in the hands of an agent."""

    agent: FreeAgent
    run_id: str
    job_id: str
    job_name: str
    attempt: int

    def _key(self) -> dict[str, Any]:
        return {"run_id": self.run_id, "job_id": self.job_id, "attempt": self.attempt}

    def report(self, message: JobMessage) -> Report:
        return Report(self.agent.agent_id, self.agent.session_id, message)

    def ack(self) -> Report:
        return self.report(JobAck(seq=1, timestamp=T0, **self._key()))

    def reject(self, reason: Any = "busy") -> Report:
        return self.report(JobReject(seq=1, timestamp=T0, reason=reason, **self._key()))

    def job(self, state: JobStatus, **fields: Any) -> Report:
        values: dict[str, Any] = {"timestamp": T0, **self._key(), **fields}
        return self.report(JobStatusUpdate(seq=1, state=state, **values))

    def step(self, index: int, state: StepStatus, **fields: Any) -> Report:
        values: dict[str, Any] = {"timestamp": T0, "step_name": f"step {index}", **self._key(), **fields}
        return self.report(StepStatusUpdate(seq=1, step_index=index, state=state, **values))

    def event(self, event_type: str, seq: int, **fields: Any) -> Report:
        values: dict[str, Any] = {"timestamp_ms": T0, **self._key(), **fields}
        return self.report(RunEvent(seq=seq, event_type=event_type, **values))


async def dispatch(db: Database, *agents: FreeAgent) -> list[Held]:
    """Claims for these agents, in order of agent id."""
    async with db.engine.begin() as tx:
        found = await claim(tx, agents, [], ack_timeout_ms=10_000)
    by_id = {agent.agent_id: agent for agent in agents}
    held = [
        Held(by_id[job.agent_id], job.run_id, job.job_id, job.job_name, job.attempt) for job in found.jobs
    ]
    return sorted(held, key=lambda job: job.agent.agent_id)


async def report(ex: Execution, *reports: Report) -> list[str]:
    """Applies all in one transaction; the reasons of those that changed nothing."""
    async with ex.change() as change:
        return [
            reason for _, reason in await apply(change, reports, max_attempts=ex.limits.max_job_attempts)
        ]


async def work_off(ex: Execution, db: Database, endings: dict[str, JobStatus] | None = None) -> list[str]:
    """Runs everything that gets queued on one agent, one job after another; names in order."""
    done: list[str] = []
    agent = await rows.add_agent(db.engine, f"worker-{id(done)}")
    groups = Groups(ex)
    while True:
        while await groups.settle_all():
            pass
        held = await dispatch(db, agent)
        if not held:
            return done
        job = held[0]
        ending = (endings or {}).get(job.job_name, JobStatus.SUCCESS)
        assert await report(ex, job.ack(), job.job(JobStatus.RUNNING), job.job(ending)) == []
        done.append(job.job_name)


async def invariants(db: Database, run_ids: Sequence[str]) -> None:
    """What must hold for every run at every commit."""
    broken = await rows.fetch(
        db.engine,
        """
        SELECT r.id FROM execution_runs r CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE j.completed_at IS NULL) AS open,
                bool_and(j.agent_id IS NULL OR j.attempt > 0) AS attempts,
                bool_and(j.status <> 'running' OR j.agent_id IS NOT NULL) AS owners,
                bool_and(j.status <> 'queued' OR (j.dispatched_at IS NULL) = (j.agent_id IS NULL)) AS dispatched,
                bool_and(j.status <> 'pending' OR j.needs_pending = (
                    SELECT count(*) FROM execution_job_needs n JOIN execution_jobs u ON u.id = n.upstream_job_id
                    WHERE n.job_id = j.id AND u.completed_at IS NULL)) AS needs,
                bool_and(j.status <> 'pending' OR j.needs_pending > 0 OR j.max_parallel IS NOT NULL) AS ready,
                bool_and(NOT EXISTS (
                    SELECT FROM execution_steps s WHERE s.job_id = j.id AND s.status IN ('pending', 'running')
                      AND (j.completed_at IS NOT NULL OR s.attempt <> j.attempt OR j.agent_id IS NULL))) AS steps
            FROM execution_jobs j WHERE j.run_id = r.id) f
        WHERE r.id = ANY(CAST(:ids AS uuid[]))
          AND NOT (r.jobs_open = f.open AND (f.open = 0) = (r.completed_at IS NOT NULL)
                   AND f.attempts AND f.owners AND f.dispatched AND f.needs AND f.ready AND f.steps)
        """,
        ids=list(run_ids),
    )
    assert broken == []
