"""Notices that something below `.kici` changed, by looking (AU-95). No dependency, the same everywhere."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from kici.compiler.content import CACHES, LOCK_NAME

DEBOUNCE_S = 0.2

Snapshot = dict[str, tuple[int, int]]


def snapshot(kici_dir: Path) -> Snapshot:
    """Time and size of every file but the lock file, caches and virtual environments."""
    return dict(_entries(os.fspath(kici_dir), top=True))


def wait_for_change(kici_dir: Path, before: Snapshot) -> Snapshot:
    """Blocks until the tree differs from `before` and has then been quiet for DEBOUNCE_S."""
    last = before
    while True:
        time.sleep(DEBOUNCE_S)
        now = snapshot(kici_dir)
        if now == last and now != before:
            return now
        last = now


def _entries(folder: str, *, top: bool = False) -> Iterator[tuple[str, tuple[int, int]]]:
    try:
        with os.scandir(folder) as found:
            entries = list(found)
    except OSError:
        return  # gone meanwhile
    if any(entry.name == "pyvenv.cfg" for entry in entries):
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in CACHES:
                    yield from _entries(entry.path)
            elif not (top and (entry.name == LOCK_NAME or entry.name.startswith(".kici.lock."))):
                status = entry.stat(follow_symlinks=False)
                yield entry.path, (status.st_mtime_ns, status.st_size)
        except OSError:
            continue
