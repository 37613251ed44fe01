"""Asking runs to stop (OR-170…173)."""

from collections.abc import Mapping, Sequence

from msgspec import Struct

from kici.engine.transitions import JobEvent, job_after, job_sources
from kici.orchestrator.runs.change import Change
from kici.orchestrator.runs.state import JobPatch, JobRow, RunPatch
from kici.spec.states import RUN_TERMINAL, JobStatus, RunStatus


class Request(Struct, frozen=True, kw_only=True):
    """`by` stands on the run; None when no person asked: `reason` then explains the run's end. A second request
    for a run counts as force."""

    reason: str
    by: str | None = None
    force: bool = False
    timeout_reason: str | None = None


class Outcome(Struct, kw_only=True):
    stopping: int = 0  # jobs whose agents are told
    ended: int = 0  # jobs cancelled at once


async def cancel_runs(change: Change, requests: Mapping[str, Request]) -> dict[str, Outcome]:
    """Jobs that have begun are asked to stop at their agent, all others end now; a run without any of the
    former ends in this transaction. Runs that are unknown or have ended are not in the answer."""
    jobs = await change.lock_runs(list(requests))
    by_run: dict[str, list[JobRow]] = {}
    for job in jobs.values():
        by_run.setdefault(job.run_id, []).append(job)
    outcomes: dict[str, Outcome] = {}
    job_patches: list[JobPatch] = []
    run_patches: list[RunPatch] = []
    for run_id, request in requests.items():
        run = change.runs.get(run_id)
        if run is None or run.status in RUN_TERMINAL:
            continue
        again = run.status is RunStatus.CANCELLING
        run.status = RunStatus.CANCELLING
        outcome = outcomes[run_id] = Outcome()
        patches = _stop_jobs(by_run.get(run_id, []), request, outcome, force=request.force or again)
        job_patches += patches
        run_patches.append(
            RunPatch(
                run_id=run_id,
                cancelling=True,
                cancelled_by=request.by,
                cancel_reason=request.reason,
                timeout_reason=request.timeout_reason,
                failure_reason=request.reason if request.by is None else None,
            )
        )
        change.event(
            run_id, "run.cancel_asked", reason=request.reason, by=request.by, force=request.force or again
        )
    await change.write(job_patches, runs=run_patches)
    change.recalled = change.recalled or bool(job_patches)
    return outcomes


def _stop_jobs(
    jobs: Sequence[JobRow], request: Request, outcome: Outcome, *, force: bool
) -> list[JobPatch]:
    patches: list[JobPatch] = []
    for job in jobs:
        patch = JobPatch(job_id=job.job_id, was=job.status, attempt=job.attempt)
        if job.kind == "hooks" and not force and job.status in {JobStatus.PENDING, JobStatus.QUEUED}:
            continue  # they come last, also in a cancelled run (AU-33)
        if job.status in job_sources(JobEvent.CANCEL_GRACEFUL):
            patch.status = job_after(job.status, JobEvent.CANCEL_GRACEFUL)
            patch.cancel_asked, patch.cancel_force = True, force
            outcome.stopping += 1
        elif job.status is JobStatus.CANCELLING:
            if not force or job.cancel_force:
                continue
            patch.cancel_asked = patch.cancel_force = True
            outcome.stopping += 1
        else:
            patch.status = job_after(job.status, JobEvent.CANCEL)
            patch.error_message = request.reason
            outcome.ended += 1
        patches.append(patch)
    return patches
