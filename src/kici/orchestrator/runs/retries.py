"""What becomes of a job whose attempt is lost (OR-150, OR-151, AG-16). Pure."""

from kici.engine.transitions import JobEvent, job_after
from kici.orchestrator.runs.state import JobPatch, JobRow
from kici.spec.states import JobStatus


def is_last(job: JobRow, max_attempts: int) -> bool:
    """Whether another loss ends the job."""
    return job.infra_failures + 1 >= max_attempts


def attempt_lost(job: JobRow, cause: str, *, max_attempts: int, counts: bool = True) -> JobPatch:
    """The job goes back to the queue, visibly, and its next dispatch carries a new attempt number.

    All losses of a job share one budget; the last one fails it with the count and `cause`. `counts` is False
    for what is nobody's failure, such as an agent that drains. A job that was being cancelled is cancelled.
    The job is queued and dispatched, running, recovering or cancelling.
    """
    patch = JobPatch(job_id=job.job_id, was=job.status, attempt=job.attempt)
    if job.status is JobStatus.CANCELLING:
        patch.status = job_after(job.status, JobEvent.CANCEL_FORCE)
        patch.error_message = cause
        return patch
    patch.infra = counts
    if counts and is_last(job, max_attempts):
        patch.status = job_after(job.status, JobEvent.FAIL)
        patch.error_message = f"{cause} (attempt {job.attempt}; {max_attempts} attempts were lost)"
        return patch
    if job.status is not JobStatus.QUEUED:
        patch.status = job_after(job.status, JobEvent.RETRY)
    patch.release = True
    patch.ready = True
    return patch


def parked(job: JobRow, *, window_ms: int, ack_ms: int) -> JobPatch:
    """The job's agent is away: it has `window_ms` to come back with what it took (AG-23), or `ack_ms` to
    answer a dispatch that it may have got."""
    patch = JobPatch(job_id=job.job_id, was=job.status, attempt=job.attempt)
    if job.status is JobStatus.QUEUED and not job.acked:
        patch.ack_ms = ack_ms
        return patch
    patch.recovery_ms, patch.heartbeat = window_ms, True
    if job.status is JobStatus.RUNNING:
        patch.status = job_after(job.status, JobEvent.RECOVER)
    return patch
