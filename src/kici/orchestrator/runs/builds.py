"""One build per dependency lock and kind of agent, whichever runs and instances want it (OR-139, AG-72, AG-74).

A run whose dependencies nobody has built yet begins with a `build` row that is `waiting`; its target names what
it would build. Here, under an advisory lock of that name which only we take, one of those who wait becomes
queued; the others say for whom they wait. When it ends well they are skipped, for they are built; when it ends
otherwise the next one is queued. Everything follows from the rows as they stand: a crash in between delays
until the next look, and loses nothing. That no two build at once is an index besides.

A build says in its outputs what it packed: the `environment`, a `commit` when the lock has paths in it, and
`packed` false when it was too large to be kept, which is no reason to build again either.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from kici.engine import builds
from kici.engine.transitions import JobEvent, job_after
from kici.orchestrator.caches.scopes import DEPENDENCIES
from kici.orchestrator.runs.change import Change
from kici.orchestrator.runs.execution import Execution
from kici.orchestrator.runs.state import JobPatch, JobRow
from kici.runtime.database import AsyncConnection, text
from kici.runtime.logging import get_logger
from kici.spec.states import JobStatus

log = get_logger(__name__)

UNPACKED_FOR = "interval '7 days'"


class Wanted(NamedTuple):
    """Dependencies of a run that is about to begin."""

    org_id: str
    key: str
    sha: str


# `b` is a build that succeeded. Agents can have it (or know that they cannot), for this commit.
_USABLE = f"""
    (b.outputs->'build'->>'commit' IS NULL OR b.outputs->'build'->>'commit' = {{sha}})
    AND ({{besides}} b.outputs->'build'->>'packed' = 'false' AND b.completed_at > now() - {UNPACKED_FOR}
        OR EXISTS (SELECT FROM user_cache_entries e WHERE e.org_id = b.org_id AND e.repo_identifier = ''
            AND e.scope = '{DEPENDENCIES}' AND e.key = b.outputs->'build'->>'environment' AND e.state = 'ready'))
"""
_KNOWN = text(f"""
    SELECT DISTINCT w.org_id, w.key, w.sha
    FROM unnest(CAST(:orgs AS text[]), CAST(:keys AS text[]), CAST(:shas AS text[])) AS w (org_id, key, sha)
    WHERE EXISTS (SELECT FROM execution_jobs b WHERE b.kind = 'build' AND b.org_id = w.org_id
        AND b.target_job = w.key AND b.status = 'success' AND {_USABLE.format(sha="w.sha", besides="")})
""")
_WANTED = text("""
    SELECT DISTINCT org_id, target_job FROM execution_jobs
    WHERE kind = 'build' AND status = 'waiting' AND completed_at IS NULL ORDER BY 1, 2
""")
_LOCK = text("SELECT pg_advisory_xact_lock(hashtextextended(:key, 7700139))")
# Who came while somebody built has no need of the archive to be served: its own agent can still install.
_ROWS = text(f"""
    SELECT j.id, j.run_id, j.status, r.blocked, j.waiting_reason,
        (extract(epoch FROM now() - j.started_at) * 1000)::bigint,
        (extract(epoch FROM now() - r.created_at) * 1000)::bigint,
        CASE WHEN j.status = 'waiting' THEN (
            SELECT b.run_id FROM execution_jobs b WHERE b.kind = 'build' AND b.org_id = j.org_id
                AND b.target_job = j.target_job AND b.status = 'success'
                AND {_USABLE.format(sha="r.sha", besides="b.completed_at > r.created_at OR")}
            ORDER BY b.completed_at DESC LIMIT 1) END
    FROM execution_jobs j JOIN execution_runs r ON r.id = j.run_id
    WHERE j.kind = 'build' AND j.org_id = :org_id AND j.target_job = :key AND j.completed_at IS NULL
    ORDER BY j.id
