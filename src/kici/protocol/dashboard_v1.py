"""What people and their tools read about runs: projection rows, REST views and RPC results.

One family of Structs from the orchestrator's answer to the browser. Times are ISO-8601 UTC strings
on REST (msgspec writes datetimes so) and durations integer milliseconds. Views have no defaults, so
that the generated TypeScript has no optional fields.

RPC methods (params → result), answered by the orchestrator; routes, guards and the TypeScript client
follow from the same names:

| method | params | result |
|---|---|---|
| `run.detail` | runId | RunDetailView |
| `run.cancel` | runId, force | CancelResult |
| `run.payload` | runId | PayloadView |
| `logs.read` | runId, jobId, stepIndex, offset, limit, tail | LogPage |
| `logs.search` | runId, jobId, stepIndex, query, regex, limit | LogSearchResult |
| `logs.raw` | runId, jobId, stepIndex, fromByte, maxBytes | RPC_BYTES, meta {nextByte, done, totalBytes} |
| `registrations.list` | – | RegistrationList |
| `deliveries.list` | limit, before | DeliveryList |
| `diagnostics` | – | DiagnosticsView |
| `run.rerun` | runId, mode | NewRun |
| `run.cancel_branch` | branch | BranchCancelResult |
| `registration.run` | registrationId, inputs | NewRun |
| `dispatch.trigger` | repository, type, inputs | {runs: [NewRun], decisions} |
| `remote.base`, `remote.upload`, `remote.trigger` | see kici.protocol.remote_v1 | |
"""

from datetime import datetime
from typing import Any, Literal

from msgspec import Struct

from kici.spec.states import JobStatus, RunStatus, StepStatus

DisplayStatus = Literal[
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
]


class InitFailure(Struct, frozen=True, kw_only=True, rename="camel"):
    """A failure before any step ran (OR-210)."""

    scope: Literal["run", "job"]
    category: str
    message: str
    job_name: str | None


class RuleView(Struct, frozen=True, kw_only=True, rename="camel"):
    label: str
    passed: bool
    duration_ms: int
    error: str | None


class AnnotationView(Struct, frozen=True, kw_only=True, rename="camel"):
    level: str
    message: str
    file: str | None
    line: int | None


class SourceRef(Struct, frozen=True, kw_only=True, rename="camel"):
    routing_key: str
    name: str
    subtype: str
    provider: str


class RunProjection(Struct, frozen=True, kw_only=True, rename="camel"):
    """A run's own row, whole."""

    run_id: str
    workflow_name: str
    workflow_file: str
    status: RunStatus
    display_status: DisplayStatus
    repo_identifier: str
    repo_url: str | None
    provider: str
    ref: str
    branch: str | None
    sha: str
    commit_message: str | None
    trigger_event: str
    trigger_reason: str  # one sentence: why this run started
    source: SourceRef
    request_id: str
    delivery_id: str | None
    triggered_by: str | None
    cancelled_by: str | None
    parent_run_id: str | None
    failure_reason: str | None
    init_failure: InitFailure | None
    timeout_reason: str | None
    waiting_reason: str | None  # "Waiting for deploy (1 ahead)"
    concurrency_group: str | None
    check_mode: str
    is_test_run: bool
    rules: list[RuleView]
    inputs: dict[str, Any]
    job_count: int
    has_payload: bool
    log_bytes: int
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None
    duration_ms: int | None


class NeedView(Struct, frozen=True, kw_only=True, rename="camel"):
    upstream_name: str
    run_on: list[str]


class JobProjection(Struct, frozen=True, kw_only=True, rename="camel"):
    run_id: str
    job_id: str
    job_name: str
    display_name: str
    base_job_name: str
    variant_kind: Literal["matrix", "host"] | None
    variant_label: str | None
    matrix_values: dict[str, str | int | float | bool] | None
    position: int  # order in the workflow
    kind: Literal["job", "init", "build", "dynamic", "hooks"]  # all but `job` are setup rows
    rules: list[RuleView]
    secret_output_keys: list[str]
    status: JobStatus
    attempt: int
    waiting_reason: str | None  # why it has not started, in words
    agent_id: str | None
    runs_on_labels: list[str]
    needs: list[NeedView]
    error_message: str | None
    init_failure: InitFailure | None
    timeout_reason: str | None
    outputs: dict[str, Any] | None
    log_bytes: int
    queued_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    duration_ms: int | None


class StepProjection(Struct, frozen=True, kw_only=True, rename="camel"):
    run_id: str
    job_id: str
    attempt: int
    step_index: int
    step_name: str
    step_type: str
    status: StepStatus
    exit_code: int | None
    error_message: str | None
    log_lines: int | None
    log_bytes: int | None
    concurrency_kind: str
    group_id: str | None
    check_outcome: str | None
    drift_summary: str | None
    rules: list[RuleView]
    secrets_accessed: list[str]
    summary: str | None
    annotations: list[AnnotationView]
    started_at: datetime | None
    completed_at: datetime | None
    duration_ms: int | None


class RunEventView(Struct, frozen=True, kw_only=True, rename="camel"):
    run_id: str
    event_type: str
    timestamp_ms: int
    source_service: str
    job_id: str | None
    step_index: int | None
    duration_ms: int | None
    metadata: dict[str, Any]


class PlaceView(Struct, frozen=True, kw_only=True, rename="camel"):
    """Where an author wrote a definition, at the run's commit (AU-12)."""

    file: str  # from the repository's root; without "/" when it is not in the repository
    line: int | None
    column: int | None


