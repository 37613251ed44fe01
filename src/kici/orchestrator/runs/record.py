"""What a transaction leaves behind for others: time line entries (OR-126) and completions (OR-92)."""

from collections.abc import Collection, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from kici.orchestrator.events.listening import unheard
from kici.orchestrator.runs.projection import StepKey, named, with_events
from kici.runtime.database import AsyncConnection, text
from kici.runtime.ids import uuid7

_json = msgspec.json.Encoder().encode
_EVENT_TTL = "7 days"


class TimelineEvent(Struct, kw_only=True, omit_defaults=True):
    """One row of `run_events`. `id` repeats when the same message is applied again."""

    id: str
    run_id: str
    event_type: str
    source_service: str = "orchestrator"
    job_id: str | None = None
    step_index: int | None = None
    at_ms: int | None = None  # None: now
    duration_ms: int | None = None
    metadata: dict[str, Any] = {}


# Depth is the run's own, so that a loop through completion triggers is noticed (OR-100).
_COMPLETIONS = f"""
    INSERT INTO kici_events (id, org_id, event_name, payload, source_repo, source_routing_key, source_run_id,
        chain_depth, processed, expires_at)
    SELECT k.id, r.org_id, '__job_complete', jsonb_build_object(
            'workflowName', r.workflow_name, 'jobName', j.job_name, 'runId', r.id, 'jobId', j.id,
            'status', j.status,
            'duration', (extract(epoch FROM j.completed_at - j.started_at) * 1000)::bigint,
            'stepResults', (
                SELECT coalesce(jsonb_agg(jsonb_build_object('name', s.step_name, 'status', s.status)
                                          ORDER BY s.step_index), '[]')
                FROM execution_steps s WHERE s.job_id = j.id AND s.attempt = j.attempt),
            'sourceRepo', r.repo_identifier, 'sourceRoutingKey', r.routing_key),
        r.repo_identifier, r.routing_key, r.id, r.chain_depth,
        {unheard("r.org_id", "job_complete", "lifecycle")}, now() + interval '{_EVENT_TTL}'
    FROM unnest(CAST(:job_events AS uuid[]), CAST(:ended_jobs AS uuid[])) AS k (id, job_id)
    JOIN execution_jobs j ON j.id = k.job_id JOIN execution_runs r ON r.id = j.run_id
    WHERE j.kind = 'job'  -- setup rows are ours, not the author's
    UNION ALL
    SELECT k.id, r.org_id, '__workflow_complete', jsonb_build_object(
            'workflowName', r.workflow_name, 'runId', r.id, 'status', r.status, 'conclusion', r.status,
            'duration', (extract(epoch FROM r.completed_at - r.started_at) * 1000)::bigint,
            'jobResults', (
                SELECT coalesce(jsonb_agg(jsonb_build_object('name', j.job_name, 'status', j.status)
                                          ORDER BY j.position, j.id), '[]')
                FROM execution_jobs j WHERE j.run_id = r.id AND j.kind = 'job'),
            'sourceRepo', r.repo_identifier, 'sourceRoutingKey', r.routing_key),
        r.repo_identifier, r.routing_key, r.id, r.chain_depth,
        {unheard("r.org_id", "workflow_complete", "lifecycle")}, now() + interval '{_EVENT_TTL}'
    FROM unnest(CAST(:run_events AS uuid[]), CAST(:ended_runs AS uuid[])) AS k (id, run_id)
    JOIN execution_runs r ON r.id = k.run_id
"""
_EVENTS = """
    INSERT INTO run_events (id, run_id, job_id, step_index, event_type, source_service, at, duration_ms, metadata)
    SELECT p.id, p.run_id, p.job_id, p.step_index, p.event_type, coalesce(p.source_service, 'orchestrator'),
        coalesce(to_timestamp(p.at_ms::float8 / 1000), clock_timestamp()), p.duration_ms,
        coalesce(p.metadata, '{}')
    FROM jsonb_to_recordset(CAST(:events AS jsonb)) AS p (
        id uuid, run_id uuid, job_id uuid, step_index int, event_type text, source_service text, at_ms bigint,
        duration_ms bigint, metadata jsonb)
    ON CONFLICT (id) DO NOTHING
    RETURNING *
"""
# All at once: fewer round trips for every transaction there is.
_RECORD = text(
    with_events(f"events AS ({_EVENTS}), ", "events"),
)
_RECORD_ENDS = text(with_events(f"events AS ({_EVENTS}), completions AS ({_COMPLETIONS}), ", "events"))


async def write_record(
    tx: AsyncConnection,
    events: Sequence[TimelineEvent],
    *,
    run_ids: Collection[str],
    job_ids: Collection[str],
    steps: Collection[StepKey],
    ended_jobs: Sequence[str],
    ended_runs: Sequence[str],
) -> int:
    """The time line, `__job_complete` and `__workflow_complete` for what ended, and the outbox rows of all
    that changed (see `projection.snapshot`); how many of the latter. An event written before is left out."""
    values = named(run_ids, job_ids, steps)
    if not (events or ended_jobs or ended_runs or any(values.values())):
        return 0
    values["events"] = _json(events).decode()
    if not (ended_jobs or ended_runs):
        return (await tx.execute(_RECORD, values)).rowcount
    values |= {
        "job_events": [uuid7() for _ in ended_jobs],
        "ended_jobs": list(ended_jobs),
        "run_events": [uuid7() for _ in ended_runs],
        "ended_runs": list(ended_runs),
    }
    return (await tx.execute(_RECORD_ENDS, values)).rowcount
