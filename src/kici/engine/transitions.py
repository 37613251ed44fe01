"""What may happen to a job, a step and a run, and what follows (OR-120…125). Pure.

The target of an event is the same wherever it is allowed.

Jobs (★ ours, beyond the table of OR-120):

| Event | From | To |
|---|---|---|
| ENQUEUE | pending | queued |
| HOLD | pending | held |
| WAIT | pending, held | waiting |
| APPROVE | held | queued |
| TIMER_DONE | waiting | queued |
| START | queued, recovering | running |
| RECOVER | running | recovering |
| RETRY ★ | running, recovering | queued: the agent process is gone, the job runs again under a new attempt |
| CANCEL_GRACEFUL | running | cancelling |
| SUCCEED | running | success |
| FAIL | pending, queued, waiting ★ (what it waits for takes too long), running, recovering, cancelling | failed |
| SKIP | pending, queued ★, waiting ★ (fail_fast drops what waits), running ★ (a rule said no) | skipped |
| CANCEL | pending, held, waiting, queued, running, recovering | cancelled |
| REJECT | held | cancelled |
| EXPIRE | held, waiting | cancelled |
| COMPLETE, CANCEL_FORCE | cancelling | cancelled |
| TIME_OUT | queued, running, recovering, cancelling | timed_out_stale |
| DROP | pending, queued | drift_dropped |
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import ClassVar, Literal

from kici.spec.errors import Conflict
from kici.spec.states import JOB_TERMINAL, RUN_TERMINAL, STEP_TERMINAL, JobStatus, RunStatus, StepStatus


class JobEvent(StrEnum):
    ENQUEUE = "enqueue"
    HOLD = "hold"
    WAIT = "wait"
    APPROVE = "approve"
    TIMER_DONE = "timer_done"
    START = "start"
    RECOVER = "recover"
    RETRY = "retry"
    CANCEL_GRACEFUL = "cancel_graceful"
    SUCCEED = "succeed"
    FAIL = "fail"
    SKIP = "skip"
    CANCEL = "cancel"
    REJECT = "reject"
    EXPIRE = "expire"
    COMPLETE = "complete"
    CANCEL_FORCE = "cancel_force"
    TIME_OUT = "time_out"
    DROP = "drop"


class StepEvent(StrEnum):
    START = "start"
    SUCCEED = "succeed"
    FAIL = "fail"
    SKIP = "skip"
    CANCEL = "cancel"


class IllegalTransition(Conflict):
    """The event cannot happen in this state. In SQL terms: zero rows, somebody else won."""

    code: ClassVar[str] = "illegal_transition"

    def __init__(self, kind: str, status: str, event: str) -> None:
        super().__init__(f"a {kind} that is {status} cannot {event}")
        self.kind = kind
        self.state = status
        self.event = event


_J = JobStatus
_JOB: dict[JobEvent, tuple[frozenset[JobStatus], JobStatus]] = {
    JobEvent.ENQUEUE: (frozenset({_J.PENDING}), _J.QUEUED),
    JobEvent.HOLD: (frozenset({_J.PENDING}), _J.HELD),
    JobEvent.WAIT: (frozenset({_J.PENDING, _J.HELD}), _J.WAITING),
    JobEvent.APPROVE: (frozenset({_J.HELD}), _J.QUEUED),
    JobEvent.TIMER_DONE: (frozenset({_J.WAITING}), _J.QUEUED),
    JobEvent.START: (frozenset({_J.QUEUED, _J.RECOVERING}), _J.RUNNING),
    JobEvent.RECOVER: (frozenset({_J.RUNNING}), _J.RECOVERING),
    JobEvent.RETRY: (frozenset({_J.RUNNING, _J.RECOVERING}), _J.QUEUED),
    JobEvent.CANCEL_GRACEFUL: (frozenset({_J.RUNNING}), _J.CANCELLING),
    JobEvent.SUCCEED: (frozenset({_J.RUNNING}), _J.SUCCESS),
    JobEvent.FAIL: (
        frozenset({_J.PENDING, _J.QUEUED, _J.WAITING, _J.RUNNING, _J.RECOVERING, _J.CANCELLING}),
        _J.FAILED,
    ),
    JobEvent.SKIP: (frozenset({_J.PENDING, _J.QUEUED, _J.WAITING, _J.RUNNING}), _J.SKIPPED),
    JobEvent.CANCEL: (
        frozenset({_J.PENDING, _J.HELD, _J.WAITING, _J.QUEUED, _J.RUNNING, _J.RECOVERING}),
        _J.CANCELLED,
    ),
    JobEvent.REJECT: (frozenset({_J.HELD}), _J.CANCELLED),
    JobEvent.EXPIRE: (frozenset({_J.HELD, _J.WAITING}), _J.CANCELLED),
    JobEvent.COMPLETE: (frozenset({_J.CANCELLING}), _J.CANCELLED),
    JobEvent.CANCEL_FORCE: (frozenset({_J.CANCELLING}), _J.CANCELLED),
    JobEvent.TIME_OUT: (
        frozenset({_J.QUEUED, _J.RUNNING, _J.RECOVERING, _J.CANCELLING}),
        _J.TIMED_OUT_STALE,
    ),
    JobEvent.DROP: (frozenset({_J.PENDING, _J.QUEUED}), _J.DRIFT_DROPPED),
}

_S = StepStatus
_STEP: dict[StepEvent, tuple[frozenset[StepStatus], StepStatus]] = {
    StepEvent.START: (frozenset({_S.PENDING}), _S.RUNNING),
    StepEvent.SUCCEED: (frozenset({_S.RUNNING}), _S.SUCCESS),
    StepEvent.FAIL: (frozenset({_S.PENDING, _S.RUNNING}), _S.FAILED),
    StepEvent.SKIP: (frozenset({_S.PENDING, _S.RUNNING}), _S.SKIPPED),
    StepEvent.CANCEL: (frozenset({_S.PENDING, _S.RUNNING}), _S.CANCELLED),
}


def job_sources(event: JobEvent) -> frozenset[JobStatus]:
    """The states in which `event` may happen."""
    return _JOB[event][0]


def job_after(status: JobStatus, event: JobEvent) -> JobStatus:
    """Raises IllegalTransition; nothing ever leaves a terminal state."""
    sources, target = _JOB[event]
    if status not in sources:
        raise IllegalTransition("job", status, event)
    return target


def step_after(status: StepStatus, event: StepEvent) -> StepStatus:
    """Raises IllegalTransition."""
    sources, target = _STEP[event]
    if status not in sources:
        raise IllegalTransition("step", status, event)
    return target


def step_when_job_ends(step: StepStatus, job: JobStatus) -> StepStatus:
    """What becomes of a step when its job ends with `job` (OR-125): ended steps stay, waiting ones were
    never run, and a running one shares the job's fate. TIME_OUT counts as failed."""
    if step in STEP_TERMINAL:
        return step
    if step is StepStatus.PENDING:
        return StepStatus.SKIPPED
    match job:
        case JobStatus.SUCCESS:
            return StepStatus.SUCCESS
        case JobStatus.FAILED | JobStatus.TIMED_OUT_STALE:
            return StepStatus.FAILED
        case JobStatus.SKIPPED:
            return StepStatus.SKIPPED
        case _:
            return StepStatus.CANCELLED


