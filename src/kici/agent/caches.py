"""The user cache of one job: archives come and go as files that the runner packs and unpacks (AG-78, AU-58).

    restore  ask → download to a file of ours → checksum → the runner unpacks it
    save     ask → a path → the runner packs to it → commit: upload, tell size and checksum

What goes wrong here never fails a job: the runner hears of it and says so in the step's log.
"""

import os
import stat
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

from kici.agent.requests import RequestFailed
from kici.agent.transfer import Transfers

T = TypeVar("T")

ASK_S = 30.0  # AG-12
TRANSFER_S = 600.0
MAX_BYTES = 5 << 30
_MOST_ARCHIVES = 100  # of one job

Ask = Callable[[str, dict[str, Any], float], Awaitable[Any]]
"""Method, params, seconds."""

_Key = Annotated[str, Meta(min_length=1, max_length=512)]
_Prefixes = Annotated[list[_Key], Meta(max_length=20)]


class _Restore(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    key: _Key
    restore_keys: _Prefixes = []


class _Save(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    key: _Key


class _Commit(Struct, frozen=True, rename="camel", forbid_unknown_fields=True):
    key: _Key
    path: str


class _Found(Struct, frozen=True, rename="camel"):
    """The orchestrator's answer to `cache.restore`."""

    hit: bool
    matched_key: str | None = None
    path: str = ""
    sha256: str = ""
    size_bytes: int = 0


class _Place(Struct, frozen=True, rename="camel"):
    """And to `cache.save`."""

    skip: bool
    entry_id: str = ""
    path: str = ""
    max_bytes: int = MAX_BYTES


class _Saving(Struct, frozen=True):
    key: str
    place: _Place
    name: str  # of the file


class JobCache:
    """`folder` is made when needed; its owner removes it. `give` hands a file there to the job's user, `owner`."""

    def __init__(
        self, transfers: Transfers, folder: str, *, give: Callable[[str], None], owner: int
    ) -> None:
        self.folder = folder
        self._transfers = transfers
        self._give = give
        self._owner = owner
        self._made = 0
        self._saving: dict[str, _Saving] = {}  # by path

    async def restore(self, params: dict[str, Any], ask: Ask) -> dict[str, Any]:
        """{hit, matchedKey, path}. Raises RequestFailed or TransferFailed."""
        wanted = checked("cache.restore", params, _Restore)
        answer = await ask("cache.restore", {"key": wanted.key, "restoreKeys": wanted.restore_keys}, ASK_S)
        found = msgspec.convert(answer, _Found)
        if not found.hit:
            return {"hit": False, "matchedKey": None, "path": None}
        path = self._new_file()
        received = await self._transfers.download(
            found.path, path, max_bytes=min(found.size_bytes, MAX_BYTES), timeout_s=TRANSFER_S
        )
        if (received.size, received.sha256) != (found.size_bytes, found.sha256):
            os.unlink(path)
            raise RequestFailed(
                "cache_damaged", f"the archive of {found.matched_key!r} has another checksum"
            )
        self._give(path)
        return {"hit": True, "matchedKey": found.matched_key, "path": path}

    async def save(self, params: dict[str, Any], ask: Ask) -> dict[str, Any]:
        """{skip, path}: where the runner writes its archive. Raises RequestFailed."""
        wanted = checked("cache.save", params, _Save)
        place = msgspec.convert(await ask("cache.save", {"key": wanted.key}, ASK_S), _Place)
        if place.skip:
            return {"skip": True, "path": None}
        path = self._new_file()
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
        self._give(path)
        self._saving[path] = _Saving(wanted.key, place, os.path.basename(path))
        return {"skip": False, "path": path}

    async def commit(self, params: dict[str, Any], ask: Ask) -> dict[str, Any]:
        """{}. Raises RequestFailed or TransferFailed."""
        wanted = checked("cache.commit", params, _Commit)
        saving = self._saving.pop(wanted.path, None)
        if saving is None or saving.key != wanted.key:
            raise RequestFailed("invalid_input", "cache.commit: no such archive is being saved")
        descriptor = self._open(saving)
        try:
            sent = await self._transfers.upload(saving.place.path, descriptor, timeout_s=TRANSFER_S)
        finally:
            os.close(descriptor)
            os.unlink(os.path.join(self.folder, saving.name))
        await ask(
            "cache.commit",
            {
                "key": saving.key,
                "entryId": saving.place.entry_id,
                "sha256": sent.sha256,
                "sizeBytes": sent.size,
            },
            ASK_S,
        )
        return {}

    def _open(self, saving: _Saving) -> int:
        """The runner could have put anything there: only a plain file of its own is read."""
        try:
            descriptor = os.open(
                os.path.join(self.folder, saving.name), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK
            )
        except OSError as error:
            raise RequestFailed(
                "invalid_input", f"cache.commit: the archive cannot be read: {error.strerror}"
            ) from error
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1 or found.st_uid != self._owner:
            os.close(descriptor)
            raise RequestFailed("invalid_input", "cache.commit: not a file that this job wrote")
        if found.st_size > saving.place.max_bytes:
            os.close(descriptor)
            raise RequestFailed(
                "limit_exceeded",
                f"the archive has {found.st_size} bytes; {saving.place.max_bytes} are allowed",
            )
        return descriptor

    def _new_file(self) -> str:
        self._made += 1
        if self._made > _MOST_ARCHIVES:
            raise RequestFailed("limit_exceeded", f"more than {_MOST_ARCHIVES} cache archives in one job")
        os.makedirs(self.folder, mode=0o711, exist_ok=True)
        return os.path.join(self.folder, f"{self._made}.archive")


def checked(method: str, params: dict[str, Any], kind: type[T]) -> T:
    """Raises RequestFailed naming what does not fit (AG-37)."""
    try:
        return msgspec.convert(params, kind)
    except msgspec.ValidationError as error:
        raise RequestFailed("invalid_input", f"{method}: {error}") from error
