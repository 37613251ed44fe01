"""Every status a run, job or step may have, and what the words mean (OR-120, OR-122, OR-124)."""

from collections.abc import Iterable
from enum import StrEnum

from kici.spec.errors import InvalidInput


class RunStatus(StrEnum):
    PENDING = "pending"
    QUEUED = "queued"
    RUNNING = "running"
    HELD = "held"
    CANCELLING = "cancelling"
    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"


class JobStatus(StrEnum):
    PENDING = "pending"
    HELD = "held"
    WAITING = "waiting"
    QUEUED = "queued"
    RUNNING = "running"
    RECOVERING = "recovering"
    CANCELLING = "cancelling"
    SUCCESS = "success"
    FAILED = "failed"
    CANCELLED = "cancelled"
    SKIPPED = "skipped"
    TIMED_OUT_STALE = "timed_out_stale"
    DRIFT_DROPPED = "drift_dropped"


class StepStatus(StrEnum):
    PENDING = "pending"
    RUNNING = "running"
    SUCCESS = "success"
    FAILED = "failed"
    SKIPPED = "skipped"
    CANCELLED = "cancelled"


RUN_TERMINAL = frozenset({RunStatus.SUCCESS, RunStatus.FAILED, RunStatus.CANCELLED, RunStatus.SKIPPED})
JOB_TERMINAL = frozenset(
    {
        JobStatus.SUCCESS,
        JobStatus.FAILED,
        JobStatus.CANCELLED,
        JobStatus.SKIPPED,
        JobStatus.TIMED_OUT_STALE,
        JobStatus.DRIFT_DROPPED,
    }
)
STEP_TERMINAL = frozenset({StepStatus.SUCCESS, StepStatus.FAILED, StepStatus.SKIPPED, StepStatus.CANCELLED})

# What lists of runs may be asked for: a status, or what people are shown instead of one.
RUN_WORDS = (*(status.value for status in RunStatus), "error", "timed_out")


def known_run_words(words: Iterable[str]) -> list[str]:
    """As given. Raises InvalidInput: a list of no runs would hide a mistyped word."""
    given = list(words)
    for word in given:
        if word not in RUN_WORDS:
            raise InvalidInput(f"status {word[:40]!r} is unknown: it is one of {', '.join(RUN_WORDS)}")
    return given


# `need(job, when=...)` → the upstream statuses that satisfy the edge (OR-131, AU-24).
WHEN: dict[str, frozenset[JobStatus]] = {
    "on-success": frozenset({JobStatus.SUCCESS}),
    "always": JOB_TERMINAL,
    "on-skip": frozenset({JobStatus.SUCCESS, JobStatus.SKIPPED}),
    "on-failure": frozenset({JobStatus.FAILED, JobStatus.TIMED_OUT_STALE}),
}
