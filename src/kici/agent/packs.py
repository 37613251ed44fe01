"""Environments as archives: made by a build, unpacked by agents that would have to install the same (AG-73…75).

An archive is a tar in zstd with names in order and neither owner nor time, so that equal environments give
equal bytes. Links that lead out of the environment are its interpreter, which is not packed: the key tells that
the one here is the same, and `bin/python` is made anew.

Nothing of this fails a job. What cannot be fetched is installed, and the log says so.
"""

import asyncio
import os
import stat
import sys
import tarfile
import threading
from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar

import msgspec
import zstandard
from msgspec import Struct

from kici.agent.caches import ASK_S, Ask
from kici.agent.mirror import Say
from kici.agent.requests import RequestFailed
from kici.agent.transfer import TransferFailed, Transfers
from kici.runtime.logging import get_logger
from kici.spec.errors import KiciError

log = get_logger(__name__)

T = TypeVar("T")

FETCH_S = 300.0
PUBLISH_S = 600.0
MAX_PACKED = 5 << 30
MAX_UNPACKED = 32 << 30
_MTIME = 315_532_800  # 1980: ZIP files know no time before
_LEVEL = 3
_PYTHON = os.path.join("bin", "python")


class PackBroken(KiciError):
    """An archive that is none of ours."""

    code: ClassVar[str] = "pack_broken"


class _Found(Struct, frozen=True, rename="camel"):
    hit: bool
    path: str = ""
    sha256: str = ""
    size_bytes: int = 0


class _Place(Struct, frozen=True, rename="camel"):
    skip: bool
    entry_id: str = ""
    path: str = ""
    max_bytes: int = MAX_PACKED


class Packs:
    """For one job: `ask` asks its orchestrator."""

    def __init__(self, transfers: Transfers, ask: Ask) -> None:
        self._transfers = transfers
        self._ask = ask

    async def fetch(self, key: str, target: str, say: Say) -> bool:
        """Puts the environment `key` into the new folder `target`. False: it could not, and said why."""
        archive, stop = f"{target}.pack", threading.Event()
        try:
            found = await self._asked("dependencies.restore", {"key": key}, _Found)
            if not found.hit:
                say(f"Packed dependencies: none that fit this agent ({key})")
                return False
            try:
                await self._download(found, archive)
                async with asyncio.timeout(FETCH_S):
                    await asyncio.to_thread(unpack, archive, target, stop)
            except PackBroken:
                await self._reject(key, found.sha256)
                raise
        except (KiciError, OSError, msgspec.MsgspecError) as error:
            say(f"Packed dependencies: not used: {str(error) or 'unpacking them takes too long'}")
            return False
        finally:
            stop.set()  # nobody waits for the thread of a job that was stopped
            _unlink(archive)
        say(f"Packed dependencies: fetched ({found.size_bytes / (1 << 20):.1f} MB)")
        return True

    async def _download(self, found: _Found, archive: str) -> None:
        _unlink(archive)
        received = await self._transfers.download(
            found.path, archive, max_bytes=min(found.size_bytes, MAX_PACKED), timeout_s=FETCH_S
        )
        if (received.size, received.sha256) != (found.size_bytes, found.sha256):
            raise PackBroken("the archive has another checksum")

    async def _reject(self, key: str, sha256: str) -> None:
        """So that nobody fetches it again (AG-74)."""
        try:
            await self._ask("dependencies.reject", {"key": key, "sha256": sha256}, ASK_S)
        except RequestFailed as error:
            log.info("pack.not_rejected", key=key, error=str(error))

    async def publish(self, key: str, folder: str, say: Say) -> bool:
        """Packs the environment in `folder` and sends it. False: nobody will get it, for it is too large; what
        went wrong otherwise may go well for the next one and counts as done."""
        archive, stop = f"{folder}.packing-{os.getpid()}", threading.Event()
        try:
            place = await self._asked("dependencies.save", {"key": key}, _Place)
            if place.skip:
                say("Packed dependencies: kept already")
                return True
            size = await asyncio.to_thread(pack, folder, archive, stop)
            if size > place.max_bytes:
                say(
                    f"Packed dependencies: {size} bytes, and {place.max_bytes} are allowed"
                    " (KICI_CACHE_MAX_TARBALL_BYTES): every agent installs them itself"
                )
                return False
            await self._send(key, place, archive)
        except (RequestFailed, TransferFailed, OSError, msgspec.MsgspecError) as error:
            say(f"Packed dependencies: not kept: {error}")
            return True
        finally:
            stop.set()
            _unlink(archive)
        say(f"Packed dependencies: {size / (1 << 20):.1f} MB ({key})")
        return True

    async def _send(self, key: str, place: _Place, archive: str) -> None:
        descriptor = os.open(archive, os.O_RDONLY | os.O_NOFOLLOW)
        try:
            sent = await self._transfers.upload(place.path, descriptor, timeout_s=PUBLISH_S)
        finally:
            os.close(descriptor)
        commit = {"key": key, "entryId": place.entry_id, "sha256": sent.sha256, "sizeBytes": sent.size}
        await self._ask("dependencies.commit", commit, ASK_S)

    async def _asked(self, method: str, params: dict[str, Any], kind: type[T]) -> T:
        return msgspec.convert(await self._ask(method, params, ASK_S), kind)


