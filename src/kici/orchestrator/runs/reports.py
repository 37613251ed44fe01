"""What agents report, applied in batches: any number of messages about any number of runs, one transaction.

A report counts when its sender holds the job under that attempt in that process (OR-152); otherwise, and
when it repeats what is known, it changes nothing. So a replay after a lost connection is harmless.
"""

import hashlib
import uuid
from collections.abc import Sequence
from typing import assert_never

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from kici.engine.transitions import IllegalTransition, JobEvent, StepEvent, job_after, step_after
from kici.orchestrator.runs.builds import coordination_failure
from kici.orchestrator.runs.change import Change
from kici.orchestrator.runs.growth import SETUP, Finding, Problem, grow
from kici.orchestrator.runs.record import TimelineEvent
from kici.orchestrator.runs.retries import attempt_lost
from kici.orchestrator.runs.state import JobPatch, JobRow, RunRow, StepPatch
from kici.protocol.agent_v1 import (
    JobAck,
    JobContext,
    JobHeartbeat,
    JobReject,
    JobStatusUpdate,
    RunEvent,
    StepStatusUpdate,
)
from kici.protocol.runner_v1 import InitResult, RuleResult
from kici.runtime.logging import get_logger
from kici.spec.messages import shortened
from kici.spec.states import JOB_TERMINAL, STEP_TERMINAL, JobStatus, StepStatus

log = get_logger(__name__)

MAX_OUTPUTS = 1 << 20  # bytes of JSON per job (OR-138)
MAX_MESSAGE = 8 << 10  # characters of an error message; agents keep to less
MAX_DRIFT = 64 << 10  # characters of what drifted (AU-50)
MAX_SUMMARY = 1 << 20  # characters of Markdown
MAX_ANNOTATIONS = 1000  # per step

JobMessage = JobAck | JobReject | JobStatusUpdate | StepStatusUpdate | JobContext | RunEvent | JobHeartbeat

_encode = msgspec.json.Encoder().encode
_STEP_EVENTS = {
    StepStatus.RUNNING: StepEvent.START,
    StepStatus.SUCCESS: StepEvent.SUCCEED,
    StepStatus.FAILED: StepEvent.FAIL,
    StepStatus.SKIPPED: StepEvent.SKIP,
    StepStatus.CANCELLED: StepEvent.CANCEL,
}
_JOB_EVENTS = {
    JobStatus.SUCCESS: JobEvent.SUCCEED,
    JobStatus.FAILED: JobEvent.FAIL,
    JobStatus.CANCELLED: JobEvent.CANCEL,
    JobStatus.SKIPPED: JobEvent.SKIP,
    JobStatus.TIMED_OUT_STALE: JobEvent.TIME_OUT,
}
# An agent that was asked to stop may be done before it hears so; the cancel stands.
_CANCELLING_EVENTS = {
    JobStatus.SUCCESS: JobEvent.COMPLETE,
    JobStatus.CANCELLED: JobEvent.COMPLETE,
    JobStatus.SKIPPED: JobEvent.COMPLETE,
    JobStatus.FAILED: JobEvent.FAIL,
    JobStatus.TIMED_OUT_STALE: JobEvent.TIME_OUT,
}


class Report(Struct, frozen=True):
    """One message and who sent it."""

    agent_id: str
    session_id: str
    message: JobMessage


async def apply(
    change: Change, reports: Sequence[Report], *, max_attempts: int
) -> list[tuple[Report, str]]:
    """Returns the reports that changed nothing, each with the reason."""
    jobs = await change.lock_jobs({report.message.job_id for report in reports})
    drafts = {job_id: _Draft(job, change.runs[job.run_id], max_attempts) for job_id, job in jobs.items()}
    dropped: list[tuple[Report, str]] = []
    for report in reports:
        draft = drafts.get(report.message.job_id)
        problem = "unknown_job" if draft is None else draft.take(report, change)
        if problem is not None:
            dropped.append((report, problem))
    findings = [draft.finding for draft in drafts.values() if draft.finding is not None]
    for finding in findings:
        problem = await grow(change, finding)
        if problem is not None:
            drafts[finding.job.job_id].spoil(problem)
    await change.write(
        [draft.patch for draft in drafts.values() if draft.dirty],
        [step for draft in drafts.values() for step in draft.steps.values()],
    )
    return dropped


