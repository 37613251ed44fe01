"""What follows when jobs end: edges, windows, fail-fast, and the hooks of the workflow (OR-130…137)."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct

from kici.engine.concurrency import waiting_reason
from kici.engine.graph import why_no_hooks
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
    """A pending job and one base job or group that it needs. `open` counts children that have not ended.

    `upstream_kind` init: the row that evaluates this very job, with `upstream_error` when it failed. `began`:
    author's work was sent to an agent."""

    job_id: str
    run_id: str
    attempt: int
    max_parallel: int | None
    base_job_name: str
    upstream_name: str
    run_on: list[str]
    open: int
    upstream_statuses: list[str]
    kind: str = "job"
    concurrency_group: str | None = None
    job_name: str = ""
    upstream_kind: str = "job"
    upstream_error: str | None = None
    upstream_category: str | None = None
    began: bool = True


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
    concurrency_group: str | None = None


Family = tuple[str, str]  # run id, base job name

_DOWNSTREAM = """
    SELECT d.id, d.run_id, d.attempt, d.max_parallel, d.base_job_name,
        coalesce(n.group_name, u.base_job_name) AS upstream, n.run_on,
        count(*) FILTER (WHERE u.completed_at IS NULL), array_agg(DISTINCT u.status), d.kind,
        d.concurrency_group, d.job_name,
        CASE WHEN u.kind = 'init' AND u.target_job IS DISTINCT FROM d.base_job_name THEN 'job' ELSE u.kind END,
        max(u.error_message) FILTER (WHERE u.kind = 'init'),
        max(coalesce(u.init_failure->>'category', u.failure_category)) FILTER (WHERE u.kind = 'init'),
        bool_or(u.kind = 'job' AND u.attempt > 0)
    FROM execution_jobs d JOIN execution_job_needs n ON n.job_id = d.id
        JOIN execution_jobs u ON u.id = n.upstream_job_id
    WHERE d.status = 'pending' AND d.id IN ({which})
    GROUP BY d.id, coalesce(n.group_name, u.base_job_name), n.run_on, u.kind, u.target_job
    ORDER BY d.run_id, d.position, d.id, u.kind = 'init', min(u.position)
"""
_AFTER = text(
    _DOWNSTREAM.format(
        which="SELECT job_id FROM execution_job_needs WHERE upstream_job_id = ANY(CAST(:ids AS uuid[]))"
    )
)
_OF = text(_DOWNSTREAM.format(which="SELECT unnest(CAST(:ids AS uuid[]))"))
_FAMILIES = text("""
    SELECT j.id, j.run_id, j.base_job_name, j.status, j.attempt, j.needs_pending, j.dispatched_at IS NOT NULL,
        j.max_parallel, j.fail_fast, j.concurrency_group
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
        job, run = edges[0], runs[edges[0].run_id]
        patch = JobPatch(
            job_id=job_id,
            was=JobStatus.PENDING,
            attempt=job.attempt,
            needs_pending=sum(edge.open for edge in edges),
        )
        patches.append(patch)
        if job.kind == "hooks":
            _decide_hooks(patch, edges, run)
        elif run.status is RunStatus.CANCELLING:
            patch.status = job_after(JobStatus.PENDING, JobEvent.CANCEL)
        elif (unmet := _unmet(edges)) is not None:
            _give_up(patch, job.job_name or job.base_job_name, *unmet)
        elif patch.needs_pending == 0:
            if job.max_parallel is None:
                enter(patch, run, job.concurrency_group)
            else:
                windows.add((job.run_id, job.base_job_name))
    return patches, windows


def enter(patch: JobPatch, run: RunRow, concurrency_group: str | None) -> None:
    """Nothing stands before the job but, maybe, a place in a concurrency group: its run's or its own."""
    if run.blocked or concurrency_group is not None:
        patch.status = job_after(patch.was, JobEvent.WAIT)
        if concurrency_group is not None and not run.blocked:
            patch.waiting_reason = waiting_reason(concurrency_group, 0)
    else:
        event = JobEvent.ENQUEUE if patch.was is JobStatus.PENDING else JobEvent.TIMER_DONE
        patch.status = job_after(patch.was, event)
        patch.ready = True


def _unmet(edges: Sequence[Downstream]) -> tuple[Downstream, str] | None:
    """The first need that cannot be satisfied any more, and how it ended."""
    for edge in edges:
        if not edge.open:
            status = edge_status([JobStatus(word) for word in edge.upstream_statuses])
            if status not in edge.run_on:
                return edge, status
    return None


def _give_up(patch: JobPatch, job_name: str, edge: Downstream, status: str) -> None:
    """Without what it needed a job is skipped; when its own functions failed, so has the job (AU-40, AU-42)."""
    if edge.upstream_kind == "init" and status in _FAILED:
        patch.status = job_after(JobStatus.PENDING, JobEvent.FAIL)
        category = edge.upstream_category or "dynamic_eval"
        cause = edge.upstream_error or f"{edge.upstream_name}: {status}"
        matrix = category == "matrix_expansion" and not cause.startswith("Matrix expansion failed")
        patch.error_message = f"Matrix expansion failed: {cause}" if matrix else cause
        patch.init_failure = {
            "scope": "job",
            "category": category,
            "message": patch.error_message,
            "jobName": job_name,
        }
        return
    patch.status = job_after(JobStatus.PENDING, JobEvent.SKIP)
    patch.error_message = f"upstream_unmet: {edge.upstream_name} ({status})"


def _decide_hooks(patch: JobPatch, edges: Sequence[Downstream], run: RunRow) -> None:
    """Workflow hooks come when all else has ended, also in a cancelled run, and only if one of them is for
    this outcome (AU-33)."""
    if patch.needs_pending:
        return
    present = {JobStatus(word) for edge in edges for word in edge.upstream_statuses}
    outcome = run_status(present, cancelling=run.status is RunStatus.CANCELLING)
    began = any(edge.began for edge in edges)
    reason = why_no_hooks(run.workflow_hooks, outcome, run.check_mode, began=began)
    if reason is None:
        patch.status = job_after(JobStatus.PENDING, JobEvent.ENQUEUE)
        patch.ready = True
        return
    patch.status = job_after(JobStatus.PENDING, JobEvent.SKIP)
    patch.error_message = reason


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
                if not child.dispatched
                and child.status in {JobStatus.PENDING, JobStatus.QUEUED, JobStatus.WAITING}
            ]
        elif first.max_parallel is not None:
            waiting = [
                child for child in children if child.status is JobStatus.PENDING and not child.needs_pending
            ]
            taken = sum(
                child.status is not JobStatus.PENDING and child.status not in JOB_TERMINAL
                for child in children
            )
            for child in waiting[: max(0, first.max_parallel - taken)]:
                patch = JobPatch(job_id=child.job_id, was=child.status, attempt=child.attempt)
                enter(patch, runs[run_id], child.concurrency_group)
                patches.append(patch)
    return patches
