"""`cache.restore`, `cache.save` and `cache.commit` of jobs, the same of `dependencies`, and the sweeper behind
them.

What a job may read and write follows from its own record here: runs of the repository share one scope; a test
run reads it, and writes to a scope that only its own jobs see (AG-79, SE-65). Packed dependencies belong to the
organisation, and only builds write them: their key is made by an agent from all that they depend on (AG-73).
"""

import asyncio
from typing import Annotated, Any
from urllib.parse import quote

from msgspec import Meta, Struct

from kici.orchestrator.agents.requests import (
    OwnedJob,
    RequestHandler,
    RequestHandlers,
    RequestRefused,
    params_of,
)
from kici.orchestrator.blobs.service import Blobs
from kici.orchestrator.caches import queries
from kici.orchestrator.caches.queries import Owner
from kici.orchestrator.caches.scopes import DEPENDENCIES, SHARED
from kici.protocol.agent_v1 import AgentRequest
from kici.runtime.database import AsyncEngine
from kici.runtime.ids import uuid7
from kici.runtime.logging import get_logger

log = get_logger(__name__)

SWEEP_S = 60.0
MAX_ENTRY_BYTES = 5 << 30
_AT_ONCE = 200

_Key = Annotated[str, Meta(min_length=1, max_length=512)]
_Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
_Uuid = Annotated[str, Meta(pattern="^[0-9a-fA-F-]{36}$")]


class _Restore(Struct, frozen=True, rename="camel"):
    key: _Key
    restore_keys: Annotated[list[_Key], Meta(max_length=20)] = []


class _Save(Struct, frozen=True, rename="camel"):
    key: _Key


class _Commit(Struct, frozen=True, rename="camel"):
    key: _Key
    entry_id: _Uuid
    sha256: _Sha256
    size_bytes: Annotated[int, Meta(ge=0)]


class _Reject(Struct, frozen=True, rename="camel"):
    key: _Key
    sha256: _Sha256


