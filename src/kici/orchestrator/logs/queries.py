"""What the database knows about a step whose output somebody wants."""

from collections.abc import Sequence
from uuid import UUID

import msgspec
from msgspec import Struct

from kici.orchestrator.logs.streams import StreamId
from kici.runtime.database import AsyncConnection, text


class StepFacts(Struct, frozen=True, kw_only=True):
    """`attempt`: the asked one, or the job's current one. `over`: no output can come any more."""

    attempt: int
    over: bool
    step_known: bool
    log_bytes: int | None


_FIND = text("""
    SELECT coalesce(CAST(:attempt AS int), j.attempt) AS attempt,
        j.completed_at IS NOT NULL OR coalesce(CAST(:attempt AS int) < j.attempt, false)
            OR coalesce(s.status NOT IN ('pending', 'running'), false) AS over,
        s.job_id IS NOT NULL AS step_known, s.log_bytes
    FROM execution_jobs j LEFT JOIN execution_steps s
        ON s.job_id = j.id AND s.attempt = coalesce(CAST(:attempt AS int), j.attempt)
        AND s.step_index = :step_index
    WHERE j.id = :job_id AND j.run_id = :run_id AND j.org_id = :org_id
""")

_OVER = text("""
    SELECT k.position
    FROM unnest(CAST(:jobs AS uuid[]), CAST(:attempts AS int[]), CAST(:steps AS int[]))
        WITH ORDINALITY AS k (job_id, attempt, step_index, position)
    LEFT JOIN execution_jobs j ON j.id = k.job_id
    LEFT JOIN execution_steps s
        ON s.job_id = k.job_id AND s.attempt = k.attempt AND s.step_index = k.step_index
    WHERE j.id IS NULL OR j.completed_at IS NOT NULL OR j.attempt > k.attempt
        OR s.status NOT IN ('pending', 'running')
""")


def is_id(value: str) -> bool:
    try:
        UUID(value)
    except ValueError:
        return False
    return True


async def find_step(
    tx: AsyncConnection, org_id: str, run_id: str, job_id: str, step_index: int, attempt: int | None
) -> StepFacts | None:
    """None: the org has no such job."""
    if not (is_id(run_id) and is_id(job_id) and abs(step_index) < 1 << 31):
        return None
    asked = {
        "org_id": org_id,
        "run_id": run_id,
        "job_id": job_id,
        "step_index": step_index,
        "attempt": attempt,
    }
    row = (await tx.execute(_FIND, asked)).mappings().first()
    return None if row is None else msgspec.convert(dict(row), StepFacts)


async def over(tx: AsyncConnection, streams: Sequence[StreamId]) -> list[StreamId]:
    """Those whose step, attempt or job has ended, or does not exist any more. One statement."""
    known = [stream for stream in streams if is_id(stream.job_id)]
    found = await tx.execute(
        _OVER,
        {
            "jobs": [stream.job_id for stream in known],
            "attempts": [stream.attempt for stream in known],
            "steps": [stream.step_index for stream in known],
        },
    )
    unknown = [stream for stream in streams if not is_id(stream.job_id)]
    return unknown + [known[position - 1] for position in found.scalars()]
