"""One statement applies a whole batch: newer snapshots win, older ones change nothing."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from kici.protocol.dashboard_v1 import JobProjection, RunEventView, RunProjection, StepProjection
from kici.protocol.platform_v1 import ProjectionItem
from kici.runtime.database import AsyncConnection, text

StepKey = tuple[str, int, int]  # job id, attempt, step index

_WORDS_CHARS = 600


def source_key(routing_key: str) -> int:
    """64 bits that stand for a routing key in the indexes: those are long."""
    return int.from_bytes(hashlib.blake2b(routing_key.encode(), digest_size=8).digest(), signed=True)


class _Run(Struct, frozen=True):
    rev: int
    source_key: int
    words: str
    doc: RunProjection


class _Job(Struct, frozen=True):
    rev: int
    doc: JobProjection


class _Step(Struct, frozen=True):
    rev: int
    doc: StepProjection


class _Event(Struct, frozen=True):
    rev: int
    place: int
    doc: RunEventView


class _Batch(Struct, frozen=True):
    runs: list[_Run]
    jobs: list[_Job]
    steps: list[_Step]
    events: list[_Event]


@dataclass(frozen=True, slots=True)
class Applied:
    """Which objects of the batch were newer than what was there."""

    runs: Mapping[str, bool]  # run id → is it new here?
    jobs: frozenset[str]
    steps: frozenset[StepKey]
    events: frozenset[tuple[str, int]]  # run id, rev


# Rows are locked in key order, so that two connections of one org cannot deadlock.
_APPLY = text("""
    WITH batch AS MATERIALIZED (SELECT CAST(:batch AS jsonb) AS b),
    runs AS (
        INSERT INTO execution_runs (
            org_id, run_id, rev, cluster_name, created_at, duration_ms, source_key, status, display_status,
            workflow_name, branch, repo_identifier, trigger_event, ref, sha, doc)
        SELECT :org_id, d."runId", x.rev, :cluster, d."createdAt", d."durationMs",
               x.source_key, d.status, d."displayStatus", d."workflowName", coalesce(d.branch, ''), d."repoIdentifier",
               d."triggerEvent", d.ref, d.sha, x.doc
        FROM batch, jsonb_to_recordset(batch.b -> 'runs') AS x(rev bigint, source_key bigint, doc jsonb),
             jsonb_to_record(x.doc) AS d(
                "runId" uuid, "createdAt" timestamptz, "durationMs" bigint,
                status text, "displayStatus" text, "workflowName" text, branch text, "repoIdentifier" text,
                "triggerEvent" text, ref text, sha text)
        ORDER BY d."runId"
        ON CONFLICT (org_id, run_id) DO UPDATE SET
            rev = excluded.rev, created_at = excluded.created_at, duration_ms = excluded.duration_ms,
            source_key = excluded.source_key, status = excluded.status, display_status = excluded.display_status,
            workflow_name = excluded.workflow_name, branch = excluded.branch,
            repo_identifier = excluded.repo_identifier, trigger_event = excluded.trigger_event,
            ref = excluded.ref, sha = excluded.sha, doc = excluded.doc
        WHERE excluded.rev > execution_runs.rev
        RETURNING run_id, xmax = 0 AS is_new
    ),
    words AS (
        INSERT INTO run_search (org_id, run_id, words)
        SELECT :org_id, CAST(x.doc ->> 'runId' AS uuid), x.words
        FROM batch, jsonb_to_recordset(batch.b -> 'runs') AS x(words text, doc jsonb)
        ORDER BY 2
        ON CONFLICT (org_id, run_id) DO NOTHING
    ),
    jobs AS (
        INSERT INTO execution_jobs (org_id, run_id, job_id, rev, doc)
        SELECT :org_id, CAST(x.doc ->> 'runId' AS uuid), CAST(x.doc ->> 'jobId' AS uuid), x.rev, x.doc
        FROM batch, jsonb_to_recordset(batch.b -> 'jobs') AS x(rev bigint, doc jsonb)
        ORDER BY 2, 3
        ON CONFLICT (org_id, run_id, job_id) DO UPDATE SET rev = excluded.rev, doc = excluded.doc
        WHERE excluded.rev > execution_jobs.rev
        RETURNING job_id
    ),
    steps AS (
        INSERT INTO execution_steps (org_id, run_id, job_id, attempt, step_index, rev, doc)
        SELECT :org_id, d."runId", d."jobId", d.attempt, d."stepIndex", x.rev, x.doc
        FROM batch, jsonb_to_recordset(batch.b -> 'steps') AS x(rev bigint, doc jsonb),
             jsonb_to_record(x.doc) AS d("runId" uuid, "jobId" uuid, attempt int, "stepIndex" int)
        ORDER BY 2, 3, 4, 5
        ON CONFLICT (org_id, run_id, job_id, attempt, step_index)
            DO UPDATE SET rev = excluded.rev, doc = excluded.doc
        WHERE excluded.rev > execution_steps.rev
        RETURNING job_id, attempt, step_index
    ),
    events AS (
        INSERT INTO run_events (org_id, run_id, rev, place, doc)
        SELECT :org_id, CAST(x.doc ->> 'runId' AS uuid), x.rev, x.place, x.doc
        FROM batch, jsonb_to_recordset(batch.b -> 'events') AS x(rev bigint, place int, doc jsonb)
        ORDER BY 2, 3, 4
        ON CONFLICT (org_id, run_id, rev, place) DO NOTHING
        RETURNING run_id, rev
    )
    SELECT (SELECT jsonb_object_agg(run_id, is_new) FROM runs)::text AS runs,
           (SELECT array_agg(job_id) FROM jobs) AS jobs,
           (SELECT jsonb_agg(jsonb_build_array(job_id, attempt, step_index)) FROM steps)::text AS steps,
           (SELECT jsonb_agg(jsonb_build_array(run_id, rev)) FROM events)::text AS events
