"""What follows when jobs end: edges, windows and fail-fast (OR-130…134)."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct

from kici.engine.transitions import JobEvent, job_after, run_status
from kici.orchestrator.runs.state import JobPatch, RunRow
from kici.runtime.database import AsyncConnection, text
from kici.spec.states import JOB_TERMINAL, JobStatus, RunStatus

_FAILED = frozenset({JobStatus.FAILED, JobStatus.TIMED_OUT_STALE, JobStatus.DRIFT_DROPPED})


def edge_status(children: Collection[JobStatus]) -> str:
    """How a base job ended, for those who need it: its own status, or for the children of a matrix that
    ended differently, what a run of just them would be called."""
    if len(children) == 1:
        return next(iter(children))
    return run_status(children)


class Downstream(Struct, frozen=True):
    """A pending job and one base job it needs. `open` counts children that have not ended."""

    job_id: str
    run_id: str
    attempt: int
    max_parallel: int | None
    base_job_name: str
    upstream_name: str
    run_on: list[str]
    open: int
    upstream_statuses: list[str]


class Sibling(Struct, frozen=True):
    """A child of a base job with a window or with fail-fast, in order of the workflow."""

    job_id: str
    run_id: str
    base_job_name: str
    status: JobStatus
    attempt: int
    needs_pending: int
    dispatched: bool
    max_parallel: int | None
    fail_fast: bool


Family = tuple[str, str]  # run id, base job name

_DOWNSTREAM = """
    SELECT d.id, d.run_id, d.attempt, d.max_parallel, d.base_job_name, u.base_job_name AS upstream, n.run_on,
        count(*) FILTER (WHERE u.completed_at IS NULL), array_agg(DISTINCT u.status)
    FROM execution_jobs d JOIN execution_job_needs n ON n.job_id = d.id
        JOIN execution_jobs u ON u.id = n.upstream_job_id
    WHERE d.status = 'pending' AND d.id IN ({which})
    GROUP BY d.id, u.base_job_name, n.run_on ORDER BY d.run_id, d.position, d.id, min(u.position)
"""
_AFTER = text(
    _DOWNSTREAM.format(
        which="SELECT job_id FROM execution_job_needs WHERE upstream_job_id = ANY(CAST(:ids AS uuid[]))"
    )
)
_OF = text(_DOWNSTREAM.format(which="SELECT unnest(CAST(:ids AS uuid[]))"))
_FAMILIES = text("""
    SELECT j.id, j.run_id, j.base_job_name, j.status, j.attempt, j.needs_pending, j.dispatched_at IS NOT NULL,
        j.max_parallel, j.fail_fast
    FROM execution_jobs j
    JOIN unnest(CAST(:run_ids AS uuid[]), CAST(:names AS text[])) AS f (run_id, name)
        ON j.run_id = f.run_id AND j.base_job_name = f.name
    ORDER BY j.run_id, j.position, j.id FOR NO KEY UPDATE OF j
""")


async def downstream_of(tx: AsyncConnection, ended_job_ids: Sequence[str]) -> list[Downstream]:
    """Pending jobs that need one of these, with all their needs."""
    rows = await tx.execute(_AFTER, {"ids": list(ended_job_ids)})
    return [Downstream(*row) for row in rows]


async def needs_of(tx: AsyncConnection, job_ids: Sequence[str]) -> list[Downstream]:
    """These jobs, as far as they are pending, with all their needs."""
    rows = await tx.execute(_OF, {"ids": list(job_ids)})
    return [Downstream(*row) for row in rows]


async def families(tx: AsyncConnection, keys: Collection[Family]) -> list[Sibling]:
    rows = await tx.execute(
        _FAMILIES, {"run_ids": [run for run, _ in keys], "names": [name for _, name in keys]}
    )
    return [Sibling(row[0], row[1], row[2], JobStatus(row[3]), *row[4:]) for row in rows]


def after_needs(
    needs: Iterable[Downstream], runs: Mapping[str, RunRow]
) -> tuple[list[JobPatch], set[Family]]:
    """What becomes of pending jobs as their needs stand now, and the windows that have a new candidate.

    A base job counts once all its children have ended. The first unmet need skips the job (OR-131); with
    none open it is ready, unless it waits for a place in a window.
    """
    by_job: dict[str, list[Downstream]] = defaultdict(list)
    for need in needs:
        by_job[need.job_id].append(need)
    patches: list[JobPatch] = []
    windows: set[Family] = set()
    for job_id, edges in by_job.items():
        job = edges[0]
        patch = JobPatch(
            job_id=job_id,
            was=JobStatus.PENDING,
            attempt=job.attempt,
            needs_pending=sum(edge.open for edge in edges),
        )
        unmet = next(
            (
                (edge.upstream_name, status)
                for edge in edges
                if not edge.open
                and (status := edge_status([JobStatus(word) for word in edge.upstream_statuses]))
                not in edge.run_on
            ),
            None,
        )
        if runs[job.run_id].status is RunStatus.CANCELLING:
            patch.status = job_after(JobStatus.PENDING, JobEvent.CANCEL)
        elif unmet is not None:
            patch.status = job_after(JobStatus.PENDING, JobEvent.SKIP)
            patch.error_message = f"upstream_unmet: {unmet[0]} ({unmet[1]})"
        elif patch.needs_pending == 0:
            if job.max_parallel is None:
                patch.status = job_after(JobStatus.PENDING, JobEvent.ENQUEUE)
                patch.ready = True
            else:
                windows.add((job.run_id, job.base_job_name))
        patches.append(patch)
    return patches, windows


def among_siblings(siblings: Iterable[Sibling], runs: Mapping[str, RunRow]) -> list[JobPatch]:
    """Fail-fast drops what has not been sent; otherwise free places of the window are filled in order."""
    by_family: dict[Family, list[Sibling]] = defaultdict(list)
    for sibling in siblings:
        by_family[sibling.run_id, sibling.base_job_name].append(sibling)
    patches: list[JobPatch] = []
    for (run_id, _), children in by_family.items():
        if runs[run_id].status is RunStatus.CANCELLING:
            continue  # whoever cancelled the run ended what waits
        failed = any(child.status in _FAILED for child in children)
        first = children[0]
        if first.fail_fast and failed:
            patches += [
                JobPatch(
                    job_id=child.job_id,
                    was=child.status,
                    attempt=child.attempt,
                    status=job_after(child.status, JobEvent.SKIP),
                    error_message=f"fail_fast: another {first.base_job_name} failed",
                )
                for child in children
                if not child.dispatched and child.status in {JobStatus.PENDING, JobStatus.QUEUED}
            ]
        elif first.max_parallel is not None:
            waiting = [
                child for child in children if child.status is JobStatus.PENDING and not child.needs_pending
            ]
            taken = sum(
                child.status is not JobStatus.PENDING and child.status not in JOB_TERMINAL
                for child in children
            )
            patches += [
                JobPatch(
                    job_id=child.job_id,
                    was=child.status,
                    attempt=child.attempt,
                    status=job_after(child.status, JobEvent.ENQUEUE),
                    ready=True,
                )
                for child in waiting[: max(0, first.max_parallel - taken)]
            ]
    return patches
