"""What a local run leaves to tell: the `--json` document, and what the tree is drawn from."""

from typing import Any

from msgspec import Struct

from kici.protocol.runner_v1 import Annotation, RuleResult
from kici.spec.states import JobStatus, RunStatus, StepStatus


class StepReport(Struct, frozen=True, kw_only=True, rename="camel"):
    """`excerpt`: the last lines of a step that failed. `attempts` counts its own retries."""

    index: int
    name: str
    type: str
    status: StepStatus
    duration_ms: int | None
    exit_code: int | None = None
    error_message: str | None = None
    excerpt: str | None = None
    attempts: int = 1
    check_outcome: str | None = None
    drift_summary: str | None = None
    rules: list[RuleResult] = []
    summary: str | None = None
    annotations: list[Annotation] = []
    secrets_accessed: list[str] = []


class JobReport(Struct, frozen=True, kw_only=True, rename="camel"):
    """`kind`: job, or a setup row (init, dynamic, hooks); `title` is what people read. `workspace` is set
    when the job's copy of the tree was kept. `steps` in the order they ran."""

    name: str
    status: JobStatus
    runs_on: list[str]
    kind: str = "job"
    title: str = ""
    group: str = ""
    duration_ms: int | None = None
    error_message: str | None = None
    timeout_reason: str | None = None
    failure_category: str | None = None
    outputs: dict[str, Any] = {}
    secret_outputs: list[str] = []  # names
    environments: list[str] = []
    drifted: bool = False
    rules: list[RuleResult] = []
    workspace: str | None = None
    steps: list[StepReport] = []


class EmittedEvent(Struct, frozen=True, kw_only=True, rename="camel"):
    """What `ctx.emit` would have sent, and which workflows of this repository it would start."""

    job: str
    name: str
    delivery_id: str
    payload: Any
    target_repos: list[str]
    would_start: list[str]


class RunReport(Struct, frozen=True, kw_only=True, rename="camel"):
    run_id: str
    workflow: str
    trigger: str  # one sentence: why it ran
    status: RunStatus
    duration_ms: int
    jobs: list[JobReport]
    error_message: str | None = None
    timeout_reason: str | None = None  # workflow_timeout
    rules: list[RuleResult] = []  # of the workflow
    events: list[EmittedEvent] = []
    drifted: bool = False
    inputs: dict[str, Any] = {}


class Unmatched(Struct, frozen=True, kw_only=True, rename="camel"):
    workflow: str
    reason: str


class LocalReport(Struct, frozen=True, kw_only=True, rename="camel"):
    """The one document of `--json`. `fixture` is the id of the fixture that made the event, `error_message` why
    nothing ran."""

    ok: bool
    event: str
    ref: str
    sha: str
    runs: list[RunReport]
    unmatched: list[Unmatched]
    fixture: str | None = None
    error_message: str | None = None
