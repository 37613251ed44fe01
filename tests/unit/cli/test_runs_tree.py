"""What `kici runs show` prints of a run."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from kici.cli.runs import tree
from kici.protocol.dashboard_v1 import PlaceView, RunDetailView
from kici.spec.states import JobStatus, StepStatus
from tests.support import platform as kit


def detail(*steps: dict[str, Any], places: list[PlaceView]) -> dict[str, Any]:
    run = kit.run_projection()
    job = kit.job_projection(run.run_id, status=JobStatus.FAILED)
    view = kit.job_view(
        job,
        step_places=places,
        steps=[kit.step_projection(run.run_id, job.job_id, **step) for step in steps],
    )
    return msgspec.to_builtins(RunDetailView(run=run, jobs=[view], events=[], source="orchestrator"))


def printed(shown: dict[str, Any]) -> list[str]:
    now = datetime(2030, 1, 1, 13, tzinfo=UTC)
    return [row.plain.strip() for row in tree.rows(shown, now, folded=False)]


CI = ".kici/workflows/ci.py"
HOOK = 2_000_000


def test_a_step_that_failed_says_where_it_is_written() -> None:
    """AU-12."""
    lines = printed(
        detail(
            {"step_index": -1, "step_name": "prepare", "step_type": "prepare", "status": StepStatus.FAILED},
            {"step_index": 0, "status": StepStatus.SUCCESS},
            {"step_index": 1, "status": StepStatus.FAILED, "exit_code": 3},
            {
                "step_index": HOOK,
                "step_name": "cleanup",
                "step_type": "hook:cleanup",
                "status": StepStatus.FAILED,
            },
            places=[PlaceView(file=CI, line=8, column=1), PlaceView(file=CI, line=12, column=1)],
        )
    )
    places = [line for line in lines if line.startswith("at ")]
    assert places == [f"at {CI}:12"]
    assert lines[lines.index(places[0]) - 1].startswith("✗ step 1")


@pytest.mark.parametrize(
    ("places", "said"),
    [([], []), ([PlaceView(file="scanner.py", line=None, column=None)], ["at scanner.py"])],
)
def test_what_is_not_known_is_not_said(places: list[PlaceView], said: list[str]) -> None:
    lines = printed(detail({"step_index": 0, "status": StepStatus.FAILED}, places=places))
    assert [line for line in lines if line.startswith("at ")] == said
