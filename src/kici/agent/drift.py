"""Is the workflow that will run the one that was compiled? (AG-40, AU-101, AU-102)

The content hash is computed from the tree just checked out, before anything of it is imported. Commits
that share the `.kici` tree share the result, found again by what git's index says about it.
"""

import asyncio
import os
from collections import OrderedDict
from pathlib import Path
from typing import ClassVar

import msgspec
from msgspec import Struct

from kici.agent.workspace import Workspace, source_key
from kici.compiler.content import content_hash, first_difference
from kici.protocol.agent_v1 import JobDispatch
from kici.runtime.buildinfo import build_info
from kici.spec.errors import KiciError
from kici.spec.lock import COMPILE_SCHEMA_VERSION, LOCK_PATH, SourceHash

OLDEST_SCHEMA = 1
_REMEMBERED = 512


class LockFileStale(KiciError):
    code: ClassVar[str] = "lock_file_stale"


class _LockSources(Struct, frozen=True, rename="camel"):
    sources: list[SourceHash] = []


_decode_sources = msgspec.json.Decoder(_LockSources).decode


class DriftGuard:
    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, int], str] = OrderedDict()

    async def check(self, workspace: Workspace, dispatch: JobDispatch) -> None:
        """Raises LockFileStale when the tree is not what the lock file was made from."""
        version = dispatch.compile_schema_version
        if version > COMPILE_SCHEMA_VERSION:
            raise LockFileStale(
                f"the lock file has compile schema {version}, this agent knows up to {COMPILE_SCHEMA_VERSION}: "
                "the agent is older than the compiler; upgrade the agent"
            )
        if version < OLDEST_SCHEMA:
            raise LockFileStale(
                f"the lock file has compile schema {version}, this agent knows {OLDEST_SCHEMA} and later: "
                "the compiler is older than the agent; run 'kici compile' with a newer kici"
            )
        actual = await self._hash(workspace, dispatch, version)
        if actual == dispatch.content_hash:
            return
        build = build_info()
        text = (
            "Lock file is out of date: workflow source changed without regenerating kici.lock.json "
            f"(expected contentHash {dispatch.content_hash}, got {actual}, "
            f"agent baked kici-sdk@{build.sdk_version} bundleHash={build.sdk_bundle_hash}). "
            "Run 'kici compile' and commit the updated lock file."
        )
        differing = await asyncio.to_thread(_first_difference, workspace.repository)
        if differing is not None:
            text += f"\nFirst difference: {differing}"
        raise LockFileStale(text)

    async def _hash(self, workspace: Workspace, dispatch: JobDispatch, version: int) -> str:
        key = None
        if not dispatch.resolved_hash_files and dispatch.job.checkout and dispatch.overlay is None:
            key = source_key(workspace, dispatch.checkout.sha)
        if key is not None and (known := self._known.get((key, version))) is not None:
            self._known.move_to_end((key, version))
            return known
        actual = await asyncio.to_thread(
            content_hash, Path(workspace.repository), dispatch.resolved_hash_files, version
        )
        if key is not None:
            self._known[key, version] = actual
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return actual


def _first_difference(repository: str) -> str | None:
    try:
        with open(os.path.join(repository, LOCK_PATH), "rb") as file:
            sources = _decode_sources(file.read()).sources
    except (OSError, msgspec.MsgspecError):
        return None
    return first_difference(Path(repository), sources)
