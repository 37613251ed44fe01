"""Bytes from and to the orchestrator over HTTP, below the address that the agent dials (AG-76).

Paths come from the orchestrator, signed and short-lived. Nothing is held whole in memory.
"""

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct

from kici.runtime.logging import get_logger
from kici.spec.errors import KiciError

if TYPE_CHECKING:
    import httpx  # 0.15 s, and most agents never need it

log = get_logger(__name__)

ATTEMPTS = 3
_CONNECT_S = 10.0
_STALLED_S = 60.0  # nothing moved for so long: the connection is given up
_PIECE = 256 << 10


class TransferFailed(KiciError):
    """The bytes did not arrive, whole and in time."""

    code: ClassVar[str] = "transfer_failed"


class Received(Struct, frozen=True):
    size: int
    sha256: str


def http_base(orchestrator_url: str) -> str:
    """`ws://host:port/base/ws` → `http://host:port/base`."""
    parts = urlsplit(orchestrator_url)
    scheme = "https" if parts.scheme == "wss" else "http"
    return urlunsplit((scheme, parts.netloc, parts.path.rstrip("/").removesuffix("/ws"), "", ""))


class Transfers:
    """One HTTP client, made at the first use: most jobs need none."""

    def __init__(self, orchestrator_url: str, *, is_loopback: bool) -> None:
        self.base = http_base(orchestrator_url)
        self._trust_env = not is_loopback
        self._client: httpx.AsyncClient | None = None

    async def download(self, path: str, target: str, *, max_bytes: int, timeout_s: float) -> Received:
        """Writes what is at `path` to the new file `target`. Raises TransferFailed; then the file is gone."""
        return await self._repeated(lambda: self._download(path, target, max_bytes), timeout_s, "download")

    async def upload(self, path: str, descriptor: int, *, timeout_s: float) -> Received:
        """Sends a file from its beginning; its size must not change meanwhile. Raises TransferFailed."""
        return await self._repeated(lambda: self._upload(path, descriptor), timeout_s, "upload")

    async def close(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    # ── inside ───────────────────────────────────────────────────────────────────────────────────

    async def _repeated(
        self, once: Callable[[], Awaitable[Received]], timeout_s: float, what: str
    ) -> Received:
        """`once`, again after failures that may pass: an orchestrator that restarts, a cut line."""
        import httpx

        try:
            async with asyncio.timeout(timeout_s):
                for attempt in range(1, ATTEMPTS + 1):
                    try:
                        return await once()
                    except (httpx.HTTPError, _TryAgain) as error:
                        problem = str(error) or type(error).__name__
                        log.warning("transfer.failed", what=what, attempt=attempt, error=problem)
                        if attempt == ATTEMPTS:
                            raise TransferFailed(f"{what}: {problem}") from error
                    await asyncio.sleep(attempt)
        except TimeoutError:
            raise TransferFailed(f"{what}: not done within {timeout_s:g} s") from None
        raise AssertionError("unreachable")

    async def _download(self, path: str, target: str, max_bytes: int) -> Received:
        digest, size = hashlib.sha256(), 0
        whole = False
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        try:
            async with self._http().stream("GET", self.base + path) as response:
                await _check(response)
                async for piece in response.aiter_raw():
                    size += len(piece)
                    if size > max_bytes:
                        raise TransferFailed(f"download: larger than {max_bytes} bytes")
                    digest.update(piece)
                    _write(descriptor, piece)
                expected = response.headers.get("content-length")
                if expected is not None and int(expected) != size:
                    raise _TryAgain(f"{size} of {expected} bytes came")
            whole = True
        finally:
            os.close(descriptor)
            if not whole:
                os.unlink(target)
        return Received(size, digest.hexdigest())

    async def _upload(self, path: str, descriptor: int) -> Received:
        digest, size = hashlib.sha256(), os.fstat(descriptor).st_size

        async def pieces() -> AsyncGenerator[bytes]:
            offset = 0
            while offset < size:
                piece = os.pread(descriptor, min(_PIECE, size - offset), offset)
                if not piece:
                    raise TransferFailed("upload: the file became shorter while it was sent")
                digest.update(piece)
                offset += len(piece)
                yield piece

        response = await self._http().put(
            self.base + path, content=pieces(), headers={"content-length": str(size)}
        )
        await _check(response)
        return Received(size, digest.hexdigest())

    def _http(self) -> "httpx.AsyncClient":
        if self._client is None:
            import httpx

            self._client = httpx.AsyncClient(
                trust_env=self._trust_env, timeout=httpx.Timeout(_STALLED_S, connect=_CONNECT_S)
            )
        return self._client


class _TryAgain(Exception):
    """It may go better next time."""


async def _check(response: "httpx.Response") -> None:
    if response.status_code < 400:
        return
    said = (await response.aread())[:500].decode(errors="replace").strip()
    problem = f"the orchestrator answered {response.status_code}: {said}"
    if response.status_code >= 500 or response.status_code == 429:
        raise _TryAgain(problem)
    raise TransferFailed(problem)


def _write(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
