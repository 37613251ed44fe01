"""A source as ingress sees it: who it is, how it is verified, what its bodies look like (OR-10…18)."""

import time
from typing import Literal

from msgspec import Struct

from kici.orchestrator.runs.start import RunSource
from kici.orchestrator.sources.verification import Verification
from kici.protocol.platform_v1 import SourceInfo

Kind = Literal["local", "generic"]
PayloadFormat = Literal["", "github"]
Subtype = Literal["local", "generic_webhook", "universal_git", "github_app"]

# Never kept with a delivery: they let the bearer in (OR-16).
STRIPPED_HEADERS = (
    "authorization",
    "cookie",
    "set-cookie",
    "proxy-authorization",
    "x-api-key",
    "x-auth-token",
)
LOCAL_DEDUP_S = 86_400  # OR-34


class SourceConfig(Struct, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """The `config` column. `path` and `repository` belong to local sources, the rest to webhooks.

    `eventTypePath`, `idempotencyKeyPath` are JSONPaths into the body, tried when the header is absent.
    `payloadFormat` github: bodies are what GitHub sends, and start what the repository they name has.
    """

    path: str = ""
    repository: str = ""
    event_type_header: str = "X-Event-Type"
    event_type_path: str = ""
    idempotency_key_header: str = ""
    idempotency_key_path: str = ""
    allowed_events: list[str] = []
    strip_headers: list[str] = []
    payload_format: PayloadFormat = ""


class Source(Struct, frozen=True, kw_only=True):
    """One enabled source with everything that a delivery needs, in memory.

    `verification` None: what is stored cannot be used (`problem` says why), every delivery is answered
    `rejected_misconfigured`.
    """

    id: str
    org_id: str
    kind: Kind
    subtype: Subtype
    name: str
    routing_key: str
    config: SourceConfig
    verification: Verification | None
    problem: str | None
    max_payload_bytes: int
    rate_limit_rpm: int  # 0: none
    dedup_window_s: int

    @property
    def info(self) -> SourceInfo:
        """As announced to the Platform."""
        return SourceInfo(
            routing_key=self.routing_key,
            name=self.name,
            provider=self.kind,
            subtype=self.subtype,
            max_payload_bytes=self.max_payload_bytes,
        )

    @property
    def attribution(self) -> RunSource:
        return RunSource(
            org_id=self.org_id,
            routing_key=self.routing_key,
            name=self.name,
            subtype=self.subtype,
            provider=self.kind,
        )


class Bucket:
    """Token bucket: a minute's worth at most, refilled evenly."""

    __slots__ = ("_at", "_left", "_per_second", "_size")

    def __init__(self, per_minute: int) -> None:
        self._size = float(per_minute)
        self._per_second = per_minute / 60
        self._left = self._size
        self._at = time.monotonic()

    def take(self) -> int:
        """0 when there was a token, else whole seconds until there is one."""
        now = time.monotonic()
        self._left = min(self._size, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left >= 1:
            self._left -= 1
            return 0
        return max(1, int((1 - self._left) / self._per_second + 0.999))
