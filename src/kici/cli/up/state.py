"""`state.json`: what the supervisor tells other commands, rewritten whole on every change."""

import os
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

ProcessState = Literal["starting", "ready", "restarting", "stopped", "failed"]


class ProcessRecord(Struct, kw_only=True, rename="camel"):
    name: str
    pid: int | None
    state: ProcessState
    started_at_ms: int
    restarts: int = 0
    last_exit: str | None = None


class UpState(Struct, kw_only=True, rename="camel"):
    supervisor_pid: int
    ready: bool
    platform_url: str
    orchestrator_url: str
    agent_urls: list[str]
    database_url: str
    org_id: str
    api_token_file: str
    port_offset: int
    processes: list[ProcessRecord]
    failure: str | None = None


def write_state(path: Path, state: UpState) -> None:
    """Atomic: a reader sees the old or the new document, never half of one."""
    scratch = path.with_suffix(".tmp")
    scratch.write_bytes(msgspec.json.format(msgspec.json.encode(state), indent=2))
    os.chmod(scratch, 0o600)
    os.replace(scratch, path)


def read_state(path: Path) -> UpState | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=UpState)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
