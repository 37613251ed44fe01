"""Which remote runs this machine started: the newest 200, for `kici run remote --history`."""

import os

import msgspec
from msgspec import Struct

from kici.cli.config import config_dir

MOST_RUNS = 200


class Started(Struct, frozen=True, kw_only=True, rename="camel"):
    run_id: str
    workflow: str
    fixture: str
    repository: str
    branch: str
    started_at_ms: int
    platform_url: str
    url: str
    status: str = "started"


def _file() -> str:
    return str(config_dir() / "remote-runs.json")


def entries() -> list[Started]:
    """Newest first; empty when there is nothing to read."""
    try:
        with open(_file(), "rb") as file:
            return msgspec.json.decode(file.read(), type=list[Started])
    except (OSError, msgspec.MsgspecError):
        return []


def remember(runs: list[Started]) -> None:
    """Adds, or replaces what has the same id. Readable by this user only. Raises OSError."""
    ids = {run.run_id for run in runs}
    kept = [*reversed(runs), *(entry for entry in entries() if entry.run_id not in ids)][:MOST_RUNS]
    kept.sort(key=lambda entry: -entry.started_at_ms)
    config_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = f"{_file()}.{os.getpid()}.tmp"
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.encode(kept))
    os.replace(scratch, _file())
