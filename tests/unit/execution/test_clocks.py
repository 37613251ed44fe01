"""What each clock means in each state, and when nobody may act."""

import pytest

from kici.orchestrator.runs.clocks import Clocks, judge
from kici.orchestrator.runs.execution import Limits
from kici.orchestrator.runs.retries import attempt_lost, parked
from kici.orchestrator.runs.state import JobRow
from kici.spec.states import JOB_TERMINAL, JobStatus

LIMITS = Limits()
ALL_OUT = Clocks(
    ack=True,
    recovery=True,
    queue=True,
    overdue=True,
    silent_ms=10**9,
    cancel_age_ms=10**9,
    grace_ms=0,
)


def _job(
    status: JobStatus,
    *,
    dispatched: bool = True,
    acked: bool = True,
    failures: int = 0,
    force: bool = False,
    attempt: int = 1,
) -> JobRow:
    return JobRow(
        "j", "r", "build", status, attempt, failures, "agent-1", "s", dispatched, acked, False, force
    )


@pytest.mark.parametrize("status", sorted(JOB_TERMINAL))
def test_no_clock_ends_what_has_ended(status: JobStatus) -> None:
    assert judge(_job(status), ALL_OUT, LIMITS) is None


@pytest.mark.parametrize("status", [JobStatus.PENDING, JobStatus.HELD, JobStatus.WAITING])
def test_no_clock_of_ours_runs_for_what_waits_for_others(status: JobStatus) -> None:
    assert judge(_job(status, dispatched=False, acked=False), ALL_OUT, LIMITS) is None


@pytest.mark.parametrize("status", sorted(frozenset(JobStatus) - JOB_TERMINAL))
def test_no_clock_no_verdict(status: JobStatus) -> None:
    assert judge(_job(status), Clocks(silent_ms=0, cancel_age_ms=0), LIMITS) is None


@pytest.mark.parametrize(
    ("job", "clocks", "ends", "close"),
    [
        (_job(JobStatus.QUEUED, acked=False), Clocks(ack=True), None, True),
        (_job(JobStatus.QUEUED), Clocks(ack=True), "nothing", False),
        (_job(JobStatus.QUEUED), Clocks(recovery=True), None, False),
        (_job(JobStatus.QUEUED), Clocks(queue=True), "nothing", False),
        (_job(JobStatus.QUEUED, dispatched=False), Clocks(queue=True), JobStatus.TIMED_OUT_STALE, False),
        (_job(JobStatus.RECOVERING), Clocks(recovery=True), JobStatus.QUEUED, False),
        (_job(JobStatus.RECOVERING), Clocks(silent_ms=10**9), "nothing", False),
        (_job(JobStatus.CANCELLING), Clocks(recovery=True), JobStatus.CANCELLED, False),
        (_job(JobStatus.CANCELLING), Clocks(overdue=True), "nothing", False),
        (_job(JobStatus.CANCELLING), Clocks(silent_ms=120_001), JobStatus.CANCELLED, True),
        (_job(JobStatus.RUNNING), Clocks(silent_ms=120_001), JobStatus.RECOVERING, True),
        (_job(JobStatus.RUNNING, failures=4), Clocks(silent_ms=120_001), JobStatus.TIMED_OUT_STALE, True),
        (_job(JobStatus.RUNNING), Clocks(silent_ms=120_000), "nothing", False),
        (_job(JobStatus.RUNNING), Clocks(overdue=True), JobStatus.TIMED_OUT_STALE, False),
    ],
)
def test_a_clock_means(job: JobRow, clocks: Clocks, ends: JobStatus | str | None, close: bool) -> None:
    """OR-149, OR-150, OR-161."""
    verdict = judge(job, clocks, LIMITS)
    if ends == "nothing":
        assert verdict is None
        return
    assert verdict is not None
    assert (verdict.patch.status, verdict.close_agent) == (ends, close)
    assert (verdict.patch.was, verdict.patch.attempt) == (job.status, job.attempt)


