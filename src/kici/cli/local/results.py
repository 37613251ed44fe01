"""What a local run leaves to tell: the `--json` document, and what the tree is drawn from."""

from typing import Any

from msgspec import Struct

from kici.spec.states import JobStatus, RunStatus, StepStatus


class StepReport(Struct, frozen=True, kw_only=True, rename="camel"):
    index: int
    name: str
    type: str
    status: StepStatus
    duration_ms: int | None
    exit_code: int | None = None
    error_message: str | None = None


class JobReport(Struct, frozen=True, kw_only=True, rename="camel"):
    """`workspace` is set when the job's copy of the tree was kept. `steps` in the order they ran."""

    name: str
    status: JobStatus
    runs_on: list[str]
    duration_ms: int | None = None
    error_message: str | None = None
    timeout_reason: str | None = None
    outputs: dict[str, Any] = {}
    workspace: str | None = None
    steps: list[StepReport] = []


class RunReport(Struct, frozen=True, kw_only=True, rename="camel"):
    workflow: str
    trigger: str  # one sentence: why it ran
    status: RunStatus
    duration_ms: int
    jobs: list[JobReport]


class Unmatched(Struct, frozen=True, kw_only=True, rename="camel"):
    workflow: str
    reason: str


class LocalReport(Struct, frozen=True, kw_only=True, rename="camel"):
    """The one document of `--json`."""

    ok: bool
    event: str
    ref: str
    sha: str
    runs: list[RunReport]
    unmatched: list[Unmatched]
