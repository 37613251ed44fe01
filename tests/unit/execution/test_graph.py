"""Edges and windows without a database."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kici.orchestrator.runs.graph import Downstream, Sibling, after_needs, among_siblings, edge_status
from kici.orchestrator.runs.state import RunRow
from kici.spec.states import JOB_TERMINAL, WHEN, JobStatus, RunStatus

_RUNS = {"r": RunRow("r", RunStatus.RUNNING, 9, 9)}
_ENDED = sorted(JOB_TERMINAL)


def _need(
    upstream: str, when: str, *statuses: JobStatus, open_: int = 0, window: int | None = None
) -> Downstream:
    return Downstream("d", "r", 0, window, "d", upstream, sorted(WHEN[when]), open_, list(statuses))


@pytest.mark.parametrize(
    ("children", "called"),
    [
        ([JobStatus.TIMED_OUT_STALE], "timed_out_stale"),
        ([JobStatus.SUCCESS, JobStatus.FAILED], "failed"),
        ([JobStatus.SUCCESS, JobStatus.TIMED_OUT_STALE], "failed"),
        ([JobStatus.SUCCESS, JobStatus.CANCELLED], "cancelled"),
        ([JobStatus.SUCCESS, JobStatus.SKIPPED], "success"),
        ([JobStatus.SKIPPED], "skipped"),
    ],
)
def test_children_end_as_one(children: list[JobStatus], called: str) -> None:
    """OR-134."""
    assert edge_status(children) == called


@given(st.sampled_from(sorted(WHEN)), st.sampled_from(_ENDED), st.integers(0, 3))
def test_a_job_moves_only_when_its_edges_are_decided(when: str, status: JobStatus, open_: int) -> None:
    """OR-130, OR-131."""
    (patch,), windows = after_needs([_need("u", when, status, open_=open_)], _RUNS)
    assert patch.needs_pending == open_
    assert windows == set()
    if open_:
        assert patch.status is None
    elif status in WHEN[when]:
        assert (patch.status, patch.ready) == (JobStatus.QUEUED, True)
    else:
        assert (patch.status, patch.error_message) == (JobStatus.SKIPPED, f"upstream_unmet: u ({status})")


def test_one_unmet_need_is_enough_though_others_are_open() -> None:
    needs = [_need("a", "on-success", JobStatus.FAILED), _need("b", "on-success", open_=1)]
    (patch,), _ = after_needs(needs, _RUNS)
    assert patch.status is JobStatus.SKIPPED


def test_in_a_cancelled_run_what_waits_is_cancelled() -> None:
    """OR-131."""
    runs = {"r": RunRow("r", RunStatus.CANCELLING, 9, 9)}
    (patch,), _ = after_needs([_need("u", "always", JobStatus.SUCCESS)], runs)
    assert patch.status is JobStatus.CANCELLED


def test_a_ready_child_of_a_window_waits_for_its_place() -> None:
    (patch,), windows = after_needs([_need("u", "always", JobStatus.SUCCESS, window=2)], _RUNS)
    assert (patch.status, patch.needs_pending, windows) == (None, 0, {("r", "d")})


@given(
    st.integers(1, 4),
    st.lists(st.tuples(st.sampled_from(sorted(JobStatus)), st.integers(0, 1)), max_size=8),
    st.booleans(),
)
def test_a_window_is_filled_and_never_wider(
    width: int, children: list[tuple[JobStatus, int]], fail_fast: bool
) -> None:
    """OR-134, AU-21."""
    siblings = [
        Sibling(str(i), "r", "m", status, 0, needs, False, width, fail_fast)
        for i, (status, needs) in enumerate(children)
    ]
    patches = {patch.job_id: patch for patch in among_siblings(siblings, _RUNS)}
    failed = any(
        s.status in {JobStatus.FAILED, JobStatus.TIMED_OUT_STALE, JobStatus.DRIFT_DROPPED} for s in siblings
    )
    after = [patches[s.job_id].status or s.status if s.job_id in patches else s.status for s in siblings]
    if fail_fast and failed:
        assert not {JobStatus.PENDING, JobStatus.QUEUED} & set(after)
        return
    taken = sum(status is not JobStatus.PENDING and status not in JOB_TERMINAL for status in after)
    before = sum(s.status is not JobStatus.PENDING and s.status not in JOB_TERMINAL for s in siblings)
    waiting = sum(s.status is JobStatus.PENDING and not s.needs_pending for s in siblings)
    assert taken == max(before, min(width, before + waiting))
    first = [s.job_id for s in siblings if s.status is JobStatus.PENDING and not s.needs_pending]
    assert list(patches) == first[: len(patches)]  # in order of the workflow
