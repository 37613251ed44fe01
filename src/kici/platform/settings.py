"""What the Platform reads from its environment; see kici.runtime.settings for how."""

import ipaddress
import os
import socket
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct, field

from kici.runtime.ids import uuid7
from kici.runtime.logging import LogFormat, LogLevel
from kici.runtime.settings import BadSettings

Port = Annotated[int, Meta(ge=0, le=65535)]
Positive = Annotated[int, Meta(ge=1)]


class PlatformSettings(Struct, frozen=True, kw_only=True):
    database_url: str
    secret_key: Annotated[str, Meta(pattern="^[0-9a-fA-F]{64}$")]  # seals webhook_inbox
    host: str = "127.0.0.1"
    port: Port = 10142
    base_path: str = "/"
    public_url: str = ""  # default: http://<host>:<port>
    bootstrap_file: str = ""
    log_level: LogLevel = "info"
    log_format: LogFormat = "auto"
    database_pool_size: Positive = 8
    platform_instance_id: str = field(default_factory=lambda: f"{socket.gethostname()}-{uuid7()}")
    trusted_proxies: str = ""  # CIDRs, comma-separated
    webhook_inbox: Literal["on", "off"] = "on"
    webhook_inbox_ttl_s: Positive = 86_400
    webhook_inbox_max_entries: Positive = 10_000  # per org
    webhook_inbox_max_bytes: Positive = 256 << 20  # per org
    webhook_ack_timeout_ms: Positive = 5_000
    webhook_total_timeout_ms: Positive = 8_000
    dashboard_proxy_timeout_ms: Positive = 10_000


class Origins:
    """Where we are, as browsers and senders see it."""

    def __init__(self, settings: PlatformSettings) -> None:
        self.base_path = normal_base_path(settings.base_path)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        default = f"http://{host}:{settings.port}{self.base_path}"
        self.public_url = (settings.public_url or default).rstrip("/")
        parts = urlsplit(self.public_url)
        self.secure = parts.scheme == "https"
        self._public_origin = f"{parts.scheme}://{parts.netloc}".lower()

    def same(self, origin: str, host: str | None) -> bool:
        """Is this `Origin` our own page? Ours: the public URL's, or the host that was asked."""
        origin = origin.lower()
        return origin == self._public_origin or (
            host is not None and urlsplit(origin).netloc == host.lower()
        )

    def webhook_url(self, org_id: str, source_name: str) -> str:
        return f"{self.public_url}/webhook/{org_id}/generic/{source_name}"


def normal_base_path(text: str) -> str:
    """`kici` → `/kici/`."""
    inner = text.strip("/")
    return f"/{inner}/" if inner else "/"


Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def trusted_networks(text: str) -> tuple[Network, ...]:
    try:
        return tuple(ipaddress.ip_network(part.strip()) for part in text.split(",") if part.strip())
    except ValueError as error:
        raise BadSettings([f"KICI_TRUSTED_PROXIES: {error}; give CIDRs such as 10.0.0.0/8"]) from error


def client_ip(
    peer: str | None, forwarded: str | None, real_ip: str | None, trusted: tuple[Network, ...]
) -> str | None:
    """The sender's address. Forwarding headers count only when a trusted proxy set them; then the last
    hop that is not itself a trusted proxy."""
    if peer is None or not trusted or not _within(peer, trusted):
        return peer
    for hop in reversed([part.strip() for part in (forwarded or "").split(",")]):
        if hop and not _within(hop, trusted):
            return hop
    return (real_ip or "").strip() or None


def _within(address: str, networks: tuple[Network, ...]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in networks)


def static_folder() -> str:
    """Where the dashboard's build lies inside the package."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "static")
