"""How a row of a job ends, by itself or stopped from outside."""

from typing import Any, Literal

from msgspec import Struct

from kici.protocol.runner_v1 import RuleResult
from kici.spec.states import StepStatus

StopKind = Literal["cancel", "job_timeout", "step_timeout", "fail_fast"]


class Stop(Struct, frozen=True, kw_only=True):
    """Why something must end before its time."""

    kind: StopKind
    reason: str
    force: bool = False


class StoppedError(Exception):
    """An activity did not reach its own end."""

    def __init__(self, stop: Stop) -> None:
        super().__init__(stop.reason)
        self.stop = stop


class Result(Struct, frozen=True, kw_only=True):
    """How a row went. `check_outcome` and `drift_summary` as `StepEnded` has them."""

    status: StepStatus
    exit_code: int | None = None
    error_message: str | None = None
    stop: Stop | None = None
    output: Any = None
    has_output: bool = False
    check_outcome: str | None = None
    drift_summary: str | None = None
    rules: list[RuleResult] = []

    @property
    def timeout_reason(self) -> str | None:
        kind = self.stop.kind if self.stop else None
        return kind if kind in {"step_timeout", "job_timeout"} else None


SUCCESS = Result(status=StepStatus.SUCCESS, exit_code=0)


def stopped(stop: Stop) -> Result:
    """A row that was ended: by a time limit it failed, by anything else it was cancelled."""
    timed_out = stop.kind in {"step_timeout", "job_timeout"}
    return Result(
        status=StepStatus.FAILED if timed_out else StepStatus.CANCELLED,
        error_message=stop.reason,
        stop=stop,
    )
