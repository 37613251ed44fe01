"""Runs as others read them, straight from the tables: the same documents that the projection carries."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from typing import ClassVar

import msgspec
from msgspec import Struct

from kici.orchestrator.runs.projection import (
    DISPLAY_STATUS,
    EVENT_DOCUMENT,
    JOB_DOCUMENT,
    RUN_DOCUMENT,
    STEP_DOCUMENT,
)
from kici.protocol.dashboard_v1 import AgentView, JobProjection, RunDetailView, RunList, RunProjection
from kici.runtime.database import AsyncConnection, text
from kici.spec.errors import NotFound

EVENTS_SHOWN = 2000


class RunNotFound(NotFound):
    code: ClassVar[str] = "run_not_found"


class RunQuery(Struct, frozen=True, kw_only=True):
    """Every given field must fit; a status fits what a run has or is shown as. The newest runs come first. `page` counts from 1."""

    org_id: str | None = None
    statuses: Sequence[str] = ()
    workflow_name: str | None = None
    repo_identifier: str | None = None
    branch: str | None = None
    since: datetime | None = None
    page: int = 1
    page_size: int = 20


def checked(run_id: str) -> str:
    """Raises RunNotFound for what cannot be an id."""
    try:
        return str(uuid.UUID(run_id))
    except ValueError as error:
        raise RunNotFound(f"no run {run_id[:64]}") from error


# Of a job's spec, which stands beside the hot tables and is read for people alone: the same for as long as
# the job lives, so nothing of it is worth telling with every change. A spec leaves out what it does not know.
_UNKNOWN = """'{"line": null, "column": null}'::jsonb"""
_PLAN = f"""
    SELECT coalesce(spec->>'description', '') AS description, {_UNKNOWN} || (spec->'source') AS place,
        (SELECT coalesce(jsonb_agg({_UNKNOWN} || (step.value->'sourceLocation') ORDER BY step.ordinality), '[]')
         FROM jsonb_array_elements(spec->'steps') WITH ORDINALITY step) AS "stepPlaces"
    FROM (SELECT p.spec::jsonb AS spec OFFSET 0) parsed
"""
_DETAIL = text(f"""
    SELECT jsonb_build_object(
        'run', to_jsonb(run),
        'jobs', (
            SELECT coalesce(jsonb_agg(to_jsonb(doc) || to_jsonb(plan) || jsonb_build_object(
                'context', j.context, 'steps', (
                    SELECT coalesce(jsonb_agg(to_jsonb(step) ORDER BY s.step_index), '[]')
                    FROM execution_steps s CROSS JOIN LATERAL ({STEP_DOCUMENT}) step
                    WHERE s.job_id = j.id AND s.attempt = j.attempt)) ORDER BY j.position, j.id), '[]')
            FROM execution_jobs j LEFT JOIN execution_job_specs p ON p.job_id = j.id
                CROSS JOIN LATERAL ({JOB_DOCUMENT}) doc CROSS JOIN LATERAL ({_PLAN}) plan
            WHERE j.run_id = r.id),
        'events', (
            SELECT coalesce(jsonb_agg(to_jsonb(entry) ORDER BY e.id), '[]')
            FROM (SELECT * FROM run_events WHERE run_id = r.id ORDER BY id LIMIT {EVENTS_SHOWN}) e
                CROSS JOIN LATERAL ({EVENT_DOCUMENT}) entry),
        'source', 'orchestrator')::text
    FROM execution_runs r CROSS JOIN LATERAL ({RUN_DOCUMENT}) run
    WHERE r.id = :run_id AND (CAST(:org_id AS text) IS NULL OR r.org_id = :org_id)
""")
_decode_detail = msgspec.json.Decoder(RunDetailView).decode


async def run_detail(tx: AsyncConnection, run_id: str, org_id: str | None) -> RunDetailView:
    """Raises RunNotFound."""
    found = await tx.scalar(_DETAIL, {"run_id": checked(run_id), "org_id": org_id})
    if found is None:
        raise RunNotFound(f"no run {run_id}")
    return _decode_detail(found)


_FITS = f"""
    (CAST(:org_id AS text) IS NULL OR r.org_id = :org_id)
    AND (CAST(:statuses AS text[]) = '{{}}' OR r.status = ANY(CAST(:statuses AS text[]))
         OR {DISPLAY_STATUS} = ANY(CAST(:statuses AS text[])))
    AND (CAST(:workflow_name AS text) IS NULL OR r.workflow_name = :workflow_name)
    AND (CAST(:repo_identifier AS text) IS NULL OR r.repo_identifier = :repo_identifier)
    AND (CAST(:branch AS text) IS NULL OR r.branch = :branch)
    AND (CAST(:since AS timestamptz) IS NULL OR r.created_at >= :since)
