"""What a commit says about workflows: its message and the outcome of looking for its lock file (OR-60…62).

Answers are cached by commit, never by branch; a commit does not change. Errors are never cached.
"""

import asyncio
from collections import OrderedDict
from typing import ClassVar

from msgspec import Struct

from kici.orchestrator.lockfiles.document import LockCorrupt, ParsedLock, parse_lock
from kici.orchestrator.lockfiles.git import Repositories, is_sha
from kici.runtime.clock import Clock
from kici.spec.errors import NotFound
from kici.spec.lock import LOCK_PATH

ABSENT_TTL_MS = 60_000
MAX_MESSAGE = 4096


class CommitUnknown(NotFound):
    """The repository does not hold the commit."""

    code: ClassVar[str] = "commit_unknown"


class CommitFacts(Struct, frozen=True, kw_only=True):
    """`lock` None and `corrupt` None: the commit has no lock file."""

    sha: str  # of the commit itself, where an annotated tag was asked for
    message: str
    lock: ParsedLock | None = None
    corrupt: str | None = None


class CommitCache:
    """LRU of facts with one fetch per key at a time."""

    def __init__(
        self, repositories: Repositories, clock: Clock, *, max_entries: int = 500, ttl_ms: int = 3_600_000
    ) -> None:
        self._repositories = repositories
        self._clock = clock
        self._max = max_entries
        self._ttl_ms = ttl_ms
        self._known: OrderedDict[tuple[str, str, str], tuple[int, CommitFacts]] = OrderedDict()
        self._fetching: dict[tuple[str, str, str], asyncio.Lock] = {}

    async def facts(self, routing_key: str, path: str, sha: str) -> CommitFacts:
        """Raises CommitUnknown, RepositoryUnreadable, or GitFailed (worth another try)."""
        key = (routing_key, path, sha)
        found = self._fresh(key)
        if found is not None:
            return found
        lock = self._fetching.setdefault(key, asyncio.Lock())
        try:
            async with lock:
                found = self._fresh(key)
                if found is None:
                    found = await self._read(path, sha)
                    self._remember(key, found)
                return found
        finally:
            if not lock.locked():
                self._fetching.pop(key, None)

    def _fresh(self, key: tuple[str, str, str]) -> CommitFacts | None:
        entry = self._known.get(key)
        if entry is None:
            return None
        until_ms, facts = entry
        if self._clock.now_ms() >= until_ms:
            del self._known[key]
            return None
        self._known.move_to_end(key)
        return facts

    def _remember(self, key: tuple[str, str, str], facts: CommitFacts) -> None:
        absent = facts.lock is None and facts.corrupt is None
        ttl_ms = min(ABSENT_TTL_MS, self._ttl_ms) if absent else self._ttl_ms
        self._known[key] = (self._clock.now_ms() + ttl_ms, facts)
        while len(self._known) > self._max:
            self._known.popitem(last=False)

    async def _read(self, path: str, sha: str) -> CommitFacts:
        if not is_sha(sha):
            raise CommitUnknown(f"{sha[:80]!r} is not a commit id")
        wanted = (f"{sha}^{{commit}}", f"{sha}:{LOCK_PATH}")
        commit, blob = await self._repositories.objects(path, wanted)
        if commit is None:
            # A repository that was replaced under the same path is seen only by a new process.
            await self._repositories.fresh(path)
            commit, blob = await self._repositories.objects(path, wanted)
        if commit is None:
            raise CommitUnknown(f"there is no commit {sha} in {path}")
        message = commit_message(commit.data)
        if blob is None or blob.kind != "blob":
            return CommitFacts(sha=commit.sha, message=message)
        try:
            return CommitFacts(sha=commit.sha, message=message, lock=parse_lock(blob.data))
        except LockCorrupt as error:
            return CommitFacts(sha=commit.sha, message=message, corrupt=str(error))


def commit_message(data: bytes) -> str:
    """Of a raw commit object, shortened to MAX_MESSAGE characters."""
    _, _, message = data.partition(b"\n\n")
    text = message.decode(errors="replace").strip()
    return text if len(text) <= MAX_MESSAGE else f"{text[: MAX_MESSAGE - 1]}…"
