"""A workflow of a lock file, expanded and encoded once for all its runs."""

import hashlib

import msgspec
from msgspec import Struct

from kici.engine.capabilities import refusal
from kici.engine.decisions import is_plain
from kici.engine.graph import InvalidGraph, PlannedJob, plan, workflow_hooks
from kici.engine.labels import query_of
from kici.engine.matrix import InvalidMatrix
from kici.protocol.dashboard_v1 import InitFailure
from kici.spec.lock import LockJob, LockWorkflow

_encode = msgspec.json.Encoder().encode


class StoredWorkflow(LockWorkflow, frozen=True, kw_only=True, rename="camel", omit_defaults=True):
    """An entry of a lock file as we keep it, apart from its file: with what the file says of the dependencies
    of all its workflows (AU-100)."""

    lockfile_hash: str | None = None


class PlannedJobRow(Struct, frozen=True, kw_only=True):
    """What all runs of one workflow share about one job."""

    planned: PlannedJob
    spec: msgspec.Raw  # its LockJob as JSON
    runs_on: list[str]
    exclude_labels: list[str]
    runs_on_patterns: msgspec.Raw | None
    request_cpus: float | None
    request_memory_mb: int | None
    starts_queued: bool


class PlannedWorkflow(Struct, frozen=True, kw_only=True):
    """`failure` instead of jobs: it cannot run, and says why (OR-133, OR-134). `plain`: nothing of it depends
    on the event. `document` is its lock entry as JSON, as StoredWorkflow reads it; `digest` that of
    the document."""

    lock: LockWorkflow
    sdk_version: str
    jobs: list[PlannedJobRow]
    failure: InitFailure | None = None
    plain: bool = True
    hooks: list[str] = []
    document: msgspec.Raw = msgspec.Raw(b"null")
    digest: str | None = None
    lockfile_hash: str | None = None


def plan_workflow(lock: LockWorkflow, sdk_version: str) -> PlannedWorkflow:
    """Total: what cannot be planned becomes a `failure`."""
    lacking = refusal(lock)
    if lacking is not None:
        return _unplannable(lock, sdk_version, "lock_resolution", lacking)
    try:
        planned = plan(lock)
    except InvalidMatrix as error:
        return _unplannable(lock, sdk_version, "matrix_expansion", str(error))
    except InvalidGraph as error:
        return _unplannable(lock, sdk_version, "lock_resolution", str(error))
    if not lock.jobs:
        return _unplannable(lock, sdk_version, "lock_resolution", "the workflow has no jobs")
    places: dict[str, int] = {}
    rows: list[PlannedJobRow] = []
    for entry in planned:
        taken = places.get(entry.job.name, 0)
        window = entry.job.max_parallel
        starts = not entry.needs and (window is None or taken < window)
        places[entry.job.name] = taken + starts
        rows.append(row_of(entry, starts_queued=starts))
    document = _encode(lock)
    return PlannedWorkflow(
        lock=lock,
        sdk_version=sdk_version,
        jobs=rows,
        plain=is_plain(lock),
        hooks=workflow_hooks(lock),
        document=msgspec.Raw(document),
        digest=hashlib.sha256(sdk_version.encode() + b"\0" + document).hexdigest(),
        lockfile_hash=lock.lockfile_hash if isinstance(lock, StoredWorkflow) else None,
    )


def row_of(entry: PlannedJob, *, starts_queued: bool) -> PlannedJobRow:
    query = query_of(entry.job)
    cpus, memory_mb = _requests(entry.job)
    return PlannedJobRow(
        planned=entry,
        spec=encode_spec(entry.job),
        runs_on=list(query.required),
        exclude_labels=list(query.excluded),
        runs_on_patterns=None if query.patterns is None else msgspec.Raw(_encode(query.patterns)),
        request_cpus=cpus,
        request_memory_mb=memory_mb,
        starts_queued=starts_queued,
    )


def encode_spec(job: LockJob) -> msgspec.Raw:
    return msgspec.Raw(_encode(job))


def _requests(job: LockJob) -> tuple[float | None, int | None]:
    """Cores and MiB that an agent must have (AU-56)."""
    if job.resources is None or job.resources.requests is None:
        return None, None
    asked = job.resources.requests
    memory = asked.memory_bytes
    return asked.cpus, None if memory is None else -(-memory // (1 << 20))


def _unplannable(lock: LockWorkflow, sdk_version: str, category: str, message: str) -> PlannedWorkflow:
    failure = InitFailure(scope="run", category=category, message=message, job_name=None)
    return PlannedWorkflow(lock=lock, sdk_version=sdk_version, jobs=[], failure=failure)
