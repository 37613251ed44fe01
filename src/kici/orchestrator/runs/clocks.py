"""Which clock of a job has run out, and what that means (OR-149, 150, 160…163). Pure."""

from msgspec import Struct, structs

from kici.engine.transitions import JobEvent, job_after
from kici.orchestrator.runs.builds import coordination_failure
from kici.orchestrator.runs.execution import Limits
from kici.orchestrator.runs.retries import attempt_lost, is_last, parked
from kici.orchestrator.runs.state import JobPatch, JobRow
from kici.spec.states import JOB_TERMINAL, JobStatus

QUEUE_EXPIRED = "Queue timeout expired (job was never dispatched to an agent)"
NOT_RETURNED = "agent did not return in the recovery window"
DEFAULT_GRACE_MS = 30_000
HOOKS_MS = 600_000  # on_cancel and cleanup, 5 min each (OR-172)
CANCEL_SLACK_MS = 60_000


class Clocks(Struct, frozen=True):
    """Of one open job, compared with PostgreSQL's own time."""

    ack: bool = False  # sent, and not answered in time
    recovery: bool = False  # its agent did not come back in time
    queue: bool = False  # waited too long for an agent
    overdue: bool = False  # past its timeout and the agent's chance to say so
    silent_ms: int | None = None  # since the last life sign
    cancel_age_ms: int | None = None  # since it was last asked to stop
    grace_ms: int | None = None  # the job's own grace period


class Verdict(Struct, frozen=True):
    """`event`: name of the time line entry. `close_agent`: its socket ends."""

    patch: JobPatch
    event: str | None = None
    cause: str | None = None
    close_agent: bool = False
    recall: bool = False
    stale_ms: int | None = None


def judge(job: JobRow, clocks: Clocks, limits: Limits, *, heard_ms: int | None = None) -> Verdict | None:
    """None when nothing is due, or somebody else has already acted.

    `heard_ms`: how long this process has listened to agents without a break. What an agent had no chance to
    say is not held against it. None: for ever.
    """
    if heard_ms is not None:
        clocks = _as_heard(clocks, limits, heard_ms)
    if job.status is JobStatus.QUEUED:
        return _judge_queued(job, clocks, limits)
    if job.status not in {JobStatus.RUNNING, JobStatus.RECOVERING, JobStatus.CANCELLING}:
        return None
    if clocks.recovery:
        patch = attempt_lost(job, NOT_RETURNED, max_attempts=limits.max_job_attempts)
        return Verdict(patch, event="job.orphan_recovered", cause=NOT_RETURNED)
    if clocks.overdue and job.status is not JobStatus.CANCELLING:
        patch = _patch(
            job, JobEvent.TIME_OUT, "The job ran longer than its timeout, and its agent did not end it"
        )
        patch.timeout_reason = "job_timeout"
        if job.kind == "build":
            patch.init_failure = coordination_failure(patch.error_message or "")
        return Verdict(patch, event="job.stale_detected", cause="job_timeout", recall=True)
    silence_ms = limits.job_heartbeat_interval_ms * limits.stale_detector_threshold_multiplier
    if (
        clocks.silent_ms is not None
        and clocks.silent_ms > silence_ms
        and job.status is not JobStatus.RECOVERING
    ):
        return _judge_silent(job, clocks.silent_ms, limits)
    if job.status is JobStatus.CANCELLING and clocks.cancel_age_ms is not None:
        return _judge_cancel(job, clocks.cancel_age_ms, clocks.grace_ms)
    return None


def _as_heard(clocks: Clocks, limits: Limits, heard_ms: int) -> Clocks:
    return structs.replace(
        clocks,
        ack=clocks.ack and heard_ms >= limits.dispatch_ack_timeout_ms,
        recovery=clocks.recovery and heard_ms >= limits.recovery_window_ms,
        overdue=clocks.overdue and heard_ms >= limits.job_heartbeat_interval_ms,
        silent_ms=None if clocks.silent_ms is None else min(clocks.silent_ms, heard_ms),
        cancel_age_ms=None if clocks.cancel_age_ms is None else min(clocks.cancel_age_ms, heard_ms),
    )


def _judge_silent(job: JobRow, silent_ms: int, limits: Limits) -> Verdict:
    """A silent agent is as good as a lost connection: its socket ends, and while the job may still be tried
    again, it waits for the agent's return like any other (ADR 8). The last try ends here."""
    cause = f"No heartbeat received for {silent_ms // 1000}s"
    if job.status is JobStatus.CANCELLING:
        patch = _patch(job, JobEvent.CANCEL_FORCE, cause)
    elif is_last(job, limits.max_job_attempts):
        patch = _patch(job, JobEvent.TIME_OUT, cause)
    else:
        patch = parked(job, window_ms=limits.recovery_window_ms, ack_ms=limits.dispatch_ack_timeout_ms)
    return Verdict(
        patch,
        event="job.stale_detected",
        cause=cause,
        close_agent=True,
        recall=patch.status in JOB_TERMINAL,
        stale_ms=silent_ms,
    )


def _judge_queued(job: JobRow, clocks: Clocks, limits: Limits) -> Verdict | None:
    if clocks.ack and job.dispatched and not job.acked:
        cause = f"agent {job.agent_id} did not answer the dispatch in time"
        patch = attempt_lost(job, cause, max_attempts=limits.max_job_attempts)
        return Verdict(patch, cause=cause, close_agent=True)
    if clocks.recovery and job.acked:
        return Verdict(
            attempt_lost(job, NOT_RETURNED, max_attempts=limits.max_job_attempts), cause=NOT_RETURNED
        )
    if clocks.queue and not job.dispatched:
        cause = QUEUE_EXPIRED
        if job.attempt:
            cause = f"Queue timeout expired (no agent took the job again after attempt {job.attempt})"
        patch = _patch(job, JobEvent.TIME_OUT, cause)
        patch.init_failure = {
            "scope": "job",
            "category": "no_agent",
            "message": cause,
            "jobName": job.job_name,
        }
        return Verdict(patch, event="job.queue_expired", cause=cause)
    return None


def _judge_cancel(job: JobRow, age_ms: int, grace_ms: int | None) -> Verdict | None:
    """First force, then the end without the agent (OR-163)."""
    if job.cancel_force:
        if age_ms <= CANCEL_SLACK_MS:
            return None
        cause = "The agent did not stop the job in time"
        return Verdict(_patch(job, JobEvent.CANCEL_FORCE, cause), cause=cause, recall=True)
    if age_ms <= (DEFAULT_GRACE_MS if grace_ms is None else grace_ms) + HOOKS_MS + CANCEL_SLACK_MS:
        return None
    patch = JobPatch(
        job_id=job.job_id, was=job.status, attempt=job.attempt, cancel_asked=True, cancel_force=True
    )
    return Verdict(patch, cause="The cancel took too long and is forced", recall=True)


def _patch(job: JobRow, event: JobEvent, message: str) -> JobPatch:
    return JobPatch(
        job_id=job.job_id,
        was=job.status,
        attempt=job.attempt,
        status=job_after(job.status, event),
        error_message=message,
    )