def _unlink(path: str) -> None:
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass


# ── archives ─────────────────────────────────────────────────────────────────────────────────────


def pack(folder: str, archive: str, stop: threading.Event) -> int:
    """Writes `folder` to the new file `archive`; its size in bytes."""
    with open(archive, "xb") as file:
        os.fchmod(file.fileno(), 0o600)
        compressor = zstandard.ZstdCompressor(level=_LEVEL)
        with (
            compressor.stream_writer(file, closefd=False) as stream,
            tarfile.open(fileobj=stream, mode="w|", format=tarfile.GNU_FORMAT) as tar,
        ):
            for name in _names(folder):
                if stop.is_set():
                    raise PackBroken("packing was stopped")
                _add(tar, folder, name)
        return file.tell()


def _names(folder: str) -> Iterator[str]:
    """Relative paths of all that is below `folder`, in an order that depends on nothing else."""
    for path, folders, files in os.walk(folder):
        folders.sort()
        inside = os.path.relpath(path, folder)
        for name in sorted([*folders, *files]):
            yield os.path.normpath(os.path.join(inside, name))


def _add(tar: tarfile.TarFile, folder: str, name: str) -> None:
    path = os.path.join(folder, name)
    found = os.lstat(path)
    member = tarfile.TarInfo(name)
    member.mtime = _MTIME
    member.mode = 0o755 if stat.S_ISDIR(found.st_mode) or found.st_mode & 0o100 else 0o644
    if stat.S_ISDIR(found.st_mode):
        member.type = tarfile.DIRTYPE
        tar.addfile(member)
    elif stat.S_ISLNK(found.st_mode):
        member.type = tarfile.SYMTYPE
        member.linkname = os.readlink(path)
        if _stays_inside(name, member.linkname):
            tar.addfile(member)
    elif stat.S_ISREG(found.st_mode):
        member.size = found.st_size
        with open(path, "rb") as file:
            tar.addfile(member, file)


def _stays_inside(name: str, target: str) -> bool:
    if os.path.isabs(target):
        return False
    end = os.path.normpath(os.path.join(os.path.dirname(name), target))
    return end != ".." and not end.startswith("../")


def unpack(archive: str, target: str, stop: threading.Event) -> None:
    """Into the new folder `target`. Raises PackBroken for whatever does not belong into an environment."""
    os.makedirs(target, mode=0o755)
    links: list[tuple[str, str]] = []
    left = MAX_UNPACKED
    try:
        with (
            open(archive, "rb") as file,
            zstandard.ZstdDecompressor().stream_reader(file) as stream,
            tarfile.open(fileobj=stream, mode="r|") as tar,
        ):
            for member in tar:
                if stop.is_set():
                    raise PackBroken("unpacking was stopped")
                left -= member.size
                if left < 0:
                    raise PackBroken(f"the archive unpacks to more than {MAX_UNPACKED} bytes")
                _put(tar, member, target, links)
    except (tarfile.TarError, zstandard.ZstdError, EOFError, UnicodeError, ValueError) as error:
        raise PackBroken(f"the archive cannot be unpacked: {error}") from error
    for path, leads_to in links:  # last, so that nothing was written through one
        os.symlink(leads_to, path)
    python = os.path.join(target, _PYTHON)
    if not os.path.lexists(python):
        os.symlink(getattr(sys, "_base_executable", sys.executable), python)
    if not os.path.exists(python):
        raise PackBroken("the archive has no interpreter that runs here")


def _put(tar: tarfile.TarFile, member: tarfile.TarInfo, target: str, links: list[tuple[str, str]]) -> None:
    name = member.name
    if os.path.isabs(name) or os.path.normpath(name) != name or name.split("/")[0] in ("", ".", ".."):
        raise PackBroken(f"the archive has an unacceptable path {name!r}")
    path = os.path.join(target, name)
    if member.isdir():
        os.mkdir(path, 0o755)
    elif member.issym():
        if not _stays_inside(name, member.linkname):
            raise PackBroken(f"the link {name!r} leads out of the environment")
        links.append((path, member.linkname))
    elif member.isreg():
        source = tar.extractfile(member)
        assert source is not None
        with open(path, "xb") as file:
            while piece := source.read(1 << 20):
                file.write(piece)
            os.fchmod(file.fileno(), 0o755 if member.mode & 0o100 else 0o644)
        os.utime(path, (_MTIME, _MTIME))
    else:
        raise PackBroken(f"{name!r} is neither a file, a folder nor a link")