class _Draft:
    """A locked job and what the batch makes of it."""

    def __init__(self, job: JobRow, run: RunRow, max_attempts: int) -> None:
        self.job = job
        self.finding: Finding | None = None  # of a setup row
        self._run = run
        self.status = job.status
        self.patch = JobPatch(job_id=job.job_id, was=job.status, attempt=job.attempt)
        self.steps: dict[int, StepPatch] = {}
        self.dirty = False
        self._over = False  # the attempt was given back
        self._max_attempts = max_attempts

    def take(self, report: Report, change: Change) -> str | None:
        """The reason why `report` changes nothing, or None."""
        job, message = self.job, report.message
        if (message.run_id, message.attempt) != (job.run_id, job.attempt) or self._over:
            return "stale_attempt"
        if (report.agent_id, report.session_id) != (job.agent_id, job.agent_session):
            return "not_owner"
        if isinstance(message, RunEvent):  # also of an ended job: tearing down comes last
            change.foreign_event(_timeline(message, report.session_id))
            return None
        if self.status in JOB_TERMINAL:
            return "job_ended"
        try:
            match message:
                case JobAck():
                    return self._ack()
                case JobReject():
                    return self._reject(message)
                case JobStatusUpdate():
                    return self._job(message)
                case StepStatusUpdate():
                    return self._step(message)
                case JobContext():
                    return self._context(message)
                case JobHeartbeat():
                    self.patch.heartbeat = self.dirty = True
                    return None
                case _:
                    assert_never(message)
        except IllegalTransition as error:
            log.warning("report.illegal", job_id=job.job_id, agent_id=report.agent_id, problem=str(error))
            return "illegal"

    def _ack(self) -> str | None:
        if self.job.acked or self.patch.acked:
            return "repeated"
        self.patch.acked = self.patch.heartbeat = self.dirty = True
        return None

    def _reject(self, message: JobReject) -> str | None:
        if self.job.acked or self.patch.acked or self.status is not JobStatus.QUEUED:
            return "repeated"
        self.patch = attempt_lost(
            self.job,
            f"agent {self.job.agent_id} rejected the job: {message.reason}",
            max_attempts=self._max_attempts,
            counts=message.reason != "draining",
        )
        self.dirty = self._over = True
        return None

    def _job(self, message: JobStatusUpdate) -> str | None:
        if message.state is JobStatus.RUNNING and self.status in {JobStatus.RUNNING, JobStatus.CANCELLING}:
            return "repeated"
        if message.state is JobStatus.RUNNING:
            self._start(message.timestamp)
        elif message.state in JOB_TERMINAL:
            self._end(message)
        else:
            return "no_news"  # cancelling, recovering: we know better
        return None

    def _start(self, timestamp: int) -> None:
        if self.status is JobStatus.QUEUED:
            self.patch.started_ms = timestamp
        self._become(job_after(self.status, JobEvent.START))
        self.patch.acked = self.patch.heartbeat = True
        self.patch.recovery_ms = 0

    def _end(self, message: JobStatusUpdate) -> None:
        patch = self.patch
        cancelling = self.status is JobStatus.CANCELLING
        skipped = self.status is JobStatus.QUEUED and message.state is JobStatus.SKIPPED
        if self.status is not JobStatus.RUNNING and not cancelling and not skipped:
            self._start(message.timestamp)  # `running` is implied
        event = (_CANCELLING_EVENTS if cancelling else _JOB_EVENTS).get(message.state, JobEvent.FAIL)
        problem = message.error_message
        outputs = message.outputs
        if outputs is not None and len(encoded := _encode(outputs)) > MAX_OUTPUTS:
            event, outputs = JobEvent.FAIL, None
            problem = f"The job's outputs are {len(encoded)} bytes of JSON; {MAX_OUTPUTS} are allowed"
        if message.drifted and event is JobEvent.SUCCEED and self._run.check_mode == "check-fail-on-drift":
            event, problem = JobEvent.FAIL, "Drift was found (check-fail-on-drift)"
        try:
            self._become(job_after(self.status, event))
        except IllegalTransition:
            problem = f"The agent reported {message.state!r} for a job that is {self.status}"
            self._become(job_after(self.status, JobEvent.FAIL))
        patch.completed_ms = message.timestamp
        patch.error_message = shortened(problem, MAX_MESSAGE) if problem else None
        patch.timeout_reason = message.timeout_reason
        patch.outputs = outputs
        patch.rules = _rules(message.rules) or None
        patch.drifted = message.drifted
        patch.secret_outputs = message.secret_outputs or None
        if self.job.kind in SETUP and self.status is JobStatus.SUCCESS:
            self.finding = Finding(job=self.job, init=message.init, generated=message.generated)
        elif self.job.kind == "init" and self.job.target_job is None and message.rules:
            self.finding = Finding(job=self.job, init=InitResult(rules=message.rules), generated=None)
        category = message.init_failure_category
        if category is None and self.job.kind in SETUP and self.status is JobStatus.FAILED:
            category = self.job.failure_category or "dynamic_eval"
        if category is None and self.job.kind == "build" and self.status is JobStatus.FAILED:
            category = self.job.failure_category
        if category is not None:
            self._fail_early(category)

    def spoil(self, problem: Problem) -> None:
        """A setup row whose finding cannot be used has failed after all."""
        self.status = self.patch.status = JobStatus.FAILED
        self.patch.error_message = shortened(problem.message, MAX_MESSAGE)
        self._fail_early(problem.category)

    def _fail_early(self, category: str) -> None:
        message = self.patch.error_message or "The job failed before its first step"
        if self.job.kind == "build":
            self.patch.init_failure = coordination_failure(message, category)
            return
        self.patch.init_failure = {
            "scope": "job",
            "category": category,
            "message": message,
            "jobName": self.job.target_job or self.job.job_name,
        }

    def _become(self, status: JobStatus) -> None:
        self.status = self.patch.status = status
        self.dirty = True

    def _context(self, message: JobContext) -> str | None:
        if self.job.has_context or self.patch.context is not None:
            return "repeated"
        self.patch.context = message.context
        self.dirty = True
        return None

    def _step(self, message: StepStatusUpdate) -> str | None:
        state, known = message.state, self.steps.get(message.step_index)
        if known is not None:
            if known.status is state or state is StepStatus.PENDING:
                return "repeated"
            step_after(known.status, _STEP_EVENTS[state])
        step = known or StepPatch(
            job_id=self.job.job_id,
            run_id=self.job.run_id,
            attempt=self.job.attempt,
            step_index=message.step_index,
            step_name=message.step_name,
            step_type=message.step_type,
            status=state,
            concurrency_kind=message.concurrency_kind,
            group_id=message.group_id,
        )
        step.status = state
        if state is StepStatus.RUNNING:
            step.started_ms = message.timestamp
        elif state in STEP_TERMINAL:
            step.completed_ms = message.timestamp
            step.duration_ms = message.duration_ms
            if step.started_ms is None and message.duration_ms is not None:
                step.started_ms = message.timestamp - message.duration_ms
        step.exit_code = message.exit_code
        step.error_message = (
            shortened(message.error_message, MAX_MESSAGE) if message.error_message else None
        )
        step.log_lines = message.log_lines
        step.log_bytes = message.log_bytes
        step.secrets_accessed = message.secrets_accessed
        step.check_outcome = message.check_outcome
        step.drift_summary = message.drift_summary[:MAX_DRIFT] if message.drift_summary else None
        step.rules = _rules(message.rules) or None
        step.summary = message.summary[:MAX_SUMMARY] if message.summary else None
        step.annotations = message.annotations[:MAX_ANNOTATIONS] or None
        self.steps[message.step_index] = step
        return None


def _rules(results: Sequence[RuleResult]) -> list[RuleResult]:
    return [
        rule if rule.error is None else replace(rule, error=shortened(rule.error, MAX_MESSAGE))
        for rule in results
    ]


def _timeline(message: RunEvent, session_id: str) -> TimelineEvent:
    return TimelineEvent(
        id=_same_id(session_id, message.seq, message.timestamp_ms),
        run_id=message.run_id,
        event_type=message.event_type,
        source_service="agent",
        job_id=message.job_id,
        step_index=message.step_index,
        at_ms=message.timestamp_ms,
        duration_ms=message.duration_ms,
        metadata=message.metadata,
    )


def _same_id(session_id: str, seq: int, at_ms: int) -> str:
    """A UUIDv7 in order of time that comes out equal when the message is sent again."""
    noise = int.from_bytes(hashlib.blake2b(f"{session_id}:{seq}".encode(), digest_size=10).digest())
    value = (at_ms & ((1 << 48) - 1)) << 80 | noise
    value = value & ~(0xF << 76) | 0x7 << 76  # version
    value = value & ~(0x3 << 62) | 0x2 << 62  # variant
    return str(uuid.UUID(int=value))
