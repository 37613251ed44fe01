"""Orchestrator ↔ Platform, version 1. The orchestrator dials `ws://…/ws` (PD-12).

Every connection: `auth.request` → `auth.success` → `source.register` → `source.register.ack`, then
unacknowledged projection batches, then live traffic. Closing codes as in agent_v1.

Webhook bodies travel in RELAY binary frames, log bytes in WATCHED_BLOCK and RPC_BYTES frames
(kici.protocol.frames); nothing is base64.

Projection: outbox rows reach the Platform in batches, in outbox order, at least once. Each item is a
whole snapshot of what changed, guarded by `rev` (the outbox sequence): an older `rev` never
overwrites a newer one, so replays are harmless (PD-33).
"""

from typing import Any, Literal

import msgspec
from msgspec import Struct

from kici.protocol.dashboard_v1 import JobProjection, RunEventView, RunProjection, StepProjection

PROTOCOL_VERSION = 1
MIN_PROTOCOL_VERSION = 1

AckResult = Literal[
    "accepted",
    "rejected_signature",
    "rejected_unknown_source",
    "rejected_misconfigured",
    "rejected_request",
]


# ── orchestrator → Platform ───────────────────────────────────────────────────────────────────────


class AuthRequest(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="auth.request"):
    token: str  # kici_ok_…
    protocol_version: int
    instance_id: str
    cluster_name: str
    version: str
    mode: Literal["platform", "hybrid", "independent"]
    hostname: str = ""
    methods: list[str] = []  # RPC methods this orchestrator answers (PD-21)


class SourceInfo(Struct, frozen=True, kw_only=True, rename="camel"):
    routing_key: str
    name: str
    provider: Literal["github", "generic", "local"]
    subtype: Literal["github_app", "generic_webhook", "universal_git", "local"]
    max_payload_bytes: int


class SourceRegister(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="source.register"
):
    """The whole set, also when empty; sent again whenever it changes."""

    message_id: str
    sources: list[SourceInfo]


class WebhookAck(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="webhook.ack"):
    """The delivery is on disk, or refused for good. Never carries secret material."""

    message_id: str
    delivery_id: str
    result: AckResult
    duplicate: bool = False
    filtered: bool = False
    reason: str | None = None


class ProjectionItem(Struct, frozen=True, kw_only=True, rename="camel"):
    """What one transaction changed in one run. Only changed parts are present."""

    rev: int
    run_id: str
    run: RunProjection | None = None
    jobs: list[JobProjection] = []
    steps: list[StepProjection] = []
    events: list[RunEventView] = []


class ProjectionBatch(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="projection.batch"
):
    batch_id: int
    items: list[ProjectionItem]


class RpcResponse(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="rpc.response"):
    """Exactly one answer per request: this, or an RPC_BYTES frame."""

    id: str
    result: Any = None
    error_code: str | None = None
    error: str | None = None
    status: int = 200


class RpcBytes(Struct, frozen=True, kw_only=True, rename="camel"):
    """Head of an RPC_BYTES frame."""

    id: str
    meta: dict[str, Any] = {}


class LogWatchEnded(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="log.watch.ended"
):
    watch_id: int
    reason: Literal["complete", "not_found", "overflow"]


class Heartbeat(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="heartbeat"):
    timestamp: int


FromOrchestrator = (
    AuthRequest | SourceRegister | WebhookAck | ProjectionBatch | RpcResponse | LogWatchEnded | Heartbeat
)


# ── Platform → orchestrator ───────────────────────────────────────────────────────────────────────


class AuthSuccess(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="auth.success"):
    connection_id: str
    org_id: str
    org_public_alias: str


class AuthFailure(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="auth.failure"):
    reason: str


class AcceptedSource(Struct, frozen=True, kw_only=True, rename="camel"):
    routing_key: str
    webhook_url: str | None


class SourceRegisterAck(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="source.register.ack"
):
    message_id: str
    accepted: list[AcceptedSource]


class WebhookRelay(Struct, frozen=True, kw_only=True, rename="camel"):
    """Head of a RELAY frame; the body follows, byte for byte as received.

    Sent again, with the same `delivery_key`, until an answer arrives: the inbox deduplicates.
    """

    message_id: str
    routing_key: str
    request_id: str
    headers: dict[str, str]  # names in lower case
    client_ip: str | None
    received_at_ms: int
    traceparent: str | None = None


class ProjectionAck(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="projection.ack"
):
    """The batch is committed; its outbox rows may go."""

    batch_id: int


class Actor(Struct, frozen=True, kw_only=True, rename="camel"):
    kind: Literal["user", "api_key", "service_account", "platform_operator", "system"]
    id: str
    display_name: str = ""


class RpcRequest(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="rpc.request"):
    id: str
    method: str
    params: dict[str, Any]
    actor: Actor
    deadline_ms: int  # how long the asker waits


class LogWatch(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="log.watch"):
    """Send every block of this stream from the one that holds `from_line` on, then live ones."""

    watch_id: int
    run_id: str
    job_id: str
    step_index: int
    from_line: int


class LogUnwatch(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="log.unwatch"):
    watch_id: int


ToOrchestrator = (
    AuthSuccess
    | AuthFailure
    | SourceRegisterAck
    | ProjectionAck
    | RpcRequest
    | LogWatch
    | LogUnwatch
    | Heartbeat
)

decode_from_orchestrator = msgspec.json.Decoder(FromOrchestrator).decode
decode_to_orchestrator = msgspec.json.Decoder(ToOrchestrator).decode
encode = msgspec.json.Encoder().encode
