"""States change as OR-120…125 say, in every combination and in every order of events."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from kici.engine.transitions import (
    IllegalTransition,
    JobEvent,
    StepEvent,
    display_status,
    job_after,
    job_sources,
    run_status,
    step_after,
    step_when_job_ends,
)
from kici.spec.states import JOB_TERMINAL, RUN_TERMINAL, STEP_TERMINAL, JobStatus, RunStatus, StepStatus

J = JobStatus
S = StepStatus
R = RunStatus

# OR-120, as its table reads; RETRY, FAIL of what waits, and SKIP of what is queued, waits or runs, are ours.
TABLE: dict[JobStatus, dict[str, JobStatus]] = {
    J.PENDING: {
        "enqueue": J.QUEUED,
        "skip": J.SKIPPED,
        "hold": J.HELD,
        "wait": J.WAITING,
        "cancel": J.CANCELLED,
        "fail": J.FAILED,
        "drop": J.DRIFT_DROPPED,
    },
    J.HELD: {
        "approve": J.QUEUED,
        "wait": J.WAITING,
        "reject": J.CANCELLED,
        "expire": J.CANCELLED,
        "cancel": J.CANCELLED,
    },
    J.WAITING: {
        "timer_done": J.QUEUED,
        "cancel": J.CANCELLED,
        "expire": J.CANCELLED,
        "skip": J.SKIPPED,
        "fail": J.FAILED,
    },
    J.QUEUED: {
        "start": J.RUNNING,
        "fail": J.FAILED,
        "cancel": J.CANCELLED,
        "time_out": J.TIMED_OUT_STALE,
        "drop": J.DRIFT_DROPPED,
        "skip": J.SKIPPED,
    },
    J.RUNNING: {
        "succeed": J.SUCCESS,
        "fail": J.FAILED,
        "cancel": J.CANCELLED,
        "cancel_graceful": J.CANCELLING,
        "recover": J.RECOVERING,
        "time_out": J.TIMED_OUT_STALE,
        "retry": J.QUEUED,
        "skip": J.SKIPPED,
    },
    J.RECOVERING: {
        "start": J.RUNNING,
        "fail": J.FAILED,
        "cancel": J.CANCELLED,
        "time_out": J.TIMED_OUT_STALE,
        "retry": J.QUEUED,
    },
    J.CANCELLING: {
        "complete": J.CANCELLED,
        "cancel_force": J.CANCELLED,
        "fail": J.FAILED,
        "time_out": J.TIMED_OUT_STALE,
    },
}


@pytest.mark.parametrize("event", JobEvent)
@pytest.mark.parametrize("status", JobStatus)
def test_every_pair_of_job_state_and_event(status: JobStatus, event: JobEvent) -> None:
    expected = TABLE.get(status, {}).get(event.value)
    if expected is None:
        with pytest.raises(IllegalTransition) as caught:
            job_after(status, event)
        assert caught.value.code == "illegal_transition"
        assert status not in job_sources(event)
    else:
        assert job_after(status, event) is expected
        assert status in job_sources(event)


STEPS: dict[StepStatus, dict[str, StepStatus]] = {
    S.PENDING: {"start": S.RUNNING, "fail": S.FAILED, "skip": S.SKIPPED, "cancel": S.CANCELLED},
    S.RUNNING: {"succeed": S.SUCCESS, "fail": S.FAILED, "skip": S.SKIPPED, "cancel": S.CANCELLED},
}


@pytest.mark.parametrize("event", StepEvent)
@pytest.mark.parametrize("status", StepStatus)
def test_every_pair_of_step_state_and_event(status: StepStatus, event: StepEvent) -> None:
    expected = STEPS.get(status, {}).get(event.value)
    if expected is None:
        with pytest.raises(IllegalTransition):
            step_after(status, event)
    else:
        assert step_after(status, event) is expected


class JobLife(RuleBasedStateMachine):
    """Any sequence of events keeps a job on the table, and out of a terminal state it never comes."""

    status: JobStatus
    ended: JobStatus | None

    @initialize()
    def begin(self) -> None:
        self.status = J.PENDING
        self.ended = None

    @rule(event=st.sampled_from(JobEvent))
    def happen(self, event: JobEvent) -> None:
        try:
            self.status = job_after(self.status, event)
        except IllegalTransition:
            assert self.status not in job_sources(event)
        if self.status in JOB_TERMINAL and self.ended is None:
            self.ended = self.status

    @invariant()
    def terminal_is_for_ever(self) -> None:
        assert self.ended is None or self.status is self.ended

    @invariant()
    def replay_changes_nothing(self) -> None:
        """No event leads from a state to itself: a repeated message finds zero rows."""
        for event in JobEvent:
            if self.status in job_sources(event):
                assert job_after(self.status, event) is not self.status


TestJobLife = JobLife.TestCase


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        ([J.SUCCESS, J.SUCCESS], R.SUCCESS),
        ([J.SUCCESS, J.SKIPPED], R.SUCCESS),
        ([J.SKIPPED, J.SKIPPED], R.SKIPPED),
        ([J.SUCCESS, J.CANCELLED, J.SKIPPED], R.CANCELLED),
        ([J.CANCELLED, J.FAILED], R.FAILED),
        ([J.SUCCESS, J.TIMED_OUT_STALE], R.FAILED),
        ([J.SUCCESS, J.DRIFT_DROPPED], R.FAILED),
        ([J.PENDING, J.PENDING], R.PENDING),
        ([J.QUEUED, J.PENDING], R.QUEUED),
        ([J.WAITING, J.PENDING], R.QUEUED),
        ([J.HELD, J.PENDING], R.HELD),
        ([J.HELD, J.SUCCESS], R.HELD),
        ([J.HELD, J.QUEUED], R.QUEUED),
        ([J.HELD, J.RUNNING], R.RUNNING),
        ([J.QUEUED, J.SUCCESS], R.RUNNING),
        ([J.PENDING, J.SUCCESS], R.RUNNING),
        ([J.RECOVERING], R.RUNNING),
        ([J.CANCELLING, J.SUCCESS], R.RUNNING),
    ],
)
def test_a_runs_status_follows_from_its_jobs(jobs: list[JobStatus], expected: RunStatus) -> None:
    assert run_status(jobs) is expected


def test_a_cancelled_run_whose_last_job_was_its_hooks_is_cancelled() -> None:
    """OR-122, AU-33."""
    assert run_status([J.SUCCESS, J.SUCCESS], cancelling=True) is R.CANCELLED
    assert run_status([J.SUCCESS, J.FAILED], cancelling=True) is R.FAILED


@given(st.lists(st.sampled_from(JobStatus), min_size=1), st.booleans())
def test_a_run_ends_exactly_when_its_jobs_have(jobs: list[JobStatus], cancelling: bool) -> None:
    status = run_status(jobs, cancelling=cancelling)
    assert (status in RUN_TERMINAL) is all(job in JOB_TERMINAL for job in jobs)
    assert run_status(list(reversed(jobs)), cancelling=cancelling) is status
    if cancelling and status not in RUN_TERMINAL:
        assert status is R.CANCELLING


@given(st.sampled_from(StepStatus), st.sampled_from(sorted(JOB_TERMINAL)))
def test_no_step_outlives_its_job(step: StepStatus, job: JobStatus) -> None:
    after = step_when_job_ends(step, job)
    assert after in STEP_TERMINAL
    if step in STEP_TERMINAL:
        assert after is step


@pytest.mark.parametrize(
    ("status", "timeout_reason", "init", "expected"),
    [
        (R.FAILED, None, False, "failed"),
        (R.FAILED, None, True, "error"),
        (R.FAILED, "job_timeout", True, "timed_out"),
        (R.CANCELLED, "workflow_timeout", False, "timed_out"),
        (R.SUCCESS, "job_timeout", False, "success"),
        (R.RUNNING, "workflow_timeout", False, "running"),
    ],
)
def test_the_word_for_people(
    status: RunStatus, timeout_reason: str | None, init: bool, expected: str
) -> None:
    assert display_status(status, timeout_reason=timeout_reason, has_init_failure=init) == expected
