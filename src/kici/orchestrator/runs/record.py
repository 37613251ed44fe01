"""What a transaction leaves behind for others: time line entries (OR-126) and completions (OR-92)."""

from collections.abc import Sequence
from typing import Any

import msgspec
from msgspec import Struct

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


_EVENTS = text("""
    INSERT INTO run_events (id, run_id, job_id, step_index, event_type, source_service, at, duration_ms, metadata)
    SELECT p.id, p.run_id, p.job_id, p.step_index, p.event_type, coalesce(p.source_service, 'orchestrator'),
        coalesce(to_timestamp(p.at_ms::float8 / 1000), clock_timestamp()), p.duration_ms,
        coalesce(p.metadata, '{}')
    FROM jsonb_to_recordset(CAST(:events AS jsonb)) AS p (
        id uuid, run_id uuid, job_id uuid, step_index int, event_type text, source_service text, at_ms bigint,
        duration_ms bigint, metadata jsonb)
    ON CONFLICT (id) DO NOTHING
    RETURNING id
""")


async def write_events(tx: AsyncConnection, events: Sequence[TimelineEvent]) -> list[str]:
    """The ids of those that are new."""
    rows = await tx.execute(_EVENTS, {"events": _json(events).decode()})
    return list(rows.scalars())


# Depth is the run's own, so that a loop through completion triggers is noticed (OR-100).
_COMPLETIONS = text(f"""
    INSERT INTO kici_events (id, org_id, event_name, payload, source_repo, source_routing_key, source_run_id,
        chain_depth, expires_at)
    SELECT k.id, r.org_id, '__job_complete', jsonb_build_object(
            'workflowName', r.workflow_name, 'jobName', j.job_name, 'runId', r.id, 'jobId', j.id,
            'status', j.status,
            'duration', (extract(epoch FROM j.completed_at - j.started_at) * 1000)::bigint,
            'stepResults', (
                SELECT coalesce(jsonb_agg(jsonb_build_object('name', s.step_name, 'status', s.status)
                                          ORDER BY s.step_index), '[]')
                FROM execution_steps s WHERE s.job_id = j.id AND s.attempt = j.attempt),
            'sourceRepo', r.repo_identifier, 'sourceRoutingKey', r.routing_key),
        r.repo_identifier, r.routing_key, r.id, r.chain_depth, now() + interval '{_EVENT_TTL}'
    FROM unnest(CAST(:job_events AS uuid[]), CAST(:job_ids AS uuid[])) AS k (id, job_id)
    JOIN execution_jobs j ON j.id = k.job_id JOIN execution_runs r ON r.id = j.run_id
    UNION ALL
    SELECT k.id, r.org_id, '__workflow_complete', jsonb_build_object(
            'workflowName', r.workflow_name, 'runId', r.id, 'status', r.status, 'conclusion', r.status,
            'duration', (extract(epoch FROM r.completed_at - r.started_at) * 1000)::bigint,
            'jobResults', (
                SELECT jsonb_agg(jsonb_build_object('name', j.job_name, 'status', j.status)
                                 ORDER BY j.position, j.id)
                FROM execution_jobs j WHERE j.run_id = r.id),
            'sourceRepo', r.repo_identifier, 'sourceRoutingKey', r.routing_key),
        r.repo_identifier, r.routing_key, r.id, r.chain_depth, now() + interval '{_EVENT_TTL}'
    FROM unnest(CAST(:run_events AS uuid[]), CAST(:run_ids AS uuid[])) AS k (id, run_id)
    JOIN execution_runs r ON r.id = k.run_id
""")


async def write_completions(tx: AsyncConnection, job_ids: Sequence[str], run_ids: Sequence[str]) -> None:
    """`__job_complete` and `__workflow_complete` for what ended in `tx`."""
    await tx.execute(
        _COMPLETIONS,
        {
            "job_events": [uuid7() for _ in job_ids],
            "job_ids": list(job_ids),
            "run_events": [uuid7() for _ in run_ids],
            "run_ids": list(run_ids),
        },
    )
