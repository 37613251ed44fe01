"""Everything an operator can say to an agent (AG-91). Unknown `KICI_*` names stop the start."""

import os
import socket
from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from kici.runtime.ids import uuid7
from kici.runtime.logging import LogFormat, LogLevel
from kici.runtime.settings import BadSettings


class AgentSettings(Struct, frozen=True, kw_only=True):
    orchestrator_url: str
    agent_id: str = ""  # <hostname>-<8 hex> when empty
    agent_token: str | None = None
    labels: str = ""
    properties: str = ""
    data_dir: str = ""
    host: str = "127.0.0.1"
    port: int = 8080
    base_path: str = "/"
    log_level: LogLevel = "info"
    log_format: LogFormat = "auto"
    sandbox: bool = False
    job_user: str = ""  # jobs run as this user when the agent is root (AG-62)
    default_step_timeout_ms: int = 1_800_000
    job_heartbeat_interval_ms: int = 60_000
    max_grace_period_ms: int = 300_000
    max_log_size_bytes: int = 1 << 30
    backpressure_mode: Literal["pause", "drop"] = "pause"


def completed(settings: AgentSettings, environ: Mapping[str, str]) -> AgentSettings:
    """Checks what a type cannot, and fills in what depends on the host. Raises BadSettings."""
    problems: list[str] = []
    parts = urlsplit(settings.orchestrator_url)
    if parts.scheme not in ("ws", "wss") or not parts.hostname:
        problems.append(
            f"KICI_ORCHESTRATOR_URL: expected ws://host:port/ws, got {settings.orchestrator_url!r}"
        )
    if settings.sandbox:
        problems.append(
            "KICI_SANDBOX: the bwrap sandbox is not available in this version; only false is allowed"
        )
    for name, least in (
        ("default_step_timeout_ms", 1),
        ("job_heartbeat_interval_ms", 100),
        ("max_grace_period_ms", 0),
        ("max_log_size_bytes", 1024),
        ("port", 0),
    ):
        if getattr(settings, name) < least:
            problems.append(f"KICI_{name.upper()}: must be at least {least}")
    if problems:
        raise BadSettings(problems)
    return msgspec.structs.replace(
        settings,
        agent_id=settings.agent_id or f"{socket.gethostname()}-{uuid7()[-8:]}",
        data_dir=os.path.abspath(settings.data_dir or _default_data_dir(environ)),
    )


def _default_data_dir(environ: Mapping[str, str]) -> str:
    if os.getuid() == 0:
        return "/var/lib/kici-agent"
    base = environ.get("XDG_DATA_HOME") or os.path.expanduser("~/.local/share")
    return os.path.join(base, "kici-agent")
