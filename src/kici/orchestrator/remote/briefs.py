"""What the jobs of a remote run are told beyond others: where the working tree is, its key, its secrets.

Kept sealed by KICI_SECRET_KEY, bound to the object it belongs to; opened for a dispatch of that run alone.
"""

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from kici.orchestrator.blobs.service import Blobs
from kici.orchestrator.remote import queries
from kici.orchestrator.sources.sealing import Sealer, Unsealable
from kici.protocol.agent_v1 import Overlay
from kici.runtime.database import AsyncConnection
from kici.runtime.logging import get_logger

log = get_logger(__name__)

PURPOSE = "remote-run"


class Brief(Struct, frozen=True, kw_only=True, rename="camel"):
    """At rest. `key`: AES-256 of the overlay, base64. `base`: what it lies over, None for a whole tree."""

    key: str
    size_bytes: int
    values: dict[str, str]
    base: str | None = None


class RemoteBrief(Struct, frozen=True, kw_only=True):
    """For one dispatch. `secrets` win over those of environments (AU-126)."""

    overlay: Overlay
    secrets: dict[str, str]


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Brief).decode


class RemoteBriefs:
    def __init__(self, secret_key: bytes, blobs: Blobs) -> None:
        self._sealer = Sealer(secret_key, PURPOSE)
        self._blobs = blobs

    def seal(self, object_key: str, brief: Brief) -> bytes:
        """What `RunRequest.remote_secrets` takes."""
        return self._sealer.seal(object_key, _encode(brief))

    async def for_runs(self, tx: AsyncConnection, run_ids: Sequence[str]) -> Mapping[str, RemoteBrief]:
        """One statement. Runs that brought nothing along are not in the answer; what does not open is
        logged and left out, so that its jobs fail instead of running something else."""
        if not run_ids:
            return {}
        briefs: dict[str, RemoteBrief] = {}
        for run_id, object_key, sealed in await queries.brought_along(tx, run_ids):
            try:
                brief = _decode(self._sealer.unseal(object_key, sealed))
            except (Unsealable, msgspec.MsgspecError) as error:
                log.error("remote_run.brief_lost", run_id=run_id, error=str(error))
                continue
            overlay = Overlay(
                path=self._blobs.download_path(object_key),
                key=brief.key,
                size_bytes=brief.size_bytes,
                base=brief.base,
            )
            briefs[run_id] = RemoteBrief(overlay=overlay, secrets=brief.values)
        return briefs
