"""The rows of new runs, all in one statement whatever their number.

Fields are named like columns. What most runs leave empty is not even sent.
"""

from collections.abc import Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from kici.orchestrator.db.rows import encode_rows
from kici.orchestrator.events.listening import unheard
from kici.orchestrator.runs.planning import PlannedJobRow
from kici.protocol.dashboard_v1 import DeliveryDecision, InitFailure
from kici.runtime.database import AsyncConnection, text
from kici.spec.events import Event

KICI_EVENT_TTL_S = 604_800  # OR-94


class RunRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
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
    resolved_hash_files: Sequence[str]
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
    failure_reason: str | None
    init_failure: InitFailure | None
    workflow_timeout_ms: int | None
    job_count: int
    event_id: str  # its first entry in run_events
    completion: dict[str, Any] | None  # payload of __workflow_complete, when it has ended already
    completion_id: str
    check_mode: str = "apply"
    is_test_run: bool = False
    inputs: dict[str, Any] = {}
    rules: Sequence[Any] = ()
    workflow_hooks: Sequence[str] = ()
    concurrency_group: str | None = None
    concurrency_max: int = 1
    cancel_in_progress: bool = True
    blocked: bool = False
    waiting_reason: str | None = None
    lock_digest: str | None = None
    overlay_key: str | None = None
    remote_secrets: bytes | None = None  # base64 in JSON


class JobRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    id: str
    run_id: str
    position: int
    job_name: str
    base_job_name: str
    status: str
    needs_pending: int
    fail_fast: bool
    runs_on: list[str]
    pick: str
    spec: msgspec.Raw
    exclude_labels: list[str] = []
    variant_kind: Literal["matrix"] | None = None
    variant_label: str | None = None
    matrix_values: dict[str, Any] | None = None
    max_parallel: int | None = None
    runs_on_patterns: msgspec.Raw | None = None
    timeout_ms: int | None = None
    kind: str = "job"
    target_job: str | None = None
    generator_index: int | None = None
    group_name: str | None = None
    fanout_index: int = 0
    fanout_total: int = 1
    rules: Sequence[Any] = ()
    rules_from: int = 0
    environments: list[str] = []
    concurrency_group: str | None = None
    failure_category: str | None = None
    request_cpus: float | None = None
    request_memory_mb: int | None = None


class NeedRow(Struct, frozen=True, kw_only=True, omit_defaults=True):
    run_id: str
    job_id: str
    upstream_job_id: str
    run_on: Sequence[str]
    group_name: str | None = None
    group_run_on: Sequence[str] | None = None


class SlotRow(Struct, frozen=True, kw_only=True):
    """A wish for a place in a concurrency group."""

    holder_id: str
    scope: Literal["run", "job"]
    run_id: str
    group_name: str
    max: int
    cancel_in_progress: bool


class LockRow(Struct, frozen=True, kw_only=True):
    digest: str
    document: msgspec.Raw
    sdk_version: str


def job_row(
    run_id: str,
    job_id: str,
    row: PlannedJobRow,
    *,
    status: str,
    spec: msgspec.Raw | None = None,
    rules: Sequence[Any] = (),
    rules_from: int = 0,
    concurrency_group: str | None = None,
    more_needs: int = 0,
) -> JobRow:
    """`more_needs`: edges that its plan does not know."""
    planned = row.planned
    lock, variant = planned.job, planned.variant
    return JobRow(
        id=job_id,
        run_id=run_id,
        position=planned.position,
        job_name=variant.job_name,
        base_job_name=variant.base_job_name,
        variant_kind=None if variant.label is None else "matrix",
        variant_label=variant.display,
        matrix_values=None if variant.label is None else variant.values,
        status=status,
        needs_pending=len(planned.needs) + more_needs,
        max_parallel=lock.max_parallel,
        fail_fast=lock.fail_fast,
        runs_on=row.runs_on,
        exclude_labels=row.exclude_labels,
        runs_on_patterns=row.runs_on_patterns,
        pick=lock.runs_on_pick,
        timeout_ms=lock.timeout,
        spec=row.spec if spec is None else spec,
        kind=planned.kind,
        target_job=planned.target or None,
        generator_index=planned.generator_index if planned.kind == "dynamic" else None,
        group_name=lock.group or None,
        fanout_index=planned.fanout_index,
        fanout_total=planned.fanout_total,
        rules=rules,
        rules_from=rules_from,
        concurrency_group=concurrency_group,
        failure_category=planned.failure_category or None,
        request_cpus=row.request_cpus,
        request_memory_mb=row.request_memory_mb,
    )


