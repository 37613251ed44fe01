"""The lock file as bytes: assembled, compared, written (AU-95, AU-97)."""

import hashlib
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import structs

from kici.compiler.content import hash_contents, lockfile_hash, read_contents, sha256_of
from kici.spec import lock

MAX_BYTES = 5 << 20
MAX_WORKFLOWS = 500
_MAX_SHOWN = 5


def assemble(
    root: Path,
    workflows: Sequence[lock.LockWorkflow],
    *,
    sources: Sequence[tuple[str, bytes]],
    hash_files: Mapping[str, Sequence[str]],
    compiler: lock.CompilerInfo,
) -> lock.LockFile:
    """The whole document. `sources` are the files of `.kici`; `hash_files` maps patterns to files."""
    complete: list[lock.LockWorkflow] = []
    recorded = dict(sources)
    for workflow in sorted(workflows, key=lambda workflow: workflow.name):
        resolved = _resolved(workflow.hash_files, hash_files)
        pinned = read_contents(root, resolved)
        recorded.update(pinned)
        complete.append(
            structs.replace(
                workflow,
                resolved_hash_files=resolved,
                content_hash=hash_contents(workflow.compile_schema_version, sources, pinned),
            )
        )
    return lock.LockFile(
        schema_version=lock.SCHEMA_VERSION,
        source=".kici/workflows",
        compiler=compiler,
        content_hash=_document_hash(complete),
        sources=[
            lock.SourceHash(path=path, sha256=sha256_of(recorded[path]))
            for path in sorted(recorded, key=os.fsencode)
        ],
        workflows=complete,
        lockfile_hash=lockfile_hash(root),
    )


def encode(document: lock.LockFile) -> bytes:
    """Two-space JSON with a final line feed: the same bytes on every machine."""
    return msgspec.json.format(msgspec.json.encode(document), indent=2) + b"\n"


def write(path: Path, data: bytes) -> bool:
    """Replace the file atomically; False when it holds these bytes already."""
    if _read(path) == data:
        return False
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".kici.lock.", suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    return True


class Stale(msgspec.Struct, frozen=True, kw_only=True):
    """Why the file on disk is not what its sources say: `reason` for the whole file, else the workflows by
    name with how they differ, and the files that changed."""

    reason: str = ""
    workflows: Mapping[str, str] = {}
    files: Sequence[str] = ()

    def text(self) -> str:
        if self.reason:
            return self.reason
        names = ", ".join(f"{name} ({how})" for name, how in self.workflows.items())
        because = f"; {_listed(self.files)}" if self.files else ""
        return f"{names or 'its dependencies changed'}{because}"


def stale(path: Path, fresh: lock.LockFile) -> Stale | None:
    """None when the file on disk is up to date. The `compiler` block does not count (AU-102)."""
    data = _read(path)
    if data is None:
        return Stale(reason="there is none")
    try:
        present = msgspec.json.decode(data, type=lock.LockFile)
    except msgspec.DecodeError as wrong:
        return Stale(reason=f"it is corrupt: {wrong}")
    if structs.replace(present, compiler=fresh.compiler) == fresh:
        return None
    before = {workflow.name: workflow for workflow in present.workflows}
    after = {workflow.name: workflow for workflow in fresh.workflows}
    return Stale(
        workflows={
            name: "new" if name not in before else "gone" if name not in after else "changed"
            for name in sorted({*before, *after})
            if before.get(name) != after.get(name)
        },
        files=list(_changes(present.sources, fresh.sources)),
    )


def _changes(before: Sequence[lock.SourceHash], after: Sequence[lock.SourceHash]) -> Iterator[str]:
    """`.kici/ci.py changed`, in order of the paths."""
    old = {source.path: source.sha256 for source in before}
    new = {source.path: source.sha256 for source in after}
    for path in sorted({*old, *new}, key=os.fsencode):
        if old.get(path) != new.get(path):
            yield f"{path} {'is new' if path not in old else 'is gone' if path not in new else 'changed'}"


def _listed(entries: Sequence[str]) -> str:
    shown = ", ".join(entries[:_MAX_SHOWN])
    more = len(entries) - _MAX_SHOWN
    return f"{shown} and {more} more" if more > 0 else shown


def written_by_newer(path: Path) -> int | None:
    """The schema version of a lock file that this version must not overwrite (E702)."""
    data = _read(path)
    if data is None:
        return None
    try:
        found = msgspec.json.decode(data, type=_Version).schema_version
    except msgspec.DecodeError:
        return None
    return found if found > lock.SCHEMA_VERSION else None


class _Version(msgspec.Struct, rename="camel"):
    schema_version: int


def _resolved(patterns: Sequence[str], found: Mapping[str, Sequence[str]]) -> list[str]:
    """What the workflow's own patterns name; its exclusions take away from its own only."""
    excluded = {name for pattern in patterns if pattern.startswith("!") for name in found[pattern]}
    included = {name for pattern in patterns if not pattern.startswith("!") for name in found[pattern]}
    return sorted(included - excluded, key=os.fsencode)


def _document_hash(workflows: Sequence[lock.LockWorkflow]) -> str:
    document = {"schemaVersion": lock.SCHEMA_VERSION, "workflows": workflows}
    return hashlib.sha256(msgspec.json.encode(document, order="sorted")).hexdigest()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
