"""Agent ↔ orchestrator, version 1. The agent dials `ws://…/ws` (AG-1); JSON text frames, tagged by `type`.

Order of a session: `auth.request` → `auth.success` → `agent.register` → `register.ack` →
`config.ack`, then everything in the agent's outbox after `ackedSeq`, then live traffic.

Reliable frames (those with `seq`, and LOG_BLOCK binary frames) share one numbering per agent
process (`sessionId`), from 1, without holes. The orchestrator makes each durable and answers with
`ack {upTo}`, cumulative; the agent keeps every reliable frame until then and sends them again, in
order, after a reconnect. Each is idempotent: job and step states by (jobId, attempt), blocks by
(jobId, attempt, stepIndex, block seq). Frames of an attempt that is no longer current are
acknowledged and ignored.

Unknown fields pass. An unknown `type` or a frame that fails validation is answered with `error`,
logged and dropped; the socket stays open (AG-8).
"""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from kici.protocol.runner_v1 import Annotation, InitResult, RuleResult, RunOutcome
from kici.spec.events import Event
from kici.spec.lock import LockJob
from kici.spec.states import JobStatus, StepStatus

PROTOCOL_VERSION = 1
MIN_PROTOCOL_VERSION = 1

CLOSE_UNAUTHORIZED = 4001
CLOSE_HANDSHAKE_TIMEOUT = 4002
CLOSE_INVALID = 4003
CLOSE_HEARTBEAT = 4004
CLOSE_PROTOCOL = 4005
CLOSE_INTERNAL = 4006
CLOSE_AGENT_REJECTED = 4010  # permanent: the agent exits instead of retrying
CLOSE_DISPATCH_TIMEOUT = 4031


# ── agent → orchestrator ──────────────────────────────────────────────────────────────────────────


class AuthRequest(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="auth.request"):
    """First frame, within 5 s."""

    token: str
    protocol_version: int


class InFlightJob(Struct, frozen=True, kw_only=True, rename="camel"):
    job_id: str
    run_id: str
    attempt: int


class AgentRegister(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="agent.register"
):
    """After `auth.success`, within 10 s; again on every reconnect.

    `in_flight` is the truth about what this process still holds: a job that the orchestrator
    believes to run here but that is not listed was lost with an earlier process.
    """

    agent_id: str
    session_id: str
    labels: list[str]
    in_flight: list[InFlightJob]
    first_seq: int  # oldest unacknowledged, or next when none
    last_seq: int
    platform: str
    arch: str
    version: str
    hostname: str
    python_version: str
    os_release: str = ""
    cpu_count: int = 1
    total_memory_mb: int = 0
    running_as_user: str = ""
    running_as_uid: int = -1
    properties: dict[str, str | int | float | bool] = {}


class ConfigAck(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="config.ack"):
    agent_id: str


class Heartbeat(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="heartbeat"):
    """Both ways, every 30 s. Any frame counts as life."""

    timestamp: int


class JobAck(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="job.ack"):
    """The dispatch was taken, before any work."""

    seq: int
    run_id: str
    job_id: str
    attempt: int
    timestamp: int


class JobReject(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="job.reject"):
    seq: int
    run_id: str
    job_id: str
    attempt: int
    reason: Literal["busy", "draining", "stale_attempt"]
    timestamp: int


class JobStatusUpdate(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="job.status"
):
    """`running` once, then exactly one terminal state, after all steps and blocks of the job.

    `outputs` maps step name → JSON value and travels with the terminal state only.
    """

    seq: int
    run_id: str
    job_id: str
    attempt: int
    state: JobStatus
    timestamp: int
    error_message: str | None = None
    timeout_reason: str | None = None  # job_timeout | step_timeout
    init_failure_category: str | None = None
    outputs: dict[str, Any] | None = None
    rules: list[RuleResult] = []
    init: InitResult | None = None  # purpose init
    generated: list[LockJob] | None = None  # purpose dynamic
    drifted: bool = False
    secret_outputs: dict[str, str] = {}  # key → sealed for `run_public_key`, base64


class StepStatusUpdate(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="step.status"
):
    seq: int
    run_id: str
    job_id: str
    attempt: int
    step_index: int
    step_name: str
    state: StepStatus
    timestamp: int
    step_type: str = "step"  # step | prepare | init | hook:… | cache:…
    exit_code: int | None = None
    error_message: str | None = None
    duration_ms: int | None = None
    log_lines: int | None = None  # terminal only: the true size of the stream
    log_bytes: int | None = None
    secrets_accessed: list[str] = []
    concurrency_kind: str = "sequential"
    group_id: str | None = None
    check_outcome: str | None = None
    drift_summary: str | None = None
    rules: list[RuleResult] = []
    summary: str | None = None
    annotations: list[Annotation] = []


class AgentRequest(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="agent.request"
):
    """A job asks for something (AG-12): `event.emit`, `cache.restore|save|commit`, `inventory.query|get`,
    `infrastructure.list`, `approval.request`. `request_id` is unique within (jobId, attempt) and makes a
    repetition after a reconnect harmless. Answered by exactly one `agent.response`."""

    request_id: str
    job_id: str
    attempt: int
    method: str
    params: dict[str, Any]