""")


class _Row(Struct, frozen=True):
    job_id: str
    run_id: str
    status: str
    blocked: bool  # its run waits for a place in a concurrency group
    reason: str | None  # what people read now about why it waits
    built_for_ms: int | None  # since it was started
    age_ms: int
    built_by: str | None  # a run


async def known(tx: AsyncConnection, wanted: Sequence[Wanted]) -> set[Wanted]:
    """Those that need no build: it is there (AG-72)."""
    rows = await tx.execute(
        _KNOWN,
        {
            "orgs": [each.org_id for each in wanted],
            "keys": [each.key for each in wanted],
            "shas": [each.sha for each in wanted],
        },
    )
    return {Wanted(*row) for row in rows}


class Builds:
    """One per process; any number of processes may settle the same builds."""

    def __init__(self, execution: Execution) -> None:
        self._execution = execution

    async def settle_all(self) -> int:
        """Looks at every build that somebody waits for; how many rows were queued or ended."""
        async with self._execution.engine.connect() as tx:
            wanted = [(row[0], row[1]) for row in await tx.execute(_WANTED)]
        return sum([await self.settle(org_id, key) for org_id, key in wanted])

    async def settle(self, org_id: str, key: str) -> int:
        async with self._execution.change() as change:
            await change.tx.execute(_LOCK, {"key": f"{org_id}\x1f{key}"})
            found = await change.tx.execute(_ROWS, {"org_id": org_id, "key": key})
            patches, moved = self._decided([_Row(*row) for row in found])
            await self._write(change, patches)
        if moved:
            log.info("builds.settled", org_id=org_id, key=key, moved=moved)
        return moved

    def _decided(self, rows: Sequence[_Row]) -> tuple[dict[str, JobPatch], int]:
        building = next((row for row in rows if row.status != JobStatus.WAITING), None)
        patches: dict[str, JobPatch] = {}
        moved = 0
        for row in rows:
            if row.status != JobStatus.WAITING:
                continue
            patch = JobPatch(job_id=row.job_id, was=JobStatus.WAITING, attempt=0)
            if row.built_by is not None:
                patch.status = job_after(patch.was, JobEvent.SKIP)
                patch.error_message = f"Built by run {row.built_by}"
            elif row.blocked:
                continue
            elif building is None:
                building = row
                patch.status, patch.ready = job_after(patch.was, JobEvent.TIMER_DONE), True
            elif self._too_long(row, building):
                patch.status = job_after(patch.was, JobEvent.FAIL)
                limit = f"{self._execution.limits.cache_build_timeout_ms} ms"
                patch.error_message = builds.TOO_LONG.format(limit=limit, run=building.run_id)
                patch.init_failure = coordination_failure(patch.error_message)
            elif (reason := builds.WAITING.format(run=building.run_id)) != row.reason:
                patch.waiting_reason = reason
            else:
                continue
            moved += patch.status is not None
            patches[row.job_id] = patch
        return patches, moved

    def _too_long(self, row: _Row, building: _Row) -> bool:
        """The build itself has ended by then; this is for one whose agent cannot say so."""
        if building.built_for_ms is None:
            return False  # in the queue like everybody
        limits = self._execution.limits
        allowed_ms = limits.cache_build_timeout_ms + 2 * limits.job_heartbeat_interval_ms
        return min(row.age_ms, building.built_for_ms) > allowed_ms

    @staticmethod
    async def _write(change: Change, patches: Mapping[str, JobPatch]) -> None:
        """Of those that wait still: a run may have been cancelled meanwhile."""
        if patches:
            jobs: Mapping[str, JobRow] = await change.lock_jobs(list(patches))
            await change.write(
                [patches[job_id] for job_id, job in jobs.items() if job.status is JobStatus.WAITING]
            )


def coordination_failure(message: str, category: str = builds.CATEGORY) -> dict[str, str | None]:
    """Why no job of the run begins (OR-210)."""
    return {"scope": "run", "category": category, "message": message, "jobName": None}
