"""The one way in which a run begins, whatever caused it (OR-6): rows of the run, its jobs and their edges,
the time line, and what others are told, all in the caller's transaction.

A batch of requests costs three statements whatever its size. The run's `dedup_key` makes it idempotent:
asked twice, there is one run (OR-35). Nothing is dispatched here: jobs without `needs` are inserted as
`queued`, which *is* the queue (OR-145).
"""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from kici.engine.graph import InvalidGraph, PlannedJob, plan
from kici.engine.labels import query_of
from kici.engine.matrix import InvalidMatrix
from kici.orchestrator.db.rows import encode_rows
from kici.orchestrator.runs.projection import snapshot
from kici.protocol.dashboard_v1 import DeliveryDecision, InitFailure
from kici.runtime.database import AsyncConnection, text
from kici.runtime.ids import uuid7
from kici.spec.events import Event
from kici.spec.ids import JobId, RunId
from kici.spec.lock import LockWorkflow
from kici.spec.states import JobStatus, RunStatus

KICI_EVENT_TTL_S = 604_800  # OR-94

_encode = msgspec.json.Encoder().encode


class PlannedJobRow(Struct, frozen=True, kw_only=True):
    """What all runs of one workflow share about one job."""

    planned: PlannedJob
    spec: msgspec.Raw  # its LockJob as JSON
    runs_on: list[str]
    exclude_labels: list[str]
    runs_on_patterns: msgspec.Raw | None
    starts_queued: bool


class PlannedWorkflow(Struct, frozen=True, kw_only=True):
    """A workflow of a lock file, expanded and encoded once for all its runs.

    `failure` instead of jobs: it cannot run, and says why (OR-133, OR-134).
    """

    lock: LockWorkflow
    sdk_version: str
    jobs: list[PlannedJobRow]
    failure: InitFailure | None = None


def plan_workflow(lock: LockWorkflow, sdk_version: str) -> PlannedWorkflow:
    """Total: what cannot be planned becomes a `failure`."""
    try:
        planned = plan(lock)
    except InvalidMatrix as error:
        return _unplannable(lock, sdk_version, "matrix_expansion", str(error))
    except InvalidGraph as error:
        return _unplannable(lock, sdk_version, "lock_resolution", str(error))
    if not planned:
        return _unplannable(lock, sdk_version, "lock_resolution", "the workflow has no jobs")
    places: dict[str, int] = {}
    rows: list[PlannedJobRow] = []
    for entry in planned:
        query = query_of(entry.job)
        taken = places.get(entry.job.name, 0)
        window = entry.job.max_parallel
        starts = not entry.needs and (window is None or taken < window)
        places[entry.job.name] = taken + starts
        rows.append(
            PlannedJobRow(
                planned=entry,
                spec=msgspec.Raw(_encode(entry.job)),
                runs_on=list(query.required),
                exclude_labels=list(query.excluded),
                runs_on_patterns=None if query.patterns is None else msgspec.Raw(_encode(query.patterns)),
                starts_queued=starts,
            )
        )
    return PlannedWorkflow(lock=lock, sdk_version=sdk_version, jobs=rows)


def _unplannable(lock: LockWorkflow, sdk_version: str, category: str, message: str) -> PlannedWorkflow:
    failure = InitFailure(scope="run", category=category, message=message, job_name=None)
    return PlannedWorkflow(lock=lock, sdk_version=sdk_version, jobs=[], failure=failure)


class RunSource(Struct, frozen=True, kw_only=True):
    """Which source a run is attributed to."""

    org_id: str
    routing_key: str
    name: str
    subtype: str
    provider: str


class Commit(Struct, frozen=True, kw_only=True):
    """What is checked out. `ref` is the full name, `branch` its short form for branches."""

    repo_identifier: str
    repo_url: str | None
    ref: str
    branch: str | None
    sha: str
    message: str | None


