"""What becomes of an agent's jobs when its socket comes or goes (AG-22…25, OR-151)."""

from collections.abc import Collection

from kici.engine.transitions import JobEvent, job_after
from kici.orchestrator.agents.connection import Attempt, Identity
from kici.orchestrator.runs.change import Change
from kici.orchestrator.runs.execution import Limits
from kici.orchestrator.runs.retries import attempt_lost, parked
from kici.orchestrator.runs.state import JobPatch, JobRow
from kici.runtime.database import text
from kici.spec.states import JOB_TERMINAL, JobStatus

_OPEN_JOBS = text("SELECT id FROM execution_jobs WHERE agent_id = :agent_id AND completed_at IS NULL")


async def resume(change: Change, identity: Identity, held: Collection[Attempt], limits: Limits) -> None:
    """The agent is back, everything it had to say was applied, and it holds `held`: those jobs go on, all
    others that we believed to run there are lost with an earlier process, or their dispatch never arrived."""
    jobs = await _open_jobs(change, identity.agent_id)
    patches: list[JobPatch] = []
    for job in jobs:
        same_process = job.agent_session == identity.session_id
        if same_process and (job.job_id, job.attempt) in held:
            patches.append(_reclaimed(job, limits))
            continue
        cause = (
            f"the dispatch did not reach agent {identity.agent_id}"
            if same_process and not job.acked
            else f"agent {identity.agent_id} restarted and no longer has the job"
        )
        patches.append(lost(change, job, cause, limits))
    await change.write(patches)


async def park(change: Change, identity: Identity, limits: Limits) -> None:
    """The socket is gone: what it took waits for its return, so long (AG-23). What it never acknowledged
    keeps its shorter deadline."""
    patches: list[JobPatch] = []
    for job in await _open_jobs(change, identity.agent_id):
        if job.agent_session != identity.session_id or not job.acked:
            continue
        patches.append(
            parked(job, window_ms=limits.recovery_window_ms, ack_ms=limits.dispatch_ack_timeout_ms)
        )
    await change.write(patches)


def lost(change: Change, job: JobRow, cause: str, limits: Limits) -> JobPatch:
    """The attempt is over without a result; said on the time line when it had begun."""
    if job.status is not JobStatus.QUEUED:
        change.event(
            job.run_id,
            "job.orphan_recovered",
            job.job_id,
            attempt=job.attempt,
            agentId=job.agent_id,
            cause=cause,
        )
    return attempt_lost(job, cause, max_attempts=limits.max_job_attempts)


def _reclaimed(job: JobRow, limits: Limits) -> JobPatch:
    patch = JobPatch(job_id=job.job_id, was=job.status, attempt=job.attempt, heartbeat=True, recovery_ms=0)
    if job.status is JobStatus.RECOVERING:
        patch.status = job_after(job.status, JobEvent.START)
    if not job.acked:
        patch.ack_ms = limits.dispatch_ack_timeout_ms
    return patch


async def _open_jobs(change: Change, agent_id: str) -> list[JobRow]:
    ids = list((await change.tx.execute(_OPEN_JOBS, {"agent_id": agent_id})).scalars())
    if not ids:
        return []
    jobs = await change.lock_jobs(ids)
    # Read again under the lock: another transaction may have moved them on.
    return [job for job in jobs.values() if job.agent_id == agent_id and job.status not in JOB_TERMINAL]
