"""What earlier local runs came to: one JSON file each, the newest 200 (AU-137).

`$KICI_CONFIG_DIR/history/<startedAtMs>-<runId>.json` (default `~/.kici`), one `Entry` each: a run of one
workflow. `root` is the repository's folder, `run` the object that stands under `runs` in the document of
`kici run local --json` (`kici.cli.local.results.RunReport`): per job status, `errorMessage`, steps with
duration and exit code, and `excerpt`, the last lines of a step that failed. Readers ignore unknown keys.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from kici.cli.local.results import RunReport

MOST_RUNS = 200


class Entry(Struct, frozen=True, kw_only=True, rename="camel"):
    """`schema` is raised when a key changes its meaning."""

    run_id: str
    started_at_ms: int
    root: str
    event: str
    ref: str
    sha: str
    run: RunReport
    schema: int = 1


def history_folder() -> Path:
    given = os.environ.get("KICI_CONFIG_DIR")
    return (Path(given) if given else Path.home() / ".kici") / "history"


def write(entry: Entry) -> None:
    """Readable by this user only; the oldest beyond 200 go. Raises OSError."""
    folder = history_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    name = f"{entry.started_at_ms:013d}-{entry.run_id}.json"
    scratch = folder / f".{name}.{os.getpid()}"
    handle = os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(msgspec.json.encode(entry))
    os.replace(scratch, folder / name)
    for old in _names(folder)[MOST_RUNS:]:
        (folder / old).unlink(missing_ok=True)


def entries() -> Iterator[Entry]:
    """Newest first; what cannot be read is left out."""
    folder = history_folder()
    for name in _names(folder):
        try:
            yield msgspec.json.decode((folder / name).read_bytes(), type=Entry)
        except (OSError, msgspec.DecodeError):
            continue


def find(run_id: str) -> Entry | None:
    """The run with this id, or the newest whose id begins so."""
    if not run_id:
        return None
    return next((entry for entry in entries() if entry.run_id.startswith(run_id)), None)


def _names(folder: Path) -> list[str]:
    try:
        return sorted((name for name in os.listdir(folder) if name.endswith(".json")), reverse=True)
    except FileNotFoundError:
        return []
