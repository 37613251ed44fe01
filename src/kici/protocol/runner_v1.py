"""Host (agent or `kici run local`) ↔ runner, version 1. Length-prefixed msgpack on a UNIX socket.

The runner holds author code. The host owns the sandbox, reads the output pipes and treats every
message as hostile: schema, size and step range are checked (AG-37). stdout and stderr belong to
author code and never carry protocol.

A step's output travels through a pipe of its own: `StepStarted` carries its read end as an
ancillary file descriptor (SCM_RIGHTS). The step's output is complete when that pipe reports end of
file, or, when a left-over process keeps it open, shortly after `StepEnded`.
"""

import struct
from typing import Any

import msgspec
from msgspec import Struct

from kici.spec.events import Event
from kici.spec.lock import LockJob
from kici.spec.states import JobStatus, StepStatus

PROTOCOL_VERSION = 1
LENGTH = struct.Struct(">I")
MAX_MESSAGE = 32 << 20


class RuleResult(Struct, frozen=True, kw_only=True, rename="camel"):
    """One evaluated rule (AU-34). `passed` False ends the row of rules; `error` fails the element."""

    label: str
    passed: bool
    duration_ms: int
    error: str | None = None


class Annotation(Struct, frozen=True, kw_only=True, rename="camel"):
    """What `ctx.annotate` said about a line of the repository."""

    level: str  # notice | warning | error
    message: str
    file: str | None = None
    line: int | None = None


# ── runner → host ─────────────────────────────────────────────────────────────────────────────────


class Ready(Struct, frozen=True, kw_only=True, tag_field="t", tag="ready"):
    protocol_version: int
    sdk_version: str
    python_version: str
    pid: int


class StepStarted(Struct, frozen=True, kw_only=True, tag_field="t", tag="step.start"):
    """A step or hook begins. Sent again for every retry, with `attempt` one higher and no descriptor:
    the pipe of the first attempt stays. A skipped step sends only `StepEnded`."""

    step_index: int
    step_name: str
    step_type: str
    timestamp_ms: int
    attempt: int = 1  # of the step's own retries
    concurrency_kind: str = "sequential"
    group_id: str | None = None


class StepEnded(Struct, frozen=True, kw_only=True, tag_field="t", tag="step.end"):
    step_index: int
    step_name: str
    step_type: str
    status: StepStatus
    timestamp_ms: int
    duration_ms: int
    exit_code: int | None = None
    error_message: str | None = None
    timeout_reason: str | None = None
    output: Any = None  # JSON value
    has_output: bool = False
    # applied | in_sync | would_change | no_check (AU-48); of cache rows hit | miss | saved | skipped | error
    check_outcome: str | None = None
    drift_summary: str | None = None  # masked, ≤ 64 KiB
    rules: list[RuleResult] = []
    secrets_accessed: list[str] = []  # key names
    summary: str | None = None  # Markdown from ctx.summary, ≤ 1 MiB
    annotations: list[Annotation] = []


class AddMask(Struct, frozen=True, kw_only=True, tag_field="t", tag="mask"):
    """Sent before the value can be printed; hosts apply it before any output read later."""

    value: str


