"""Sets right what is left behind when a process ends at the wrong instruction, or somebody edits a row.

None of it is needed while every process lives: a crash leaves jobs whose agent is connected nowhere; the
counters of jobs and runs are written with what they count, so that finding one wrong is worth a log line.
"""

from collections.abc import Callable, Coroutine
from typing import Any

from kici.orchestrator.runs.execution import Execution
from kici.orchestrator.runs.retries import parked
from kici.orchestrator.runs.state import RunPatch
from kici.runtime.database import text
from kici.runtime.logging import get_logger
from kici.spec.states import RUN_TERMINAL

log = get_logger(__name__)

AT_ONCE = 500
AGENT_GONE_S = 180  # an instance that died cannot say that its agents are gone
_ROUNDS = 20

_FORGET_AGENTS = text("""
    UPDATE agents SET instance_id = NULL, connection_id = NULL, disconnected_at = now()
    WHERE instance_id = CAST(:instance_id AS text) OR instance_id IS NOT NULL
        AND last_seen_at < now() - make_interval(secs => CAST(:gone_s AS float8))
""")
# Jobs of agents that are connected nowhere. `fresh`: also those that wait for one already.
_ORPHANS = text(f"""
    SELECT j.id FROM execution_jobs j LEFT JOIN agents a ON a.agent_id = j.agent_id
    WHERE j.completed_at IS NULL AND j.agent_id IS NOT NULL AND a.instance_id IS NULL
        AND (CAST(:fresh AS boolean) OR j.recovery_deadline IS NULL AND j.acked_at IS NOT NULL)
    ORDER BY j.id LIMIT {AT_ONCE} OFFSET CAST(:skip AS int)
""")
_STUCK_JOBS = text(f"""
    SELECT d.id FROM execution_jobs d
    WHERE d.status = 'pending' AND (d.needs_pending > 0 OR d.max_parallel IS NULL) AND NOT EXISTS (
        SELECT FROM execution_job_needs n JOIN execution_jobs u ON u.id = n.upstream_job_id
        WHERE n.job_id = d.id AND u.completed_at IS NULL)
    ORDER BY d.id LIMIT {AT_ONCE}
""")
_STUCK_WINDOWS = text(f"""
    SELECT run_id, base_job_name, (array_agg(id))[1] FROM execution_jobs
    WHERE completed_at IS NULL AND max_parallel IS NOT NULL GROUP BY run_id, base_job_name
    HAVING count(*) FILTER (WHERE status = 'pending' AND needs_pending = 0) > 0
        AND count(*) FILTER (WHERE status <> 'pending') < max(max_parallel) LIMIT {AT_ONCE}
""")
_STUCK_RUNS = text(f"""
    SELECT r.id FROM execution_runs r
    WHERE r.completed_at IS NULL AND (r.jobs_open = 0 OR r.jobs_open <> (
        SELECT count(*) FROM execution_jobs j WHERE j.run_id = r.id AND j.completed_at IS NULL))
    ORDER BY r.id LIMIT {AT_ONCE}
""")


async def after_restart(execution: Execution) -> None:
    """Nobody is connected to this instance yet. What was sent or running gets its full time again, for it was
    us who were away (AG-25)."""
    async with execution.engine.begin() as tx:
        await tx.execute(_FORGET_AGENTS, {"instance_id": execution.instance_id, "gone_s": AGENT_GONE_S})
    waiting = 0
    while found := await _park_orphans(execution, fresh=True, skip=waiting):
        waiting += found
    if waiting:
        log.info("start.jobs_await_agents", jobs=waiting, window_ms=execution.limits.recovery_window_ms)


async def repair(execution: Execution) -> int:
    """Rows written."""
    async with execution.engine.begin() as tx:
        await tx.execute(_FORGET_AGENTS, {"instance_id": None, "gone_s": AGENT_GONE_S})
    return (
        await _rounds(lambda: _park_orphans(execution, fresh=False, skip=0))
        + await _rounds(lambda: _settle_jobs(execution))
        + await _rounds(lambda: _settle_runs(execution))
    )


async def _rounds(body: Callable[[], Coroutine[Any, Any, int]]) -> int:
    total = 0
    for _ in range(_ROUNDS):
        done = await body()
        if not done:
            break
        total += done
    return total


async def _park_orphans(execution: Execution, *, fresh: bool, skip: int) -> int:
    limits = execution.limits
    async with execution.change() as change:
        found = await change.tx.execute(_ORPHANS, {"fresh": fresh, "skip": skip})
        ids = list(found.scalars())
        jobs = await change.lock_jobs(ids) if ids else {}
        patches = [
            parked(job, window_ms=limits.recovery_window_ms, ack_ms=limits.dispatch_ack_timeout_ms)
            for job in jobs.values()
            if job.agent_id is not None
        ]
        await change.write(patches)
    return len(patches)


async def _settle_jobs(execution: Execution) -> int:
    async with execution.change() as change:
        jobs = list((await change.tx.execute(_STUCK_JOBS)).scalars())
        windows = (await change.tx.execute(_STUCK_WINDOWS)).all()
        if not jobs and not windows:
            return 0
        await change.lock_jobs([*jobs, *(row[2] for row in windows)])
        await change.settle(jobs, {(row[0], row[1]) for row in windows})
        written = change.jobs_written
    if written:
        log.error("jobs.repaired", pending=len(jobs), windows=len(windows), written=written)
        execution.metrics.repairs.labels("job").inc(written)
    return written


async def _settle_runs(execution: Execution) -> int:
    repaired: list[str] = []
    async with execution.change() as change:
        stuck = list((await change.tx.execute(_STUCK_RUNS)).scalars())
        if not stuck:
            return 0
        open_jobs = await change.lock_runs(stuck)
        patches: list[RunPatch] = []
        for run_id in stuck:
            run = change.runs[run_id]
            still_open = sum(job.run_id == run_id for job in open_jobs.values())
            if run.status in RUN_TERMINAL or (still_open == run.jobs_open and still_open):
                continue  # somebody was quicker
            repaired.append(run_id)
            patches.append(RunPatch(run_id=run_id, recount=True, last=not still_open))
            run.jobs_open = still_open
            change.event(run_id, "run.orphan_finalized" if not still_open else "run.recounted")
        await change.write(runs=patches)
    if repaired:
        log.error("runs.repaired", runs=repaired[:20], count=len(repaired))
        execution.metrics.repairs.labels("run").inc(len(repaired))
    return len(repaired)
