"""Keeps what people read about waiting jobs true: a queue moves and agents come and go without the job changing.

The reason is part of a job's document, written when the job changes. Jobs that wait longer than a moment are
looked at again every few seconds, and told again when their reason is another one.
"""

from kici.orchestrator.runs.execution import Execution
from kici.orchestrator.runs.projection import JOB_DOCUMENT
from kici.runtime.database import text

SHOWN = 100  # of the queue, from its head
SETTLED_S = 3.0  # who waits less is not worth a row

_REASONS = text(f"""
    SELECT j.id, doc."waitingReason" FROM (
        SELECT * FROM execution_jobs WHERE status = 'queued' AND dispatched_at IS NULL
            AND ready_at < now() - make_interval(secs => CAST(:settled_s AS float8))
        ORDER BY priority DESC, ready_at, id LIMIT {SHOWN}
    ) j CROSS JOIN LATERAL ({JOB_DOCUMENT}) doc
""")
# A job that somebody else holds is about to change, and will be told by whoever changes it.
_STILL_WAITING = text("""
    SELECT id FROM execution_jobs
    WHERE id = ANY(CAST(:ids AS uuid[])) AND status = 'queued' AND dispatched_at IS NULL
    FOR NO KEY UPDATE SKIP LOCKED
""")


class WaitingReasons:
    """One per process; several say the same thing several times."""

    def __init__(self, execution: Execution, *, settled_s: float = SETTLED_S) -> None:
        self._execution = execution
        self._settled_s = settled_s
        self._told: dict[str, str | None] = {}

    async def refresh(self) -> int:
        """How many jobs were told again."""
        async with self._execution.engine.connect() as tx:
            rows = await tx.execute(_REASONS, {"settled_s": self._settled_s})
            reasons: dict[str, str | None] = {row[0]: row[1] for row in rows}
        changed = {job_id for job_id, reason in reasons.items() if self._told.get(job_id, "") != reason}
        if changed:
            async with self._execution.change() as change:
                waiting = set((await change.tx.execute(_STILL_WAITING, {"ids": list(changed)})).scalars())
                change.touch_jobs(waiting)
                change.queued = True  # a claim may have passed over the rows that were locked here
            for job_id in changed - waiting:
                del reasons[job_id]
            changed = waiting
        self._told = reasons
        return len(changed)