class InitResult(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """What the functions of one job, or of the workflow itself, came to (AG-68)."""

    env: dict[str, str] | None = None
    environments: list[str] | None = None
    concurrency_group: str | None = None
    matrix: dict[str, list[str | int | float | bool]] | None = None
    rules: list[RuleResult] | None = None  # of the workflow; the last one decides


class JobEnded(Struct, frozen=True, kw_only=True, tag_field="t", tag="job.end"):
    """`rules`: those of the job that ran here; `status` skipped when one said so. `init` and `generated`
    only for Execute.purpose init and dynamic. `failure_category`: matrix_expansion, dynamic_eval."""

    status: JobStatus
    error_message: str | None = None
    timeout_reason: str | None = None
    rules: list[RuleResult] = []
    init: InitResult | None = None
    generated: list[LockJob] | None = None
    failure_category: str | None = None
    drifted: bool = False  # check mode found something to change


class Request(Struct, frozen=True, kw_only=True, tag_field="t", tag="request"):
    """Anything author code asks the host for; answered by one Reply.

    | method | params | result |
    |---|---|---|
    | `secrets.get` | key | {value, backend, scope}; error `secret_not_found` |
    | `secrets.list` | – | {names} |
    | `secrets.mounted` | keys, path | {}; for the audit (`step.secret_mount`), optional |
    | `secrets.output` | key, value | {}; error `limit_exceeded` |
    | `event.emit` | name, payload, targetRepos | {deliveryId}; error `event_rejected` |
    | `cache.restore` | key, restoreKeys | {hit, matchedKey, path}: a local tar.gz to unpack, or hit false |
    | `cache.save` | key | {skip, path}: where to write the tar.gz |
    | `cache.commit` | key, path | {}: the file at `path` is complete |
    | `approval.request` | stepIndex, stepName, clauses, reason, timeoutMs, drift | {outcome, reason} |
    | `inventory.query` | include, exclude | {hosts} |
    | `inventory.get` | agentId | {host} |
    | `infrastructure.list` | – | {hosts} |
    | `oidc.token`, `provenance.attest`, `host.reboot` | – | error `capability_missing` or `not_available_locally` |
    """

    request_id: int
    method: str
    params: dict[str, Any]


FromRunner = Ready | StepStarted | StepEnded | AddMask | JobEnded | Request


# ── host → runner ─────────────────────────────────────────────────────────────────────────────────


class Interrupted(Struct, frozen=True, kw_only=True):
    """What an earlier runner of this attempt left when it died. The new one runs the hooks only (AG-56).

    `steps` has the status of every step that started, by index; `running` the indexes of those that
    ran when it died. Rows from `next_hook` on are free.
    """

    reason: str
    cancelled: bool  # else the job failed
    steps: dict[int, StepStatus]
    running: list[int]
    outputs: dict[str, Any]
    next_hook: int


class RunOutcome(Struct, frozen=True, kw_only=True, rename="camel"):
    """How a run went, for the hooks of its workflow."""

    status: str  # success | failed | cancelled
    reason: str | None = None
    failed_job: str | None = None
    duration_ms: int = 0
    job_statuses: dict[str, JobStatus] = {}


class Execute(Struct, frozen=True, kw_only=True, tag_field="t", tag="execute"):
    """One job. The runner imports `workflow_file` from `workspace`, takes `export`, finds the job.

    `purpose`: `job`; `init` (evaluate the impure functions of `base_job_name`, or of the workflow when it
    is empty); `dynamic` (call generator `generator_index`); `hooks` (those of the workflow that
    `run_outcome` asks for). The last three have one synthetic step 0 named after the purpose (`init`,
    `evaluate`), except hooks, whose rows stand from HOOK_STEPS on. `job` is set for generated jobs only.
    """

    run_id: str
    job_id: str
    attempt: int
    workflow_name: str
    workflow_file: str
    export: str
    job_name: str
    base_job_name: str
    workspace: str  # repository root; the working directory of steps
    tmp: str
    matrix: dict[str, str | int | float | bool]
    event: Event
    upstream_outputs: dict[str, dict[str, Any]]
    upstream_statuses: dict[str, JobStatus]
    # What ctx shows of the run: repository, ref, sha, url; agentId, agentVersion, host, platform, arch; for
    # global workflows sourceRepository, sourceRef and sourceSha too.
    run_info: dict[str, Any]
    env: dict[str, str]  # the steps' whole environment (AG-63)
    default_step_timeout_ms: int
    max_grace_period_ms: int
    labels: list[str] = []
    check_mode: str = "apply"  # apply | check | check-fail-on-drift
    is_local: bool = False
    interrupted: Interrupted | None = None
    purpose: str = "job"
    job: LockJob | None = None
    generator_index: int = 0
    rules_from: int = 0  # earlier rules of the job were decided before dispatch
    run_outcome: RunOutcome | None = None
    inputs: dict[str, Any] = {}  # dispatch inputs, defaults applied
    environments: list[str] = []
    is_test_run: bool = False
    fanout_index: int = 0  # among the variants of its base job
    fanout_total: int = 1
    locked_env: list[str] = []  # names of operator secrets: exports of these are refused (AU-55)
    upstream_groups: dict[str, list[str]] = {}  # group, or base job with a matrix → job names in order
    uv: str | None = None  # the host's, for the preset, where the steps' PATH has none
    only_steps: list[str] = []  # names; the others are skipped. Empty: all. `kici run local --step` alone


class Abort(Struct, frozen=True, kw_only=True, tag_field="t", tag="abort"):
    """Stop the running step, then hooks and `cleanup` with their own budget. Force: no hooks."""

    reason: str
    force: bool = False


class Reply(Struct, frozen=True, kw_only=True, tag_field="t", tag="reply"):
    request_id: int
    result: Any = None
    error_code: str | None = None
    error: str | None = None


ToRunner = Execute | Abort | Reply


# ── host ↔ zygote ─────────────────────────────────────────────────────────────────────────────────


class Spawn(Struct, frozen=True, kw_only=True, tag_field="t", tag="spawn"):
    """Fork one runner. Ancillary descriptors: its protocol socket, then its output pipe's write end."""

    spawn_id: int
    cwd: str
    env: dict[str, str]


class Warm(Struct, frozen=True, kw_only=True, tag_field="t", tag="warm"):
    """The zygote's first message, once everything is imported. The versions are the workflow venv's."""

    protocol_version: int
    sdk_version: str
    python_version: str
    pid: int


class Spawned(Struct, frozen=True, kw_only=True, tag_field="t", tag="spawned"):
    spawn_id: int
    pid: int


class Exited(Struct, frozen=True, kw_only=True, tag_field="t", tag="exited"):
    """`status` is the exit code, or minus the signal number."""

    spawn_id: int
    pid: int
    status: int


FromZygote = Warm | Spawned | Exited

decode_from_runner = msgspec.msgpack.Decoder(FromRunner).decode
decode_to_runner = msgspec.msgpack.Decoder(ToRunner).decode
decode_from_zygote = msgspec.msgpack.Decoder(FromZygote).decode
decode_spawn = msgspec.msgpack.Decoder(Spawn).decode
_encode = msgspec.msgpack.Encoder().encode


def encode(message: Struct) -> bytes:
    """Length prefix and body in one buffer."""
    body = _encode(message)
    return LENGTH.pack(len(body)) + body
