"""The bytes of a lock file as workflows that can be matched and started (OR-61, AU-98). Pure."""

from typing import ClassVar

import msgspec
from msgspec import Struct, structs

from kici.orchestrator.runs.planning import StoredWorkflow
from kici.orchestrator.runs.start import PlannedWorkflow, plan_workflow
from kici.spec.errors import InvalidInput
from kici.spec.lock import LOCK_PATH, MIN_SCHEMA_VERSION, SCHEMA_VERSION, LockFile
from kici.spec.nesting import MAX_NESTING, too_deep
from kici.spec.triggers import PrTrigger, PushTrigger, TagTrigger

MAX_BYTES = 5 << 20
MAX_WORKFLOWS = 500


class LockCorrupt(InvalidInput):
    """There is a lock file and it cannot be used; the message tells what to do."""

    code: ClassVar[str] = "lockfile_corrupt"


class ParsedLock(Struct, frozen=True, kw_only=True):
    """`uses_paths`: some trigger looks at changed files, so that it is worth finding them out."""

    workflows: list[PlannedWorkflow]
    uses_paths: bool


class _Probe(Struct, frozen=True, kw_only=True, rename="camel"):
    schema_version: int | None = None


_probe = msgspec.json.Decoder(_Probe).decode
_decode = msgspec.json.Decoder(LockFile).decode


def parse_lock(data: bytes) -> ParsedLock:
    """Raises LockCorrupt."""
    if len(data) > MAX_BYTES:
        raise LockCorrupt(f"{LOCK_PATH} is {len(data)} bytes large; at most {MAX_BYTES} are read")
    try:
        version = _probe(data).schema_version
        if version is None:
            raise LockCorrupt(f"{LOCK_PATH} has no schemaVersion: run `kici compile` and commit the result")
        if not MIN_SCHEMA_VERSION <= version <= SCHEMA_VERSION:
            remedy = "update this orchestrator" if version > SCHEMA_VERSION else "run `kici compile`"
            raise LockCorrupt(
                f"{LOCK_PATH} has schema version {version}; this orchestrator reads {MIN_SCHEMA_VERSION} to"
                f" {SCHEMA_VERSION}: {remedy}"
            )
        lock = _decode(data)
        if too_deep(msgspec.json.decode(data)):
            raise LockCorrupt(f"{LOCK_PATH} is nested deeper than {MAX_NESTING} levels")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise LockCorrupt(
            f"{LOCK_PATH} cannot be read: {error}; run `kici compile` and commit the result"
        ) from error
    if len(lock.workflows) > MAX_WORKFLOWS:
        raise LockCorrupt(
            f"{LOCK_PATH} holds {len(lock.workflows)} workflows; at most {MAX_WORKFLOWS} are read"
        )
    names = [workflow.name for workflow in lock.workflows]
    if len(set(names)) != len(names):
        double = next(name for name in names if names.count(name) > 1)
        raise LockCorrupt(f"{LOCK_PATH} names two workflows {double!r}: run `kici compile`")
    return ParsedLock(
        workflows=[
            plan_workflow(
                StoredWorkflow(**structs.asdict(workflow), lockfile_hash=lock.lockfile_hash),
                lock.compiler.sdk_version,
            )
            for workflow in lock.workflows
        ],
        uses_paths=any(
            isinstance(trigger, PushTrigger | TagTrigger | PrTrigger) and trigger.paths
            for workflow in lock.workflows
            for trigger in workflow.triggers
        ),
    )
