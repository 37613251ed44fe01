"""Ended logs: where they rest and how a reader gets bytes of them.

Two places: a folder on the same machine (one atomic rename per log), or an object store by URL.
"""

import asyncio
import contextlib
import errno
import os
import shutil
from typing import Protocol
from urllib.parse import unquote, urlsplit

from kici.orchestrator.logs.streams import StreamId, file_name

STORED_SUFFIX = ".log"


class Source(Protocol):
    """Bytes at offsets, from any thread; short at the end."""

    def read_at(self, offset: int, size: int) -> bytes: ...
    def size(self) -> int: ...
    def close(self) -> None: ...


class FileSource:
    """Stays readable when the file is renamed or removed meanwhile. Raises FileNotFoundError."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read_at(self, offset: int, size: int) -> bytes:
        return os.pread(self._fd, size, offset)

    def size(self) -> int:
        return os.fstat(self._fd).st_size

    def close(self) -> None:
        os.close(self._fd)


class Archive(Protocol):
    def holds(self, stream: StreamId) -> bool:
        """Was this stream taken before? Quick, local, called for each new stream."""
        ...

    async def take(self, path: str, stream: StreamId) -> None:
        """Move a sealed segment here; idempotent. The segment is gone afterwards."""
        ...

    def open(self, stream: StreamId) -> Source:
        """Blocks; called in a thread. Raises FileNotFoundError."""
        ...

    async def remove_run(self, run_id: str) -> None: ...


class FolderArchive:
    """`logs/<start of runId>/<runId>.<jobId>-<attempt>-<stepIndex>.log`.

    Run ids begin with their time: seven digits of them make one folder per 17 minutes.
    """

    def __init__(self, root: str) -> None:
        self._root = os.path.join(root, "logs")
        os.makedirs(self._root, exist_ok=True)

    def _folder(self, run_id: str) -> str:
        return f"{self._root}/{run_id[:7]}"

    def _path(self, stream: StreamId) -> str:
        return f"{self._folder(stream.run_id)}/{file_name(stream)}{STORED_SUFFIX}"

    def holds(self, stream: StreamId) -> bool:
        return os.path.exists(self._path(stream))

    async def take(self, path: str, stream: StreamId) -> None:
        target = self._path(stream)
        try:
            self._rename(path, target)
        except OSError as error:
            if error.errno != errno.EXDEV:
                raise
            await asyncio.to_thread(_copy_across, path, target)

    @staticmethod
    def _rename(path: str, target: str) -> None:
        try:
            os.rename(path, target)
        except FileNotFoundError:
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.rename(path, target)

    def open(self, stream: StreamId) -> Source:
        return FileSource(self._path(stream))

    async def remove_run(self, run_id: str) -> None:
        folder = self._folder(run_id)
        await asyncio.to_thread(remove_prefixed, folder, run_id + ".")
        with contextlib.suppress(OSError):  # others are still there
            os.rmdir(folder)


def remove_prefixed(folder: str, prefix: str) -> None:
    """Remove the folder's files whose names begin so."""
    try:
        with os.scandir(folder) as files:
            names = [file.name for file in files if file.name.startswith(prefix)]
    except FileNotFoundError:
        return
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"{folder}/{name}")


def _copy_across(path: str, target: str) -> None:
    """Live segments and the store are on different file systems."""
    part = target + ".part"
    with open(path, "rb") as source, open(part, "wb") as copy:
        shutil.copyfileobj(source, copy, 1 << 20)
        copy.flush()
        os.fsync(copy.fileno())
    os.rename(part, target)
    os.unlink(path)


def archive_for(storage_url: str | None, data_dir: str, live_root: str) -> Archive:
    """`file://…` (default: `<data_dir>/store`) is a folder; any other URL is obstore's to open."""
    if storage_url is None:
        return FolderArchive(os.path.join(data_dir, "store"))
    parts = urlsplit(storage_url)
    if parts.scheme in ("", "file"):
        return FolderArchive(unquote(parts.path))
    # Seven megabytes of client code, and most installations keep logs in a folder.
    from kici.orchestrator.logs.objects import ObjectArchive, open_store

    return ObjectArchive(open_store(storage_url), live_root)
