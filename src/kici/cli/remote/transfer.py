"""From this machine to the server: the sealed working tree straight to its signed URL, the rest through the
Platform. The Platform can open neither (AU-125, AU-126)."""

import asyncio
import base64
import sys
from collections.abc import AsyncIterator, Callable, Generator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec import Struct

from kici.cli.capabilities import CapabilityMissing
from kici.cli.client import Client, Refused, Unreachable
from kici.cli.remote.pack import Packed, pieces
from kici.cli.remote.report import USAGE_REASONS
from kici.protocol.overlay import seal, upload_key
from kici.protocol.remote_v1 import (
    RemoteTriggerBody,
    RemoteTriggered,
    UploadView,
    seal_values,
)
from kici.runtime.buildinfo import build_info
from kici.spec.errors import InvalidInput, KiciError

TRIES = 3
_PAUSE_S = 1.0
_STALLED_S = 120.0


class Rejected(KiciError):
    """The server starts nothing; `reason` is its word for why."""

    code: ClassVar[str] = "rejected"

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class BadRequest(InvalidInput):
    """What was asked for does not exist there; `reason` is the server's word."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class Destination(Struct, frozen=True, kw_only=True):
    """Where runs go: `cluster` was asked for, `default_cluster` is what was saved."""

    org_id: str
    cluster: str | None
    default_cluster: str | None

    @property
    def path(self) -> str:
        return f"/api/v1/orgs/{self.org_id}/test"

    @property
    def query(self) -> dict[str, str]:
        asked = {"orchestrator": self.cluster, "defaultCluster": self.default_cluster}
        return {name: value for name, value in asked.items() if value}


class Uploaded(Struct, frozen=True, kw_only=True):
    """`server_key`: raw public key of this upload."""

    upload_id: str
    server_key: bytes
    public_key: str


Progress = Callable[[int], None]


async def upload(client: Client, to: Destination, sha: str, packed: Packed, progress: Progress) -> Uploaded:
    """Three tries, each with a URL and keys of its own. Raises Unreachable and what the server refuses."""
    body = {"sha": sha, "fileCount": packed.file_count, "compressedSize": packed.sealed_bytes}
    for number in range(1, TRIES + 1):
        with refusals():
            begun = msgspec.convert(
                await client.post(f"{to.path}/uploads/init", body, **to.query), UploadView
            )
        private = X25519PrivateKey.generate()
        server_key = base64.b64decode(begun.public_key)
        try:
            await _put(begun.signed_url, upload_key(private, server_key), packed, progress)
        except _Failed as failed:
            if number == TRIES:
                raise Unreachable(f"the upload failed {TRIES} times: {failed}") from failed
            print(f"warning: the upload failed, trying again: {failed}", file=sys.stderr)
            await asyncio.sleep(_PAUSE_S * number)
            continue
        public = base64.b64encode(private.public_key().public_bytes_raw()).decode()
        return Uploaded(upload_id=begun.upload_id, server_key=server_key, public_key=public)
    raise AssertionError


class _Failed(Exception):
    """This try; the next may do better."""


async def _put(url: str, key: bytes, packed: Packed, progress: Progress) -> None:
    import httpx

    async def body() -> AsyncIterator[bytes]:
        sent = 0
        for piece in seal(key, pieces(packed.path)):
            yield piece
            sent += len(piece)
            progress(sent)

    headers = {
        "content-length": str(packed.sealed_bytes),
        "content-type": "application/octet-stream",
    }
    progress(0)
    try:
        async with httpx.AsyncClient(timeout=_STALLED_S) as http:
            response = await http.put(url, content=body(), headers=headers)
    except httpx.HTTPError as error:
        raise _Failed(f"{type(error).__name__} {error}".strip()) from error
    if response.status_code >= 300:
        raise _Failed(f"the store answered {response.status_code}: {response.text[:200]}")


def sealed_values(uploaded: Uploaded, values: Mapping[str, str]) -> tuple[str | None, str | None]:
    """`encryptedSecrets` and `encryptedSecretsKey`, with a pair of their own; None without values."""
    if not values:
        return None, None
    private = X25519PrivateKey.generate()
    sealed = seal_values(upload_key(private, uploaded.server_key), values)
    public = private.public_key().public_bytes_raw()
    return base64.b64encode(sealed).decode(), base64.b64encode(public).decode()


async def trigger(client: Client, to: Destination, body: RemoteTriggerBody) -> RemoteTriggered:
    """Sent again when the answer is lost: the server starts nothing twice. Raises Rejected, BadRequest,
    CapabilityMissing, Unreachable."""
    document: Any = msgspec.to_builtins(body)
    for number in range(1, TRIES + 1):
        try:
            with refusals():
                answer: Any = await client.post(f"{to.path}/trigger", document, **to.query)
        except Unreachable:
            if number == TRIES:
                raise
            await asyncio.sleep(_PAUSE_S * number)
        else:
            return msgspec.convert(answer, RemoteTriggered)
    raise AssertionError


@contextmanager
def refusals() -> Generator[None]:
    """A refusal becomes the error with the right exit code (AU-136)."""
    try:
        yield
    except Refused as refused:
        if refused.reason in {"capability_missing", "unsupported_request_type"}:
            raise CapabilityMissing(f"{refused}; this is kici {build_info().version}") from None
        if refused.reason == "no_cluster" and not (refused.details or {}).get("clusters"):
            raise Unreachable(str(refused)) from None
        if refused.reason in USAGE_REASONS:
            raise BadRequest(str(refused), refused.reason) from None
        if refused.status_code == 422:
            raise Rejected(str(refused), refused.reason) from None
        raise
