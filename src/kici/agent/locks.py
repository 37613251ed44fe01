"""File locks that several agents on one host respect, and that vanish with the process holding them."""

import asyncio
import fcntl
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import ClassVar

from kici.spec.errors import KiciError

_POLL_S = 0.02


class LockBusy(KiciError):
    code: ClassVar[str] = "lock_busy"


class FileLock:
    """Held while open. `take` says whether it is ours now; the file itself stays."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._fd = -1

    def take(self, *, shared: bool = False) -> bool:
        if self._fd < 0:
            self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def release(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


@asynccontextmanager
async def locked(path: str, *, timeout_s: float, shared: bool = False) -> AsyncGenerator[FileLock]:
    """Waits for the lock without blocking the event loop. Raises LockBusy after `timeout_s`."""
    lock = FileLock(path)
    try:
        async with asyncio.timeout(timeout_s):
            while not lock.take(shared=shared):  # noqa: ASYNC110 - the holder may be another process
                await asyncio.sleep(_POLL_S)
        yield lock
    except TimeoutError as error:
        raise LockBusy(f"another agent has held {path} for {timeout_s:.0f} s") from error
    finally:
        lock.release()