"""
_COUNTED = 10_000
_LIST = text(f"""
    SELECT to_jsonb(doc)::text FROM (
        SELECT * FROM execution_runs r WHERE {_FITS} ORDER BY r.id DESC LIMIT :limit OFFSET :offset
    ) r CROSS JOIN LATERAL ({RUN_DOCUMENT}) doc ORDER BY r.id DESC
""")
_COUNT = text(f"""
    SELECT count(*) FROM (SELECT FROM execution_runs r WHERE {_FITS} LIMIT {_COUNTED}) found
""")
_decode_run = msgspec.json.Decoder(RunProjection).decode


async def run_list(tx: AsyncConnection, query: RunQuery) -> RunList:
    values = {
        "org_id": query.org_id,
        "statuses": list(query.statuses),
        "workflow_name": query.workflow_name,
        "repo_identifier": query.repo_identifier,
        "branch": query.branch,
        "since": query.since,
    }
    page, size = max(query.page, 1), min(max(query.page_size, 1), 500)
    offset = (page - 1) * size
    rows = await tx.execute(_LIST, {**values, "limit": size, "offset": offset})
    runs = [_decode_run(document) for document in rows.scalars()]
    total: int = await tx.scalar(_COUNT, values) or 0
    return RunList(
        runs=runs,
        total=total,
        total_is_capped=total >= _COUNTED,
        page=page,
        page_size=size,
        has_more=offset + len(runs) < total,
    )


_QUEUE = text(f"""
    SELECT to_jsonb(doc)::text FROM (
        SELECT * FROM execution_jobs WHERE status = 'queued'
            AND (CAST(:org_id AS text) IS NULL OR org_id = :org_id)
        ORDER BY dispatched_at NULLS LAST, priority DESC, ready_at, id LIMIT :limit
    ) j CROSS JOIN LATERAL ({JOB_DOCUMENT}) doc
    ORDER BY j.dispatched_at NULLS LAST, j.priority DESC, j.ready_at, j.id
""")
_decode_job = msgspec.json.Decoder(JobProjection).decode


async def queue(tx: AsyncConnection, *, org_id: str | None, limit: int) -> list[JobProjection]:
    """Queued jobs in the order in which they go, each with why it waits; sent ones first."""
    rows = await tx.execute(_QUEUE, {"org_id": org_id, "limit": limit})
    return [_decode_job(document) for document in rows.scalars()]


_AGENTS = text("""
    SELECT a.agent_id, a.instance_id IS NOT NULL, a.labels, a.hostname, a.platform, a.arch, a.version, b.job_id,
        a.last_seen_at
    FROM agents a LEFT JOIN LATERAL (
        SELECT min(j.id::text) AS job_id FROM execution_jobs j
        WHERE j.agent_id = a.agent_id AND j.completed_at IS NULL) b ON true
    WHERE CAST(:org_id AS text) IS NULL OR a.org_id = :org_id ORDER BY a.agent_id LIMIT 1000
""")


async def agents(tx: AsyncConnection, *, org_id: str | None) -> list[AgentView]:
    """Known agents, also those that are away, by id."""
    return [
        AgentView(
            agent_id=row[0],
            connected=row[1],
            labels=row[2],
            hostname=row[3],
            platform=row[4],
            arch=row[5],
            version=row[6],
            busy=row[7] is not None,
            current_job_id=row[7],
            last_seen_at=row[8],
        )
        for row in await tx.execute(_AGENTS, {"org_id": org_id})
    ]


class Depths(Struct, frozen=True):
    queued_jobs: int
    running_jobs: int
    inbox: int
    outbox: int


_DEPTHS = text("""
    SELECT (SELECT count(*) FROM execution_jobs WHERE status = 'queued'),
        (SELECT count(*) FROM execution_jobs
         WHERE status IN ('running', 'recovering', 'cancelling') AND completed_at IS NULL),
        (SELECT count(*) FROM inbox WHERE processed_at IS NULL AND dlq_at IS NULL),
        (SELECT count(*) FROM outbox)
""")


async def depths(tx: AsyncConnection) -> Depths:
    row = (await tx.execute(_DEPTHS)).one()
    return Depths(*row)