class UserCaches:
    """`run` for ever; `handlers` go to the agents' requests."""

    def __init__(
        self,
        engine: AsyncEngine,
        blobs: Blobs,
        *,
        quota_bytes: int,
        ttl_ms: int,
        max_packed_bytes: int = 524_288_000,
    ) -> None:
        self._engine = engine
        self._blobs = blobs
        self._quota = quota_bytes
        self._ttl_s = ttl_ms / 1000
        self._max_packed = max_packed_bytes
        self._evicted = asyncio.Event()

    @property
    def handlers(self) -> RequestHandlers:
        shared: dict[str, RequestHandler] = {
            f"{kind}.{name}": handler
            for kind in ("cache", DEPENDENCIES)
            for name, handler in (
                ("restore", self.restore),
                ("save", self.save),
                ("commit", self.commit),
            )
        }
        return {**shared, f"{DEPENDENCIES}.reject": self.reject}

    async def restore(self, job: OwnedJob, request: AgentRequest) -> dict[str, Any]:
        """{hit, matchedKey, path, sha256, sizeBytes}."""
        wanted = params_of(request, _Restore)
        async with self._engine.begin() as tx:
            found = await queries.find(tx, _owner(job, request), [wanted.key, *wanted.restore_keys])
        if found is None:
            return {"hit": False}
        return {
            "hit": True,
            "matchedKey": found.key,
            "path": self._blobs.download_path(found.object_key),
            "sha256": found.sha256,
            "sizeBytes": found.size_bytes,
        }

    async def save(self, job: OwnedJob, request: AgentRequest) -> dict[str, Any]:
        """{skip, entryId, path, maxBytes}: where to upload; nothing is visible before its commit."""
        wanted, owner = params_of(request, _Save), _owner(job, request)
        _may_write(job, owner)
        if job.check_mode != "apply" and owner.scope != DEPENDENCIES:
            return {"skip": True}
        entry_id = uuid7()
        most = self._max_packed if owner.scope == DEPENDENCIES else MAX_ENTRY_BYTES
        limit = min(self._quota, most)
        object_key = _object_key(owner, entry_id)
        async with self._engine.begin() as tx:
            if await queries.has(tx, owner, wanted.key):
                return {"skip": True}
            await queries.begin(
                tx, owner, entry_id=entry_id, run_id=job.run_id, key=wanted.key, object_key=object_key
            )
        return {
            "skip": False,
            "entryId": entry_id,
            "path": self._blobs.upload_path(object_key, limit),
            "maxBytes": limit,
        }

    async def commit(self, job: OwnedJob, request: AgentRequest) -> dict[str, Any]:
        """{saved}: false when another job saved the key first. The size is what the store has, not what the
        agent says."""
        wanted, owner = params_of(request, _Commit), _owner(job, request)
        _may_write(job, owner)
        async with self._engine.connect() as tx:
            begun = await queries.uploaded(tx, owner, entry_id=wanted.entry_id, key=wanted.key)
        if begun is None:
            raise RequestRefused("not_found", "there is no such cache entry to complete")
        object_key, state, sha256 = begun
        if state != "uploading":
            return {"saved": state == "ready" and sha256 == wanted.sha256}
        size = await self._blobs.size(object_key)
        if size is None or size != wanted.size_bytes:
            raise RequestRefused(
                "cache_damaged", f"{size or 0} of {wanted.size_bytes} bytes of the archive have come"
            )
        async with self._engine.begin() as tx:
            await queries.lock_org(tx, owner.org_id)
            saved = await queries.make_ready(
                tx, entry_id=wanted.entry_id, size_bytes=size, sha256=wanted.sha256
            )
            evicted = (
                await queries.evict(tx, owner.org_id, but=wanted.entry_id, room=self._quota - size)
                if saved
                else 0
            )
        if evicted:
            log.info("cache.evicted", org_id=owner.org_id, entries=evicted, quota_bytes=self._quota)
        if evicted or not saved:
            self._evicted.set()
        return {"saved": saved}

    async def reject(self, job: OwnedJob, request: AgentRequest) -> dict[str, Any]:
        """{}: an agent found packed dependencies damaged; they go, and the next run builds them (AG-74)."""
        wanted, owner = params_of(request, _Reject), _owner(job, request)
        async with self._engine.begin() as tx:
            gone = await queries.reject(tx, owner, key=wanted.key, sha256=wanted.sha256)
        if gone:
            log.warning("cache.rejected", org_id=job.org_id, key=wanted.key, agent_id=job.agent_id)
            self._evicted.set()
        return {}

    async def run(self) -> None:
        """Ends what is over, every minute and whenever something was evicted."""
        while True:
            try:
                async with asyncio.timeout(SWEEP_S):
                    await self._evicted.wait()
            except TimeoutError:
                pass
            self._evicted.clear()
            await self.sweep()

    async def sweep(self) -> None:
        async with self._engine.begin() as tx:
            await queries.doom(tx, ttl_s=self._ttl_s)
        while True:
            async with self._engine.connect() as tx:
                doomed = await queries.doomed(tx, _AT_ONCE)
            if not doomed:
                return
            await self._blobs.delete([object_key for _, object_key in doomed])
            async with self._engine.begin() as tx:
                await queries.gone(tx, [entry_id for entry_id, _ in doomed])


def _may_write(job: OwnedJob, owner: Owner) -> None:
    if owner.scope == DEPENDENCIES and job.kind != "build":
        raise RequestRefused("forbidden", "only a build of dependencies may save them")


def _owner(job: OwnedJob, request: AgentRequest) -> Owner:
    if request.method.startswith(f"{DEPENDENCIES}."):
        return Owner(org_id=job.org_id, repo_identifier="", scope=DEPENDENCIES)
    return Owner(
        org_id=job.org_id,
        repo_identifier=job.repo_identifier,
        scope=job.run_id if job.is_test_run else SHARED,
    )


def _object_key(owner: Owner, entry_id: str) -> str:
    """`cache/<org>/<repo>/shared/<id>` or `…/iso/<runId>/<id>`, or `dependencies/<org>/<id>`; names are quoted,
    ids are ours."""
    if owner.scope == DEPENDENCIES:
        return f"{DEPENDENCIES}/{quote(owner.org_id, safe='')}/{entry_id}"
    scope = SHARED if owner.scope == SHARED else f"iso/{owner.scope}"
    return (
        f"cache/{quote(owner.org_id, safe='')}/{quote(owner.repo_identifier, safe='')}/{scope}/{entry_id}"
    )
