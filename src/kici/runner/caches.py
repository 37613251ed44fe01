"""One cache entry restored or saved with the host's help (AU-58, AG-78)."""

import glob
import hashlib
import os
from collections.abc import Callable
from typing import Any

from msgspec import Struct

from kici.runner import archives
from kici.runner.invoke import invoke
from kici.runner.requests import Requests
from kici.sdk.definitions import Cache, CacheKey
from kici.sdk.results import CacheHit

_DIGEST_CHARACTERS = 32


class Caches(Struct, kw_only=True):
    """Where files lie and who answers. `say` writes a line to the log of whoever asked."""

    requests: Requests
    workspace: str
    home: str
    say: Callable[[str], None]

    async def restore(self, cache: Cache) -> CacheHit:
        """Raises whatever keeps it from being restored; then files may be there in part."""
        declared = archives.places(cache.paths)
        key = await invoke(self.key, cache.key)
        found: dict[str, Any] = await self.requests.call(
            "cache.restore", {"key": key, "restoreKeys": list(cache.restore_keys)}
        )
        if not found.get("hit"):
            self.say(f"cache: nothing stored under {key!r}")
            return CacheHit(hit=False)
        matched = str(found.get("matchedKey") or key)
        count = await invoke(archives.unpack, str(found["path"]), declared, self._roots())
        self.say(f"cache: restored {count} files of {matched!r}")
        return CacheHit(hit=True, matched_key=matched)

    async def save(self, cache: Cache) -> bool:
        """False when the key has an entry already: entries are written once."""
        declared = archives.places(cache.paths)
        key = await invoke(self.key, cache.key)
        place: dict[str, Any] = await self.requests.call("cache.save", {"key": key})
        if place.get("skip"):
            self.say(f"cache: {key!r} is stored already")
            return False
        path, kept = str(place["path"]), False
        try:
            count = await invoke(archives.pack, path, declared, self._roots(), self.say)
            if count == 0:
                self.say(f"cache: nothing of {', '.join(cache.paths)} exists, so nothing is saved")
                return False
            size = await invoke(os.path.getsize, path)
            await self.requests.call("cache.commit", {"key": key, "path": path})
            kept = True  # the file is the host's now
        finally:
            if not kept:
                _discard(path)
        self.say(f"cache: saved {count} files, {size:,} bytes packed, under {key!r}")
        return True

    def key(self, key: str | CacheKey) -> str:
        """The literal key; or prefix, parts and the digest of files joined by `-`. Reads files."""
        if isinstance(key, str):
            return key
        parts = [key.prefix, *key.parts]
        if key.files:
            parts.append(self._digest(key.files))
        return "-".join(parts)

    def _digest(self, patterns: tuple[str, ...]) -> str:
        paths: set[str] = set()
        for pattern in patterns:
            (place,) = archives.places([pattern])
            root = self._roots()[place.root]
            matches = glob.glob(place.path, root_dir=root, recursive=True, include_hidden=True)
            paths.update(os.path.join(root, match) for match in matches)
        digest = hashlib.sha256()
        for path in sorted(path for path in paths if os.path.isfile(path)):
            with open(path, "rb") as file:
                content = hashlib.file_digest(file, "sha256").digest()
            digest.update(os.fsencode(os.path.relpath(path, self.workspace)) + b"\0" + content)
        return digest.hexdigest()[:_DIGEST_CHARACTERS]

    def _roots(self) -> dict[str, str]:
        return {"workspace": self.workspace, "home": self.home}


def _discard(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


def label(cache: Cache) -> str:
    """What people call it: its key without the digest."""
    key = cache.key
    return key if isinstance(key, str) else "-".join([key.prefix, *key.parts])