class RunRequest(Struct, frozen=True, kw_only=True):
    """One run to start. Every trigger builds this and nothing else (OR-6).

    `failure` makes a run that has already failed: it explains what stands in its way and holds no job.
    """

    source: RunSource
    commit: Commit
    workflow: PlannedWorkflow
    event: Event
    trigger_event: str
    decision: DeliveryDecision
    dedup_key: str
    request_id: str
    delivery_id: str | None = None
    inbox_id: str | None = None
    chain_depth: int = 0
    triggered_by: str | None = None
    parent_run_id: str | None = None
    original_run_id: str | None = None
    inputs: dict[str, Any] = {}  # of a dispatch or schedule, with defaults
    failure: InitFailure | None = None


class StartPolicy(Struct, frozen=True, kw_only=True):
    queue_max_depth: int = 1000  # 0: unbounded (OR-148)
    queue_timeout_ms: int = 3_600_000  # 0: none (OR-149)


class StartedRun(Struct, frozen=True, kw_only=True):
    """`created` False: a run with this dedup key was there already, and it is `run_id`."""

    run_id: RunId
    created: bool
    job_ids: list[JobId]
    failure: InitFailure | None


class _RunRow(Struct, frozen=True, kw_only=True):
    id: str
    org_id: str
    routing_key: str
    source_name: str
    source_subtype: str
    provider: str
    workflow_name: str
    workflow_file: str
    workflow_export: str
    content_hash: str
    compile_schema_version: int
    sdk_version: str
    resolved_hash_files: list[str]
    status: str
    repo_identifier: str
    repo_url: str | None
    ref: str
    branch: str | None
    sha: str
    commit_message: str | None
    trigger_event: str
    trigger_decision: DeliveryDecision
    event: Event
    delivery_id: str | None
    inbox_id: str | None
    dedup_key: str
    request_id: str
    chain_depth: int
    triggered_by: str | None
    parent_run_id: str | None
    original_run_id: str | None
    inputs: dict[str, Any]
    failure_reason: str | None
    init_failure: InitFailure | None
    workflow_timeout_ms: int | None
    job_count: int
    event_id: str  # its first entry in run_events
    completion: dict[str, Any] | None  # payload of __workflow_complete, when it has failed already
    completion_id: str


class _JobRow(Struct, frozen=True, kw_only=True):
    id: str
    run_id: str
    position: int
    job_name: str
    base_job_name: str
    variant_kind: Literal["matrix"] | None
    variant_label: str | None
    matrix_values: dict[str, Any] | None
    status: str
    needs_pending: int
    max_parallel: int | None
    fail_fast: bool
    runs_on: list[str]
    exclude_labels: list[str]
    runs_on_patterns: msgspec.Raw | None
    pick: str
    timeout_ms: int | None
    spec: msgspec.Raw


class _NeedRow(Struct, frozen=True, kw_only=True):
    run_id: str
    job_id: str
    upstream_job_id: str
    run_on: list[str]


_DEPTH = text("""
SELECT count(*) FROM (
    SELECT FROM execution_jobs WHERE status = 'queued' AND dispatched_at IS NULL LIMIT :enough
) waiting
""")

