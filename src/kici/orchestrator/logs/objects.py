"""Ended logs in an object store: S3, GCS, Azure, whatever obstore opens by URL."""

import asyncio
import os
from typing import Any

import obstore
from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from kici.orchestrator.logs.archive import STORED_SUFFIX, Source
from kici.orchestrator.logs.streams import LIVE_SUFFIX, SENT_SUFFIX, LogUnavailable, StreamId, file_name

UPLOAD_SECONDS = 600.0


def open_store(url: str) -> ObjectStore:
    """Credentials come from the environment as each provider's tools read them."""
    return from_url(url)


def _key(stream: StreamId) -> str:
    return f"logs/{stream.run_id}/{stream.job_id}-{stream.attempt}-{stream.step_index}{STORED_SUFFIX}"


class ObjectSource:
    """Range reads. Raises FileNotFoundError at once when the object is not there."""

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store = store
        self._key = key
        self._size = obstore.head(store, key)["size"]

    def read_at(self, offset: int, size: int) -> bytes:
        length = min(size, self._size - offset)
        if length <= 0:
            return b""
        try:
            return bytes(obstore.get_range(self._store, self._key, start=offset, length=length))
        except BaseError as error:
            raise LogUnavailable("the object store does not answer") from error

    def size(self) -> int:
        return self._size

    def close(self) -> None:
        return None


class ObjectArchive:
    """`logs/<runId>/<jobId>-<attempt>-<stepIndex>.log`. A local mark beside the segment remembers what was sent, so that a block repeated by an agent
    never starts a second log under the same name."""

    def __init__(self, store: ObjectStore, live_root: str) -> None:
        self._store = store
        self._live_root = live_root

    def holds(self, stream: StreamId) -> bool:
        return os.path.exists(f"{self._live_root}/{file_name(stream)}{SENT_SUFFIX}")

    async def take(self, path: str, stream: StreamId) -> None:
        async with asyncio.timeout(UPLOAD_SECONDS):
            with open(path, "rb") as file:  # noqa: ASYNC230 - obstore reads it in its own threads
                await obstore.put_async(self._store, _key(stream), file)
        # A new file for the mark: readers may still have the segment open.
        os.close(os.open(path.removesuffix(LIVE_SUFFIX) + SENT_SUFFIX, os.O_CREAT | os.O_WRONLY, 0o640))
        os.unlink(path)

    def open(self, stream: StreamId) -> Source:
        try:
            return ObjectSource(self._store, _key(stream))
        except BaseError as error:
            raise LogUnavailable("the object store does not answer") from error

    async def remove_run(self, run_id: str) -> None:
        async with asyncio.timeout(UPLOAD_SECONDS):
            listing: Any = obstore.list(self._store, f"logs/{run_id}/")
            async for page in listing:
                await obstore.delete_async(self._store, [entry["path"] for entry in page])
