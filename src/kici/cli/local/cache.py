"""The user's caches as a folder of this machine (AU-115, AU-58, AG-78).

An entry is `<digest>.tar.zst` beside `<digest>.json`, which has its key. Entries are written once; the
longest unused ones go when all together are larger than the quota. Caches of two repositories never meet.
"""

import hashlib
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from kici.spec.errors import KiciError

QUOTA_BYTES = 5 << 30
_DATA, _ENTRY = ".tar.zst", ".json"
_STALE_S = 24 * 3600


class _Entry(Struct, frozen=True, kw_only=True):
    key: str
    saved_at_s: float


class UnknownFile(KiciError):
    """A commit of a file that no save handed out."""

    code = "cache_unknown_file"


class LocalCache:
    """Blocking, quick: only names and times are touched here, the runner reads and writes the archives."""

    def __init__(
        self, repository: str, *, quota_bytes: int = QUOTA_BYTES, base: Path | None = None
    ) -> None:
        digest = hashlib.sha256(repository.encode()).hexdigest()[:16]
        self.folder = (base or cache_home()) / "user" / digest
        self._quota_bytes = quota_bytes
        self._handed_out: set[str] = set()

    def restore(self, key: str, restore_keys: Sequence[str]) -> tuple[str, Path] | None:
        """(key that matched, archive): the exact one, else the newest below the first prefix that has any."""
        data = self._data(key)
        if data.exists():
            os.utime(data)
            return key, data
        entries = self._entries() if restore_keys else []
        for prefix in restore_keys:
            fitting = [entry for entry in entries if entry.key.startswith(prefix)]
            if fitting:
                newest = max(fitting, key=lambda entry: entry.saved_at_s)
                os.utime(self._data(newest.key))
                return newest.key, self._data(newest.key)
        return None

    def begin(self, key: str) -> Path | None:
        """Where to write the archive; None when the key is there already."""
        if self._data(key).exists():
            return None
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix="new-", dir=self.folder)
        os.close(handle)
        self._handed_out.add(name)
        return Path(name)

    def commit(self, key: str, path: str) -> None:
        """The archive at `path` is complete. Another process may have been faster; then it stays."""
        if path not in self._handed_out:
            raise UnknownFile("that file was not handed out for a cache")
        self._handed_out.discard(path)
        data = self._data(key)
        if data.exists():
            os.unlink(path)
            return
        entry = _Entry(key=key, saved_at_s=os.stat(path).st_mtime)
        side = data.with_name(data.name.removesuffix(_DATA) + _ENTRY)
        side.write_bytes(msgspec.json.encode(entry))
        os.replace(path, data)
        self._evict()

    def discard(self) -> None:
        """Forget archives that were begun and never completed."""
        for path in self._handed_out:
            Path(path).unlink(missing_ok=True)
        self._handed_out.clear()

    def _data(self, key: str) -> Path:
        return self.folder / (hashlib.sha256(key.encode()).hexdigest()[:40] + _DATA)

    def _entries(self) -> list[_Entry]:
        found: list[_Entry] = []
        for side in self.folder.glob(f"*{_ENTRY}"):
            try:
                entry = msgspec.json.decode(side.read_bytes(), type=_Entry)
            except (OSError, msgspec.DecodeError):
                continue
            if self._data(entry.key).exists():
                found.append(entry)
        return found

    def _evict(self) -> None:
        """The longest unused first; the newest entry stays, however large it is."""
        sizes: list[tuple[float, int, Path]] = []
        for data in self.folder.iterdir():
            try:
                facts = data.stat()
            except FileNotFoundError:
                continue
            if data.name.endswith(_DATA):
                sizes.append((facts.st_mtime, facts.st_size, data))
        sizes.sort(reverse=True)
        total = 0
        for number, (_used_at_s, size, data) in enumerate(sizes):
            total += size
            if number and total > self._quota_bytes:
                data.unlink(missing_ok=True)
                data.with_name(data.name.removesuffix(_DATA) + _ENTRY).unlink(missing_ok=True)
        newest = sizes[0][0] if sizes else 0.0
        for left in self.folder.glob("new-*"):
            if str(left) not in self._handed_out and left.stat().st_mtime < newest - _STALE_S:
                left.unlink(missing_ok=True)


def cache_home() -> Path:
    """`$XDG_CACHE_HOME/kici`, else `~/.cache/kici`."""
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else Path.home() / ".cache") / "kici"
