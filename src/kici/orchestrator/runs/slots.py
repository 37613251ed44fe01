"""Rows of `concurrency_slots`: who holds a place and who waits (OR-180, OR-181). Places are given away by
`runs.groups`; wishes and releases are part of the transaction that makes or ends their holder."""

from collections.abc import Sequence

from kici.runtime.database import AsyncConnection, text

# A run is its own holder; a job asks for at most one at a time, in order of arrival.
_ASK_RUNS = text("""
    INSERT INTO concurrency_slots (holder_id, scope, run_id, org_id, routing_key, repo_identifier, group_name,
        max, cancel_in_progress, expires_at)
    SELECT r.id, 'run', r.id, r.org_id, r.routing_key, r.repo_identifier, r.concurrency_group,
        r.concurrency_max, r.cancel_in_progress,
        now() + make_interval(secs => nullif(CAST(:wait_ms AS bigint), 0)::float8 / 1000)
    FROM execution_runs r WHERE r.id = ANY(CAST(:ids AS uuid[])) AND r.concurrency_group IS NOT NULL
    ORDER BY r.id ON CONFLICT (holder_id) DO NOTHING
""")
_ASK_JOBS = text("""
    INSERT INTO concurrency_slots (holder_id, scope, run_id, org_id, routing_key, repo_identifier, group_name,
        expires_at)
    SELECT j.id, 'job', r.id, r.org_id, r.routing_key, r.repo_identifier, j.concurrency_group,
        now() + make_interval(secs => nullif(CAST(:wait_ms AS bigint), 0)::float8 / 1000)
    FROM execution_jobs j JOIN execution_runs r ON r.id = j.run_id
    WHERE j.id = ANY(CAST(:ids AS uuid[])) AND j.concurrency_group IS NOT NULL
    ORDER BY j.id ON CONFLICT (holder_id) DO NOTHING
""")
_RELEASE = text("DELETE FROM concurrency_slots WHERE holder_id = ANY(CAST(:ids AS uuid[]))")


async def ask_for_runs(tx: AsyncConnection, run_ids: Sequence[str], *, wait_ms: int) -> None:
    """`wait_ms` 0: for ever. Asking twice is asking once."""
    await tx.execute(_ASK_RUNS, {"ids": list(run_ids), "wait_ms": wait_ms})


async def ask_for_jobs(tx: AsyncConnection, job_ids: Sequence[str], *, wait_ms: int) -> None:
    await tx.execute(_ASK_JOBS, {"ids": list(job_ids), "wait_ms": wait_ms})


async def release(tx: AsyncConnection, holder_ids: Sequence[str]) -> None:
    """Runs or jobs that have ended: their places, and their wishes (OR-173)."""
    await tx.execute(_RELEASE, {"ids": list(holder_ids)})
