"""A run whose second step still writes, as an orchestrator tells of it."""

from typing import Any

from kici.protocol.dashboard_v1 import LogPage, RunDetailView
from kici.runtime.ids import uuid7
from kici.spec.states import JobStatus, RunStatus, StepStatus
from tests.support import platform as kit


class ScriptedRun:
    """A run of two steps whose second still writes."""

    def __init__(self) -> None:
        self.run_id, self.job_id = uuid7(), uuid7()
        self.logs = {0: ["a", "b"], 1: ["c", "half a li"]}
        self.ended = False

    def detail(self, _params: dict[str, Any]) -> RunDetailView:
        run = kit.run_projection(
            self.run_id,
            status=RunStatus.SUCCESS if self.ended else RunStatus.RUNNING,
            completed_at=kit.NOON,
        )
        status = StepStatus.SUCCESS if self.ended else StepStatus.RUNNING
        steps = [
            kit.step_projection(self.run_id, self.job_id, 0, status=StepStatus.SUCCESS, log_lines=2),
            kit.step_projection(
                self.run_id,
                self.job_id,
                1,
                status=status,
                log_lines=len(self.logs[1]) if self.ended else None,
            ),
            kit.step_projection(
                self.run_id, self.job_id, 2, status=StepStatus.SKIPPED, started_at=None, log_lines=None
            ),
        ]
        job = kit.job_projection(
            self.run_id, self.job_id, status=JobStatus.SUCCESS if self.ended else JobStatus.RUNNING
        )
        return RunDetailView(
            run=run, jobs=[kit.job_view(job, steps=steps)], events=[], source="orchestrator"
        )

    def page(self, params: dict[str, Any]) -> LogPage:
        lines = self.logs[params["stepIndex"]]
        start = params["offset"]
        shown = lines[start : start + params["limit"]]
        return LogPage(
            lines=shown,
            ts=[0] * len(shown),
            first_line=start,
            total_lines=len(lines),
            total_bytes=1,
            complete=params["stepIndex"] == 0 or self.ended,
            cut=[],
        )