# Data-modifying parts of one statement see one snapshot and their foreign keys are checked at its end.
_INSERT = text(f"""
WITH asked AS MATERIALIZED (
    SELECT * FROM json_to_recordset(CAST(:runs AS json)) AS x (
        id uuid, org_id text, routing_key text, source_name text, source_subtype text, provider text,
        workflow_name text, workflow_file text, workflow_export text, content_hash text,
        compile_schema_version int, sdk_version text, resolved_hash_files text[], status text,
        repo_identifier text, repo_url text, ref text, branch text, sha text, commit_message text,
        trigger_event text, trigger_decision jsonb, event jsonb, delivery_id text, inbox_id uuid,
        dedup_key text, request_id text, chain_depth int, triggered_by text, parent_run_id uuid,
        original_run_id uuid, inputs jsonb, failure_reason text, init_failure jsonb, workflow_timeout_ms int,
        job_count int, event_id uuid, completion jsonb, completion_id uuid)
), fresh AS (
    INSERT INTO execution_runs (
        id, org_id, routing_key, source_name, source_subtype, provider, workflow_name, workflow_file,
        workflow_export, content_hash, compile_schema_version, sdk_version, resolved_hash_files, status,
        repo_identifier, repo_url, ref, branch, sha, commit_message, trigger_event, trigger_decision,
        event, delivery_id, inbox_id, dedup_key, request_id, chain_depth, triggered_by, parent_run_id,
        original_run_id, inputs, failure_reason, init_failure, workflow_timeout_ms, deadline_at, jobs_open,
        job_count, completed_at)
    SELECT id, org_id, routing_key, source_name, source_subtype, provider, workflow_name, workflow_file,
        workflow_export, content_hash, compile_schema_version, sdk_version, resolved_hash_files, status,
        repo_identifier, repo_url, ref, branch, sha, commit_message, trigger_event, trigger_decision,
        event, delivery_id, inbox_id, dedup_key, request_id, chain_depth, triggered_by, parent_run_id,
        original_run_id, inputs, failure_reason, init_failure, workflow_timeout_ms,
        CASE WHEN job_count > 0 THEN now() + workflow_timeout_ms * interval '1 ms' END,
        job_count, job_count, CASE WHEN status = 'failed' THEN now() END
    FROM asked ORDER BY org_id, dedup_key  -- one order everywhere: no deadlock between two batches
    ON CONFLICT (org_id, dedup_key) DO NOTHING
    RETURNING id, org_id
), wanted AS MATERIALIZED (
    SELECT x.*, f.org_id FROM json_to_recordset(CAST(:jobs AS json)) AS x (
        id uuid, run_id uuid, position int, job_name text, base_job_name text, variant_kind text,
        variant_label text, matrix_values jsonb, status text, needs_pending int, max_parallel int,
        fail_fast boolean, runs_on text[], exclude_labels text[], runs_on_patterns jsonb, pick text,
        timeout_ms int, spec jsonb)
    JOIN fresh f ON f.id = x.run_id
), jobs AS (
    INSERT INTO execution_jobs (
        id, run_id, org_id, position, job_name, base_job_name, variant_kind, variant_label,
        matrix_values, status, needs_pending, max_parallel, fail_fast, runs_on, exclude_labels,
        runs_on_patterns, pick, timeout_ms, ready_at, queue_expires_at)
    SELECT id, run_id, org_id, position, job_name, base_job_name, variant_kind, variant_label,
        matrix_values, status, needs_pending, max_parallel, fail_fast, runs_on, exclude_labels,
        runs_on_patterns, pick, timeout_ms, CASE WHEN status = 'queued' THEN now() END,
        CASE WHEN status = 'queued' THEN now() + nullif(CAST(:queue_timeout_ms AS bigint), 0) * interval '1 ms' END
    FROM wanted
), specs AS (
    INSERT INTO execution_job_specs (job_id, run_id, spec) SELECT id, run_id, spec FROM wanted
), edges AS (
    INSERT INTO execution_job_needs (run_id, job_id, upstream_job_id, run_on)
    SELECT x.run_id, x.job_id, x.upstream_job_id, x.run_on
    FROM json_to_recordset(CAST(:needs AS json)) AS x (
        run_id uuid, job_id uuid, upstream_job_id uuid, run_on text[])
    JOIN fresh f ON f.id = x.run_id
), timeline AS (
    INSERT INTO run_events (id, run_id, event_type, source_service, at, metadata)
    SELECT a.event_id, a.id, 'orchestrator.dispatch', 'orchestrator', now(),
        jsonb_build_object('jobs', a.job_count, 'triggerEvent', a.trigger_event)
    FROM asked a JOIN fresh f USING (id)
), completions AS (
    INSERT INTO kici_events (id, org_id, event_name, payload, source_repo, source_routing_key,
                             source_run_id, chain_depth, expires_at)
    SELECT a.completion_id, a.org_id, '__workflow_complete', a.completion, a.repo_identifier,
        a.routing_key, a.id, a.chain_depth, now() + interval '{KICI_EVENT_TTL_S} seconds'
    FROM asked a JOIN fresh f USING (id) WHERE a.completion IS NOT NULL
), touched AS (  -- OR-74; a row that somebody else touches now needs nothing from us
    UPDATE workflow_registrations w SET last_triggered_at = now()
    FROM (SELECT r.id FROM workflow_registrations r
          JOIN (SELECT DISTINCT routing_key, repo_identifier, workflow_name FROM asked) a
              USING (routing_key, repo_identifier, workflow_name)
          FOR UPDATE OF r SKIP LOCKED) free
    WHERE w.id = free.id
)
SELECT id FROM fresh
""")

