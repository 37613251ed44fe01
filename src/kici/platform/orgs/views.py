"""What REST says about an org, its orchestrator keys and the orchestrators that use them."""

from datetime import datetime
from typing import Literal

from msgspec import Struct


class OrchestratorKeyView(Struct, frozen=True, kw_only=True, rename="camel"):
    id: str
    name: str
    display: str
    created_at: datetime
    last_used_at: datetime | None


class OrchestratorKeyList(Struct, frozen=True, kw_only=True, rename="camel"):
    keys: list[OrchestratorKeyView]


class CreateKeyBody(Struct, frozen=True, kw_only=True, rename="camel"):
    name: str


class OrchestratorKeyCreated(Struct, frozen=True, kw_only=True, rename="camel"):
    """The only time that the token is shown."""

    id: str
    name: str
    token: str


class SourceView(Struct, frozen=True, kw_only=True, rename="camel"):
    routing_key: str
    name: str
    provider: str
    subtype: str
    webhook_url: str | None


class OrchestratorView(Struct, frozen=True, kw_only=True, rename="camel"):
    connection_id: str
    instance_id: str
    cluster_name: str
    version: str
    mode: Literal["platform", "hybrid", "independent"]
    hostname: str
    connected: bool
    connected_at: datetime
    last_seen_at: datetime


class ClusterView(Struct, frozen=True, kw_only=True, rename="camel"):
    """The orchestrators of one name: `kici run remote` and the dashboard address them as one."""

    name: str
    connected: bool
    versions: list[str]


class OrchestratorList(Struct, frozen=True, kw_only=True, rename="camel"):
    connected: bool  # at least one answers now
    orchestrators: list[OrchestratorView]
    clusters: list[ClusterView]
    default_cluster: str | None  # the one to take when nobody says which: the only one that answers
    sources: list[SourceView]  # stay listed when the orchestrator leaves (PD-77)


class CapabilitiesView(Struct, frozen=True, kw_only=True, rename="camel"):
    """What the orchestrator of a cluster answers (PD-62)."""

    cluster_name: str
    orch_version: str
    platform_version: str
    supported_dashboard_requests: list[str]