JOB_COLUMNS = """
    id, run_id, org_id, position, job_name, base_job_name, variant_kind, variant_label, matrix_values, status,
    needs_pending, max_parallel, fail_fast, runs_on, exclude_labels, runs_on_patterns, pick, timeout_ms, kind,
    target_job, generator_index, group_name, fanout_index, fanout_total, rules, rules_from, environments,
    concurrency_group, failure_category, request_cpus, request_memory_mb
"""
"""Of execution_jobs, in the order of JOB_VALUES."""
JOB_VALUES = """
    id, run_id, org_id, position, job_name, base_job_name, variant_kind, variant_label, matrix_values, status,
    needs_pending, max_parallel, fail_fast, runs_on, coalesce(exclude_labels, '{}'), runs_on_patterns, pick,
    timeout_ms, coalesce(kind, 'job'), target_job, generator_index, group_name, coalesce(fanout_index, 0),
    coalesce(fanout_total, 1), coalesce(rules, '[]'), coalesce(rules_from, 0), coalesce(environments, '{}'),
    concurrency_group, failure_category, request_cpus, request_memory_mb
"""
JOB_RECORD = """
    id uuid, run_id uuid, position int, job_name text, base_job_name text, variant_kind text,
    variant_label text, matrix_values json, status text, needs_pending int, max_parallel int,
    fail_fast boolean, runs_on text[], exclude_labels text[], runs_on_patterns jsonb, pick text,
    timeout_ms int, spec json, kind text, target_job text, generator_index int, group_name text,
    fanout_index int, fanout_total int, rules jsonb, rules_from int, environments text[],
    concurrency_group text, failure_category text, request_cpus float8, request_memory_mb int
"""
"""JobRow, as json_to_recordset reads it."""
NEED_RECORD = """
    run_id uuid, job_id uuid, upstream_job_id uuid, run_on text[], group_name text, group_run_on text[]
"""

