"""What the orchestrator reads from its environment; see kici.runtime.settings for how (OR-1, OR-7, OR-8)."""

import ipaddress
import os
import re
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from kici.runtime.logging import LogFormat, LogLevel

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[int, Meta(ge=1)]
Natural = Annotated[int, Meta(ge=0)]
Mode = Literal["platform", "hybrid", "independent"]

_CLUSTER_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_INSTANCE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class OrchestratorSettings(Struct, frozen=True, kw_only=True):
    database_url: str
    secret_key: Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$")]  # seals what sources are verified with
    mode: Mode = "platform"  # hybrid and independent also serve webhooks directly
    host: str = "127.0.0.1"
    port: Port = 10143
    base_path: str = "/"
    platform_url: str = ""  # http(s)://…; needed unless independent
    platform_token: str = ""  # orchestrator key of the Platform; needed unless independent
    dashboard_url: str = ""
    public_url: str = ""  # where others reach this process over HTTP; default: its host and port
    bootstrap_file: str = ""  # made by `kici up`: organisation and first tokens
    data_dir: str = ""  # default: /var/lib/kici/orchestrator as root, else ~/.local/share/kici/orchestrator
    storage_url: str = ""  # object storage; default: file://<data dir>/store
    cluster_name: str = "local"
    cluster_instance_id: str = ""  # default: made once, kept in the data directory
    cluster_trusted_proxies: str = ""  # CIDRs, comma-separated: whose X-Forwarded-For is believed
    database_pool_size: Positive = 12
    auto_migrate: bool = True
    log_level: LogLevel = "info"
    log_format: LogFormat = "auto"
    dispatch_ack_timeout_ms: Positive = 10_000
    queue_timeout_ms: Natural = 3_600_000  # 0: jobs wait for ever
    concurrency_wait_timeout_ms: Natural = 3_600_000  # for a place in a concurrency group; 0: for ever
    queue_max_depth: Natural = 1000  # waiting jobs from which on new runs are refused; 0: no limit
    queue_backpressure_threshold: Natural = 100  # waiting jobs that are warned of when they stay; 0: never
    agent_max_reconnect_delay_ms: Positive = 60_000  # jobs wait twice as long for their agent
    job_heartbeat_interval_ms: Positive = 60_000
    stale_detector_scan_interval_ms: Positive = 60_000
    stale_detector_threshold_multiplier: Positive = 2
    max_job_attempts: Positive = 5
    max_log_size_bytes: Positive = 1 << 30  # per step
    cache_build_timeout_ms: Positive = 600_000  # of a build of dependencies, which other runs may wait for
    cache_max_tarball_bytes: Positive = 524_288_000  # larger packed dependencies are not shared
    user_cache_quota_bytes: Positive = 5 << 30  # of an organisation; the least recently used go first
    user_cache_ttl_ms: Positive = 7 * 86_400_000  # since the last use
    lockfile_cache_max: Positive = 500
    lockfile_cache_ttl_ms: Positive = 3_600_000
    event_router_max_dispatch_attempts: Positive = 5  # of a delivery or an event, before the dead letters
    event_router_lease_duration_ms: Positive = 60_000
    event_router_retry_scan_interval_ms: Positive = 10_000
    event_router_retry_base_backoff_ms: Positive = 5_000
    event_router_retry_max_backoff_ms: Positive = 300_000
    event_router_max_chain_depth: Positive = 10  # internal events that may follow from each other
    event_router_rate_limit_per_workflow_per_minute: Positive = (
        100  # events of one name from one repository
    )
    event_router_event_ttl_seconds: Positive = 604_800
    event_router_cleanup_interval_ms: Positive = 3_600_000

    @property
    def serves_webhooks(self) -> bool:
        return self.mode != "platform"

    @property
    def home(self) -> str:
        if self.data_dir:
            return os.path.abspath(self.data_dir)
        if os.geteuid() == 0:
            return "/var/lib/kici/orchestrator"
        return os.path.expanduser("~/.local/share/kici/orchestrator")

    @property
    def storage(self) -> str:
        return self.storage_url or f"file://{self.home}/store"

    @property
    def root(self) -> str:
        """The base path without a trailing slash; empty for `/`."""
        return self.base_path.rstrip("/")

    @property
    def trusted_proxies(self) -> list[ipaddress.IPv4Network | ipaddress.IPv6Network]:
        return [
            ipaddress.ip_network(word.strip(), strict=False)
            for word in self.cluster_trusted_proxies.split(",")
            if word.strip()
        ]


def problems(settings: OrchestratorSettings) -> list[str]:
    """What does not fit together, every one at once (OR-7)."""
    found: list[str] = []
    if settings.mode != "independent":
        if not settings.platform_url:
            found.append(f"KICI_PLATFORM_URL: required in mode {settings.mode}")
        if not settings.platform_token:
            found.append(
                f"KICI_PLATFORM_TOKEN (or KICI_PLATFORM_TOKEN_FILE): required in mode {settings.mode}"
            )
    for name, url, schemes in (
        ("KICI_PLATFORM_URL", settings.platform_url, {"http", "https"}),
        ("KICI_DASHBOARD_URL", settings.dashboard_url, {"http", "https"}),
        ("KICI_PUBLIC_URL", settings.public_url, {"http", "https"}),
        ("KICI_DATABASE_URL", settings.database_url, {"postgresql", "postgres"}),
    ):
        if url and urlsplit(url).scheme not in schemes:
            found.append(f"{name}: starts with {' or '.join(f'{scheme}://' for scheme in sorted(schemes))}")
    if _CLUSTER_NAME.fullmatch(settings.cluster_name) is None:
        found.append(
            "KICI_CLUSTER_NAME: 1 to 63 lower-case letters, digits and dashes, no dash at the ends"
        )
    if settings.cluster_instance_id and _INSTANCE_ID.fullmatch(settings.cluster_instance_id) is None:
        found.append("KICI_CLUSTER_INSTANCE_ID: letters, digits, dot, dash and underscore, at most 128")
    if not settings.base_path.startswith("/"):
        found.append("KICI_BASE_PATH: starts with /")
    try:
        _ = settings.trusted_proxies
    except ValueError as error:
        found.append(f"KICI_CLUSTER_TRUSTED_PROXIES: {error}")
    return found