_FAILED = frozenset({_J.FAILED, _J.TIMED_OUT_STALE, _J.DRIFT_DROPPED})
_ACTIVE = frozenset({_J.RUNNING, _J.RECOVERING, _J.CANCELLING})


def run_status(jobs: Iterable[JobStatus], *, cancelling: bool = False) -> RunStatus:
    """A run's status from those of its jobs (OR-122). `cancelling`: somebody asked to cancel the run.

    Final when every job has ended. Before that: `cancelling`, if asked; `running` once any job has
    begun or ended; else what its jobs wait for: an agent or a slot (`queued`), people (`held`), others.
    """
    present = frozenset(jobs)
    if present <= JOB_TERMINAL:
        if present & _FAILED:
            return RunStatus.FAILED
        if cancelling or _J.CANCELLED in present:
            return RunStatus.CANCELLED
        return RunStatus.SUCCESS if _J.SUCCESS in present else RunStatus.SKIPPED
    if cancelling:
        return RunStatus.CANCELLING
    if present & _ACTIVE:
        return RunStatus.RUNNING
    if _J.HELD in present and not present & {_J.QUEUED, _J.WAITING}:
        return RunStatus.HELD
    if present & JOB_TERMINAL:
        return RunStatus.RUNNING
    if present & {_J.QUEUED, _J.WAITING}:
        return RunStatus.QUEUED
    return RunStatus.PENDING


def display_status(
    status: RunStatus, *, timeout_reason: str | None, has_init_failure: bool
) -> Literal[
    "pending",
    "queued",
    "running",
    "held",
    "cancelling",
    "success",
    "failed",
    "error",
    "timed_out",
    "cancelled",
    "skipped",
]:
    """The word for people (OR-123, PD-101): `error` when it failed before any step ran, `timed_out`
    when a clock ended it."""
    if status in RUN_TERMINAL and status is not RunStatus.SUCCESS and timeout_reason is not None:
        return "timed_out"
    if status is RunStatus.FAILED and has_init_failure:
        return "error"
    return status.value