""")

_decode_runs = msgspec.json.Decoder(dict[str, bool]).decode
_decode_steps = msgspec.json.Decoder(list[tuple[str, int, int]]).decode
_decode_events = msgspec.json.Decoder(list[tuple[str, int]]).decode


def _words(run: RunProjection) -> str:
    parts = (
        run.workflow_name,
        run.repo_identifier,
        run.branch or run.ref,
        run.triggered_by or "",
        run.commit_message or "",
    )
    return "\n".join(parts).lower()[:_WORDS_CHARS]


def collapse(items: Sequence[ProjectionItem]) -> _Batch:
    """The newest snapshot of each object; events all of them."""
    runs: dict[str, _Run] = {}
    jobs: dict[str, _Job] = {}
    steps: dict[StepKey, _Step] = {}
    events: list[_Event] = []
    for item in sorted(items, key=lambda item: item.rev):
        run = item.run
        if run is not None:
            runs[run.run_id] = _Run(item.rev, source_key(run.source.routing_key), _words(run), run)
        for job in item.jobs:
            jobs[job.job_id] = _Job(item.rev, job)
        for step in item.steps:
            steps[step.job_id, step.attempt, step.step_index] = _Step(item.rev, step)
        events.extend(_Event(item.rev, place, event) for place, event in enumerate(item.events))
    unique = {(event.doc.run_id, event.rev, event.place): event for event in events}
    return _Batch(
        runs=list(runs.values()),
        jobs=list(jobs.values()),
        steps=list(steps.values()),
        events=list(unique.values()),
    )


async def apply(
    tx: AsyncConnection, org_id: str, cluster_name: str, items: Sequence[ProjectionItem]
) -> Applied:
    batch = msgspec.json.encode(collapse(items)).decode()
    row = (await tx.execute(_APPLY, {"org_id": org_id, "cluster": cluster_name, "batch": batch})).one()
    return Applied(
        runs=_decode_runs(row.runs) if row.runs else {},
        jobs=frozenset(row.jobs or ()),
        steps=frozenset(_decode_steps(row.steps)) if row.steps else frozenset(),
        events=frozenset(_decode_events(row.events)) if row.events else frozenset(),
    )