class JobView(JobProjection, frozen=True, kw_only=True, rename="camel"):
    """A job with its steps (current attempt), by step index, and with what its plan says of it: `place` and
    `step_places`, which stand by step index and know steps that have not begun. A setup row has the places
    of what it is for; hooks and caches have none. The projection knows no plans."""

    description: str
    place: PlaceView | None
    step_places: list[PlaceView]
    steps: list[StepProjection]
    context: dict[str, Any] | None


class RunDetailView(Struct, frozen=True, kw_only=True, rename="camel"):
    run: RunProjection
    jobs: list[JobView]
    events: list[RunEventView]
    source: Literal["orchestrator", "projection"]  # projection: the orchestrator is away


class RunList(Struct, frozen=True, kw_only=True, rename="camel"):
    runs: list[RunProjection]
    total: int
    total_is_capped: bool
    page: int
    page_size: int
    has_more: bool


class RunGroup(Struct, frozen=True, kw_only=True, rename="camel"):
    sha: str
    commit_message: str | None
    repository: str
    ref: str
    statuses: dict[str, int]  # display status → count
    runs: list[RunProjection]


class RunGroupList(Struct, frozen=True, kw_only=True, rename="camel"):
    groups: list[RunGroup]
    total: int
    page: int
    page_size: int
    has_more: bool


class RunFilters(Struct, frozen=True, kw_only=True, rename="camel"):
    statuses: list[str]
    workflows: list[str]
    branches: list[str]
    repositories: list[str]
    trigger_types: list[str]
    sources: list[SourceRef]


class CancelResult(Struct, frozen=True, kw_only=True, rename="camel"):
    agents_notified: int
    pending_cancelled: int


class NewRun(Struct, frozen=True, kw_only=True, rename="camel"):
    new_run_id: str


class BranchCancelResult(Struct, frozen=True, kw_only=True, rename="camel"):
    cancelled_runs: int


class PayloadView(Struct, frozen=True, kw_only=True, rename="camel"):
    event: str
    headers: dict[str, str]
    payload: Any
    size_bytes: int


class LogPage(Struct, frozen=True, kw_only=True, rename="camel"):
    """Lines `first_line … first_line + len(lines) - 1`. Lines over 64 KiB are cut; `cut` holds the
    indexes into `lines` that were."""

    lines: list[str]
    ts: list[int]  # epoch ms, one per line: its block's time
    first_line: int
    total_lines: int
    total_bytes: int
    complete: bool  # the stream has ended
    cut: list[int]


class LogMatch(Struct, frozen=True, kw_only=True, rename="camel"):
    line: int
    start: int  # character offsets in the line, ANSI escapes removed
    end: int
    preview: str


class LogSearchResult(Struct, frozen=True, kw_only=True, rename="camel"):
    matches: list[LogMatch]
    total: int
    truncated: bool
    scanned_lines: int


class RegistrationView(Struct, frozen=True, kw_only=True, rename="camel"):
    id: str
    workflow_name: str
    repo_identifier: str
    trigger_types: list[str]
    triggers: list[Any]
    source: SourceRef
    source_file: str
    commit_sha: str
    disabled: bool
    stale: bool
    last_triggered_at: datetime | None
    next_fire_at: datetime | None  # of its schedules, the earliest
    problem: str | None  # why it cannot run here, or why a schedule of it never fires
    updated_at: datetime


class RegistrationList(Struct, frozen=True, kw_only=True, rename="camel"):
    registrations: list[RegistrationView]
    registry_version: int
    registry_updated_at: datetime | None


class DeliveryCheck(Struct, frozen=True, kw_only=True, rename="camel"):
    check: str
    expected: str
    actual: str
    matched: bool


class DeliveryDecision(Struct, frozen=True, kw_only=True, rename="camel"):
    """Why one workflow did or did not start for one delivery (OR-50)."""

    workflow_name: str
    matched: bool
    trigger_index: int | None
    reason: str
    run_id: str | None
    checks: list[DeliveryCheck]


class DeliveryView(Struct, frozen=True, kw_only=True, rename="camel"):
    delivery_id: str
    routing_key: str
    source_name: str
    event: str
    action: str | None
    via: Literal["relay", "direct"]
    status: str
    repo_identifier: str | None
    ref: str | None
    request_id: str
    received_at: datetime
    processed_at: datetime | None
    matched_count: int
    error: str | None
    decisions: list[DeliveryDecision]


class DeliveryList(Struct, frozen=True, kw_only=True, rename="camel"):
    deliveries: list[DeliveryView]
    next_before: str | None


class AgentView(Struct, frozen=True, kw_only=True, rename="camel"):
    agent_id: str
    connected: bool
    labels: list[str]
    hostname: str
    platform: str
    arch: str
    version: str
    busy: bool
    current_job_id: str | None
    last_seen_at: datetime | None


class LabelShortage(Struct, frozen=True, kw_only=True, rename="camel"):
    """Queued jobs that want the same, which no connected agent has."""

    wanted: str  # labels and the like, for people
    jobs: int
    waiting_ms: int  # the longest of them


class DiagnosticsView(Struct, frozen=True, kw_only=True, rename="camel"):
    instance_id: str
    cluster_name: str
    version: str
    uptime_seconds: int
    agents: list[AgentView]
    queued_jobs: int
    running_jobs: int
    inbox_depth: int
    outbox_depth: int
    shortages: list[LabelShortage]  # of jobs that wait for more than a minute