@pytest.mark.parametrize(
    ("job", "clocks", "needed_ms"),
    [
        (_job(JobStatus.QUEUED, acked=False), Clocks(ack=True), 10_000),
        (_job(JobStatus.RECOVERING), Clocks(recovery=True), 120_000),
        (_job(JobStatus.RUNNING), Clocks(overdue=True), 60_000),
        (_job(JobStatus.RUNNING), Clocks(silent_ms=10**9), 120_001),
        (_job(JobStatus.CANCELLING, force=True), Clocks(cancel_age_ms=10**9), 60_001),
    ],
)
def test_a_clock_of_agents_counts_only_while_we_listen(job: JobRow, clocks: Clocks, needed_ms: int) -> None:
    """OR-160: what an agent had no chance to say is not held against it."""
    assert judge(job, clocks, LIMITS, heard_ms=needed_ms - 1) is None
    assert judge(job, clocks, LIMITS, heard_ms=needed_ms) is not None


def test_the_queue_limit_runs_whether_we_listen_or_not() -> None:
    assert judge(_job(JobStatus.QUEUED, dispatched=False), Clocks(queue=True), LIMITS, heard_ms=0)


def test_a_cancel_is_forced_after_its_own_grace_period_and_all_hooks() -> None:
    """OR-163."""
    job = _job(JobStatus.CANCELLING)
    limit_ms = 5_000 + 600_000 + 60_000
    assert judge(job, Clocks(cancel_age_ms=limit_ms, grace_ms=5_000), LIMITS) is None
    verdict = judge(job, Clocks(cancel_age_ms=limit_ms + 1, grace_ms=5_000), LIMITS)
    assert verdict is not None
    assert (verdict.patch.status, verdict.patch.cancel_force, verdict.recall) == (None, True, True)
    forced = _job(JobStatus.CANCELLING, force=True)
    assert judge(forced, Clocks(cancel_age_ms=60_000), LIMITS) is None
    verdict = judge(forced, Clocks(cancel_age_ms=60_001), LIMITS)
    assert verdict is not None
    assert verdict.patch.status is JobStatus.CANCELLED


@pytest.mark.parametrize("status", [JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.RECOVERING])
def test_the_last_lost_attempt_fails_the_job(status: JobStatus) -> None:
    """OR-150, AG-16."""
    kept = attempt_lost(_job(status, failures=3), "it left", max_attempts=5)
    assert (kept.status, kept.release, kept.ready, kept.infra) == (
        None if status is JobStatus.QUEUED else JobStatus.QUEUED,
        True,
        True,
        True,
    )
    ended = attempt_lost(_job(status, failures=4, attempt=5), "it left", max_attempts=5)
    assert (ended.status, ended.error_message) == (
        JobStatus.FAILED,
        "it left (attempt 5; 5 attempts were lost)",
    )
    free = attempt_lost(_job(status, failures=4), "it drains", max_attempts=5, counts=False)
    assert (free.status is JobStatus.FAILED, free.infra) == (False, False)


def test_a_job_whose_agent_is_away_waits_for_it() -> None:
    """AG-23."""
    sent = parked(_job(JobStatus.QUEUED, acked=False), window_ms=9, ack_ms=5)
    assert (sent.status, sent.ack_ms, sent.recovery_ms) == (None, 5, None)
    taken = parked(_job(JobStatus.QUEUED), window_ms=9, ack_ms=5)
    assert (taken.status, taken.recovery_ms) == (None, 9)
    running = parked(_job(JobStatus.RUNNING), window_ms=9, ack_ms=5)
    assert (running.status, running.recovery_ms) == (JobStatus.RECOVERING, 9)
    stopping = parked(_job(JobStatus.CANCELLING), window_ms=9, ack_ms=5)
    assert (stopping.status, stopping.recovery_ms) == (None, 9)
