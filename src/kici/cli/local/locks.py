"""Concurrency between processes of one user: kernel locks, freed however their holder ends (AU-116).

A group has `max` places, each a file below the lock folder that its holder keeps locked with `flock`; the
file says who holds it. Who must not wait ends the holder: SIGTERM, which cancels its run gently, and SIGKILL
when it is still there after 30 s (`KICI_LOCAL_LOCK_KILL_GRACE_MS`).
"""

import asyncio
import fcntl
import hashlib
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
from msgspec import Struct, structs

from kici.engine.concurrency import waiting_reason
from kici.spec.errors import InvalidInput

_POLL_S = 0.1
_SAY_EVERY_S = 5.0
_KILL_GRACE_MS = 30_000
_SUPERSEDED_AT = 4096  # offset of a mark in the lock file, far behind what it says


class Holder(Struct, frozen=True, kw_only=True, rename="camel"):
    """What a lock file says about who has it. `born` tells a process from a later one of the same id."""

    pid: int
    host: str
    workflow: str
    key: str
    started_at_ms: int
    born: str = ""
    path: str = ""  # of the file, not written there


class Place:
    """A place in a group that this process has. `release` it once."""

    def __init__(self, fd: int, path: str) -> None:
        self.path = path
        self._fd = fd

    def release(self) -> None:
        os.ftruncate(self._fd, 0)
        os.close(self._fd)  # the lock goes with it

    def superseded(self) -> bool:
        """Whether another process asked the holder to make room."""
        return os.pread(self._fd, 1, _SUPERSEDED_AT) == b"1"


class Group:
    """The places of one concurrency group."""

    def __init__(self, scope: str, name: str, *, workflow: str, places: int = 1) -> None:
        """`scope` is the repository, or one workflow's jobs in it: groups of two scopes never meet."""
        self.name = name
        self._workflow = workflow
        digest = hashlib.sha256(f"{scope}\0{name}".encode()).hexdigest()[:24]
        self._paths = [lock_folder() / f"{digest}.{number}.lock" for number in range(places)]

    def try_place(self) -> Place | None:
        """A free place, or None."""
        for path in self._paths:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(fd)
                continue
            os.ftruncate(fd, 0)
            os.pwrite(fd, msgspec.json.encode(self._me()), 0)
            return Place(fd, str(path))
        return None

    def holders(self) -> list[Holder]:
        """Who has the places, oldest first, as far as they say so."""
        found: list[Holder] = []
        for path in self._paths:
            try:
                written = path.read_bytes()[:_SUPERSEDED_AT].rstrip(b"\0")
                found.append(structs.replace(msgspec.json.decode(written, type=Holder), path=str(path)))
            except (OSError, msgspec.DecodeError):
                continue
        return sorted(found, key=lambda holder: holder.started_at_ms)

    async def wait(self, say: Callable[[str], None]) -> Place:
        """The next free place. What it waits for is told at once and every five seconds."""
        last_said: float | None = None
        while (place := self.try_place()) is None:
            if last_said is None or time.monotonic() >= last_said + _SAY_EVERY_S:
                last_said = time.monotonic()
                holders = self.holders()
                say(f"{waiting_reason(self.name, max(1, len(holders)))}{_who(holders)}")
            await asyncio.sleep(_POLL_S)
        return place

    async def take_over(self, say: Callable[[str], None], *, own: Callable[[str], None]) -> Place:
        """A place, its oldest holder's when none is free. `own` is given the place of a run of this process."""
        grace_s = kill_grace_ms() / 1000
        asked: dict[tuple[int, str], float] = {}
        while (place := self.try_place()) is None:
            oldest = next(iter(self.holders()), None)
            if oldest is not None:
                me = (oldest.pid, oldest.born)
                if me not in asked:
                    asked[me] = time.monotonic()
                    say(f"Superseding the run of process {oldest.pid} in concurrency group {self.name!r}")
                    if oldest.pid == os.getpid():
                        own(oldest.path)
                    else:
                        _supersede(oldest, signal.SIGTERM)
                elif time.monotonic() > asked[me] + grace_s and oldest.pid != os.getpid():
                    _supersede(oldest, signal.SIGKILL)
            await asyncio.sleep(_POLL_S)
        return place

    def _me(self) -> Holder:
        return Holder(
            pid=os.getpid(),
            host=socket.gethostname(),
            workflow=self._workflow,
            key=self.name,
            started_at_ms=time.time_ns() // 1_000_000,
            born=_born(os.getpid()),
        )


def lock_folder() -> Path:
    """`$XDG_RUNTIME_DIR/kici-local-locks`, else a folder of this user's in the temporary directory."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.path.isdir(runtime):
        folder = Path(runtime) / "kici-local-locks"
    else:
        folder = Path(tempfile.gettempdir()) / f"kici-local-locks-{os.getuid()}"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if folder.stat().st_uid != os.getuid():
        raise InvalidInput(f"{folder} belongs to another user: set XDG_RUNTIME_DIR to a folder of your own")
    return folder


def kill_grace_ms() -> int:
    """`KICI_LOCAL_LOCK_KILL_GRACE_MS`. Raises InvalidInput."""
    text = os.environ.get("KICI_LOCAL_LOCK_KILL_GRACE_MS", "")
    if not text:
        return _KILL_GRACE_MS
    if not text.isdecimal():
        raise InvalidInput(f"KICI_LOCAL_LOCK_KILL_GRACE_MS={text}: milliseconds are wanted")
    return int(text)


def _supersede(holder: Holder, number: signal.Signals) -> None:
    """Only the very process that wrote the file: its id may have gone to another since."""
    if holder.born and _born(holder.pid) == holder.born:
        fd = os.open(holder.path, os.O_WRONLY | os.O_CLOEXEC)
        os.pwrite(fd, b"1", _SUPERSEDED_AT)
        os.close(fd)
        os.kill(holder.pid, number)


def _who(holders: list[Holder]) -> str:
    return "".join(f"; process {holder.pid}, workflow {holder.workflow}" for holder in holders[:1])


def _born(pid: int) -> str:
    """When the process started, in ticks since boot; empty when it is gone."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return ""
    return stat.rpartition(")")[2].split()[19]
