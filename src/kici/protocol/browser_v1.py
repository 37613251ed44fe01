"""Browser (or CLI) ↔ Platform, version 1, on `/ws/dashboard` (PD-68…73). JSON text frames.

Signed in by session cookie at upgrade (Origin checked) or by a first frame `auth.request`.
`status.subscribe` gives every event of the org with a per-org monotonic `seq`; after a reconnect
`sinceSeq` replays from a ring, or `resync` tells the client to refetch. Log lines are keyed by line
number: overlap is harmless, a hole is announced by `log.gap`.
"""

from typing import Literal

import msgspec
from msgspec import Struct

from kici.protocol.dashboard_v1 import JobProjection, RunEventView, RunProjection, StepProjection


class AuthRequest(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="auth.request"):
    token: str


class Ping(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="ping"):
    pass


class StatusSubscribe(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="status.subscribe"
):
    org_id: str
    since_seq: int | None = None


class StatusUnsubscribe(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="status.unsubscribe"
):
    org_id: str


class LogSubscribe(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="log.subscribe"
):
    """Lines from `after_line_count` on."""

    org_id: str
    run_id: str
    job_id: str
    step_index: int
    after_line_count: int = 0


class LogUnsubscribe(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="log.unsubscribe"
):
    job_id: str
    step_index: int


FromBrowser = AuthRequest | Ping | StatusSubscribe | StatusUnsubscribe | LogSubscribe | LogUnsubscribe


class AuthSuccess(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="auth.success"):
    connection_id: str


class AuthFailure(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="auth.failure"):
    reason: str


class Pong(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="pong"):
    pass


class Subscribed(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="status.subscribed"
):
    """Events after `seq` follow."""

    org_id: str
    seq: int
    orchestrator_connected: bool


class RunChanged(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="run.changed"):
    """One run's change, whole objects: a new run, or new states of it, its jobs, its steps."""

    org_id: str
    seq: int
    run_id: str
    is_new: bool
    run: RunProjection | None
    jobs: list[JobProjection]
    steps: list[StepProjection]
    events: list[RunEventView]


class OrchestratorStatus(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="orchestrator.status"
):
    org_id: str
    seq: int
    connected: bool
    cluster_name: str | None


class Resync(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="resync"):
    org_id: str
    seq: int


class LogLines(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="log.lines"):
    """`open_line`: the last entry has no newline yet and will be sent again, longer, under the same
    number."""

    run_id: str
    job_id: str
    step_index: int
    attempt: int
    first_line: int
    lines: list[str]
    ts: list[int]
    line_count: int  # lines known so far
    open_line: bool


class LogGap(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="log.gap"):
    """Lines `first_line …` were not sent to this connection: read them by REST."""

    run_id: str
    job_id: str
    step_index: int
    first_line: int
    dropped_line_count: int


class LogEnded(
    Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="log.stream.terminated"
):
    run_id: str
    job_id: str
    step_index: int
    reason: Literal["complete", "not_found", "permission_revoked", "orchestrator_away", "server_shutdown"]


class ErrorFrame(Struct, frozen=True, kw_only=True, rename="camel", tag_field="type", tag="error"):
    code: str
    message: str


ToBrowser = (
    AuthSuccess
    | AuthFailure
    | Pong
    | Subscribed
    | RunChanged
    | OrchestratorStatus
    | Resync
    | LogLines
    | LogGap
    | LogEnded
    | ErrorFrame
)

decode_from_browser = msgspec.json.Decoder(FromBrowser).decode
decode_to_browser = msgspec.json.Decoder(ToBrowser).decode
encode = msgspec.json.Encoder().encode