_RUN_COLUMNS = """
    id, org_id, routing_key, source_name, source_subtype, provider, workflow_name, workflow_file,
    workflow_export, content_hash, compile_schema_version, sdk_version, resolved_hash_files, status,
    repo_identifier, repo_url, ref, branch, sha, commit_message, trigger_event, trigger_decision,
    event, delivery_id, inbox_id, dedup_key, request_id, chain_depth, triggered_by, parent_run_id,
    original_run_id, failure_reason, init_failure, workflow_timeout_ms
"""
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
        original_run_id uuid, failure_reason text, init_failure jsonb, workflow_timeout_ms int,
        job_count int, event_id uuid, completion jsonb, completion_id uuid, check_mode text,
        is_test_run boolean, inputs json, rules jsonb, workflow_hooks text[], concurrency_group text,
        concurrency_max int, cancel_in_progress boolean, blocked boolean, waiting_reason text,
        lock_digest text, overlay_key text, remote_secrets text)
), locks AS (
    INSERT INTO workflow_locks (digest, document, sdk_version)
    SELECT x.digest, x.document, x.sdk_version
    FROM json_to_recordset(CAST(:locks AS json)) AS x (digest text, document json, sdk_version text)
    WHERE NOT EXISTS (SELECT FROM workflow_locks w WHERE w.digest = x.digest)
    ORDER BY x.digest ON CONFLICT (digest) DO NOTHING
), fresh AS (
    INSERT INTO execution_runs ({_RUN_COLUMNS}, deadline_at, jobs_open, job_count, completed_at, check_mode,
        is_test_run, inputs, rules, workflow_hooks, concurrency_group, concurrency_max, cancel_in_progress,
        blocked, waiting_reason, lock_digest)
    SELECT {_RUN_COLUMNS},
        CASE WHEN job_count > 0 AND blocked IS NOT TRUE THEN now() + workflow_timeout_ms * interval '1 ms' END,
        job_count, job_count, CASE WHEN completion IS NOT NULL THEN now() END, coalesce(check_mode, 'apply'),
        coalesce(is_test_run, false), coalesce(inputs, '{{}}'), coalesce(rules, '[]'),
        coalesce(workflow_hooks, '{{}}'), concurrency_group, coalesce(concurrency_max, 1),
        coalesce(cancel_in_progress, true), coalesce(blocked, false), waiting_reason, lock_digest
    FROM asked ORDER BY org_id, dedup_key  -- one order everywhere: no deadlock between two batches
    ON CONFLICT (org_id, dedup_key) DO NOTHING
    RETURNING id, org_id, routing_key, repo_identifier
), remotes AS (
    INSERT INTO execution_run_remotes (run_id, overlay_key, secrets)
    SELECT a.id, a.overlay_key, decode(a.remote_secrets, 'base64') FROM asked a JOIN fresh f USING (id)
    WHERE a.overlay_key IS NOT NULL OR a.remote_secrets IS NOT NULL
), wanted AS MATERIALIZED (
    SELECT x.*, f.org_id FROM json_to_recordset(CAST(:jobs AS json)) AS x ({JOB_RECORD})
    JOIN fresh f ON f.id = x.run_id
), jobs AS (
    INSERT INTO execution_jobs ({JOB_COLUMNS}, ready_at, queue_expires_at)
    SELECT {JOB_VALUES}, CASE WHEN status = 'queued' THEN now() END,
        CASE WHEN status = 'queued' THEN now() + nullif(CAST(:queue_timeout_ms AS bigint), 0) * interval '1 ms' END
    FROM wanted
), specs AS (
    INSERT INTO execution_job_specs (job_id, run_id, spec) SELECT id, run_id, spec FROM wanted
), edges AS (
    INSERT INTO execution_job_needs (run_id, job_id, upstream_job_id, run_on, group_name, group_run_on)
    SELECT x.run_id, x.job_id, x.upstream_job_id, x.run_on, x.group_name, x.group_run_on
    FROM json_to_recordset(CAST(:needs AS json)) AS x ({NEED_RECORD})
    JOIN fresh f ON f.id = x.run_id
), slots AS (
    INSERT INTO concurrency_slots (holder_id, scope, run_id, org_id, routing_key, repo_identifier, group_name,
        max, cancel_in_progress, expires_at)
    SELECT x.holder_id, x.scope, x.run_id, f.org_id, f.routing_key, f.repo_identifier, x.group_name, x.max,
        x.cancel_in_progress,
        now() + nullif(CAST(:concurrency_wait_ms AS bigint), 0) * interval '1 ms'
    FROM json_to_recordset(CAST(:slots AS json)) AS x (
        holder_id uuid, scope text, run_id uuid, group_name text, max int, cancel_in_progress boolean)
    JOIN fresh f ON f.id = x.run_id
), timeline AS (
    INSERT INTO run_events (id, run_id, event_type, source_service, at, metadata)
    SELECT a.event_id, a.id, 'orchestrator.dispatch', 'orchestrator', now(),
        jsonb_build_object('jobs', a.job_count, 'triggerEvent', a.trigger_event)
    FROM asked a JOIN fresh f USING (id)
), completions AS (
    INSERT INTO kici_events (id, org_id, event_name, payload, source_repo, source_routing_key,
                             source_run_id, chain_depth, processed, expires_at)
    SELECT a.completion_id, a.org_id, '__workflow_complete', a.completion, a.repo_identifier,
        a.routing_key, a.id, a.chain_depth, {unheard("a.org_id", "workflow_complete", "lifecycle")},
        now() + interval '{KICI_EVENT_TTL_S} seconds'
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


class Batch(Struct, kw_only=True):
    """New runs with all that belongs to them."""

    runs: list[RunRow]
    jobs: list[JobRow]
    needs: list[NeedRow]
    slots: list[SlotRow]
    locks: dict[str, LockRow]


async def insert(
    tx: AsyncConnection, batch: Batch, *, queue_timeout_ms: int, concurrency_wait_ms: int
) -> set[str]:
    """Ids of the runs that are new: a dedup key is taken once (OR-35)."""
    result = await tx.execute(
        _INSERT,
        {
            "runs": encode_rows(batch.runs),
            "jobs": encode_rows(batch.jobs),
            "needs": encode_rows(batch.needs),
            "slots": encode_rows(batch.slots),
            "locks": encode_rows([batch.locks[digest] for digest in sorted(batch.locks)]),
            "queue_timeout_ms": queue_timeout_ms,
            "concurrency_wait_ms": concurrency_wait_ms,
        },
    )
    return set(result.scalars())
