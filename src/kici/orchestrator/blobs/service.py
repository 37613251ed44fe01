"""The object store, as far as agents and command lines may reach into it."""

import asyncio
import os
from collections.abc import AsyncIterator, Sequence
from glob import escape
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from kici.orchestrator.blobs.tickets import TicketOffice
from kici.runtime.clock import Clock
from kici.runtime.logging import get_logger
from kici.spec.errors import KiciError, NotFound

log = get_logger(__name__)

VALID_S = 900  # AG-76
_STORE_S = 30.0
_WRITE_S = 1800.0
_CHUNK = 5 << 20


class StoreUnavailable(KiciError):
    code = "store_unavailable"
    status = 503


def open_store(storage_url: str) -> ObjectStore:
    """`file://` folders are made; credentials of others come from the environment."""
    parts = urlsplit(storage_url)
    if parts.scheme == "file":
        path = unquote(parts.path)
        os.makedirs(path, exist_ok=True)
        return LocalStore(path)
    return from_url(storage_url)


class Blobs:
    """`upload_path`, `download_path`: below this orchestrator's own HTTP address, for agents.
    `upload_url`, `download_url`: with `public_url` in front, for everybody else."""

    def __init__(self, store: ObjectStore, secret_key: bytes, clock: Clock, *, public_url: str) -> None:
        self.office = TicketOffice(secret_key, clock)
        self._store = store
        self._public_url = public_url.rstrip("/")

    def upload_path(self, key: str, max_bytes: int, *, valid_s: int = VALID_S) -> str:
        return f"/blobs/{self.office.issue('PUT', key, valid_s=valid_s, max_bytes=max_bytes)}"

    def download_path(self, key: str, *, valid_s: int = VALID_S) -> str:
        return f"/blobs/{self.office.issue('GET', key, valid_s=valid_s)}"

    def upload_url(self, key: str, max_bytes: int, *, valid_s: int = VALID_S) -> str:
        return self._public_url + self.upload_path(key, max_bytes, valid_s=valid_s)

    def download_url(self, key: str, *, valid_s: int = VALID_S) -> str:
        return self._public_url + self.download_path(key, valid_s=valid_s)

    async def write(self, key: str, pieces: AsyncIterator[bytes]) -> None:
        """The object is there whole or, when `pieces` raises, not at all. Raises StoreUnavailable."""
        try:
            async with asyncio.timeout(_WRITE_S):
                await obstore.put_async(self._store, key, pieces, chunk_size=_CHUNK, max_concurrency=2)
        except (BaseError, TimeoutError) as error:
            raise StoreUnavailable("the object store does not take this") from error

    async def read(self, key: str) -> tuple[int, AsyncIterator[bytes]]:
        """Its size and its bytes. Raises NotFound or StoreUnavailable."""
        try:
            async with asyncio.timeout(_STORE_S):
                found = await obstore.get_async(self._store, key)
        except FileNotFoundError as error:
            raise NotFound("there is no such object any more") from error
        except (BaseError, TimeoutError) as error:
            raise StoreUnavailable("the object store does not answer") from error
        stream: Any = found.stream(min_chunk_size=1 << 20)
        return found.meta["size"], stream

    async def size(self, key: str) -> int | None:
        """None when it is not there. Raises StoreUnavailable."""
        try:
            async with asyncio.timeout(_STORE_S):
                return (await obstore.head_async(self._store, key))["size"]
        except FileNotFoundError:
            return None
        except (BaseError, TimeoutError) as error:
            raise StoreUnavailable("the object store does not answer") from error

    async def delete(self, keys: Sequence[str]) -> None:
        """What is gone already is no error; what an upload left that we died in the middle of goes, too. Raises
        StoreUnavailable."""
        if isinstance(self._store, LocalStore) and self._store.prefix:
            await asyncio.to_thread(_forget_unfinished, self._store.prefix, keys)
        for key in keys:
            try:
                async with asyncio.timeout(_STORE_S):
                    await obstore.delete_async(self._store, key)
            except FileNotFoundError:
                continue
            except (BaseError, TimeoutError) as error:
                raise StoreUnavailable("the object store does not answer") from error


def _forget_unfinished(folder: Path, keys: Sequence[str]) -> None:
    """A folder takes an object as `<name>#<n>` and renames it when it is whole."""
    for key in keys:
        place = folder / key
        for path in place.parent.glob(f"{escape(place.name)}#*"):
            path.unlink(missing_ok=True)