_EXISTING = text("""
SELECT r.id, r.org_id, r.dedup_key
FROM unnest(CAST(:orgs AS text[]), CAST(:keys AS text[])) AS k (org_id, dedup_key)
JOIN execution_runs r USING (org_id, dedup_key)
""")


async def start_runs(
    tx: AsyncConnection, requests: Sequence[RunRequest], policy: StartPolicy
) -> list[StartedRun]:
    """Insert what `requests` ask for; the answers stand in the same order. Commit, then wake `queue` and
    `outbox`.

    With the queue full, new runs are refused as failed, never half a run (OR-148).
    """
    if not requests:
        return []
    full = policy.queue_max_depth > 0 and await _queue_is_full(tx, policy.queue_max_depth)
    refused = _queue_full(policy.queue_max_depth) if full else None
    runs: list[_RunRow] = []
    jobs: list[_JobRow] = []
    needs: list[_NeedRow] = []
    failures: list[InitFailure | None] = []
    for request in requests:
        failure = request.failure or request.workflow.failure or refused
        run = _run_row(request, failure)
        runs.append(run)
        failures.append(failure)
        if failure is None:
            _job_rows(run.id, request.workflow, jobs, needs)
    result = await tx.execute(
        _INSERT,
        {
            "runs": encode_rows(runs),
            "jobs": encode_rows(jobs),
            "needs": encode_rows(needs),
            "queue_timeout_ms": policy.queue_timeout_ms,
        },
    )
    fresh: set[str] = set(result.scalars())
    earlier = await _existing(tx, [run for run in runs if run.id not in fresh])
    await snapshot(
        tx,
        fresh,
        job_ids=[job.id for job in jobs if job.run_id in fresh],
        event_ids=[run.event_id for run in runs if run.id in fresh],
    )
    job_ids: dict[str, list[JobId]] = {}
    for job in jobs:
        job_ids.setdefault(job.run_id, []).append(JobId(job.id))
    return [
        StartedRun(run_id=RunId(run.id), created=True, job_ids=job_ids.get(run.id, []), failure=failure)
        if run.id in fresh
        else StartedRun(
            run_id=RunId(earlier[run.org_id, run.dedup_key]), created=False, job_ids=[], failure=None
        )
        for run, failure in zip(runs, failures, strict=True)
    ]


async def _queue_is_full(tx: AsyncConnection, limit: int) -> bool:
    waiting: int = (await tx.execute(_DEPTH, {"enough": limit})).scalar_one()
    return waiting >= limit


def _queue_full(limit: int) -> InitFailure:
    return InitFailure(
        scope="run",
        category="no_agent",
        message=f"Queue full: {limit} jobs wait for an agent already (KICI_QUEUE_MAX_DEPTH)",
        job_name=None,
    )