class JobHeartbeat(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="job.heartbeat"
):
    run_id: str
    job_id: str
    attempt: int
    timestamp: int


class JobContext(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="job.context"):
    """Before the first step (AG-87). `context` is shown, never read by us."""

    seq: int
    run_id: str
    job_id: str
    attempt: int
    context: dict[str, Any]


class RunEvent(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="run.event"):
    """Time line entries (AG-90): agent.clone.start|end, agent.execution.start|end, agent.teardown."""

    seq: int
    run_id: str
    job_id: str
    attempt: int
    event_type: str
    timestamp_ms: int
    step_index: int | None = None
    duration_ms: int | None = None
    metadata: dict[str, Any] = {}


class AgentMetrics(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="agent.metrics"
):
    """Every 30 s and at job end: the agent's own Prometheus text exposition."""

    agent_id: str
    timestamp: int
    exposition: str


class ErrorFrame(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="error"):
    code: str
    message: str


FromAgent = (
    AuthRequest
    | AgentRegister
    | ConfigAck
    | Heartbeat
    | JobAck
    | JobReject
    | JobStatusUpdate
    | StepStatusUpdate
    | AgentRequest
    | JobHeartbeat
    | JobContext
    | RunEvent
    | AgentMetrics
    | ErrorFrame
)


# ── orchestrator → agent ──────────────────────────────────────────────────────────────────────────


class AuthSuccess(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="auth.success"):
    connection_id: str


class AuthFailure(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="auth.failure"):
    """Followed by close 4010 (token) or 4005 (version): the agent exits, it does not retry."""

    reason: str


class RegisterAck(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="register.ack"):
    agent_id: str
    labels: list[str]  # as stored: lower case, unique, sorted
    acked_seq: int  # resume after this
    scaler_managed: bool = False


class Checkout(Struct, frozen=True, kw_only=True, rename="camel"):
    """Where the commit comes from. Credentials never reach argv, the URL or the runner (AG-38)."""

    repo_url: str
    sha: str
    ref: str
    token: str | None = None  # basic-auth secret, used by the checkout process only


class Overlay(Struct, frozen=True, kw_only=True, rename="camel"):
    """The working tree of a remote run, instead of a checkout (AU-124): a path below the orchestrator's
    own HTTP address, and the AES-256 key in base64. `base`: it is the difference to this commit of the
    checkout's repository, and an overlay over another one is refused."""

    path: str
    key: str
    size_bytes: int
    base: str | None = None


class JobDispatch(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="job.dispatch"):
    """Minted when sent (OR-153). Answered by `job.ack` or `job.reject` within the ack time-out."""

    run_id: str
    job_id: str
    attempt: int
    job_name: str
    base_job_name: str
    workflow_name: str
    workflow_file: str  # ".kici/workflows/ci.py"
    workflow_export: str  # "ci"
    content_hash: str
    compile_schema_version: int
    sdk_version: str
    resolved_hash_files: list[str]
    job: LockJob
    matrix: dict[str, str | int | float | bool]
    checkout: Checkout
    event: Event
    env: dict[str, str]  # KICI_* facts made by the orchestrator
    upstream_outputs: dict[str, dict[str, Any]]  # job name → step name → value
    upstream_statuses: dict[str, JobStatus]
    org_id: str
    repo_identifier: str
    request_id: str
    timestamp: int
    default_step_timeout_ms: int | None = None
    max_log_size_bytes: int | None = None
    purpose: str = "job"  # as in runner_v1.Execute
    generator_index: int = 0
    rules_from: int = 0
    run_outcome: RunOutcome | None = None
    inputs: dict[str, Any] = {}
    environments: list[str] = []
    check_mode: str = "apply"
    is_test_run: bool = False
    fanout_index: int = 0
    fanout_total: int = 1
    upstream_groups: dict[str, list[str]] = {}
    secrets: dict[str, str] = {}  # minted when sent; never stored in a queue row (OR-153)
    run_public_key: str | None = None  # X25519, raw, base64: seals secret outputs (AG-52)
    overlay: Overlay | None = None


class JobCancel(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="job.cancel"):
    """Sent again on every new connection until the job ends. A repetition asks for nothing new: only
    `force` kills without hooks. Also (with force) for an attempt that the orchestrator has given up."""

    run_id: str
    job_id: str
    attempt: int
    reason: str
    force: bool = False


class AgentResponse(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="agent.response"
):
    request_id: str
    job_id: str
    result: Any = None
    error_code: str | None = None
    error: str | None = None


class Ack(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="ack"):
    up_to: int


ToAgent = (
    AuthSuccess
    | AuthFailure
    | RegisterAck
    | JobDispatch
    | JobCancel
    | AgentResponse
    | Heartbeat
    | Ack
    | ErrorFrame
)

decode_from_agent = msgspec.json.Decoder(FromAgent).decode
decode_to_agent = msgspec.json.Decoder(ToAgent).decode
encode = msgspec.json.Encoder().encode