async def _existing(tx: AsyncConnection, runs: Sequence[_RunRow]) -> dict[tuple[str, str], str]:
    if not runs:
        return {}
    rows = await tx.execute(
        _EXISTING, {"orgs": [run.org_id for run in runs], "keys": [run.dedup_key for run in runs]}
    )
    return {(row.org_id, row.dedup_key): row.id for row in rows}


def _run_row(request: RunRequest, failure: InitFailure | None) -> _RunRow:
    run_id = uuid7()
    lock, source, commit = request.workflow.lock, request.source, request.commit
    status = RunStatus.QUEUED if failure is None else RunStatus.FAILED
    return _RunRow(
        id=run_id,
        org_id=source.org_id,
        routing_key=source.routing_key,
        source_name=source.name,
        source_subtype=source.subtype,
        provider=source.provider,
        workflow_name=lock.name,
        workflow_file=lock.source.file,
        workflow_export=(lock.source.export or "").removeprefix("#"),
        content_hash=lock.content_hash,
        compile_schema_version=lock.compile_schema_version,
        sdk_version=request.workflow.sdk_version,
        resolved_hash_files=lock.resolved_hash_files,
        status=status,
        repo_identifier=commit.repo_identifier,
        repo_url=commit.repo_url,
        ref=commit.ref,
        branch=commit.branch,
        sha=commit.sha,
        commit_message=commit.message,
        trigger_event=request.trigger_event,
        trigger_decision=msgspec.structs.replace(request.decision, run_id=run_id),
        event=request.event,
        delivery_id=request.delivery_id,
        inbox_id=request.inbox_id,
        dedup_key=request.dedup_key,
        request_id=request.request_id,
        chain_depth=request.chain_depth,
        triggered_by=request.triggered_by,
        parent_run_id=request.parent_run_id,
        original_run_id=request.original_run_id,
        inputs=request.inputs,
        failure_reason=failure.message if failure else None,
        init_failure=failure,
        workflow_timeout_ms=lock.timeout,
        job_count=0 if failure else len(request.workflow.jobs),
        event_id=uuid7(),
        completion=None if failure is None else _completion(run_id, request),
        completion_id=uuid7(),
    )


def _completion(run_id: str, request: RunRequest) -> dict[str, Any]:
    """OR-92: a run that failed before its first job has completed all the same."""
    return {
        "workflowName": request.workflow.lock.name,
        "runId": run_id,
        "status": RunStatus.FAILED,
        "conclusion": RunStatus.FAILED,
        "duration": 0,
        "jobResults": [],
        "sourceRepo": request.commit.repo_identifier,
        "sourceRoutingKey": request.source.routing_key,
    }


def _job_rows(run_id: str, workflow: PlannedWorkflow, jobs: list[_JobRow], needs: list[_NeedRow]) -> None:
    ids = [uuid7() for _ in workflow.jobs]
    for job_id, row in zip(ids, workflow.jobs, strict=True):
        lock, variant = row.planned.job, row.planned.variant
        jobs.append(
            _JobRow(
                id=job_id,
                run_id=run_id,
                position=row.planned.position,
                job_name=variant.job_name,
                base_job_name=variant.base_job_name,
                variant_kind=None if variant.label is None else "matrix",
                variant_label=variant.display,
                matrix_values=None if variant.label is None else variant.values,
                status=JobStatus.QUEUED if row.starts_queued else JobStatus.PENDING,
                needs_pending=len(row.planned.needs),
                max_parallel=lock.max_parallel,
                fail_fast=lock.fail_fast,
                runs_on=row.runs_on,
                exclude_labels=row.exclude_labels,
                runs_on_patterns=row.runs_on_patterns,
                pick=lock.runs_on_pick,
                timeout_ms=lock.timeout,
                spec=row.spec,
            )
        )
        needs.extend(
            _NeedRow(
                run_id=run_id,
                job_id=job_id,
                upstream_job_id=ids[need.upstream],
                run_on=list(need.run_on),
            )
            for need in row.planned.needs
        )
